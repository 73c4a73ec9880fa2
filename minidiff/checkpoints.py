"""Public checkpoint layouts -> our modules, strict both ways.

Our modules carry the names of the published files (diffusers, transformers), so most checkpoints need no renaming.
Where a layout differs, the difference is a list of (regular expression, replacement) pairs beside the class it loads.
Nothing is ever unpickled: safetensors only.
"""
import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model. Says what came, what was expected, what to do."""


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


def read_config(folder, name="config.json"):
    """The JSON object `folder/name` as a dict."""
    path = Path(folder) / name
    if not path.is_file():
        raise CheckpointError(f"no {name} in {folder}; expected a folder in the layout of diffusers / transformers")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, expected a JSON object")
    return config


def read_tensors(path):
    """All tensors of one .safetensors file, memory-mapped: {key: tensor}."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); download or export it again") from error


def read_folder(folder):
    """The tensors of a component folder, in one file or in shards named by an index: {key: tensor}."""
    folder = Path(folder)
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if (folder / f"{name}.index.json").is_file():
            shards = read_config(folder, f"{name}.index.json").get("weight_map", {})
            return {key: t for shard in sorted(set(shards.values())) for key, t in read_tensors(folder / shard).items()}
    raise CheckpointError(f"no weights in {folder}; expected {' or '.join(WEIGHT_FILES)}")


def rename(tensors, pairs, ignore=()):
    """Apply (pattern, replacement) pairs to every key, in order, and drop the keys that match a pattern in `ignore`."""
    out = {}
    for key, tensor in tensors.items():
        if any(re.search(pattern, key) for pattern in ignore):
            continue
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        out[key] = tensor
    return out


def load_strict(module, tensors, source):
    """Give `tensors` to `module`; every key of both sides is used and every shape agrees, else CheckpointError.

    Works on a module built on the meta device: the tensors become the parameters, nothing is copied.
    """
    expected = module.state_dict()
    problems = [f"missing {k} {tuple(expected[k].shape)}" for k in expected if k not in tensors]
    problems += [f"unexpected {k} {tuple(tensors[k].shape)}" for k in tensors if k not in expected]
    problems += [f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(expected[k].shape)}"
                 for k in expected if k in tensors and tensors[k].shape != expected[k].shape]
    problems += [f"{k} holds values that are not finite" for k in expected
                 if k in tensors and tensors[k].is_floating_point() and not tensors[k].isfinite().all()]
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(f"{source} does not fit {type(module).__name__}:\n  {shown}")
    module.load_state_dict(tensors, assign=True)
    return module


def from_folder(make, folder, device=None, dtype=None, pairs=(), ignore=(r"position_ids$",), fix=None):
    """Build `make(config)` and fill it with the weights in `folder`.

    Args:
        make: config dict -> module.
        folder: holds config.json and *.safetensors.
        device, dtype: where and in which floating-point type the weights end up; None keeps the file's.
        pairs, ignore: see `rename`.
        fix: {key: tensor} -> {key: tensor}, for what renaming cannot say (a transpose, a split).

    Returns the module, in eval mode, without gradients: what is loaded is frozen until somebody says otherwise.
    """
    config = read_config(folder)
    tensors = rename(read_folder(folder), pairs, ignore)
    return build(make, config, fix(tensors) if fix else tensors, folder, device, dtype)


def build(make, config, tensors, source, device=None, dtype=None):
    """`make(config)` on the meta device, filled with `tensors`; CheckpointError, which names `source`, if they do not fit."""
    try:
        with torch.device("meta"):
            module = make(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its config does not describe this model: {error}") from error
    load_strict(module, tensors, source)
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


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
    """{key: tensor} -> one .safetensors file; contiguous, on the CPU."""
    tensors = {k: t.detach().contiguous().cpu() for k, t in tensors.items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata=metadata))


def save_folder(module, config, folder, name=WEIGHT_FILES[0], dtype=torch.float16):
    """Write `config.json` and the weights of `module` in the peers' layout; floating point becomes `dtype`."""
    tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in module.state_dict().items()}
    write_tensors(Path(folder) / name, tensors, metadata={"format": "pt"})
    write_json(Path(folder) / "config.json", config)
