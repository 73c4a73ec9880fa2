"""Depth and instances of toybox pictures, read off by a small network: what monocular depth and instance segmentation are for photos.

It is trained on renders, whose truth is known, so that it can be used on pictures without: drawn ones, and what a model has sampled.

    python -m minidiff.toybox.maps                      trains it and writes the weights with their scores
    python -m minidiff.toybox.maps --score 770012       the scores of the shipped one on fresh renders

Cost    0.09 GFLOP a picture of 64 pixels; 0.22 M parameters, 0.45 MB.
"""
import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from .. import command
from ..checkpoints import find, from_folder, save_folder, write_atomically
from .meter import check
from .scenes import CATEGORIES, MEMBERS

CLASSES = ("person", "hand", *CATEGORIES)                       # what an instance may be; each has a plane, boundaries have one more
PLANES = len(CLASSES) + 1


class MapReader(nn.Module):
    """pictures (n, 3, S, S) in [0, 1] -> logits of the class of each pixel (n, 1 + classes, S, S), the first one for the background; of
    a boundary between two instances, or one and the background (n, S, S); and depth (n, S, S), 0 near to 1 far."""

    def __init__(self, width=24):
        super().__init__()
        self.config = {"_class_name": "MapReader", "width": width}
        a, b, c = width, 2 * width, 3 * width                                                       # at 32, 16 and 8 pixels
        self.first = nn.Conv2d(12, a, 3, padding=1)                                                 # of squares of 2 x 2 pixels
        self.down = nn.ModuleList([nn.Conv2d(a, b, 4, stride=2, padding=1), nn.Conv2d(b, c, 4, stride=2, padding=1)])
        self.middle = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(2))
        self.up = nn.ModuleList([nn.Conv2d(c, b, 3, padding=1), nn.Conv2d(b, a, 3, padding=1)])
        self.norms = nn.ModuleList(nn.GroupNorm(2, n) for n in (a, b, c, c, c, b, a))
        self.head = nn.Conv2d(a, 4 * (len(CLASSES) + 3), 3, padding=1)

    def forward(self, images):
        norms = iter(self.norms)
        act = lambda x: F.silu(next(norms)(x))
        x, skips = act(self.first(F.pixel_unshuffle(images.to(self.head.weight) * 2 - 1, 2))), []
        for conv in self.down:
            skips.append(x)
            x = act(conv(x))
        for conv in self.middle:
            x = x + act(conv(x))
        for conv in self.up:
            x = act(skips.pop() + conv(F.interpolate(x, scale_factor=2, mode="nearest")))
        out = F.pixel_shuffle(self.head(x), 2)
        return out[:, :-2], out[:, -2], out[:, -1]

    @torch.no_grad()
    def read(self, images):
        """Pictures -> what `planes` takes, (n, 2, S, S) uint8: twice the class of each pixel, plus 1 on a boundary; and depth."""
        classes, boundary, depth = self(images)
        return torch.stack([2 * classes.argmax(dim=1) + (boundary > 0), (depth.clamp(0, 1) * 255).round()], dim=1).to(torch.uint8)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None):
        return from_folder(lambda config: cls(config.get("width", 24)), folder, device, dtype or torch.float32)


def planes(codes):
    """Of codes (n, 2, S, S) uint8: instances (n, 9, S, S), a plane for each of CLASSES and one for boundaries; nearness (n, 1, S, S)."""
    classes = F.one_hot(codes[:, 0].long() // 2, 1 + len(CLASSES))[..., 1:].permute(0, 3, 1, 2)
    return torch.cat([classes, codes[:, :1] % 2], dim=1).float(), 1 - codes[:, 1:].float() / 255


def truth(scenes, instances, depth):
    """The codes of renders, (n, 2, S, S) uint8; scenes: n Scenes, instances (n, S, S), depth (n, 1, S, S) as in a `toybox.Batch`."""
    number = {name: i for i, name in enumerate(CLASSES, 1)}
    codes = []
    for scene, instance, far in zip(scenes, instances.long(), depth):
        names = [MEMBERS.get(t.member, t.member) for t in scene.things] or [{"portrait": "person"}.get(scene.kind, "hand")]
        classes = torch.tensor([0] + [number[name] for name in names])[instance]
        codes.append(torch.stack([2 * classes + boundaries(instance), (far[0].clamp(0, 1) * 255).round().long()]))
    return torch.stack(codes).to(torch.uint8)


def boundaries(instance):
    """Where the pixel to the right or below belongs to another instance, (S, S) -> bool."""
    p = F.pad(instance[None].float(), (0, 1, 0, 1), mode="replicate")[0]
    return (p[:-1, 1:] != p[:-1, :-1]) | (p[1:, :-1] != p[:-1, :-1])


# ------------------------------------------------------------------------------------------------ training

def reader_loss(out, codes):
    """Cross-entropy of the classes and of boundaries, and twice the mean absolute error of depth."""
    classes, boundary, depth = out
    is_boundary, rare = (codes[:, 0] % 2).float(), boundary.new_tensor(4.0)     # one pixel in 20: four times the weight
    return (F.cross_entropy(classes, codes[:, 0].long() // 2) + F.binary_cross_entropy_with_logits(boundary, is_boundary, pos_weight=rare)
            + 2 * (depth - codes[:, 1].float() / 255).abs().mean())


def drawn(seed, start, n):
    """Pictures start .. start + n - 1 of `seed`, (n, 3, 64, 64) uint8, and their codes."""
    from .world import draw, scene
    batch = draw([scene(seed, i)[0] for i in range(start, start + n)])
    return (batch.images * 255).round().byte().numpy(), truth(batch.scenes, batch.instances, batch.depth).numpy()


def prepare(folder, n, seed, chunk=250, workers=None):
    """Draw n pictures and their codes into folder/images_SEED_N.npy and codes_SEED_N.npy, unless they are there; memory-mapped."""
    paths = [Path(folder) / f"{name}_{seed}_{n}.npy" for name in ("images", "codes")]
    if not all(path.is_file() for path in paths):
        starts = range(0, n, chunk)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            parts = pool.map(drawn, [seed] * len(starts), starts, [min(chunk, n - s) for s in starts])
            parts = list(tqdm(parts, total=len(starts), desc="drawing", unit_scale=chunk, unit=" pictures"))
        for path, arrays in zip(paths, zip(*parts)):
            write_atomically(path, lambda p: np.save(p.open("wb"), np.concatenate(arrays)))
    return [np.load(path, mmap_mode="r") for path in paths]


@torch.no_grad()
def score(reader, n=500, seed=0):
    """On n fresh renders: share of the pixels of instances with the right class; mean intersection over union of the classes; F1 of
    boundaries; mean absolute error of depth, of instances."""
    images, codes = map(torch.from_numpy, drawn(seed, 0, n))
    got = torch.cat([reader.read(part.to(reader.head.weight.device).float() / 255).cpu() for part in images.split(64)])
    a, b = got[:, 0] // 2, codes[:, 0] // 2
    ious = [float(((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum()) for k in b.unique()]
    edges, wanted = got[:, 0] % 2 == 1, codes[:, 0] % 2 == 1
    off = (got[:, 1].float() - codes[:, 1].float()).abs() / 255
    return {"class": float((a == b)[b > 0].float().mean()), "mean IoU": sum(ious) / len(ious),
            "boundary F1": float(2 * (edges & wanted).sum() / (edges.sum() + wanted.sum())), "depth error": float(off[b > 0].mean())}


def train(args):
    from .. import devices
    from ..training import Run, main_process_first
    with main_process_first():
        images, codes = prepare(args.out / "maps_store", args.pictures, args.seed)
    torch.manual_seed(args.seed)
    reader = MapReader().to(devices.pick(), memory_format=torch.channels_last)
    run = Run(args.out / "maps", {"reader": reader}, lr=2e-3, steps=args.steps, minutes=args.minutes, batch=args.batch, ema=0.998,
              seed=args.seed, fresh=args.fresh, name="depth and instances")
    for step, generator in run:
        index = torch.randint(len(images), (run.batch,), generator=generator, device=run.device).cpu().numpy()
        x = torch.from_numpy(images[index]).to(run.device, memory_format=torch.channels_last).float() / 255
        x = (x + .05 * torch.rand(len(x), 1, 1, 1, generator=generator, device=run.device)
             * torch.randn(x.shape, generator=generator, device=run.device)).clamp(0, 1)             # sampled pictures are not as clean
        with devices.autocast(run.device):
            out = [o.float() for o in reader(x)]
        run.update(reader_loss(out, torch.from_numpy(codes[index]).to(run.device)))
    if run.rank == 0:
        reader = run.averaged("reader").eval()
        scores = score(reader, seed=args.seed + 1)
        print("\n".join(f"{k:12s} {v:.3f}" for k, v in scores.items()))
        save_folder(reader, {**reader.config, "scores": scores}, args.out / "maps")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox"))
    parser.add_argument("--minutes", type=float, default=20.0, help="stop after this long (whichever of minutes and steps comes first)")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=201)
    parser.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    parser.add_argument("--score", type=int, metavar="SEED", help="train nothing: score the shipped one on fresh renders of this seed")
    args = parser.parse_args(argv)
    check(parser, args)
    command.run(parser.prog, train if args.score is None else print_scores, args)


def print_scores(args):
    print(score(MapReader.from_pretrained(find("toybox") / "maps"), seed=args.score))


if __name__ == "__main__":
    main()
