"""Hands with a right or a wrong number of fingers, for the slider that repairs them (Concept Sliders, "fix hands").

    parameter   range       meaning
    ----------  ----------  ------------------------------------------------
    fingers     3 .. 7      number of fingers, the thumb among them
    spread      0.3 .. 1.6  angle between them, relative to a usual hand
    length      0.5 .. 1.4  length of the fingers, likewise
    width       0.5 .. 1.3  thickness of the fingers, likewise
"""
import numpy as np

from .canvas import line
from .pieces import panel


def draw_hand(canvas, fingers, p, skin):
    """An open hand, fingers up. p: spread, length and width."""
    row = int(np.clip(fingers, 3, 7)) - 1                           # without the thumb
    length, spread = np.clip(p["length"], 0.5, 1.4), np.clip(p["spread"], 0.3, 1.6)
    half = 0.30 + 0.055 * row                                       # of the palm's width
    r = np.clip(p["width"], 0.5, 1.3) * min(0.14, 0.80 * half / row)
    draw = lambda shape, part, **how: canvas.draw(shape, skin, part, shade=0.1, **how)
    draw(panel(-0.30, 0.5, 0.30, 1.0, 0.1), "palm")                 # the wrist
    draw(panel(-half, -0.05, half, 0.80, 0.22), "palm")
    draw(line([(-half + 0.16, 0.56), (-half - 0.34, 0.12 + 0.1 * (1 - spread))], 1.35 * r, 1.1 * r), "fingers")
    for s in np.linspace(-1, 1, row):
        reach, angle = length * (0.74 - 0.14 * s * s), (0.24 + 0.05 * row) * spread * s
        root = (s * (half - r), 0.06)
        tip = (root[0] + np.sin(angle) * reach, root[1] - np.cos(angle) * reach - 0.02)
        draw(line([root, tip], r), "fingers")
    draw(panel(-half + 0.05, 0.0, half - 0.05, 0.85, 0.2), "palm", edge=0)      # covers the roots of the fingers
