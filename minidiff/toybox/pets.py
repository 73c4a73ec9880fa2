"""Pets: one body plan, a continuous space in which every pet is one point.

Source: minidiff's own design, so that "a pet that is none of them" (ConceptLab) exists: any dict of floats inside the
ranges of PET_PLAN can be drawn. Values outside are clamped, missing keys count as 0, and the finished drawing is fitted
into the frame, which pieces.py explains.

    part         parameters: ranges and meanings are in PET_PLAN
    -----------  ---------------------------------------------------------------------------------------------------
    body         body_long, body_tall, upright; on it wing, fin, shell, belly and a collar
    legs         legs, leg_width, leg_spread, fore, foot; far ones are darker. Without legs, a fish hovers on its fins
    tail         tail, tail_lift, tail_width, tail_tip; a fish has a tail_fan
    head         head, head_x, head_y place it; turn takes it from a face to a profile that looks to the right
    ears         ears, ear_width, ear_tip, ear_droop, ear_odd; or a crest of feathers
    face         eye, muzzle, snout, nose, whiskers, tongue; or a beak
"""
import numpy as np

from .canvas import Paint, Shape, ellipse, polygon, union
from .pieces import GROUND, Drawing, arc, clamped, drawn, fan, limb, mark, members, petal

WHITE, INK, PINK = (0.98, 0.98, 0.96), (0.10, 0.09, 0.12), (0.96, 0.58, 0.64)
ORANGE, TEAL = (0.98, 0.64, 0.14), (0.10, 0.75, 0.78)

PET_PLAN = {  # name: (lowest, highest, meaning)
    "body_long": (0.15, 0.80, "half-length of the body"),
    "body_tall": (0.15, 0.65, "half-height of the body"),
    "upright": (0.0, 1.0, "0: the body is level, 1: it stands up"),
    "head": (0.18, 0.55, "radius of the head"),
    "head_x": (-0.2, 0.9, "how far the head is in front of the body's middle"),
    "head_y": (-0.3, 1.1, "how far above it"),
    "turn": (0.0, 1.0, "0: the face looks at us, two eyes; 1: a profile, one eye"),
    "eye": (0.06, 0.22, "radius of an eye"),
    "ears": (0.0, 0.95, "length of the ears"),
    "ear_width": (0.0, 0.3, "radius of an ear at its root"),
    "ear_tip": (0.0, 1.5, "radius at the tip, relative to the root; 0 is pointed"),
    "ear_droop": (0.0, 1.0, "0: the ears stand up, 1: they hang"),
    "ear_odd": (0.0, 1.0, "how much further the left ear droops than the right one"),
    "muzzle": (0.0, 0.3, "radius of the muzzle"),
    "snout": (0.0, 0.5, "how far the muzzle sticks out"),
    "nose": (0.0, 0.15, "radius of the nose"),
    "whiskers": (0.0, 0.5, "length of the whiskers"),
    "tongue": (0.0, 0.35, "length of the tongue"),
    "beak": (0.0, 0.7, "length of the hooked beak"),
    "crest": (0.0, 0.6, "length of the feathers on the head"),
    "tail": (0.0, 1.1, "length of the tail"),
    "tail_lift": (-1.0, 1.0, "1: the tail points up, -1: down"),
    "tail_width": (0.0, 0.25, "radius of the tail at its root"),
    "tail_tip": (0.0, 0.3, "radius at its tip"),
    "tail_fan": (0.0, 0.8, "size of the two lobes of a fish's tail"),
    "legs": (0.0, 0.6, "length of the legs"),
    "leg_width": (0.0, 0.2, "radius of a leg"),
    "leg_spread": (0.0, 0.7, "from the body's middle to the fore and the hind legs"),
    "fore": (0.0, 1.2, "length of the fore legs relative to the hind legs"),
    "foot": (0.0, 0.4, "half-length of the hind feet"),
    "wing": (0.0, 0.7, "length of the wing"),
    "fin": (0.0, 0.8, "size of the fins"),
    "shell": (0.0, 0.9, "radius of the domed shell"),
    "belly": (0.0, 0.5, "radius of the light belly"),
    "collar": (0.0, 0.2, "width of a collar"),
}

PETS = members(
    PET_PLAN,
    cat=dict(body_long=0.54, body_tall=0.31, head=0.45, head_x=0.42, head_y=0.58, turn=0.1, eye=0.15, ears=0.42,
             ear_width=0.20, muzzle=0.17, snout=0.06, nose=0.08, whiskers=0.36, tail=0.95, tail_lift=0.9,
             tail_width=0.12, tail_tip=0.12, legs=0.28, leg_width=0.12, leg_spread=0.35, fore=1, foot=0.15),
    dog=dict(body_long=0.58, body_tall=0.29, head=0.39, head_x=0.38, head_y=0.68, turn=0.5, eye=0.125, ears=0.56,
             ear_width=0.14, ear_tip=1.35, ear_droop=0.92, muzzle=0.20, snout=0.42, nose=0.13, tongue=0.28, tail=0.42,
             tail_lift=0.75, tail_width=0.12, tail_tip=0.05, legs=0.40, leg_width=0.12, leg_spread=0.38, fore=1,
             foot=0.15),
    rabbit=dict(body_long=0.46, body_tall=0.42, upright=0.35, head=0.38, head_x=0.26, head_y=0.55, turn=0.15, eye=0.14,
                ears=0.66, ear_width=0.15, ear_tip=0.95, muzzle=0.15, snout=0.05, nose=0.08, tail=0.16, tail_lift=0.1,
                tail_width=0.16, tail_tip=0.22, legs=0.10, leg_width=0.13, leg_spread=0.22, fore=1, foot=0.32, belly=0.22),
    parrot=dict(body_long=0.60, body_tall=0.40, upright=0.72, head=0.45, head_x=0.28, head_y=0.60, turn=0.9, eye=0.17,
                beak=0.42, crest=0.36, tail=0.75, tail_lift=-0.45, tail_width=0.17, tail_tip=0.13, legs=0.26,
                leg_width=0.08, leg_spread=0.06, foot=0.18, wing=0.60),
    fish=dict(body_long=0.64, body_tall=0.58, head=0.44, head_x=0.26, turn=0.9, eye=0.19, muzzle=0.11, snout=0.17,
              tail=0.3, tail_width=0.16, tail_tip=0.14, tail_fan=0.72, fin=0.62),
    turtle=dict(body_long=0.70, body_tall=0.20, head=0.30, head_x=0.92, head_y=0.26, turn=0.3, eye=0.13, tail=0.26,
                tail_lift=-0.1, tail_width=0.1, tail_tip=0.03, legs=0.34, leg_width=0.16, leg_spread=0.42, fore=1,
                foot=0.20, shell=0.74),
)


def draw_pet(canvas, p, paint):
    """Draw the pet with the values `p` (keys and ranges: PET_PLAN), from far to near."""
    p, drawing = _stance(clamped(p, PET_PLAN)), Drawing()
    _legs(drawing, p, paint, far=True)
    _tail(drawing, p, paint)
    _body(drawing, p, paint)
    _legs(drawing, p, paint, far=False)
    _shell(drawing, p, paint)
    _head(drawing, p, paint)
    _face(drawing, p, paint)
    drawing.paint_on(canvas)


def _stance(p):
    """Add to `p` where the body and the head are; the feet, or the lowest fin, stand on the ground."""
    p.angle = -1.25 * p.upright
    c, s = np.cos(p.angle), np.sin(p.angle)
    p.half = np.hypot(p.body_long * c, p.body_tall * s), np.hypot(p.body_long * s, p.body_tall * c)  # of the tilted body
    p.x, p.y = 0.0, GROUND - p.half[1] - max(p.legs, 0.35 * p.fin)
    p.hx, p.hy = p.x + p.head_x, p.y - p.head_y
    p.face = p.hx + 0.35 * p.turn * p.head                      # the middle of the face
    p.on_body = lambda u, v: (p.x + c * u * p.body_long - s * v * p.body_tall,      # u, v in [-1, 1]: along and across
                              p.y + s * u * p.body_long + c * v * p.body_tall)
    return p


def _legs(drawing, p, paint, far):
    """The hind leg and the fore leg of one side."""
    if not drawn(p.legs) and not drawn(p.foot):
        return
    r, shift, lift = max(p.leg_width, 0.05), 0.17 if far else 0.0, 0.05 if far else 0.0
    pair = [(p.x - p.leg_spread + shift, 1.0, p.foot)]
    if drawn(p.fore):
        pair.append((p.x + p.leg_spread + shift, p.fore, min(p.foot, 0.16)))
    shapes = []
    for x, size, foot in pair:
        ground = GROUND - lift - (1 - min(size, 1)) * p.legs
        shapes.append(limb([(x, GROUND - p.legs - 0.5 * p.body_tall), (x, ground - r)], r))
        if drawn(foot):
            shapes.append(ellipse(x + 0.4 * foot, ground - 0.75 * r, max(foot, r), 0.75 * r))
    paint = Paint(ORANGE) if drawn(p.beak) else paint
    drawing.ink(union(*shapes, smooth=0.05), paint.darker(0.35) if far else paint, "legs")


def _tail(drawing, p, paint):
    x, y = p.on_body(-0.82, -0.1)
    if drawn(p.tail):
        a = 1.35 * p.tail_lift
        tip = x - p.tail * np.cos(a) * 0.75, y - p.tail * np.sin(a)
        bulge = x - p.tail * 0.62, y - p.tail * np.sin(a) * 0.2
        tuft = p.tail_tip > 1.2 * p.tail_width
        drawing.ink(arc((x, y), bulge, tip, max(p.tail_width, 0.03), max(p.tail_tip, 0.02)),
                    paint.plain().darker(-0.6) if tuft else paint, "tail")
    if drawn(p.tail_fan):
        f = p.tail_fan
        lobes = [petal((x + 0.1, y), (x - 0.75 * f, y + side * 0.8 * f), 0.28 * f, 0.14 * f) for side in (-1, 1)]
        drawing.ink(union(*lobes, smooth=0.12), paint.darker(0.15), "tail")


def _body(drawing, p, paint):
    """Fins behind the torso and the neck, belly and wing on them."""
    if drawn(p.fin):
        f, (tx, ty), (lx, ly) = p.fin, p.on_body(-0.05, -0.7), p.on_body(-0.1, 0.7)
        fins = union(petal((tx, ty), (tx - 0.65 * f, ty - 0.6 * f), 0.36 * f, 0.1 * f),
                     petal((lx, ly), (lx - 0.4 * f, ly + 0.5 * f), 0.2 * f, 0.1 * f))
        drawing.ink(fins, paint.darker(0.15), "fin")
    torso = ellipse(p.x, p.y, p.body_long, p.body_tall, p.angle)
    torso = Shape((p.x - p.half[0], p.y - p.half[1], p.x + p.half[0], p.y + p.half[1]), torso.distance)     # a tight box
    neck = limb([p.on_body(0.45, 0.0), (p.hx, p.hy)], 0.6 * p.body_tall, 0.5 * p.head)
    drawing.ink(union(torso, neck, smooth=0.2), paint, "body")
    if drawn(p.belly):
        belly = ellipse(*p.on_body(0.45, 0.35), 0.8 * p.belly, p.belly, p.angle)
        drawing.draw(belly, paint.plain().darker(-0.5), "body", edge=0, alpha=0.9)
    if drawn(p.wing):
        wing = petal(p.on_body(0.35, -0.25), p.on_body(0.35 - 1.9 * p.wing, 0.05), 0.38 * p.wing, 0.03)
        drawing.ink(wing, paint.darker(0.3), "wing")


def _shell(drawing, p, paint):
    """A dome with four plates and a rim."""
    if not drawn(p.shell):
        return
    r, x, floor = p.shell, p.x, p.y + 0.08
    whole = ellipse(x, floor, r, 1.4 * r)
    dome = Shape((x - r, floor - 1.4 * r, x + r, floor), lambda x, y: np.maximum(whole.distance(x, y), y - floor))
    drawing.ink(dome, paint, "shell", shade=0.35)
    hexagon = r * np.array([(-0.17, 0), (-0.08, -0.16), (0.08, -0.16), (0.17, 0), (0.08, 0.16), (-0.08, 0.16)])
    middles = ((0, 1.03), (-0.5, 0.52), (0, 0.5), (0.5, 0.52))
    plates = [polygon(hexagon + (x + u * r, floor - v * r), 0.05 * r) for u, v in middles]
    drawing.ink(union(*plates), mark(paint), "shell", shade=0.1)
    drawing.ink(limb([(x - 0.95 * r, floor), (x + 0.95 * r, floor)], 0.1 * r), mark(paint), "shell", shade=0.1)


def _head(drawing, p, paint):
    """Standing ears grow behind the head; a hanging near ear lies on it."""
    if drawn(p.collar):
        x, y = 0.5 * p.hx + 0.5 * p.on_body(0.45, 0)[0], p.hy + 0.85 * p.head
        drawing.ink(limb([(x - 0.7 * p.head, y), (x + 0.7 * p.head, y)], p.collar), TEAL, "body")
    if drawn(p.crest):
        root = p.hx - 0.1 * p.head, p.hy - 0.6 * p.head
        for feather in fan(root, -0.35, 3, 0.6, p.crest + 0.3 * p.head, 0.12, 0.6):
            drawing.ink(feather, paint.darker(0.2), "head")
    hanging = p.ear_droop > 0.5
    _ear(drawing, p, paint, 1, hanging)
    if not hanging:
        _ear(drawing, p, paint, -1, hanging)
    drawing.ink(ellipse(p.hx, p.hy, p.head * 1.06, p.head * 0.96), paint, "head", shade=0.3)
    if hanging:
        _ear(drawing, p, paint, -1, hanging)


def _ear(drawing, p, paint, side, hanging):
    """side: 1 the far ear, which hides behind a turned head, -1 the near one."""
    if not drawn(p.ears):
        return
    droop = min(p.ear_droop + (p.ear_odd if side < 0 else 0.0), 1.1)
    out = side * p.head * (1.0 if side < 0 else 1 - 0.7 * p.turn)
    root = p.hx + out * (0.55 + 0.3 * droop), p.hy - p.head * (0.62 - 0.25 * droop)
    a = side * (0.22 + 2.8 * droop)
    tip = root[0] + p.ears * np.sin(a), root[1] - p.ears * np.cos(a)
    r0, r1 = max(p.ear_width, 0.04), max(p.ear_width * p.ear_tip, 0.02)
    drawing.ink(limb([root, tip], r0, r1), paint.darker(0.3) if hanging else paint, "ears")
    if not hanging:                                             # we see its inside
        root, tip = np.array([root, tip])
        inside = limb([0.9 * root + 0.1 * tip, 0.25 * root + 0.75 * tip], 0.5 * r0, 0.5 * max(r1, 0.04))
        drawing.draw(inside, PINK, "ears", edge=0)


def _face(drawing, p, paint):
    """From far to near: tongue, whiskers, muzzle, nose, eyes, beak."""
    x, y, m = p.face, p.hy + 0.36 * p.head, p.muzzle
    end = x + p.snout * (0.3 + 0.8 * p.turn), y + 0.1 * p.snout     # of the muzzle
    if drawn(p.tongue):
        hang = end[0] - 0.06, end[1] + 0.6 * m
        drawing.draw(limb([hang, (hang[0], hang[1] + p.tongue)], 0.1), PINK, "mouth")
    if drawn(p.whiskers):
        w = p.whiskers + 0.5 * m
        hairs = [limb([(x, y), (x + side * w * 1.15, y + dy * w)], 0.026) for side in (-1, 1) for dy in (-0.12, 0.35)]
        drawing.draw(union(*hairs), WHITE if max(paint.rgb) < 0.6 else INK, "head", shade=0, edge=0, truth=False)
    if drawn(m):
        cheeks = union(limb([(x - 0.5 * m, y), end], m, 0.85 * m), ellipse(x + 0.5 * m, y, m))
        drawing.ink(cheeks, paint.plain().darker(-0.55), "head")
    if drawn(p.nose):
        tip = end[0] + 0.3 * p.snout, end[1] - 0.45 * m
        drawing.draw(ellipse(*tip, 1.2 * p.nose, p.nose), INK if p.snout > 0.12 else PINK, "nose", edge=0.1)
    _eyes(drawing, p)
    if drawn(p.beak):
        b, x, y = p.beak, x + 0.3 * p.head, p.hy + 0.15 * p.head
        drawing.ink(ellipse(x + 0.25 * b, y + 0.55 * b, 0.32 * b, 0.28 * b), Paint(ORANGE).darker(0.35), "beak")
        drawing.ink(arc((x, y), (x + 1.15 * b, y - 0.1 * b), (x + 0.8 * b, y + 0.8 * b), 0.47 * b, 0.16 * b), ORANGE, "beak")


def _eyes(drawing, p):
    """White, pupil and a glint; the far eye vanishes as the head turns."""
    gap, y = 0.42 * p.head * (1 - 0.35 * p.turn), p.hy - 0.14 * p.head
    pair = [(x, r) for x, r in ((p.face - gap, p.eye), (p.face + gap, p.eye * (1 - p.turn ** 2))) if drawn(r)]
    drawing.draw(union(*(ellipse(x, y, r, 1.12 * r) for x, r in pair)), WHITE, "eyes", shade=0, edge=0.5)
    drawing.draw(union(*(ellipse(x + 0.12 * r, y, 0.7 * r, 0.85 * r) for x, r in pair)), INK, "eyes", shade=0, edge=0)
    drawing.draw(union(*(ellipse(x - 0.14 * r, y - 0.34 * r, 0.3 * r) for x, r in pair)), WHITE, "eyes", shade=0, edge=0)
