"""Files of tensors: safetensors, and torch's pickles as a last resort, without running the code in them.

A .safetensors file is mapped into memory, not read: a file of gigabytes is open in milliseconds, and only what is used of it
takes memory. Whatever is wrong with a file is one CheckpointError.
"""
import json
import os
import stat
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LARGEST_JSON = 100_000_000                        # bytes; real ones have 100 kB
# A file is mapped this many times, see `map_tensors`. Windows counts each time as if the whole file were in memory.
MAPPINGS = 16 if os.name == "posix" else 1
SMALLEST_RUN = 2 ** 22                            # bytes, not worth mapping a file again

# How files begin that are often mistaken for safetensors.
OTHERS = {b"PK\x03\x04": "a zip, as torch.save writes it", b"\x80": "a pickle", b"version https": "a pointer of Git LFS; "
          "fetch the file itself with `git lfs pull`", b"<": "a web page", b"GGUF": "a GGUF file"}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model. Says what came, what was expected, what to do."""


def read_tensors(path, device="cpu"):
    """All tensors of a .safetensors file, memory-mapped, or of a .bin, .ckpt, .pt or .pth: {key: tensor}.

    With the device "meta" only their shapes and types, without their values.
    """
    if Path(path).suffix in PICKLES:
        return unpickle(path, device)
    if device == "meta":
        return checked(read_shapes, path)
    return {key: tensor.to(device) for key, tensor in checked(map_tensors, path).items()}


def read_metadata(path):
    """What a .safetensors file says about itself besides its tensors: {str: str}; of a pickle {}."""
    return {} if Path(path).suffix in PICKLES else checked(lambda p: safe_open(p, "pt").metadata() or {}, path)


def open_file(path):
    """`path`, open for reading; CheckpointError unless it is a file that may be read."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return open(path, "rb")
        why = "it is a folder or a device, expected a file"
    except FileNotFoundError as error:
        raise CheckpointError(f"no file {path}") from error
    except (OSError, ValueError) as error:        # ValueError: a null character in the name
        why = getattr(error, "strerror", None) or error
    raise CheckpointError(f"{path} cannot be read: {why}")


def read_json(raw, source):
    """Bytes -> dict. CheckpointError, which names `source`, unless they are one JSON object, without a key twice."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=without_duplicates, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a {type(value).__name__}, expected a JSON object")
    return value


def without_duplicates(pairs):
    value = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"{printable(key)} is in it twice")
        value[key] = item
    return value


def refuse_constant(name):
    raise ValueError(f"{name} is not a JSON number")


def printable(key):
    """A key from a file, short and on one line, whatever is in it."""
    key = str(key)
    key = key if key.isprintable() else ascii(key)
    return key if len(key) <= 200 else f"{key[:200]}..."


# ---------------------------------------------------------------------------------------------------------- safetensors

def checked(read, path):
    """`read(path)`; CheckpointError if that fails. The library checks the whole header, also that no tensors overlap."""
    with open_file(path) as file:
        start, size = file.read(16), os.fstat(file.fileno()).st_size
    try:
        return read(path)
    except SafetensorError as error:
        advice = "download or export it again"
        advice = next((f"it is {kind}" for begin, kind in OTHERS.items() if start.startswith(begin)), advice)
        raise CheckpointError(f"{path} is not a safetensors file, or it is damaged or cut off: it has {size} bytes; "
                              f"{printable(error)}; {advice}") from error
    except Exception as error:                    # from torch: a shape that it cannot have; out of addresses
        raise CheckpointError(f"{path} cannot be read: {printable(error)}") from error


def read_shapes(path):
    """{key: meta tensor}, from the header alone. (To make a tensor that it maps, the library looks at the first value.)"""
    file, tensors = safe_open(path, "pt"), {}
    for key in file.keys():
        of = file.get_slice(key)
        if of.get_dtype() not in DTYPES:
            raise TypeError(f"{printable(key)} is of type {of.get_dtype()}, known are {', '.join(DTYPES)}")
        tensors[key] = torch.empty(of.get_shape(), dtype=DTYPES[of.get_dtype()], device="meta")
    return tensors


def map_tensors(path):
    """All tensors of a .safetensors file: {key: tensor}. Writing to one does not reach the file.

    The file is mapped anew for each run of tensors. A mapping goes when its last tensor does, so that whoever converts the
    tensors one by one, and drops them, never holds the whole file beside the result.
    """
    file = safe_open(path, "pt")
    longest = max(os.path.getsize(path) / MAPPINGS, SMALLEST_RUN)
    tensors, run = {}, 0
    for key in file.keys():
        if run >= longest:
            file, run = safe_open(path, "pt"), 0
        tensors[key] = file.get_tensor(key)
        run += tensors[key].nbytes
    return tensors


# -------------------------------------------------------------------------------------------------------------- pickles

def load_pickle(path, device="cpu"):
    """What torch.save has put into a file: tensors in containers. Code in it is refused, not run."""
    open_file(path).close()
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:                    # damaged, not from torch, or with code in it: many kinds of exception
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a plain file of tensors ({why}); use a .safetensors file") from error


def unpickle(path, device="cpu"):
    """The tensors of a file of torch.save, on their own or under "state_dict"."""
    state = load_pickle(path, device)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) and is_plain(t, device) for key, t in state.items()):
        raise CheckpointError(f"{path} is not a plain file of tensors, but holds other things too; use a .safetensors file")
    return {key: tensor.detach() for key, tensor in state.items()}


def is_plain(value, device):
    is_tensor = isinstance(value, torch.Tensor)
    return is_tensor and value.layout == torch.strided and value.device.type == device and not value.is_quantized
