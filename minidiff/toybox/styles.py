"""What is done to a finished drawing: styles and flaws."""
import numpy as np


def blur(rgb, radius):
    """Box blur over (2 radius + 1) squared pixels, edges repeated."""
    for axis in (0, 1):
        pad = [(0, 0)] * rgb.ndim
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(rgb, pad, mode="edge"), axis=axis, dtype=np.float32)
        n, width = rgb.shape[axis], 2 * radius + 1
        rgb = (np.take(total, range(width, n + width), axis) - np.take(total, range(n), axis)) / width
    return rgb


def watercolor(rgb):
    """Soft, pale, with pigment gathered at the edges of the washes."""
    wash = blur(rgb, max(1, rgb.shape[0] // 48))
    pigment = np.clip(np.abs(rgb - wash).sum(-1, keepdims=True), 0, .5)
    return np.clip(.22 + .78 * wash - .35 * pigment, 0, 1).astype(np.float32)


def sketch(rgb):
    """Pencil: dark where the brightness changes, faint hatching for the rest."""
    gray = rgb @ np.array([.3, .59, .11], np.float32)
    step = max(1, rgb.shape[0] // 64)
    dx, dy = gray - np.roll(gray, step, 1), gray - np.roll(gray, step, 0)
    dx[:, :step], dy[:step] = 0, 0
    pencil = .97 - .30 * (1 - gray) - 1.6 * np.clip(np.hypot(dx, dy), 0, .45)
    return np.repeat(np.clip(pencil, 0, 1)[..., None], 3, -1).astype(np.float32)


def distort(canvas, amount, rng):
    """Bend the drawing as if seen through a bad lens; masks and depth bend with it."""
    (fx, fy), (px, py) = rng.uniform(3, 5, 2), rng.uniform(0, 6.28, 2)
    x = canvas.x + amount * .13 * np.sin(fy * 1.7 * canvas.y + py)
    y = canvas.y + amount * .13 * np.sin(fx * 1.7 * canvas.x + px)
    index = lambda v: np.clip(((v + 1) / canvas.pixel).astype(int), 0, canvas.size - 1)
    i, j = index(y), index(x)
    for name in ("rgb", "instance", "part", "depth"):
        setattr(canvas, name, getattr(canvas, name)[i, j])
    canvas.rgb = blur(canvas.rgb, max(1, canvas.size // 64))
