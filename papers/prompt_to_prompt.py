"""Prompt-to-Prompt. Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or, ICLR 2023, arXiv:2208.01626.

Change a word of the prompt and keep the picture: while the edited prompt is sampled, from the same noise, its attention
maps are replaced by those of the source prompt. Nothing is trained.

    paper             code              meaning                                                     shape
    ----------------  ----------------  ----------------------------------------------------------  --------------
    P, P*             source, target    the prompt and the edited prompt                            texts
    z_t, z_t*         z, z_star         their latents                                               (n, C, h, w)
    M_t, M_t*         M, M_star         their cross-attention maps: pixels x tokens                 (n, h, N, L)
    M^_t              M_hat             what the edited branch uses, Edit(M_t, M_t*, t)             (n, h, N, L)
    A(j)              A                 position in P of token j of P*, or None                     list
    c                 c                 weight of each token                                        (n, L)
    tau               alpha, cross      until when maps are replaced, as a share of the steps       (n, L)
    B(x), k           blend_mask        where a word's map is above k = 0.3                         (n, 1, h, w)

The three edits of Sec. 3.2 are one function here, `edit_maps`: a mapper takes each token's map from the source (Word Swap), a
token that the source does not have keeps its own (Prompt Refinement), and weights multiply the result (Attention Re-weighting).

Where the paper and the authors' code differ, this file follows
  * their code: maps of self-attention, of at most 16x16 pixels, are replaced too, during a share of the steps of its own (--self);
    only the half of guidance that has a prompt is edited; a word of another number of tokens gets the maps in equal shares;
    summed maps are pooled and divided by their maximum before k.
  * the paper: weights hold in all steps (their code: while maps are replaced), and local editing looks at the maps M_t*
    themselves (their code: at the edited ones).
  * neither: a swap may change the number of tokens and what follows is still mapped word to word; their mapper goes back to equal
    positions after the last changed word. Padding has no counterpart where the source has a word.
Not here: editing of photos (null-text inversion), subtracted words.

On toybox, cross 0.4 and self 0.3 edit best (12 seeds, 25 steps, the seeds that they were chosen on). "a person" -> "an old person" raises the meter's age by 0.32, and
keeps skin in 1.00, background in 0.92 and colour of hair in 0.83 of the pictures; with the authors' 0.8 and 0.4 by 0.23 (1.00, 1.00,
0.83), without control by 0.46 (0.67, 0.92, 0.42). Short -> long hair: length of hair +0.46, +0.29, +0.83. Self decides more than cross: at
0.2 and below colours begin to change, at 0.8 shapes no longer do, for all attention of this UNet is at 8x8. Rain, colours of things and
glasses follow the prompt at any share, "smiling" at none, not even without control. Animals change their shape a little even so; --blend
keeps backgrounds (of 8 blue cats: all, against 6).

Cost    the demonstration takes 28 s of one CPU core in float32, and 0.42 GB; 1.7 s for each picture and its edit, 25 steps, in batches of 16.
Run     python papers/prompt_to_prompt.py                                  one edit of each kind on toybox, and what they change
        python papers/prompt_to_prompt.py edit --source "a person" --target "an old person"
        python papers/prompt_to_prompt.py edit --source "a person with glasses" --target "a person with glasses" --reweight glasses=-1
        python papers/prompt_to_prompt.py edit --source "a red cat" --target "a blue cat" --blend cat
        python papers/prompt_to_prompt.py edit --edits FILE.json           many edits and seeds, in batches
        ... --model PATH --sampling 50 --guidance 7.5 --cross 0.8 --self 0.4       Stable Diffusion, with the authors' settings
"""
import argparse
import json
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from tqdm import tqdm

import minidiff
from minidiff import command, images
from minidiff.checkpoints import write_json, write_tensors
from minidiff.samplers import generators, noise, sample
from minidiff.tokenizer import clean
from minidiff.toybox import measure

SMALL = 16                            # side of the largest self-attention maps that are replaced, and of those that make masks
THRESHOLD = 0.3                       # k of local editing
CROSS, SELF = 0.4, 0.3                # shares of the steps; how they were chosen is said above


# ------------------------------------------------------------------------------------------------ Sec. 3.2: Edit(M_t, M_t*, t)

def edit_maps(M, M_star, mapper, c, alpha):
    """The cross-attention maps that the edited branch uses in place of its own.

    Args:
        M, M_star: maps of the source and of the edited prompt, (B, h, N, L).
        mapper: (B, L, L), row: token of the source, column: token of the edited prompt; see `swap_mapper`, `refinement_mapper`.
            A column of zeros is a token without a counterpart, A(j) = None.
        c: weight of each token of the edited prompt, (B, L).
        alpha: 1 while t >= tau, 0 afterwards, of each token, (B, L).

    Returns M_hat (B, h, N, L); its rows need not sum to 1. Source: Sec. 3.2.
    """
    has_source, c, alpha = (rearrange(v, "b l -> b 1 1 l") for v in (mapper.any(dim=1), c, alpha))
    M_hat = einsum(M, mapper, "b h n i, b i j -> b h n j")
    M_hat = torch.where(has_source, M_hat, M_star)                                                      # Prompt Refinement
    M_hat = alpha * M_hat + (1 - alpha) * M_star                                                        # Word Swap, tau
    return c * M_hat                                                                                    # Attention Re-weighting


def align(source, target):
    """A: for each token of `target` its position in `source`, or None if it is new. Both are lists of ids.

    The global alignment (Needleman & Wunsch) with match 1, gap 0 and mismatch -1, as in the authors' code. A mismatch costs
    more than the two gaps that avoid it, so this is the longest common subsequence. Of several equally long ones, that whose
    tokens stand last in `target`.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, s in enumerate(source):
        for j, t in enumerate(target):
            best[i + 1][j + 1] = best[i][j] + 1 if s == t else max(best[i][j + 1], best[i + 1][j])
    A, i, j = [None] * len(target), len(source), len(target)
    while i and j:
        if source[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            A[j] = i
        elif best[i - 1][j] >= best[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return A


def refinement_mapper(source, target, length):
    """(length, length): token A(j) of the source gives its map to token j. source, target: ids, start and end included."""
    mapper = padding_mapper(max(len(source), len(target)), length)
    for j, i in enumerate(align(source, target)):
        if i is not None:
            mapper[i, j] = 1
    return mapper


def swap_mapper(source, target, length):
    """(length, length): each word of the source gives its maps to the word in its place, in equal shares to each token.

    source, target: the number of tokens of each word, start and end included. Rows of tokens sum to 1.
    """
    mapper, i, j = padding_mapper(max(sum(source), sum(target)), length), 0, 0
    for n, m in zip(source, target, strict=True):
        mapper[i:i + n, j:j + m] = torch.eye(n) if n == m else 1 / m
        i, j = i + n, j + m
    return mapper


def padding_mapper(start, length):
    """(length, length): what is padding in both prompts, from `start` on, is mapped to itself."""
    return (torch.arange(length) >= start).float().diag()


def blend_mask(maps, size, threshold=THRESHOLD):
    """Where the words are: maps (B, side, side), summed over steps -> bool (B, 1, *size). Source: Sec. 3.2, B(M)."""
    maps = F.max_pool2d(rearrange(maps, "b h w -> b 1 h w"), 3, stride=1, padding=1)
    maps = F.interpolate(maps, size)
    return maps > threshold * maps.amax(dim=(2, 3), keepdim=True)


# ------------------------------------------------------------------------------------------------ an edit

@dataclass
class Edit:
    """What is wanted: pictures of `source`, and the same ones as `target` says.

    mode: swap, refine, or auto: swap if both have the same number of words.   reweight: {word of the target: c}.
    cross: in which share of the steps, the first ones, cross-attention maps come from the source; or
        {"default_": share, word of the target: its own share}.   self_: the same for self-attention maps.
    blend: words of either prompt; the picture may change only where these are. None: everywhere.
    """
    source: str
    target: str
    mode: str = "auto"
    reweight: dict = field(default_factory=dict)
    cross: float | dict = CROSS
    self_: float = SELF
    blend: list = field(default_factory=list)
    seeds: list = field(default_factory=lambda: [0])


class Plan(NamedTuple):
    """An edit as tensors, for one picture; for B pictures, each with B in front."""
    mapper: torch.Tensor              # (L, L)
    c: torch.Tensor                   # (L,)
    alpha: torch.Tensor               # (S, L), S steps
    keep_self: torch.Tensor           # (S,) bool, where the self-attention maps are those of the source
    words: torch.Tensor               # (2, L) 1 at the words to blend, in the source and in the target


def plan(edit, tokenizer, steps):
    """Edit -> Plan; ValueError with one clear sentence if this edit cannot be made."""
    source, target = (ids_of(tokenizer, prompt) for prompt in (edit.source, edit.target))
    cross = edit.cross if isinstance(edit.cross, dict) else {"default_": edit.cross}
    c, share, words = torch.ones(tokenizer.length), torch.full((tokenizer.length,), cross.get("default_", CROSS)), []
    for word, weight in edit.reweight.items():
        c[places(tokenizer, word, target, edit.target)] = weight
    for word in set(cross) - {"default_"}:
        share[places(tokenizer, word, target, edit.target)] = cross[word]
    for word in edit.blend:
        places(tokenizer, word, [*source, *target], f"{edit.source} -> {edit.target}")
    for ids in (source, target):
        blended = [i for word in edit.blend for i in places(tokenizer, word, ids)]
        words.append(torch.zeros(tokenizer.length).index_fill(0, torch.tensor(blended, dtype=torch.long), 1))
    k = torch.arange(steps)
    alpha = rearrange(k, "s -> s 1") < (share * steps).round()
    return Plan(mapper_of(edit, tokenizer), c, alpha.float(), k < round(edit.self_ * steps), torch.stack(words))


def mapper_of(edit, tokenizer):
    """(L, L), of the kind that `edit.mode` asks for."""
    prompts = (edit.source, edit.target)
    counts = [[1, *(len(tokenizer.encode(word)) for word in clean(prompt).split()), 1] for prompt in prompts]
    n, m = (len(c) - 2 for c in counts)
    if edit.mode == "swap" and n != m:
        raise ValueError(f"{edit.source!r} has {n} words and {edit.target!r} has {m}; to swap, both need as many, or use refine")
    if edit.mode == "swap" or edit.mode == "auto" and n == m:
        return swap_mapper(*counts, tokenizer.length)
    return refinement_mapper(*(ids_of(tokenizer, prompt) for prompt in prompts), tokenizer.length)


def ids_of(tokenizer, prompt):
    """The ids of a prompt, start and end included, without padding."""
    ids, room = tokenizer.encode(prompt), tokenizer.length - 2
    if len(ids) > room:
        raise ValueError(f"{prompt!r} has {len(ids)} tokens and this model reads {room}; shorten it")
    return [tokenizer.bos, *ids, tokenizer.eos]


def places(tokenizer, word, ids, prompt=None):
    """Positions of all tokens of a word, or of several words in a row, wherever they stand in `ids`.

    ValueError if they do not, and `prompt`, where they should stand, is given.
    """
    wanted = tokenizer.encode(word)
    found = [i + k for i in range(len(ids)) for k in range(len(wanted)) if ids[i:i + len(wanted)] == wanted]
    if not found and prompt is not None:
        raise ValueError(f"the word {word!r} is not in {prompt!r}; choose one that is")
    return found


# ------------------------------------------------------------------------------------------------ Alg. 1

class Control:
    """Edits the maps of one batch: its last rows are n sources and then n edited prompts; all rows before them are left alone.

    Those are the predictions without a prompt, which guidance puts in front.
    """

    def __init__(self, plans, device):
        self.plan = Plan(*(torch.stack(tensors).to(device) for tensors in zip(*plans)))
        self.n, self.step, self.seen = len(plans), 0, 0.0
        self.is_local = self.plan.words.amax(dim=(1, 2)) > 0                # (n,)

    def split(self, maps):
        """(rows, h, N, L) -> the rows to leave alone; M and M_star, (n, h, N, L) each"""
        return maps.split([len(maps) - 2 * self.n, self.n, self.n])

    def cross(self, maps):
        rest, M, M_star = self.split(maps)
        M_hat = edit_maps(M.float(), M_star.float(), self.plan.mapper, self.plan.c, self.plan.alpha[:, self.step])
        return torch.cat([rest, M, M_hat.to(M.dtype)])

    def cross_seen(self, maps):
        """The same in a layer whose maps say where the words are: sums them over heads, layers and steps."""
        _, M, M_star = self.split(maps)
        self.seen = self.seen + einsum(torch.stack([M, M_star]).float(), self.plan.words, "e b h n l, b e l -> e b n")
        return self.cross(maps)

    def self_maps(self, maps):
        rest, M, M_star = self.split(maps)
        keep = rearrange(self.plan.keep_self[:, self.step], "b -> b 1 1 1")
        return torch.cat([rest, M, torch.where(keep, M, M_star)])

    def after_step(self, i, t, x):
        """What `sample` calls: counts the step and, for local edits, takes all outside of the words from the source."""
        self.step = i + 1
        if not self.is_local.any():
            return None
        z, z_star = x.chunk(2)
        maps = rearrange(self.seen, "e b (h w) -> e b h w", h=math.isqrt(self.seen.shape[-1]))
        source, edited = (blend_mask(m, x.shape[-2:]) for m in maps)
        m = source | edited | ~rearrange(self.is_local, "b -> b 1 1 1")
        return torch.cat([z, torch.where(m, z_star, z)])                                                # Alg. 1, local editing


@contextmanager
def controlled(pipe, control):
    """The attention layers of the UNet under `control`; whatever happens, they are free afterwards.

    Large self-attention maps are not touched, and so are never made: the fused kernel goes on there.
    """
    layers = pipe.unet.attentions()
    sides = {layer: side(name, pipe) for name, layer in layers.items()}
    seen = max((s for layer, s in sides.items() if layer.is_cross and s <= SMALL), default=None)
    if seen is None and control.is_local.any():
        raise ValueError(f"this model has no cross-attention maps of at most {SMALL}x{SMALL} pixels to find words in; leave out blend")
    try:
        for layer, s in sides.items():
            if layer.is_cross:
                layer.control = control.cross_seen if s == seen and control.is_local.any() else control.cross
            elif s <= SMALL:
                layer.control = control.self_maps
        yield
    finally:
        for layer in sides:
            layer.control = None


def side(name, pipe):
    """Pixels along a side of what the attention layer of this name sees; each level of the UNet halves it."""
    block, index, *_ = name.split(".")
    coarsest = len(pipe.unet.config["block_out_channels"]) - 1
    level = int(index) if block == "down_blocks" else coarsest - int(index) if block == "up_blocks" else coarsest
    return math.ceil(pipe.sample_size / 2 ** level)


@torch.no_grad()
def prompt_to_prompt(pipe, edits, steps=50, guidance=5.0, batch=16):
    """Pictures of the source prompts and their edits, both from the same noise.

    Args:
        pipe: TextToImage whose UNet attends to the text.   edits: list of Edit.
        batch: pictures at a time. One call of the UNet has four rows for each: source and edit, without and with prompt.

    Returns source, edited: (n, 3, H, W) each, in [0, 1], on the CPU, a picture for each seed of each edit. Source: Alg. 1.
    """
    if pipe.unet.config["encoder_hid_dim_type"] is not None or pipe.unet.config["cross_attention_dim"] is None:
        raise ValueError("this model's UNet does not attend to the tokens of a text; Prompt-to-Prompt needs one that does, "
                         "such as toybox or Stable Diffusion")
    rows = [(edit, plan(edit, pipe.tokenizer, steps), seed) for edit in edits for seed in edit.seeds]
    batches, pictures = [rows[i:i + batch] for i in range(0, len(rows), batch)], []
    with tqdm(total=steps * len(batches), desc=f"{len(rows)} pictures and their edits") as bar:
        for some in batches:
            z = sample_both(pipe, *zip(*some), steps, guidance, bar)
            if not z.isfinite().all():
                raise FloatingPointError(f"the latents are not finite after {steps} steps; weights of words should be from -2 to 2")
            pictures.append(rearrange(pipe.decode(z).cpu(), "(e b) c h w -> e b c h w", e=2))
    return torch.cat(pictures, dim=1).unbind()


def sample_both(pipe, edits, plans, seeds, steps, guidance, bar):
    """Latents of one batch, (2n, C, h, w): the sources, then the edits. Source: Alg. 1."""
    condition = pipe.encode_prompts([e.source for e in edits] + [e.target for e in edits])
    predict = pipe.predictor(condition, pipe.no_prompt(), guidance)
    draws = generators([*seeds, *seeds], len(condition))                    # so that both branches draw the same noise
    x_T = noise((len(draws), pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size), draws, pipe.device)
    control = Control(plans, pipe.device)

    def after_step(i, t, x):
        bar.update()
        return control.after_step(i, t, x)

    with controlled(pipe, control):
        return sample(predict, pipe.schedule, x_T, steps, generator=draws, callback=after_step)


# ------------------------------------------------------------------------------------------------ the demonstration

# The name in metrics.json, what is edited, and what the meter should see rise or fall.
EXAMPLES = [("refine", {"source": "a person", "target": "an old person"}, "age"),
            ("swap", {"source": "a person with short hair", "target": "a person with long hair"}, "hair_length"),
            ("reweight", {"source": "a person with glasses", "target": "a person with glasses", "reweight": {"glasses": -1.0}}, "glasses")]


def demonstrate(args):
    """One edit of each kind, beside the picture that the target gives without control, and what the meter sees change."""
    began = time.monotonic()
    pipe = minidiff.load(args.model, args.device)
    if pipe.sample_size != 16:
        raise ValueError(f"{args.model} is not a toybox model, and only toybox can be measured; use the verb edit")
    edits = [checked(item | {"seeds": seeds_of(args)}, name, args) for name, item, _ in EXAMPLES]
    source, edited = (v.unflatten(0, (len(edits), args.n)) for v in prompt_to_prompt(pipe, edits, *sampling(args)))
    rows, metrics = [], {}
    for (name, _, what), edit, before, after in zip(EXAMPLES, edits, source, edited):
        shown = {name: (described(edit), after)}
        if edit.target != edit.source:
            alone = pipe(edit.target, args.n, args.sampling, args.guidance, args.seed, eta=0.0).cpu()     # as the edits
            shown[f"{name}_uncontrolled"] = (f"{edit.target}, without control", alone)
        rows += [(edit.source, before), *shown.values()]
        for kind, (_, pictures) in shown.items():
            read = changes(before, pictures, what)
            metrics |= {f"{kind}_{k}": v for k, v in read.items()}
            print(f"{kind:20s} {what:11s} {read['change']:+.2f}   pixels {read['pixels']:.3f}   kept: "
                  + ", ".join(f"{k} {read[f'kept_{k}']:.2f}" for k in KEPT))
    labels, pictures = zip(*rows)
    images.save_figure(args.out / "figure.png", torch.stack(pictures), labels)
    write_json(args.out / "metrics.json", metrics | {"seconds": time.monotonic() - began, "device": str(pipe.device), "steps": args.sampling})
    print(f"written to {args.out}: figure.png, metrics.json")


KEPT = ("skin", "background", "hair")


def changes(source, edited, what):
    """What happened between two sets of pictures (n, 3, H, W), as the meter reads it: a flat dict of numbers.

    change: of the mean of `what` (of a class, the probability of its last name). pixels: mean absolute difference.
    kept_*: share of pictures with the same attribute as before.
    """
    a, b = measure(source), measure(edited)
    value = lambda read: read[f"{what}_p"][:, -1] if f"{what}_p" in read else read[what]
    return {"change": float((value(b) - value(a)).mean()), "pixels": float((edited - source).abs().mean()),
            **{f"kept_{k}": float((a[k] == b[k]).double().mean()) for k in KEPT}}


def described(edit):
    return edit.target + "".join(f", {word} x {c:g}" for word, c in edit.reweight.items())


# ------------------------------------------------------------------------------------------------ command line

def edit_command(args):
    """Writes edits.safetensors, all pictures in the order of edits and seeds, and figure.png, the first of them."""
    edits = read_edits(args) if args.edits else [edit_of(args)]
    source, edited = prompt_to_prompt(minidiff.load(args.model, args.device), edits, *sampling(args))
    write_tensors(args.out / "edits.safetensors", {"source": source, "edited": edited})
    labels = [described(edit) for edit in edits for _ in edit.seeds][:MOST_ROWS]
    images.save_figure(args.out / "figure.png", torch.stack([source, edited], dim=1)[:MOST_ROWS], labels, ["source", "edited"],
                       scale=2 if source.shape[-1] < 200 else 1)
    print(f"written to {args.out}: edits.safetensors, {len(source)} pictures; figure.png, {len(labels)} of them")


MOST_ROWS = 16                        # of the figure


def edit_of(args):
    """The edit that the command line describes."""
    if args.source is None or args.target is None:
        raise ValueError("edit needs --source and --target, or --edits FILE.json")
    item = {"source": args.source, "target": args.target, "mode": args.mode, "reweight": dict(args.reweight), "blend": args.blend}
    return checked(item, "the command line", args)


def read_edits(args):
    """The edits of a JSON file; ValueError with one clear sentence if it does not hold any."""
    try:
        items = json.loads(args.edits.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the edits {args.edits}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{args.edits} is not valid JSON: {error}") from error
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{args.edits} must hold a list of edits: [{ITEM_HELP}, ...]")
    return [checked(item, f"{args.edits}, item {i}", args) for i, item in enumerate(items)]


ITEM_HELP = ('{"source": ..., "target": ..., "mode": "auto", "reweight": {WORD: 2}, "cross": 0.4, "self": 0.3, "blend": [WORD], '
             '"seeds": [0, 1]}')
MODES = ("auto", "swap", "refine")


def checked(item, where, args):
    """A dict with the keys of ITEM_HELP -> Edit; what it leaves out, the command line says."""
    cross = {"default_": CROSS, **dict(args.cross)}
    defaults = {"source": None, "target": None, "mode": "auto", "reweight": {}, "cross": cross, "self": args.self_, "blend": [],
                "seeds": seeds_of(args)}
    unknown = set(item) - set(defaults)
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(sorted(unknown))} in an edit; expected {ITEM_HELP}")
    item = defaults | item
    is_number = lambda v, low, high: type(v) in (int, float) and low <= v <= high
    is_words = lambda v, low, high: isinstance(v, dict) and all(is_number(x, low, high) for x in v.values())
    is_text = lambda v: isinstance(v, str) and v.strip()
    is_seed = lambda v: type(v) is int and 0 <= v < 2 ** 63
    rules = {"source": (is_text, "a text"), "target": (is_text, "a text"), "mode": (MODES.__contains__, " or ".join(MODES)),
             "reweight": (lambda v: is_words(v, -20, 20), "a weight for each word, {WORD: 2}; the paper's are from -2 to 2"),
             "cross": (lambda v: is_number(v, 0, 1) or is_words(v, 0, 1), "a share of the steps, from 0 to 1"),
             "self": (lambda v: is_number(v, 0, 1), "a share of the steps, from 0 to 1"),
             "blend": (lambda v: isinstance(v, list) and all(map(is_text, v)), "a list of words"),
             "seeds": (lambda v: isinstance(v, list) and v and all(map(is_seed, v)), "a list of whole numbers from 0 on")}
    for key, (is_right, expected) in rules.items():
        if not is_right(item[key]):
            raise ValueError(f"{where}: {key} is {item[key]!r}, expected {expected}")
    if isinstance(item["cross"], dict):
        item["cross"] = {"default_": cross["default_"]} | item["cross"]
    return Edit(**{"self_" if key == "self" else key: value for key, value in item.items()})


def sampling(args):
    return args.sampling, args.guidance, args.batch


def seeds_of(args):
    return list(range(args.seed, args.seed + args.n))


def share(text):
    """0.8 or WORD=0.8 -> (word, number)"""
    word, _, number = text.rpartition("=")
    return word or "default_", float(number)


def weight(text):
    """WORD=2 -> (word, number)"""
    word, _, number = text.rpartition("=")
    if not word:
        raise ValueError(text)
    return word, float(number)


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/prompt_to_prompt"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of the first picture")
    add("--n", type=int, default=4, help="pictures, one seed each")
    add("--cross", type=share, nargs="+", default=[], metavar="SHARE", help="share of the steps, the first ones, in which "
        f"cross-attention maps come from the source; also WORD=SHARE for a word of the target (default: {CROSS}; authors' code: 0.8)")
    add("--self", type=float, default=SELF, dest="self_", metavar="SHARE", help=f"the same for self-attention maps of at most "
        f"{SMALL}x{SMALL} pixels (default: {SELF}; authors' code: 0.4)")
    add("--sampling", type=int, default=25, help="steps of a picture (default: 25; authors' code: 50)")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance (default: 5; authors' code: 7.5)")
    add("--batch", type=int, default=16, help="pictures at a time; the UNet sees four rows for each (default: 16)")
    how = dict(parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = argparse.ArgumentParser(description=__doc__, **how)
    verbs = parser.add_subparsers(dest="verb")
    edit = verbs.add_parser("edit", help="edit pictures of your own prompts", description=edit_command.__doc__, **how)
    add = lambda *names, **how: edit.add_argument(*names, **how)
    add("--source", help="what the pictures show")
    add("--target", help="what they should show")
    add("--mode", choices=MODES, default="auto", help="swap words, refine by others, or (auto, the default) swap if there are as many")
    add("--reweight", type=weight, nargs="+", default=[], metavar="WORD=C", help="weights of words of the target (paper: -2 to 2)")
    add("--blend", nargs="+", default=[], metavar="WORD", help="change the picture only where these words are")
    add("--edits", type=Path, help=f"JSON file with a list of edits, in place of the above: [{ITEM_HELP}, ...]; what an edit leaves "
        "out is as on the command line")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    for name in ("n", "sampling", "batch"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    if not math.isfinite(args.guidance):
        parser.error(f"--guidance is {args.guidance}, expected a number")
    try:
        checked({"source": "a", "target": "a"}, "the command line", args)
    except ValueError as error:
        parser.error(str(error))


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "edit": edit_command}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
