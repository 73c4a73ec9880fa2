"""Public checkpoint layouts -> our modules, strict both ways.

Our modules carry the names of the published files (diffusers, transformers), so most checkpoints need no renaming.
Where a layout differs, the difference is a list of (regular expression, replacement) pairs beside the class it loads.
How a single file is read is in tensorfile.py.
"""
import inspect
import json
import math
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from .tensorfile import LARGEST_JSON, CheckpointError, open_file, printable, read_json, read_tensors

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
# The same without safetensors is looked for last; pytorch_model is what transformers calls it then.
STEMS, ENDINGS = ("diffusion_pytorch_model", "model", "pytorch_model"), (".safetensors", ".bin", ".ckpt")

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MOST_TENSORS = 5000                               # in one module; the largest public one, SDXL's UNet, has 1,680

# Keys of a config that count something (a list has one count per level), and those whose value must be above zero.
COUNTS = re.compile(r"(channels|_dim|_size|_layers|_heads|_groups|_per_block|_embeddings|^eos_token_id)$")
POSITIVE = re.compile(r"(_eps|^scaling_factor)$")


def find(path):
    """The folder of a model, from its path or from the name "toybox"."""
    here = Path(__file__).parent
    if str(path) == "toybox":                       # a plain install, a checkout
        places = [here / "weights" / "toybox", here.parent / "weights" / "toybox"]
    else:
        places = [Path(path).expanduser()]
    for place in places:
        if place.is_dir():
            return place
        if place.is_file():
            raise CheckpointError(f"{place} is a file; expected a folder in diffusers' layout, with model_index.json")
    raise CheckpointError(f"no model {str(path)!r}: no folder {' and no folder '.join(map(str, places))}; "
                          "expected toybox, or a folder in diffusers' layout")


# -------------------------------------------------------------------------------------------------------------- reading

def bring(part, out, source="toybox"):
    """Copy a part of a model, a folder or a file, to the folder `out`, unless it is there: what is trained beside it makes a whole model."""
    if (out / part).exists():
        return
    place, temporary = find(source) / part, out / f".{part}.{os.getpid()}.tmp"
    if not place.exists():
        raise CheckpointError(f"no {out / part}, and {source} has none either")
    out.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if place.is_dir() else shutil.copy)(place, temporary)
    os.replace(temporary, out / part)
    print(f"{out / part}: copied from {'the shipped toybox' if str(source) == 'toybox' else source}")


def read_config(folder, name="config.json"):
    """The JSON object `folder/name` as a dict."""
    path = Path(folder) / name
    if name not in files_in(folder):
        raise CheckpointError(f"no {name} in {folder}; expected a folder in the layout of diffusers / transformers")
    with open_file(path) as file:
        return read_json(file.read(LARGEST_JSON), path)


def files_in(folder):
    """The names of what is in a folder; none if there is no such folder."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:        # ValueError: a null character in the name
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder} cannot be read: {why}; expected a folder") from error


def weights_file(folder, variant=None):
    """The file in a component's folder that holds its weights, or the index that names their shards.

    Args:
        variant: None, or as in `model.fp16.safetensors`: "fp16", "non_ema".
    """
    there = files_in(folder)
    name = weights_name(there, variant)
    if name is None:
        others = " and ".join(map(repr, variants(there)))
        raise CheckpointError(f"no weights in {folder} for variant={variant!r}, only for {others}" if others else
                              f"no weights in {folder}; expected {' or '.join(WEIGHT_FILES)}")
    return Path(folder) / name


def weights_name(names, variant=None):
    """Which of the names of files is that of `weights_file`; None if none is."""
    dot = f".{variant}" if variant else ""
    for ending in ENDINGS:
        for stem in STEMS:
            whole = f"{stem}{dot}{ending}"
            for name in (whole, f"{whole}.index.json", f"{stem}{ending}.index{dot}.json"):
                if name in names:
                    return name
    return None


def variants(names):
    """Of which variants the files with these names are: [None, "fp16"]; files that are no weights do not count."""
    pattern = rf"({'|'.join(STEMS)})(\.[\w-]+?)?(-\d+-of-\d+)?({'|'.join(ENDINGS)})"
    found = [match for match in (re.fullmatch(pattern, name) for name in names) if match]
    return sorted({match[2] and match[2][1:] for match in found}, key=str)


def read_folder(folder, variant=None, device="cpu"):
    """The tensors of a component's folder, in one file or in shards named by an index: {key: tensor}. See `read_tensors`."""
    path = weights_file(folder, variant)
    return (read_shards if path.suffix == ".json" else read_tensors)(path, device)


def read_shards(index, device="cpu"):
    """The tensors of all shards that the file `index` names: {key: tensor}. Each must hold what the index says of it."""
    places = read_config(index.parent, index.name).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map, expected the shard of each key")
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in places.values()):
        raise CheckpointError(f"{index} names a shard that is no file beside it")
    tensors = {}
    for shard in sorted(set(places.values())):
        part = read_tensors(index.parent / shard, device)
        wrong = part.keys() ^ {key for key, place in places.items() if place == shard}
        if wrong:
            raise CheckpointError(f"{index.parent / shard} does not hold what {index.name} says, {len(wrong)} keys; "
                                  f"e.g. {printable(min(wrong))}")
        tensors |= part
    return tensors


def rename(tensors, pairs, ignore=()):
    """Apply (pattern, replacement) pairs to every key, in order, and drop the keys that match a pattern in `ignore`."""
    out = {}
    for key, tensor in tensors.items():
        if any(re.search(pattern, key) for pattern in ignore):
            continue
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        if key in out:
            raise CheckpointError(f"{printable(key)} is there twice, under two names")
        out[key] = tensor
    return out


# -------------------------------------------------------------------------------------------------------------- filling

def from_folder(make, folder, device=None, dtype=None, pairs=(), ignore=(r"position_ids$",), fix=None, variant=None):
    """Build `make(config)` and fill it with the weights in `folder`.

    Args:
        make: config dict -> module.
        folder: holds config.json and *.safetensors.
        device, dtype: where and in which floating-point type the weights end up; None keeps the file's. The device "meta"
            only looks whether everything fits, and reads no values.
        pairs, ignore: see `rename`.
        fix: {key: tensor} -> {key: tensor}, for what renaming cannot say (a transpose, a split).
        variant: see `weights_file`.

    Returns the module, in eval mode, without gradients: what is loaded is frozen until somebody says otherwise.
    """
    config = read_config(folder)
    tensors = read_folder(folder, variant, "meta" if str(device) == "meta" else "cpu")       # `fill` moves them one by one
    tensors = rename(tensors, pairs, ignore)
    if fix:
        tensors = fix(tensors)
    return build(make, config, tensors, folder, device, dtype)


def build(make, config, tensors, source, device=None, dtype=None):
    """`make(config)` filled with `tensors`; CheckpointError, which names `source`, if they do not fit. See `fill`."""
    return fill(on_meta(make, config, source), tensors, source, device, dtype)


def arguments(cls, config):
    """What a config.json says of the arguments of `cls`; ValueError for a value that `cls.ONLY` does not allow."""
    for key, only in cls.ONLY.items():
        if config.get(key, only) != only:
            raise ValueError(f"{key} is {config[key]!r}; {cls.__name__} supports only {only!r}")
    known = inspect.signature(cls).parameters
    return {key: value for key, value in config.items() if key in known}


def on_meta(make, config, source):
    """`make(config)` on the meta device: names and shapes without memory. CheckpointError if no module comes of it."""
    try:
        check_numbers(config)
        with torch.device("meta"), Limit():
            return make(config)
    except Exception as error:                    # a config can be wrong in more ways than there are kinds of exception
        why = f"no {error}" if isinstance(error, KeyError) else printable(error) or type(error).__name__
        raise CheckpointError(f"{source}: its config does not describe this model: {why}") from error


class Limit(TorchFunctionMode):
    """Counts the tensors that are made, and stops what would never end: a config with 10 ** 9 layers. Draws no values."""

    made = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.made += function is torch.empty
        if self.made > MOST_TENSORS:
            raise ValueError(f"it asks for more than {MOST_TENSORS} weights")
        if getattr(function, "__module__", "") == "torch.nn.init":       # start values, where there are no values
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def check_numbers(config):
    """ValueError for numbers that a constructor would take and only the first use would stumble over."""
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith(("_config", "_config_dict")):
            check_numbers(value)
        elif COUNTS.search(key) and not is_count(value):
            raise ValueError(f"{key} is {printable(repr(value))}, expected a whole number")
        elif POSITIVE.search(key) and not (type(value) in (int, float) and 0 < value < math.inf):
            raise ValueError(f"{key} is {printable(repr(value))}, expected a number above zero")


def is_count(value):
    if isinstance(value, (list, tuple)):
        return all(map(is_count, value))
    return value is None or type(value) is int and value >= 0


def fill(module, tensors, source, device=None, dtype=None):
    """Give `tensors` to a module on the meta device; see `load_strict` and `from_folder`.

    Takes them out of the dict one by one while converting them, so that what is mapped is let go on the way: the weights
    are never there twice, unless somebody else holds the tensors too.
    """
    check_fit(module, tensors, source)
    converted = {}
    for key in list(tensors):
        tensor = tensors.pop(key)
        converted[key] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    return load_strict(module, converted, source).eval().requires_grad_(False)


def load_strict(module, tensors, source):
    """Give `tensors` to `module`; every key of both sides is used and every shape agrees, else CheckpointError.

    Works on a module built on the meta device: the tensors become the parameters, nothing is copied.
    """
    check_fit(module, tensors, source)
    bad = [f"{key} ({t.dtype}) holds values that are not finite" for key, t in tensors.items() if not is_finite(t)]
    complain({"not finite": bad}, module, source)
    module.load_state_dict(tensors, assign=True)
    return module


def check_fit(module, tensors, source):
    """CheckpointError that lists which keys are missing, unexpected, of another shape, or no floating-point numbers."""
    complain(misfits(module.state_dict(), tensors), module, source)


def misfits(expected, tensors):
    """{kind: [what is wrong]} between two {key: anything with a shape and a dtype}."""
    both = [(key, tensors[key], want) for key, want in expected.items() if key in tensors]
    return {
        "missing": [f"missing {key} {tuple(want.shape)}" for key, want in expected.items() if key not in tensors],
        "unexpected": [f"unexpected {printable(key)} {tuple(t.shape)}" for key, t in tensors.items() if key not in expected],
        "of another shape": [f"{key} has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
                             for key, got, want in both if tuple(got.shape) != tuple(want.shape)],
        "of another type": [f"{key} holds {got.dtype}, expected {want.dtype}"
                            for key, got, want in both if (got.dtype in FLOATS) != want.dtype.is_floating_point]}


def complain(problems, module, source, most=8):
    """CheckpointError with the numbers of `problems` {kind: [sentence]}, and the first of each kind; none, no error."""
    counts = [f"{len(sentences)} {kind}" for kind, sentences in problems.items() if sentences]
    if counts:
        shown = "\n  ".join(sentence for sentences in problems.values() for sentence in sentences[:most])
        raise CheckpointError(f"{source} does not fit {type(module).__name__} ({', '.join(counts)}):\n  {shown}")


def is_finite(tensor):
    """Whether all values are finite, exactly, at the speed of the memory; isfinite().all() takes over ten times as long.

    If the sum is finite, they all are. If it is not, it may have overflowed: then the smallest and the largest value decide,
    which are both NaN if any value is.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
        return True
    return bool(tensor.sum().isfinite()) or bool(torch.stack(tensor.aminmax()).isfinite().all())


# -------------------------------------------------------------------------------------------------------------- writing

def write_atomically(path, write):
    """Call `write(temporary_path)`, then rename to `path`: a kill leaves the old file or the new one, never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o644)                    # safetensors writes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def write_tensors(path, tensors, metadata=None):
    """{key: tensor} -> one .safetensors file; contiguous, on the CPU. OSError if it cannot be written."""
    tensors = {k: t.detach().contiguous().cpu() for k, t in tensors.items()}
    try:
        write_atomically(path, lambda p: save_file(tensors, p, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def write_pickle(path, content):
    """What torch.save makes of it. OSError if it cannot be written."""
    try:
        write_atomically(path, lambda p: torch.save(content, p))
    except RuntimeError as error:                 # so torch reports a full disk
        raise OSError(f"cannot write {path}: {error}") from error


def save_folder(module, config, folder, name=WEIGHT_FILES[0], dtype=torch.float16, keys=None):
    """Write `config.json` and the weights of `module`, all or those of `keys`, in the peers' layout; floating point becomes `dtype`."""
    tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in module.state_dict().items() if keys is None or k in keys}
    write_tensors(Path(folder) / name, tensors, metadata={"format": "pt"})
    write_json(Path(folder) / "config.json", config)
