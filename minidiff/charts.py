"""Numbers over time as a picture, without a plotting library."""
from PIL import Image, ImageDraw

from . import images

COLOURS = [(26, 128, 51), (204, 26, 26), (26, 77, 204), (204, 128, 0), (128, 51, 179), (0, 153, 153), (128, 77, 26), (230, 77, 153),
           (77, 77, 77), (153, 153, 0)]


def save_curves(path, curves, title="", over=10, size=(560, 300)):
    """Write a picture of some curves in one frame.

    Args:
        curves: {label: (step at which it begins, its values from there on, one for each step)}.
        over: each point is the mean of so many values up to it; 1 shows them as they are.
        size: (width, height) in pixels.
    """
    (width, height), values = size, [v for _, y in curves.values() for v in y]
    last = max((start + len(y) - 1 for start, y in curves.values()), default=0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    place = lambda step, v: (50 + (width - 170) * step / max(last, 1), height - 30 - (height - 60) * (v - low) / max(high - low, 1e-6))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((50, 4), title, fill="black")
    pen.text((50, height - 20), f"step 0 to {last}", fill="black")
    for v in (low, high):
        pen.text((4, place(0, v)[1] - 6), f"{v:.2f}", fill="black")
    for i, (label, (start, y)) in enumerate(curves.items()):
        recent = [y[max(0, j - over + 1):j + 1] for j in range(len(y))]
        points = [place(start + j, sum(r) / len(r)) for j, r in enumerate(recent)]
        if points:
            pen.line(points if len(points) > 1 else points * 2, fill=COLOURS[i % len(COLOURS)], width=2)
        pen.text((width - 112, 20 + 14 * i), label, fill=COLOURS[i % len(COLOURS)])
    images.save(path, images.from_pillow(sheet))
