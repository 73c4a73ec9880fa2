"""A canvas for cartoons: shapes are signed distances, so edges are clean at any resolution and the truth comes along.

World coordinates: x to the right, y down, both in [-1, 1]. A shape is a bounding box and a function that gives each
point its signed distance to the outline (negative inside). Drawing a shape paints its colour, lit from the top left,
and writes which instance and which part each pixel belongs to and how far away it is.
"""
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

PARTS = ("none", "background", "skin", "hair", "eyes", "brows", "mouth", "nose", "beard", "glasses", "shirt", "wrinkles",
         "body", "head", "ears", "legs", "tail", "wing", "fin", "shell", "beak", "fruit", "leaf", "stem", "petals",
         "center", "pot", "trunk", "seat", "back", "cushion", "top", "drawer", "shade", "pole", "base", "mattress",
         "pillow", "door", "wall", "roof", "window", "chimney", "neck", "strings", "hole", "keys", "bell", "tube",
         "handle", "rim", "palm", "fingers", "ornament", "gate", "moon", "face", "garment")
PART_ID = {name: i for i, name in enumerate(PARTS)}


@dataclass(frozen=True)
class Shape:
    """box: (x0, y0, x1, y1) that encloses the shape; distance(x, y) -> signed distance, negative inside."""
    box: tuple
    distance: Callable


@dataclass(frozen=True)
class Paint:
    """A colour in [0, 1]^3, or two colours in a pattern: "plain", "striped", "dotted" or "checked"."""
    rgb: tuple
    pattern: str = "plain"
    second: tuple = (1.0, 1.0, 1.0)
    period: float = 0.42

    def __call__(self, x, y, blur):
        """Colour at the points (x, y) of the object's own frame; `blur` is a pixel's width there. (H, W, 3) or (3,)."""
        rgb = np.asarray(self.rgb, np.float32)
        if self.pattern == "plain":
            return rgb
        u, v = x / self.period, y / self.period
        if self.pattern == "striped":
            edge = (0.25 - np.abs((u + 0.25) % 1 - 0.5)) * self.period
        elif self.pattern == "dotted":
            v = v + 0.5 * np.floor(u)
            edge = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) - 0.3) * self.period
        elif self.pattern == "checked":
            edge = (0.25 - np.abs(u % 1 - 0.5)) * (0.25 - np.abs(v % 1 - 0.5)) * 4 * self.period
        else:
            raise ValueError(f"pattern {self.pattern!r}: expected plain, striped, dotted or checked")
        first = np.clip(0.5 + edge / blur, 0, 1)[..., None]
        return first * rgb + (1 - first) * np.asarray(self.second, np.float32)

    def darker(self, amount=0.25):
        """The same paint, `amount` darker; a negative amount is lighter."""
        scale = lambda c: tuple(v * (1 - amount) if amount > 0 else v - (1 - v) * amount for v in c)
        return replace(self, rgb=scale(self.rgb), second=scale(self.second))

    def plain(self):
        return replace(self, pattern="plain")


# ------------------------------------------------------------------------------------------------ shapes

def _turn(x, y, cx, cy, angle):
    """Points relative to (cx, cy), turned back by `angle`."""
    x, y = x - cx, y - cy
    if not angle:
        return x, y
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def _box(cx, cy, hw, hh, angle):
    if angle:
        c, s = abs(np.cos(angle)), abs(np.sin(angle))
        hw, hh = c * hw + s * hh, s * hw + c * hh
    return cx - hw, cy - hh, cx + hw, cy + hh


def ellipse(cx, cy, rx, ry=None, angle=0.0):
    ry = rx if ry is None else ry

    def distance(x, y):
        x, y = _turn(x, y, cx, cy, angle)
        x, y = x / rx, y / ry
        k = np.sqrt(x * x + y * y) + 1e-6
        x, y = x / rx, y / ry
        return k * (k - 1) / (np.sqrt(x * x + y * y) + 1e-6)    # first order in the distance: exact on the outline
    return Shape(_box(cx, cy, rx, ry, angle), distance)


def box(cx, cy, hw, hh, r=0.0, angle=0.0):
    """A rectangle of half-width hw and half-height hh with corners rounded by r."""
    def distance(x, y):
        x, y = _turn(x, y, cx, cy, angle)
        x, y = np.abs(x) - hw + r, np.abs(y) - hh + r
        return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - r
    return Shape(_box(cx, cy, hw, hh, angle), distance)


def line(points, r0, r1=None):
    """A polyline through `points` [(x, y), ...], of radius r0 at its start and r1 at its end."""
    p = np.asarray(points, np.float32)
    r1 = r0 if r1 is None else r1
    radii = np.linspace(r0, r1, len(p))

    def distance(x, y):
        best = None
        for (ax, ay), (bx, by), ra, rb in zip(p[:-1], p[1:], radii[:-1], radii[1:]):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
            d = np.hypot(x - ax - along * dx, y - ay - along * dy) - (ra + along * (rb - ra))
            best = d if best is None else np.minimum(best, d)
        return best
    (x0, y0), (x1, y1), r = p.min(0), p.max(0), max(r0, r1)
    return Shape((x0 - r, y0 - r, x1 + r, y1 + r), distance)


def curve(start, control, end, r0, r1=None, pieces=6):
    """A quadratic Bezier curve from `start` to `end`, pulled towards `control`."""
    t = np.linspace(0, 1, pieces + 1)[:, None]
    a, b, c = (np.asarray(p, np.float32) for p in (start, control, end))
    return line((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t ** 2 * c, r0, r1)


def polygon(points, r=0.0):
    """A convex polygon, corners in order (either way round), grown by r."""
    p = np.asarray(points, np.float32)
    q = np.roll(p, -1, axis=0)
    n = np.stack([q[:, 1] - p[:, 1], p[:, 0] - q[:, 0]], 1)
    n /= np.linalg.norm(n, axis=1, keepdims=True) + 1e-9
    if (n * (p.mean(0) - p)).sum() > 0:     # normals must point outwards
        n = -n

    def distance(x, y):
        best = None
        for (nx, ny), (px, py) in zip(n, p):
            d = (x - px) * nx + (y - py) * ny
            best = d if best is None else np.maximum(best, d)
        return best - r
    (x0, y0), (x1, y1) = p.min(0), p.max(0)
    return Shape((x0 - r, y0 - r, x1 + r, y1 + r), distance)


def union(*shapes, smooth=0.0):
    """All of the shapes together; `smooth` rounds the places where they meet."""
    def distance(x, y):
        d = shapes[0].distance(x, y)
        for shape in shapes[1:]:
            e = shape.distance(x, y)
            if smooth:
                h = np.maximum(smooth - np.abs(d - e), 0) / smooth
                d = np.minimum(d, e) - h * h * smooth / 4
            else:
                d = np.minimum(d, e)
        return d
    boxes = np.array([s.box for s in shapes])
    return Shape((*(boxes[:, :2].min(0) - smooth / 4), *(boxes[:, 2:].max(0) + smooth / 4)), distance)


def cut(shape, away):
    """`shape` without `away`."""
    return Shape(shape.box, lambda x, y: np.maximum(shape.distance(x, y), -away.distance(x, y)))


def both(shape, other):
    """Where the two shapes overlap."""
    return Shape(shape.box, lambda x, y: np.maximum(shape.distance(x, y), other.distance(x, y)))


def ring(cx, cy, rx, ry, width, angle=0.0):
    outer = ellipse(cx, cy, rx, ry, angle)
    d = outer.distance
    grown = _box(cx, cy, rx + width / 2, ry + width / 2, angle)
    return Shape(grown, lambda x, y: np.abs(d(x, y)) - width / 2)


# ------------------------------------------------------------------------------------------------ canvas

class Canvas:
    """A square picture being drawn, with its ground truth.

    rgb (S, S, 3) float32 in [0, 1]; instance (S, S) uint8, 0 is the background; part (S, S) uint8, an index into
    PARTS; depth (S, S) float32, 0 near to 1 far.
    """

    def __init__(self, size):
        self.size, self.pixel = size, 2 / size
        centers = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1
        self.x, self.y = centers[None, :], centers[:, None]
        self.rgb = np.ones((size, size, 3), np.float32)
        self.instance = np.zeros((size, size), np.uint8)
        self.part = np.full((size, size), PART_ID["background"], np.uint8)
        self.depth = np.ones((size, size), np.float32)
        self.frame = (0.0, 0.0, 1.0, 0.0, 1.0)              # x, y, scale, angle, flip of the object being drawn
        self.current, self.distance_away = 0, 0.9

    @contextmanager
    def at(self, x=0.0, y=0.0, scale=1.0, angle=0.0, flip=False):
        """Inside, coordinates are those of an object standing at (x, y) of the enclosing frame."""
        old = self.frame
        x, y = self._out(x, y)
        self.frame = (x, y, old[2] * scale, old[3] + old[4] * angle, old[4] * (-1 if flip else 1))
        try:
            yield self
        finally:
            self.frame = old

    @contextmanager
    def thing(self, number, depth):
        """Inside, what is drawn belongs to instance `number` at `depth` (0 near to 1 far)."""
        old = self.current, self.distance_away
        self.current, self.distance_away = number, depth
        try:
            yield self
        finally:
            self.current, self.distance_away = old

    def _out(self, x, y):
        """Frame coordinates -> world coordinates."""
        fx, fy, s, a, flip = self.frame
        x, y = x * s * flip, y * s
        return fx + np.cos(a) * x - np.sin(a) * y, fy + np.sin(a) * x + np.cos(a) * y

    def _window(self, shape):
        """The pixels that `shape` may touch, as slices; None if it lies outside the picture."""
        x0, y0, x1, y1 = shape.box
        x, y = self._out(np.array([x0, x1, x0, x1]), np.array([y0, y0, y1, y1]))
        to_index = lambda v: (v + 1) / self.pixel
        i0, i1 = max(int(to_index(y.min())) - 1, 0), min(int(to_index(y.max())) + 2, self.size)
        j0, j1 = max(int(to_index(x.min())) - 1, 0), min(int(to_index(x.max())) + 2, self.size)
        return (slice(i0, i1), slice(j0, j1)) if i0 < i1 and j0 < j1 else None

    def draw(self, shape, paint, part="body", shade=0.22, edge=0.35, alpha=1.0, truth=True):
        """Paint `shape`, given in the current frame.

        paint: a Paint or an (r, g, b). shade: how much lighter the top left is than the bottom right.
        edge: how much darker the outline is. alpha: opacity. truth=False leaves masks and depth alone (for marks
        on a surface that are no part of their own: blush, shine, shadow).
        """
        window = self._window(shape)
        if window is None:
            return
        fx, fy, s, a, flip = self.frame
        wx, wy = self.x[:, window[1]], self.y[window[0]]
        x, y = _turn(wx, wy, fx, fy, a)
        x, y = x * (flip / s), y / s
        d = shape.distance(x, y) * s
        cover = np.clip(0.5 - d / self.pixel, 0, 1)
        paint = paint if isinstance(paint, Paint) else Paint(paint)
        color = paint(x, y, self.pixel / s)
        light = 1.0
        if shade:
            x0, y0, x1, y1 = shape.box
            cx, cy = self._out((x0 + x1) / 2, (y0 + y1) / 2)
            reach = max(x1 - x0, y1 - y0) / 2 * s + 1e-6
            light = 1 - shade * np.clip((0.5 * (wx - cx) + 0.85 * (wy - cy)) / reach, -1, 1)
        if edge:
            light = light * (1 - edge * np.clip(1 + d / 0.035, 0, 1))
        if shade or edge:
            color = np.clip(light[..., None] * color, 0, 1)
        rgb = self.rgb[window]
        rgb += (cover * alpha)[..., None] * (color - rgb)
        if truth:
            inside = cover > 0.5
            self.instance[window][inside] = self.current
            self.part[window][inside] = PART_ID[part]
            self.depth[window][inside] = (self.distance_away - np.minimum(np.maximum(-d, 0), 0.3) * 0.25)[inside]
