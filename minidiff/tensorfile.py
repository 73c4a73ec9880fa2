"""Files of tensors: safetensors, read by hand; torch's pickles as a last resort, without running the code in them.

A .safetensors file is 8 bytes with the length of the header, the header, and the data:

    {"conv_in.weight": {"dtype": "F16", "shape": [320, 4, 3, 3], "data_offsets": [0, 23040]}, ...}

Nothing in it is believed before it has been checked. The data are mapped into memory, not read: a file of gigabytes is
open in milliseconds, and only what is used of it takes memory.
"""
import json
import math
import mmap
import os
import stat
import sys
from collections import namedtuple
from pathlib import Path

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LARGEST_JSON = 100_000_000                        # bytes: the limit of the format for its header; real ones have 100 kB
SMALLEST_PIECE = 2 ** 22                          # bytes, see `map_tensors`
# Python before 3.13 keeps a file handle for each mapping, of which macOS allows a process only 256.
NO_HANDLE = {"trackfd": False} if sys.version_info >= (3, 13) and os.name == "posix" else {}

# How files begin that are often mistaken for safetensors.
OTHERS = {b"PK\x03\x04": "a zip, as torch.save writes it", b"\x80": "a pickle", b"version https": "a pointer of Git LFS; "
          "fetch the file itself with `git lfs pull`", b"<": "a web page", b"GGUF": "a GGUF file"}

Entry = namedtuple("Entry", "dtype shape begin end")         # begin, end: the bytes in the file


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model. Says what came, what was expected, what to do."""


def read_tensors(path, device="cpu"):
    """All tensors of a .safetensors file, memory-mapped, or of a .bin, .ckpt, .pt or .pth: {key: tensor}.

    With the device "meta" only their shapes and types, without their values.
    """
    if Path(path).suffix in PICKLES:
        return unpickle(path, device)
    return {key: tensor.to(device) for key, tensor in map_tensors(path).items()}


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

def read_header(path):
    """What a .safetensors file says about itself: {key: Entry} in the order of the data, and its metadata {str: str}."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(16)
        length = int.from_bytes(first[:8], "little")
        if len(first) < 8 or length > min(size - 8, LARGEST_JSON):
            is_it = next((f"; it is {kind}" for start, kind in OTHERS.items() if first.startswith(start)), "")
            raise CheckpointError(f"{path} is not a safetensors file, or it is cut off: it has {size} bytes, and "
                                  f"its first 8 say that its header has {length}{is_it}")
        file.seek(8)
        header = read_json(file.read(length), f"the header of {path}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"the header of {path} is damaged: its __metadata__ is not a dictionary of strings")
    entries = {}
    for key, value in header.items():
        try:
            entries[key] = entry_of(value, 8 + length)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the header of {path} is damaged: {printable(key)} has {printable(error)}") from error
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    check_places(entries, 8 + length, size, path)
    return entries, metadata


def entry_of(value, start):
    """{"dtype": ..., "shape": ..., "data_offsets": ...} -> Entry; `start` is where the data begin."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{value!r}, expected dtype, shape and data_offsets")
    dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"type {dtype!r}, known are {', '.join(DTYPES)}")
    if not all(type(n) is int and 0 <= n < 2 ** 48 for n in (*shape, begin, end)):
        raise ValueError(f"shape {shape}, bytes {begin} to {end}")
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for a {dtype} tensor of shape {shape}")
    return Entry(DTYPES[dtype], tuple(shape), start + begin, start + end)


def check_places(entries, start, size, path):
    """CheckpointError unless the tensors lie one behind the other, from `start` to the end of the file."""
    at = start
    for key, entry in entries.items():
        if entry.begin != at:
            what = "overlaps" if entry.begin < at else "leaves a gap behind"
            raise CheckpointError(f"{path} is damaged: {printable(key)} {what} the tensor before it")
        at = entry.end
    if at != size:
        raise CheckpointError(f"{path} is {'cut off' if at > size else 'damaged'}: it has {size} bytes, expected {at}; "
                              "download or export it again")


def map_tensors(path):
    """All tensors of a .safetensors file: {key: tensor}, in the order of the file.

    The file is mapped in some thirty pieces. A piece goes when its last tensor does, so that whoever converts the tensors
    one by one, and drops them, never holds the whole file beside the result. Writing to a tensor does not reach the file.
    """
    entries, _ = read_header(path)
    tensors = {}
    with open_file(path) as file:
        for piece in pieces(entries):
            begin, end = piece[0][1].begin, piece[-1][1].end
            begin -= begin % mmap.ALLOCATIONGRANULARITY
            try:
                data = b"" if begin == end else mmap.mmap(
                    file.fileno(), end - begin, access=mmap.ACCESS_COPY, offset=begin, **NO_HANDLE)
                tensors |= {key: tensor_at(data, entry, begin) for key, entry in piece}
            except (OSError, ValueError, RuntimeError) as error:       # out of addresses; a shape that torch cannot have
                raise CheckpointError(f"{path} cannot be mapped into memory: {error}") from error
    return tensors


def pieces(entries):
    """[(key, Entry)] in runs of at least a 32nd of the file."""
    run, total = [], sum(entry.end - entry.begin for entry in entries.values())
    for key, entry in entries.items():
        run.append((key, entry))
        if entry.end - run[0][1].begin >= max(total / 32, SMALLEST_PIECE):
            yield run
            run = []
    if run:
        yield run


def tensor_at(data, entry, begin):
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    # Headers of any length make addresses that are no multiple of the number's size. PyTorch computes with those too.
    return torch.frombuffer(data, dtype=entry.dtype, count=count, offset=entry.begin - begin).view(entry.shape)


# -------------------------------------------------------------------------------------------------------------- pickles

def unpickle(path, device="cpu"):
    """The tensors of a file of torch.save, on their own or under "state_dict". Code in it is refused, not run."""
    open_file(path).close()
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:                    # damaged, not from torch, or with code in it: many kinds of exception
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a plain file of tensors ({why}); use a .safetensors file") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) and is_plain(t, device) for key, t in state.items()):
        raise CheckpointError(f"{path} is not a plain file of tensors, but holds other things too; use a .safetensors file")
    return {key: tensor.detach() for key, tensor in state.items()}


def is_plain(value, device):
    is_tensor = isinstance(value, torch.Tensor)
    return is_tensor and value.layout == torch.strided and value.device.type == device and not value.is_quantized
