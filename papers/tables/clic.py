"""The tables of CLiC on toybox: protocols, and nothing else. Run by `python papers/clic.py eval`.

    --table     paper            what it shows
    ----------  ---------------  -------------------------------------------------------------------------------------------
    transfer    Fig. 3 and 7     an ornament moved to objects of the source's class and of others; blending and guidance off
    ablation    Fig. 8           without each of the three losses
    guidance    Fig. 9           eta from 0 up
    start       Sec. 3.2         t_start from 0 up
    masks       Fig. 4 and 5     found masks against the true ones, in a target and in several sources

    column        what it is
    ------------  ----------------------------------------------------------------------------------------------------------
    score         overlap of what has changed towards the ornament's colour with the ornament's outline, see toybox/ornaments.py
    recognised    share in which no other ornament fits better, and this one fits
    PSNR          outside the target mask, to the target; what the autoencoder alone reaches is the row "as it is"
    IoU of v*     of where v* looks in the source, cut at .4, with the source's mask

The paper has no numbers but those of a user study. Each column is a mean over targets of the source's class (same), or of other
classes (other), then over training seeds, with their standard deviation. Every seed learns another ornament from another mug. What was learned is
kept in OUT; use another --out to learn again. Not here yet: the rank table against Break-A-Scene, RealFill and Custom Diffusion.
"""
import argparse
import json

import clic as paper
import torch

from minidiff.checkpoints import write_atomically, write_json
from minidiff.metrics import markdown, mean_std

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
    folder = args.out / "concepts" / f"{name}_{args.seed}"
    pipe, is_there = paper.load(args), (folder / "delta.safetensors").is_file()
    picture, mask, thing, *_ = paper.take(pipe, argparse.Namespace(**vars(args) | {"out": folder, "learned": folder if is_there else None}))
    return pipe, picture, mask, thing


def put(pipe, args):
    """Measures of the ornament put on toybox's targets."""
    targets = paper.ornaments.targets(args.ornament, 20 + args.seed)
    return targets.measure(paper.transferred(pipe, targets.images, targets.masks, targets.things, args))


def looks(pipe, picture, mask, thing, args):
    """IoU of where v* looks in the source with its mask."""
    with torch.no_grad():
        maps = paper.where(pipe, pipe.encode(picture), paper.says(pipe, "source", thing), paper.TOKEN, args.seed)
    return float(paper.overlap(paper.cut(maps, mask.shape[-2:]).cpu(), mask).mean())


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
            found.append(put(pipe, own) | {"iou": looks(pipe, *source, own)})
        rows.append(row(name, found))
    return f"Without each loss, {args.repeats} seeds", COLUMNS | {"iou": "IoU of v*"}, rows


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


TABLES = {"transfer": transfer, "ablation": ablation, "guidance": guidance, "start": start, "masks": masks}
