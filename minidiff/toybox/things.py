"""Things with parts: houses, vessels, the moon; a moongate; and the ornaments that a part can carry.

Source: minidiff's own design, for papers that add an ornament to one part of a thing (CLiC). Any dict of the sizes in
THING_PLAN can be drawn; missing sizes count as 0. The frame is explained in pieces.py.

    part         sizes: meanings are in THING_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    vessel       height, base, belly, neck, lip: turned on a lathe; opening, rim, handle, band
    house        a vessel with a roof, chimney, door, window
    moon         moon, bite: on its own
    moongate     radius, width, base and stones: their number. It is no member of the category, see individuals.py
"""
import numpy as np

from .canvas import Shape, box, cut, ellipse, line, polygon, ring, union
from .pieces import GROUND, drawn, lathe, members, named, panel, tone

IVORY, STEEL, WOOD, GLASS = (1.0, 0.99, 0.96), (0.45, 0.48, 0.53), (0.48, 0.30, 0.17), (0.70, 0.87, 0.95)

THING_PLAN = {
    "height": "of the vessel, or of the walls",
    "base": "half-width at the ground",
    "belly": "half-width below the middle",
    "neck": "half-width near the top",
    "lip": "half-width at the top",
    "opening": "half the height of the opening, as seen from above",
    "rim": "height of a thick rim",
    "handle": "size of the handle",
    "band": "width of two hoops around the vessel",
    "roof": "height of the roof; it makes a house of the vessel",
    "chimney": "height of the chimney",
    "door": "height of the door",
    "window": "width of the window",
    "moon": "radius of the moon",
    "bite": "radius of what is missing of it",
}

THINGS = members(
    THING_PLAN,
    house=dict(height=0.98, base=0.70, belly=0.70, neck=0.70, lip=0.70, roof=0.80, chimney=0.34, door=0.56, window=0.34),
    mug=dict(height=1.36, base=0.54, belly=0.60, neck=0.60, lip=0.60, opening=0.17, handle=0.44),
    vase=dict(height=1.78, base=0.36, belly=0.80, neck=0.22, lip=0.46, opening=0.12),
    pot=dict(height=1.36, base=0.46, belly=0.58, neck=0.74, lip=0.78, opening=0.17, rim=0.40),
    moon=dict(moon=0.90, bite=0.68),
)

ORNAMENTS = ("star", "heart", "spiral", "bolt", "clover", "crown")


def draw_thing(canvas, p, paint):
    """Draw the thing with the sizes `p` (keys: THING_PLAN), from far to near."""
    p = named(p, THING_PLAN)
    _moon(canvas, p, paint)
    p.height = np.clip(p.height, 0, 1.85)
    if not drawn(p.height):
        return
    p.top = GROUND - p.height
    with canvas.at(x=-0.42 * np.clip(p.handle, 0, 0.6)):        # together with its handle it is in the middle
        _chimney(canvas, p, paint)
        _handle(canvas, p, paint)
        _vessel(canvas, p, paint)
        _roof(canvas, p, paint)
        _door_and_window(canvas, p)


def _moon(canvas, p, paint):
    if not drawn(p.moon):
        return
    m = min(p.moon, 1.0)
    disc, bite = ellipse(0.0, 0.03, m), np.clip(p.bite, 0, 0.85 * m)
    if drawn(bite):
        disc = cut(disc, ellipse(0.62 * m, 0.03 - 0.12 * m, bite))
    canvas.draw(disc, paint, "moon")


def _chimney(canvas, p, paint):
    if drawn(p.chimney) and drawn(p.roof):
        stack = panel(0.26, p.top - p.roof - 0.04, 0.26 + 0.9 * p.chimney, p.top, 0.02)
        canvas.draw(stack, tone(paint.plain(), 0.2), "chimney")


def _handle(canvas, p, paint):
    if drawn(p.handle):
        x, y, h = max(p.belly, 0.05) + 0.04, p.top + 0.5 * p.height, min(p.handle, 0.6)
        canvas.draw(ring(x, y, 0.9 * h, 0.32 * p.height, 0.2), tone(paint, 0.1), "handle")


def _vessel(canvas, p, paint):
    """Turned on a lathe, with hoops, a thick rim and an opening on top."""
    base, belly, neck, lip = np.maximum([p.base, p.belly, p.neck, p.lip], 0.06)
    ys = GROUND - p.height * np.array([1.0, 0.82, 0.54, 0.40, 0.26, 0.0])
    radii = np.array([lip, neck, 0.75 * belly + 0.25 * neck, belly, 0.75 * belly + 0.25 * base, base])
    canvas.draw(lathe(0.0, ys, radii), paint, "wall" if drawn(p.roof) else "body")
    if drawn(p.band):
        for y in GROUND - 0.16 * p.height, GROUND - 0.72 * p.height:
            half = np.interp(y, ys, radii) + 0.03
            canvas.draw(panel(-half, y - p.band / 2, half, y + p.band / 2, 0.05), STEEL, "rim")
    if drawn(p.rim):
        lip += 0.12
        canvas.draw(panel(-lip, p.top - 0.02, lip, p.top + p.rim, 0.08), tone(paint, -0.15), "rim", edge=0.5)
    if drawn(p.opening):
        canvas.draw(ellipse(0, p.top, lip + 0.01, p.opening), tone(paint, -0.2), "rim", shade=0.1)
        inside = ellipse(0, p.top + 0.02, 0.80 * lip, 0.66 * p.opening)
        canvas.draw(inside, tone(paint.plain(), 0.6), "hole", shade=0)


def _roof(canvas, p, paint):
    if drawn(p.roof):
        half = max(p.lip, 0.1) + 0.16
        gable = polygon([(-half, p.top + 0.02), (half, p.top + 0.02), (0, p.top - p.roof)], 0.05)
        canvas.draw(gable, tone(paint.plain(), 0.32), "roof")


def _door_and_window(canvas, p):
    w = max(p.base, 0.1)
    if drawn(p.door):
        d = min(p.door, p.height)
        canvas.draw(panel(-0.72 * w, GROUND - d, -0.72 * w + 0.72 * d, GROUND, 0.1), WOOD, "door", edge=0.5)
    if drawn(p.window):
        s, x, y = p.window / 2, 0.46 * w, GROUND - 0.62 * p.height
        canvas.draw(box(x, y, s + 0.05, s + 0.05, 0.03), IVORY, "window", edge=0.5)
        canvas.draw(box(x, y, s - 0.03, s - 0.03), GLASS, "window", shade=0.3)


def draw_moongate(canvas, p, paint):
    """A round stone gate that one walks through; p: radius, width, base, stones."""
    r, w, base = np.clip(p["radius"], 0.2, 0.8), np.clip(p["width"], 0.1, 0.6), max(p["base"], 0.1)
    y = GROUND - 0.7 * base - r
    canvas.draw(ring(0, y, r, r, w), paint, "gate", edge=0.5)
    turns = np.linspace(0, 2 * np.pi, int(max(p["stones"], 3)) + 1)[:-1] + np.pi / 2
    joints = [line([(np.cos(t) * q, y + np.sin(t) * q) for q in (r - 0.42 * w, r + 0.42 * w)], 0.035) for t in turns]
    canvas.draw(union(*joints), paint.darker(0.5), "gate", shade=0, edge=0)
    canvas.draw(panel(-0.94, GROUND - base, 0.94, GROUND, 0.06), paint.darker(0.2), "base", edge=0.5)


# ------------------------------------------------------------------------------------------------ ornaments

def draw_ornament(canvas, name, x, y, size, rgb):
    """Draw one of ORNAMENTS, of half-width `size`, at (x, y) of the object that carries it."""
    canvas.draw(_ornament(name, x, y, size), rgb, "ornament", shade=0.12)


def _ornament(name, x, y, size):
    at = lambda *points: [(x + size * u, y + size * v) for u, v in points]
    if name == "star":
        return _star(x, y, size)
    if name == "heart":
        halves = [line(at((side * 0.42, -0.32), (0, 0.72)), 0.5 * size, 0.08 * size) for side in (-1, 1)]
        return union(*halves, smooth=0.1 * size)
    if name == "spiral":
        return _spiral(x, y, size)
    if name == "bolt":
        return union(polygon(at((0.1, -1), (0.62, -1), (0.2, 0.12), (-0.62, 0.12))),
                     polygon(at((-0.2, -0.12), (0.62, -0.12), (-0.5, 1))))
    if name == "clover":
        leaves = [ellipse(*point, 0.44 * size) for point in at((-0.42, -0.5), (0.42, -0.5), (-0.42, 0.3), (0.42, 0.3))]
        return union(*leaves, line(at((0, -0.1), (0.12, 0.9)), 0.16 * size))
    if name == "crown":
        tops = ((-0.6, -0.6), (0, -0.9), (0.6, -0.6))
        spikes = [polygon(at((u - 0.36, 0.4), (u + 0.36, 0.4), (1.4 * u, v)), 0.03) for u, v in tops]
        return union(panel(x - 0.95 * size, y + 0.1 * size, x + 0.95 * size, y + 0.75 * size, 0.05), *spikes)
    raise ValueError(f"ornament {name!r}: expected one of {', '.join(ORNAMENTS)}")


def _star(x, y, size):
    tip, notch = np.array([1.0, 0.0]), 0.5 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    across = (notch - tip)[::-1] * (1, -1) / np.hypot(*(notch - tip))

    def distance(px, py):
        r, t = np.hypot(px - x, py - y), np.arctan2(px - x, y - py)
        t = np.abs((t + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)   # all ten half points are alike
        return across[0] * (r * np.cos(t) - size) + across[1] * r * np.sin(t)
    return Shape((x - size, y - size, x + size, y + size), distance)


def _spiral(x, y, size):
    t = np.sqrt(np.linspace(0, 1, 18))                              # evenly spaced along the curve
    turn, r = 3.2 * np.pi * t, 0.80 * size * t
    return line(np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], 1), 0.15 * size, 0.19 * size)
