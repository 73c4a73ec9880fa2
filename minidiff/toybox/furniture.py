"""Furniture: a slab that may have anything above and below it.

Source: minidiff's own design. Any dict of the sizes in FURNITURE_PLAN can be drawn, so a point between a chair and a
sofa is a seat too; missing sizes count as 0. The frame is explained in pieces.py.

    part         sizes: meanings are in FURNITURE_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    slab         seat, width, thick; depth and skew shape its upper side as seen from above
    below it     leg, splay; or a box: closed, drawer, door
    above it     back, gap, arm, cushion; or a bed: mattress, pillow, head; or a lamp: pole, shade
"""
import numpy as np

from .canvas import box, ellipse, line, polygon, union
from .pieces import GROUND, drawn, members, named, panel, tone

IVORY, GLOW, GOLD = (1.0, 0.99, 0.96), (1.0, 0.93, 0.62), (0.98, 0.84, 0.42)

FURNITURE_PLAN = {
    "seat": "height of the slab's upper edge above the ground",
    "width": "half the slab's width",
    "thick": "its thickness",
    "depth": "how much of its upper side shows",
    "skew": "how far the far edge is shifted to the right",
    "leg": "radius of the four legs",
    "splay": "how far their feet stand out",
    "closed": "share of the room below that a box fills, 0 .. 1",
    "drawer": "height of a drawer: in the box, or in a thick slab",
    "door": "share of the rest of the box that two doors take",
    "back": "height of the back",
    "gap": "height of the gap under the back, with two posts",
    "arm": "height of the arms",
    "cushion": "thickness of the cushions",
    "mattress": "thickness of the mattress",
    "pillow": "size of the pillow on it",
    "head": "height of the head board; the foot board is lower",
    "pole": "length of the pole",
    "shade": "size of the lamp shade on it",
}

FURNITURE = members(
    FURNITURE_PLAN,
    chair=dict(seat=0.80, width=0.60, thick=0.17, depth=0.28, skew=0.16, leg=0.10, back=0.84, gap=0.28),
    table=dict(seat=1.22, width=0.90, thick=0.18, depth=0.34, leg=0.10),
    bed=dict(seat=0.52, width=0.94, thick=0.26, leg=0.10, mattress=0.44, pillow=0.28, head=1.0),
    lamp=dict(seat=0.14, width=0.42, thick=0.14, depth=0.14, pole=0.88, shade=0.90),
    sofa=dict(seat=0.58, width=0.92, thick=0.40, depth=0.06, leg=0.10, back=0.66, arm=0.30, cushion=0.24),
    cabinet=dict(seat=1.72, width=0.64, thick=0.14, depth=0.14, leg=0.10, closed=0.88, drawer=0.28, door=0.95),
)


def draw_furniture(canvas, p, paint):
    """Draw the piece of furniture with the sizes `p` (keys: FURNITURE_PLAN), from far to near."""
    p = _placed(named(p, FURNITURE_PLAN))
    _legs(canvas, p, paint)
    _closed(canvas, p, paint)
    _back(canvas, p, paint)
    _slab(canvas, p, paint)
    _bedding(canvas, p, paint)
    _cushions(canvas, p, paint)
    _sides(canvas, p, paint)
    _lamp(canvas, p, paint)


def _placed(p):
    """Add to `p` where the slab is: top, its upper edge; low, its lower one; far, the height and the ends of its far edge."""
    p.width, p.top = np.clip(p.width, 0.15, 0.97), GROUND - np.clip(p.seat, 0.1, 1.85)
    p.low = min(p.top + max(p.thick, 0.06), GROUND)
    p.depth = max(p.depth, 0.0)
    p.far = p.top - p.depth
    p.far_ends = p.skew - 0.86 * p.width, p.skew + 0.86 * p.width
    return p


def _legs(canvas, p, paint):
    r = min(p.leg, 0.2)
    if not drawn(r) or p.low >= GROUND - 0.05:
        return
    foot = GROUND - r
    if drawn(p.depth):                                          # two far legs show
        for side, end in zip((-1, 1), p.far_ends):
            leg = line([(end - side * r, p.low - p.depth), (end + side * (p.splay - r), foot - 0.7 * p.depth)], 0.9 * r)
            canvas.draw(leg, tone(paint.plain(), 0.35), "legs", shade=0.1)
    for side in (-1, 1):
        x = p.width - r
        canvas.draw(line([(side * x, p.low - r), (side * (x + p.splay), foot)], r), tone(paint, 0.12), "legs", shade=0.1)


def _closed(canvas, p, paint):
    """A box under the slab: two doors, and a drawer under them."""
    if not drawn(p.closed):
        return
    w, floor = p.width, p.low + min(p.closed, 1) * (GROUND - p.low)
    canvas.draw(panel(-w, p.low - 0.1, w, floor, 0.04), paint, "wall")
    drawer = floor - 0.06 - max(p.drawer, 0)
    if drawn(p.door):
        end = p.low + 0.05 + min(p.door, 1) * (drawer - p.low - 0.08)
        _front(canvas, paint, -w + 0.07, p.low + 0.05, -0.02, end, 0.16, "door")
        _front(canvas, paint, 0.02, p.low + 0.05, w - 0.07, end, -0.16, "door")
    if drawn(p.drawer):
        _front(canvas, paint, -w + 0.07, drawer + 0.03, w - 0.07, floor - 0.06, 0.0, "drawer")


def _front(canvas, paint, x0, y0, x1, y1, knob, part):
    """A drawer or a door with a knob: in its middle, or `knob` away from its right (+) or left (-) edge."""
    canvas.draw(panel(x0, y0, x1, y1, 0.05), tone(paint, 0.18), part, shade=0.15, edge=0.5)
    x = x1 - knob if knob > 0 else x0 - knob if knob < 0 else (x0 + x1) / 2
    canvas.draw(ellipse(x, (y0 + y1) / 2, 0.085), GOLD, part)


def _back(canvas, p, paint):
    if not drawn(p.back):
        return
    (left, right), low = p.far_ends, p.far
    high = max(low - p.back, -0.97)
    gap = np.clip(p.gap, 0, 0.8 * p.back)
    if drawn(gap):
        posts = [line([(x, low + 0.05), (x, high + 0.15)], 0.08) for x in (left + 0.08, right - 0.08)]
        canvas.draw(union(*posts), tone(paint, 0.12), "back", shade=0.1)
    canvas.draw(panel(left, high, right, low - gap + (0 if drawn(gap) else 0.05), 0.16), paint, "back")


def _slab(canvas, p, paint):
    """Its upper side, its front, and a drawer if it is thick enough."""
    w, (left, right), seat = p.width, p.far_ends, drawn(p.back)
    if drawn(p.depth):
        corners = [(-w, p.top + 0.04), (w, p.top + 0.04), (right, p.far), (left, p.far)]
        canvas.draw(polygon(corners, 0.02), tone(paint, -0.25), "seat" if seat else "top", shade=0.1)
    part = "seat" if seat else "base" if drawn(p.pole) else "top"
    canvas.draw(panel(-w - 0.02, p.top, w + 0.02, p.low, 0.07), paint, part, shade=0.12)
    if drawn(p.drawer) and not drawn(p.closed) and p.low - p.top > 0.25:
        _front(canvas, paint, -0.5 * w, p.top + 0.07, 0.5 * w, p.low - 0.07, 0.0, "drawer")


def _bedding(canvas, p, paint):
    if not drawn(p.mattress):
        return
    w, high, h = p.width, p.top - p.mattress, p.pillow
    canvas.draw(panel(-w + 0.04, high, w - 0.04, p.top + 0.03, 0.1), IVORY, "mattress", shade=0.1)
    if drawn(h):
        canvas.draw(box(-0.54 * w, high - 0.4 * h, 1.1 * h, 0.7 * h, 0.6 * h, angle=-0.12), IVORY, "pillow")
    blanket = panel(-0.30 * w, high - 0.07, w, p.top + 0.10, 0.14)
    canvas.draw(blanket, tone(paint, -0.12), "mattress", shade=0.12)


def _cushions(canvas, p, paint):
    """One, or two on a wide seat."""
    if not drawn(p.cushion):
        return
    inner, c = p.width - (0.20 if drawn(p.arm) else 0.06), p.cushion
    for x0, x1 in [(-inner, 0.0), (0.0, inner)] if p.width > 0.72 else [(-inner, inner)]:
        canvas.draw(panel(x0, p.top - 0.75 * c, x1, p.top + 0.45 * c, 0.1), tone(paint, -0.3), "cushion", edge=0.6)


def _sides(canvas, p, paint):
    """Arms, and the boards at the head and the foot of a bed."""
    if drawn(p.arm):
        for side in (-1, 1):
            x = side * (p.width - 0.10)
            canvas.draw(panel(x - 0.15, p.top - p.arm, x + 0.15, p.low + 0.02, 0.15), tone(paint, 0.1), "base")
    if drawn(p.head):
        for x, height in ((-p.width + 0.09, p.head), (p.width - 0.09, 0.42 * p.head)):
            canvas.draw(panel(x - 0.11, p.top - height, x + 0.11, GROUND, 0.11), tone(paint, 0.15), "back")


def _lamp(canvas, p, paint):
    """A pole in the middle of the slab, and its shade."""
    if not drawn(p.pole):
        return
    foot, s = p.top - p.depth / 2, np.clip(p.shade, 0, 0.95)
    high = max(foot - p.pole, -0.9)
    canvas.draw(line([(0, foot), (0, high)], 0.09), tone(paint.plain(), 0.15), "pole")
    if drawn(s):
        top = max(high - 0.95 * s + 0.1, -0.97)
        corners = [(-0.80 * s, high + 0.06), (0.80 * s, high + 0.06), (0.42 * s, top), (-0.42 * s, top)]
        canvas.draw(ellipse(0, high + 0.07, 0.80 * s, 0.12 * s + 0.03), GLOW, "shade", shade=0)
        canvas.draw(polygon(corners, 0.02), paint, "shade")
