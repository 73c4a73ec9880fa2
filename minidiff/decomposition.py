"""Parts of a picture that are pictures themselves: its lines, its light, and what is left of it behind a mask.

All take pictures (B, 3, H, W) in [0, 1] and need no network. Palettes are in color.py; depth and instances, which take a network,
in toybox/maps.py. The numbers suit pictures of 64 pixels.
"""
import torch
import torch.nn.functional as F
from einops import rearrange

from .color import to_lab

# Shares of red, green and blue in "grey": of several kinds of film, and single channels.
GREYS = ((1 / 3, 1 / 3, 1 / 3), (.299, .587, .114), (.2126, .7152, .0722), (1, 0, 0), (0, 1, 0), (0, 0, 1),
         (.5, .5, 0), (0, .5, .5), (.5, 0, .5))


# ------------------------------------------------------------------------------------------------ sketch

def sketch(images, weak=4.0, strong=10.0, shortest=6):
    """Line drawing, (B, 1, H, W): 1 on lines, which are one pixel wide, and 0 elsewhere.

    Edges are found where colour changes fastest (Canny 1986, on Lab); then simplified: a line stays if it is somewhere strong,
    and not shorter than `shortest` pixels.

    Args:
        weak, strong: change of Lab per pixel that a line must have everywhere, and somewhere.
    """
    lab = rearrange(to_lab(rearrange(images, "b c h w -> b h w c")), "b h w c -> b c h w")
    strength, across = gradient(blurred(lab))
    is_edge = thin(strength, across) & (strength > weak)
    lines = components(is_edge)
    pixels = torch.zeros_like(lines).scatter_add_(1, lines, is_edge.flatten(1).long())         # of the line with each number
    peak = torch.zeros_like(strength.flatten(1)).scatter_reduce_(1, lines, (strength * is_edge).flatten(1), "amax")
    keep = (pixels.gather(1, lines) >= shortest) & (peak.gather(1, lines) > strong) & is_edge.flatten(1)
    return keep.reshape(is_edge.shape)[:, None].to(images)


def blurred(x):
    """(B, C, H, W), smoothed by (1 2 1) / 4 along both axes: noise is no edge."""
    row = x.new_tensor([.25, .5, .25])
    weight = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=x.shape[1])


def gradient(x):
    """How fast a picture (B, C, H, W) changes in the direction in which it changes fastest, (B, H, W), and that angle.

    Of several channels: the largest eigenvalue of the sum of their outer products. Source: Di Zenzo 1986.
    """
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    smooth = lambda a, b, c: (a + 2 * b + c) / 4                                               # Sobel: across the derivative
    dx = (p[..., 2:] - p[..., :-2]) / 2
    dy = (p[..., 2:, :] - p[..., :-2, :]) / 2
    dx = smooth(dx[..., :-2, :], dx[..., 1:-1, :], dx[..., 2:, :])
    dy = smooth(dy[..., :-2], dy[..., 1:-1], dy[..., 2:])
    xx, yy, xy = ((a * b).sum(dim=1) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    largest = (xx + yy + ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
    return largest.sqrt(), torch.atan2(2 * xy, xx - yy) / 2


def thin(strength, across):
    """bool (B, H, W): where an edge is at least as strong as its neighbours on both sides, of which one may be equal."""
    sector = (across / (torch.pi / 4)).round().long() % 4                # 0 right, 1 down right, 2 down, 3 down left
    p = F.pad(strength, (1, 1, 1, 1))
    at = lambda dy, dx: p[:, 1 + dy:p.shape[1] - 1 + dy, 1 + dx:p.shape[2] - 1 + dx]
    after = torch.stack([at(0, 1), at(1, 1), at(1, 0), at(1, -1)])
    before = torch.stack([at(0, -1), at(-1, -1), at(-1, 0), at(-1, 1)])
    pick = lambda stack: stack.gather(0, sector[None])[0]
    return (strength > pick(before)) & (strength >= pick(after))


def components(mask):
    """The number of the connected piece (8 neighbours) that each pixel of a mask (B, H, W) belongs to, (B, H W); 0 outside.

    Every pixel starts with its place as its number. Each round, all pixels of one number take the largest one beside any of them;
    that number has a larger one by now itself, and so on, which is followed for 64 steps: whole pieces merge in a few rounds.
    """
    place = torch.arange(mask[0].numel(), device=mask.device)
    inside, number = mask.flatten(1), place.expand(len(mask), -1) * mask.flatten(1)
    while True:
        near = largest_near(number.reshape(mask.shape)).flatten(1) * inside
        if torch.equal(near, number):
            return number
        larger = place.expand(len(mask), -1).scatter_reduce(1, number, near, "amax")
        for _ in range(6):
            larger = larger.gather(1, larger)
        number = larger.gather(1, number) * inside


def largest_near(x):
    """(B, H, W): the largest value of the 3x3 pixels around each. (max_pool2d does the same, ten times as slowly on a CPU.)"""
    for axis in (1, 2):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, -1, 1)
        p, n = torch.cat([first, x, last], dim=axis), x.shape[axis]
        x = torch.maximum(torch.maximum(p.narrow(axis, 0, n), x), p.narrow(axis, 2, n))
    return x


# ------------------------------------------------------------------------------------------------ intensity

def intensity(images, which):
    """Pictures as grey, (B, 1, H, W): each by the weights GREYS[which], which (B,)."""
    return (images * images.new_tensor(GREYS)[which][:, :, None, None]).sum(dim=1, keepdim=True)


# ------------------------------------------------------------------------------------------------ masking

def masked(images, known):
    """What is left of pictures where `known` (B, 1, H, W) is 1: colours in [-1, 1], 0 in the hole, and `known` itself, (B, 4, H, W)."""
    return torch.cat([(2 * images - 1) * known, known], dim=1)


def random_known(n, size, generator=None, device=None):
    """Random masks with a hole, (n, 1, size, size), 1 where the picture is known: strokes 70 %, rectangles 20 %, halves 10 %."""
    u = torch.rand(n, 1, 1, generator=generator, device=device)
    holes = [make(n, size, generator, device) for make in (strokes, rectangles, halves)]
    hole = torch.where(u < .7, holes[0], torch.where(u < .9, holes[1], holes[2]))
    return 1 - hole[:, None].float()


def strokes(n, size, generator=None, device=None, corners=7):
    """bool (n, size, size): a thick line that wanders through the picture."""
    rand = lambda *shape: torch.rand(n, *shape, generator=generator, device=device)
    start, angle, length = rand(1, 2), rand(corners, 1) * 2 * torch.pi, .1 + .3 * rand(corners, 1)
    steps = torch.cat([angle.cos(), angle.sin()], dim=-1) * length
    points = torch.cat([start, (start + steps.cumsum(dim=1)).clamp(0, 1)], dim=1)              # (n, corners + 1, 2) in [0, 1]
    a, d = points[:, :-1, None], points.diff(dim=1)[:, :, None]                                # (n, corners, 1, 2)
    x = grid(size, device).reshape(-1, 2)
    along = (((x - a) * d).sum(-1) / d.square().sum(-1).clamp(min=1e-9)).clamp(0, 1)           # (n, corners, pixels)
    distance = (x - a - along[..., None] * d).norm(dim=-1).amin(dim=1)
    return (distance < .05 + .08 * rand(1)).reshape(n, size, size)


def rectangles(n, size, generator=None, device=None):
    """bool (n, size, size): a rectangle, whose sides are a quarter to three quarters of the picture's."""
    rand = torch.rand(2, n, 1, 1, 2, generator=generator, device=device)
    side = .25 + .5 * rand[0]
    corner = rand[1] * (1 - side)
    x = grid(size, device)
    return ((x >= corner) & (x < corner + side)).all(dim=-1)


def halves(n, size, generator=None, device=None):
    """bool (n, size, size): the left, right, upper or lower half."""
    which = torch.randint(4, (n, 1, 1), generator=generator, device=device)
    x, y = grid(size, device).unbind(-1)
    return torch.where(which < 2, x, y).lt(.5) ^ (which % 2 == 1)


def grid(size, device=None):
    """The centres of the pixels, (size, size, 2): x, then y, in [0, 1]."""
    centers = (torch.arange(size, device=device) + .5) / size
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x, y], dim=-1)
