"""The tables of papers/composer.py on toybox, where what a picture shows is known: `python papers/composer.py eval`.

    reconstruction   pictures drawn from more and more of what they are taken apart into: how far from the picture
    swap             one condition of another picture among those of a first: does the result have it (extracted again)?
    three            depth, palette and embedding of three pictures
    guidance         w emphasises the palette, which only c_2 has; depth is in both sets
    region           what is drawn in a hole, told a caption; what is left around it
    edit             bidirectional guidance: nothing changed, and the colour in the caption changed
    text             captions alone, and with an embedding that the prior draws for them, against the text-to-image model that the
                     composer began with
    drop             the rule by which conditions are dropped in training, against simpler ones: short trainings, equally long for each;
                     only if it is asked for (--table drop --steps N, or --minutes)

Likenesses and errors are those of `minidiff.decomposer.agreement`. Means over seeds, with their standard deviation; every seed has
pictures of its own. The meter, CLIP and the reader of maps are toybox's. Published: FID 9.2 and CLIP score 0.28 on COCO.
"""
import json
from dataclasses import replace

import composer as paper
import torch

import minidiff
from minidiff import images, toybox
from minidiff.checkpoints import bring, write_atomically, write_json
from minidiff.decomposer import agreement
from minidiff.metrics import clip_score, frechet, markdown, mean_std, psnr
from minidiff.toybox.judge import fresh_captions, judge
from minidiff.toybox.meter import shipped
from minidiff.toybox.scenes import CATEGORIES, MEMBERS
from minidiff.toybox.world import CLASSES, draw, sample

STEPS = ((), ("caption",), ("embedding",), ("palette",), ("depth",), ("sketch",), ("instances", "intensity", "masking"))
# condition: what of the first picture is told beside it
BESIDE = {"embedding": ("palette",), "palette": ("embedding", "sketch"), "sketch": ("embedding", "palette"),
          "instances": ("embedding", "palette"), "depth": ("embedding", "palette")}
COLORS = ("red", "blue", "green", "yellow", "purple")


class Bench:
    def __init__(self, args):
        self.args, self.m, self.n = args, paper.load(args), args.pictures
        self.seeds = [args.seed + 300 + i for i in range(args.repeats)]          # not those of the demonstration

    def over_seeds(self, of_seed):
        """of_seed(seed) -> {row: {column: number}}; the same with "mean ± spread"."""
        runs = [of_seed(seed) for seed in self.seeds]
        return {row: {column: mean_std([run[row][column] for run in runs], 3) for column in cells} for row, cells in runs[0].items()}

    def agreement(self, c, pictures):
        return agreement(c, self.m.decompose(pictures))


def run(args):
    """Makes the tables asked for, and puts all that were ever made in --out together in table.md and table.json."""
    chosen = [name for name in TABLES if name != "drop"] if args.table == "all" else [args.table]
    if not set(chosen) <= set(TABLES):
        raise ValueError(f"--table {args.table}: expected all or one of {', '.join(TABLES)}")
    bench, path = Bench(args), args.out / "table.json"
    made = json.loads(path.read_text()) if path.is_file() else {}
    for name in chosen:
        title, rows = TABLES[name](bench)
        rows = [{"": row} | cells for row, cells in rows.items()]
        made[name] = {"title": title, "columns": list(dict.fromkeys(k for row in rows for k in row)), "rows": rows}
        write_json(path, made)
        print(f"{title}\n\n{markdown(made[name]['rows'], made[name]['columns'])}")
    text = "\n".join(f"## {name}\n\n{t['title']}\n\n{markdown(t['rows'], t['columns'])}" for name, t in made.items())
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    print(f"written to {args.out}: table.md, table.json")


def keep(bench, name, *columns):
    """A figure of the first eight: a column of pictures for each of `columns`."""
    images.save(bench.args.out / f"{name}.png", images.grid(torch.stack([c[:8].cpu() for c in columns], dim=1).flatten(0, 1), len(columns), scale=2))


# ------------------------------------------------------------------------------------------------ conditions

def table_reconstruction(bench):
    def of_seed(seed):
        batch = sample(bench.n, seed)
        x, c = batch.images, bench.m.decompose(batch.images, captions=batch.captions)
        rows, drawn = {}, []
        for i in range(len(STEPS)):
            told = [name for names in STEPS[:i + 1] for name in names]
            drawn.append(bench.m.draw(paper.only(c, *told), n=bench.n if not told else 1, seed=seed))
            name = "all" if i == len(STEPS) - 1 else f"+ {STEPS[i][0]}" if i > 1 else "".join(STEPS[i]) or "nothing"
            rows[name] = {"mean absolute error": float((drawn[-1] - x).abs().mean()), "PSNR, dB": float(psnr(drawn[-1], x, torch.ones_like(x[:, :1])).mean())}
        keep(bench, f"reconstruction_{seed}", x, *drawn)
        return rows
    return f"{bench.n} pictures for each seed; the middle is masked", bench.over_seeds(of_seed)


def table_swap(bench):
    def of_seed(seed):
        x = sample(bench.n, seed, "object").images
        y = x.roll(1, 0)
        c_x, c_y, rows = bench.m.decompose(x), bench.m.decompose(y), {}
        nothing = bench.m.draw({}, n=bench.n, seed=seed)
        for name, beside in BESIDE.items():
            c = paper.only(c_y, name)
            drawn = [bench.m.draw(c, seed=seed), bench.m.draw(paper.only(c_x, *beside) | c, seed=seed)]
            keep(bench, f"swap_{name}_{seed}", y, x, *drawn)
            for what, pictures in (("told nothing", nothing), ("told only this", drawn[0]), ("among others", drawn[1])):
                (measure, value), = bench.agreement(c, pictures).items()
                rows.setdefault(measure, {"beside it": " ".join(beside)})[what] = value
        return rows
    runs = [of_seed(seed) for seed in bench.seeds]
    rows = {row: {k: v if isinstance(v, str) else mean_std([run[row][k] for run in runs], 3) for k, v in cells.items()} for row, cells in runs[0].items()}
    return f"{bench.n} objects for each seed; the condition is that of another picture", rows


def table_three(bench):
    def of_seed(seed):
        x = sample(bench.n, seed, "object").images
        of = [bench.m.decompose(x.roll(k, 0)) for k in range(3)]
        c = paper.only(of[0], "depth") | paper.only(of[1], "palette") | paper.only(of[2], "embedding")
        drawn = {"told nothing": bench.m.draw({}, n=bench.n, seed=seed), "told all three": bench.m.draw(c, seed=seed)}
        keep(bench, f"three_{seed}", x, x.roll(1, 0), x.roll(2, 0), drawn["told all three"])
        return {name: bench.agreement(c, pictures) for name, pictures in drawn.items()}
    return f"{bench.n} triples of objects for each seed", bench.over_seeds(of_seed)


def table_guidance(bench, weights=(1.0, 2.0, 3.0, 5.0)):
    def of_seed(seed):
        x = sample(bench.n, seed, "object").images
        depth, palette = paper.only(bench.m.decompose(x), "depth"), paper.only(bench.m.decompose(x.roll(1, 0)), "palette")
        return {f"w {w:g}": bench.agreement(depth | palette, bench.m.draw(depth | palette, depth, w=w, seed=seed)) for w in weights}
    return f"{bench.n} objects for each seed, with the palettes of others", bench.over_seeds(of_seed)


# ------------------------------------------------------------------------------------------------ editing

def recolored(scenes, seed):
    """The scenes with their first thing in another colour, and short captions of both."""
    g = torch.Generator().manual_seed(seed)
    new = []
    for s in scenes:
        others = [c for c in COLORS if c != s.things[0].color]
        new.append(replace(s, things=[replace(s.things[0], color=others[int(torch.randint(len(others), (), generator=g))])]))
    return new, *([f"a {s.things[0].color} {s.things[0].member}" for s in some] for some in (scenes, new))


def read_right(pictures, scenes):
    """{what: (n,) bool}: whether the meter reads the scenes' member, colour and background."""
    read = toybox.measure(pictures)
    index = lambda name, values: torch.tensor([CLASSES[name].index(v) for v in values])
    return {"member": read["member"] == index("member", [s.things[0].member for s in scenes]),
            "colour": read["color"] == index("color", [s.things[0].color for s in scenes]),
            "background": read["background"] == index("background", [s.background for s in scenes])}


def shares(right, **both):
    """Shares of what is right, and of several things right together."""
    return {k: float(v.double().mean()) for k, v in right.items()} | \
        {name: float(torch.stack([right[k] for k in keys]).all(dim=0).double().mean()) for name, keys in both.items()}


def table_region(bench):
    def of_seed(seed):
        batch = sample(bench.n, seed, "object")
        g = torch.Generator().manual_seed(seed)
        new = []
        for s in batch.scenes:                                  # another member of the category, in a colour of its own
            members = [m for m in CATEGORIES[MEMBERS[s.things[0].member]][0] if m != s.things[0].member]
            pick = lambda some: some[int(torch.randint(len(some), (), generator=g))]
            new.append(replace(s, things=[replace(s.things[0], member=pick(members), color=pick(COLORS))]))
        x, known = batch.images, around(batch.instances > 0)
        told = paper.only(bench.m.decompose(x, known=known), "masking") | bench.m.decomposer.caption([f"a {s.things[0].color} {s.things[0].member}" for s in new])
        raw = bench.m.draw(told, paper.only(told, "masking"), seed=seed)
        out = paper.region_edit(bench.m, x, known, bench.m.decomposer.caption([f"a {s.things[0].color} {s.things[0].member}" for s in new]), seed=seed)
        keep(bench, f"region_{seed}", x, x * known, out)
        right = shares(read_right(out, new), **{"member and colour": ("member", "colour")})
        return {"pictures": right | {"PSNR around, as drawn": float(psnr(raw, x, known).mean()), "PSNR around, put together": float(psnr(out, x, known).mean())}}
    return f"{bench.n} objects for each seed, replaced by another member of the category in a random colour; the hole is the box around it", bench.over_seeds(of_seed)


def around(masks, margin=3):
    """1 outside the box around each mask (n, S, S) and `margin` pixels: (n, 1, S, S)."""
    known = torch.ones(len(masks), 1, *masks.shape[1:])
    for k, mask in zip(known, masks):
        rows, columns = (mask.any(dim=d).nonzero().flatten() for d in (1, 0))
        k[0, max(0, rows[0] - margin):rows[-1] + margin + 1, max(0, columns[0] - margin):columns[-1] + margin + 1] = 0
    return known


def table_edit(bench, kept=("embedding", "palette", "sketch", "depth"), shape=("sketch", "depth", "instances")):
    def of_seed(seed):
        batch = sample(bench.n, seed, "object")
        x, (new, before, after) = batch.images, recolored(batch.scenes, seed)
        own = bench.m.decode(bench.m.encode(x))
        same = paper.reconfiguration(bench.m, x, {}, kept)
        edited = paper.reconfiguration(bench.m, x, bench.m.decomposer.caption(after), shape)
        keep(bench, f"edit_{seed}", x, own, same, edited)
        whole = torch.ones_like(x[:, :1])
        rows = {"nothing changed": (same, batch.scenes), "its colour changed": (edited, new), "only decoded again": (own, batch.scenes)}
        return {name: shares(read_right(p, scenes), **{"all three": ("member", "colour", "background")}) |
                {"PSNR to the decoded": float(psnr(p, own, whole).mean())} for name, (p, scenes) in rows.items()}
    return f"{bench.n} objects for each seed, inverted and drawn again; the new colour is said in a caption, and {', '.join(shape)} are told", bench.over_seeds(of_seed)


# ------------------------------------------------------------------------------------------------ text

def features(pictures):
    """Of the meter, for Frechet distances."""
    return torch.cat([shipped().features(part) for part in pictures.split(256)]).detach()


def table_text(bench):
    clip, tokenizer = bench.m.decomposer.clip, bench.m.decomposer.tokenizer
    pipe = minidiff.load(bench.args.model, bench.args.device)

    def of_seed(seed):
        scenes, captions = fresh_captions(4 * bench.n, seed)
        real, other = draw(scenes).images, draw(fresh_captions(4 * bench.n, seed + 5000)[0]).images
        seeds = [1000 * seed + i for i in range(len(captions))]
        parts = [(captions[i:i + 64], seeds[i:i + 64]) for i in range(0, len(captions), 64)]
        drawn = {"drawings for other captions": other, "reconstructions of the captions' pictures": torch.cat([bench.m.decode(bench.m.encode(p)) for p in real.split(64)]),
                 "text-to-image model": torch.cat([pipe(c, steps=bench.args.sampling, guidance=5.0, seed=s).cpu() for c, s in parts]),
                 "composer, caption": torch.cat([bench.m.draw(bench.m.decomposer.caption(c), seed=s) for c, s in parts])}
        if (bench.m.folder / "prior").is_dir():
            drawn["composer, caption and prior"] = torch.cat([bench.m.draw(bench.m.decomposer.caption(c) | bench.m.imagine(c, s), seed=s) for c, s in parts])
        keep(bench, f"text_{seed}", real, *list(drawn.values())[2:])
        rows = {}
        for name, pictures in drawn.items():
            rows[name] = {"Frechet distance": frechet(features(real), features(pictures)), "CLIP score": float(clip_score(clip, tokenizer, pictures, captions).mean())}
            verdicts = judge(scenes, captions, pictures)
            rows[name] |= {k.split(": ")[-1]: verdicts[k] for k in ("object: member", "object: colour", "portrait: hair colour", "pair: both members")}
        return rows
    return f"{4 * bench.n} captions for each seed; features of the meter; guidance 5 and w {bench.args.w:g}", bench.over_seeds(of_seed)


# ------------------------------------------------------------------------------------------------ the drop rule

def table_drop(bench):
    """Every rule trains for the same time from the same beginning, in --out/drop; what is trained is not trained again."""
    models = {rule: trained(bench.args, rule) for rule in paper.RULES}

    def of_seed(seed):
        x = sample(bench.n, seed, "object").images
        c, rows = bench.m.decompose(x), {}
        for rule, m in models.items():
            nothing = m.draw({}, n=bench.n, seed=seed)
            for w in dict.fromkeys((1.0, bench.args.w)):
                together, alone = m.draw(c, w=w, seed=seed), {}
                for name in BESIDE:
                    alone |= bench.agreement(paper.only(c, name), m.draw(paper.only(c, name), w=w, seed=seed))
                all_ = bench.agreement(paper.only(c, *BESIDE), together)
                rows |= {f"{rule}, alone, w {w:g}": alone, f"{rule}, all together, w {w:g}": all_ | {"Frechet distance": frechet(features(x), features(together))}}
            rows[f"{rule}, nothing"] = bench.agreement(paper.only(c, *BESIDE), nothing) | {"Frechet distance": frechet(features(x), features(nothing))}
        return rows
    rules = ("paper: all go with 0.1, all stay with 0.1, else each goes with 0.5, intensity 0.7; each: only the last; never: none goes; "
             "intensity: it goes with 0.5 too")
    length = " or ".join(f"{v:g} {k}" for k, v in (("steps", bench.args.steps), ("minutes", bench.args.minutes)) if v is not None)
    return f"{bench.n} objects for each seed; {length} of training from {bench.args.init}; {rules}", bench.over_seeds(of_seed)


def trained(args, rule):
    """The Model whose composer was trained by a rule, with the other parts of args.model; goes on where it was stopped."""
    if args.steps is None and args.minutes is None:
        raise ValueError("--table drop trains a composer for each rule; say how long: --steps or --minutes")
    place = args.out / "drop"
    for part in ("clip", "vae", "unet", "text_encoder", "tokenizer", "maps"):
        bring(part, place, args.model)
    how = ["train", "all", "--out", place, "--part", f"composer_{rule}", "--rule", rule, "--init", args.init, "--pictures", args.drawn,
           "--batch", args.batch, "--seed", args.seed, "--device", args.device]
    how += [word for name in ("steps", "minutes") if getattr(args, name) is not None for word in (f"--{name}", getattr(args, name))]
    training = paper.arguments([str(word) for word in how])
    training.device = args.device
    print(f"{rule}: python papers/composer.py {' '.join(map(str, how))}", flush=True)
    paper.train(training)
    return paper.Model(place, args.device, args.sampling, args.w, f"composer_{rule}")


TABLES = {"reconstruction": table_reconstruction, "swap": table_swap, "three": table_three, "guidance": table_guidance,
          "region": table_region, "edit": table_edit, "text": table_text, "drop": table_drop}
