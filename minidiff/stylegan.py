"""A style-based generator and its discriminator. Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"
(StyleGAN2, arXiv:1912.04958); the space of styles: Wu et al. 2021, "StyleSpace Analysis" (arXiv:2011.12799).

    paper       code         meaning                                                       shape
    ----------  -----------  ------------------------------------------------------------  ---------------------
    z           z            normal random vector                                          (B, z)
    w           w            what the mapping network makes of it                          (B, z), or (B, layers, z)
    A           affine       learned map from w to the style of one layer
    s           s            style: one factor for each input channel of a convolution     (B, C)
    S space     styles       the styles of all layers                                      list of (B, C_l)
    B           noise        one random value per pixel, scaled by a learned strength      list of (B, 1, R, R)
    tRGB        rgb          1x1 convolution to a picture, added up over the resolutions   (B, 3, R, R)

Differs from StyleGAN2, to be small: the finest features have half the resolution of the picture, and each of their pixels gives
2x2 pixels of colour, blurred a little (the discriminator begins with 2x2 pixels as one); doubling repeats pixels where the paper
blurs. A generator of 64 x 64 pixels has the resolutions 4, 8, 16, 32.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .checkpoints import from_folder, save_folder


class Linear(nn.Module):
    """A fully connected layer with equalised learning rate: weights of unit variance, scaled when they are used."""

    def __init__(self, inputs, outputs, bias=0.0, rate=1.0, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias) / rate))
        self.scale, self.rate = gain * rate * inputs ** -0.5, rate

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with equalised learning rate. `gain` makes up for the activation that follows it."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, gain=2 ** 0.5, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.stride, self.padding = gain * (inputs * kernel ** 2) ** -0.5, stride, (kernel - 1) // 2

    def forward(self, x):
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


def activate(x):
    return F.leaky_relu(x, 0.2)


class StyledConv(nn.Module):
    """Modulate, convolve, demodulate, add noise, activate. Karras et al. 2020, Sec. 2.2."""

    def __init__(self, width, inputs, outputs, up=False):
        super().__init__()
        self.affine = Linear(width, inputs, bias=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.strength = nn.Parameter(torch.zeros(()))
        self.up = up

    def forward(self, x, s, noise=None):
        """x (B, C, R, R), s (B, C), noise (B, 1, R', R') or None for none -> (B, C', R', R'), where R' is R, or 2 R with `up`."""
        w = self.weight * (self.weight[0].numel() ** -0.5)
        x = self.convolve(x * rearrange(s, "b c -> b c 1 1"), w)                     # Eq. (1): scaling the input scales w
        x = x * rearrange(demodulation(w, s), "b c -> b c 1 1")                      # Eq. (3)
        if noise is not None:
            x = x + self.strength * noise
        return activate(x + self.bias)

    def convolve(self, x, w):
        if not self.up:
            return F.conv2d(x, w, padding=1)
        # each pixel repeated 2x2, then w: the same as one transposed convolution with w summed over 2x2 shifts, at half the cost
        w = sum(F.pad(w, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1))      # (C', C, 4, 4)
        return F.conv_transpose2d(x, rearrange(w.flip(2, 3), "o i h w -> i o h w"), stride=2, padding=1)


def demodulation(w, s, eps=1e-8):
    """Factors that bring the outputs of a convolution back to unit variance, if its input had it before s: (B, C'). Eq. (3).

    w (C', C, k, k), s (B, C).
    """
    return (s.square() @ w.square().sum((2, 3)).T + eps).rsqrt()


class ToRGB(nn.Module):
    """1x1 convolution to 2x2 pixels of colour at each place; modulated, not demodulated."""

    def __init__(self, width, inputs, patch):
        super().__init__()
        self.affine = Linear(width, inputs, bias=1)
        self.weight = nn.Parameter(torch.randn(3 * patch ** 2, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3 * patch ** 2))
        self.patch = patch

    def forward(self, x, s):
        s = s * self.weight.shape[1] ** -0.5
        x = F.conv2d(x * rearrange(s, "b c -> b c 1 1"), self.weight, self.bias)
        return smooth(F.pixel_shuffle(x, self.patch)) if self.patch > 1 else x


def smooth(picture):
    """Blur with (1, 2, 1) / 4 both ways: takes out exactly the pattern of single pixels, which the 2x2 places would leave."""
    k = picture.new_tensor([0.25, 0.5, 0.25])
    picture = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(picture, (k[:, None] * k).expand(3, 1, 3, 3), groups=3)


class Generator(nn.Module):
    """z -> w -> styles -> a picture in about [-1, 1].

    channels: of each resolution, 4 first. mapping: layers of the mapping network.
    Styles, noises and layers count alike: `layers` has one name for each style, such as "16_up", "16_conv", "16_rgb".
    """

    def __init__(self, width=64, channels=(64, 64, 64, 48), mapping=4):
        super().__init__()
        self.config = {"_class_name": "Generator", "width": width, "channels": list(channels), "mapping": mapping}
        self.width = width
        self.mapping = nn.ModuleList(Linear(width, width, rate=0.01, gain=2 ** 0.5) for _ in range(mapping))
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        blocks, before = {}, channels[0]
        for i, c in enumerate(channels):
            size, last = 4 * 2 ** i, i == len(channels) - 1
            if i:
                blocks[f"{size}_up"] = StyledConv(width, before, c, up=True)
            blocks[f"{size}_conv"] = StyledConv(width, c, c)
            blocks[f"{size}_rgb"] = ToRGB(width, c, patch=2 if last else 1)
            before = c
        self.blocks = nn.ModuleDict(blocks)
        self.layers = tuple(blocks)
        self.size = 8 * 2 ** (len(channels) - 1)
        self.register_buffer("w_mean", torch.zeros(width))

    def map(self, z):
        """z (B, width) -> w (B, width)."""
        w = z * (z.square().mean(-1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def styles(self, w):
        """w (B, width), or one w per layer (B, layers, width) -> list of (B, C_l), one for each name in `layers`."""
        w = rearrange(w, "b d -> b 1 d").expand(-1, len(self.layers), -1) if w.ndim == 2 else w
        return [block.affine(w[:, i]) for i, block in enumerate(self.blocks.values())]

    def noise(self, n, generator=None):
        """Random values for every layer; tRGB layers have none."""
        device = self.constant.device
        return [None if name.endswith("rgb") else torch.randn(n, 1, size, size, generator=generator, device=device)
                for name, size in ((name, int(name.split("_")[0])) for name in self.layers)]

    def synthesize(self, styles, noise=None):
        """Pictures (B, 3, size, size) from styles: list of (B, C_l); noise: list of (B, 1, R, R), or None for none."""
        x = self.constant.expand(len(styles[0]), -1, -1, -1)
        picture = None
        for i, (name, block) in enumerate(self.blocks.items()):
            if name.endswith("rgb"):
                colour = block(x, styles[i])
                picture = colour if picture is None else colour + enlarge(picture, colour.shape[-1])
            else:
                x = block(x, styles[i], noise and noise[i])
        return picture

    def forward(self, z, noise=None):
        return self.synthesize(self.styles(self.map(z)), noise)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None):
        make = lambda config: cls(config["width"], config["channels"], config["mapping"])
        return from_folder(make, folder, device, dtype or torch.float32)

    def save(self, folder):
        save_folder(self, self.config, folder)


def enlarge(picture, size):
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """Two convolutions, the second halving the picture, beside a straight way; the sum keeps unit variance."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = Conv(inputs, inputs)
        self.down = Conv(inputs, outputs, 4, stride=2)
        self.skip = Conv(inputs, outputs, 1, gain=1, bias=False)

    def forward(self, x):
        y = activate(self.down(activate(self.conv(x))))
        return (y + self.skip(F.avg_pool2d(x, 2))) * 0.5 ** 0.5


class Discriminator(nn.Module):
    """Pictures (B, 3, size, size) in [-1, 1] -> (B,): how real they look. `channels` of each resolution, the finest first."""

    def __init__(self, channels=(32, 64, 96, 96), group=8):
        super().__init__()
        self.first = Conv(12, channels[0])
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(channels, channels[1:]))
        c = channels[-1]
        self.last = Conv(c + 1, c)
        self.hidden = Linear(c * 16, c, gain=2 ** 0.5)
        self.out = Linear(c, 1)
        self.group = group

    def forward(self, x):
        x = activate(self.first(F.pixel_unshuffle(x, 2)))
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(torch.cat([x, variety(x, self.group)], 1)))
        return self.out(activate(self.hidden(x.flatten(1))))[:, 0]


def variety(x, group):
    """How much pictures differ: the mean standard deviation over a group of pictures, the same for all of it. (B, 1, H, W).

    Karras et al. 2018, "minibatch standard deviation". A generator that always draws the same is found out by it.
    """
    group = min(group, len(x))
    if len(x) % group:
        raise ValueError(f"{len(x)} pictures do not divide into groups of {group}")
    y = rearrange(x, "(g n) c h w -> g n c h w", g=group)
    std = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))                   # (n,)
    return rearrange(std.repeat(group), "b -> b 1 1 1").expand(-1, 1, *x.shape[2:])
