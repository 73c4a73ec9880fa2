"""Objects with an ornament on one of their parts, as no training picture has; and which ornament, if any, a picture shows.

For papers that learn something local from one picture and put it elsewhere (CLiC). The judge knows the picture before the edit, so
it needs no network: it looks at what has changed towards the ornament's colour, and lays the outline of every ornament over it.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..metrics import psnr
from .canvas import PART_ID, Canvas, Paint
from .captions import ground_words
from .scenes import COLORS, PLAIN_GROUNDS, Scene, random_thing
from .things import ORNAMENTS, draw_ornament
from .world import draw

# The part that an ornament lies on, and how large it is there: its half-width, of the object's.
CARRIERS = {"mug": ("body", .42), "vase": ("body", .42), "pot": ("body", .42), "chair": ("back", .3), "sofa": ("back", .3)}
MEMBERS = "mug", "vase", "pot"                  # of `targets`; sources are mugs
RECOGNISED = .3                                 # renders fit by .8, what the autoencoder makes of them by .65
CYAN = (.05, .80, .80)                          # of no object
SIZES = (.16, .2, .25, .3, .36, .42)             # half-widths of the outlines that the judge tries, in units of half a picture


def carriers(member, n, seed, ornament=None, rgb=CYAN, size=64):
    """`n` plain photos of a member of CARRIERS; with `ornament` the same ones, with that on their part. Returns a Batch."""
    if member not in CARRIERS or ornament not in (None, *ORNAMENTS):
        raise ValueError(f"{ornament or 'no ornament'} on a {member}: expected one of {', '.join(ORNAMENTS)} on one of {', '.join(CARRIERS)}")
    rng, scenes = np.random.default_rng((seed, 300)), []
    for _ in range(n):
        thing = random_thing(rng, member, scale=float(rng.uniform(.78, .9)), x=float(rng.uniform(-.08, .08)), tilt=0.0)
        thing.paint = Paint(COLORS[thing.color])
        part, width = CARRIERS[member]
        thing.ornament = ornament and (ornament, part, rgb, width)
        scenes.append(Scene("object", int(rng.integers(1 << 30)), str(rng.choice(list(PLAIN_GROUNDS))), things=[thing]))
    return draw(scenes, [f"a {s.things[0].color} {member} {ground_words(s.background)}" for s in scenes], size)


def part_masks(batch, name="carrier"):
    """Where the carrying part is, its ornament included, or only the "ornament": (n, 1, S, S), 0 or 1."""
    parts = [(CARRIERS[s.things[0].member][0], "ornament") if name == "carrier" else (name,) for s in batch.scenes]
    is_part = [torch.isin(p, torch.tensor([PART_ID[k] for k in ks])) & (i == 1) for p, i, ks in zip(batch.parts, batch.instances, parts)]
    return torch.stack(is_part)[:, None].float()


def things(batch):
    """Words for the object in each picture: "red mug"."""
    return [f"{s.things[0].color} {s.things[0].member}" for s in batch.scenes]


def around(masks, by=3):
    """The upright box around each mask (n, 1, S, S), and `by` of 64 pixels more on all sides: as a person would draw it, and without
    a hint of the outline."""
    by = by * masks.shape[-1] // 64
    between = lambda line: line.cummax(-1).values * line.flip(-1).cummax(-1).values.flip(-1)          # from the first 1 to the last
    rows, columns = between(masks.amax(3)), between(masks.amax(2))                                    # (n, 1, S)
    return F.max_pool2d(rows[..., None] * columns[:, :, None], 2 * by + 1, 1, by)


@dataclass
class Targets:
    """Objects that are to get an ornament, one after the other.

    members: their names; things: with their colours, "white vase"; images (n, 3, S, S); masks (n, 1, S, S): the box in which the
    ornament would be; parts (n, 1, S, S): the whole part that would carry it; ornament: its name.
    """
    members: list
    things: list
    images: torch.Tensor
    masks: torch.Tensor
    parts: torch.Tensor
    ornament: str

    def measure(self, made):
        """{name_same, name_other: number} of these pictures with the ornament, (n, 3, S, S): score, recognised, psnr_outside.

        score: how well the ornament fits, see `matches`; recognised: it fits, and no other fits better; PSNR outside the masks.
        """
        fit, k = matches(self.images, made, self.parts), ORNAMENTS.index(self.ornament)
        of = {"score": fit[:, k], "recognised": ((fit.argmax(1) == k) & (fit[:, k] > RECOGNISED)).float(),
              "psnr_outside": psnr(made, self.images, 1 - self.masks)}
        return {key: value for name, values in of.items() for key, value in self.same_and_other(name, values).items()}

    def same_and_other(self, name, values):
        """{name_same, name_other}: means of values (n,) over objects of the first of MEMBERS, and over the others."""
        is_same = torch.tensor([member == MEMBERS[0] for member in self.members])
        return {f"{name}_same": float(values[is_same].mean()), f"{name}_other": float(values[~is_same].mean())}


def targets(ornament, seed, n=2):
    """Targets: n objects of each of MEMBERS."""
    plain, with_it = ([carriers(member, n, seed, o) for member in MEMBERS] for o in (None, ornament))
    return Targets([m for m in MEMBERS for _ in range(n)], [thing for b in plain for thing in things(b)], torch.cat([b.images for b in plain]),
                   around(torch.cat([part_masks(b, "ornament") for b in with_it])), torch.cat([part_masks(b) for b in plain]), ornament)


def matches(before, after, masks, rgb=CYAN):
    """How well each ornament fits what has changed inside a mask: (n, len(ORNAMENTS)), 0 to 1.

    The fit is the best overlap (intersection over union, of shares in place of yes and no) of an outline, of any of SIZES and
    anywhere in the mask, with how far each pixel has come from `before` to the colour `rgb`.

    before, after (n, 3, S, S); masks (n, 1, S, S).
    """
    way = torch.tensor(rgb).reshape(1, 3, 1, 1) - before
    share = (((after - before) * way).sum(1) / way.square().sum(1).clamp(min=.05)).clamp(0, 1) * masks[:, 0]         # (n, S, S)
    return torch.stack([torch.stack([_best(s, m, name) for name in ORNAMENTS]) for s, m in zip(share, masks[:, 0])])


def _best(share, mask, name):
    """Best overlap of one ornament's outline with `share` (S, S), its middle anywhere in the mask."""
    overlaps = [share.new_zeros(())]
    for size in SIZES:
        outline = _outline(name, size, len(share))                         # (k, k), k odd, 0 or 1
        both = F.conv2d(share[None, None], outline[None, None], padding=len(outline) // 2)[0, 0]    # min(share, outline), summed
        overlaps += [(both / (share.sum() + outline.sum() - both))[mask > 0]]
    return torch.cat([o.reshape(-1) for o in overlaps]).amax()


@lru_cache(maxsize=None)
def _outline(name, size, S):
    """The pixels that an ornament of half-width `size` covers in a picture of S pixels."""
    canvas = Canvas(2 * int(.55 * size * S) + 3)
    canvas.part[:] = 0
    draw_ornament(canvas, name, 0.0, 0.0, size * S / canvas.size, (1.0, 1.0, 1.0))
    return torch.from_numpy(canvas.part == PART_ID["ornament"]).float()
