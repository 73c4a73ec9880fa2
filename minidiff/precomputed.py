"""What frozen networks make of a store of pictures and captions, computed once and kept beside it.

A store (toybox/store.py, photos.py) has len(), images(index) (B, 3, S, S) in [-1, 1], captions (lists of wordings) and a folder.
Files are named by the weights they were computed with: another CLIP makes another file, and what fits is found again. They are written
batch by batch and mapped into memory, so a store may be larger than memory. What is held there whole: embeddings, 4 E bytes a picture
(3 KB of CLIP ViT-L: 3 GB for a million), and the captions with the numbers of their tokens, 8 bytes for each of L tokens of a wording.
"""
import hashlib

import numpy as np
import torch
from einops import rearrange

from . import devices
from .checkpoints import write_atomically
from .images import clip_pixels


def once(store, name, made_by, compute, dtype=torch.float16, batch=256):
    """compute(index) of all pictures, one batch after the other, in a file beside the store; memory-mapped, (n, ...) NumPy.

    made_by: the tensors that `compute` depends on, besides the pictures; they are part of the file's name.
    """
    return once_of(store, name, made_by, torch.arange(len(store)).split(batch), len(store), compute, dtype)


@torch.no_grad()
def once_of(store, name, made_by, parts, n, compute, dtype=torch.float16):
    """The same of any `parts`, whose rows are n together. Memory holds those of one part."""
    def write(temporary):
        with open(temporary, "wb") as file:
            for i, part in enumerate(parts):
                rows = compute(part).to(dtype).cpu().contiguous().numpy()
                if i == 0:
                    np.lib.format.write_array_header_1_0(file, {"descr": rows.dtype.str, "fortran_order": False, "shape": (n, *rows.shape[1:])})
                file.write(rows.data)
    path = store.folder / f"{name}-{fingerprint(made_by)}.npy"
    if not path.is_file():
        write_atomically(path, write)
    return np.load(path, mmap_mode="r")


def fingerprint(tensors):
    """12 letters and digits that change with any of their values."""
    return hashlib.sha256(b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:12]


@torch.no_grad()
def embed_pictures(tower, x):
    """Embeddings (n, E), projected but not normalised, of pictures (n, 3, H, W) in [0, 1], by the image tower of a CLIP; on the CPU."""
    pixels = clip_pixels(x, tower.config["image_size"]).split(256)
    return torch.cat([tower(part.to(device_of(tower)))[1].float().cpu() for part in pixels])


def device_of(module):
    return next(module.parameters()).device


def embeddings_of_pictures(clip, store):
    """Of every picture, (n, E) float32."""
    compute = lambda index: embed_pictures(clip.image, (store.images(index) + 1) / 2)
    return torch.from_numpy(once(store, "embeddings", clip.state_dict().values(), compute).astype(np.float32))


def latents_of_pictures(vae, store):
    """A function of an index (B,): latents of unit variance, (B, C, h, w)."""
    def compute(index):
        x = store.images(index).to(device_of(vae), memory_format=torch.channels_last)
        with devices.autocast(device_of(vae)):
            return vae.encode(x)[0]
    z = once(store, "latents", vae.encoder.state_dict().values(), compute)
    return lambda index: torch.from_numpy(z[index.numpy()]).float() * vae.config["scaling_factor"]


def captions_as_read(clip, tokenizer, store, captions=None):
    """What CLIP reads in captions: their numbers (n, wordings), that of the empty one, and a function of numbers (B,).

    captions: n lists of equally many wordings, None: those of the store.
    The function returns the captions' embeddings (B, E), states of the text encoder (B, L, D) and which tokens count, (B, L).
    Every caption is encoded once; only the tokens that count are kept, caption after caption, in one array.
    """
    ids = torch.cat([*(tokenizer(words) for words in captions or store.captions), tokenizer([""])])
    ids, index = ids.unique(dim=0, return_inverse=True)
    order = clip.text.counts(ids).sum(dim=1).argsort(stable=True)             # short ones first: batches have little padding
    ids, index = ids[order], order.argsort()[index]
    mask = clip.text.counts(ids)                                              # (captions, L)
    length = mask.sum(dim=1)

    def compute(rows):
        longest = length[rows].max()
        return clip.text(ids[rows, :longest].to(device_of(clip)))[0][mask[rows, :longest]]
    states = once_of(store, "captions", [*clip.state_dict().values(), ids], torch.arange(len(ids)).split(256), int(length.sum()), compute)
    place = (length.cumsum(dim=0) - length)[:, None] + torch.arange(ids.shape[1])       # of token l of each caption in `states`

    @torch.no_grad()
    def told(y):
        y = y.cpu()
        hidden = torch.from_numpy(states[place[y].clamp(max=len(states) - 1).numpy()]).to(device_of(clip)).float()
        last = hidden[torch.arange(len(y)), length[y] - 1]                    # where the caption ends
        return clip.text_projection(last), hidden, mask[y].to(device_of(clip))
    return rearrange(index[:-1], "(n w) -> n w", n=len(store)), index[-1], told
