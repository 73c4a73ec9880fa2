"""A folder of photos, as a store to train from: decoded and cut to squares once, then mapped into memory.

    photos/cat.jpg                      any picture that Pillow reads
    photos/cat.txt                      its captions, one a line; without the file it has none
    photos/cat.depth.png                its depth, if you have it, bright near and dark far, from any depth network, 8 or 16 bits
    photos/cat.instances.png            its instances, if you have them, each class in a colour of its own, the same in all photos

Maps are cut and resized like their photo, whose proportions they must have; instances without mixing their colours. They may end in
any of images.SUFFIXES, but JPEG spoils the colours of instances.
"""
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .checkpoints import write_atomically, write_json
from .images import SUFFIXES, files, load, sides

MAPS = {"depth": 1, "instances": 3}               # channels
WORDINGS = 3


def photos_in(folder):
    """The paths of the photos of a folder: its pictures without the maps that lie beside them. ValueError if there are none."""
    found = [path for path in files(folder) if path.suffixes[-2:-1] not in ([".depth"], [".instances"])]
    if not found:
        raise ValueError(f"no photos in {folder}, only maps")
    return found


def maps_beside(path, size):
    """{name: (channels, size, size) in [0, 1]} of the maps that lie beside a photo; ValueError if one has other proportions."""
    paths = {name: p for name in MAPS if (p := map_beside(path, name)) is not None}
    width, height = sides(path) if paths else (None, None)
    for p in paths.values():
        w, h = sides(p)
        if abs(w * height - h * width) > max(w, h, width, height):                  # more than a pixel, which rounding may cost
            raise ValueError(f"{p} is {w}x{h} pixels and {path} {width}x{height}; a map must have the proportions of its photo")
    return {name: load(p, size, smooth=name != "instances")[:MAPS[name]] for name, p in paths.items()}


def map_beside(path, name):
    """The path of a map of a photo, with whatever suffix of a picture; None if there is none."""
    suffixes = [s for suffix in SUFFIXES for s in (suffix, suffix.upper())]
    return next((p for s in suffixes if (p := Path(path).with_suffix(f".{name}{s}")).is_file()), None)


def captions_beside(path):
    """The lines of the text beside a photo, WORDINGS of them, repeated if there are fewer; empty ones if there is none."""
    text = Path(path).with_suffix(".txt")
    try:
        lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()] if text.is_file() else []
    except ValueError as error:
        raise ValueError(f"{text} is no text in UTF-8") from error
    return [(lines or [""])[i % max(len(lines), 1)] for i in range(WORDINGS)]


def _decoded(path, size):
    to_bytes = lambda x: (x * 255).round().byte().numpy()
    return to_bytes(load(path, size)), {name: to_bytes(x) for name, x in maps_beside(path, size).items()}, captions_beside(path)


def prepare(folder, source, size, workers=None):
    """Decode the photos of `source` into `folder`, unless that is done; returns a Photos.

    Worker processes decode, and what they send is written at once: a million photos need no more memory than a hundred.
    """
    folder, paths = Path(folder), photos_in(source)
    listed = [(str(p), p.stat().st_size, p.stat().st_mtime) for p in sorted(Path(source).iterdir()) if p.is_file()]
    want = {"size": size, "source": hashlib.sha256(json.dumps(listed).encode()).hexdigest()}
    done = folder / "store.json"
    if not (done.is_file() and json.loads(done.read_text()) == want):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (done, *folder.glob("*.npy")):             # also what others computed from the old pictures
            stale.unlink(missing_ok=True)
        create = lambda name, *shape: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (len(paths), *shape))
        arrays = {"images": create("images", 3, size, size), **{name: create(name, n, size, size) for name, n in MAPS.items()}}
        has, captions = {name: create(f"has_{name}") for name in MAPS}, []
        workers = min(workers or os.cpu_count(), len(paths))
        with ProcessPoolExecutor(workers) as pool:
            decoded = pool.map(_decoded, paths, [size] * len(paths), chunksize=max(1, min(64, len(paths) // workers)))
            for i, (image, maps, words) in enumerate(tqdm(decoded, total=len(paths), desc="decoding", unit=" photos")):
                arrays["images"][i] = image
                captions.append(words)
                for name, x in maps.items():
                    arrays[name][i], has[name][i] = x, 1
        for array in (*arrays.values(), *has.values()):
            array.flush()
        write_json(folder / "captions.json", captions)
        write_json(done, want)                                  # last: a store that is not whole has none
    return Photos(folder)


class Photos:
    """The photos in `folder`, mapped into memory."""

    def __init__(self, folder):
        self.folder = Path(folder)
        read = lambda name: np.load(self.folder / f"{name}.npy", mmap_mode="r")
        self.pixels, self.arrays = read("images"), {name: read(name) for name in MAPS}
        self.has = {name: torch.from_numpy(read(f"has_{name}").astype(bool)) for name in MAPS}
        self.captions = json.loads((self.folder / "captions.json").read_text(encoding="utf-8"))

    def __len__(self):
        return len(self.pixels)

    def images(self, index):
        """The photos at `index` (B,), float32 (B, 3, S, S) in [-1, 1]."""
        return torch.from_numpy(self.pixels[index.numpy()]).float() / 127.5 - 1

    def maps(self, index):
        """{name: (B, channels, S, S) in [0, 1]}; 0 where `has` says that there is none."""
        return {name: torch.from_numpy(array[index.numpy()]).float() / 255 for name, array in self.arrays.items()}

    def save(self, path, array):
        """Keep an array that was computed from these pictures beside them."""
        def write(temporary):
            with open(temporary, "wb") as file:                 # a file object: np.save would add .npy to a name
                np.save(file, array)
        write_atomically(path, write)
