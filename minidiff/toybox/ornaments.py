"""Objects with an ornament on one of their parts, as no training picture has; and which ornament, if any, a picture shows.

For papers that learn something local from one picture and put it elsewhere (CLiC). The judge knows the picture before the edit, so
it needs no network: it looks at what has changed towards the ornament's colour, and lays the outline of every ornament over it.
"""
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from .canvas import PART_ID, Canvas, Paint
from .captions import ground_words
from .scenes import COLORS, PLAIN_GROUNDS, Scene, random_scene, random_thing
from .things import ORNAMENTS, draw_ornament
from .world import draw

CARRIERS = {"mug": "body", "vase": "body", "pot": "body", "chair": "back", "sofa": "back"}      # the part that an ornament lies on
CYAN = (.05, .80, .80)                          # of no object
SIZES = (.7, .85, 1.0, 1.2, 1.4)                # of an outline, of the size that is drawn


def carriers(member, n, seed, ornament=None, rgb=CYAN, size=64):
    """`n` plain photos of a member of CARRIERS; with `ornament` the same ones, with that on their part. Returns a Batch."""
    if member not in CARRIERS or ornament not in (None, *ORNAMENTS):
        raise ValueError(f"{ornament or 'no ornament'} on a {member}: expected one of {', '.join(ORNAMENTS)} on one of {', '.join(CARRIERS)}")
    rng, scenes = np.random.default_rng((seed, 300)), []
    for _ in range(n):
        thing = random_thing(rng, member, scale=float(rng.uniform(.78, .9)), x=float(rng.uniform(-.08, .08)), tilt=0.0)
        thing.paint = Paint(COLORS[thing.color])
        thing.ornament = ornament and (ornament, CARRIERS[member], rgb)
        scenes.append(Scene("object", int(rng.integers(1 << 30)), str(rng.choice(list(PLAIN_GROUNDS))), things=[thing]))
    return draw(scenes, [f"a {s.things[0].color} {member} {ground_words(s.background)}" for s in scenes], size)


def part_masks(batch, name="carrier"):
    """Where the carrying part is, its ornament included, or only the "ornament": (n, 1, S, S), 0 or 1."""
    parts = [(CARRIERS[s.things[0].member], "ornament") if name == "carrier" else (name,) for s in batch.scenes]
    is_part = [torch.isin(p, torch.tensor([PART_ID[k] for k in ks])) & (i == 1) for p, i, ks in zip(batch.parts, batch.instances, parts)]
    return torch.stack(is_part)[:, None].float()


def matches(before, after, masks, rgb=CYAN, size=.25):
    """How well each ornament fits what has changed inside a mask: (n, len(ORNAMENTS)), 0 to 1.

    The fit is the best overlap (intersection over union, of shares in place of yes and no) of an outline, of any of SIZES and
    anywhere in the mask, with how far each pixel has come from `before` to the colour `rgb`.

    before, after (n, 3, S, S); masks (n, 1, S, S); size: half-width that is drawn, in units of half a picture.
    """
    S, colour = before.shape[-1], torch.tensor(rgb).reshape(1, 3, 1, 1)
    way = colour - before
    share = (((after - before) * way).sum(1) / way.square().sum(1).clamp(min=.05)).clamp(0, 1) * masks[:, 0]         # (n, S, S)
    return torch.stack([torch.stack([_best(s, m, name, size) for name in ORNAMENTS]) for s, m in zip(share, masks[:, 0])])


def _best(share, mask, name, size):
    """Best overlap of one ornament's outline with `share` (S, S), its middle anywhere in the mask."""
    S, best = len(share), share.new_zeros(())
    ys, xs = mask.nonzero(as_tuple=True)
    if not len(ys):
        return best
    for factor in SIZES:
        outline = _outline(name, size * factor, S)                                  # (k, k), k odd
        r = len(outline) // 2
        windows = F.unfold(F.pad(share, (r, r, r, r))[None, None], 2 * r + 1)[0].T.reshape(S, S, -1)[ys, xs]
        both = torch.minimum(windows, outline.flatten()).sum(-1)
        best = torch.maximum(best, (both / (share.sum() + outline.sum() - both)).amax())
    return best


def _outline(name, size, S):
    canvas = Canvas(2 * int(size * S / 2 * 1.1) + 3)
    canvas.rgb[:] = 0
    canvas.draw  # the canvas below is in pixels of the picture
    half = size * S / canvas.size
    draw_ornament(canvas, name, 0.0, 0.0, half, (1., 1., 1.))
    return torch.from_numpy(canvas.rgb.max(-1) > .4).float()
