"""Pairs of pictures that differ in one thing: the same scene, drawn again with that one changed. For visual sliders.

    what         strength -1                         strength 1
    -----------  ----------------------------------  ----------------------------
    eye_size     smallest eyes                       largest eyes                   portraits, none with glasses
    brow_slant   worried brows                       angry brows                    likewise
    smile        sad                                 smiling                        portraits
    hair_length  shortest hair                       longest hair                   portraits
    age          very young                          very old                       portraits
    fingers      a wrong number of them (3 4 6 7)    five                           hands
    distortion   a badly distorted drawing           a clean one                    portraits and objects by turns

Strengths between have the value between (all hair in the first quarter of its range looks equally short); a number of
fingers is wrong or right, and what is not below 0 is undistorted. All are in the style "photo".

    python -m minidiff.toybox.pairs eye_size --n 6 --out DIR       writes DIR/-1/000.png and DIR/1/000.png, ...
"""
import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..images import save
from .captions import NUMBERS, caption
from .world import draw, scene

RANGES = {"eye_size": (0, 1), "brow_slant": (-1, 1), "smile": (-1, 1), "hair_length": (0, 1), "age": (0, 1)}    # of a Portrait
WHAT = (*RANGES, "fingers", "distortion")


@dataclass
class Pairs:
    """The same n scenes at several strengths.

    images: {strength: (n, 3, S, S) in [0, 1]}; prompts: n captions that say nothing of what changes;
    truth: {strength: (n,) float32}, the value that was drawn: of the Portrait's field, the number of fingers, the distortion.
    """
    what: str
    images: dict
    prompts: list
    truth: dict


def pairs(what, n, seed, strengths=(-1, 1), size=64):
    """Draw `n` scenes of `seed` at every strength. Returns Pairs; scene i of a seed is always the same.

    what: a name of WHAT. strengths: numbers in [-1, 1]. size: of the pictures, in pixels.
    """
    if what not in WHAT:
        raise ValueError(f"pairs of {what!r}: expected one of {', '.join(WHAT)}")
    if not len(strengths) or not all(abs(s) <= 1 for s in strengths) or (what == "fingers" and 0 in strengths):
        raise ValueError(f"strengths {' '.join(map(str, strengths)) or '(none)'}: expected numbers from -1 to 1"
                         + (", and none 0, since fingers are wrong or right" if what == "fingers" else ""))
    if n < 1 or size < 8 or seed < 0:
        raise ValueError(f"{n} pairs of {size} pixels, seed {seed}: expected at least 1 pair, 8 pixels and seed 0")
    rngs = [np.random.default_rng((seed, i, 3)) for i in range(n)]          # not the stream that the scene is drawn from
    plain = [unchanged(what, seed, i, rng) for i, rng in enumerate(rngs)]
    scenes = {s: [changed(p, what, s) for p in plain] for s in strengths}
    return Pairs(what, {s: draw(row, size=size).images for s, row in scenes.items()},
                 [neutral_caption(p, what, rng) for p, rng in zip(plain, rngs)],
                 {s: torch.tensor([value(p, what) for p in row], dtype=torch.float32) for s, row in scenes.items()})


def unchanged(what, seed, i, rng):
    """Scene i of a kind that shows `what`: an undistorted photo. A hand has a wrong number of fingers."""
    kind = "hand" if what == "fingers" else "object" if what == "distortion" and i % 2 else "portrait"
    plain, _ = scene(seed, i, kind, correlated=False)
    plain.style, plain.distortion = "photo", 0.0
    if what in ("eye_size", "brow_slant"):
        plain.portrait.glasses = False                                      # their rims hide a part of both
    if what == "fingers":
        plain.fingers = int(rng.choice((3, 4, 6, 7)))
    return plain


def changed(plain, what, strength):
    """A copy of the scene, with `what` at `strength`."""
    if what == "fingers":
        return replace(plain, fingers=5 if strength > 0 else plain.fingers)
    if what == "distortion":
        return replace(plain, distortion=max(0.0, -strength))
    low, high = RANGES[what]
    return replace(plain, portrait=replace(plain.portrait, **{what: low + (high - low) * (strength + 1) / 2}))


def value(drawn, what):
    return getattr(drawn.portrait if what in RANGES else drawn, what)


def neutral_caption(plain, what, rng):
    """A caption without a word for what changes: in the middle of its range, no attribute has one."""
    if what == "fingers":
        return caption(plain, rng).replace(f" with {NUMBERS[plain.fingers]} fingers", "")
    if what == "distortion":
        return caption(changed(plain, what, -1), rng).replace("a distorted drawing", "a drawing")
    return caption(changed(plain, what, 0), rng)


def save_pairs(folder, drawn):
    """Write Pairs as folder/<strength>/<number>.png: a sub-folder for each strength, equal names for the same scene."""
    folder = Path(folder)
    pictures = {folder / f"{s:g}" / f"{i:03d}.png": image for s, row in drawn.images.items() for i, image in enumerate(row)}
    others = sorted(set(folder.glob("*/*")) - set(pictures))
    if others:                                                              # they would be taken for pairs of this kind
        raise ValueError(f"{folder} holds other files, such as {others[0].relative_to(folder)}; choose an empty folder")
    for path, image in pictures.items():
        save(path, image)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minidiff.toybox.pairs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help=", ".join(WHAT))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--n", type=int, default=6, help="number of scenes (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="another number, other scenes (default 0)")
    parser.add_argument("--strengths", type=float, nargs="+", default=[-1.0, 1.0], help="from -1 to 1 (default -1 1)")
    parser.add_argument("--size", type=int, default=64, help="pixels (default 64)")
    args = parser.parse_args(argv)
    try:
        drawn = pairs(args.what, args.n, args.seed, args.strengths, args.size)
        save_pairs(args.out, drawn)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{args.n} scenes at strength {', '.join(f'{s:g}' for s in args.strengths)}: {args.out}; e.g. {drawn.prompts[0]!r}")


if __name__ == "__main__":
    main()
