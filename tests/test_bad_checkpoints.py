"""Damaged, tampered and mistaken checkpoints: each is a CheckpointError that names the file, and nothing is loaded."""
import json
import os
import pickle
import random
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from minidiff import UNet, VAE, CLIPText
from minidiff.__main__ import main
from minidiff.checkpoints import CheckpointError, read_folder, save_folder, write_json

UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 2, "out_channels": 2, "block_out_channels": [8],
        "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"], "layers_per_block": 1,
        "attention_head_dim": 2, "cross_attention_dim": 4, "norm_num_groups": 2, "norm_eps": 1e-5}
VAE_ = {"_class_name": "AutoencoderKL", "block_out_channels": [4], "layers_per_block": 1, "latent_channels": 2,
        "norm_num_groups": 2, "scaling_factor": 0.5}
TEXT = {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "vocab_size": 12, "hidden_size": 4,
        "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 5,
        "eos_token_id": 11, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def component(make, config, folder):
    """A valid folder with float32 weights."""
    generator = torch.Generator().manual_seed(0)
    module = make.from_config(config)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    save_folder(module, config, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return component(UNet, UNET, tmp_path_factory.mktemp("valid") / "unet")


@pytest.fixture
def folder(valid, tmp_path):
    shutil.copytree(valid, tmp_path / "unet")
    return tmp_path / "unet"


def raw(folder, change):
    """Change the bytes of the weights."""
    (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


def with_header(data, change):
    """The bytes of a .safetensors file with `change(header)` in place of its header: a dict, or bytes."""
    length = int.from_bytes(data[:8], "little")
    header = change(json.loads(data[8:8 + length]))
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length:]


def entry(key="conv_in.bias", **values):
    """Change what the header says of a tensor."""
    return lambda folder: raw(folder, lambda data: with_header(data, lambda h: h | {key: h[key] | values}))


def header(change):
    return lambda folder: raw(folder, lambda data: with_header(data, change))


def tensors(change):
    """Change the tensors and write them as a valid file."""
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def config(text=None, **values):
    def damage(folder):
        whole = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(whole | values) if text is None else text)
    return damage


def as_shards(folder, change=lambda index: None):
    parts, whole = [{}, {}], load_file(folder / WEIGHTS)
    for i, (key, t) in enumerate(whole.items()):
        parts[i % 2][key] = t
    (folder / WEIGHTS).unlink()
    for i, part in enumerate(parts):
        save_file(part, folder / f"model-{i}.safetensors")
    index = {"weight_map": {key: f"model-{i}.safetensors" for i, part in enumerate(parts) for key in part}}
    change(index)
    write_json(folder / "model.safetensors.index.json", index)


def shards(change):
    return lambda folder: as_shards(folder, change)


class Bomb:
    """What a malicious pickle holds: unpickling it runs a command."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def only_pickle(write, name="model.ckpt"):
    def damage(folder):
        whole = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        write(whole, folder / name)
    return damage


def disguised(write):
    return only_pickle(write, WEIGHTS)


def fill_with(value):
    return tensors(lambda t: t | {"conv_in.bias": torch.full((8,), value)})


def deep(folder):
    (folder / "config.json").write_text('{"a":' * 100_000)


BAD = r"safetensors is not a safetensors file, or it is damaged or cut off: "    # and then what the library says of it
FILES = {                                         # damage -> what the message must say
    "empty file": (lambda f: raw(f, lambda b: b""), BAD + "it has 0 bytes"),
    "seven bytes": (lambda f: raw(f, lambda b: b[:7]), BAD + "it has 7 bytes"),
    "cut in the header": (lambda f: raw(f, lambda b: b[:500]), BAD + "it has 500 bytes"),
    "cut in the data": (lambda f: raw(f, lambda b: b[:-1]), BAD),
    "one byte too many": (lambda f: raw(f, lambda b: b + b"\0"), BAD),
    "header beyond the file": (lambda f: raw(f, lambda b: (2 ** 40).to_bytes(8, "little") + b[8:]), BAD),
    "header of 2 ** 64 - 1": (lambda f: raw(f, lambda b: b"\xff" * 8 + b[8:]), BAD),
    "header is no text": (header(lambda h: b"\xff\xfe" * 10), BAD),
    "header is no JSON": (header(lambda h: b"{'a': 1}"), BAD),
    "header is a list": (header(lambda h: [h]), BAD),
    "header nested deeply": (header(lambda h: b'{"a":' * 100_000), BAD),
    "a key twice": (header(lambda h: b'{"conv_in.bias": {}, ' + json.dumps(h).encode()[1:]), BAD),
    "a shape that torch cannot have": (header(lambda h: h | {"a": {"dtype": "F32", "shape": [0, 2 ** 63],
                                                                   "data_offsets": [0, 0]}}), "cannot be read: "),
    "a type that torch cannot have": (header(lambda h: h | {"a": {"dtype": "F6_E2M3", "shape": [0], "data_offsets": [0, 0]}}),
                                      BAD + ".*F6_E2M3"),
    "NaN in the header": (entry(shape=[float("nan")]), BAD),
    "metadata no strings": (header(lambda h: h | {"__metadata__": {"a": 1}}), BAD),
    "overlapping tensors": (lambda f: overlap(f, -4), BAD + ".*conv_in"),
    "a gap": (lambda f: overlap(f, 4), BAD + ".*conv_in"),
    "wrong number of bytes": (entry(shape=[9]), BAD),
    "another number size": (entry(dtype="F16"), BAD),
    "unknown type": (entry(dtype="F31"), BAD + ".*F31"),
    "type is a list": (entry(dtype=["F32"]), BAD),
    "shape is text": (entry(shape="8"), BAD),
    "shape is negative": (entry(shape=[-8]), BAD),
    "shape is not whole": (entry(shape=[8.0]), BAD),
    "shape is true": (entry(shape=[True] * 8), BAD),
    "shape is huge": (entry(shape=[2 ** 70]), BAD),
    "three offsets": (entry(data_offsets=[0, 1, 2]), BAD),
    "offsets as text": (entry(data_offsets=["0", "32"]), BAD),
    "offsets the other way": (entry(data_offsets=[32, 0]), BAD),
    "offsets beyond the file": (entry(data_offsets=[10 ** 12, 10 ** 12 + 32]), BAD),
    "no dtype": (header(lambda h: h | {"conv_in.bias": {"shape": [8], "data_offsets": [0, 32]}}), BAD),
    "entry is a number": (header(lambda h: h | {"conv_in.bias": 3}), BAD),
    "missing key": (tensors(lambda t: {k: v for k, v in t.items() if k != "conv_in.bias"}), r"missing conv_in.bias \(8,\)"),
    "extra key": (tensors(lambda t: t | {"extra": torch.zeros(2)}), r"unexpected extra \(2,\)"),
    "extra key of control characters": (tensors(lambda t: t | {"\x1b[2J\n": torch.zeros(2)}), r"unexpected '\\x1b\[2J\\n'"),
    "no keys at all": (tensors(lambda t: {}), "missing conv_in.weight"),
    "one wrong shape": (tensors(lambda t: t | {"conv_in.bias": torch.zeros(4, 2)}), r"has shape \(4, 2\), expected \(8,\)"),
    "whole numbers": (tensors(lambda t: t | {"conv_in.bias": torch.zeros(8, dtype=torch.int32)}), "holds torch.int32, expected"),
    "truth values": (tensors(lambda t: t | {"conv_in.bias": torch.zeros(8, dtype=torch.bool)}), "holds torch.bool, expected"),
    "complex numbers": (tensors(lambda t: t | {"conv_in.bias": torch.zeros(8, dtype=torch.complex64)}), "holds torch.complex64"),
    "eight-bit floats": (tensors(lambda t: t | {"conv_in.bias": torch.zeros(8).to(torch.float8_e5m2)}), "holds torch.float8"),
    "NaN": (fill_with(float("nan")), r"conv_in.bias \(torch.float32\) holds values that are not finite"),
    "infinite": (fill_with(float("-inf")), "not finite"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights in .*unet; expected diffusion_pytorch_model.safetensors or"),
    "weights are a folder": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "cannot be read: it is a folder"),
    "weights are a broken link": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("no")), "no file"),
    "weights are a pipe": (lambda f: ((f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)), "it is a folder or a device"),
    "a pickle called safetensors": (disguised(lambda t, p: p.write_bytes(pickle.dumps(t))), "it is a pickle"),
    "a malicious one": (disguised(lambda t, p: p.write_bytes(pickle.dumps(Bomb()))), "it is a pickle"),
    "torch.save called safetensors": (disguised(torch.save), "it is a zip, as torch.save writes it"),
    "a pointer of Git LFS": (lambda f: raw(f, lambda b: b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a web page": (lambda f: raw(f, lambda b: b"<!DOCTYPE html><html>" * 9), "it is a web page"),
    "pickle that runs code": (only_pickle(lambda t, p: torch.save({"state_dict": Bomb()}, p)), "not a plain file of tensors"),
    "bare pickle that runs code": (only_pickle(lambda t, p: p.write_bytes(pickle.dumps(Bomb()))), "not a plain file of tensors"),
    "pickle with more than tensors": (only_pickle(lambda t, p: torch.save(t | {"a": 1}, p)), "holds other things too"),
    "pickle of a tensor": (only_pickle(lambda t, p: torch.save(t["conv_in.bias"], p)), "holds other things too"),
    "pickle with a number for a name": (only_pickle(lambda t, p: torch.save({1: torch.zeros(1)}, p)), "holds other things too"),
    "pickle with a sparse tensor": (only_pickle(lambda t, p: torch.save(t | {"conv_in.bias": torch.zeros(8).to_sparse()}, p)),
                                    "plain file of tensors"),
    "cut pickle": (only_pickle(lambda t, p: (torch.save(t, p), p.write_bytes(p.read_bytes()[:5000]))), "use a .safetensors"),
    "empty pickle": (only_pickle(lambda t, p: p.touch()), "use a .safetensors file"),
    "pickle that lacks keys": (only_pickle(lambda t, p: torch.save({"state_dict": {}}, p)), "missing conv_in.weight"),
    "missing shard": (lambda f: (as_shards(f), (f / "model-1.safetensors").unlink()), "no file .*model-1.safetensors"),
    "damaged shard": (lambda f: (as_shards(f), (f / "model-1.safetensors").write_bytes(b"x" * 99)), "model-1.safetensors is"),
    "index names too many keys": (shards(lambda i: i["weight_map"].update(extra="model-0.safetensors")),
                                  "model-0.safetensors does not hold what .*index.json says, 1 keys; e.g. extra"),
    "index names too few": (shards(lambda i: i["weight_map"].pop("conv_in.bias")), "1 keys; e.g. conv_in.bias"),
    "index names a wrong shard": (shards(lambda i: i["weight_map"].update({"conv_in.bias": "other"})), "does not hold|no file"),
    "index names another folder": (shards(lambda i: i["weight_map"].update({"conv_in.bias": "../x"})), "no file beside it"),
    "index names a number": (shards(lambda i: i["weight_map"].update({"conv_in.bias": 3})), "no file beside it"),
    "index without a map": (shards(lambda i: i.clear()), "has no weight_map"),
    "map is a list": (shards(lambda i: i.update(weight_map=[])), "has no weight_map"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json in .*unet"),
    "config is a folder": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "it is a folder"),
    "config is empty": (config(""), "config.json is not valid JSON"),
    "config is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not valid JSON"),
    "config is cut": (config('{"in_channels": 2,'), "config.json is not valid JSON"),
    "config nested deeply": (deep, "config.json is not valid JSON"),
    "config is a list": (config("[]"), "holds a list, expected a JSON object"),
    "config is null": (config("null"), "holds a NoneType"),
    "config says all twice": (config('{"in_channels": 2, "in_channels": 3}'), "in_channels is in it twice"),
    "config with NaN": (config('{"norm_eps": NaN}'), "NaN is not a JSON number"),
    "config with 10 ** 5000": (config('{"in_channels": 1' + "0" * 5000 + "}"), "config.json is not valid JSON"),
    "unknown value": (config(act_fn="relu"), "act_fn is 'relu'"),
    "unknown block": (config(down_block_types=["Block"]), "down_block_types has 'Block'"),
    "another depth": (config(layers_per_block=2), "does not fit UNet"),
    "too many layers": (config(layers_per_block=10 ** 9), "more than 5000 weights"),
    "a huge width": (config(cross_attention_dim=10 ** 15), "does not fit UNet|does not describe"),
    "a width of more than 64 bits": (config(cross_attention_dim=10 ** 40), "does not describe this model"),
    "number as text": (config(in_channels="2"), "in_channels is '2', expected a whole number"),
    "eps as text": (config(norm_eps="1e-5"), "norm_eps is '1e-5', expected a number above zero"),
    "eps is huge": (config('{"norm_eps": 1e999}'), "norm_eps is inf"),
    "negative width": (config(block_out_channels=[-8]), "block_out_channels is"),
    "negative heads": (config(attention_head_dim=-2), "attention_head_dim is -2"),
    "no heads": (config(attention_head_dim=0), "does not describe this model"),
    "no groups": (config(norm_num_groups=0), "does not describe this model"),
    "half a head": (config(attention_head_dim=2.0), "attention_head_dim is 2.0"),
    "channels are null": (config(block_out_channels=None), "does not describe this model"),
    "channels are a number": (config(block_out_channels=8), "does not describe this model"),
    "channels are an object": (config(block_out_channels={"0": 8}), "block_out_channels is"),
    "block types are text": (config(down_block_types="CrossAttnDownBlock2D" * 2), "does not describe this model"),
    "block types are objects": (config(down_block_types=[{}]), "does not describe this model"),
    "the folder of a VAE": (lambda f: (shutil.rmtree(f), component(VAE, VAE_, f)), "'AutoencoderKL'; UNet supports only"),
    "the weights of a VAE": (lambda f: (component(VAE, VAE_, f), write_json(f / "config.json", UNET)), "unexpected decoder"),
}


def overlap(folder, by):
    """Let the header put one tensor `by` bytes further than its place, and all that come after it."""
    def change(h):
        at = h["conv_in.bias"]["data_offsets"][0]
        return {k: v | {"data_offsets": [n + by for n in v["data_offsets"]]} if k != "__metadata__"
                and v["data_offsets"][0] >= max(at, 4) else v for k, v in h.items()}
    raw(folder, lambda data: with_header(data, change) + b"\0" * by if by > 0 else with_header(data, change)[:by])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage, message", FILES.values(), ids=FILES)
def test_a_bad_folder_is_an_error_that_names_it_and_says_what_is_wrong(folder, monkeypatch, damage, message):
    monkeypatch.chdir(folder.parent)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        UNet.from_pretrained(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 3000
    assert not (folder.parent / "exploded").exists()


def test_the_undamaged_folder_loads(folder):
    assert UNet.from_pretrained(folder).conv_in.bias.shape == (8,)
    as_shards(folder)
    assert UNet.from_pretrained(folder).conv_in.bias.shape == (8,)


def test_a_folder_of_another_family_is_an_error_of_every_class(folder, tmp_path):
    component(VAE, VAE_, tmp_path / "vae"), component(CLIPText, TEXT, tmp_path / "text")
    for make, own in ((UNet, "unet"), (VAE, "vae"), (CLIPText, "text")):
        for other in {"unet", "vae", "text"} - {own}:
            with pytest.raises(CheckpointError, match=f"{other}(: its config does not describe this model| does not fit)"):
                make.from_pretrained(tmp_path / other)


@pytest.mark.parametrize("path", ["none", "unet/config.json", "unet\0", "x" * 5000])
def test_a_path_that_is_no_folder_is_an_error(folder, monkeypatch, path):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(CheckpointError):
        UNet.from_pretrained(path)
    with pytest.raises(CheckpointError):
        read_folder(path)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_may_not_be_read_is_an_error(folder, monkeypatch, name):
    """Asked of the system where it says no; root may read everything."""
    (folder / name).chmod(0)
    if os.access(folder / name, os.R_OK):
        real = open
        monkeypatch.setattr("builtins.open", lambda path, *more, **options: refuse(path) if str(path).endswith(name)
                            else real(path, *more, **options))
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: Permission denied"):
        UNet.from_pretrained(folder)


def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("name", ["cut in the data", "NaN", "a pickle called safetensors", "a width of more than 64 bits",
                                  "no weights"])
def test_the_command_line_says_it_in_one_message_and_exits_with_2(folder, capsys, name):
    FILES[name][0](folder)
    (folder / "config.json").rename(folder.parent / "model_index.json")
    assert main(["a cat", "--model", str(folder.parent)]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("minidiff: ") and str(folder.parent) in error and "Traceback" not in error and not out


# -------------------------------------------------------------------------------------------------------------- by chance

NASTY = [None, [], {}, "", "8", "x" * 1000, -1, 0, 1, 3, 7, 2 ** 31, 10 ** 9, 10 ** 30, 2.5, -0.0, 1e300, True, False,
         [1], [4, 4], ["a"], [[]], {"a": {}}, [2 ** 63], "\0", "\ud800"]


def flip(data, rng, start=0, end=None):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        data[rng.randrange(start, end or len(data))] = rng.randrange(256)
    return bytes(data)


def poison(data, rng):
    """One number becomes a special one: NaN, infinite, the largest, the smallest."""
    start = 8 + int.from_bytes(data[:8], "little")
    at = start + 4 * rng.randrange((len(data) - start) // 4)
    value = rng.choice([float("nan"), float("inf"), float("-inf"), 3.4e38, -3.4e38, 1e-45, -0.0])
    return data[:at] + struct.pack("<f", value) + data[at + 4:]


def cut(data, rng):
    return data[:rng.randrange(len(data))]


def insert(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 1, 2, 40])) + data[at:]


def remove(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 1, 2, 40]):]


def flip_header(data, rng):
    return flip(data, rng, end=8 + int.from_bytes(data[:8], "little"))


def flip_length(data, rng):
    return flip(data, rng, end=8)


def edit_header(data, rng):
    """The header says something else, in valid JSON and with the right length."""
    def change(h):
        key = rng.choice([k for k in h if k != "__metadata__"])
        kind = rng.randrange(6)
        if kind == 0:
            return {k: v for k, v in h.items() if k != key}
        if kind == 1:
            return h | {rng.choice(["extra", "", "__metadata__", "é" * 300]): rng.choice([h[key], *NASTY])}
        if kind == 2:
            return {(k + "x" if k == key else k): v for k, v in h.items()}
        if kind == 3:
            return h | {key: rng.choice(NASTY)}
        field = rng.choice(["dtype", "shape", "data_offsets"])
        if kind == 4 and field != "dtype":
            value, by = list(h[key][field]), rng.choice([-4, -1, 1, 4, 2 ** 40])
            moved = rng.choice([[0], [-1], range(len(value))])               # one number, or the tensor's whole place
            value = [n + by if i in moved or i - len(value) in moved else n for i, n in enumerate(value)]
            return h | {key: h[key] | {field: value}}
        return h | {key: h[key] | {field: rng.choice([*NASTY, "I32", "F16", "BOOL", "F64", "C64"])}}
    return with_header(data, change)


def edit_config(data, rng):
    """One value of the config is another, or is gone; sometimes inside a list."""
    config = json.loads(data)
    key, kind = rng.choice(list(config)), rng.randrange(4)
    if kind == 0:
        del config[key]
    elif kind == 1 and isinstance(config[key], list):
        config[key] = [rng.choice(NASTY) for _ in config[key]]
    else:
        config[key] = rng.choice(NASTY)
    return json.dumps(config).encode()


def run(module):
    """One forward pass: what loads must also run."""
    if isinstance(module, CLIPText):
        module(torch.tensor([[1, 2, 11]]))
    elif isinstance(module, UNet):
        module(torch.zeros(1, 2, 2, 2), 5, torch.zeros(1, 3, 4))
    else:
        module.decode(torch.zeros(1, 2, 2, 2))


def looks_honest(module, before, after, original):
    """Is this success the truth? `before` and `after`: the bytes of the weights.

    A flip inside the data that leaves a finite number cannot be seen without a checksum. So where only data were flipped,
    exactly the flipped bytes may differ, and their values must be finite; in all other cases not a bit may differ.
    """
    start = 8 + int.from_bytes(before[:8], "little")
    same_layout = len(before) == len(after) and before[:start] == after[:start]
    data, header = (after if same_layout else before), json.loads(before[8:start])
    state = {key: t.contiguous() for key, t in module.state_dict().items()}
    return all(t.isfinite().all() for t in state.values()) and state.keys() == original and all(
        t.numpy().tobytes() == data[start + header[key]["data_offsets"][0]:start + header[key]["data_offsets"][1]]
        for key, t in state.items())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("make, values, count", [(CLIPText, TEXT, 1600), (UNet, UNET, 200), (VAE, VAE_, 200)],
                         ids=["text", "unet", "vae"])
def test_files_changed_by_chance_never_crash_hang_or_load_as_if_nothing_had_happened(tmp_path, monkeypatch, make, values, count):
    monkeypatch.setattr("minidiff.checkpoints.MOST_TENSORS", 500)          # a config that asks for 5000 costs a second
    folder, rng = component(make, values, tmp_path / "a"), random.Random(len(values))
    paths = {name: folder / name for name in (WEIGHTS, "config.json")}
    original = {name: path.read_bytes() for name, path in paths.items()}
    keys, slowest, loaded = load_file(paths[WEIGHTS]).keys(), 0, {}
    for i in range(count):
        name = rng.choice([WEIGHTS, WEIGHTS, WEIGHTS, "config.json"])
        change = rng.choice([flip, flip, cut, insert, remove] + (
            [flip_header, flip_header, flip_length, edit_header, edit_header, poison] if name == WEIGHTS else [edit_config] * 5))
        changed = change(original[name], rng)
        paths[name].write_bytes(changed)
        began = time.process_time()
        try:
            module = make.from_pretrained(folder)
        except CheckpointError as error:
            assert str(folder) in str(error) and len(str(error)) < 10_000, (i, change, error)
        else:
            loaded[change] = loaded.get(change, 0) + 1
            run(module)
            after = changed if name == WEIGHTS else original[WEIGHTS]
            assert looks_honest(module, original[WEIGHTS], after, keys), (i, change)
        slowest = max(slowest, time.process_time() - began)
        paths[name].write_bytes(original[name])
    assert slowest < 5
    assert loaded[flip] < count / 4                # the test would be idle if all that was changed did no harm
