"""Pictures drawn ahead of training: a folder of memory-mapped arrays, so that drawing never keeps a training step waiting."""
import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints import read_tensors, write_atomically, write_json, write_tensors
from .captions import caption
from .render import render
from .scenes import KINDS, NEW
from .world import attributes_of, scene

CHUNK = 500
CAPTIONS = 3                                                    # wordings of each picture, to say different things about it


def prepare(folder, n, seed=0, workers=None, correlated=True, kinds=None, size=64):
    """Draw `n` pictures of `seed` into `folder`, unless they are there already. Returns a Store.

    kinds: {kind: share}, how often each kind of picture is drawn; None: as in scenes.KINDS. NEW, an object that has no name, may be one.
    size: pixels of a side; the scenes of a seed are the same at every size.

    images.npy (n, 3, S, S) uint8; captions.json: n lists of CAPTIONS strings; attributes.safetensors: the truth.
    """
    folder, want = Path(folder), {"n": n, "seed": seed, "correlated": correlated} | ({"kinds": kinds} if kinds else {})
    want |= {"size": size} if size != 64 else {}
    done = folder / "store.json"
    if not (done.is_file() and json.loads(done.read_text()) == want):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (done, *folder.glob("*.npy")):             # also what others computed from the old pictures
            stale.unlink(missing_ok=True)
        starts = range(0, n, CHUNK)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            sizes, how = [min(CHUNK, n - s) for s in starts], [[x] * len(starts) for x in (seed, correlated, kinds, size)]
            chunks = pool.map(_chunk, starts, sizes, *how)
            chunks = list(tqdm(chunks, total=len(starts), desc="drawing", unit_scale=CHUNK, unit=" pictures"))
        _save_array(folder / "images.npy", np.concatenate([c[0] for c in chunks]))
        write_json(folder / "captions.json", [words for c in chunks for words in c[1]])
        truth = {k: torch.from_numpy(np.concatenate([c[2][k] for c in chunks])) for k in chunks[0][2]}
        write_tensors(folder / "attributes.safetensors", truth)
        write_json(done, want)
    return Store(folder)


def _save_array(path, array):
    def write(temporary):
        with open(temporary, "wb") as f:                        # a file object: np.save would add .npy to a name
            np.save(f, array)
    write_atomically(path, write)


def _chunk(start, n, seed, correlated, kinds, size):
    """Pictures start .. start + n - 1 of `seed`: uint8 images, wordings, attributes."""
    images, words, scenes = np.empty((n, 3, size, size), np.uint8), [], []
    for i in range(n):
        drawn, first = scene(seed, start + i, kinds, correlated)
        rng = np.random.default_rng((seed, start + i, 1))
        images[i] = np.round(render(drawn, size).rgb.transpose(2, 0, 1) * 255)
        words.append([first] + [caption(drawn, rng) for _ in range(CAPTIONS - 1)])
        scenes.append(drawn)
    return images, words, {k: v.numpy() for k, v in attributes_of(scenes).items()}


def kind_shares(text):
    """{kind: share} from "portrait=.3,pair=.7"; argparse makes a sentence of what is raised."""
    try:
        kinds = {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        kinds = {}
    if not kinds or not set(kinds) <= {*KINDS, NEW} or min(kinds.values()) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected KIND=SHARE,... with kinds from {', '.join(KINDS)}, {NEW} and shares above 0")
    return kinds


class Store:
    """The pictures in `folder`, mapped into memory."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.pixels = np.load(self.folder / "images.npy", mmap_mode="r")
        self.captions = json.loads((self.folder / "captions.json").read_text(encoding="utf-8"))

    def __len__(self):
        return len(self.pixels)

    def images(self, index):
        """The pictures at `index` (B,), float32 (B, 3, S, S) in [-1, 1]."""
        return torch.from_numpy(self.pixels[index.numpy()]).float() / 127.5 - 1

    def save(self, path, array):
        """Keep an array that was computed from these pictures beside them."""
        _save_array(path, array)

    def scenes(self, index):
        """What the pictures at `index` (B,) were drawn from: a list of scenes."""
        how = json.loads((self.folder / "store.json").read_text())
        return [scene(how["seed"], int(i), how.get("kinds"), how["correlated"])[0] for i in index]

    def attributes(self):
        """{name: (n,) tensor}: the truth about every picture."""
        return read_tensors(self.folder / "attributes.safetensors")
