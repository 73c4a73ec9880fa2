"""Pictures made larger by diffusion: the later stages of a cascade. papers/upsampler.py trains them.

    picture, 64 pixels -> upsampler_128 -> 128 pixels -> upsampler_256 -> 256 pixels

Ho, Saharia, Chan, Fleet, Norouzi, Salimans, "Cascaded Diffusion Models for High Fidelity Image Generation", arXiv:2106.15282.

    paper     code      meaning                                                              shape
    --------  --------  -------------------------------------------------------------------  ------------------------
    z, z_s    z, z_s    the small picture in [-1, 1]; with noise of deviation s              (n, 3, low, low)
    -         b, b_s    both, enlarged by bicubic interpolation                              (n, 3, high, high)
    x_0       x_0       what the large picture has and b has not, over `std`, as patches     (n, 3 p p, high/p, high/p)
    x_theta   unet      predicts x_0 of x_t, told t, b_s and s                               the same

A folder is that of a UNet, with a schedule beside it; config.json also says low, high, std and noise (the largest s in training).
"""
import math

import torch
import torch.nn.functional as F
from einops import rearrange

from . import devices
from .checkpoints import CheckpointError, find, read_config
from .pipeline import half_on_gpu
from .samplers import generators, noise, sample
from .schedule import Schedule
from .unet import UNet

NUMBERS = ("low", "high", "std", "noise")


class Upsampler:
    """One stage. upsampler(x) -> (n, 3, high, high) in [0, 1], of pictures x (n, 3, low, low) in [0, 1].

    steps, s: of sampling by default; s is the deviation of the noise that hides from the network how x was made.
    Its convolutions have no size of their own: other pictures are enlarged too, by high / low.
    """
    steps, s = 8, .05

    def __init__(self, unet, schedule, low, high, std, noise):
        self.unet, self.schedule, self.low, self.high, self.std, self.noise = unet, schedule, low, high, std, noise
        self.patch = math.isqrt(unet.config["out_channels"] // 3)
        self.factor = high // low

    @classmethod
    def from_pretrained(cls, folder, device=None):
        config = read_config(folder)
        missing = [name for name in NUMBERS if not isinstance(config.get(name), (int, float)) or config[name] <= 0]
        if missing:
            raise CheckpointError(f"{folder}/config.json does not say {', '.join(missing)}; expected an upsampler, "
                                  "such as papers/upsampler.py trains")
        if config["high"] <= config["low"] or config["high"] % config["low"]:
            raise CheckpointError(f"{folder}/config.json: from {config['low']} to {config['high']} pixels; expected a whole number of times as many")
        return cls(UNet.from_pretrained(folder, device, torch.float32), Schedule.from_pretrained(folder), **{k: config[k] for k in NUMBERS})

    @property
    def config(self):
        """What its config.json says."""
        return {**self.unet.config, **{k: getattr(self, k) for k in NUMBERS}}

    @property
    def device(self):
        return next(self.unet.parameters()).device

    def enlarged(self, z):
        """b."""
        return F.interpolate(z, scale_factor=self.factor, mode="bicubic", align_corners=False)

    def missing_of(self, y, b):
        """x_0, of a large picture y in [-1, 1]."""
        return in_patches((y - b) / self.std, self.patch)

    def predict(self, x_t, t, b_s, s):
        """x_0 according to the UNet; s (n,).

        It sees sqrt(alpha_bar) x_t, the best linear guess of an x_0 of variance 1: where x_t is only noise, it sees nothing of it.
        """
        guess = self.schedule.alpha_bar_at(t, x_t).sqrt() * x_t
        plane = (s / self.noise).reshape(-1, 1, 1, 1).expand(-1, 1, *x_t.shape[-2:])
        return self.unet(torch.cat([guess, in_patches(b_s, self.patch), plane.to(x_t)], dim=1), t)

    @torch.no_grad()
    def __call__(self, x, steps=None, s=None, seed=0, batch=16):
        """steps, s: see above.   seed: of the first picture, the others count on; or see `samplers.noise`."""
        seeds, out = generators(seed, len(x)), []
        for part in x.split(batch):
            own, seeds = seeds[:len(part)], seeds[len(part):]
            out.append(self.enlarge(part.to(self.device), steps or self.steps, self.s if s is None else s, own))
        return torch.cat(out)

    def enlarge(self, x, steps, s, seeds):
        z = 2 * x - 1
        b, b_s = self.enlarged(z), self.enlarged(z + s * noise(x.shape, seeds, x.device))
        told = torch.full((len(x),), float(s), device=x.device)

        def predict(x_t, t):
            with half_on_gpu(x.device):
                return self.predict(x_t, t, b_s, told).float()
        side = (x.shape[-2] * self.factor // self.patch, x.shape[-1] * self.factor // self.patch)
        x_0 = sample(predict, self.schedule, noise((len(x), 3 * self.patch ** 2, *side), seeds, x.device), steps)
        return ((b + self.std * in_pixels(x_0, self.patch)) / 2 + .5).clamp(0, 1).cpu()


def in_patches(x, p):
    """Pictures -> maps of a p-th of the side, with the p x p pixels of each place as channels."""
    return rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)


def in_pixels(x, p):
    """The inverse of `in_patches`."""
    return rearrange(x, "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)


def cascade(folder, low, high, device=None):
    """The upsamplers in a model's folder that lead from `low` to `high` pixels, in order. CheckpointError if one is missing."""
    folder, found, size = find(folder), [], high
    while size > low:
        place = folder / f"upsampler_{size}"
        if not place.is_dir():
            raise CheckpointError(f"{folder} has no upsampler to {size} pixels; `python papers/upsampler.py train --to {size} --out FOLDER` "
                                  "trains one, for a model in FOLDER")
        found.insert(0, Upsampler.from_pretrained(place, devices.pick(device)))
        size = found[0].low
    if size != low:
        raise CheckpointError(f"the upsamplers of {folder} lead from {size} pixels to {high}, these pictures have {low}")
    return found


def upsample(stages, x, seed=0, steps=None, s=None):
    """Pictures (n, 3, low, low) in [0, 1] through the stages of a `cascade`."""
    for stage in stages:
        x = stage(x, steps, s, seed)
    return x
