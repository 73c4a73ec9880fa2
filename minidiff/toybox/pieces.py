"""What the rooms of toybox share: plans and their members, tones of a paint, more shapes, a drawing that fits itself.

A room (pets, plants, furniture, instruments, things) draws each of its categories from one plan: a table of sizes that
all members share, so that a point between two members, or beyond them, can be drawn too. In every room

    frame       x to the right, y down; the object fills about [-0.95, 0.95]^2 and stands on y = GROUND
    size        in units of that frame, angles in radians; a feature whose size is at most 0.05 is left out (`drawn`)
    paint       the colour that a caption names; it covers most of the object, the rest is in tones of it or fixed
"""
from types import SimpleNamespace

import numpy as np

from .canvas import Paint, Shape, box, line, union

GROUND = 0.95


# ------------------------------------------------------------------------------------------------ plans

def members(plan, **known):
    """{name: {every key of the plan: value}}; what a member does not mention is 0."""
    return {name: {key: float(values.get(key, 0.0)) for key in plan} for name, values in known.items()}


def named(p, plan):
    """The values of `p` as attributes; what is missing is 0."""
    return SimpleNamespace(**{key: p.get(key, 0.0) for key in plan})


def clamped(p, plan):
    """The same for a plan {key: (lowest, highest, meaning)}: no value leaves its range."""
    return SimpleNamespace(**{key: min(max(float(p.get(key, 0.0)), low), high) for key, (low, high, _) in plan.items()})


def drawn(size):
    return size > 0.05


# ------------------------------------------------------------------------------------------------ tones of a paint

def is_dark(paint):
    """Is all of the paint nearly black? Then only something lighter shows on it."""
    colors = (paint,) if not isinstance(paint, Paint) else (paint.rgb,) if paint.pattern == "plain" else (paint.rgb, paint.second)
    return max(max(c) for c in colors) < 0.3


def tone(paint, amount=0.25):
    """`paint` darker by `amount`, or lighter where that is negative; near black always lighter, near white darker."""
    if is_dark(paint.plain()):
        return paint.darker(-0.6 * abs(amount))
    return paint.darker(0.5 * abs(amount) if amount < 0 and min(paint.rgb) > 0.8 else amount)


def mark(paint):
    """A plain colour for marks on `paint`."""
    return paint.plain().darker(-0.3 if is_dark(paint.plain()) else 0.4)


# ------------------------------------------------------------------------------------------------ shapes

def panel(x0, y0, x1, y1, r=0.08):
    """A rounded rectangle from its left, upper, right and lower edge."""
    hw, hh = max((x1 - x0) / 2, 0.02), max((y1 - y0) / 2, 0.02)
    return box((x0 + x1) / 2, (y0 + y1) / 2, hw, hh, min(r, hw, hh))


def lathe(middle, ys, radii, sideways=False):
    """A body of revolution around x = middle: half-width radii[i] at ys[i] (rising), a smooth curve in between.

    With sideways, the axis is y = middle and ys are places along x.
    """
    knots = np.linspace(ys[0], ys[-1], 41)
    widths = np.pad(np.interp(knots, ys, np.maximum(radii, 0.02)), 5, mode="reflect", reflect_type="odd")
    widths = np.maximum(np.convolve(widths, np.ones(11) / 11, mode="valid"), 0.02)  # a moving mean rounds the corners

    def distance(x, y):
        x, y = (y, x) if sideways else (x, y)
        across = (np.abs(x - middle) - np.interp(y, knots, widths)) * 0.85
        return np.maximum(across, np.maximum(ys[0] - y, y - ys[-1]))
    r = widths.max()
    x0, y0, x1, y1 = middle - r, ys[0], middle + r, ys[-1]
    return Shape((y0, x0, y1, x1) if sideways else (x0, y0, x1, y1), distance)


def limb(points, r0, r1=None):
    """canvas.line in a box that fits its taper."""
    p, r = np.asarray(points), np.linspace(r0, r0 if r1 is None else r1, len(points))[:, None]
    return Shape((*(p - r).min(0), *(p + r).max(0)), line(points, r0, r1).distance)


def arc(start, control, end, r0, r1):
    """A limb bent towards `control`."""
    t = np.linspace(0, 1, 5)[:, None]
    return limb((1 - t) ** 2 * np.asarray(start) + 2 * t * (1 - t) * np.asarray(control) + t ** 2 * np.asarray(end), r0, r1)


def petal(base, tip, width, tip_width, sag=0.0):
    """A leaf-shaped spindle from `base` to `tip`, widest in the middle; `sag` lets the tip hang."""
    (ax, ay), (bx, by) = base, tip
    middle = ((ax + bx) / 2, (ay + by) / 2)
    return union(limb([base, middle], width * 0.45, width), limb([middle, (bx, by + sag)], width, max(tip_width, 0.02)))


def fan(base, angle, count, spread, length, width, point, droop=0.0):
    """`count` petals around the direction `angle` (0 is up, clockwise), the outermost first."""
    count = max(int(round(count)), 1)
    gap = spread * 2 / max(count - 1 if spread < 2.9 else count, 1)
    for k in sorted(np.arange(count) - (count - 1) / 2, key=lambda k: -abs(k)):
        a = angle + k * gap
        tip = base[0] + length * np.sin(a), base[1] - length * np.cos(a)
        yield petal(base, tip, width, width * (1 - point), droop * length * (0.35 + 0.65 * abs(np.sin(a))))


# ------------------------------------------------------------------------------------------------ a drawing that fits itself

class Drawing(list):
    """Records what is drawn, so that it can be fitted into the frame before it is painted on a canvas."""

    def draw(self, shape, paint, part, **how):
        self.append((shape, paint, part, how))

    def ink(self, shape, paint, part, **how):
        """Draw with an outline that is darker than the paint, or lighter where the paint is nearly black."""
        self.draw(shape, paint, part, edge=-1.6 if is_dark(paint) else 0.42, **how)

    def paint_on(self, canvas, centered=True):
        """Paint the drawing, scaled (enlarged at most 1.3 times) and moved to fill the frame and stand on the ground."""
        boxes = np.array([shape.box for shape, *_ in self])
        (x0, y0), (x1, y1) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        middle = (x0 + x1) / 2 if centered else 0.0
        scale = min(0.95 / max(x1 - middle, middle - x0), 1.9 / (y1 - y0), 1.3)
        with canvas.at(-scale * middle, GROUND - scale * y1, scale):
            for shape, paint, part, how in self:
                canvas.draw(shape, paint, part, **how)
