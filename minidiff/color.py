"""Colours as people see them: CIELab, and the palette of a picture, a histogram over 156 named colours.

    name         meaning                                                                       shape
    -----------  ----------------------------------------------------------------------------  ----------------
    rgb          sRGB, gamma-encoded as in files, in [0, 1]                                    (..., 3) or (B, 3, H, W)
    lab          CIE 1976 L*a*b*: L 0 black to 100 white, a green to red, b blue to yellow     (..., 3)
    h            palette: share of the pixels near each colour of the codebook                 (B, 156)

Distances in Lab are roughly what people call differences: 2 is hardly seen, the nearest two colours of the codebook are 12 apart
as a rule. Libraries that keep Lab in bytes scale L to 0 .. 255 and shift a and b; distances mean nothing there.

Sources: sRGB, IEC 61966-2-1, white point D65; Lab, CIE 15. The codebook is that of Rayleigh (Karayev 2013), which Composer cites.
"""
import colorsys
from functools import lru_cache

import torch
from einops import rearrange

# Linear sRGB to XYZ: the columns are the three primaries. The rows sum to the white point.
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
CUT = 6 / 29                          # below, where the cube root would be too steep, Lab has a straight line

HUES = (0, .0833, .166, .25, .333, .5, .56333, .666, .73, .803, .916)
# Rows of each hue, see `codebook`. Composer says 5 lights: the full one and 4 that fall, as VideoComposer, of the same laboratory,
# counts them for its 156 colours; 5 that fall would make 180.
SATURATIONS, LIGHTS = 5, 4
COLORS = (len(HUES) + 1) * (SATURATIONS + 2 * LIGHTS)             # 156


def to_lab(rgb):
    """(..., 3) in [0, 1] -> (..., 3)."""
    linear = torch.where(rgb <= .04045, rgb / 12.92, ((rgb.clamp(min=.04045) + .055) / 1.055) ** 2.4)
    matrix = rgb.new_tensor(XYZ)
    x = linear @ matrix.T / matrix.sum(dim=1)
    f = torch.where(x > CUT ** 3, x.clamp(min=CUT ** 3) ** (1 / 3), x / (3 * CUT ** 2) + 4 / 29)
    fx, fy, fz = f.unbind(-1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-1)


def to_rgb(lab):
    """(..., 3) -> (..., 3); colours that no screen can show are outside [0, 1]."""
    L, a, b = lab.unbind(-1)
    fy = (L + 16) / 116
    f = torch.stack([fy + a / 500, fy, fy - b / 200], dim=-1)
    x = torch.where(f > CUT, f ** 3, 3 * CUT ** 2 * (f - 4 / 29))
    matrix = lab.new_tensor(XYZ)
    linear = x * matrix.sum(dim=1) @ torch.linalg.inv(matrix.double()).to(lab).T
    return torch.where(linear <= .0031308, 12.92 * linear, 1.055 * linear.clamp(min=.0031308) ** (1 / 2.4) - .055)


@lru_cache
def codebook():
    """The colours of a palette, in Lab: (156, 3).

    For each hue 13: five of rising saturation, the full colour, four of falling light, and three paler ones of falling light; and
    a column of as many greys, white to black.
    """
    s = torch.linspace(0, 1, SATURATIONS + 2)[1:-1].tolist()
    v = torch.linspace(1, .2, LIGHTS + 2)[1:-1].tolist()
    rows = [(x, 1) for x in s] + [(1, 1)] + [(1, x) for x in v] + [(.4, x) for x in v[:-1]]
    colors = [colorsys.hsv_to_rgb(hue, *row) for hue in HUES for row in rows]
    colors += [(x, x, x) for x in torch.linspace(1, 0, len(rows)).tolist()]
    return to_lab(torch.tensor(colors))


@lru_cache
def kernel(sigma=10.0):
    """How much of a pixel of colour j counts for colour i, (156, 156): a Gaussian of their distance in Lab. Columns sum to 1.

    sigma is in units of Lab. (As many bins instead would make every palette the same.)
    """
    lab = codebook()
    k = torch.exp(-torch.cdist(lab, lab).square() / (2 * sigma ** 2))
    return k / k.sum(dim=0, keepdim=True)


def palette(images, sigma=10.0):
    """The palette of pictures (B, 3, H, W) in [0, 1]: (B, 156), sums to 1. Where the pixels are does not matter."""
    lab, smooth = codebook().to(images), kernel(sigma).to(images)
    counts = torch.stack([nearest(rearrange(x, "c h w -> (h w) c"), lab).bincount(minlength=len(lab)) for x in images])
    return counts.to(images) / counts.sum(dim=1, keepdim=True) @ smooth.T


def nearest(rgb, lab):
    """Which of the colours `lab` (n, 3) each of the pixels (N, 3) is nearest to, (N,)."""
    return (lab.square().sum(dim=1) - 2 * to_lab(rgb) @ lab.T).argmin(dim=1)                   # |x - c|^2 without |x|^2


def painted(h, side=64):
    """A palette (156,) as stripes, widest colour first, (3, side, side): for figures."""
    order = h.argsort(descending=True)
    ends = (h[order].cumsum(0) / h.sum() * side).round().long()
    which = torch.searchsorted(ends, torch.arange(side, device=h.device), right=True).clamp(max=len(h) - 1)
    colors = to_rgb(codebook().to(h)[order[which]]).clamp(0, 1)                                # (side, 3)
    return rearrange(colors, "w c -> c 1 w").expand(3, side, side)
