"""Batches of toybox: pictures, captions and the truth about them, by seed."""
from dataclasses import dataclass, replace

import numpy as np
import torch

from .canvas import Paint
from .captions import caption, ground_words, with_article
from .individuals import HELD_OUT
from .people import HAIR, SKIN
from .render import render
from .scenes import (CATEGORIES, COLORS, GROUNDS, MEMBERS, PATTERNS, PLACES, PLAIN_GROUNDS, STYLES, WEATHERS, jitter, new_params, random_scene,
                     random_thing)

KIND_NAMES = ("portrait", "object", "pair", "landscape", "hand")
# What can be read off a picture. Classes: the index of the name; numbers: the value. Absent: -1 for classes, nan for numbers.
CLASSES = {"kind": KIND_NAMES, "background": GROUNDS, "style": STYLES, "hair": tuple(HAIR), "skin": tuple(SKIN),
           "glasses": ("no", "yes"), "beard": ("no", "yes"), "member": tuple(MEMBERS), "color": tuple(COLORS), "pattern": PATTERNS,
           "member2": tuple(MEMBERS), "color2": tuple(COLORS), "place": PLACES, "weather": WEATHERS,
           "fingers": ("3", "4", "5", "6", "7"), "distorted": ("no", "yes")}
NUMBERS = ("age", "smile", "eye_size", "brow_slant", "hair_length", "size")


@dataclass
class Batch:
    """n pictures and their truth.

    images (n, 3, S, S) float32 in [0, 1]; captions: n strings; attributes: {name: (n,) tensor}, names and codes in CLASSES
    and NUMBERS; instances (n, S, S) uint8, 0 is background; parts (n, S, S) uint8, indices into canvas.PARTS;
    depth (n, 1, S, S) float32, 0 near to 1 far; scenes: the Scene of each picture.
    """
    images: torch.Tensor
    captions: list
    attributes: dict
    instances: torch.Tensor
    parts: torch.Tensor
    depth: torch.Tensor
    scenes: list


def scene(seed, index=0, kind=None, correlated=True):
    """Scene number `index` of `seed`, and its caption. It does not depend on how many others are drawn."""
    rng = np.random.default_rng((seed, index))
    drawn = random_scene(rng, kind, correlated)
    return drawn, caption(drawn, rng)


def sample(n, seed, kind=None, size=64, correlated=True):
    """Draw `n` pictures of `size` pixels with their truth: picture i of a seed is always the same. Returns a Batch.

    kind: portrait, object, pair, landscape, hand, or new for an object that has no name; None: the first five, in their training
    proportions. correlated=False: glasses, beards and grey hair are as common among the young as among the old.
    """
    pairs = [scene(seed, i, kind, correlated) for i in range(n)]
    return draw([s for s, _ in pairs], [c for _, c in pairs], size)


def of_class(word, n, seed=0, size=64):
    """`n` photos of ordinary members of a class, or of people, in different poses and places. Returns a Batch.

    word: one of `scenes.MEMBERS`, such as cat, or person. Every other caption is one of training, "a striped red cat in a garden"; the
    others say nothing but the class and the place, whatever the picture shows: "a cat in a garden".
    """
    if word not in (*MEMBERS, "person"):
        raise ValueError(f"toybox draws no {word!r}, only person, {', '.join(MEMBERS)}")
    rng, scenes = np.random.default_rng((seed, 200)), []
    for _ in range(n):
        s = random_scene(rng, "portrait" if word == "person" else "object")
        s.things = [random_thing(rng, word)] if word in MEMBERS else []
        s.style, s.distortion = "photo", 0.0
        scenes.append(s)
    plain = [f"a {word} {ground_words(s.background)}" for s in scenes]
    return draw(scenes, [caption(s, rng) if i % 2 else plain[i] for i, s in enumerate(scenes)], size)


def new_members(category, n, seed=0, size=64):
    """`n` photos of things of a category, each another one that is no member toybox has a word for. Returns a Batch.

    category: one of `scenes.CATEGORIES`, such as pet. They lie between its members, which share one plan (`scenes.new_params`); captions
    say "a pet in a garden", and there is no member among the attributes.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r}: expected one of {', '.join(CATEGORIES)}")
    rng, scenes = np.random.default_rng((seed, 400)), []
    for _ in range(n):
        s = random_scene(rng, "object")
        s.things = [replace(s.things[0], member=category, params=jitter(rng, new_params(rng, category)))]
        s.style, s.distortion = "photo", 0.0
        scenes.append(s)
    return draw(scenes, [f"{with_article(category)} {ground_words(s.background)}" for s in scenes], size)


SPECIES = {"flower": "sunflower"}                                # what a held-out concept is drawn as, if not under its own name


def held_out(name, n=5, seed=0, size=64):
    """`n` pictures of one particular individual that no training picture shows, in different poses and places.

    name: cat, dog, flower, chair, table, pot or moongate. Captions use the plain class word: "a cat in a garden".
    """
    if name not in HELD_OUT:
        raise ValueError(f"held-out concept {name!r}: expected one of {', '.join(HELD_OUT)}")
    params, paint = HELD_OUT[name]
    rng = np.random.default_rng((seed, len(HELD_OUT)))
    scenes = []
    for _ in range(n):
        s = random_scene(rng, "object")
        pose = s.things[0]
        pose.member, pose.params, pose.color, pose.paint = SPECIES.get(name, name), jitter(rng, params, .02), "none", Paint(**paint)
        s.style, s.distortion = "photo", 0.0
        scenes.append(s)
    return draw(scenes, [f"a {name} {ground_words(s.background)}" for s in scenes], size)


def draw(scenes, captions=None, size=64):
    """Render a list of scenes to a Batch."""
    canvases = [render(s, size) for s in scenes]
    stack = lambda name: torch.from_numpy(np.stack([getattr(c, name) for c in canvases]))
    return Batch(stack("rgb").permute(0, 3, 1, 2).contiguous(), captions or [""] * len(scenes), attributes_of(scenes),
                 stack("instance"), stack("part"), stack("depth")[:, None], scenes)


def attributes_of(scenes):
    """{name: (n,) tensor} of everything in CLASSES and NUMBERS, -1 or nan where a scene has no such thing."""
    rows = [_truth(s) for s in scenes]
    classes = {k: torch.tensor([names.index(str(r[k])) if str(r.get(k)) in names else -1 for r in rows]) for k, names in CLASSES.items()}
    numbers = {k: torch.tensor([r.get(k, float("nan")) for r in rows], dtype=torch.float32) for k in NUMBERS}
    return {**classes, **numbers}


def _truth(s):
    yes = lambda flag: "yes" if flag else "no"
    row = {"kind": s.kind, "style": s.style, "distorted": yes(s.distortion)}
    if s.kind != "landscape":
        row["background"] = s.background
    if s.portrait is not None:
        p = s.portrait
        row |= {"age": p.age, "smile": p.smile, "eye_size": p.eye_size, "brow_slant": p.brow_slant, "hair": p.hair,
                "hair_length": p.hair_length, "skin": p.skin, "glasses": yes(p.glasses), "beard": yes(p.beard)}
    for suffix, thing in zip(("", "2"), s.things):
        row |= {f"member{suffix}": thing.member, f"color{suffix}": thing.color}
    if s.kind == "object":
        row |= {"pattern": s.things[0].paint.pattern, "size": s.things[0].scale}
    if s.kind == "landscape":
        row |= {"place": s.place, "weather": s.weather}
    if s.kind == "hand":
        row |= {"fingers": s.fingers}
    if s.style == "sketch":                                     # grey: no colour can be read off it
        hidden = {"hair", "skin", "color", "color2"} | ({"background"} if s.background in PLAIN_GROUNDS else set())
        row = {k: v for k, v in row.items() if k not in hidden}
    return row
