"""The meter: a small convolutional network that reads attributes off toybox pictures, so that effects can be measured.

It is trained on renders in which all attributes are independent (a meter that had learnt "glasses mean old" would see a
change of age where there is none), blurred and noised at random, since it must judge pictures that a model has sampled.

    python -m minidiff.toybox.meter                     trains it and writes the weights with each head's accuracy
    python -m minidiff.toybox.meter --score 770011      the accuracy of the shipped one on fresh renders
"""
import argparse
import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .. import command
from ..checkpoints import find, from_folder, save_folder
from .world import CLASSES, NUMBERS


class Meter(nn.Module):
    """images (n, 3, S, S) in [0, 1] -> one output per head: logits over the names in CLASSES, or a number of NUMBERS."""

    def __init__(self, width=32):
        super().__init__()
        self.config = {"_class_name": "Meter", "width": width}
        channels = [3, width, 2 * width, 3 * width, 4 * width]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(channels, channels[1:]))      # 32 16 8 4
        self.blocks = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in channels[1:])
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in channels[1:])
        self.hidden = nn.Linear(channels[-1] * 16, 256)
        self.heads = nn.ModuleDict({k: nn.Linear(256, len(CLASSES[k]) if k in CLASSES else 1) for k in (*CLASSES, *NUMBERS)})

    def layers(self, images):
        """The four feature maps on the way, of 32, 16, 8 and 4 pixels; also the space of the perceptual distance.

        images: (n, 3, S, S) in [0, 1]; anything but 64 pixels is resized.
        """
        images = images.to(self.hidden.weight)                  # to the meter's device and type
        if images.shape[-1] != 64 or images.shape[-2] != 64:
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        x, maps = images * 2 - 1, []
        for conv, norm, block in zip(self.convs, self.norms, self.blocks):
            x = F.silu(norm(conv(x)))
            x = x + F.silu(block(x))
            maps.append(x)
        return maps

    def features(self, images):
        """(n, 256): what the heads read; also the space of the Frechet distance."""
        return F.silu(self.hidden(self.layers(images)[-1].flatten(1)))

    def forward(self, images):
        h = self.features(images)
        return {k: head(h) if k in CLASSES else head(h)[:, 0] for k, head in self.heads.items()}

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None):
        return from_folder(lambda config: cls(config.get("width", 32)), folder, device, dtype or torch.float32)


@lru_cache
def shipped():
    """The meter that comes with minidiff."""
    return Meter.from_pretrained(find("toybox") / "meter")


@torch.no_grad()
def measure(images, meter=None):
    """What the meter reads off pictures.

    Args:
        images: (n, 3, S, S) in [0, 1]; anything but 64 pixels is resized.

    Returns {name: tensor}: for classes `name` (n,) int64, an index into CLASSES[name], and `name_p` (n, names)
    probabilities; for numbers `name` (n,) float32. Every head answers for every picture, whether it applies or not.
    """
    meter = meter or shipped()
    parts = [meter(chunk) for chunk in images.split(256)]
    out = {}
    for k in parts[0]:
        value = torch.cat([p[k] for p in parts]).float().cpu()
        out[k] = value.argmax(-1) if k in CLASSES else value
        if k in CLASSES:
            out[f"{k}_p"] = value.softmax(-1)
    return out


# ------------------------------------------------------------------------------------------------ training

def meter_loss(out, truth):
    """Cross-entropy of every class and squared error of every number, each over the pictures that have it."""
    total = 0.0
    for k, prediction in out.items():
        target = truth[k]
        has = target >= 0 if k in CLASSES else ~target.isnan()
        if has.any():
            total = total + (F.cross_entropy(prediction[has], target[has]) if k in CLASSES
                             else 4 * F.mse_loss(prediction[has], target[has]))
    return total


def roughen(x, generator):
    """Blur some pictures a little, add a little noise and change brightness, as a sampled picture may be."""
    rand = lambda: torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, soft, rand() * (rand() < .6))
    x = x + .05 * rand() * torch.randn(x.shape, generator=generator, device=x.device) + .06 * (rand() - .5)
    return x.clamp(0, 1)


@torch.no_grad()
def accuracy(meter, images, truth):
    """{head: accuracy, or R^2 for numbers} over the pictures that have the attribute."""
    read, scores = measure(images, meter), {}
    for k in meter.heads:
        target = truth[k]
        has = target >= 0 if k in CLASSES else ~target.isnan()
        hit, want = read[k][has], target[has]
        scores[k] = float((hit == want).double().mean()) if k in CLASSES else float(1 - (hit - want).square().mean() / want.var())
    return scores


def train(args):
    from .. import devices
    from ..training import Run, main_process_first
    from .store import prepare
    with main_process_first():
        store = prepare(args.out / "meter_store", args.pictures, args.seed, correlated=False)
    torch.manual_seed(args.seed)
    meter = Meter().to(devices.pick())
    run = Run(args.out / "meter", {"meter": meter}, lr=1e-3, steps=args.steps, minutes=args.minutes, batch=128, ema=0.998, seed=args.seed,
              fresh=args.fresh, name="meter")
    truth = {k: v.to(run.device) for k, v in store.attributes().items()}
    for step, generator in run:
        index = torch.randint(len(store), (run.batch,), generator=generator, device=run.device)
        x = roughen((store.images(index.cpu()).to(run.device) + 1) / 2, generator)
        with devices.autocast(run.device):
            out = meter(x)
        run.update(meter_loss({k: v.float() for k, v in out.items()}, {k: v[index] for k, v in truth.items()}))
    if run.rank > 0:
        return
    meter = run.averaged("meter").eval()
    scores = score(meter, args.seed + 1)
    save_folder(meter, {**meter.config, "accuracy": scores}, args.out / "meter")


def score(meter, seed):
    """Prints and returns each head's accuracy on 4,000 renders of `seed`."""
    from .world import sample
    fresh = sample(4000, seed=seed, correlated=False)
    scores = accuracy(meter, fresh.images, fresh.attributes)
    print("\n".join(f"{k:12s} {v:.3f}" for k, v in scores.items()))
    return scores


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox"))
    parser.add_argument("--minutes", type=float, default=45.0, help="stop after this long (whichever of minutes and steps comes first)")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    parser.add_argument("--score", type=int, metavar="SEED", help="train nothing: score the shipped meter on fresh renders of this seed")
    args = parser.parse_args(argv)
    check(parser, args)
    command.run(parser.prog, train if args.score is None else lambda args: score(shipped(), args.score), args)


def check(parser, args):
    """Refuse numbers that cannot work, before anything is drawn."""
    for name, low in {"steps": 1, "batch": 1, "pictures": 1, "seed": 0, "score": 0}.items():
        value = getattr(args, name, None)
        if value is not None and value < low:
            parser.error(f"--{name} is {value}, expected at least {low}")
    if not 0 < args.minutes < math.inf:
        parser.error(f"--minutes is {args.minutes:g}, expected a number above 0")


if __name__ == "__main__":
    main()
