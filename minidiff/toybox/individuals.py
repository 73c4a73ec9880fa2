"""Individuals that no training picture shows, for papers that learn one: a particular cat, chair, flower ...

{name: (drawing parameters, keywords of its Paint)}. Each is an unusual point of a plan that training has shown elsewhere,
in colours and patterns outside the training palette; the moongate is of no category at all.
"""
from .furniture import FURNITURE
from .pets import PETS
from .plants import PLANTS
from .things import THINGS

HELD_OUT = {
    "cat": (PETS["cat"] | dict(ear_odd=0.75, ears=0.46, tail=0.5, tail_lift=0.5, tail_tip=0.2, eye=0.16, collar=0.11),
            dict(rgb=(0.96, 0.80, 0.58), pattern="dotted", second=(0.33, 0.22, 0.30), period=0.95)),
    "dog": (PETS["dog"] | dict(ears=0.75, ear_droop=0.8, ear_odd=0.5, snout=0.16, legs=0.22, body_long=0.66, tail=0.7,
                               tail_width=0.08, tail_tip=0.16, collar=0.12),
            dict(rgb=(0.93, 0.90, 0.86), pattern="checked", second=(0.75, 0.42, 0.16), period=1.3)),
    "flower": (PLANTS["sunflower"] | dict(height=1.3, petal_count=6, petal_width=0.24, petals=0.62, point=0.15, center=0.22,
                                          lean=0.2, leaf=0.6),
               dict(rgb=(0.96, 0.45, 0.72), pattern="striped", second=(0.98, 0.93, 0.98), period=0.34)),
    "chair": (FURNITURE["chair"] | dict(width=0.62, seat=0.74, thick=0.24, back=0.92, gap=0.0, arm=0.34, leg=0.12,
                                        splay=0.14, cushion=0.2, skew=0.0),
              dict(rgb=(0.10, 0.62, 0.60), pattern="checked", second=(1.0, 0.62, 0.55), period=0.5)),
    "table": (FURNITURE["table"] | dict(seat=1.26, width=0.70, thick=0.46, leg=0.15, splay=0.22, depth=0.46, drawer=0.3),
              dict(rgb=(1.0, 0.60, 0.20), pattern="striped", second=(0.25, 0.30, 0.55), period=0.44)),
    "pot": (THINGS["pot"] | dict(height=1.3, base=0.62, belly=0.82, neck=0.8, lip=0.72, rim=0.0, band=0.17),
            dict(rgb=(0.74, 0.50, 0.28), pattern="striped", second=(0.52, 0.32, 0.16), period=0.36)),
    "moongate": (dict(radius=0.66, width=0.40, base=0.30, stones=9.0), dict(rgb=(0.66, 0.66, 0.62))),
}
# The word of the model's vocabulary for the class, where it does not know the name itself.
CLASS_WORDS = {"flower": "sunflower", "moongate": "moon"}
