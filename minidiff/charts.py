"""Numbers as pictures (3, H, W), without a plotting library: curves, points in the plane, tables of shares."""
import torch
from einops import repeat
from PIL import Image, ImageDraw

from . import images

COLOURS = [(26, 128, 51), (204, 26, 26), (26, 77, 204), (204, 128, 0), (128, 51, 179), (0, 153, 153), (128, 77, 26), (230, 77, 153),
           (77, 77, 77), (153, 153, 0)]


def curves(lines, title="", over=10, size=(560, 300), below=None):
    """Some curves in one frame, (3, height, width).

    Args:
        lines: {label: (step at which it begins, its values from there on, one for each step)}.
        over: each point is the mean of so many values up to it; 1 shows them as they are.
        size: (width, height) in pixels.
        below: text under the frame; None counts the steps.
    """
    (width, height), values = size, [v for _, y in lines.values() for v in y]
    last = max((start + len(y) - 1 for start, y in lines.values()), default=0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    place = lambda step, v: (50 + (width - 170) * step / max(last, 1), height - 30 - (height - 60) * (v - low) / max(high - low, 1e-6))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((50, 4), title, fill="black")
    pen.text((50, height - 20), f"step 0 to {last}" if below is None else below, fill="black")
    for v in (low, high):
        pen.text((4, place(0, v)[1] - 6), f"{v:.2f}", fill="black")
    for i, (label, (start, y)) in enumerate(lines.items()):
        recent = [y[max(0, j - over + 1):j + 1] for j in range(len(y))]
        points = [place(start + j, sum(r) / len(r)) for j, r in enumerate(recent)]
        if points:
            pen.line(points if len(points) > 1 else points * 2, fill=COLOURS[i % len(COLOURS)], width=2)
        pen.text((width - 112, 20 + 14 * i), label, fill=COLOURS[i % len(COLOURS)])
    return images.from_pillow(sheet)


def save_curves(path, lines, title="", over=10, size=(560, 300)):
    """Write a picture of some curves, see `curves`."""
    images.save(path, curves(lines, title, over, size))


def points(*clouds, low=-2.0, high=2.0, size=180, dot=2):
    """Points in the plane, (3, size, size), x to the right and y upwards; those outside low .. high are left out.

    clouds: (n, 2) each, in a colour of its own, the later ones on top.   low, high: numbers, or one for x and one for y.
    dot: side of a point, in pixels.
    """
    sheet = torch.ones(3, size, size)
    low, high = (torch.as_tensor(v, dtype=torch.float32).expand(2) for v in (low, high))
    for cloud, colour in zip(clouds, COLOURS):
        column, row = ((cloud.float().cpu() - low) / (high - low) * (size - dot)).round().long().unbind(1)
        row = size - dot - row
        is_in = (row >= 0) & (row <= size - dot) & (column >= 0) & (column <= size - dot)
        for y, x in ((y, x) for y in range(dot) for x in range(dot)):
            sheet[:, row[is_in] + y, column[is_in] + x] = torch.tensor(colour)[:, None] / 255
    return sheet


def tiles(shares, size=64):
    """A square for each number from 0, white, to 1, dark blue: (...) -> (n, 3, size, size), row by row, for `images.grid`."""
    ink = torch.tensor([.9, .6, .1])
    squares = 1 - shares.detach().float().cpu().flatten().clamp(0, 1)[:, None] * ink                        # (n, 3)
    return repeat(squares, "n c -> n c h w", h=size, w=size)
