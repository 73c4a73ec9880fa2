"""What is in a toybox picture: its vocabulary, and scenes drawn at random from a seed, as plain data (render.py draws them).

A `Scene` holds every number that the picture depends on, so a scene can be changed in one attribute and drawn again:
that is how before/after pairs and ground truth are made.
"""
from dataclasses import dataclass, field, replace

import numpy as np

from .canvas import Paint
from .furniture import FURNITURE, draw_furniture
from .instruments import INSTRUMENTS, draw_instrument
from .people import HAIR, SKIN, Portrait
from .pets import PETS, draw_pet
from .plants import FRUITS, PLANTS, draw_fruit, draw_plant
from .things import THINGS, draw_moongate, draw_thing

CATEGORIES = {"pet": (PETS, draw_pet), "fruit": (FRUITS, draw_fruit), "plant": (PLANTS, draw_plant),
              "piece of furniture": (FURNITURE, draw_furniture), "instrument": (INSTRUMENTS, draw_instrument),
              "thing": (THINGS, draw_thing)}
MEMBERS = {member: category for category, (members, _) in CATEGORIES.items() for member in members}
SPOKEN = [category for category in CATEGORIES if category != "thing"]           # of a mug no caption says that it is a thing
DRAW = {member: CATEGORIES[category][1] for member, category in MEMBERS.items()} | {"moongate": draw_moongate}
DRAW |= {category: draw for category, (_, draw) in CATEGORIES.items()}          # a thing of a category that is no member, see `new_params`
COLORS = {"red": (.86, .12, .13), "yellow": (.97, .83, .12), "green": (.15, .62, .22), "blue": (.14, .34, .88),
          "purple": (.56, .20, .72), "brown": (.47, .28, .13), "white": (.96, .96, .95), "black": (.13, .13, .15)}
PATTERNS = ("plain", "striped", "dotted", "checked")
PLAIN_GROUNDS = {"red": (.93, .52, .50), "yellow": (.97, .91, .60), "green": (.62, .83, .58), "blue": (.56, .74, .95),
                 "purple": (.78, .65, .91), "gray": (.70, .71, .73)}
GROUNDS = (*PLAIN_GROUNDS, "garden", "beach", "room", "snow", "night")
PLACES = ("mountains", "hills", "sea", "desert", "city")
WEATHERS = ("sunny", "cloudy", "rainy", "snowy")
STYLES = ("photo", "watercolor", "sketch")
KINDS = {"portrait": .34, "object": .42, "pair": .13, "landscape": .06, "hand": .05}
NEW = "new"                         # drawn on request only: an object that no word names but that of its category, see `new_params`
# never drawn in training, so that a combination of known words can be tested that no picture has shown
UNSEEN = {("purple", "dog"), ("blue", "apple"), ("yellow", "chair"), ("green", "guitar"), ("red", "turtle"),
          ("black", "tulip"), ("white", "piano"), ("brown", "fish")}


@dataclass
class Thing:
    """One object: a member's drawing parameters, where it stands and how it is painted."""
    member: str                     # or, of something new, its category
    params: dict
    color: str
    paint: Paint
    scale: float = 0.8
    x: float = 0.0
    ground: float = 0.75            # y of its feet
    tilt: float = 0.0
    flip: bool = False
    ornament: tuple = None          # (name, part, rgb), and its half-width if it is not .3; or None


@dataclass
class Scene:
    kind: str
    seed: int                       # of the background's details
    background: str = "gray"
    tint: float = 0.0               # -1 .. 1, lighter or darker backdrop
    style: str = "photo"
    distortion: float = 0.0         # 0 clean .. 1 badly distorted
    portrait: Portrait = None
    things: list = field(default_factory=list)
    place: str = None
    weather: str = None
    fingers: int = 0
    hand: dict = None
    skin: str = None


# ------------------------------------------------------------------------------------------------ drawing a scene at random

def random_scene(rng, kind=None, correlated=True):
    """A scene of `kind`: a key of KINDS or NEW, or their shares {key: share}, None for KINDS itself. correlated: see `random_portrait`."""
    if kind is None or isinstance(kind, dict):
        shares = kind or KINDS
        kind = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    if kind not in (*KINDS, NEW):
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}, {NEW}")
    scene = Scene("object" if kind == NEW else kind, int(rng.integers(1 << 30)), tint=float(rng.uniform(-1, 1)))
    scene.style = str(rng.choice(STYLES, p=(.86, .07, .07)))
    scene.background = str(rng.choice(GROUNDS))
    if kind == "portrait":
        scene.portrait = random_portrait(rng, correlated)
    elif kind == NEW:
        scene.things = [random_new_thing(rng, str(rng.choice(SPOKEN)))]
    elif kind == "object":
        scene.things = [random_thing(rng)]
        if rng.random() < .07:
            scene.distortion = float(rng.uniform(.5, 1))
    elif kind == "pair":
        scene.things = _random_pair(rng)
    elif kind == "landscape":
        scene.place, scene.weather = str(rng.choice(PLACES)), str(rng.choice(WEATHERS))
    elif kind == "hand":
        scene.fingers = 5 if rng.random() < .5 else int(rng.choice((3, 4, 6, 7)))
        scene.skin = str(rng.choice(list(SKIN)))
        scene.hand = {"spread": rng.uniform(.8, 1.2), "length": rng.uniform(.85, 1.15), "width": rng.uniform(.9, 1.1),
                      "tilt": rng.uniform(-.25, .25), "flip": bool(rng.random() < .5), "scale": rng.uniform(.8, .95)}
    return scene


def random_portrait(rng, correlated=True):
    """Everything free, but old people wear glasses, beards and grey hair more often: something to disentangle.

    With correlated False they do not, which is what a measuring instrument should be trained on.
    """
    age = float(rng.random())
    lean = age if correlated else .5
    is_gray = rng.random() < .05 + max(lean - .5, 0) + .15 * (not correlated)
    hair = "gray" if is_gray else str(rng.choice([h for h in HAIR if h != "gray"]))
    return Portrait(
        age=age, smile=float(rng.uniform(-1, 1)), eye_size=float(rng.random()), brow_slant=float(rng.uniform(-1, 1)), hair=hair,
        hair_length=float(rng.random()), skin=str(rng.choice(list(SKIN))), glasses=bool(rng.random() < .15 + .55 * lean),
        beard=bool(rng.random() < .1 + .4 * lean), shirt=COLORS[str(rng.choice(list(COLORS)))], turn=float(rng.uniform(-1, 1)),
        tilt=float(rng.uniform(-.15, .15)), x=float(rng.uniform(-.12, .12)), y=float(rng.uniform(-.06, .08)),
        scale=float(rng.uniform(.88, 1.05)))


def random_thing(rng, member=None, **changes):
    """An object of any member and colour, but never one of the UNSEEN combinations."""
    member = member or str(rng.choice(list(MEMBERS)))
    color = str(rng.choice([c for c in COLORS if (c, member) not in UNSEEN]))
    known, _ = CATEGORIES[MEMBERS[member]]
    thing = Thing(member, jitter(rng, known[member]), color, random_paint(rng, color), scale=float(rng.uniform(.58, .9)),
                  x=float(rng.uniform(-.15, .15)), ground=float(rng.uniform(.72, .86)), tilt=float(rng.uniform(-.1, .1)),
                  flip=bool(rng.random() < .5))
    return replace(thing, **changes)


def random_new_thing(rng, category):
    """An object that no member of the category is like. Its member is the category, of any colour."""
    return replace(random_thing(rng), member=category, params=jitter(rng, new_params(rng, category)))


def new_params(rng, category, least=.6):
    """Drawing parameters of a new member of a category: a mean of two or three known ones, or of each size that of either of two.

    From every known member it is at least `least` away: root mean square of the sizes' differences, each in deviations over the members.
    """
    known, _ = CATEGORIES[category]
    sizes = np.array([list(params.values()) for params in known.values()])
    while True:
        few = rng.permutation(sizes)[:int(rng.integers(2, 4))]
        weights = rng.dirichlet([6.0] * len(few))
        new = weights @ few if rng.random() < .6 else np.where(rng.random(few.shape[1]) < .5, few[0], few[1])
        away = np.sqrt(np.square((sizes - new) / sizes.std(0).clip(1e-3)).mean(1))
        if away.min() > least:
            return dict(zip(next(iter(known.values())), new.tolist()))


def jitter(rng, params, amount=.08):
    """Each number a little larger or smaller; what is absent (0) stays absent."""
    return {k: float(v * np.exp(amount * rng.standard_normal())) for k, v in params.items()}


def random_paint(rng, color):
    pattern = str(rng.choice(PATTERNS, p=(.58, .14, .14, .14)))
    second = COLORS["white"] if color not in ("white", "yellow") else COLORS["black"] if color == "white" else COLORS["red"]
    rgb = tuple(float(np.clip(v + rng.uniform(-.04, .04), 0, 1)) for v in COLORS[color])
    return Paint(rgb, pattern, second)


def _random_pair(rng):
    """Two objects side by side, left one first; sometimes a plant that stands in a pot."""
    size = lambda: float(rng.uniform(.42, .5))
    if rng.random() < .1:
        pot = random_thing(rng, "pot", scale=size(), x=float(rng.uniform(-.1, .1)), ground=.88, tilt=0.0)
        plant = random_thing(rng, str(rng.choice(list(PLANTS))), scale=size() + .05, x=pot.x, tilt=0.0)
        plant.ground = pot.ground - 1.25 * pot.scale
        return [plant, pot]
    left, right = rng.choice(list(MEMBERS), 2, replace=False)
    ground = float(rng.uniform(.6, .85))
    return [random_thing(rng, str(m), scale=size(), x=float(x + rng.uniform(-.04, .04)), ground=ground)
            for m, x in ((left, -.5), (right, .5))]
