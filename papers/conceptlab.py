"""ConceptLab: "Creative Concept Generation using VLM-Guided Diffusion Prior Constraints". Richardson, Goldberg, Alaluf, Cohen-Or,
ACM TOG 2024, arXiv:2308.02669v2.

Learn a new word for something that does not exist: a pet that is no cat, no dog, nor any other pet one could name. No picture is given.

    paper           code               meaning                                                                 shape
    --------------  -----------------  ----------------------------------------------------------------------  ----------
    S_*, v_*        --token, rows      the new word, and its row in the text encoder's table: all that learns  (1, D)
    y               template           a text around it: "a photo of a {}"; a new one in each step
    E_y(c)          texts(...)         CLIP text embedding of word c in y, unit length, no gradient            (1, E)
    P(E_y(v_*))     concept_embedding  image embedding that the prior draws for S_* in y                       (B, E)
    C_pos, C_neg    goal.positive, ..  words (or pictures) to be like, and words not to be like
    <.,.>           s_pos, s_neg       cosine similarities of draws and constraints                            (B, n) each
    S, S_max        concept_loss       their mean and their maximum over the constraints                       scalar
    lambda          lam                weight of the positive term                                             float
    tau_max, _min   clamps             from there on a similarity is good enough: no gradient                  float each
    w_i             goal.weights       of the positives, in mixing; they sum to 1                              (n,)
    L, L_mix        concept_loss       what v_* makes small; L_mix is L without negatives, on pictures         scalar

Formulas are cited by their left sides. Where the paper and the authors' code differ, this file follows
  * their code: clamps, which no formula has (`--literal` leaves them out). Theirs, 0.28 and 0.20, are for CLIP ViT-L/14. Here, by
    `calibrated`, tau_max is the median similarity of the prior's draws for the positive words to these words, tau_min the lower
    quartile of that of its draws for known words to the *other* known words (styles: 3/4 of it, as their 0.15 is of 0.20). Known are
    --known, or toybox's members of the category, or else all words given, the positive ones among them; one word alone has no other,
    and tau_min is -inf. `--clamps MIN MAX` sets both.
  * their code: half of the templates are plain photos. The wordings are ours, such as toybox has read.
  * the paper: evolution holds P(E_y(v_*)) to the pictures. (In their code, by a swap, the text embedding, past the prior.)
  * neither: every text is read at its own end token. (Their sampling reads at the largest id, which is the new word's; their
    training reads the empty text where the prompt beside it ends.)
  * neither: an answer becomes a negative if it names something, and once. (In their code any answer does, each time.)
Differs from both
  * One text encoder, the prior's own CLIP, reads the constraints too (theirs: Kandinsky 2.1's multilingual one). Decoders that
    read text, such as 2.1's, are not here; Kandinsky 2.2 is.
  * No weight decay (code: 1e-2). Learning rate, steps and guidance are for toybox, and a step has several draws. For Kandinsky:
    --lr 1e-4 --steps 2500 --period 250 --batch 1 --prior-guidance 4 --sampling 50 --guidance 7.5.
  * Pictures of a learned parent are chosen by CLIP, the nearest to their mean (paper: 3 to 5 of 32, by hand).

Cost    a step is 5 calls of the prior on 2 x batch rows, forward and backward: 0.1 s of one CPU core on toybox;
        the demonstration makes 300, and draws 35 pictures.
Run     python papers/conceptlab.py                                                  invents a pet of toybox, with adaptive negatives
        python papers/conceptlab.py train --positive fruit --negative apple pear --out fruit
        python papers/conceptlab.py train --positive cat fish --weights .4 .6        mixes two words
        python papers/conceptlab.py train --style                                    invents a style
        python papers/conceptlab.py evolve --parents a b --weights .3 .7 --out child      mixes what was learned, or folders of pictures
        python papers/conceptlab.py sample --learned fruit --prompt "a watercolor of a <concept> in a garden"
        python papers/conceptlab.py train --model KANDINSKY22 --prior KANDINSKY22_PRIOR --vqa BLIP2 --known cat dog hamster ...
        python papers/conceptlab.py eval                                             the paper's tables: see papers/tables/conceptlab.py
"""
import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

import minidiff
from minidiff import command, devices, images, tokens, toybox
from minidiff.charts import save_curves
from minidiff.checkpoints import find, write_json
from minidiff.kandinsky import Kandinsky, UnCLIP
from minidiff.metrics import markdown
from minidiff.pipeline import read_lines, read_prompts
from minidiff.prior import predictor
from minidiff.samplers import ddpm_step, noise, steps_of
from minidiff.toybox.scenes import CATEGORIES, MEMBERS
from minidiff.toybox.world import CLASSES
from minidiff.training import progress, update
from minidiff.vqa import Blip2, ZeroShot, cleaned

PHOTO = "a photo of a {}"
PHOTOS = [PHOTO, "a picture of a {}", "a {}"]
OTHERS = ["a watercolor of a {}", "a sketch of a {}", "a drawing of a {}", "a photo of a large {}", "a {} in a garden", "a {} in a room"]
CONTENTS = ["cat", "chair", "tree", "person", "guitar", "house"]                    # of pictures in a new style
STYLES = ["photo", "watercolor", "sketch", "drawing"]
QUESTION, STYLE_QUESTION = "What kind of {} is in this photo?", "What art style was used in this photo of a {}?"       # their code
CATEGORY_WORDS = {category.split()[-1]: category for category in CATEGORIES}


@dataclass
class Goal:
    """What the concept is to be like and not like.

    positive: words; or, for evolution, unit embeddings (k, E) of some pictures of each parent.   weights: (n,), sum 1.
    negative: words.   clamps: (tau_min, tau_max).   is_style: the new word is a style, positives are what it draws.
    """
    positive: list
    negative: list
    weights: torch.Tensor
    clamps: tuple = (-math.inf, math.inf)
    is_style: bool = False


# ------------------------------------------------------------------------------------------------ the loss

def concept_loss(s_pos, s_neg, weights, lam=1.0, clamps=(-math.inf, math.inf), use_max=True):
    """L, and L_mix where there are no negatives.

        L = ( S(C_neg, v_*) + S_max(C_neg, v_*) ) / 2 + lambda ( 1 - S(C_pos, v_*) )

    Args:
        s_pos, s_neg: cosines of B draws with each positive and negative, (B, P) and (B, N); N may be 0.
        weights: (P,), w_i: 1 / P makes S a mean.   clamps: (tau_min, tau_max); infinite ones leave the equation as it is printed.
        use_max: without S_max, the first term is S(C_neg, v_*).
    """
    low, high = clamps
    near, far = s_pos.clamp(max=high).mean(dim=0), s_neg.clamp(min=low).mean(dim=0)                         # (P,), (N,)
    negative = 0.0 if not len(far) else (far.mean() + far.max()) / 2 if use_max else far.mean()
    return negative + lam * (weights * (1 - near)).sum()                                                    # L


def concept_embedding(pipe, text, empty, args, generator):
    """P(E_y(v_*)): one image embedding for each row of `text`, (B, E), drawn by the prior with a gradient through every step.

    text, empty: what the encoder says of B prompts and of no prompt, see `read`. generator: of the noise, which gets no gradient.
    """
    schedule, device = pipe.prior_schedule, text[0].device
    predict = predictor(pipe.prior, text, empty, args.prior_guidance)
    z = noise(text[0].shape, generator, device)
    for t, t_prev in steps_of(schedule, args.prior_steps):                                                  # 999, 749, 500, 250, 0
        fresh = noise(z.shape, generator, device) if t > 0 else None
        z = ddpm_step(schedule, predict(z, t), z, t, t_prev, fresh, unclip=schedule.method == "unclip")
    return pipe.prior.unwhiten(z)


def read(pipe, prompts):
    """Prompts -> (pooled (n, E), hidden (n, L, D), mask (n, L)): each read at its own end token, wherever a new word's id lies."""
    ids = pipe.tokenizer(prompts).to(pipe.device)
    hidden, pooled = pipe.text_encoder(ids)
    return pooled, hidden, pipe.text_encoder.counts(ids)


class Texts:
    """E_y(c): prompts -> unit embeddings (n, E), without gradient. Each is computed once: the text encoder is frozen."""

    def __init__(self, pipe):
        self.pipe, self.known = pipe, {}

    @torch.no_grad()
    def __call__(self, prompts):
        new = [p for p in dict.fromkeys(prompts) if p not in self.known]
        if new:
            self.known.update(zip(new, F.normalize(read(self.pipe, new)[0].float(), dim=1)))
        return torch.stack([self.known[p] for p in prompts])


def filled(template, word):
    """The template around a word: "a photo of an apple"."""
    return (template.replace("a {}", "an {}") if word[:1] in "aeiou" else template).format(word)


def draw_template(goal, generator):
    """y, and what stands for a positive word in it: half of them photos; in a new style, some content, said without style."""
    pick = lambda some: some[int(torch.randint(len(some), (), generator=generator))]
    if goal.is_style:
        content = filled("a {}", pick(CONTENTS))
        return f"a {{}} of {content}", [f"a picture of {content}"]
    template = pick(pick([PHOTOS, OTHERS]))
    return template, [filled(template, c) for c in goal.positive if isinstance(c, str)]


# ------------------------------------------------------------------------------------------------ training

def learn(pipe, goal, args, ask=None, token=None):
    """v_* = argmin L. Puts the new word, learned, into pipe's text encoder; goal.negative grows by what `ask` answers.

    Returns:
        rows (1, D); story {word: {"since": step, "cosine": one for each step from there on}};
        asked [(step, answer, cleaned or None, picture)]; steps made.
    """
    generator = torch.Generator().manual_seed(args.seed)
    texts, token = Texts(pipe), token or args.token
    learned = tokens.add(pipe, token, args.init)
    optimizer = torch.optim.AdamW(learned.parameters(), args.lr, weight_decay=0.0)
    with torch.no_grad():
        empty = read(pipe, [""])
    story, asked = {}, []
    with progress(args.steps, f"learning {token}") as bar:
        for step in bar:
            if ask and step % args.period == 0 and (step or not goal.negative):                             # adaptive negatives
                asked.append((step, *look(pipe, goal, token, args, ask)))
                goal.negative += [asked[-1][2]] if asked[-1][2] else []
            y, positives = draw_template(goal, generator)
            c_pos = texts(positives) if positives else some_pictures(goal.positive, generator)              # (P, E)
            c_neg = texts([filled(y, c) for c in goal.negative]) if goal.negative else c_pos[:0]            # (N, E), in the same y
            with devices.autocast(pipe.device):
                text = read(pipe, [filled(y, token)])                                                       # E_y(v_*)
                text = [part.expand(args.batch, *part.shape[1:]) for part in text]
                e = text[0] if args.space == "text" else concept_embedding(pipe, text, empty, args, generator)
            v = F.normalize(e.float(), dim=1)                                                               # P(E_y(v_*))
            s_pos, s_neg = v @ c_pos.T, v @ c_neg.T
            loss = concept_loss(s_pos, s_neg, goal.weights.to(v.device), args.lam, goal.clamps, args.use_max)
            update(optimizer, loss, step, bar)
            remember(story, goal, step, s_pos.detach().mean(dim=0), s_neg.detach().mean(dim=0))
    tokens.freeze(pipe)
    return learned.rows.detach().cpu(), story, asked, bar.n


def some_pictures(parents, generator):
    """One unit embedding of each parent (k, E), at random: (P, E)."""
    return torch.stack([e[int(torch.randint(len(e), (), generator=generator))] for e in parents])


def look(pipe, goal, token, args, ask):
    """Draws the concept as it is now and asks what that is: the answer, what it adds to C_neg (or None), the picture."""
    if goal.is_style:
        prompt, question = filled("a {} of a %s" % CONTENTS[0], token), STYLE_QUESTION.format(CONTENTS[0])
    else:
        prompt, question = filled(PHOTO, token), QUESTION.format(goal.positive[0])
    picture = pipe(prompt, 1, args.sampling, args.guidance, args.seed)[0].cpu()
    answer = ask(picture, question)
    return answer, cleaned(answer, [*goal.positive, *goal.negative]), picture


def remember(story, goal, step, s_pos, s_neg):
    names = [c if isinstance(c, str) else f"parent {i + 1}" for i, c in enumerate(goal.positive[:len(s_pos)])] + goal.negative
    for name, s in zip(names, torch.cat([s_pos, s_neg]).tolist()):
        story.setdefault(name, {"since": step, "cosine": []})["cosine"].append(s)


@torch.no_grad()
def calibrated(pipe, goal, known, args, draws=8):
    """(tau_min, tau_max): how similar the prior's draws for known words are to other known words, and those for positives to these.

    Over `draws` draws of each, the median and the lower quartile. From tau_max on the concept is as much of its category as the plain
    word; below tau_min it is no nearer to a known member than the less alike of these are to one another; a single known word has no
    other, and tau_min is -inf.
    """
    generator, texts = torch.Generator().manual_seed(args.seed + 1), Texts(pipe)
    y, positives = PHOTO, [filled(PHOTO, c) for c in goal.positive]
    if goal.is_style:
        y, positives = "a {} of a %s" % CONTENTS[0], [filled("a picture of a {}", c) for c in CONTENTS[:1]]
    members = [filled(y, c) for c in dict.fromkeys(known)]

    def similarity(prompts):                                                                                # (draws, n, n)
        text = [part.repeat_interleave(draws, dim=0) for part in read(pipe, prompts)]
        e = F.normalize(concept_embedding(pipe, text, read(pipe, [""]), args, generator).float(), dim=1)
        return rearrange(e @ texts(prompts).T, "(n d) m -> d n m", d=draws)
    high = similarity(positives).diagonal(dim1=1, dim2=2).median()
    if len(members) < 2:
        return -math.inf, float(high)
    low = similarity(members)[:, ~torch.eye(len(members), dtype=torch.bool)].quantile(.25)
    return float(low) * (.75 if goal.is_style else 1), float(high)


# ------------------------------------------------------------------------------------------------ evolution: L_mix

def parent_pictures(pipe, folder, k, args):
    """Unit embeddings (n, E) of a parent: of the pictures in a folder; or, of what was learned, of the most typical --keep of 32."""
    folder, file = Path(folder), Path(folder) / "learned.safetensors"
    if not file.is_file():
        return embed_pictures(pipe, images.load_folder(folder, pipe.image_encoder.config["image_size"]))
    token = tokens.load(pipe, file, f"<parent{k}>")
    return typical(embed_pictures(pipe, pipe(filled(PHOTO, token), args.litter, args.sampling, args.guidance, args.seed)), args.keep)


def typical(e, keep):
    """The `keep` of n unit embeddings (n, E) that are nearest to their mean. Paper: chosen by hand."""
    return e[(e @ e.mean(dim=0)).topk(min(keep, len(e))).indices]


def evolve(pipe, parents, args):
    """Mixes parents, (k, E) each; with --pairwise two by two, then their children, until one is left. All children, it last."""
    weights, children = share(args.weights, 2 if args.pairwise else len(parents)), []
    while len(parents) > 1:
        families = [parents[i:i + 2] for i in range(0, len(parents), 2)] if args.pairwise else [parents]
        new = [child_of(pipe, family, weights, args, f"<child{len(children) + i + 1}>" if len(families) > 1 else args.token)
               for i, family in enumerate(families) if len(family) > 1]
        children += new
        parents = [child["embeddings"] for child in new] + [family[0] for family in families if len(family) == 1]     # who waits
    return children


def child_of(pipe, parents, weights, args, token):
    """One new word that draws like all parents. Its most typical pictures make it a parent itself. Source: L_mix."""
    rows, story, _, steps = learn(pipe, Goal(parents, [], weights), args, token=token)
    pictures = pipe(filled(PHOTO, token), args.litter, args.sampling, args.guidance, args.seed).cpu()
    return {"token": token, "rows": rows, "story": story, "steps": steps, "pictures": pictures,
            "embeddings": typical(embed_pictures(pipe, pictures), args.keep)}


# ------------------------------------------------------------------------------------------------ what is measured

@torch.no_grad()
def embed_pictures(pipe, pictures):
    """Pictures (n, 3, H, W) in [0, 1] -> unit CLIP embeddings (n, E)."""
    encoder = pipe.image_encoder
    parts = pictures.to(next(encoder.parameters())).split(64)
    return F.normalize(torch.cat([encoder(images.clip_pixels(x, encoder.config["image_size"]))[1] for x in parts]).float(), dim=1)


def similarities(pipe, pictures, positive, negative):
    """The paper's numbers, means over pictures: cosine to the category's text, and that less the largest cosine to a negative."""
    e, texts = embed_pictures(pipe, pictures), Texts(pipe)
    near = (e @ texts([filled(PHOTO, c) for c in positive]).T).mean(dim=1)
    scores = {"positive similarity": float(near.mean())}
    if negative:
        scores["distance"] = float((near - (e @ texts([filled(PHOTO, c) for c in negative]).T).amax(dim=1)).mean())
    return scores


def verdict(pictures, category):
    """What toybox's meter says: share of pictures in the category, and that are for sure (p > 0.5) one of its known members."""
    p, own = toybox.measure(pictures)["member_p"], [MEMBERS[m] == category for m in CLASSES["member"]]
    own = torch.tensor(own)
    return {"in the category": float(own[p.argmax(dim=1)].double().mean()),
            "a known member": float((p[:, own].amax(dim=1) > .5).double().mean())}


def fell(story, words, share_of=.2):
    """{word: how much its similarity has changed}: mean over the last fifth of its steps less that over the first."""
    ends = {w: torch.tensor(story[w]["cosine"]) for w in words if len(story.get(w, {"cosine": []})["cosine"]) > 1}
    k = {w: max(1, int(share_of * len(s))) for w, s in ends.items()}
    return {w: float(s[-k[w]:].mean() - s[:k[w]].mean()) for w, s in ends.items()}


# ------------------------------------------------------------------------------------------------ what to learn, and what was learned

def load(args):
    """The model: toybox's kind of folder, or a Kandinsky with --prior."""
    is_ours = args.model == "toybox" or (Path(args.model).expanduser() / "decoder").is_dir()
    pipe = UnCLIP.from_folder(args.model, args.device) if is_ours else minidiff.load(args.model, args.device, prior=args.prior)
    if not isinstance(pipe, Kandinsky):
        raise ValueError(f"{args.model} has no diffusion prior; expected toybox, or a Kandinsky 2.2 decoder and its --prior")
    pipe.prior_steps, pipe.prior_guidance = args.prior_steps, args.prior_guidance
    return pipe


def goal_of(pipe, args):
    """The Goal and, for adaptive negatives, whom to ask; fills in --init."""
    positive = [CATEGORY_WORDS.get(c, c) for c in args.positive]
    goal = Goal(positive, [*args.negative], share(args.weights, len(positive)), is_style=args.style)
    check_read(pipe, [*positive, *args.negative, *(args.known or [])])
    args.init = args.init or positive[0].split()[-1]
    adaptive = not args.negative and len(positive) == 1 if args.adaptive is None else args.adaptive
    if not args.literal:
        goal.clamps = tuple(args.clamps) if args.clamps else calibrated(pipe, goal, known_words(args, goal), args)
    return goal, vqa(pipe, args, goal) if adaptive else None


def check_read(pipe, words):
    """ValueError for words that toybox has never read: they are letters to its CLIP. A public CLIP has read all, in pieces."""
    unread = [word for word in words if isinstance(pipe, UnCLIP) and len(pipe.tokenizer.encode(word)) > len(word.split())]
    if unread:
        raise ValueError(f"this model has never read {', '.join(map(repr, unread))}; expected words of its captions, such as cat, apple "
                         "or chair")


def known_words(args, goal):
    """Members of the category, for `calibrated`: --known; toybox's own; else the words that are given."""
    ours = STYLES if goal.is_style else [m for m, category in MEMBERS.items() if category in goal.positive]
    return args.known or ours or [*goal.positive, *goal.negative]


def vqa(pipe, args, goal):
    """ask(image, question) -> words: BLIP-2 in a folder, or CLIP with a vocabulary that is larger than the category."""
    if args.vqa != "clip":
        return Blip2(find(args.vqa), pipe.device)
    if args.vocabulary:
        words = read_lines(args.vocabulary, "vocabulary")
        check_read(pipe, words)
    elif not isinstance(pipe, UnCLIP):
        raise ValueError("adaptive negatives need somebody to ask: --vqa FOLDER of a BLIP-2, or --vocabulary FILE of words for CLIP; "
                         "or give all negatives with --negative")
    else:
        words = STYLES if goal.is_style else [*MEMBERS, *(c for c in CATEGORIES if c != "thing"), "person", "hand"]
    template = f"a {{}} of a {CONTENTS[0]}" if goal.is_style else PHOTO
    return ZeroShot(pipe, {word: filled(template, word) for word in words if word not in goal.positive})    # "What kind of pet?" "Pet." is no answer


def share(weights, n):
    """n weights that sum to 1, (n,)."""
    if weights and (len(weights) != n or min(weights) < 0 or sum(weights) <= 0):
        raise ValueError(f"--weights {' '.join(map(str, weights))}: expected {n} numbers from 0 on, one for each of what is mixed")
    return torch.tensor(weights or [1.0] * n) / sum(weights or [1.0] * n)


def learn_and_save(pipe, args):
    """Learns one concept of words; writes learned.safetensors, similarity.png, story.json. Returns goal, asked and metrics."""
    began = time.monotonic()
    goal, ask = goal_of(pipe, args)
    rows, story, asked, steps = learn(pipe, goal, args, ask)
    metrics = {"seconds": time.monotonic() - began, "steps": steps, "device": str(pipe.device), "batch": args.batch, "lr": args.lr,
               "answers": len(asked), "distinct answers": len({new for _, _, new, _ in asked if new}), "negatives": len(goal.negative)}
    metrics |= {name: tau for name, tau in zip(("tau_min", "tau_max"), goal.clamps) if math.isfinite(tau)}
    metrics |= {f"change of similarity to {word}": change for word, change in fell(story, goal.negative).items()}
    keep(args.out, args.token, rows, story, metrics)
    return goal, asked, metrics


def keep(folder, token, rows, story, metrics):
    tokens.save(folder / "learned.safetensors", token, rows)
    save_curves(folder / "similarity.png", {word: (s["since"], s["cosine"]) for word, s in story.items()},
                "cosine of the prior's draws with each constraint, from when it was one")
    write_json(folder / "story.json", story)
    write_json(folder / "metrics.json", metrics)


# ------------------------------------------------------------------------------------------------ command line

SCENES = ["a photo of a {}", "a {} in the snow", "a red {} in a room", "a watercolor of a {}", "a {} at night"]


def demonstrate(args, n=5):
    """Invents a pet: what it was taken for on the way, pictures of the plain word and of the concept, and of it in new scenes."""
    if len(args.positive) > 1 or args.style:
        raise ValueError("the demonstration invents a member of one category; use the verb train to mix words, or for a style")
    began, pipe = time.monotonic(), load(args)
    goal, asked, metrics = learn_and_save(pipe, args)
    category, = goal.positive
    plain = pipe(filled(PHOTO, category), n, args.sampling, args.guidance, args.seed).cpu()
    made = pipe([filled(scene, args.token) for scene in SCENES], n, args.sampling, args.guidance, args.seed).cpu().unflatten(0, (-1, n))
    seen = torch.stack([picture for *_, picture in asked[:n]] + [torch.ones_like(plain[0])] * (n - len(asked[:n])))
    answers = ", ".join(f"{step}: {answer}" for step, answer, *_ in asked[:n])
    images.save_figure(args.out / "figure.png", torch.stack([plain, seen, *made]), title=f"{args.token}: a {category} like no other",
                       row_labels=[filled(PHOTO, category), f"asked at step {answers}", *(filled(s, args.token) for s in SCENES)])
    rows = []
    for name, pictures in ((f"a photo of a {category}", plain), (f"a photo of a {args.token}", made[0])):
        read_off = verdict(pictures, category) if isinstance(pipe, UnCLIP) and category in CATEGORIES else {}
        rows.append({"": name} | similarities(pipe, pictures, goal.positive, goal.negative) | read_off)
    metrics |= {f"{name}, plain word": value for name, value in rows[0].items() if name} | {k: v for k, v in rows[1].items() if k}
    metrics |= {"seconds training": metrics["seconds"], "seconds": time.monotonic() - began}
    write_json(args.out / "metrics.json", metrics)
    print(markdown(rows, list(rows[0])) + f"negatives: {', '.join(goal.negative)}")
    print(f"{metrics['steps']} steps in {metrics['seconds training']:.0f} s, {metrics['seconds']:.0f} s with the pictures")
    print(f"written to {args.out}: figure.png, similarity.png, story.json, learned.safetensors, metrics.json")


def train_command(args):
    pipe = load(args)
    goal, asked, metrics = learn_and_save(pipe, args)
    if asked:
        images.save_figure(args.out / "asked.png", torch.stack([picture for *_, picture in asked])[None],
                           column_labels=[f"{step}: {answer}" for step, answer, *_ in asked], scale=2 if pipe.sample_size < 32 else 1)
    print(f"positive: {', '.join(goal.positive)}; negative: {', '.join(goal.negative) or 'none'}")
    print(f"{metrics['steps']} steps, {metrics['seconds']:.0f} s")
    print(f"written: {args.out / 'learned.safetensors'}; in prompts, {args.token} is {'the style' if args.style else 'the noun'}")


def evolve_command(args):
    began, pipe = time.monotonic(), load(args)
    args.init = args.init or "picture"
    parents = [parent_pictures(pipe, folder, k + 1, args) for k, folder in enumerate(args.parents)]
    *others, last = evolve(pipe, parents, args)
    e, means = embed_pictures(pipe, last["pictures"]), F.normalize(torch.stack([p.mean(dim=0) for p in parents]), dim=1)
    metrics = {f"cosine to parent {k + 1}": float((e @ mean).mean()) for k, mean in enumerate(means)}
    metrics |= {"cosine of the first two parents": float(means[0] @ means[1]), "children": len(others) + 1,
                "steps": last["steps"], "seconds": time.monotonic() - began, "device": str(pipe.device)}
    for folder, child in [*((args.out / f"child{k + 1}", child) for k, child in enumerate(others)), (args.out, last)]:
        keep(folder, child["token"], child["rows"], child["story"], metrics)
        images.save_samples(folder, child["pictures"], [filled(PHOTO, child["token"])])
    print("\n".join(f"{name:32s} {value:.3f}" for name, value in metrics.items() if name.startswith("cosine")))
    print(f"written to {args.out}: learned.safetensors, samples.png, similarity.png; it may be a parent of the next generation")


def sample_command(args):
    prompts = read_prompts(args.prompts) if args.prompts else [] if args.prompt is None else [args.prompt]
    pipe = load(args)
    learned = [tokens.load(pipe, folder / "learned.safetensors" if folder.is_dir() else folder) for folder in args.learned]
    prompts = prompts or [filled(PHOTO, token) for token in learned]
    new, said = {pipe.tokenizer.added[token] for token in learned}, {i for prompt in prompts for i in pipe.tokenizer.encode(prompt)}
    if not new & said:
        raise ValueError(f"no prompt says what was learned; expected {' or '.join(learned)} in {prompts[0]!r}")
    images.save_samples(args.out, pipe(prompts, args.n, args.sampling, args.guidance, args.seed, args.negative), prompts)
    print(f"written to {args.out}: samples.safetensors, samples.png")


def evaluate(args):
    from tables import conceptlab as tables                 # long, and no part of the method
    tables.run(args)


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder that papers/unclip.py trained, or the decoder of a Kandinsky 2.2")
    add("--prior", metavar="DIR", help="the folder of a Kandinsky's prior")
    add("--out", type=Path, default=Path("outputs/conceptlab"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training, and of the first picture")
    add("--sampling", type=int, default=30, help="steps of a picture (code: 50)")
    add("--guidance", type=float, default=3.0, help="of the decoder; 1 is none (code: 7.5)")
    add("--prior-steps", type=int, default=5, help="of an embedding, in training and in pictures (code: 5)")
    add("--prior-guidance", type=float, default=2.0, help="of the prior; 1 is none (code: 4)")
    training = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: training.add_argument(*names, **how)
    add("--steps", type=int, default=300, help="optimiser steps (code: 2500, evolution 2000)")
    add("--batch", type=int, default=4, help="draws of the prior in a step (code: 1)")
    add("--lr", type=float, default=3e-3, help="learning rate of AdamW (code: 1e-4)")
    add("--lam", type=float, default=1.0, help="lambda, weight of the positive term")
    new_word = argparse.ArgumentParser(add_help=False, parents=[training])
    add = lambda *names, **how: new_word.add_argument(*names, **how)
    add("--token", default="<concept>", help="the new word, S_*")
    add("--init", help="the word whose row v_* starts from, a single token (default: of the first positive; evolve: picture)")
    add("--weights", type=float, nargs="+", help="w_i, one for each of what is mixed (default: equal ones)")
    add("--space", choices=("prior", "text"), default="prior", help="text: E_y(v_*) in place of P(E_y(v_*)), the paper's ablation")
    words = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: words.add_argument(*names, **how)
    add("--positive", nargs="+", metavar="WORD", help="C_pos: a category, or several words to mix (default: pet; of a style: picture)")
    add("--negative", nargs="+", default=[], metavar="WORD", help="C_neg, what it must not be")
    add("--style", action="store_true", help="invent a style, not a thing; negatives are styles")
    add("--adaptive", action=argparse.BooleanOptionalAction, 
        help="negatives from a VQA model (default: if there is one --positive and no --negative)")
    add("--period", type=int, default=30, help="steps from one question to the next (code: 250)")
    add("--vqa", default="clip", help="whom to ask: clip, which chooses from a vocabulary, or the folder of a BLIP-2 (code: this)")
    add("--vocabulary", metavar="FILE", help="what CLIP may answer, one a line (default: all that toybox draws)")
    add("--known", nargs="+", metavar="WORD", help="members of the category, for the clamps (default: toybox's, or the given words)")
    add("--clamps", type=float, nargs=2, metavar=("MIN", "MAX"), help="tau_min, tau_max (default: calibrated; code: .2 .28, styles .15 .28)")
    add("--literal", action="store_true", help="the loss as it is printed: without clamps")
    add("--no-max", dest="use_max", action="store_false", help="without S_max, an ablation")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     parents=[common, new_word, words], allow_abbrev=False)     # or --n of `sample` would be taken for a short --negative
    verbs = parser.add_subparsers(dest="verb")
    new = lambda name, text, *parents: verbs.add_parser(name, help=text, description=text, parents=[common, *parents],
                                                        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new("train", "invent a concept, or mix words", new_word, words)
    mix = new("evolve", "mix what was learned, or folders of pictures", new_word)
    mix.add_argument("--parents", nargs="+", required=True, metavar="DIR", help="what was learned, or pictures; two or more")
    mix.add_argument("--pairwise", action="store_true", help="two by two, then their children, until one is left")
    mix.add_argument("--litter", type=int, default=32, help="pictures drawn of each learned parent (code: 32)")
    mix.add_argument("--keep", type=int, default=4, help="how many of them count (code: 3 to 5, by hand)")
    mix.set_defaults(use_max=True)
    use = new("sample", "pictures with learned words in the prompt")
    use.add_argument("--learned", type=Path, nargs="+", required=True, metavar="DIR", help="what was learned, or any file of a token")
    use.add_argument("--prompt", help="what to draw (default: a photo of each word that was learned)")
    use.add_argument("--prompts", metavar="FILE.json", help="a list of prompts instead")
    use.add_argument("--negative", help="a prompt to steer away from")
    use.add_argument("--n", type=int, default=4, help="pictures of each prompt")
    table = new("eval", "the paper's tables, on toybox", training)
    table.add_argument("--table", default="all", help="all, or one of main, ablation, adaptive, mixing")
    table.add_argument("--quick", action="store_true", help="a tenth of the paper's protocol")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded; fill in the category."""
    lowest = dict.fromkeys(("steps", "batch", "period", "sampling", "prior_steps", "n", "litter", "keep"), 1) | {"seed": 0}
    for name, low in lowest.items():
        if getattr(args, name, low) < low:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least {low}")
    if getattr(args, "lr", 1) <= 0:
        parser.error(f"--lr is {args.lr}, expected a number above 0")
    if getattr(args, "clamps", None) and not -1 <= args.clamps[0] < args.clamps[1] <= 1:
        parser.error(f"--clamps {args.clamps[0]:g} {args.clamps[1]:g}: expected two cosines, the lower one first")
    if getattr(args, "clamps", None) and args.literal:
        parser.error("--literal leaves out what --clamps sets; expected one of them")
    if getattr(args, "style", False) and args.positive:
        parser.error(f"--style invents a style of any picture, not of --positive {' '.join(args.positive)}; expected one of them")
    if args.verb in (None, "train"):
        args.positive = args.positive or ["picture" if args.style else "pet"]
    words = [*args.positive, *args.negative] if args.verb in (None, "train") else []
    if not all(word.strip() for word in words) or len(set(words)) < len(words):
        parser.error(f"--positive and --negative hold {', '.join(map(repr, words))}: expected different words, none of them empty")
    if len(getattr(args, "parents", "ab")) < 2:
        parser.error(f"--parents {args.parents[0]}: evolution mixes two or more")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "evolve": evolve_command, "sample": sample_command, "eval": evaluate}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
