"""Reading checkpoints: the same tensors as safetensors reads, in any of the published file names, with little memory."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from minidiff import tensorfile
from minidiff.checkpoints import (CheckpointError, bring, build, fill, from_folder, is_finite, load_strict, on_meta, read_folder,
                                  rename, save_folder, write_json)
from minidiff.tensorfile import read_metadata, read_tensors

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool]


def mlp(config):
    return nn.ModuleList(nn.Linear(config["width"], config["width"]) for _ in range(config["layers"]))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path):
    """A component: config.json and float32 weights."""
    module = mlp({"width": 8, "layers": 3})
    save_folder(module, {"width": 8, "layers": 3}, tmp_path, dtype=torch.float32)
    return tmp_path


def weights(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def same(got, want):
    assert list(got) == list(want) or set(got) == set(want)
    for key, tensor in want.items():
        assert got[key].dtype == tensor.dtype
        assert_close(got[key], tensor, rtol=0, atol=0)


# -------------------------------------------------------------------------------------------------------------- one file

def test_a_file_holds_what_safetensors_reads_in_it_for_every_type_and_shape(tmp_path):
    tensors = {f"{dtype}.{i}": (noise(*shape) * 40).to(dtype)
               for dtype in TYPES for i, shape in enumerate([(), (1,), (3, 5), (2, 0, 4), (2, 1, 3, 2)])}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt", "note": "any text, \n also this"})
    same(read_tensors(tmp_path / "a.safetensors"), load_file(tmp_path / "a.safetensors"))
    shapes = read_tensors(tmp_path / "a.safetensors", "meta")
    assert {key: (t.shape, t.dtype, "meta") for key, t in tensors.items()} == {
        key: (t.shape, t.dtype, t.device.type) for key, t in shapes.items()}
    assert read_metadata(tmp_path / "a.safetensors") == {"format": "pt", "note": "any text, \n also this"}


@pytest.mark.parametrize("length", range(8))
def test_tensors_need_not_lie_at_a_multiple_of_their_size(tmp_path, length):
    """As in published files, whose headers are not padded."""
    raw = noise(40, 40)
    header = json.dumps({"w": {"dtype": "F32", "shape": [40, 40], "data_offsets": [0, 6400]}}).encode() + b" " * length
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw.numpy().tobytes())
    got = read_tensors(tmp_path / "a.safetensors")["w"]
    assert_close(got, raw, rtol=0, atol=0)
    assert_close(noise(3, 40) @ got, noise(3, 40) @ raw)
    assert_close(nn.functional.conv2d(noise(1, 40, 5, 5), got[:, :, None, None]).sum(), nn.functional.conv2d(
        noise(1, 40, 5, 5), raw[:, :, None, None]).sum())


def test_a_file_may_hold_nothing(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors") == {}


def test_a_file_may_hold_only_empty_tensors_behind_a_header_of_whole_pages(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}).encode()
    header += b" " * (2 ** 16 - 8 - len(header))
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_tensors(tmp_path / "a.safetensors")["a"].shape == (0, 3)


def test_writing_to_a_tensor_does_not_reach_the_file(folder):
    before = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    read_folder(folder)["0.weight"].fill_(7)
    assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_tensors_outlive_the_name_of_their_file(folder):
    want = weights(folder)["1.weight"].clone()
    got = read_folder(folder)["1.weight"]
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert_close(got, want, rtol=0, atol=0)


def test_a_file_is_mapped_anew_for_each_run_of_its_tensors(tmp_path, monkeypatch):
    tensors = {f"{i:02d}": noise(100 * (i % 5), 20, seed=i) for i in range(40)}
    save_file(tensors, tmp_path / "a.safetensors")
    opened, safe_open = [], tensorfile.safe_open
    monkeypatch.setattr(tensorfile, "safe_open", lambda path, kind: opened.append(path) or safe_open(path, kind))
    same(read_tensors(tmp_path / "a.safetensors"), tensors)
    assert len(opened) == 1                                           # too small to be worth more
    monkeypatch.setattr(tensorfile, "SMALLEST_RUN", 0)
    same(read_tensors(tmp_path / "a.safetensors"), tensors)
    assert tensorfile.MAPPINGS / 2 < len(opened) - 1 <= tensorfile.MAPPINGS


# -------------------------------------------------------------------------------------------------------------- pickles

@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "global_step": 7}], ids=["plain", "state_dict"])
def test_pickles_of_tensors_are_read_where_there_is_no_safetensors_file(folder, name, wrap):
    want = weights(folder)
    torch.save(wrap(want), folder / name)
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "elsewhere")
    same(read_folder(folder), want)


def test_safetensors_are_preferred_to_pickles(folder):
    torch.save({"wrong": torch.zeros(1)}, folder / "diffusion_pytorch_model.bin")
    same(read_folder(folder), weights(folder))


# -------------------------------------------------------------------------------------------------- names, shards, variants

def split(tensors, folder, index, name="s-{}.safetensors"):
    """Two shards and their index."""
    keys = sorted(tensors)
    places = {key: name.format(1 if i < 2 else 2) for i, key in enumerate(keys)}
    for shard in set(places.values()):
        save_file({key: tensors[key] for key in keys if places[key] == shard}, folder / shard)
    write_json(folder / index, {"metadata": {"total_size": 1}, "weight_map": places})


NAMES = [("diffusion_pytorch_model.safetensors", None), ("model.safetensors", None),
         ("diffusion_pytorch_model.fp16.safetensors", "fp16"), ("model.fp16.safetensors", "fp16"),
         ("diffusion_pytorch_model.non_ema.safetensors", "non_ema")]
INDICES = [("model.safetensors.index.json", None), ("diffusion_pytorch_model.safetensors.index.json", None),
           ("model.fp16.safetensors.index.json", "fp16"), ("model.safetensors.index.fp16.json", "fp16"),
           ("diffusion_pytorch_model.safetensors.index.fp16.json", "fp16")]


@pytest.mark.parametrize("name, variant", NAMES + INDICES)
def test_weights_are_found_under_every_published_name(tmp_path, name, variant):
    want = {key: noise(4, 4, seed=i) for i, key in enumerate("abcd")}
    if name.endswith("json"):
        split(want, tmp_path, name)
    else:
        save_file(want, tmp_path / name)
    same(read_folder(tmp_path, variant), want)


def test_a_variant_is_taken_when_asked_for_and_only_then(folder):
    save_file({key: t.half() for key, t in weights(folder).items()}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert read_folder(folder)["0.weight"].dtype == torch.float32
    assert read_folder(folder, variant="fp16")["0.weight"].dtype == torch.float16
    assert from_folder(mlp, folder, variant="fp16")[0].weight.dtype == torch.float16


def test_an_error_says_which_variants_there_are(folder):
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "model.bf16-00001-of-00002.safetensors").touch()
    for variant in (None, "fp8"):
        with pytest.raises(CheckpointError, match=f"for variant={variant!r}, only for 'bf16' and 'fp16'"):
            read_folder(folder, variant)
    (folder / "model.bin").touch()
    with pytest.raises(CheckpointError, match="only for None and 'bf16' and 'fp16'"):
        read_folder(folder, "fp8")


# -------------------------------------------------------------------------------------------------------- types, devices

@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_converted_as_torch_converts_them_and_nothing_else_changes(folder, dtype):
    got = from_folder(mlp, folder, dtype=dtype)
    same(got.state_dict(), {key: t.to(dtype or t.dtype) for key, t in weights(folder).items()})
    assert not got.training and not any(p.requires_grad for p in got.parameters())


def test_whole_numbers_stay_whole_when_weights_are_converted(folder):
    make, tensors = (lambda config: nn.BatchNorm1d(3)), nn.BatchNorm1d(3).state_dict()
    got = build(make, {}, dict(tensors), "here", dtype=torch.float16).state_dict()
    assert got["num_batches_tracked"].dtype == torch.int64 and got["running_mean"].dtype == torch.float16


def test_weights_too_large_for_the_type_asked_for_are_refused(folder):
    tensors = weights(folder) | {"1.weight": torch.full((8, 8), 1e6)}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    assert from_folder(mlp, folder, dtype=torch.bfloat16)[1].weight.dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match=r"1.weight \(torch.float16\) holds values that are not finite"):
        from_folder(mlp, folder, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 31, 1000, 70000])
def test_one_value_that_is_not_finite_is_seen_wherever_it_is(dtype, size):
    largest = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(largest) and is_finite(-largest) and is_finite(largest[:0])      # though their sum is infinite
    for at in {0, size // 3, size - 1}:
        for bad in ("nan", "inf", "-inf"):
            values = noise(size).to(dtype)
            values[at] = float(bad)
            assert not is_finite(values) and not is_finite(values.view(1, -1).T)


# --------------------------------------------------------------------------------------------------------------- memory

def resident(what):
    """VmRSS or VmHWM (its highest value so far) of this process, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says how much memory was used")
@pytest.mark.parametrize("stored, wanted", [("float16", "float32"), ("float32", "bfloat16"), ("float32", "float32")])
def test_loading_holds_little_more_than_the_weights(tmp_path, stored, wanted):
    config = {"width": 512, "layers": 80}
    with torch.device("meta"):
        tensors = {key: torch.full(t.shape, 0.5, device="cpu") for key, t in mlp(config).state_dict().items()}
    save_file({key: t.to(getattr(torch, stored)) for key, t in tensors.items()}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config)
    del tensors
    from_folder(mlp, tmp_path, dtype=getattr(torch, wanted))           # once before, for what torch sets up for itself
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")                      # 5: forget the highest value
    module = from_folder(mlp, tmp_path, dtype=getattr(torch, wanted))
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    assert resident("VmHWM") - before < 1.15 * size


# ------------------------------------------------------------------------------------------------------ building, filling

def test_fill_takes_the_tensors_out_of_the_dict_and_load_strict_does_not(folder):
    tensors = read_folder(folder)
    load_strict(mlp({"width": 8, "layers": 3}), tensors, "here")
    assert len(tensors) == 6
    fill(on_meta(mlp, {"width": 8, "layers": 3}, "here"), tensors, "here")
    assert len(tensors) == 0


def test_what_fits_is_mapped_and_not_copied(folder):
    tensors = read_folder(folder)
    pointers = {key: t.data_ptr() for key, t in tensors.items()}
    module = build(mlp, {"width": 8, "layers": 3}, tensors, "here", dtype=torch.float32)
    assert {key: p.data_ptr() for key, p in module.named_parameters()} == pointers


def test_a_config_of_absurd_size_is_refused_before_it_takes_time_or_memory():
    with pytest.raises(CheckpointError, match="more than 5000 weights"):
        on_meta(mlp, {"width": 8, "layers": 10 ** 9}, "here")
    with pytest.raises(CheckpointError, match="here: its config does not describe this model"):
        on_meta(mlp, {"width": 10 ** 30, "layers": 1}, "here")
    assert on_meta(mlp, {"width": 10 ** 6, "layers": 3}, "here")[0].weight.is_meta


@pytest.mark.parametrize("values, message", [
    ({"num_layers": "3"}, "num_layers is '3', expected a whole number"),
    ({"hidden_size": -8}, "hidden_size is -8"), ({"attention_head_dim": [8, 4.0]}, "attention_head_dim is"),
    ({"norm_num_groups": True}, "norm_num_groups is True"),
    ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', expected a number above zero"),
    ({"norm_eps": float("inf")}, "norm_eps is inf"), ({"scaling_factor": None}, "scaling_factor is None"),
    ({"text_config": {"hidden_size": 8.5}}, "hidden_size is 8.5"),
])
def test_numbers_that_only_the_first_use_would_stumble_over_are_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        on_meta(mlp, {"width": 8, "layers": 1, **values}, "here")


def test_two_names_for_one_key_are_refused():
    with pytest.raises(CheckpointError, match="to_q is there twice"):
        rename({"query": torch.zeros(1), "to_q": torch.zeros(1)}, [("query", "to_q")])


def test_a_part_is_brought_once_whether_it_is_a_folder_or_a_file(tmp_path):
    (tmp_path / "model" / "vae").mkdir(parents=True)
    for name in ("vae/config.json", "model_index.json"):
        (tmp_path / "model" / name).write_text("{}")
    for part in ("vae", "model_index.json"):
        bring(part, tmp_path / "out", tmp_path / "model")
    (tmp_path / "out" / "vae" / "config.json").write_text('{"mine": 1}')
    bring("vae", tmp_path / "out", tmp_path / "model")
    assert (tmp_path / "out" / "vae" / "config.json").read_text() == '{"mine": 1}'          # what is there stays
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model_index.json", "vae"]  # and no temporary file
    with pytest.raises(CheckpointError, match="no .*unet, and .*model has none either"):
        bring("unet", tmp_path / "out", tmp_path / "model")
