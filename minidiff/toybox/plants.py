"""Fruits and plants: two plans, each a continuous space in which every member is one point.

Source: minidiff's own design. Any dict of floats inside a plan's ranges can be drawn; values outside are clamped, missing
keys count as 0, and the finished drawing is fitted into the frame, which pieces.py explains.

    part         parameters: ranges and meanings are in FRUIT_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    flesh        a spine of this length, bend and lie, thickened by top, middle and bottom; dimple. Or beads around it
    skin         seeds, net, ends
    above        stem, leaf, and a crown of leaves: crown, crown_count, crown_spread, crown_width

    part         parameters: ranges and meanings are in PLANT_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    stem         height, stem, lean; wood and pale choose its colour; leaf. Or a thick column with arms
    crown        crown, crown_tall, flat, puffs: the head of a tree or of a mushroom
    flower       petals, petal_count, petal_width, spread, droop, point, center: also the fronds of a palm
"""
import numpy as np

from .canvas import Shape, both, ellipse, union
from .pieces import GROUND, Drawing, arc, clamped, drawn, fan, limb, mark, members, petal

GREEN, WOOD, CREAM = (0.27, 0.60, 0.24), (0.50, 0.34, 0.21), (0.95, 0.88, 0.73)
WHITE, SEED = (0.98, 0.98, 0.96), (0.99, 0.90, 0.50)

# ------------------------------------------------------------------------------------------------ fruits

FRUIT_PLAN = {  # name: (lowest, highest, meaning)
    "length": (0.02, 0.95, "half-length of the spine"),
    "top": (0.06, 0.9, "radius at the top"),
    "middle": (0.06, 0.9, "radius in the middle"),
    "bottom": (0.06, 0.9, "radius at the bottom"),
    "bend": (-0.8, 0.8, "how far the middle of the spine is off the straight line"),
    "lie": (0.0, 1.0, "0: the fruit stands, 1: it lies"),
    "dimple": (0.0, 0.4, "size of the hollow around the stem"),
    "stem": (0.0, 0.6, "length of the stem"),
    "leaf": (0.0, 0.8, "length of the leaf next to the stem"),
    "crown": (0.0, 0.9, "length of the leaves on top"),
    "crown_count": (1.0, 9.0, "their number"),
    "crown_spread": (0.0, 2.2, "angle between the outermost of them and the spine"),
    "crown_width": (0.0, 0.25, "radius of each of them"),
    "beads": (0.0, 0.4, "radius of the berries that replace the flesh"),
    "seeds": (0.0, 0.12, "radius of the seeds on the skin"),
    "net": (0.0, 0.12, "width of the lines that cross the skin"),
    "ends": (0.0, 0.2, "radius of the dark ends"),
}

FRUITS = members(
    FRUIT_PLAN,
    apple=dict(length=0.20, top=0.56, middle=0.72, bottom=0.52, dimple=0.30, stem=0.34, leaf=0.50),
    banana=dict(length=0.74, top=0.10, middle=0.33, bottom=0.12, bend=0.62, lie=0.85, stem=0.14, ends=0.12),
    pear=dict(length=0.50, top=0.27, middle=0.39, bottom=0.62, stem=0.26, leaf=0.42),
    grapes=dict(length=0.48, top=0.64, middle=0.44, bottom=0.14, stem=0.26, leaf=0.52, beads=0.26),
    strawberry=dict(length=0.48, top=0.66, middle=0.58, bottom=0.14, crown=0.60, crown_count=5, crown_spread=1.85,
                    crown_width=0.15, seeds=0.075),
    pineapple=dict(length=0.28, top=0.44, middle=0.53, bottom=0.47, crown=0.74, crown_count=5, crown_spread=0.75,
                   crown_width=0.14, net=0.08),
)


def draw_fruit(canvas, p, paint):
    """Draw the fruit with the values `p` (keys and ranges: FRUIT_PLAN). Stem and leaves grow from the top of its spine."""
    p, drawing = _spine(clamped(p, FRUIT_PLAN)), Drawing()
    if drawn(p.beads):
        _stalk(drawing, p)
        _beads(drawing, p, paint)
    else:
        flesh = _flesh(p)
        drawing.ink(flesh, paint, "fruit", shade=0.32)
        _skin(drawing, p, paint, flesh)
        _stalk(drawing, p)
    drawing.paint_on(canvas)


def _spine(p):
    """Add to `p` the spine's points (9, 2) and radii (9,) from the top down, the direction up, and the highest point."""
    t = np.linspace(0, 1, 9)
    r = np.interp(t, (0, 0.5, 1), (p.top, p.middle, p.bottom))
    r = 0.5 * r + 0.5 * np.convolve(np.pad(r, 2, "edge"), np.ones(5) / 5, "valid")     # no kink in the middle
    u, v, a = (2 * t - 1) * p.length, p.bend * 4 * t * (1 - t), p.lie * np.pi / 2
    x, y = v * np.cos(a) - u * np.sin(a), v * np.sin(a) + u * np.cos(a)
    p.points, p.radii = np.stack([x, y], 1), np.maximum(r, 0.05)
    p.up = (p.points[0] - p.points[1]) / np.linalg.norm(p.points[0] - p.points[1])
    p.peak = p.points[0] + 0.95 * p.up * (max(p.beads, 0.12) if drawn(p.beads) else p.radii[0])
    return p


def _flesh(p):
    pieces = [limb(p.points[i:i + 2], *p.radii[i:i + 2]) for i in range(8)]
    if drawn(p.dimple):                             # two shoulders leave a hollow between them
        side = p.dimple * np.array([-p.up[1], p.up[0]])
        shoulder = 0.12 * p.dimple * p.up + p.points[0]
        return union(union(*pieces), *(ellipse(*(shoulder + k * side), p.radii[0]) for k in (-1, 1)), smooth=0.15)
    return union(*pieces)


def _beads(drawing, p, paint):
    """Rows of berries, each row as wide as the spine is thick there."""
    b = max(p.beads, 0.12)
    rows = int(np.clip(round(2 * (p.length + 0.3) / (1.45 * b)), 2, 5))
    for i in np.linspace(0, 1, rows) * 8:
        x, y, r = (np.interp(i, range(9), values) for values in (*p.points.T, p.radii))
        n = int(np.clip(round((r + 0.25 * b) / (0.9 * b)), 1, 5))
        for k in range(n):
            drawing.ink(ellipse(x + (k - (n - 1) / 2) * 1.6 * b, y, b), paint, "fruit", shade=0.4)


def _skin(drawing, p, paint, flesh):
    """Whatever marks the surface: a shine, seeds, a net, dark ends."""
    points, radii, flat = p.points, p.radii, dict(shade=0, edge=0)
    x, y = points[2] + radii[2] * np.array([-0.45, -0.3])
    drawing.draw(ellipse(x, y, 0.2 * radii[2], 0.28 * radii[2], 0.5), WHITE, "fruit", **flat, alpha=0.45, truth=False)
    if drawn(p.seeds):
        rows = {2: (-0.6, 0.0, 0.6), 4: (-0.35, 0.35), 6: (0.0,)}
        spots = [points[i] + (u * radii[i], 0.1) for i, across in rows.items() for u in across]
        drawing.draw(union(*(ellipse(*spot, p.seeds, 1.3 * p.seeds) for spot in spots)), SEED, "fruit", shade=0, edge=0.3)
    if drawn(p.net):
        (x, y), r = points[4], 1.4 * radii.max()
        strokes = [limb([(x + k * 0.46 - s * r, y - r), (x + k * 0.46 + s * r, y + r)], 0.5 * p.net)
                   for k in (-1, 0, 1) for s in (-1, 1)]
        drawing.draw(both(flesh, union(*strokes)), mark(paint), "fruit", **flat)
    if drawn(p.ends):
        drawing.ink(union(ellipse(*points[0], p.ends), ellipse(*points[-1], p.ends)), paint.plain().darker(0.65), "fruit")


def _stalk(drawing, p):
    """Stem, leaf and crown, at the highest point."""
    if drawn(p.stem):
        tip = p.peak + p.up * p.stem + np.array([-0.06, 0])
        drawing.ink(limb([p.peak - 0.08 * p.up, tip], 0.065, 0.08), WOOD, "stem")
    if drawn(p.leaf):
        base = p.peak + 0.5 * p.stem * p.up
        drawing.ink(petal(base, base + p.leaf * np.array([0.94, -0.34]), 0.3 * p.leaf, 0.03), GREEN, "leaf")
    if drawn(p.crown):
        base, angle = p.peak - 0.05 * p.up, np.arctan2(p.up[0], -p.up[1])
        for leaf in fan(base, angle, p.crown_count, p.crown_spread, p.crown, max(p.crown_width, 0.05), 0.9):
            drawing.ink(leaf, GREEN, "leaf")


# ------------------------------------------------------------------------------------------------ plants

PLANT_PLAN = {
    "height": (0.2, 1.75, "length of the stem"),
    "stem": (0.05, 0.35, "radius of the stem at the ground"),
    "lean": (-0.6, 0.6, "how far its end is off the middle"),
    "wood": (0.0, 1.0, "0: a green stem, 1: a brown trunk"),
    "pale": (0.0, 1.0, "1: a cream-coloured stalk"),
    "leaf": (0.0, 0.8, "length of the two leaves at the stem"),
    "petals": (0.0, 1.1, "length of the petals or fronds"),
    "petal_count": (1.0, 15.0, "their number"),
    "petal_width": (0.0, 0.4, "radius of a petal"),
    "spread": (0.0, 3.1416, "angle of the outermost petal: pi is a whole circle"),
    "droop": (0.0, 1.2, "how far the petals hang, relative to their length"),
    "point": (0.0, 1.0, "0: round petals, 1: pointed ones"),
    "center": (0.0, 0.5, "radius of the disc amid the petals"),
    "crown": (0.0, 0.95, "half-width of the crown or cap"),
    "crown_tall": (0.2, 1.6, "its height relative to its width"),
    "flat": (0.0, 1.0, "how much of its lower half is missing: 1 is a dome"),
    "puffs": (0.0, 0.6, "size of the bumps around it, relative to it"),
    "column": (0.0, 0.5, "radius of a thick painted stem"),
    "arms": (0.0, 0.9, "length of its arms"),
}

PLANTS = members(
    PLANT_PLAN,
    tulip=dict(height=0.85, stem=0.08, leaf=0.72, petals=0.98, petal_count=5, petal_width=0.26, spread=0.52, point=0.75),
    sunflower=dict(height=1.20, stem=0.08, leaf=0.42, petals=0.70, petal_count=10, petal_width=0.19, spread=3.14,
                   point=0.7, center=0.27),
    cactus=dict(height=1.58, stem=0.1, column=0.31, arms=0.52),
    palm=dict(height=1.30, stem=0.13, lean=0.16, wood=1, petals=0.92, petal_count=7, petal_width=0.17, spread=1.85,
              droop=0.6, point=0.9, center=0.14),
    tree=dict(height=0.75, stem=0.17, wood=1, crown=0.66, crown_tall=0.86, puffs=0.5),
    mushroom=dict(height=0.95, stem=0.28, pale=1, crown=0.92, crown_tall=0.92, flat=0.8),
)


def draw_plant(canvas, p, paint):
    """Draw the plant with the values `p` (keys and ranges: PLANT_PLAN): stem and leaves, then what the stem carries."""
    p, drawing = clamped(p, PLANT_PLAN), Drawing()
    p.top = p.lean, GROUND - p.height
    p.canopy = "leaf" if p.wood > 0.5 else "top" if drawn(p.crown) else "petals"
    _stem(drawing, p)
    _column(drawing, p, paint)
    _crown(drawing, p, paint)
    _flower(drawing, p, paint)
    drawing.paint_on(canvas, centered=False)        # the stem stays in the middle


def _stem(drawing, p):
    mix = lambda a, b, t: tuple((1 - t) * np.asarray(a) + t * np.asarray(b))
    x, y, r = -0.5 * p.lean, GROUND - p.stem, p.stem            # its foot
    if p.lean:
        shape = arc((x, y), (x, GROUND - 0.6 * p.height), p.top, r, 0.75 * r)
    else:
        shape = limb([(x, y), p.top], r, 0.75 * r)
    drawing.ink(shape, mix(mix(GREEN, WOOD, p.wood), CREAM, p.pale), "trunk" if p.wood > 0.5 else "stem")
    if drawn(p.leaf):
        for side in (-1, 1):
            tip = x + side * 0.72 * p.leaf, y - 0.7 * p.leaf
            drawing.ink(petal((x, y), tip, 0.2 * p.leaf, 0.02), GREEN, "leaf")


def _column(drawing, p, paint):
    """A thick ribbed stem, and an arm that bends upwards on each side."""
    if not drawn(p.column):
        return
    r, y = p.column, p.top[1]
    if drawn(p.arms):
        for side, low in ((-1, 0.46), (1, 0.32)):
            x, elbow = side * (r + 0.28), GROUND - low * p.height
            drawing.ink(limb([(0, elbow), (x, elbow), (x, elbow - p.arms)], 0.58 * r), paint, "body")
    drawing.ink(limb([(0, GROUND - r), (0, y)], r), paint, "body", shade=0.3)
    ribs = [limb([(u * r, y + 0.1), (u * r, GROUND - 0.15)], 0.03) for u in (-0.4, 0.4)]
    drawing.draw(union(*ribs), mark(paint), "body", shade=0, edge=0, truth=False)


def _crown(drawing, p, paint):
    """An ellipse with bumps around it, or its upper part above a flat pale floor."""
    if not drawn(p.crown):
        return
    w, h = p.crown, p.crown * p.crown_tall
    x, y = p.top[0], p.top[1] - 0.55 * h * (1 - p.flat)
    mass = ellipse(x, y, w, h)
    if drawn(p.puffs):
        puff = lambda a: ellipse(x + 0.75 * w * np.sin(a), y - 0.75 * h * np.cos(a), w * p.puffs)
        mass = union(mass, *map(puff, (-2.1, -1.2, -0.4, 0.5, 1.3, 2.2)), smooth=0.05)
    if drawn(p.flat):
        floor = y + h * (1.1 - p.flat)
        drawing.ink(ellipse(x, floor, 0.9 * w, 0.2 * h), CREAM, p.canopy, shade=-0.2)
        mass = Shape((*mass.box[:3], floor), both(mass, ellipse(x, floor - 0.9 * h, 1.4 * w, h)).distance)
    drawing.ink(mass, paint, p.canopy, shade=0.35)


def _flower(drawing, p, paint):
    if drawn(p.petals):
        petals = fan(p.top, 0.0, p.petal_count, p.spread, p.petals, max(p.petal_width, 0.04), p.point, p.droop)
        for i, shape in enumerate(petals):
            drawing.ink(shape, paint.darker(0.12) if i % 2 else paint, p.canopy)
    if drawn(p.center):
        drawing.ink(ellipse(*p.top, p.center), WOOD, "center")
