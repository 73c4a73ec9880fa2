"""The tables of ConceptLab on toybox: protocols, and nothing else. Run by `python papers/conceptlab.py eval`.

    --table    paper               what it shows
    ---------  ------------------  -----------------------------------------------------------------------------------------
    main       quantitative        five categories x three pairs of negatives x five seeds = 75 concepts, 32 pictures each, beside
               comparison          the same words as a negative prompt, for the prior or a text-to-image model, and the plain word
    ablation   ablations           the first pair of each category: without S_max, without clamps, E_y(v_*) in place of the prior's draws
    adaptive   adaptive negatives  no given negatives: what was answered, whether the answers' similarities fell, all members as negatives
    mixing     mixing, evolution   of two members by words, and of pictures of both by weights from 0.1 to 0.9

    column               what it is
    -------------------  ----------------------------------------------------------------------------------------------------------
    positive similarity  mean cosine of pictures and "a photo of a CATEGORY"
    distance             that less the largest cosine to a negative, mean over the pictures
    in the category      share that is in the category with p > 0.5, as one of its known members or as another one (`Recogniser`)
    a known member       share that is one of them with p > 0.5
    another              share that is another one of the category with p > 0.5
    by the meter         share whose member is of the category to toybox's meter, which has no answer but a known member
    seen most as         what the recogniser answers most often, of any category (main only)

CLIP is toybox's own, which training also looks through; recogniser and meter are not. Rows are means over pairs and categories, with the standard
deviation over seeds. Every concept, its pictures and all numbers are kept in OUT, so that a stopped evaluation goes on; use another
--out to do all again. The baseline of a text-to-image model is the shipped toybox's, whatever --model is. --quick makes a tenth: one
pair, two seeds, 24 pictures. Table numbers of the paper are not known to us.
"""
import json
from functools import cached_property
from statistics import mode

import conceptlab as paper
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import minidiff
from minidiff import images, toybox
from minidiff.checkpoints import write_atomically, write_json, write_tensors
from minidiff.metrics import markdown, mean_std, spearman
from minidiff.toybox.meter import roughen, shipped
from minidiff.toybox.scenes import CATEGORIES, MEMBERS

CATEGORY_NAMES = [category for category in CATEGORIES if category != "thing"]
OURS, IN_PRIOR, IN_LDM, PLAIN = "ConceptLab", "negative prompt, prior", "negative prompt, text-to-image", "plain word"
COLUMNS = ["positive similarity", "distance", "in the category", "a known member", "another", "by the meter"]
SEEN = "seen most as"
# method: options of its training
TRAINED = {OURS: [], "without S_max": ["--no-max"], "without clamps": ["--literal"], "in text space": ["--space", "text"],
           "adaptive negatives": ["--adaptive"]}
WEIGHTS = (.1, .3, .5, .7, .9)


class Bench:
    """The options, and what is kept in OUT."""

    def __init__(self, args):
        self.args, self.pictures = args, 24 if args.quick else 32
        self.out = args.out / "quick" if args.quick else args.out
        self.seeds = [args.seed + 10 + i for i in range(2 if args.quick else 5)]
        self.pipe = paper.load(args)                        # draws the baselines and measures; concepts are learned in fresh ones
        if not isinstance(self.pipe, paper.UnCLIP):
            raise ValueError(f"{args.model} is not a toybox model, and only toybox can be measured; use the verbs train and sample")

    @cached_property
    def recogniser(self):
        """Fitted once, and kept in OUT."""
        path = self.args.out / "recogniser.safetensors"
        if not path.is_file():
            write_tensors(path, Recogniser.fit().state_dict())
        net = Recogniser()
        net.load_state_dict(load_file(path))
        return net.eval()

    @torch.no_grad()
    def recognise(self, pictures, category):
        """The Recogniser's columns."""
        p = self.recogniser(pictures)
        known = torch.tensor([MEMBERS.get(name) == category for name in ANSWERS])
        another = p[:, ANSWERS.index(another_of(category))]
        share = lambda hit: float(hit.double().mean())
        return {"in the category": share(p[:, known].sum(dim=1) + another > .5), "a known member": share(p[:, known].amax(dim=1) > .5),
                "another": share(another > .5), SEEN: mode(ANSWERS[i] for i in p.argmax(dim=1))}

    def pairs(self, category):
        members = list(CATEGORIES[category][0])
        return [members[i:i + 2] for i in range(0, 2 if self.args.quick else 6, 2)]

    def once(self, key, compute):
        """compute(), a dict of numbers and words, kept in OUT/rows.json."""
        path = self.out / "rows.json"
        rows = json.loads(path.read_text()) if path.is_file() else {}
        if key not in rows:
            rows[key] = compute()
            write_json(path, rows)
        return rows[key]

    def drawn(self, name, draw):
        """draw(), pictures (n, 3, H, W) in [0, 1], kept in OUT/pictures/NAME.safetensors."""
        path = self.out / "pictures" / f"{slug(name)}.safetensors"
        if not path.is_file():
            write_tensors(path, {"images": (draw().clamp(0, 1) * 255).round().byte().cpu()})
        return load_file(path)["images"].float() / 255

    def learned(self, name, options, seed, run=None):
        """Pictures of what a training learns, made now if it is not there yet, and its metrics."""
        folder, a = self.out / "concepts" / slug(name), self.args
        how = [f"--{k.replace('_', '-')}={getattr(a, k)}" for k in ("steps", "batch", "lr", "lam", "model", "sampling", "guidance",
                                                                  "prior_steps", "prior_guidance")]
        _, args = paper.arguments(["train", *options, *how, "--seed", str(seed), "--out", str(folder)])
        args.device = a.device

        def draw():
            pipe = paper.load(args)
            if (run or paper.learn_and_save)(pipe, args)[-1]["steps"] < args.steps:
                raise KeyboardInterrupt                     # a training that was stopped is done again
            return pipe(paper.filled(paper.PHOTO, args.token), self.pictures, a.sampling, a.guidance, 1000 * seed)
        return self.drawn(name, draw), json.loads((folder / "metrics.json").read_text())


def slug(name):
    return "".join(c if c.isalnum() else "-" for c in name)


def run(args):
    """Makes the tables asked for, and puts all that were ever made in --out together in table.md and table.json."""
    chosen = list(TABLES) if args.table == "all" else [args.table]
    if not set(chosen) <= set(TABLES):
        raise ValueError(f"--table {args.table}: expected all or one of {', '.join(TABLES)}")
    bench = Bench(args)
    path = bench.out / "table.json"
    made = json.loads(path.read_text()) if path.is_file() else {}
    for name in chosen:
        title, columns, rows = TABLES[name](bench)
        made[name] = {"title": title, "columns": columns, "rows": rows}
        write_json(path, made)
        print(f"{title}\n\n{markdown(rows, columns)}")
    text = "\n".join(f"## {name}\n\n{t['title']}\n\n{markdown(t['rows'], t['columns'])}" for name, t in made.items())
    write_atomically(bench.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    print(f"written to {bench.out}: table.md, table.json")


# ------------------------------------------------------------------------------------------------ known, or new?

def another_of(category):
    return f"another {category}"


ANSWERS = [*MEMBERS, *map(another_of, CATEGORIES)]


class Recogniser(nn.Module):
    """pictures (n, 3, S, S) in [0, 1] -> probabilities of ANSWERS (n, 41): a known member, or another thing of some category.

    A small network on what toybox's meter sees, fitted on renders, blurred and noised as the meter's own: half of them known members, half
    new ones, that lie between (`toybox.new_members`). `accuracy`: on fresh renders of known members and of new ones, share named right; of
    the new ones, share taken for a known member.
    """

    def __init__(self, features=2624, hidden=256):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("accuracy", torch.zeros(3))
        self.head = nn.Sequential(nn.Dropout(.3), nn.Linear(features, hidden), nn.SiLU(), nn.Dropout(.3), nn.Linear(hidden, len(ANSWERS)))

    def forward(self, pictures):
        return self.head((seen(pictures) - self.mean) / self.std).softmax(dim=1)

    @classmethod
    def fit(cls, each=400, epochs=12, batch=256, seed=21):
        """`each` renders of every known member, and as many new ones; minutes."""
        torch.manual_seed(seed)
        x, y = renders(each, seed)
        net = cls()
        net.mean, net.std = x.mean(dim=0), x.std(dim=0) + 1e-6
        x, optimizer = (x - net.mean) / net.std, torch.optim.AdamW(net.head.parameters(), weight_decay=.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * -(-len(x) // batch))
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(batch):
                loss = F.cross_entropy(net.head(x[index]), y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
        x, y = renders(max(each // 10, 1), seed + 1)
        with torch.no_grad():
            answer = net.eval().head((x - net.mean) / net.std).argmax(dim=1)
        known, right = y < len(MEMBERS), (answer == y).float()
        net.accuracy = torch.stack([right[known].mean(), right[~known].mean(), (answer < len(MEMBERS))[~known].float().mean()])
        return net


@torch.no_grad()
def seen(pictures):
    """(n, 2624): what the meter's heads read, its last map, and mean and largest value of each channel of the two before."""
    def features(chunk):
        *_, a, b, last = shipped().layers(chunk)
        pooled = [f for m in (a, b) for f in (m.mean((2, 3)), m.amax((2, 3)))]
        return torch.cat([F.silu(shipped().hidden(last.flatten(1))), last.flatten(1), *pooled], dim=1)
    return torch.cat([features(chunk) for chunk in pictures.split(128)])


def renders(each, seed):
    """What is `seen` in renders of known members, `each` of all, and of as many new things; and their places in ANSWERS."""
    generator, x, y = torch.Generator().manual_seed(seed), [], []
    per_category = -(-each * len(MEMBERS) // len(CATEGORIES))
    for place, answer in enumerate(ANSWERS):
        known = answer in MEMBERS
        batch = toybox.of_class(answer, each, seed) if known else toybox.new_members(answer.removeprefix("another "), per_category, seed)
        x.append(seen(roughen(batch.images, generator)))
        y += [place] * len(batch.images)
    return torch.cat(x), torch.tensor(y)


# ------------------------------------------------------------------------------------------------ one method, one goal, one seed

def pictures_of(bench, method, category, negatives, seed):
    """Pictures (n, 3, 64, 64) of one method, and what its training wrote."""
    told, prompt, a = [] if method == PLAIN else negatives, paper.filled(paper.PHOTO, category), bench.args
    name = f"{method}_{category}_{'_'.join(told)}_{seed}"
    if method in TRAINED:
        given = ["--negative", *negatives] if negatives and method != "adaptive negatives" else []
        return bench.learned(name, ["--positive", category, *given, *TRAINED[method]], seed)
    avoid = ", ".join(paper.filled("a {}", w) for w in negatives)
    draw = {PLAIN: lambda: bench.pipe(prompt, bench.pictures, a.sampling, a.guidance, 1000 * seed),
            IN_PRIOR: lambda: in_prior(bench, prompt, avoid, 1000 * seed), IN_LDM: lambda: in_ldm(bench, prompt, avoid, 1000 * seed)}
    return bench.drawn(name, draw[method]), {}


def in_prior(bench, prompt, avoid, seed):
    """The negative prompt guides the prior only, which the authors found better for this baseline than the decoder."""
    seeds = [torch.Generator().manual_seed(seed + i) for i in range(bench.pictures)]
    condition = bench.pipe.encode_prompts([prompt] * bench.pictures, negative=avoid, seeds=seeds)
    return bench.pipe.draw(condition.added["image_embeds"], bench.args.sampling, bench.args.guidance, seeds)


def in_ldm(bench, prompt, avoid, seed):
    """Toybox's text-to-image model, in place of Stable Diffusion 2, with its own usual guidance."""
    bench.ldm = getattr(bench, "ldm", None) or minidiff.load("toybox", bench.args.device)
    return bench.ldm(prompt, bench.pictures, bench.args.sampling, 5.0, seed, negative=avoid)


def row(bench, method, category, given, judged, seed):
    """The numbers of one method with the negatives given, measured against `judged`."""
    def compute():
        pictures, metrics = pictures_of(bench, method, category, given, seed)
        numbers = paper.similarities(bench.pipe, pictures, [category], judged) | bench.recognise(pictures, category)
        numbers |= {"by the meter": paper.verdict(pictures, category)["in the category"]}
        return numbers | {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    return bench.once(f"{method} | {category} | {' '.join(given)} | {' '.join(judged)} | {seed}", compute)


def over_seeds(bench, of_seed, columns=COLUMNS):
    """{column: "mean ± spread"} of of_seed(seed), a list of rows that are averaged first."""
    def average(rows, k):
        return sum(r[k] for r in rows) / len(rows)
    runs = [of_seed(seed) for seed in bench.seeds]
    return {k: mean_std([average(rows, k) for rows in runs], 3) for k in columns}


def mean_of(rows, key):
    return sum(r[key] for r in rows) / len(rows)


# ------------------------------------------------------------------------------------------------ the tables

def table_main(bench):
    methods, rows, better = [OURS, IN_PRIOR, IN_LDM, PLAIN], [], {"positive similarity": 0, "distance": 0}
    for category in CATEGORY_NAMES:
        of_seed = lambda method, seed: [row(bench, method, category, pair, pair, seed) for pair in bench.pairs(category)]
        found = {method: {seed: of_seed(method, seed) for seed in bench.seeds} for method in methods}
        most = {method: mode(r.get(SEEN, "") for r in sum(found[method].values(), [])) for method in methods}
        rows += [{"category": category, "method": m} | over_seeds(bench, found[m].get) | {SEEN: most[m]} for m in methods]
        for key in better:
            ours, *others = (mean_of(sum(found[method].values(), []), key) for method in (OURS, IN_PRIOR, IN_LDM))
            better[key] += ours > max(others)
        show(bench, category, methods)
    show_ours(bench)
    known, new, mistaken = bench.recogniser.accuracy.tolist()
    concepts = len(CATEGORY_NAMES) * len(bench.pairs(CATEGORY_NAMES[0])) * len(bench.seeds)
    won = ", ".join(f"{n} of {len(CATEGORY_NAMES)} categories ({key})" for key, n in better.items())
    return (f"{concepts} concepts, {bench.pictures} pictures of each. ConceptLab beats both negative prompts in {won}. Of fresh renders the recogniser "
            f"names {known:.2f} of known members right, and {new:.2f} of others, {mistaken:.2f} of which it takes for a known member",
            ["category", "method", *COLUMNS, SEEN], rows)


def show(bench, category, methods):
    """A figure: a row for each method, the first pair and seed."""
    rows = torch.stack([first_of(bench, method, category)[:6] for method in methods])
    images.save_figure(bench.out / f"{slug(category)}.png", rows, methods, title=goal_of(bench, category))


def show_ours(bench):
    """concepts.png: a row for each category, what ConceptLab made of its first pair and seed."""
    rows = torch.stack([first_of(bench, OURS, category)[:8] for category in CATEGORY_NAMES])
    images.save_figure(bench.out / "concepts.png", rows, [goal_of(bench, category) for category in CATEGORY_NAMES])


def first_of(bench, method, category):
    return pictures_of(bench, method, category, bench.pairs(category)[0], bench.seeds[0])[0]


def goal_of(bench, category):
    return f"{category}, but no {' and no '.join(bench.pairs(category)[0])}"


def table_ablation(bench):
    methods = [OURS, *(m for m in TRAINED if m.startswith(("without", "in text")))]
    first = lambda c: bench.pairs(c)[0]
    of_seed = lambda method: lambda seed: [row(bench, method, c, first(c), first(c), seed) for c in CATEGORY_NAMES]
    rows = [{"method": method} | over_seeds(bench, of_seed(method)) for method in methods]
    return "The first pair of each category", ["method", *COLUMNS], rows


def table_adaptive(bench):
    columns = [*COLUMNS, "distinct answers", "answers that fell"]
    rows = []
    for name, method in {"adaptive negatives": "adaptive negatives", "fixed negatives": OURS, PLAIN: PLAIN}.items():
        given = lambda c: bench.pairs(c)[0] if method == OURS else []

        def of_seed(seed):
            found = [row(bench, method, c, given(c), list(CATEGORIES[c][0]), seed) for c in CATEGORY_NAMES]
            return [with_answers(r) for r in found]
        own = columns if method == "adaptive negatives" else COLUMNS
        rows.append({"method": name} | over_seeds(bench, of_seed, own))
    return "No negatives given, or the first pair; measured against all members of the category", ["method", *columns], rows


def with_answers(r):
    """The share of the answers whose similarity fell after they had become negatives; 1 if there were none."""
    changes = [v for k, v in r.items() if k.startswith("change of similarity to ")]
    return r | {"answers that fell": sum(v < 0 for v in changes) / len(changes) if changes else 1.0,
                "distinct answers": r.get("distinct answers", 0)}


def table_mixing(bench):
    rows = []
    for a, b in [list(CATEGORIES[c][0])[:2] for c in CATEGORY_NAMES]:
        e = [paper.embed_pictures(bench.pipe, toybox.of_class(word, bench.pictures, 77).images) for word in (a, b)]
        means = F.normalize(torch.stack([x.mean(dim=0) for x in e]), dim=1)

        def near(name, options, seed, run=None):
            def compute():
                s = paper.embed_pictures(bench.pipe, bench.learned(name, options, seed, run)[0]) @ means.T
                return {"first": float(s[:, 0].mean()), "second": float(s[:, 1].mean())}
            return bench.once(f"mixing | {name}", compute)
        words = [near(f"mix_{a}_{b}_{s}", ["--positive", a, b], s) for s in bench.seeds]
        by_weight = [[near(f"evolve_{a}_{b}_{w}_{s}", ["--weights", str(w), str(round(1 - w, 2))], s, evolution(e)) for s in bench.seeds]
                     for w in WEIGHTS]
        lean = [mean_of(found, "first") - mean_of(found, "second") for found in by_weight]
        rows.append({"members": f"{a}, {b}", "words: to the first": mean_std([r["first"] for r in words], 3),
                     "to the second": mean_std([r["second"] for r in words], 3),
                     "renders of the second: to the first": float((e[1] @ means[0]).mean()), "of the first: to the second": float((e[0] @ means[1]).mean()),
                     **{f"pictures, w = {w}": f"{v:+.3f}" for w, v in zip(WEIGHTS, lean)},
                     "order": spearman(torch.tensor(WEIGHTS), torch.tensor(lean))})
    return ("Mean cosines of a mixture's pictures to the mean embedding of each member's renders, and of one member's renders to the other's; for "
            "evolution, that to the first less that to the second, by the weight of the first; order: rank correlation of both", list(rows[0]), rows)


def evolution(parents):
    """A training like `conceptlab.learn_and_save`, of pictures' embeddings (k, E) of two parents."""
    def train(pipe, args):
        args.init = "picture"
        rows, story, _, steps = paper.learn(pipe, paper.Goal(parents, [], paper.share(args.weights, 2)), args)
        paper.keep(args.out, args.token, rows, story, {"steps": steps})
        return rows, {"steps": steps}
    return train


TABLES = {"main": table_main, "ablation": table_ablation, "adaptive": table_adaptive, "mixing": table_mixing}
