"""Musical instruments: a body that may carry anything, or a tube, a frame, or a row of bars.

Source: minidiff's own design. Any dict of the sizes in INSTRUMENT_PLAN can be drawn, so a point between a guitar and a
drum is an instrument too; missing sizes count as 0. The frame is explained in pieces.py.

    part         sizes: meanings are in INSTRUMENT_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    body         body, tall, round, leg; with a waist, a hole and a neck a guitar; with a skin, a rim and sticks a drum
    keys         keys: a band of white and black ones
    brass        tube, bell, valves
    harp         frame, strings
    xylophone    bars, shrink
"""
import numpy as np

from .canvas import Paint, Shape, box, curve, cut, ellipse, line, union
from .pieces import GROUND, drawn, lathe, members, named, panel, tone

CREAM, IVORY, INK = (0.96, 0.93, 0.84), (1.0, 0.99, 0.96), (0.13, 0.11, 0.12)
WOOD, GOLD = (0.48, 0.30, 0.17), (0.98, 0.84, 0.42)

INSTRUMENT_PLAN = {
    "body": "half the body's width",
    "tall": "half its height",
    "round": "0: a box, 1: an ellipse",
    "leg": "length of the legs under it",
    "waist": "half the width of a second, upper belly",
    "hole": "radius of the sound hole",
    "neck": "length of the neck",
    "strings": "on a neck: are there any; in a frame: ten times as many",
    "skin": "half the height of the skin on top, as seen from above",
    "rim": "height of the two hoops that hold it",
    "keys": "length of the keys",
    "tube": "radius of the brass tube",
    "bell": "radius of its bell",
    "valves": "height of its three valves",
    "frame": "radius of the harp's frame",
    "bars": "half the length of the longest of five bars",
    "shrink": "how much shorter the last bar is, 0 .. 0.9",
    "sticks": "length of two drum sticks",
}

INSTRUMENTS = members(
    INSTRUMENT_PLAN,
    guitar=dict(body=0.66, tall=0.46, round=1.0, waist=0.46, hole=0.2, neck=0.76, strings=0.2),
    piano=dict(body=0.86, tall=0.72, round=0.12, leg=0.2, keys=0.38),
    drum=dict(body=0.80, tall=0.54, round=0.10, skin=0.23, rim=0.16, sticks=0.7),
    trumpet=dict(tube=0.12, bell=0.58, valves=0.34),
    harp=dict(frame=0.14, strings=0.5),
    xylophone=dict(bars=0.78, shrink=0.58),
)


def draw_instrument(canvas, p, paint):
    """Draw the musical instrument with the sizes `p` (keys: INSTRUMENT_PLAN), from far to near."""
    p = _placed(named(p, INSTRUMENT_PLAN))
    _harp(canvas, p, paint)
    _bars(canvas, p, paint)
    _body(canvas, p, paint)
    _keyboard(canvas, p, paint)
    _neck(canvas, p, paint)
    _brass(canvas, p, paint)
    _sticks(canvas, p)


def _placed(p):
    """Add to `p` where the body is: low, mid and top."""
    p.body, p.tall, p.skin = np.clip(p.body, 0, 0.95), np.clip(p.tall, 0.05, 0.95), np.clip(p.skin, 0, 0.5)
    p.low = GROUND - np.clip(p.leg, 0, 0.6)
    p.mid, p.top = p.low - p.tall, p.low - 2 * p.tall
    return p


def _body(canvas, p, paint):
    half, tall = p.body, p.tall
    if not drawn(half):
        return
    if drawn(p.leg):
        legs = [panel(x - 0.09, p.low - 0.1, x + 0.09, GROUND, 0.03) for x in (-half + 0.12, half - 0.12)]
        canvas.draw(union(*legs), tone(paint, 0.2), "legs")
    if drawn(p.skin):
        belly = p.low - 0.5 * p.skin                            # a cylinder, seen from above
        main = union(panel(-half, p.top, half, belly, 0), ellipse(0, belly, half, 0.5 * p.skin))
    else:
        c, square, oval = np.clip(p.round, 0, 1), panel(-half, p.top, half, p.low, 0.1), ellipse(0, p.mid, half, tall)
        main = Shape(oval.box, lambda x, y: (1 - c) * square.distance(x, y) + c * oval.distance(x, y))
        if drawn(p.waist):
            main = union(main, ellipse(0, p.top - 0.04, p.waist, 0.72 * p.waist), smooth=0.1)
    canvas.draw(main, paint, "body")
    if drawn(p.hole):
        canvas.draw(ellipse(0, p.mid - 0.55 * tall, p.hole), INK, "hole", shade=0)
        bridge = p.mid + 0.38 * tall
        canvas.draw(panel(-0.24, bridge, 0.24, bridge + 0.12, 0.05), WOOD, "strings")
    if drawn(p.skin):
        _drum_head(canvas, p, paint)


def _drum_head(canvas, p, paint):
    if drawn(p.rim):
        low, r = p.low - 0.5 * p.skin, 0.5 * p.skin
        hoop = cut(ellipse(0, low, p.body + 0.03, r), ellipse(0, low - p.rim, p.body + 0.06, r))
        hoop = cut(hoop, panel(-1, -1, 1, low - p.rim, 0))
        for shape in hoop, ellipse(0, p.top + 0.7 * p.rim, p.body + 0.04, p.skin):
            canvas.draw(shape, tone(paint.plain(), 0.4), "rim", shade=0.1)
    canvas.draw(ellipse(0, p.top, p.body + 0.04, p.skin), CREAM, "top", shade=0.1)


def _keyboard(canvas, p, paint):
    if not drawn(p.keys):
        return
    wide, k = min(max(p.body, 0.5) + 0.08, 0.96), min(p.keys, 0.8)
    high = p.mid - 0.25 * k
    canvas.draw(panel(-wide, high - 0.05, wide, high + k + 0.12, 0.05), tone(paint, 0.25), "base")
    canvas.draw(panel(-wide + 0.1, high, wide - 0.1, high + k, 0.02), IVORY, "keys", shade=0, edge=0.6)
    black = Paint(INK, "striped", IVORY, period=0.272)
    canvas.draw(panel(-wide + 0.13, high + 0.02, wide - 0.13, high + 0.58 * k, 0), black, "keys", shade=0, edge=0)


def _neck(canvas, p, paint):
    if not drawn(p.neck):
        return
    low, high = p.low - 0.45 * p.tall, max(p.top - p.neck, -0.80)
    canvas.draw(panel(-0.10, high, 0.10, low, 0.02), WOOD, "neck", shade=0.1)
    canvas.draw(panel(-0.18, high - 0.16, 0.18, high + 0.12, 0.07), tone(paint.plain(), 0.15), "neck")
    if drawn(p.strings):
        strings = [line([(x, high + 0.14), (x, low)], 0.016) for x in (-0.045, 0.045)]
        canvas.draw(union(*strings), CREAM, "strings", shade=0, edge=0)


def _brass(canvas, p, paint):
    """From left to right: mouthpiece, a straight tube over a bent one, valves, bell."""
    if not drawn(p.tube):
        return
    r, bell, y = min(p.tube, 0.2), np.clip(p.bell, 0, 0.7), 0.38
    loop = box(-0.12, y + 0.2, 0.44, 0.2, 0.19).distance
    bent = Shape((-0.75, y - 0.2, 0.5, y + 0.58), lambda x, v: np.abs(loop(x, v)) - 0.8 * r)
    canvas.draw(bent, tone(paint, 0.2), "tube")
    if drawn(p.valves):
        for x in (-0.36, -0.12, 0.12):
            canvas.draw(panel(x - 0.09, y - p.valves, x + 0.09, y + 0.42, 0.05), tone(paint, 0.08), "keys")
            canvas.draw(box(x, y - p.valves - 0.05, 0.12, 0.07, 0.06), CREAM, "keys")
    canvas.draw(line([(-0.84, y), (0.5, y)], r), paint, "tube", shade=0.15)
    canvas.draw(line([(-0.88, y), (-0.80, y)], r + 0.09, r), paint, "tube")
    if drawn(bell):
        flare = lathe(y, (0.14, 0.52, 0.74, 0.88), (r, 1.5 * r, 0.5 * bell, bell), sideways=True)
        canvas.draw(flare, paint, "bell")
        canvas.draw(ellipse(0.87, y, 0.22 * bell, bell), tone(paint.plain(), 0.35), "bell", shade=0.1)


def _harp(canvas, p, paint):
    """Strings from the curved neck down to the slanting body; a pole in front, a foot below."""
    if not drawn(p.frame):
        return
    r, left, right, high, low = min(p.frame, 0.3), -0.64, 0.72, -0.76, 0.78
    shares = np.linspace(0, 1, int(np.clip(round(10 * p.strings), 0, 9)) + 2)[1:-1]
    strings = [line([(left + s * (right - left), high + 1.4 * s * (1 - s)),
                     (left + s * (right - left), low - 0.9 * s * s)], 0.035) for s in shares]
    if strings:
        canvas.draw(union(*strings), CREAM, "strings", shade=0, edge=0.2)
    canvas.draw(curve((right, -0.50), (0.62, 0.40), (left + 0.12, low), 0.9 * r, 1.3 * r), paint, "body")
    canvas.draw(curve((left, high), (0.1, -0.02), (right, -0.66), 0.85 * r, 1.1 * r), paint, "neck")
    canvas.draw(line([(left, low), (left, high)], 0.85 * r), tone(paint, 0.12), "pole")
    canvas.draw(ellipse(left, high, 1.3 * r), paint, "pole")
    canvas.draw(panel(left - 0.22, low - 0.03, left + 0.70, GROUND, 0.08), tone(paint, 0.25), "base")


def _bars(canvas, p, paint):
    """Five bars across two rails."""
    if not drawn(p.bars):
        return
    tallest, y = min(p.bars, 0.95), 0.20
    shortest = tallest * (1 - np.clip(p.shrink, 0, 0.9))
    for side in (-0.62, 0.62):
        canvas.draw(line([(-0.86, y + side * tallest), (0.86, y + side * shortest)], 0.07), WOOD, "base")
    for x, half in zip(np.linspace(-0.78, 0.78, 5), np.linspace(tallest, shortest, 5)):
        canvas.draw(box(x, y, 0.15, half, 0.07), paint, "keys")


def _sticks(canvas, p):
    """Two drum sticks that meet above the body."""
    if not drawn(p.sticks):
        return
    size, y = min(p.sticks, 1.0), min(p.top, 0.25) if drawn(p.body) else 0.25
    for side in (-1, 1):
        tip = (side * 0.22, y - 0.04)
        grip = (tip[0] + side * 0.8 * size, tip[1] - 0.85 * size)
        canvas.draw(line([grip, tip], 0.055), WOOD, "handle", shade=0)
        canvas.draw(ellipse(*tip, 0.13), GOLD, "handle")
