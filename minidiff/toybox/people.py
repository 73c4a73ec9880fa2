"""Portraits: a face whose every attribute is a number, so that a slider's effect can be read off the picture.

Age shows in wrinkles, a longer face, a receding hairline, blushing cheeks (young) and greying hair; eye size and brow
slant vary freely and are never named in a caption. Glasses and beards are commoner among the old, on purpose.
"""
from dataclasses import dataclass

import numpy as np

from .canvas import Paint, both, box, curve, cut, ellipse, line, ring, union

HAIR = {"black": (.10, .09, .10), "brown": (.42, .24, .12), "blond": (.93, .78, .36), "red": (.82, .30, .10),
        "gray": (.74, .75, .78)}
SKIN = {"light": (.98, .82, .70), "tan": (.84, .62, .43), "dark": (.48, .31, .21)}
INK = (.13, .09, .09)


@dataclass
class Portrait:
    """One person. Continuous attributes lie in [0, 1] unless said otherwise."""
    age: float = 0.5
    smile: float = 0.0              # -1 sad .. 1 smiling
    eye_size: float = 0.5
    brow_slant: float = 0.0         # -1 worried .. 1 angry
    hair: str = "brown"
    hair_length: float = 0.5
    skin: str = "light"
    glasses: bool = False
    beard: bool = False
    shirt: tuple = (.3, .4, .8)
    turn: float = 0.0               # -1 looks left .. 1 looks right
    tilt: float = 0.0               # radians
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0


def _mix(a, b, t):
    return tuple((1 - t) * u + t * v for u, v in zip(a, b))


def _ramp(value, low, high):
    return float(np.clip((value - low) / (high - low), 0, 1))


def draw_portrait(canvas, p):
    """Draw `p` on `canvas`: shoulders, hair behind, head, face, hair in front."""
    skin = Paint(SKIN[p.skin])
    hair = Paint(_mix(HAIR[p.hair], HAIR["gray"], 0.75 * _ramp(p.age, .5, 1)))
    long_face = 0.50 + 0.09 * (p.age - 0.5)
    wide_face = 0.44 - 0.05 * (p.age - 0.5)
    with canvas.at(p.x, p.y + 0.10, 1.22 * p.scale):
        with canvas.at(0, -0.14):
            _shoulders(canvas, p, skin)
        with canvas.at(0, 0.45, 1, p.tilt), canvas.at(0, -0.50):
            _hair_behind(canvas, p, hair, wide_face)
            _head(canvas, p, skin, wide_face, long_face)
            _wrinkles(canvas, p, skin)
            _hair_in_front(canvas, p, hair, wide_face)
            _features(canvas, p, skin, hair, wide_face, long_face)


def _shoulders(canvas, p, skin):
    canvas.draw(union(ellipse(0, 1.15, .82, .52), box(0, 1.4, .82, .3), smooth=.1), p.shirt, "shirt")
    canvas.draw(box(0, .55, .17, .28, .1), skin.darker(.12), "skin", edge=.1)
    canvas.draw(both(ellipse(0, .66, .27, .17), box(0, .8, .5, .17)), skin.darker(.05), "skin", shade=0, edge=.1)


def _hair_behind(canvas, p, hair, wide):
    """Long hair falls behind the face; its end is the attribute hair_length."""
    if p.hair_length > 0.25:
        fall = -0.05 + 0.85 * p.hair_length
        spread = wide + 0.12 + 0.08 * p.hair_length
        canvas.draw(union(ellipse(0, -.12, wide + .12, .56), box(0, fall / 2 - .05, spread, fall / 2 + .1, .14), smooth=.1),
                    hair.darker(.18), "hair")


def _head(canvas, p, skin, wide, tall):
    for side in (-1, 1):
        canvas.draw(ellipse(side * (wide + .02) - .06 * p.turn, .04, .09, .13), skin.darker(.08), "skin")
    chin = ellipse(.05 * p.turn, tall - .27, wide * (.72 + .1 * p.age), .28)
    canvas.draw(union(ellipse(0, -.05, wide, .46), chin, smooth=.25), skin, "skin", shade=.16, edge=.3)
    blush = _ramp(p.age, .55, .1)
    if blush > 0:
        pink = _mix(skin.rgb, (1.0, .35, .35), .55)
        for side in (-1, 1):
            canvas.draw(ellipse(side * .26 + .1 * p.turn, .17, .11, .085), pink, shade=0, edge=0, alpha=.8 * blush, truth=False)


def _hair_in_front(canvas, p, hair, wide):
    """A cap of hair above the hairline, which climbs with age, and sideburns for longer hair."""
    line_y = -.25 - .20 * _ramp(p.age, .4, 1)
    cap = ellipse(0, -.12, wide + .07, .50)
    face = ellipse(.09 * p.turn, line_y + .52, wide + .03, .55)
    canvas.draw(cut(both(cap, box(0, -.4, 1, .48)), face), hair, "hair", shade=.3)
    if p.hair_length > 0.25:
        drop = .05 + .5 * p.hair_length
        for side in (-1, 1):
            canvas.draw(line([(side * wide, -.28), (side * (wide + .04), drop)], .10, .08), hair, "hair", shade=.15, edge=.2)


def _wrinkles(canvas, p, skin):
    """Lines on the forehead, bags under the eyes and folds beside the mouth, darker and thicker with age."""
    depth = _ramp(p.age, .42, .95)
    if depth <= 0:
        return
    ink, width, dx = _mix(skin.rgb, (.30, .12, .06), .65), .012 + .014 * depth, .1 * p.turn
    mark = lambda shape: canvas.draw(shape, ink, "wrinkles", shade=0, edge=0, alpha=min(1, .25 + .75 * depth))
    for y in (-.36, -.25):
        mark(curve((-.2 + dx, y + .02), (dx, y - .04), (.2 + dx, y + .02), width, pieces=3))
    for side in (-1, 1):
        mark(curve((side * .27 + dx, .10), (side * .18 + dx, .165), (side * .09 + dx, .11), width, pieces=3))
        mark(curve((side * .13 + dx, .17), (side * .27 + dx, .24), (side * .25 + dx, .40), width * 1.15, pieces=3))


def _features(canvas, p, skin, hair, wide, tall):
    dx = .1 * p.turn
    mouth_y = .31
    if p.beard:
        jaw = union(ellipse(dx / 2, tall - .20, wide * .86, .30), ellipse(dx / 2, tall - .02, wide * .6, .2), smooth=.15)
        beard = cut(cut(jaw, ellipse(dx, .02, wide * .74, .19)), box(0, -.3, 1, .37))
        canvas.draw(beard, hair, "beard", shade=.2)
    canvas.draw(union(line([(dx * 1.4, .0), (dx * 1.7, .12)], .04, .065), smooth=0), skin.darker(.13), "nose", shade=.3, edge=.15)
    _mouth(canvas, p, dx, mouth_y)
    for side in (-1, 1):
        _eye(canvas, p, side * .185 + dx, -.03, side, hair)
    if p.glasses:
        for side in (-1, 1):
            canvas.draw(ring(side * .19 + dx, -.02, .155, .145, .055), INK, "glasses", shade=0, edge=0)
        canvas.draw(line([(dx - .05, -.04), (dx + .05, -.04)], .026), INK, "glasses", shade=0, edge=0)


def _mouth(canvas, p, dx, y):
    half, bend = .17 + .05 * abs(p.smile), .17 * p.smile
    lips = (.72, .22, .22)
    if p.smile > .45:                                           # an open smile shows its teeth
        open_mouth = cut(ellipse(dx, y - .05, half, .06 + .15 * p.smile), box(dx, y - .35, 1, .3))
        canvas.draw(open_mouth, (.45, .08, .10), "mouth", shade=0, edge=.3)
        canvas.draw(both(open_mouth, box(dx, y - .05, half * .85, .055)), (1, 1, 1), "mouth", shade=0, edge=0)
    else:
        canvas.draw(curve((dx - half, y - bend * .5), (dx, y + bend), (dx + half, y - bend * .5), .034, pieces=5), lips,
                    "mouth", shade=0, edge=0)


def _eye(canvas, p, x, y, side, hair):
    r = .065 + .06 * p.eye_size
    canvas.draw(ellipse(x, y, r * 1.12, r), (1, 1, 1), "eyes", shade=0, edge=.45)
    canvas.draw(ellipse(x + .03 * p.turn, y, r * .62), INK, "eyes", shade=0, edge=0)
    canvas.draw(ellipse(x + .03 * p.turn - r * .22, y - r * .25, r * .22), (1, 1, 1), "eyes", shade=0, edge=0)
    inner, outer = y - .165 + .075 * p.brow_slant, y - .165 - .075 * p.brow_slant
    canvas.draw(line([(x - side * .10, inner), (x + side * .11, outer)], .032 + .008 * p.age, .024), hair.darker(.35), "brows",
                shade=0, edge=0)
