"""The tables of CLiC on toybox: protocols, and nothing else. Run by `python papers/clic.py eval`.

    --table     paper            what it shows
    ----------  ---------------  -------------------------------------------------------------------------------------------
    transfer    Fig. 3 and 7     an ornament moved to objects of the source's class and of others; blending and guidance off
    ablation    Fig. 8           without each of the three losses
    guidance    Fig. 9           eta from 0 up
    start       Sec. 3.2         t_start from 0 up
    masks       Fig. 4 and 5     found masks against the true ones, in a target and in several sources
    generation  Fig. 2           new objects with the ornament: in two stages, in one, and learned without its context (l_con)
    rank        Table 1          CLiC and three other papers' files on the same sources, targets and masks

    column        what it is
    ------------  ----------------------------------------------------------------------------------------------------------
    score         overlap of what has changed towards the ornament's colour with the ornament's outline, see toybox/ornaments.py
    recognised    share in which no other ornament fits better, and this one fits
    PSNR          outside the target mask, to the target; what the autoencoder alone reaches is the row "as it is"
    IoU of v*     of where v* looks in the source, cut at .4, with the source's mask
    in place      of what has the ornament's colour, the share in the box in which an ornament belongs (see `in_place`); 0 for a
                  picture that has less of the colour than 1 % of its pixels. Ablation: of targets whose mask is the whole object
    outline       ablation: the score on those targets, whose mask tells neither place nor size (Fig. 8: there l_RoI keeps the geometry)
    on an object  share in which there is an object around the ornament, and not the ornament alone (see `Surroundings`)
    both          mean of "in place" over the pictures of an object, 0 for the others
    class kept    share in which the meter still names the target's class
    rank          of four methods on one target, 4 is best: mean of the rank in edit quality (by score) and in preservation (mean of
                  the ranks by PSNR, in whole dB, and by class kept); equal values share a rank. In the paper people rank

The paper has no numbers but those of a user study. Each column is a mean over targets of the source's class (same), or of other
classes (other), then over training seeds, with their standard deviation. Every seed learns another ornament from another mug. What was learned is
kept in OUT; use another --out to learn again.

The other methods, each by its own file and with that file's defaults: Custom Diffusion learns "a photo of a <new1> mug" from the source, and
renders of mugs beside it; Break-A-Scene "a photo of a <new1>" from source and mask. Neither edits: their words are put into the target's
mask by the same blended sampling as CLiC's, without guidance of attention. RealFill learns from the source alone, and fills the target's
mask: taught the targets around their masks as well, as its own file would, it fills them with plain walls.
"""
import argparse
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import clic as paper
import torch

from minidiff import deltas, images, toybox
from minidiff.checkpoints import write_atomically, write_json
from minidiff.metrics import markdown, mean_std, psnr, ranks
from minidiff.tensorfile import read_tensors
from minidiff.toybox import ornaments
from minidiff.toybox.meter import roughen, shipped
from minidiff.toybox.things import ORNAMENTS
from minidiff.toybox.world import CLASSES

LEARNED = ("heart", "bolt", "clover", "crown")                  # stars and spirals do not survive the autoencoder
COLUMNS = {"": "", "score_same": "score, same", "score_other": "other", "recognised_same": "recognised, same", "recognised_other": "other",
           "psnr_outside_same": "PSNR, same", "psnr_outside_other": "other"}


def run(args):
    """Makes the tables asked for, and puts all that were ever made in --out together in table.md and table.json."""
    chosen = list(TABLES) if args.table == "all" else [args.table]
    if not set(chosen) <= set(TABLES):
        raise ValueError(f"--table {args.table}: expected all or one of {', '.join(TABLES)}")
    for name in chosen:
        title, columns, rows = TABLES[name](args)
        write_json(args.out / "tables" / f"{name}.json", {"title": title, "columns": columns, "rows": rows})
        print(as_markdown(title, columns, rows))
    files = {name: args.out / "tables" / f"{name}.json" for name in TABLES}
    made = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    text = "\n".join(as_markdown(**table) for table in made.values())
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    write_json(args.out / "table.json", made)


def as_markdown(title, columns, rows):
    return f"**{title}**\n\n" + markdown(rows, columns)


# ------------------------------------------------------------------------------------------------ what the tables share

def options(args, i, **changes):
    """The options of training seed i, which has an ornament of its own."""
    return argparse.Namespace(**vars(args) | {"seed": args.seed + 10 + i, "ornament": LEARNED[i % len(LEARNED)]} | changes)


def learned(args, name):
    """A model that has learned the concept of these options, from OUT/concepts if it is there; and the source and its mask."""
    return taken(args, name)[:4]


def taken(args, name):
    """The same, and the weights before."""
    folder = args.out / "concepts" / f"{name}_{args.seed}"
    pipe, is_there = paper.load(args), (folder / "delta.safetensors").is_file()
    picture, mask, thing, W_0, _ = paper.take(pipe, argparse.Namespace(**vars(args) | {"out": folder, "learned": folder if is_there else None}))
    return pipe, picture, mask, thing, W_0


def put(pipe, args):
    """Measures of the ornament put on toybox's targets."""
    targets = paper.ornaments.targets(args.ornament, 20 + args.seed)
    return targets.measure(paper.transferred(pipe, targets.images, targets.masks, targets.things, args))


def looks(pipe, picture, mask, thing, args):
    """IoU of where v* looks in the source with its mask."""
    with torch.no_grad():
        maps = paper.where(pipe, pipe.encode(picture), paper.says(pipe, "source", thing), paper.TOKEN, args.seed)
    return float(paper.overlap(paper.cut(maps, mask.shape[-2:]).cpu(), mask).mean())


def in_place(pictures, boxes):
    """Of what is of the ornament's colour, the share in the boxes (n, 1, S, S), for each picture (n, 3, S, S); 0 if hardly anything is."""
    is_cyan = (pictures[:, 1:].amin(1) - pictures[:, 0] > .3).float()                                   # nothing else in toybox is: (n, S, S)
    n = is_cyan.sum((1, 2))
    return torch.where(n > .01 * is_cyan[0].numel(), (is_cyan * boxes[:, 0]).sum((1, 2)) / n.clamp(min=1), 0)


def on_whole_objects(pipe, args):
    """Of the ornament on targets whose mask is the whole object: {"place": share in its place, "outline": its fit}. Source: Fig. 8."""
    targets = ornaments.targets(args.ornament, 20 + args.seed)
    objects = torch.cat([ornaments.carriers(member, 2, 20 + args.seed).instances for member in ornaments.MEMBERS])
    whole = objects[:, None].clamp(max=1).float()
    made = paper.transferred(pipe, targets.images, whole, targets.things, args)
    fit = ornaments.matches(targets.images, made, whole)[:, ORNAMENTS.index(args.ornament)]
    return {"place": float(in_place(made, targets.masks).mean()), "outline": float(fit.mean())}


def boxes_on(pictures, member, ornament):
    """Where an ornament would be on new objects (n, 3, S, S): on the one of many renders whose outline fits best, (n, 1, S, S).

    The outline is what differs from the ground of its row.
    """
    known, boxes = known_objects(member, ornament, pictures.shape[-1])
    outlines = ((pictures - ground_of(pictures)).abs().amax(1) > .15).flatten(1).float()
    both = outlines @ known.T
    return boxes[(both / (outlines.sum(1, keepdim=True) + known.sum(1) - both)).argmax(1)]


class Surroundings:
    """Tells objects with an ornament from the ornament alone, its box on a plain ground.

    A linear function of what the meter sees, fitted by least squares on renders, blurred and noised as the meter's own are.
    `accuracy` is on fresh renders of both.
    """

    def __init__(self, ornament, n=100, seed=60):
        x, y = self.seen(ornament, n, seed)
        self.mean, self.std = x.mean(0), x.std(0) + 1e-6
        A = self.standardised(x)
        self.w = torch.linalg.solve(A.T @ A + .1 * len(A) * torch.eye(A.shape[1]), A.T @ y)
        x, y = self.seen(ornament, n // 2, seed + 1)
        self.accuracy = float(((self.standardised(x) @ self.w > 0) == (y > 0)).double().mean())

    @torch.no_grad()
    def seen(self, ornament, n, seed):
        """Features (2 n 3, F) of n renders of each of MEMBERS and of their ornaments alone, and 1 or -1."""
        pictures = []
        for member in ornaments.MEMBERS:
            renders = ornaments.carriers(member, n, seed, ornament)
            halves = ornaments.part_masks(renders, "ornament").chunk(2)
            boxes = torch.cat([ornaments.around(half, by) for half, by in zip(halves, (3, 6))])
            pictures += [renders.images, torch.where(boxes > 0, renders.images, ground_of(renders.images))]
        x = shipped().features(roughen(torch.cat(pictures), torch.Generator().manual_seed(seed))).double()
        return x, torch.tensor([1.0, -1.0]).repeat_interleave(n).repeat(len(ornaments.MEMBERS)).double()

    def standardised(self, x):
        return torch.cat([(x - self.mean) / self.std, torch.ones(len(x), 1)], dim=1)

    @torch.no_grad()
    def __call__(self, pictures):
        """(n,) bool: is there an object around the ornament?"""
        return self.standardised(shipped().features(pictures).double()) @ self.w > 0


@lru_cache(maxsize=None)
def surroundings(ornament):
    return Surroundings(ornament)


def ground_of(pictures):
    """The colour at the left and right border of each row, (n, 3, S, 1): backgrounds have to be plain."""
    return torch.cat([pictures[..., :3], pictures[..., -3:]], dim=-1).median(-1, keepdim=True).values


@lru_cache(maxsize=None)
def known_objects(member, ornament, size):
    """Outlines (200, S S) of renders, and the boxes of their ornaments, (200, 1, S, S)."""
    renders = ornaments.carriers(member, 200, 50, ornament, size=size)
    return renders.instances.clamp(max=1).flatten(1).float(), ornaments.around(ornaments.part_masks(renders, "ornament"))


def row(name, measures):
    """One row from the measures of each seed, a list of dicts."""
    return {"": name} | {key: mean_std([m[key] for m in measures], 1 if "psnr" in key else 2) for key in measures[0]}


def swept(args, settings):
    """A row for each {name: changed options}, with concepts learned once."""
    found = {name: [] for name in settings}
    for i in range(args.repeats):
        own = options(args, i)
        pipe, *_ = learned(own, "full")
        for name, changes in settings.items():
            found[name].append(put(pipe, argparse.Namespace(**vars(own) | changes)))
    return [row(name, measures) for name, measures in found.items()]


# ------------------------------------------------------------------------------------------------ the tables

def transfer(args):
    """As it is: no step at all is made, which leaves what the autoencoder makes of the target."""
    rows = swept(args, {"as it is": {"start": args.sampling}, "CLiC": {}, "no guidance": {"eta": 0.0}, "no blending": {"no_blending": True}})
    return f"An ornament put on other objects, {args.repeats} seeds", COLUMNS, rows


def ablation(args):
    rows = []
    for name, changes in {"all three losses": {}, "no l_RoI": {"roi": 0.0}, "no l_att": {"att": 0.0}, "no l_con": {"con": 0.0}}.items():
        found = []
        for i in range(args.repeats):
            own = options(args, i, **changes)
            pipe, *source = learned(own, name.replace(" ", "_") if changes else "full")
            found.append(put(pipe, own) | {"iou": looks(pipe, *source, own)} | on_whole_objects(pipe, own))
        rows.append(row(name, found))
    return f"Without each loss, {args.repeats} seeds", COLUMNS | {"iou": "IoU of v*", "place": "in place", "outline": "outline"}, rows


def guidance(args):
    return f"Strength of guidance, {args.repeats} seeds", COLUMNS, swept(args, {f"eta {eta:g}": {"eta": eta} for eta in (0.0, .02, .05, .1, .2)})


def start(args):
    shares = (0, .04, .12, .2, .3, .4)
    return (f"Steps left out, of {args.sampling}, {args.repeats} seeds", COLUMNS,
            swept(args, {f"t_start {round(s * args.sampling)}": {"start": round(s * args.sampling)} for s in shares}))


def masks(args):
    found = []
    for i in range(args.repeats):
        own = options(args, i)
        pipe, *source = learned(own, "full")
        paper.learn_region(pipe, *source, own)
        targets = paper.ornaments.targets(own.ornament, 20 + own.seed)
        with torch.no_grad():
            z = pipe.encode(targets.images)
        several = paper.ornaments.carriers("mug", 4, 40 + own.seed, own.ornament)
        shared = paper.shared_masks(paper.load(own), several.images, "mug", own)
        true_shared = paper.ornaments.around(paper.ornaments.part_masks(several, "ornament"))
        ious = paper.overlap(paper.found_masks(pipe, z, targets.things, own), targets.masks)
        found.append(targets.same_and_other("iou", ious) | {"iou_shared": float(paper.overlap(shared, true_shared).mean())})
    columns = {"": "", "iou_same": "IoU in targets, same", "iou_other": "other", "iou_shared": "in four sources"}
    return f"Masks that are found, {args.repeats} seeds", columns, [row("CLiC", found)]


def generation(args):
    settings = {"CLiC": ("full", {}, {}), "one stage": ("full", {}, {"plain": 0}), "no l_con": ("no_l_con", {"con": 0.0}, {})}
    found = {name: [] for name in settings}
    for i in range(args.repeats):
        for name, (kept, losses, changes) in settings.items():
            own = options(args, i, **losses)
            pipe, _, _, _, W_0 = taken(own, kept)
            found[name].append(placed(pipe, W_0, argparse.Namespace(**vars(own) | changes)))
    columns = {"": "", "place_same": "in place, same", "place_other": "other", "object_same": "on an object, same", "object_other": "other",
               "both_same": "both, same", "both_other": "other"}
    right = min(surroundings(options(args, i).ornament).accuracy for i in range(args.repeats))
    return (f"New objects with the ornament, {args.repeats} seeds. Of fresh renders, on an object or alone, at least {right:.2f} are told right",
            columns, [row(name, measures) for name, measures in found.items()])


def placed(pipe, W_0, args):
    """What new objects before a plain background show, {"place_same": ...}: same, mugs; other, the other MEMBERS."""
    ground = {"plain": "a photo of a {object} on a gray background", "new": "a photo of a {object} with {word} on a gray background"}
    found = []
    for member in ornaments.MEMBERS:
        with patch.dict(paper.TOYBOX_SAYS, ground):
            made = paper.generate(pipe, W_0, member, range(args.seed, args.seed + args.n), args).cpu()
        images.save(args.out / "generated" / f"{member}_{args.con:g}_{args.plain}_{args.seed}.png", images.grid(made, len(made), scale=2))
        place, objects = in_place(made, boxes_on(made, member, args.ornament)), surroundings(args.ornament)(made).float()
        found.append({"place": place.mean(), "object": objects.mean(), "both": (place * objects).mean()})
    other = {key: sum(f[key] for f in found[1:]) / len(found[1:]) for key in found[0]}
    return {f"{key}_{which}": float(of[key]) for key in found[0] for which, of in (("same", found[0]), ("other", other))}


# ------------------------------------------------------------------------------------------------ against other papers

# their words in the prompt of a target; RealFill has a prompt of its own
WORDS = {"Custom Diffusion": "a photo of a {word} {object}", "Break-A-Scene": "a {object} with a {word}"}
METHODS = (*WORDS, "RealFill", "CLiC")


def moved_by(method, args, targets):
    """The targets with the ornament, (n, 3, S, S), as a method puts it there."""
    if method == "CLiC":
        pipe, *_ = learned(args, "full")
        return paper.transferred(pipe, targets.images, targets.masks, targets.things, args)
    folder = by_its_own_file(method, args, targets)
    if method == "RealFill":
        return read_tensors(folder / "samples.safetensors")["images"].float() / 255
    pipe = paper.load(args)
    deltas.read(folder, pipe.unet).apply(pipe)
    with patch.dict(paper.TOYBOX_SAYS, source=WORDS[method]):
        return paper.transferred(pipe, targets.images, targets.masks, targets.things, argparse.Namespace(**vars(args) | {"eta": 0.0}))


def by_its_own_file(method, args, targets):
    """The folder that a method's file made of the source, in OUT/others; it is run now if there is none."""
    folder = args.out / "others" / f"{method.replace(' ', '-')}_{args.seed}"
    if folder.is_dir():
        return folder
    given, part = args.out / "others" / f"given_{args.seed}", folder.with_name(f".{folder.name}.part")
    picture, mask, _ = paper.given(paper.load(args), args)
    many = {"source/source": picture, "mask": mask, "target": targets.images, "hole": targets.masks}
    paths = {name: [given / f"{name}_{i}.png" for i in range(len(pictures))] for name, pictures in many.items()}
    for name, pictures in many.items():
        for path, one in zip(paths[name], pictures):
            images.save(path, one.expand(3, -1, -1))
    file, arguments = {
        "Custom Diffusion": ("custom_diffusion.py", ["train", "--images", given / "source", "--class-word", "mug", "--regularization", "toybox"]),
        "Break-A-Scene": ("break_a_scene.py", ["train", "--image", *paths["source/source"], "--mask", *paths["mask"]]),
        "RealFill": ("realfill.py", ["train", "--references", given / "source"]),
    }[method]
    more = ["--seed", args.seed, "--out", part, "--model", args.model, *(["--device", args.device] if args.device else [])]
    script(file, *arguments, *more)
    if method == "RealFill":
        script(file, "fill", "--learned", part, "--target", *paths["target"], "--target-mask", *paths["hole"], *more)
    return part.rename(folder)                                  # one that was stopped is done again


def script(file, *arguments):
    """Run another paper's file as its user would: papers do not import each other."""
    done = subprocess.run([sys.executable, Path(paper.__file__).with_name(file), *map(str, arguments)], capture_output=True, text=True,
                          start_new_session=True)                # Ctrl-C is for us: it would save half a training
    if done.returncode:
        raise ValueError(f"{file} {' '.join(map(str, arguments))} failed: {done.stderr.strip()[-300:]}")


def rank(args):
    found = {method: [] for method in METHODS}
    for i in range(args.repeats):
        own = options(args, i)
        targets = ornaments.targets(own.ornament, 20 + own.seed)
        made = {method: moved_by(method, own, targets) for method in METHODS}
        shown = torch.stack([targets.images, *made.values()])
        images.save_figure(args.out / "rank" / f"{own.seed}.png", shown, ["targets", *made], targets.members)
        for method, measures in zip(METHODS, ranked([judged(pictures, targets) for pictures in made.values()])):
            found[method].append(measures)
    columns = {"": "", "rank": "average rank score, 4 is best", "quality": "edit quality", "preservation": "preservation", "score": "score",
               "recognised": "recognised", "psnr": "PSNR", "kept": "class kept"}
    return f"Four methods, ranked, {args.repeats} seeds", columns, [row(method, measures) for method, measures in found.items()]


def judged(made, targets):
    """{measure: (n,)} of the targets with the ornament, as one method has put it there."""
    fit, k = ornaments.matches(targets.images, made, targets.parts), ornaments.ORNAMENTS.index(targets.ornament)
    is_kept = toybox.measure(made)["member"] == torch.tensor([CLASSES["member"].index(member) for member in targets.members])
    return {"score": fit[:, k], "recognised": ((fit.argmax(1) == k) & (fit[:, k] > ornaments.RECOGNISED)).float(),
            "psnr": psnr(made, targets.images, 1 - targets.masks), "kept": is_kept.float()}


def ranked(methods):
    """{measure: mean} of each method, from its {measure: (n,)}, and its mean ranks among all of them, target by target."""
    def by(key, digits):                                        # (methods, n)
        values = torch.stack([m[key] for m in methods]).double().round(decimals=digits)
        return torch.stack([ranks(of_one) for of_one in values.T], dim=1)
    quality, preservation = by("score", 2), (by("psnr", 0) + by("kept", 0)) / 2
    of = {"rank": (quality + preservation) / 2, "quality": quality, "preservation": preservation}
    return [{name: float(r[i].mean()) for name, r in of.items()} | {name: float(v.mean()) for name, v in m.items()} for i, m in enumerate(methods)]


TABLES = {"transfer": transfer, "ablation": ablation, "guidance": guidance, "start": start, "masks": masks, "generation": generation,
          "rank": rank}
