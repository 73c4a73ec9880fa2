"""Do pictures show what their captions say? Fresh captions, and the meter's verdict on pictures made for them."""
import numpy as np
import torch

from .captions import caption, ground_words
from .meter import measure
from .scenes import GROUNDS, UNSEEN, random_paint, random_scene, random_thing
from .world import CLASSES, attributes_of, scene


def fresh_captions(n, seed, kind=None):
    """n scenes (photos, undistorted) and a caption of each that says most of what it has words for."""
    scenes = [scene(seed, i, kind)[0] for i in range(n)]
    for s in scenes:
        s.style, s.distortion = "photo", 0.0
    rngs = (np.random.default_rng((seed, i, 2)) for i in range(n))          # not the stream that the scene was drawn from
    return scenes, [caption(s, rng, keep=.8) for s, rng in zip(scenes, rngs)]


def unseen(each, seed):
    """Objects in colours that no training picture shows, `each` of every pair of UNSEEN: scenes (photos), and "a purple dog in a garden"."""
    rng, scenes = np.random.default_rng((seed, 3)), []
    for ground in (GROUNDS[(seed + i) % len(GROUNDS)] for i in range(each)):
        for color, member in sorted(UNSEEN):
            s = random_scene(rng, "object")
            s.things = [random_thing(rng, member, color=color, paint=random_paint(rng, color))]
            s.background, s.style, s.distortion = ground, "photo", 0.0
            scenes.append(s)
    return scenes, [f"a {s.things[0].color} {s.things[0].member} {ground_words(s.background)}" for s in scenes]


def five_fingers(n, seed):
    """n scenes (photos) of hands as they should be, and "a hand with five fingers" n times."""
    scenes, _ = fresh_captions(n, seed, "hand")
    for s in scenes:
        s.fingers = 5
    return scenes, ["a hand with five fingers"] * n


def judge(scenes, captions, images):
    """{what: share of the pictures that show it, of those whose caption says it}; nan where no caption does.

    scenes, captions: as from `fresh_captions`, `unseen` or `five_fingers`. images: (n, 3, S, S) in [0, 1], made for the captions.
    Words count as shown when the meter is on their side of the middle ("old": age above 0.5; "smiling": above 0.2, "sad":
    below -0.1), classes when it names the right one.
    """
    read, truth = measure(images), attributes_of(scenes)
    said = lambda *words: torch.tensor([any(f" {w} " in f" {c.replace(',', ' ')} " for w in words) for c in captions])
    when = lambda condition: torch.tensor([bool(condition(s, c)) for s, c in zip(scenes, captions)])
    kind = lambda name: truth["kind"] == CLASSES["kind"].index(name)
    right = lambda k: read[k] == truth[k]
    portrait, one, two = kind("portrait"), kind("object"), kind("pair")
    names = when(lambda s, c: s.things and all(f" {thing.member}" in c for thing in s.things))
    colors = when(lambda s, c: s.things and all(f" {thing.color} " in c for thing in s.things))
    ground = when(lambda s, c: s.kind != "landscape" and c.endswith(ground_words(s.background)))
    rows = {
        "portrait: is a face": (right("kind"), portrait),
        "portrait: age word": (torch.where(said("young"), read["age"] < .5, read["age"] > .5), portrait & said("young", "old")),
        "portrait: glasses": (right("glasses"), portrait & said("glasses")),
        "portrait: beard": (right("beard"), portrait & said("beard")),
        "portrait: hair colour": (right("hair"), portrait & said(*(f"{h} hair" for h in CLASSES["hair"]))),
        "portrait: smile word": (torch.where(said("smiling"), read["smile"] > .2, read["smile"] < -.1), portrait & said("smiling", "sad")),
        "object: member": (right("member"), one & names),
        "object: colour": (right("color"), one & colors),
        "object: member and colour": (right("member") & right("color"), one & names & colors),
        "object: pattern": (right("pattern"), one & said("striped", "dotted", "checked")),
        "pair: both members": (right("member") & right("member2"), two & names),
        "pair: both colours": (right("color") & right("color2"), two & colors),
        "background": (right("background"), ground & ~two),
        "landscape: weather": (right("weather"), kind("landscape") & said("sunny", "cloudy", "rain", "snow")),
        "hand: fingers": (right("fingers"), kind("hand") & said("fingers")),
    }
    return {k: float(hit[where].double().mean()) for k, (hit, where) in rows.items()}
