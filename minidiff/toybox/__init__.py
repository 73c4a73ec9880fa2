"""Toybox: a tiny cartoon world with ground truth. See minidiff/toybox/scenes.py for what is in it."""
from .world import Batch, attributes_of, held_out, new_members, of_class, sample, scene

__all__ = ["Batch", "attributes_of", "held_out", "measure", "new_members", "of_class", "sample", "scene"]


def measure(images):
    """What the meter reads off pictures (n, 3, H, W) in [0, 1]: {attribute: tensor}. See `meter.Meter`."""
    from .meter import measure
    return measure(images)
