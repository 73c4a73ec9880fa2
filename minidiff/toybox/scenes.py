"""What a toybox picture is made of: scenes are drawn from a seed, described as plain data, and rendered at any size.

A `Scene` holds every number that the picture depends on, so a scene can be changed in one attribute and drawn again:
that is how before/after pairs and ground truth are made.
"""
from dataclasses import dataclass, field, replace

import numpy as np

from .canvas import PART_ID, Canvas, Paint, ellipse, line, polygon
from .furniture import FURNITURE, draw_furniture
from .hands import draw_hand
from .instruments import INSTRUMENTS, draw_instrument
from .people import HAIR, SKIN, Portrait, draw_portrait
from .pets import PETS, draw_pet
from .plants import FRUITS, PLANTS, draw_fruit, draw_plant
from .things import THINGS, draw_moongate, draw_ornament, draw_thing

CATEGORIES = {"pet": (PETS, draw_pet), "fruit": (FRUITS, draw_fruit), "plant": (PLANTS, draw_plant),
              "piece of furniture": (FURNITURE, draw_furniture), "instrument": (INSTRUMENTS, draw_instrument),
              "thing": (THINGS, draw_thing)}
MEMBERS = {member: category for category, (members, _) in CATEGORIES.items() for member in members}
DRAW = {member: CATEGORIES[category][1] for member, category in MEMBERS.items()} | {"moongate": draw_moongate}
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
# never drawn in training, so that a combination of known words can be tested that no picture has shown
UNSEEN = {("purple", "dog"), ("blue", "apple"), ("yellow", "chair"), ("green", "guitar"), ("red", "turtle"),
          ("black", "tulip"), ("white", "piano"), ("brown", "fish")}


@dataclass
class Thing:
    """One object: a member's drawing parameters, where it stands and how it is painted."""
    member: str
    params: dict
    color: str
    paint: Paint
    scale: float = 0.8
    x: float = 0.0
    ground: float = 0.75            # y of its feet
    tilt: float = 0.0
    flip: bool = False
    ornament: tuple = None          # (name, part, rgb) or None


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
    """A scene of `kind` (a key of KINDS; None: any, in their training proportions). correlated: see `random_portrait`."""
    if kind is None:
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    scene = Scene(kind, int(rng.integers(1 << 30)), tint=float(rng.uniform(-1, 1)))
    scene.style = str(rng.choice(STYLES, p=(.86, .07, .07)))
    scene.background = str(rng.choice(GROUNDS))
    if kind == "portrait":
        scene.portrait = random_portrait(rng, correlated)
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
    hair = "gray" if rng.random() < .05 + max(lean - .5, 0) + .15 * (not correlated) else str(rng.choice([h for h in HAIR if h != "gray"]))
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
    return [random_thing(rng, str(m), scale=size(), x=float(x + rng.uniform(-.04, .04)), ground=ground) for m, x in ((left, -.5), (right, .5))]


# ------------------------------------------------------------------------------------------------ rendering

def render(scene, size=64):
    """Draw `scene` on a square canvas of `size` pixels. Returns the Canvas: picture, instance and part masks, depth."""
    canvas = Canvas(size)
    rng = np.random.default_rng(scene.seed)
    if scene.kind == "landscape":
        _landscape(canvas, scene, rng)
    else:
        _backdrop(canvas, scene, rng)
    if scene.portrait is not None:
        with canvas.thing(1, .4):
            draw_portrait(canvas, scene.portrait)
    if scene.hand is not None:
        h = scene.hand
        with canvas.thing(1, .4), canvas.at(0, .05, h["scale"], h["tilt"], h["flip"]):
            draw_hand(canvas, scene.fingers, h, SKIN[scene.skin])
    for number, thing in enumerate(scene.things, 1):
        draw_object(canvas, thing, number)
    if scene.distortion:
        _distort(canvas, scene.distortion, rng)
    if scene.style != "photo":
        canvas.rgb = {"watercolor": _watercolor, "sketch": _sketch}[scene.style](canvas.rgb)
    return canvas


def draw_object(canvas, thing, number):
    """One Thing with its shadow, as instance `number`; then its ornament on the part that carries it."""
    canvas.draw(ellipse(thing.x, thing.ground, thing.scale * .8, thing.scale * .13), (.1, .1, .15), shade=0, edge=0, alpha=.3, truth=False)
    with canvas.thing(number, .5), canvas.at(thing.x, thing.ground - .95 * thing.scale, thing.scale, thing.tilt, thing.flip):
        DRAW[thing.member](canvas, thing.params, thing.paint)
    if thing.ornament:
        name, part, rgb = thing.ornament
        rows, columns = np.nonzero((canvas.part == PART_ID[part]) & (canvas.instance == number))
        if len(rows):
            to_world = lambda index: (index.mean() + .5) * canvas.pixel - 1
            with canvas.thing(number, .4):
                draw_ornament(canvas, name, to_world(columns), to_world(rows), .3 * thing.scale, rgb)


def _backdrop(canvas, scene, rng):
    """Behind portraits, objects and hands: a plain colour or a simple place."""
    tint = 1 + .06 * scene.tint
    color = lambda *rgb: np.clip(np.array(rgb) * tint, 0, 1)
    if scene.background in PLAIN_GROUNDS:
        rgb = np.array(PLAIN_GROUNDS[scene.background]) * tint
        fall = (1.04 - .10 * (canvas.y + 1) - .03 * scene.tint * canvas.x)[..., None]
        canvas.rgb[:] = np.clip(rgb * fall, 0, 1)
        return
    horizon = float(rng.uniform(.05, .35))
    sky, ground = {"garden": (color(.55, .80, .97), color(.42, .70, .28)), "beach": (color(.50, .78, .96), color(.93, .83, .58)),
                   "room": (color(.90, .80, .66), color(.55, .36, .22)), "snow": (color(.72, .80, .90), color(.95, .97, 1.0)),
                   "night": (color(.07, .08, .25), color(.13, .20, .22))}[scene.background]
    _sky_and_ground(canvas, sky, ground, horizon)
    if scene.background == "garden":
        for x in rng.uniform(-1, 1, 4):
            canvas.draw(ellipse(x, horizon - .03, .28, .17), (.22, .52, .20), "background", truth=False)
    elif scene.background == "beach":
        canvas.draw(polygon([(-1.1, horizon - .22), (1.1, horizon - .22), (1.1, horizon), (-1.1, horizon)]), (.16, .48, .78),
                    shade=0, edge=0, truth=False)
    elif scene.background == "room":
        x = float(rng.choice((-.6, .6)))
        canvas.draw(polygon([(x - .28, -.85), (x + .28, -.85), (x + .28, -.3), (x - .28, -.3)]), (.70, .86, .97), truth=False)
    elif scene.background == "snow":
        for x, y in zip(rng.uniform(-1, 1, 10), rng.uniform(-1, horizon, 10)):
            canvas.draw(ellipse(x, y, .045), (1, 1, 1), shade=0, edge=0, truth=False)
    elif scene.background == "night":
        canvas.draw(ellipse(float(rng.choice((-.7, .7))), -.7, .16), (.98, .95, .75), shade=0, edge=.1, truth=False)
        for x, y in zip(rng.uniform(-1, 1, 7), rng.uniform(-1, horizon - .2, 7)):
            canvas.draw(ellipse(x, y, .035), (.95, .95, .85), shade=0, edge=0, truth=False)


def _sky_and_ground(canvas, sky, ground, horizon):
    """Two colour gradients that meet at `horizon`; the ground comes nearer towards the bottom."""
    below = np.clip((canvas.y - horizon) / canvas.pixel + .5, 0, 1)
    sky = np.asarray(sky) * (1 - .12 * (canvas.y - horizon))[..., None]
    ground = np.asarray(ground) * (1.08 - .2 * (canvas.y - horizon))[..., None]
    canvas.rgb[:] = np.clip(sky + below[..., None] * (ground - sky), 0, 1)
    canvas.depth[:] = 1 - .5 * np.clip((canvas.y - horizon) / (1 - horizon), 0, 1)


def _landscape(canvas, scene, rng):
    """A place in a weather."""
    gray = {"sunny": 0.0, "cloudy": .55, "rainy": .8, "snowy": .5}[scene.weather]
    dim = lambda rgb: tuple(np.array(rgb) * (1 - .3 * gray) * (1 - .5 * gray) + .5 * gray * .45)
    white = scene.weather == "snowy"
    horizon = float(rng.uniform(-.05, .25))
    ground = {"mountains": (.40, .62, .30), "hills": (.45, .72, .30), "sea": (.10, .42, .72), "desert": (.90, .72, .42),
              "city": (.45, .45, .47)}[scene.place]
    ground = (.93, .95, .98) if white and scene.place != "sea" else dim(ground)
    _sky_and_ground(canvas, (.40, .70, .98) if gray == 0 else (.62, .65, .70) if not white else (.78, .82, .88), ground, horizon)
    with canvas.thing(1, .9):
        _landmarks(canvas, scene.place, dim, white, horizon, rng)
    _weather(canvas, scene.weather, rng)


def _landmarks(canvas, place, dim, white, horizon, rng):
    if place == "mountains":
        for x in (-.6 + rng.uniform(-.2, .1), .55 + rng.uniform(-.1, .2)):
            h, w = rng.uniform(.7, 1.0), rng.uniform(.55, .75)
            canvas.draw(polygon([(x - w, horizon + .02), (x, horizon - h), (x + w, horizon + .02)]), dim((.45, .42, .48)), "background")
            canvas.draw(polygon([(x - w * .33, horizon - h * .67), (x, horizon - h), (x + w * .33, horizon - h * .67)]), (.97, .98, 1), "background")
    elif place == "hills":
        for x, r in zip(rng.uniform(-1, 1, 3), rng.uniform(.4, .7, 3)):
            canvas.draw(ellipse(x, horizon + .15, r, .42), (.90, .93, .97) if white else dim((.33, .62, .25)), "background")
    elif place == "sea":
        x = rng.uniform(-.4, .4)
        canvas.draw(polygon([(x - .36, horizon + .12), (x + .36, horizon + .12), (x + .22, horizon + .3), (x - .22, horizon + .3)]), dim((.75, .2, .15)), "body")
        canvas.draw(polygon([(x - .04, horizon - .55), (x - .04, horizon + .1), (x + .34, horizon + .1)]), dim((.97, .97, .93)), "wing")
    elif place == "desert":
        for x in (rng.uniform(-.8, -.3), rng.uniform(.3, .8)):
            h = rng.uniform(.4, .6)
            for shape in (line([(x, horizon + .25), (x, horizon + .25 - h)], .08), line([(x, horizon + .1), (x + .2, horizon + .05), (x + .2, horizon - .1)], .06)):
                canvas.draw(shape, dim((.18, .50, .22)), "trunk")
    else:
        for x in np.linspace(-.85, .85, 5) + rng.uniform(-.05, .05, 5):
            h, tone = rng.uniform(.45, 1.0), rng.uniform(.35, .7)
            canvas.draw(polygon([(x - .17, horizon + .05), (x - .17, horizon - h), (x + .17, horizon - h), (x + .17, horizon + .05)]), dim((tone, tone * .9, tone * .95)), "wall")
            for y in np.arange(horizon - h + .14, horizon - .05, .22):
                canvas.draw(polygon([(x - .1, y), (x + .1, y), (x + .1, y + .09), (x - .1, y + .09)]), (.98, .92, .6), "window", shade=0, edge=0)


def _weather(canvas, weather, rng):
    sky = dict(shade=.15, edge=.1, truth=False)
    if weather == "sunny":
        canvas.draw(ellipse(float(rng.uniform(-.75, .75)), -.68, .2), (1, .9, .2), **sky)
    else:
        cloud = {"cloudy": (.93, .94, .96), "rainy": (.38, .40, .45), "snowy": (.88, .90, .94)}[weather]
        for x in (-.6, 0, .6) + rng.uniform(-.15, .15, 3):
            y = rng.uniform(-.85, -.65)
            for dx, r in ((-.2, .17), (.03, .24), (.23, .16)):
                canvas.draw(ellipse(x + dx, y, r * 1.25, r), cloud, **sky)
    if weather == "rainy":
        for x, y in zip(rng.uniform(-1, 1.1, 22), rng.uniform(-.5, .95, 22)):
            canvas.draw(line([(x, y), (x - .08, y + .2)], .022), (.80, .88, 1), shade=0, edge=0, truth=False)
    if weather == "snowy":
        for x, y in zip(rng.uniform(-1, 1, 26), rng.uniform(-.6, 1, 26)):
            canvas.draw(ellipse(x, y, .05), (1, 1, 1), shade=0, edge=0, truth=False)


# ------------------------------------------------------------------------------------------------ styles and flaws

def _blur(rgb, radius):
    """Box blur over (2 radius + 1) squared pixels, edges repeated."""
    for axis in (0, 1):
        pad = [(0, 0)] * rgb.ndim
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(rgb, pad, mode="edge"), axis=axis, dtype=np.float32)
        n, width = rgb.shape[axis], 2 * radius + 1
        rgb = (np.take(total, range(width, n + width), axis) - np.take(total, range(n), axis)) / width
    return rgb


def _watercolor(rgb):
    """Soft, pale, with pigment gathered at the edges of the washes."""
    wash = _blur(rgb, max(1, rgb.shape[0] // 48))
    pigment = np.clip(np.abs(rgb - wash).sum(-1, keepdims=True), 0, .5)
    return np.clip(.22 + .78 * wash - .35 * pigment, 0, 1).astype(np.float32)


def _sketch(rgb):
    """Pencil: dark where the brightness changes, faint hatching for the rest."""
    gray = rgb @ np.array([.3, .59, .11], np.float32)
    step = max(1, rgb.shape[0] // 64)
    dx, dy = gray - np.roll(gray, step, 1), gray - np.roll(gray, step, 0)
    dx[:, :step], dy[:step] = 0, 0
    pencil = .97 - .30 * (1 - gray) - 1.6 * np.clip(np.hypot(dx, dy), 0, .45)
    return np.repeat(np.clip(pencil, 0, 1)[..., None], 3, -1).astype(np.float32)


def _distort(canvas, amount, rng):
    """Bend the drawing as if seen through a bad lens; masks and depth bend with it."""
    (fx, fy), (px, py) = rng.uniform(3, 5, 2), rng.uniform(0, 6.28, 2)
    x = canvas.x + amount * .13 * np.sin(fy * 1.7 * canvas.y + py)
    y = canvas.y + amount * .13 * np.sin(fx * 1.7 * canvas.x + px)
    index = lambda v: np.clip(((v + 1) / canvas.pixel).astype(int), 0, canvas.size - 1)
    i, j = index(y), index(x)
    canvas.rgb, canvas.instance, canvas.part, canvas.depth = (a[i, j] for a in (canvas.rgb, canvas.instance, canvas.part, canvas.depth))
    canvas.rgb = _blur(canvas.rgb, max(1, canvas.size // 64))
