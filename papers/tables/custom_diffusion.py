"""The tables of Custom Diffusion on toybox: protocols, and nothing else. Run by `python papers/custom_diffusion.py eval`.

    --table    paper              what it shows
    ---------  -----------------  -----------------------------------------------------------------------------------------
    main       Table 1, single    five concepts, each learned alone: Custom Diffusion, fine-tuning everything, DreamBooth, Textual
                                  Inversion, and the untouched model with the plain class word; and renders, without the
                                  guitar: of others of the class, which is what learning nothing gives, and of the individual
    pairs      Table 1, multi     two concepts in one picture: the same methods, learned jointly, one after the other, or merged
    ablation   Tables 3 and 5     Custom Diffusion without augmentation, regularisation, with generated one; where the new word starts
    class      KID and Sec. 4.4   does the plain class word still give the plain class? with and without regularisation

    column             of which pictures            what it is
    -----------------  ---------------------------  ----------------------------------------------------------------------------
    text alignment     the concept in new scenes    CLIPScore, 2.5 max(cosine, 0), to the prompt with the class word and no <new1>
    image alignment    the same                     mean cosine to the given pictures
    KID                the plain class word         x 1000, to fresh renders of the class in the same scenes, of the meter's features
    right class        new scenes                   share in which the meter names the class (not of the moongate, which has none). The
                                                    individuals are odd: of their own renders it names few dogs and pots
    is it that one     new scenes                   share that a `Judge` takes for the individual, and not for another of its class, nor
                                                    for its colours without its shape
    likeness           new scenes                   mean score of the judge, from 0, others of the class, to 1, the individual
    scene              new scenes                   share whose background is the one that the prompt asks for
    class kept         the plain class word         share that is of the class and is not the individual
    minutes, MB        -                            of training with its class pictures, on this machine; of what is stored

CLIP is toybox's own. Textual Inversion's word stands for the noun ("a <new1> in a room"), elsewhere it stands before the class word
("a <new1> cat in a room"), as in the papers. The paper halves the steps without regularisation; here they are as many.
Each training and each sampling is a run of the method's own file, with its defaults, but for the steps: every method sees 1000 given
pictures of a concept, where nothing else is said (in the papers DreamBooth sees ten times as many as Custom Diffusion, Textual
Inversion twenty times); "half" and "twice as long" are there to compare at equal image alignment. Rows are means over training seeds
and concepts, with the standard deviation over training seeds; what was learned, drawn and measured is kept in OUT, so that a stopped
evaluation goes on; use another --out to do all again. Table numbers are
from memory of the paper.
"""
import json
import subprocess
import sys
import zlib
from functools import lru_cache
from pathlib import Path

import custom_diffusion as paper
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import minidiff
from minidiff import CLIP, Tokenizer, images, toybox
from minidiff.checkpoints import find, write_atomically, write_json, write_tensors
from minidiff.metrics import clip_embeddings, kid, markdown, mean_std
from minidiff.toybox.canvas import Paint
from minidiff.toybox.captions import ground_words
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.toybox.meter import roughen, shipped
from minidiff.toybox.scenes import Thing, jitter, random_scene, random_thing
from minidiff.toybox.world import CLASSES, SPECIES, draw

PAPERS = Path(paper.__file__).parent
CONCEPTS = ("cat", "dog", "flower", "chair", "pot")
PAIRS = (("cat", "chair"), ("moongate", "dog"), ("pot", "cat"), ("pot", "flower"), ("table", "chair"))
GROUNDS = ("garden", "beach", "room", "snow", "night", "purple", "gray")
SINGLE = [f"a {{}} {ground_words(g)}" for g in GROUNDS[:-1]] + ["a photo of a {} on a gray background", "a {} next to a yellow guitar"]
DOUBLE = ["a {} next to a {}", "a photo of a {} next to a {}", "a {} next to a {} in a garden", "a {} next to a {} at the beach",
          "a {} next to a {} on a purple background"]

# method: file, options of its `train`
TOYBOX = ["--regularization", "toybox"]                               # renders of the class, whatever the model is called
SHORTER, AS_LONG, LONGER = (["--steps", str(int(k * paper.STEPS))] for k in (.5, 1, 2))    # of four given pictures each
METHODS = {
    "Textual Inversion": ("textual_inversion.py", AS_LONG),
    "DreamBooth": ("dreambooth.py", AS_LONG),
    "DreamBooth, twice as long": ("dreambooth.py", LONGER),
    "DreamBooth, no prior": ("dreambooth.py", ["--prior", "0", *AS_LONG]),
    "fine-tune all": ("custom_diffusion.py", ["--train", "all", *TOYBOX]),
    "Custom Diffusion": ("custom_diffusion.py", TOYBOX),
    "Custom Diffusion, half as long": ("custom_diffusion.py", [*SHORTER, *TOYBOX]),
    "no augmentation": ("custom_diffusion.py", ["--no-augmentation", *TOYBOX]),
    "no regularisation": ("custom_diffusion.py", ["--regularization", "none"]),
    "generated regularisation": ("custom_diffusion.py", ["--regularization", "generated"]),
    "random new word": ("custom_diffusion.py", ["--token-init", "random", *TOYBOX]),
    "rare word, not trained": ("custom_diffusion.py", ["--token-init", "fixed", *TOYBOX]),
}
TRAIN = []                                                              # further options of every training


def run(args):
    """Makes the tables asked for, and puts all that were ever made in --out together in table.md and table.json."""
    chosen = list(TABLES) if args.table == "all" else [args.table]
    if not set(chosen) <= set(TABLES):
        raise ValueError(f"--table {args.table}: expected all or one of {', '.join(TABLES)}")
    known = dict.fromkeys([BASE, *METHODS, *PAIR_METHODS, *RENDERS])
    unknown = set(args.methods or []) - set(known)
    if unknown:
        raise ValueError(f"--methods {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    bench, folder = Bench(args), args.out / "tables"
    for name in chosen:
        title, columns, rows = TABLES[name](bench)
        write_json(folder / f"{name}.json", {"title": title, "columns": columns, "rows": rows})
        print(as_markdown(title, columns, rows))
    made = {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLES if (folder / f"{name}.json").is_file()}
    text = "\n".join(as_markdown(**table) for table in made.values())
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    write_json(args.out / "table.json", made)


def as_markdown(title, columns, rows):
    return f"**{title}**\n\n" + markdown(rows, columns)


# ------------------------------------------------------------------------------------------------ is it that one?

def class_word(concept):
    return CLASS_WORDS.get(concept, concept)


def renders(concept, n, seed, what, kind="object", grounds=None):
    """n fresh pictures (n, 3, 64, 64) with the individual, another of its class, or anything. kind: object, or pair.

    In a pair it stands at the left in even pictures and at the right in odd ones.
    """
    rng, scenes = np.random.default_rng((seed, ("individual", "class", "any").index(what))), []
    for i in range(n):
        s = random_scene(rng, kind)
        while kind == "pair" and s.things[0].x == s.things[1].x:                # a plant in a pot: neither left nor right
            s = random_scene(rng, kind)
        old, side = s.things[i % len(s.things)], i % len(s.things)
        pose = {k: getattr(old, k) for k in ("scale", "x", "ground", "tilt", "flip")}
        if what == "individual":
            params, paint = HELD_OUT[concept]
            s.things[side] = Thing(SPECIES.get(concept, concept), jitter(rng, params, .02), "none", Paint(**paint), **pose)
        elif what == "class":
            s.things[side] = random_thing(rng, class_word(concept), **pose)
        s.style, s.distortion = "photo", 0.0
        s.background = grounds[i % len(grounds)] if grounds else s.background
        scenes.append(s)
    return draw(scenes).images


def scrambled(pictures, generator):
    """The same with every place moved somewhere near: (n, 3, S, S) with the colours and patterns, and another shape."""
    n = len(pictures)
    shift = F.interpolate(.2 * torch.randn(n, 2, 8, 8, generator=generator), pictures.shape[-2:], mode="bicubic")
    places = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), pictures.shape, align_corners=False) + shift.movedim(1, -1)
    return F.grid_sample(pictures, places, padding_mode="reflection", align_corners=False)


class Judge:
    """Tells an individual from others of its class, from anything else, and from itself out of shape.

    A linear function of what the meter's layers see, fitted by least squares on renders that are blurred and noised as the meter's
    own training pictures are. `accuracy` is on fresh renders: {"individual": share taken for it, "class": share of ordinary ones
    that are not, "scrambled": share of those out of shape that are not}.
    """

    NO = ("class", "any", "scrambled")

    def __init__(self, weights, accuracy):
        self.weights, self.accuracy = weights, accuracy

    @staticmethod
    @torch.no_grad()
    def features(pictures, side=None):
        """(n, 640): mean and largest value of each channel. side: None, or (n,) 0 and 1 for the left and the right half."""
        maps = [torch.cat(parts) for parts in zip(*(shipped().layers(chunk) for chunk in pictures.split(64)))]
        if side is not None:
            halves = [m.unflatten(-1, (2, m.shape[-1] // 2)).movedim(-2, 1) for m in maps]          # (n, 2, C, H, W / 2)
            maps = [h[torch.arange(len(h)), side] for h in halves]
        return torch.cat([f for m in maps for f in (m.mean((2, 3)), m.amax((2, 3)))], dim=1)

    @classmethod
    def fit(cls, concept, kind, n=150, seed=11):
        """kind: "object", a judge of whole pictures; or "pair", of halves of pictures."""
        generator, side = torch.Generator().manual_seed(seed), None if kind == "object" else torch.arange(n) % 2

        def seen(what, seed):
            pictures = renders(concept, n, seed, "individual" if what == "scrambled" else what, kind)
            pictures = scrambled(pictures, generator) if what == "scrambled" else pictures
            return cls.features(roughen(pictures, generator), side)
        x = torch.cat([seen("individual", seed), *(seen(what, seed) for what in cls.NO)]).double()
        y = torch.tensor([1.0] + [-1.0] * len(cls.NO)).repeat_interleave(n).double()
        mean, std = x.mean(0), x.std(0) + 1e-6
        A = torch.cat([(x - mean) / std, torch.ones(len(x), 1)], dim=1)
        weigh = torch.tensor([float(len(cls.NO))] + [1.0] * len(cls.NO)).repeat_interleave(n)[:, None]   # both answers are as likely
        w = torch.linalg.solve((weigh * A).T @ A + n * torch.eye(A.shape[1]), (weigh * A).T @ y)
        judge = cls(torch.stack([mean, std, w[:-1], w[-1:].expand(len(mean))]), {})
        judge.accuracy = {"individual": share(judge.of_features(seen("individual", seed + 1)) > 0)}
        judge.accuracy |= {what: share(judge.of_features(seen(what, seed + 1)) <= 0) for what in ("class", "scrambled")}
        return judge

    def of_features(self, x):
        mean, std, w, b = self.weights.double()
        return ((x.double() - mean) / std) @ w + b[0]

    def score(self, pictures, side=None):
        """(n,) about 1 for the individual, -1 for all else. side: None for whole pictures, 0 or 1 for their left or right halves."""
        return self.of_features(self.features(pictures, None if side is None else torch.full((len(pictures),), side)))

    def __call__(self, pictures, side=None):
        """(n,) bool: is it that one?"""
        return self.score(pictures, side) > 0


def judge_of(bench, concept, kind="object"):
    """The Judge of a concept, fitted once and kept in OUT."""
    path = bench.args.out / "judges" / f"{concept}_{kind}.safetensors"
    if not path.is_file():
        judge = Judge.fit(concept, kind)
        write_tensors(path, {"weights": judge.weights, "accuracy": torch.tensor(list(judge.accuracy.values()))})
    stored = load_file(path)
    return Judge(stored["weights"], dict(zip(("individual", "class", "scrambled"), stored["accuracy"].tolist())))


# ------------------------------------------------------------------------------------------------ training and drawing, once

class Bench:
    """What the tables share: the options, the untouched model, CLIP, and the folder in which everything is kept."""

    def __init__(self, args):
        self.args, self.pipe = args, minidiff.load(args.model, args.device)
        if self.pipe.sample_size != 16:
            raise ValueError(f"{args.model} is not a toybox model, and only toybox can be measured; use the verbs train and sample")
        folder = find("toybox") / "clip"
        self.clip = CLIP.from_pretrained(folder, "cpu", torch.float32), Tokenizer.from_pretrained(folder)

    def chosen(self, methods):
        """Those of --methods; all, if it is not given."""
        return [m for m in methods if m in (self.args.methods or methods)]

    @property
    def seeds(self):
        return [self.args.seed + 10 + i for i in range(self.args.repeats)]

    def once(self, table, key, compute):
        """compute(), a dict of numbers, kept in OUT/tables/TABLE_rows.json."""
        a = self.args
        path, key = a.out / "tables" / f"{table}_rows.json", f"{key} | {a.pictures} x {a.sampling} steps, guidance {a.guidance:g}"
        rows = json.loads(path.read_text()) if path.is_file() else {}
        if key not in rows:
            rows[key] = compute()
            write_json(path, rows)
        return rows[key]

    def learned(self, method, concepts, seed, words=None, start=None):
        """The folder with what a method learned of the concepts, trained now if it is not there yet."""
        file, options = METHODS[method]
        words = words or [f"<new{i + 1}>" for i in range(len(concepts))]
        marks = ["".join(c for c in w if c.isalnum()) for w in words] + (["after", start.name] if start else [])
        name = "_".join([method, *concepts, *marks, str(seed)])
        folder = self.args.out / "learned" / name.replace(" ", "-").replace(",", "")
        if not folder.is_dir():
            each = [text for c, w in zip(concepts, words) for text in ("--concept", c, "--token", w)]
            more = ["--start-from", start] if start else []
            part = folder.with_name(f".{folder.name}.part")
            self.script(file, "train", *each, *options, *more, *TRAIN, "--seed", seed, "--out", part)
            part.rename(folder)                                                     # a training that was stopped is done again
        return folder

    def drawn(self, method, folders, prompts, seed):
        """Pictures (P n, 3, 64, 64) in [0, 1] for the prompts with what was learned; without folders, of the untouched model."""
        key = "_".join(f.name for f in folders) or f"base_{seed}"
        a = self.args
        folder = a.out / "samples" / f"{key}_{hash_of([prompts, a.pictures, a.sampling, a.guidance]):x}"
        path = folder / "samples.safetensors"
        if not path.is_file():
            if folders:
                write_json(folder / "prompts.json", prompts)
                self.script(METHODS[method][0], "sample", "--learned", *folders, "--prompts", folder / "prompts.json", "--n",
                            a.pictures, "--seed", 1000 * seed, "--sampling", a.sampling, "--guidance", a.guidance, "--out", folder)
            else:
                images.save_samples(folder, self.pipe(prompts, a.pictures, a.sampling, a.guidance, 1000 * seed), prompts)
        return load_file(path)["images"].float() / 255

    def script(self, file, *arguments):
        """Run a method's own file as its user would: papers do not import each other."""
        more = ["--model", self.args.model] + (["--device", self.args.device] if self.args.device else [])
        done = subprocess.run([sys.executable, PAPERS / file, *map(str, [*arguments, *more])], capture_output=True, text=True,
                              start_new_session=True)                               # Ctrl-C is for us: it would save half a training
        if done.returncode:
            raise ValueError(f"{file} {' '.join(map(str, arguments))} failed: {done.stderr.strip()[-300:]}")


def hash_of(value):
    return zlib.crc32(json.dumps(value).encode())


# ------------------------------------------------------------------------------------------------ what is measured

def noun(method, concept, k=1):
    """How a prompt names the concept: <new1> is the noun itself, or stands before it; the untouched model has only the class."""
    word = class_word(concept)
    return word if method == BASE else f"<new{k}>" if method == "Textual Inversion" else f"<new{k}> {word}"


def alignments(bench, pictures, plain_prompts, given):
    """CLIPScore of the pictures and their prompts (n per prompt), and mean cosine to the given pictures. Source: Sec. 4, App. D."""
    e, n = clip_embeddings(*bench.clip, pictures), len(pictures) // len(plain_prompts)
    texts = clip_embeddings(*bench.clip, plain_prompts).repeat_interleave(n, dim=0)
    return {"text alignment": float(2.5 * (e * texts).sum(1).clamp(min=0).mean()),
            "image alignment": float((e @ clip_embeddings(*bench.clip, given).T).mean())}


def member_is(read, concept, head="member"):
    word = class_word(concept)
    return read[head] == CLASSES[head].index(word)


@torch.no_grad()
def features(pictures):
    """(n, 256): what the meter's heads read, all of one length, or the kernel would see little but the longest."""
    f = shipped().features(pictures)
    return F.normalize(f, dim=1) * f.shape[1] ** .5


@lru_cache
def class_features(concept):
    return features(renders(concept, 20 * len(GROUNDS), 21, "class", grounds=GROUNDS))


def class_row(bench, concept, pictures):
    """Of pictures of the plain class word: KID, and whether they are of the class and not the individual."""
    kept = member_is(toybox.measure(pictures), concept) & ~judge_of(bench, concept)(pictures)
    return {"KID": 1000 * kid(features(pictures), class_features(concept)), "class kept": share(kept)}


def share(flags):
    return float(flags.double().mean())


def costs(folders):
    """Of training; a concept learned on top of another one costs both. Stored is what sampling needs."""
    metrics = [json.loads((f / "metrics.json").read_text()) for f in folders]
    return {"minutes": sum(m["seconds"] for m in metrics) / 60, "MB": sum(m["bytes"] for m in metrics) / 1e6}


def single_row(bench, method, concept, seed):
    """One method, concept and training seed, the numbers of the tables main, ablation and class."""
    folders = [] if method == BASE else [bench.learned(method, [concept], seed)]
    plain = [p.format(class_word(concept)) for p in SINGLE]
    pictures = bench.drawn(method, folders, [p.format(noun(method, concept)) for p in SINGLE], seed)
    alone = pictures[:len(GROUNDS) * bench.args.pictures]                           # without the guitar
    row = alignments(bench, pictures, plain, toybox.held_out(concept, 5, 0).images) | seen_in(bench, concept, alone)
    if method in (BASE, "Textual Inversion"):                                       # which leaves the model as it is
        of_class = bench.drawn(BASE, [], plain, seed)[:len(alone)]
    else:
        of_class = bench.drawn(method, folders, plain[:len(GROUNDS)], seed)
    return row | class_row(bench, concept, of_class) | costs(folders)


def seen_in(bench, concept, alone):
    """What the meter and the judge see in pictures of a concept in the scenes of GROUNDS, equally many in each."""
    read, score = toybox.measure(alone), judge_of(bench, concept).score(alone)
    wanted = torch.tensor([CLASSES["background"].index(g) for g in GROUNDS]).repeat_interleave(len(alone) // len(GROUNDS))
    return {"right class": float("nan") if concept == "moongate" else share(member_is(read, concept)),
            "is it that one": share(score > 0), "likeness": float((score.clamp(-1, 1) + 1).mean() / 2),
            "scene": share(read["background"] == wanted)}


def rendered_row(bench, name, concept, seed):
    """What no method draws: fresh renders of the individual, or of others of its class, in the scenes of GROUNDS."""
    grounds = [ground for ground in GROUNDS for _ in range(bench.args.pictures)]
    pictures = renders(concept, len(grounds), 1000 * seed, RENDERS[name], grounds=grounds)
    plain = [p.format(class_word(concept)) for p in SINGLE[:len(GROUNDS)]]
    return alignments(bench, pictures, plain, toybox.held_out(concept, 5, 0).images) | seen_in(bench, concept, pictures)


def pair_row(bench, method, pair, seed):
    """One method, pair and training seed."""
    folders, trained = PAIR_METHODS[method](bench, pair, seed)
    names = [noun(method, c, k + 1) for k, c in enumerate(pair)]
    file_of = PAIR_FILES.get(method, "Custom Diffusion")
    pictures = bench.drawn(file_of, folders, [p.format(*names) for p in DOUBLE], seed)
    given = torch.cat([toybox.held_out(c, 5, 0).images for c in pair])
    row = alignments(bench, pictures, [p.format(*map(class_word, pair)) for p in DOUBLE], given)
    (a_left, a_right), (b_left, b_right) = ([judge_of(bench, c, "pair")(pictures, side) for side in (0, 1)] for c in pair)
    return row | {"first": share(a_left | a_right), "second": share(b_left | b_right),
                  "both right": share(a_left & b_right | a_right & b_left)} | costs(trained)


BASE = "untouched model, class word"
RENDERS = {"renders of its class": "class", "renders of the individual": "individual"}
# method: (what sampling needs, all that was trained for it)
PAIR_METHODS = {
    BASE: lambda bench, pair, seed: ([], []),
    "Textual Inversion": lambda bench, pair, seed: apart(bench, "Textual Inversion", pair, seed),
    "DreamBooth": lambda bench, pair, seed: together(bench, "DreamBooth", pair, seed),
    "fine-tune all": lambda bench, pair, seed: together(bench, "fine-tune all", pair, seed),
    "Custom Diffusion, sequential": lambda bench, pair, seed: one_after_the_other(bench, pair, seed),
    "Custom Diffusion, merged": lambda bench, pair, seed: apart(bench, "Custom Diffusion", pair, seed),
    "Custom Diffusion, joint": lambda bench, pair, seed: together(bench, "Custom Diffusion", pair, seed),
}
PAIR_FILES = {"Textual Inversion": "Textual Inversion", "DreamBooth": "DreamBooth"}


def apart(bench, method, pair, seed):
    folders = [bench.learned(method, [c], seed, [f"<new{k + 1}>"]) for k, c in enumerate(pair)]
    return folders, folders


def together(bench, method, pair, seed):
    return [bench.learned(method, list(pair), seed)], [bench.learned(method, list(pair), seed)]


def one_after_the_other(bench, pair, seed):
    first = bench.learned("Custom Diffusion", [pair[0]], seed)
    second = bench.learned("Custom Diffusion", [pair[1]], seed, ["<new2>"], start=first)
    return [second], [first, second]


# ------------------------------------------------------------------------------------------------ the tables

COLUMNS = ["text alignment", "image alignment", "KID", "right class", "is it that one", "likeness", "scene", "class kept", "minutes", "MB"]


def rows_of(bench, table, methods, cases, compute):
    """One row per method: means over the cases, with the standard deviation over training seeds."""
    rows = []
    for method in methods:
        by_seed = [[bench.once(table, f"{method} | {case} | {seed}", lambda: compute(bench, method, case, seed)) for case in cases]
                   for seed in bench.seeds]
        rows.append({"method": method} | summary([average(of_one_seed) for of_one_seed in by_seed]))
    return rows


def average(rows):
    """Mean of each number over rows; nan, where a number makes no sense, is left out."""
    known = {k: [r[k] for r in rows if r[k] == r[k]] for k in rows[0]}
    return {k: sum(v) / len(v) if v else float("nan") for k, v in known.items()}


def summary(rows):
    digits = {"text alignment": 3, "image alignment": 3, "MB": 3, "KID": 1, "minutes": 1}
    return {k: mean_std([r[k] for r in rows], digits.get(k, 2)) for k in rows[0]}


def single_table(bench, table, methods, concepts, columns):
    methods = bench.chosen(methods)
    rows = rows_of(bench, "single", methods, concepts, single_row)
    for concept in concepts:
        show(bench, f"{table}_{concept}", methods, concept)
    accuracy = [judge_of(bench, c).accuracy for c in concepts]
    worst = {k: min(a[k] for a in accuracy) for k in accuracy[0]}
    return (f"{', '.join(concepts)}; {bench.args.repeats} training seeds x {bench.args.pictures} pictures of each of {len(SINGLE)} prompts. "
            f"On fresh renders the judge knows at least {worst['individual']:.2f} of each individual, and {worst['class']:.2f} of its class",
            ["method", *columns], rows)


def show(bench, name, methods, concept):
    """A figure: the given pictures, then a row for each method, the first picture of each prompt."""
    seed, given = bench.seeds[0], toybox.held_out(concept, 5, 0).images
    rows = [given[torch.arange(len(SINGLE)) % 5]]
    for method in methods:
        folders = [] if method == BASE else [bench.learned(method, [concept], seed)]
        rows.append(bench.drawn(method, folders, [p.format(noun(method, concept)) for p in SINGLE], seed)[::bench.args.pictures])
    images.save_figure(bench.args.out / "tables" / f"{name}.png", torch.stack(rows), ["given", *methods], [p.format("V*") for p in SINGLE])


def table_main(bench):
    methods = [BASE, "Textual Inversion", "DreamBooth", "DreamBooth, twice as long", "fine-tune all", "Custom Diffusion, half as long",
               "Custom Diffusion"]
    title, columns, rows = single_table(bench, "main", methods, CONCEPTS, COLUMNS)
    return title, columns, rows + rows_of(bench, "rendered", bench.chosen(RENDERS), CONCEPTS, rendered_row)


def table_ablation(bench):
    methods = ["Custom Diffusion", "no augmentation", "no regularisation", "generated regularisation", "random new word",
               "rare word, not trained"]
    return single_table(bench, "ablation", methods, CONCEPTS, COLUMNS)


def table_class(bench):
    methods = [BASE, "DreamBooth", "DreamBooth, no prior", "fine-tune all", "Custom Diffusion", "no regularisation"]
    title, columns, rows = single_table(bench, "class", methods, CONCEPTS, ["is it that one", "class kept", "KID"])
    moon = single_table(bench, "class_moon", methods, ("moongate",), [])[2]
    for row, also in zip(rows, moon):
        row |= {"moongate: is it that one": also["is it that one"], "a moon is still a moon": also["class kept"]}
    return title, [*columns, "moongate: is it that one", "a moon is still a moon"], rows


def table_pairs(bench):
    rows = rows_of(bench, "pairs", bench.chosen(PAIR_METHODS), PAIRS, pair_row)
    accuracy = [judge_of(bench, c, "pair").accuracy for pair in PAIRS for c in pair]
    worst = {k: min(a[k] for a in accuracy) for k in accuracy[0]}
    return (f"{', '.join(' and '.join(pair) for pair in PAIRS)}; {bench.args.repeats} training seeds x {bench.args.pictures} pictures of each "
            f"of {len(DOUBLE)} prompts. On halves of fresh renders the judge knows at least {worst['individual']:.2f} of each individual, and "
            f"{worst['class']:.2f} of its class",
            ["method", "text alignment", "image alignment", "first", "second", "both right", "minutes", "MB"], rows)


TABLES = {"main": table_main, "pairs": table_pairs, "ablation": table_ablation, "class": table_class}
