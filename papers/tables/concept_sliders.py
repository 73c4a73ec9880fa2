"""The tables of Concept Sliders on toybox: protocols, and nothing else. Run by `python papers/concept_sliders.py eval`.

    --table    paper            what it shows
    ---------  ---------------  -------------------------------------------------------------------------------------
    text       Table 1          text sliders against Prompt-to-Prompt and against plainly changing the prompt; "drawn so": renders of
                                other people in which that alone is changed as much, so that one sees what the distance is made of
    eyes       Table 2          visual sliders from six pairs: how much of the pairs' own change they reach
    gan        Sec. 5, StyleGAN a visual slider from pictures in which one style channel of a GAN was moved
    ablation   Table 3          the age slider without preserved concepts, and without low rank
    compose    Sec. 6           two sliders at once; 1 to 50 sliders at once
    quality    Sec. 6           fingers and distortions, without and with a slider that repairs them
    speed      -                quality against seconds, the authors' loop against ours

What the paper judges by people or by LPIPS, the meter judges here: the attribute itself, what else has changed, and LPIPS'
formula over the meter's own convolutions ("distance"). Rows are means over training seeds, with their standard deviation; every
training seed has its own fresh picture seeds. Sliders and rows are kept in OUT and taken from there the next time, so that a
stopped evaluation goes on; use another --out to do all again. Table and section numbers are from memory of the paper.
"""
import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import concept_sliders as paper
import torch

from minidiff import CLIP, Tokenizer, images, lora
from minidiff.checkpoints import find, write_atomically, write_json
from minidiff.metrics import clip_score, markdown, mean_std, perceptual_distance
from minidiff.toybox import measure
from minidiff.toybox.meter import shipped
from minidiff.toybox.pairs import RANGES, pairs
from minidiff.toybox.world import CLASSES

PAPERS = Path(paper.__file__).parent


def run(args):
    """Makes the tables asked for, and puts all that were ever made in --out together in table.md and table.json."""
    chosen = list(TABLES) if args.table == "all" else [args.table]
    if not set(chosen) <= set(TABLES):
        raise ValueError(f"--table {args.table}: expected all or one of {', '.join(TABLES)}")
    pipe, folder = paper.load_toybox(args), args.out / "tables"
    for name in chosen:
        title, columns, rows = TABLES[name](pipe, args)
        write_json(folder / f"{name}.json", {"title": title, "columns": columns, "rows": rows})
        print(as_markdown(title, columns, rows))
    made = {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLES if (folder / f"{name}.json").is_file()}
    text = "\n".join(as_markdown(**table) for table in made.values())
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    write_json(args.out / "table.json", made)


def as_markdown(title, columns, rows):
    return f"**{title}**\n\n" + markdown(rows, columns)


# ------------------------------------------------------------------------------------------------ what the tables share

def block(target, positive, negative, eta, *preserve):
    return {"target": target, "positive": positive, "negative": negative, "preserve": list(preserve), "eta": eta}


def log_odds(head, names, others):
    """Which classes the meter leans to, as a number without ends: log p(names) / p(others)."""
    p = lambda read, chosen: sum(read[f"{head}_p"][..., CLASSES[head].index(name)] for name in chosen) + 1e-30
    return lambda read: p(read, names).log() - p(read, others).log()


FACES = ["a person", "a person with blond hair", "a photo of a person on a blue background", "a person with dark skin in a garden",
         "a person with black hair", "a person with red hair on a green background", "a person with light skin at the beach",
         "a person with brown hair in a room"]
PLACES = ["green hills", "a city", "a boat on the sea", "a desert", "a photo of green hills", "a picture of a city",
          "a photo of a boat on the sea", "a picture of a desert"]
THINGS = [f"a drawing of a {color} {member}" for color, member in
          [("red", "cat"), ("blue", "chair"), ("green", "dog"), ("yellow", "tulip"), ("purple", "guitar"), ("orange", "rabbit"),
           ("red", "apple"), ("blue", "house")]]
OTHERS = ("skin", "hair", "hair_length", "glasses", "beard", "smile", "background")

@dataclass
class Concept:
    """blocks: see --help of train. attribute: what the meter reads. prompts: of the pictures. edited: a prompt -> the one that the
    baselines get. wish: CLIP's text. kept: what should not change. start: see `sample_scales`; None is --start. steps: of training;
    None is --steps."""
    blocks: list
    attribute: object
    prompts: list
    edited: object
    wish: str
    kept: tuple = ("skin", "background", "hair_length")
    start: float | None = None
    steps: int | None = None


def with_long_hair(prompt):
    if "skin" in prompt:
        return prompt.replace("with ", "with long hair and ", 1)
    return prompt.replace(" hair", " long hair") if "hair" in prompt else prompt.replace("person", "person with long hair")


KINDS = ["a person", "a person with dark skin", "a person with light skin in a garden", "a photo of a person with blond hair",
         "a person with black hair on a red background", "a person with brown hair at the beach"]


def each(targets, positive, negative, block):
    """A block for each target, which both ends name as well: the authors' code's way to say what must not change."""
    return [block | {"target": p, "positive": positive(p), "negative": negative(p)} for p in targets]


def both_ends(block):
    """A block, and one that learns its other end, at scale -1."""
    return block, block | {"positive": block["negative"], "negative": block["positive"], "scale": -1.0}


def old(prompt, words="very old person"):
    return prompt.replace("person", words)


CONCEPTS = {
    "age": Concept(each(KINDS, old, lambda p: old(p, "very young person"), paper.AGE), "age", FACES, old, "a very old person", steps=200),
    "smile": Concept([block("a person", "a person, smiling", "a person, sad", 4.0)], "smile", FACES, lambda p: p + ", smiling", "a person, smiling",
                     start=600.0),
    "hair": Concept(each(KINDS, with_long_hair, lambda p: with_long_hair(p).replace("long", "short"), paper.HAIR), "hair_length", FACES,
                    with_long_hair, "a person with long hair", ("skin", "background", "glasses"), 500.0, 120),
    "weather": Concept([end for p in PLACES[:4] for end in both_ends(block(p, p + " in the rain", p + " on a sunny day", .5))],
                       log_odds("weather", ["rainy"], ["sunny"]), PLACES, lambda p: p + " in the rain", "green hills in the rain",
                       ("place",), 1000.0, 160),        # the sky is drawn first
}


def seeds_of(args, i):
    """Training seed i, and the fresh picture seeds that belong to it."""
    seed = args.seed + 10 + i
    return seed, list(range(1000 + 100 * seed, 1000 + 100 * seed + args.pictures))


def trained(pipe, args, name, seed, train, **changes):
    """The slider OUT/sliders/NAME_SEED.safetensors, trained by train(pipe, args) if it is not there yet."""
    path = args.out / "sliders" / f"{name}_{seed}.safetensors"
    if not path.is_file():
        slider = train(pipe, argparse.Namespace(**vars(args) | {"seed": seed} | changes))
        slider.save(path)
        slider.detach()
    return lora.load(pipe.unet, path)


def text_slider(pipe, args, name, seed, blocks, **changes):
    return trained(pipe, args, name, seed, lambda pipe, args: paper.train_text_slider(pipe, blocks, args), **changes)


def concept_slider(pipe, args, concept, seed):
    c = CONCEPTS[concept]
    return text_slider(pipe, args, concept, seed, c.blocks, steps=c.steps or args.steps)


def visual_slider(pipe, args, name, seed, pictures, **changes):
    how = {"steps": 5 * args.steps, "lr": 4 * args.lr, "copies": 1, "prompt": "a person"} | changes
    return trained(pipe, args, name, seed, lambda pipe, args: paper.train_visual_slider(pipe, pictures, args), **how)


def pictures_of(pipe, args, sliders, prompts, scales, seeds, **changes):
    how = {"steps": args.sampling, "guidance": args.guidance, "start": args.start} | changes
    return paper.sample_scales(pipe, sliders, cycled(prompts, len(seeds)), scales, seeds, **how)


def cycled(prompts, n):
    return [prompts[i % len(prompts)] for i in range(n)]


def distance(a, b):
    return perceptual_distance(a, b, shipped().layers)


def value_of(pictures, attribute):
    read = measure(pictures)
    return (attribute(read) if callable(attribute) else read[attribute]).double()


def once(args, table, key, compute):
    """compute(), a dict of numbers, kept in OUT/tables/TABLE_rows.json: an evaluation that was stopped goes on where it was."""
    path, key = args.out / "tables" / f"{table}_rows.json", f"{key} | {args.pictures} x {args.sampling} steps, guidance {args.guidance:g}"
    rows = json.loads(path.read_text()) if path.is_file() else {}
    if key not in rows:
        rows[key] = compute()
        write_json(path, rows)
    return rows[key]


def summary(rows, columns):
    """{column: "mean ± std"} over rows of numbers; nan is left out, and how many there were is said."""
    cells = {}
    for c in columns:
        known = [r[c] for r in rows if not math.isnan(r[c])]
        cells[c] = (mean_std(known) if known else "not reached") + (f" ({len(known)} of {len(rows)})" if 0 < len(known) < len(rows) else "")
    return cells


def at_equal(change, curve, wanted):
    """The value of a curve where `change`, which starts at 0, reaches `wanted`: linear between the points; nan if it does not."""
    for i in range(1, len(change)):
        if change[i] >= wanted and change[i] > change[i - 1]:
            share = (wanted - change[i - 1]) / (change[i] - change[i - 1])
            return curve[i - 1] + max(0.0, share) * (curve[i] - curve[i - 1])
    return float("nan")


def toybox_clip():
    folder = find("toybox") / "clip"
    return CLIP.from_pretrained(folder, "cpu", torch.float32), Tokenizer.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------ Table 1

def table_text(pipe, args):
    columns = ["spearman", "change", "delta CLIP", "distance", "distance at P2P's change", "kept"]
    clip, table = toybox_clip(), []
    for concept in CONCEPTS:
        seeds = [seeds_of(args, i) for i in range(args.repeats)]
        rows = [once(args, "text", f"{concept} {seed}", lambda: text_row(pipe, args, clip, concept, seed, fresh)) for seed, fresh in seeds]
        for method in rows[0]:
            mine = [r[method] for r in rows]
            mean = lambda k: sum(r[k] for r in mine) / len(mine)
            cells = summary(mine, [c for c in columns if c in mine[0]])
            table.append({"concept": concept, "method": method} | cells | {"distance / change": mean("distance") / mean("change")})
        if CONCEPTS[concept].attribute in RANGES:
            wanted = [r["Prompt-to-Prompt"]["change"] for r in rows]
            drawn = [once(args, "text", f"{concept} {seed} drawn", lambda: drawn_row(pipe, args, concept, seed, fresh, change))
                     for (seed, fresh), change in zip(seeds, wanted)]
            table.append({"concept": concept, "method": "drawn so"} | summary(drawn, columns[4:5]))
    return (f"Text sliders at scale 2, {args.repeats} training seeds x {args.pictures} pictures",
            ["concept", "method", *columns[:4], "distance / change", *columns[4:]], table)


def text_row(pipe, args, clip, concept, seed, seeds, scales=(-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)):
    """One training seed of one concept: {method: numbers}."""
    c = CONCEPTS[concept]
    slider = concept_slider(pipe, args, concept, seed)
    pictures = pictures_of(pipe, args, slider, c.prompts, scales, seeds, start=c.start or args.start)
    slider.detach()
    images.save_figure(args.out / "tables" / f"{concept}_{seed}.png", pictures, column_labels=[f"{s:+g}" for s in scales])
    prompts = cycled(c.prompts, len(seeds))
    edited = [c.edited(p) for p in prompts]
    source, edits = prompt_to_prompt(args, prompts, edited, seeds)
    plain = paper.sample_scales(pipe, [], edited, [0.0], seeds, args.sampling, args.guidance)[:, 0]

    def judged(before, after):
        return {"change": float((value_of(after, c.attribute) - value_of(before, c.attribute)).mean()),
                "delta CLIP": float((clip_score(*clip, after, c.wish) - clip_score(*clip, before, c.wish)).mean()),
                "distance": float(distance(after, before).mean()), "kept": kept_share(before, after, c.kept)}
    curve, theirs = [judged(pictures[:, 2], pictures[:, i]) for i in range(2, len(scales))], judged(source, edits)
    equal = at_equal([p["change"] for p in curve], [p["distance"] for p in curve], theirs["change"])
    rho = paper.measure_slider(pictures[:, :5], scales[:5], c.attribute, c.kept)["spearman"]
    return {"slider": curve[2] | {"spearman": rho, "distance at P2P's change": equal},                     # curve[2] is scale 2
            "Prompt-to-Prompt": theirs | {"distance at P2P's change": theirs["distance"]}, "prompt changed": judged(source, plain)}


def drawn_row(pipe, args, concept, seed, seeds, wanted):
    """How far apart renders are in which the attribute alone differs, by `wanted`, from where the untouched pictures have it."""
    c, strengths = CONCEPTS[concept], [i / 4 for i in range(-4, 5)]
    untouched = value_of(pictures_of(pipe, args, [], c.prompts, [0.0], seeds)[:, 0], c.attribute).mean()
    with torch.no_grad():
        drawn = [pipe.decode(pipe.encode(x)) for x in pairs(c.attribute, len(seeds), seed, strengths).images.values()]
    values = torch.stack([value_of(x, c.attribute).mean() for x in drawn])
    first = int((values - untouched).abs().argmin())
    curve = [float(distance(x, drawn[first]).mean()) for x in drawn[first:]]
    return {"distance at P2P's change": at_equal((values[first:] - values[first]).tolist(), curve, wanted)}


def kept_share(before, after, names):
    """Share of (picture, attribute) that the meter reads alike in both; numbers: within 0.2."""
    a, b = measure(before), measure(after)
    return float(torch.stack([((a[k] - b[k]).abs() < (.2 if a[k].is_floating_point() else 1)).double() for k in names]).mean())


def prompt_to_prompt(args, prompts, edited, seeds):
    """(source, edited) pictures, as papers/prompt_to_prompt.py makes them."""
    out = args.out / "prompt_to_prompt"
    edits = [{"source": p, "target": e, "mode": "refine", "seeds": [s]} for p, e, s in zip(prompts, edited, seeds)]
    write_json(out / "edits.json", edits)
    script("prompt_to_prompt.py", "edit", "--edits", out / "edits.json", "--out", out, "--model", args.model,
           "--sampling", args.sampling, "--guidance", args.guidance)
    from safetensors.torch import load_file
    made = load_file(out / "edits.safetensors")
    return made["source"], made["edited"]


def script(name, *arguments):
    """Run another paper as its user would: papers do not import each other."""
    done = subprocess.run([sys.executable, PAPERS / name, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{name} {' '.join(map(str, arguments))} failed: {done.stderr.strip()[-300:]}")


# ------------------------------------------------------------------------------------------------ Table 2, and sliders from a GAN

def table_eyes(pipe, args):
    table = []
    for what in VISUAL:
        seeds = [seeds_of(args, i) for i in range(args.repeats)]
        drawn = lambda seed: {float(s): x for s, x in pairs(what, 6, seed=seed).images.items()}
        rows = [once(args, "eyes", f"{what} {seed}", lambda: visual_row(pipe, args, what, seed, fresh, drawn(seed))) for seed, fresh in seeds]
        table.append({"attribute": what, "method": "slider"} | summary(rows, list(rows[0])))
        for method in CUSTOMISED if what == VISUAL[0] else ():
            rows = [once(args, "eyes", f"{method} {what} {seed}", lambda: customised_row(args, method, what, seed, fresh[0], drawn(seed)))
                    for seed, fresh in seeds]
            table.append({"attribute": what, "method": method.replace("_", " ")} | summary(rows, list(rows[0])))
    return (f"Visual sliders from 6 pairs, between scales -1 and 1, {args.repeats} training seeds x {args.pictures} pictures", list(table[0]), table)


VISUAL = ("eye_size", "brow_slant", "smile")
CUSTOMISED = ("custom_diffusion", "textual_inversion")


def customised_row(args, method, what, seed, first, pictures):
    """The same pictures given to a method that learns a token: one model for "before", one for "after", the same noise for both."""
    from safetensors.torch import load_file
    ends, on = {}, ["--model", args.model, *(["--device", args.device] if args.device else [])]
    for strength in (-1.0, 1.0):
        folder = args.out / "customised" / f"{method}_{what}_{seed}_{strength:+g}"
        for i, picture in enumerate(pictures[strength]):
            images.save(folder / "given" / f"{i}.png", picture)
        script(f"{method}.py", "train", "--images", folder / "given", "--class-word", "person", "--seed", seed, "--out", folder, *on)
        script(f"{method}.py", "sample", "--learned", folder, "--prompt", "a person with <new1>", "--n", args.pictures, "--seed", first,
               "--sampling", args.sampling, "--guidance", args.guidance, "--out", folder, *on)
        ends[strength] = load_file(folder / "samples.safetensors")["images"] / 255
    change = lambda x: float((value_of(x[1.0], what) - value_of(x[-1.0], what)).mean())
    own, made = change(pictures), change(ends)
    kept = [k for k in ("skin", "background", "hair_length", "age") if k != what]
    return {"pairs' change": own, "its change": made, "share": made / own,
            "distance": float(distance(ends[1.0], ends[-1.0]).mean()), "kept": kept_share(ends[-1.0], ends[1.0], kept)}


def visual_row(pipe, args, what, seed, seeds, pictures, name=None, start=None, scales=(-1.0, -.5, 0.0, .5, 1.0), **training):
    """Train a visual slider on {strength: pictures}; how much of the pairs' own change it makes, and what else it changes."""
    name = name or what
    slider = visual_slider(pipe, args, name, seed, pictures, **training)
    grid = pictures_of(pipe, args, slider, FACES, scales, seeds, start=start or args.start)
    slider.detach()
    images.save_figure(args.out / "tables" / f"{name}_{seed}.png", grid)
    own = float((value_of(pictures[1.0], what) - value_of(pictures[-1.0], what)).mean())
    change = float((value_of(grid[:, -1], what) - value_of(grid[:, 0], what)).mean())
    return {"spearman": paper.measure_slider(grid, scales, what)["spearman"], "pairs' change": own, "its change": change,
            "share": change / own, "distance": float(distance(grid[:, -1], grid[:, 0]).mean()),
            "kept": kept_share(grid[:, 0], grid[:, -1], [k for k in ("skin", "background", "hair_length", "age") if k != what])}


def table_gan(pipe, args):
    table = []
    for what in GAN_ATTRIBUTES:
        how = {"name": f"gan_{what}", "start": 1000, "lr": 3 * args.lr}            # its people stand elsewhere: not only the details differ
        seeds = [seeds_of(args, i) for i in range(args.repeats)]
        rows = [once(args, "gan", f"{what} {seed}", lambda: visual_row(pipe, args, what, seed, fresh, gan_pairs(pipe, args, what, seed), **how))
                for seed, fresh in seeds]
        table.append({"attribute": what} | summary(rows, list(rows[0])))
    return (f"Visual sliders from 12 pairs of a GAN, one style channel moved, {args.repeats} training seeds x {args.pictures} pictures",
            list(table[0]), table)


def gan_pairs(pipe, args, what, seed):
    """{strength: pictures} of papers/stylegan.py."""
    folder = args.out / "gan_pairs" / f"{what}_{seed}"
    if not folder.is_dir():
        script("stylegan.py", "pairs", "--attribute", what, "--n", 12, "--seed", seed, "--out", folder)
    return paper.read_pairs(folder, pipe.sample_size * pipe.factor)


GAN_ATTRIBUTES = ("eye_size", "hair_length")


# ------------------------------------------------------------------------------------------------ Table 3

FULL = CONCEPTS["age"].blocks                           # each says what must not change in all three texts: skin, hair, place
WITHOUT = [paper.AGE | {"preserve": [], "eta": paper.AGE["eta"] * len(paper.AGE["preserve"])}]              # equal strength
ABLATIONS = {"full method": ("age", FULL, {}), "without preserved concepts": ("age_without", WITHOUT, {}),
             "without low rank": ("age_full_rank", FULL, {"rank": 1000, "alpha": 40.0})}          # every layer at its full rank


def table_ablation(pipe, args):
    clip, table, wanted = toybox_clip(), [], 1.0
    for kind in ABLATIONS:
        seeds = [seeds_of(args, i) for i in range(args.repeats)]
        rows = [once(args, "ablation", f"{kind} {seed}", lambda: ablation_row(pipe, args, clip, kind, seed, fresh[:5])) for seed, fresh in seeds]
        rows = [{k: at_equal(r["change"], curve, wanted) for k, curve in r.items()} for r in rows]
        table.append({"slider": kind} | summary(rows, list(rows[0])))
    return (f"Age slider, between the two positions whose mean ages differ by {wanted}, {args.repeats} training seeds x {min(5, args.pictures)} pictures",
            list(table[0]), table)


def ablation_row(pipe, args, clip, kind, seed, seeds, scales=(-2.0, -1.0, 0.0, 1.0, 2.0)):
    """{measure: its curve between -s and s, for s from 0 outwards}. The slider is on from the first step, where it can do most harm."""
    name, blocks, changes = ABLATIONS[kind]
    slider = text_slider(pipe, args, name, seed, blocks, steps=CONCEPTS["age"].steps, **changes)
    grid = pictures_of(pipe, args, slider, FACES, scales, seeds, start=1000)
    slider.detach()
    images.save_figure(args.out / "tables" / f"ablation_{name}_{seed}.png", grid, column_labels=[f"{s:+g}" for s in scales])
    middle = len(scales) // 2
    ends = [(grid[:, middle - c], grid[:, middle + c]) for c in range(middle + 1)]
    rise = lambda value: [float((value(b) - value(a)).mean()) for a, b in ends]
    return {"change": rise(lambda x: value_of(x, "age")), "delta CLIP": rise(lambda x: clip_score(*clip, x, "a very old person")),
            "distance": [float(distance(b, a).mean()) for a, b in ends],
            "interference": [1 - kept_share(a, b, OTHERS) for a, b in ends],
            "glasses": rise(lambda x: measure(x)["glasses_p"][:, 1])}


# ------------------------------------------------------------------------------------------------ composition

AXES = {"old": ("a very old {}", "a very young {}", 1.0), "smile": ("a {}, smiling", "a {}, sad", 10.0),
        "hair": ("a {} with long hair", "a {} with short hair", 1.0), "glasses": ("a {} with glasses", "a {} without glasses", 1.0),
        "beard": ("a {} with a beard", "a {} without a beard", 1.0), "skin": ("a {} with dark skin", "a {} with light skin", 1.0),
        "black": ("a {} with black hair", "a {} with blond hair", 1.0), "red": ("a {} with red hair", "a {} with brown hair", 1.0),
        "gray": ("a {} with gray hair", "a {} with black hair", 1.0), "blond": ("a {} with blond hair", "a {} with brown hair", 1.0)}
GROUNDS = ("", "in a garden", "at the beach", "in a room", "on a blue background")


def fifty(pipe, args):
    """Fifty sliders: ten attributes of a person, each learned in five surroundings."""
    sliders = []
    for axis, (positive, negative, eta) in AXES.items():
        for j, ground in enumerate(GROUNDS):
            say = lambda words: f"{words.format('person')} {ground}".strip()
            made = text_slider(pipe, args, f"fifty_{axis}", j, [block(say("a {}"), say(positive), say(negative), eta)], steps=max(1, args.steps // 4))
            made.scale = 0.0                                          # or the next one would be learned on top of it
            sliders.append(made)
    order = torch.randperm(len(sliders), generator=torch.Generator().manual_seed(args.seed)).tolist()
    return [sliders[i] for i in order]


def table_compose(pipe, args):
    def two_row(seed, seeds):
        two = [concept_slider(pipe, args, name, seed) for name in ("age", "hair")]
        grid = pictures_of(pipe, args, two, FACES, [(0, 0), (1.5, 0), (0, 1.5), (1.5, 1.5)], seeds)
        for slider in two:
            slider.detach()
        images.save_figure(args.out / "tables" / f"two_{seed}.png", grid)
        age, hair = (value_of(grid.flatten(0, 1), k).unflatten(0, grid.shape[:2]).mean(0) for k in ("age", "hair_length"))
        return {"age alone": float(age[1] - age[0]), "age in both": float(age[3] - age[0]),
                "hair alone": float(hair[2] - hair[0]), "hair in both": float(hair[3] - hair[0])}
    rows = [once(args, "compose", f"two {seed}", lambda: two_row(seed, fresh)) for seed, fresh in (seeds_of(args, i) for i in range(args.repeats))]
    table = [{"sliders": "age and hair", "what": what} | {"value": text} for what, text in summary(rows, list(rows[0])).items()]
    sliders = fifty(pipe, args)
    signs = torch.randint(2, (len(sliders),), generator=torch.Generator().manual_seed(args.seed)) * 2.0 - 1
    seed, seeds = seeds_of(args, 0)
    counts = [n for n in (0, 1, 2, 5, 10, 20, 50) if n <= len(sliders)]
    for size in (.3, 1.0):
        scales = [tuple(float(size * sign) if j < n else 0.0 for j, sign in enumerate(signs)) for n in counts]
        grid = pictures_of(pipe, args, sliders, FACES, scales, list(range(seeds[0], seeds[0] + 2 * args.pictures)))
        images.save_figure(args.out / "tables" / f"compose_{size:g}.png", grid[:8], column_labels=[str(n) for n in counts])
        for n, column in zip(counts, grid.unbind(1)):
            face = (measure(column)["kind"] == CLASSES["kind"].index("portrait")).double()
            table.append({"sliders": f"{n}, each at {size:g}", "what": "faces; distance to none",
                          "value": f"{face.mean():.2f}; {distance(column, grid[:, 0]).mean():.2f}"})
    for slider in sliders:
        slider.detach()
    return f"Composition: {args.repeats} training seeds x {args.pictures} pictures; 50 sliders: {2 * args.pictures} pictures", ["sliders", "what", "value"], table


# ------------------------------------------------------------------------------------------------ quality

def table_quality(pipe, args):
    seeds = [seeds_of(args, i) for i in range(args.repeats)]
    table = []
    for what in QUALITY:
        rows = [once(args, "quality", f"{what} {seed}", lambda: quality_row(pipe, args, what, seed, fresh)) for seed, fresh in seeds]
        table.append({"rate of": what} | summary(rows, list(rows[0])))
    return f"Quality sliders, {args.repeats} training seeds x {2 * args.pictures} pictures", list(table[0]), table


def quality_row(pipe, args, what, seed, seeds):
    """How often the meter sees it without the slider, and at scales 1 and 2."""
    make, prompts, is_bad = QUALITY[what]
    slider = make(pipe, args, seed)
    grid = pictures_of(pipe, args, slider, prompts, (0.0, 1.0, 2.0), list(range(seeds[0], seeds[0] + 2 * len(seeds))), start=1000)
    slider.detach()
    images.save_figure(args.out / "tables" / f"{what.replace(' ', '_')}_{seed}.png", grid)
    return dict(zip(("without", "scale 1", "scale 2"), (float(is_bad(measure(x)).double().mean()) for x in grid.unbind(1))))


def hand_slider(pipe, args, seed):
    drawn = pairs("fingers", 24, seed=seed).images
    return visual_slider(pipe, args, "hands", seed, {float(s): x for s, x in drawn.items()}, prompt="a hand")


REPAIR = block("a drawing of a cat", "a clean drawing of a cat", "a distorted drawing of a cat", 1.0)
QUALITY = {"wrong fingers": (hand_slider, ["a hand"], lambda read: read["fingers"] != CLASSES["fingers"].index("5")),
           "distorted": (lambda pipe, args, seed: text_slider(pipe, args, "repair", seed, [REPAIR]), THINGS, lambda read: read["distorted"] == 1)}


# ------------------------------------------------------------------------------------------------ speed

RECIPES = {"ours": ({}, (5, 10, 20, 40)),
           "literal, our learning rate": ({"recipe": "literal", "batch": 1, "rollout": 50}, (20, 40)),
           "literal, their learning rate": ({"recipe": "literal", "batch": 1, "rollout": 50, "lr": 2e-4}, (80,))}


def table_speed(pipe, args):
    table = []
    for recipe, (_, lengths) in RECIPES.items():
        for steps in lengths:
            row = once(args, "speed", f"{recipe} {steps}", lambda: speed_row(pipe, args, recipe, steps))
            table.append({"recipe": recipe, "steps": str(steps)} | row)
    return "Speed of training, age slider, one training seed", list(table[0]), table


def speed_row(pipe, args, recipe, steps):
    """Seconds of computing (of all cores together) for a training of that many steps, and what the slider does."""
    changes, began = RECIPES[recipe][0] | {"seed": args.seed + 10, "steps": steps}, time.process_time()
    slider = paper.train_text_slider(pipe, [paper.AGE], argparse.Namespace(**vars(args) | changes))
    seconds = time.process_time() - began
    scales = (-2.0, -1.0, 0.0, 1.0, 2.0)
    grid = pictures_of(pipe, args, slider, FACES, scales, seeds_of(args, 0)[1])
    slider.detach()
    m = paper.measure_slider(grid, scales, "age")
    return {"CPU seconds": round(seconds, 1), "spearman": m["spearman"], "span": m["span"],
            "kept": sum(m[k] for k in ("kept_skin", "kept_background", "kept_hair_length")) / 3}


TABLES = {"text": table_text, "eyes": table_eyes, "gan": table_gan, "ablation": table_ablation, "compose": table_compose,
          "quality": table_quality, "speed": table_speed}
