"""Concept Sliders. Gandikota, Materzynska, Zhou, Torralba, Bau, ECCV 2024, arXiv:2311.12092v2.

Learn a low-rank change of the weights that turns one attribute of a picture up or down, and nothing else.

    paper           code              meaning                                                  shape
    --------------  ----------------  -------------------------------------------------------  --------------------
    c_t             c_t               the concept to steer: "a person"                         Condition of one row
    c_+ , c_-       c_pos, c_neg      its two ends: "a very old person", "a very young person"  (L, D)
    p in P          preserve          what must not change along: "with glasses"               words
    eta             eta               how far to go; no unit                                   float
    X at time t     x_t, t            noisy latents and their timestep                         (B, C, h, w), (B,)
    theta           slider.at(0)      the model with the adapter off (scale 0): frozen
    theta*          scale 1           the model with the adapter on: the student
    theta_-, _+     scale -s, +s      the same, at both ends of a visual slider
    x^A, x^B        z[-s], z[+s]      a picture before and after: latents                      (n, C, h, w)
    epsilon         eps               noise, the same for both pictures of a pair              (B, C, h, w)
    alpha           scale             position of the slider; the paper also writes alpha for the LoRA constant
    Eq. (7), (8)    slider_target     what the student learns to predict: text sliders         (B, C, h, w)
    Sec. 4.2        visual_loss       both ends predict the noise of their picture             scalar

Where the paper and the authors' code differ, this file follows
  * the paper: all preserved concepts enter each target (Eq. 8). Their code draws one at random per step and also puts it into
    c_t and the base term; a list of such blocks does that here (see train --help).
  * the paper: visual sliders have the empty prompt at both ends. Their code has a prompt for each end, empty by default;
    here --prompt gives one for both.
  * neither: a block may be learned at another position of the slider ("scale"). The other end as well, at -1, makes both of them real.
  * their code: x_t comes from the student's own sampling, with guidance 3 away from c_- and the first preserved concept, which
    the target needs anyway. No pictures are needed.
  * neither: their losses ask the network at t = 999 - 20 k for latents that are at 980 - 20 k. Here both are at the same t.
    Their visual trainer visits half of the timesteps and 31 noises, by an oversight; here all are drawn.
Differs from both, for speed: their step samples for 25 UNet pairs on average and throws all but the last latents away.
`Rollouts` keeps B pictures on their way from noise, each at its own t: the predictions of a training step are also that step's
guided DDIM step, so sampling costs nothing. `--recipe literal` is their loop (`eval --table speed` compares the two). Higher learning
rate and fewer steps, for a model of 64x64 pictures; float32 adapters, not bfloat16. DDIM steps are Euler steps on SDXL.
The pairs of a visual slider may be mirrored and shifted, both pictures alike (--copies).
Pictures are inverted by plain DDIM at guidance 1, which is exact; the authors' notebook does null-text inversion, at guidance 7.5.

Cost    the demonstration takes 33 s and 0.53 GB on 2 CPU cores with AVX512-BF16 (57 s in float32).
Run     python papers/concept_sliders.py                                  trains an age and a hair slider on toybox and shows them
        python papers/concept_sliders.py train --prompts FILE.json        a text slider of your own (see train --help)
        python papers/concept_sliders.py train --pairs FOLDER             a visual slider from pictures before and after
        python papers/concept_sliders.py sample --slider age.safetensors hair.safetensors=-1 --prompt "an old person" --scales 0 1 2
        python papers/concept_sliders.py edit --image face.png --slider age.safetensors --prompt "a person"
        python papers/concept_sliders.py merge --slider age.safetensors=1.5 --out FOLDER
        python papers/concept_sliders.py eval --table text                the paper's tables: see papers/tables/concept_sliders.py
"""
import argparse
import json
import math
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

import minidiff
from minidiff import command, devices, images, lora
from minidiff.checkpoints import save_folder, write_json
from minidiff.metrics import spearman
from minidiff.pipeline import Condition
from minidiff.samplers import ddim_invert, ddim_step, euler_step, guide, noise, sample, steps_of
from minidiff.toybox import measure
from minidiff.training import progress, update

AGE = {"target": "a person", "positive": "a very old person", "negative": "a very young person",
       "preserve": ["with glasses", "without glasses"], "eta": 1.0}
HAIR = {"target": "a person", "positive": "a person with long hair", "negative": "a person with short hair", "preserve": [], "eta": 2.0}


# ------------------------------------------------------------------------------------------------ Sec. 4.1: text sliders

def slider_target(e_t, e_pos, e_neg, eta):
    """Noise that the slider is trained to predict.

    Args:
        e_t: what the frozen model predicts under the concept c_t, (B, C, h, w).
        e_pos, e_neg: under the two ends (c_+, p) and (c_-, p): one (B, C, h, w) for each preserved concept p, or one.
        eta: strength; 0 changes nothing, a negative value reverses the direction.

    Returns (B, C, h, w), in the units of `e_t`. Source: Eq. (8); with one pair, Eq. (7).
    """
    return e_t + eta * sum(pos - neg for pos, neg in zip(e_pos, e_neg))                                 # Eq. (7), (8)


def train_text_slider(pipe, blocks, args):
    """Learns one slider from prompt blocks; returns the LoRA, on pipe.unet. Source: Sec. 4.1 and the authors' code."""
    generator = torch.Generator().manual_seed(args.seed)
    slider = lora.attach(pipe.unet, args.rank, args.alpha, args.where, generator)
    optimizer = torch.optim.AdamW(slider.parameters(), args.lr)
    ends, blocks = [block.get("scale", 1.0) for block in blocks], [encoded(pipe, block) for block in blocks]
    rollouts = [RECIPES[args.recipe](pipe, c_t, c_neg[0], args, generator) for c_t, _, c_neg, _ in blocks]
    with slider.at(1.0), progress(args.steps, name_of(slider)) as bar:                          # whatever happens, 1 again afterwards
        for step in bar:
            i = int(torch.randint(len(blocks), (), generator=generator))
            c_t, c_pos, c_neg, eta = blocks[i]
            slider.scale = ends[i]                                                              # 1, if the block says nothing
            x_t, t = rollouts[i].latents()                                                      # of the student
            with devices.autocast(pipe.device):
                with torch.no_grad(), slider.at(0.0):
                    e_t, e_pos, e_neg = predictions(pipe.unet, x_t, t, [c_t], c_pos, c_neg)     # frozen
                (prediction,), = predictions(pipe.unet, x_t, t, [c_t])                          # student
            loss = F.mse_loss(prediction, slider_target(e_t[0], e_pos, e_neg, eta))             # Eq. (8)
            update(optimizer, loss, step, bar, lower="--lr or eta")
            rollouts[i].advance(prediction.detach(), e_neg[0])
    return slider


def predictions(unet, x_t, t, *groups):
    """What the UNet predicts for x_t (B, C, h, w) under each of several texts, from one batched forward.

    groups: lists of Conditions of one row. Returns lists of (B, C, h, w), one for each Condition.
    """
    texts = [c.repeat(len(x_t)) for group in groups for c in group]
    all_texts, n = Condition.cat(texts), len(texts)
    out = unet(x_t.repeat(n, 1, 1, 1), t.repeat(n), all_texts.context, all_texts.added).float()
    each = iter(out[:, :x_t.shape[1]].chunk(n))
    return [[next(each) for _ in group] for group in groups]


def encoded(pipe, block):
    """A prompt block as Conditions: c_t, [(c_+, p) for each p], [(c_-, p) for each p], eta."""
    with_each = lambda words: [f"{words} {p}" for p in block["preserve"]] or [words]
    pos, neg = with_each(block["positive"]), with_each(block["negative"])
    with torch.no_grad():
        c_t, *ends = pipe.encode_prompts([block["target"], *pos, *neg])
    return c_t, ends[:len(pos)], ends[len(pos):], block["eta"]


class Rollouts:
    """B pictures on their way from noise under the student, each at its own timestep; a finished one starts again.

    They move by DDIM steps of random length, so that after a while every t is equally likely, with guidance away from what the
    *frozen* model predicts under (c_-, p) for the first p.
    """

    def __init__(self, pipe, c_t, c_neg, args, generator):
        self.schedule, self.generator, self.guidance = pipe.schedule, generator, args.rollout_guidance
        self.x_T = lambda: new_noise(pipe, args.batch, generator)
        self.times = torch.tensor([t for t, _ in steps_of(pipe.schedule, 50)] + [-1])
        self.longest = max(1, round(2 * 50 / args.rollout))                     # lengths 1 .. longest: about 50 / rollout on average
        self.x, self.k = self.x_T(), torch.zeros(args.batch, dtype=torch.long)

    def latents(self):
        return self.x, self.times[self.k].to(self.x.device)

    @torch.no_grad()
    def advance(self, prediction, e_neg):
        """One DDIM step (Euler for SDXL) with what the student and the frozen model predict at `latents()`, (B, C, h, w) each."""
        jump = torch.randint(1, self.longest + 1, self.k.shape, generator=self.generator)
        k = (self.k + jump).clamp(max=50)
        step = euler_step if self.schedule.method == "euler" else ddim_step
        x = step(self.schedule, guide(e_neg, prediction, self.guidance), self.x, self.times[self.k], self.times[k]).to(self.x.dtype)
        is_done = k == 50
        self.x = torch.where(is_done.reshape(-1, 1, 1, 1).to(x.device), self.x_T(), x)
        self.k = torch.where(is_done, 0, k)


class FreshRollouts:
    """The authors' way: for every gradient, sample with the student from new noise, and stop after k of `rollout` steps."""

    def __init__(self, pipe, c_t, c_neg, args, generator):
        self.pipe, self.c_t, self.c_neg, self.args, self.generator = pipe, c_t, c_neg, args, generator

    def latents(self):
        steps, batch = self.args.rollout, self.args.batch
        k = int(torch.randint(1, steps, (), generator=self.generator))
        predict = self.pipe.predictor(self.c_t.repeat(batch), self.c_neg, self.args.rollout_guidance)
        with torch.no_grad():
            x_t = sample(predict, self.pipe.schedule, new_noise(self.pipe, batch, self.generator), steps, stop=k)
        return x_t, torch.full((batch,), steps_of(self.pipe.schedule, steps)[k][0], device=x_t.device)

    def advance(self, prediction, e_neg):
        pass


RECIPES = {"staggered": Rollouts, "literal": FreshRollouts}


def name_of(slider):
    return f"slider, {len(slider.names)} layers of rank {slider.adapters[0].rank}"


def new_noise(pipe, batch, generator):
    shape = (batch, pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size)
    return torch.randn(shape, generator=generator).to(pipe.device)


# ------------------------------------------------------------------------------------------------ Sec. 4.2: visual sliders

def visual_loss(e_A, e_B, eps):
    """Each end of the slider predicts the noise in its own picture; all (B, C, h, w). Source: Sec. 4.2."""
    return F.mse_loss(e_A, eps) + F.mse_loss(e_B, eps)                                          # ||theta_-|| + ||theta_+||


def train_visual_slider(pipe, pairs, args):
    """Learns one slider from pictures that differ in one thing; returns the LoRA, on pipe.unet. Source: Sec. 4.2.

    pairs: {strength: images (n, 3, H, W) in [0, 1]}, for each strength s also -s: picture i before (-s) and after (+s).
    """
    generator = torch.Generator().manual_seed(args.seed)
    slider = lora.attach(pipe.unet, args.rank, args.alpha, args.where, generator)
    optimizer = torch.optim.AdamW(slider.parameters(), args.lr)
    with torch.no_grad():
        z = {s: pipe.encode(pictures) for s, pictures in varied(pairs, args.copies, generator).items()}
        c = pipe.encode_prompts([args.prompt]).repeat(2 * args.batch)
    strengths, B = sorted(s for s in z if s > 0), args.batch
    with slider.at(1.0), progress(args.steps, name_of(slider)) as bar:                          # whatever happens, 1 again afterwards
        for step in bar:
            s = strengths[int(torch.randint(len(strengths), (), generator=generator))]
            i = torch.randint(len(z[s]), (B,), generator=generator)
            t = torch.randint(pipe.schedule.T, (B,), generator=generator).to(pipe.device)
            eps = torch.randn(z[s][i].shape, generator=generator).to(pipe.device)               # one for both pictures
            x_A, x_B = (pipe.schedule.add_noise(z[sign * s][i], eps, t) for sign in (-1, 1))
            slider.scale = torch.tensor([-s] * B + [s] * B)                                     # theta_-, theta_+
            x_t, both_t = torch.cat([x_A, x_B]), t.repeat(2)
            with devices.autocast(pipe.device):
                prediction = pipe.unet(x_t, both_t, c.context, c.added).float()
            e_A, e_B = pipe.schedule.to_eps(prediction, x_t, both_t).chunk(2)
            optimizer.param_groups[0]["lr"] = args.lr * min(1, 2 - 2 * step / args.steps)       # the loss is noisy: slow down
            update(optimizer, visual_loss(e_A, e_B, eps), step, bar)
    return slider


def varied(pairs, copies, generator):
    """The pairs and `copies` - 1 mirrored or shifted versions of them, every picture of a pair alike: {strength: (copies n, 3, H, W)}.

    Six faces in one place each are soon known by heart; what was learned then fits no other face.
    """
    H, W = next(iter(pairs.values())).shape[-2:]
    out = {s: [pictures] for s, pictures in pairs.items()}
    for _ in range(copies - 1):
        is_mirrored, (dy, dx) = torch.rand((), generator=generator) < .5, torch.randint(17, (2,), generator=generator).tolist()
        for s, pictures in pairs.items():
            padded = F.pad(pictures.flip(-1) if is_mirrored else pictures, (W // 8,) * 2 + (H // 8,) * 2, mode="replicate")
            y, x = dy * H // 64, dx * W // 64                                           # up to an eighth of a side, both ways
            out[s].append(padded[..., y:y + H, x:x + W])
    return {s: torch.cat(versions) for s, versions in out.items()}


def read_pairs(folder, size):
    """{strength: images (n, 3, size, size)} from sub-folders named by strength (-2, -1, 1, 2) with pictures of equal names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    found = {strength(f.name): f for f in sorted(folder.iterdir()) if f.is_dir() and strength(f.name)}
    lonely = [f"{s:g}" for s in found if -s not in found]
    if not found or lonely:
        raise ValueError(f"{folder} must hold two sub-folders for each strength, such as -1 (before) and 1 (after); "
                         + (f"missing: the opposite of {', '.join(lonely)}" if found else "none has a number for a name"))
    names = {s: sorted(p.stem for p in f.iterdir() if p.suffix.lower() in images.SUFFIXES) for s, f in found.items()}
    first = next(iter(names))
    for s, there in names.items():
        if there != names[first]:
            odd = ", ".join(sorted(set(there) ^ set(names[first]))[:5])
            raise ValueError(f"{found[s]} and {found[first]} must hold pictures of equal names; only one of them has {odd}")
    return {s: images.load_folder(f, size) for s, f in found.items()}


def strength(name):
    """The number that a folder is named by; None for other names, and for 0, at which a slider does nothing."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if value and math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------ Sec. 5: using sliders

@torch.no_grad()
def sample_scales(pipe, sliders, prompts, scales, seeds, steps=50, guidance=5.0, start=700):
    """The same pictures at every position of the sliders.

    Args:
        sliders: LoRAs on pipe.unet, or one; their changes add up, in one pass.
        prompts: one for each seed. seeds: one row each.
        scales: one column each: a number for all sliders, or a tuple with a number for each.
        start: the sliders are off while t > start, so that they edit the layout of the untouched model (SDEdit).

    Returns images in [0, 1], (len(seeds), len(scales), 3, H, W).
    """
    size = (pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size)
    x_T = noise((len(seeds), *size), list(seeds), pipe.device)
    return denoise_scales(pipe, sliders, prompts, scales, x_T, steps, guidance, start)


@torch.no_grad()
def denoise_scales(pipe, sliders, prompts, scales, x_T, steps=50, guidance=5.0, start=700):
    """`sample_scales` from given noise (B, C, h, w), one row each."""
    context, empty = pipe.encode_prompts(list(prompts)), pipe.no_prompt()
    k = sum(t > start for t, _ in steps_of(pipe.schedule, steps))
    with positions(sliders, 0.0):
        x = sample(pipe.predictor(context, empty, guidance), pipe.schedule, x_T, steps, stop=k)         # shared by all scales
    columns = []
    for scale in scales:
        with positions(sliders, scale):
            z = sample(pipe.predictor(context, empty, guidance), pipe.schedule, x, steps, start=k)
        columns.append(pipe.decode(z))
    return torch.stack(columns, dim=1)


@contextmanager
def positions(sliders, scale):
    """Every slider (a list, or one) at a number, or each at its own; in float32 they are merged, so that sampling costs no more."""
    sliders = sliders if isinstance(sliders, (list, tuple)) else [sliders]
    each = scale if isinstance(scale, (list, tuple)) else [scale] * len(sliders)
    if len(each) != len(sliders):
        raise ValueError(f"{len(each)} scales for {len(sliders)} sliders")
    before = [slider.scale for slider in sliders]
    for slider, s in zip(sliders, each):
        slider.scale = float(s)
    is_exact = all(p.dtype == torch.float32 for slider in sliders for p in slider.module.parameters())
    try:
        with lora.merged(sliders) if is_exact else nullcontext():
            yield
    finally:
        for slider, s in zip(sliders, before):
            slider.scale = s


@torch.no_grad()
def edit_picture(pipe, sliders, picture, prompt, scales, steps=50, start=500):
    """A given picture at every position of the sliders, by DDIM inversion. Song et al. 2021, arXiv:2010.02502, Sec. 4.3.

    picture (3, H, W) in [0, 1], of the model's size; prompt: what it shows. Without guidance, since inversion with guidance does
    not come back to the picture. Returns (1, len(scales), 3, H, W): scale 0 is the picture, as the autoencoder renders it.
    """
    with positions(sliders, 0.0):
        predict = pipe.predictor(pipe.encode_prompts([prompt]))
        x_T = ddim_invert(predict, pipe.schedule, pipe.encode(picture[None]), steps, iterations=5)
    return denoise_scales(pipe, sliders, [prompt], scales, x_T, steps, 1.0, start)


# ------------------------------------------------------------------------------------------------ Sec. 6: measuring

def measure_slider(pictures, scales, attribute, kept=("skin", "background", "hair_length")):
    """What a slider did, as the meter reads it. pictures (seeds, scales, 3, H, W) -> flat dict of numbers.

    attribute: a name of the meter, or a function of what it reads -> (n,). spearman: of scale and attribute, mean over seeds.
    span: its mean at the last scale minus at the first. kept_*: share of pictures whose other attribute is the same at the ends
    as in the middle (numbers: within 0.2). at_*: its mean at each scale.
    """
    rows, columns = pictures.shape[:2]
    read = {k: v.unflatten(0, (rows, columns)) for k, v in measure(pictures.flatten(0, 1)).items()}
    value, middle = (attribute(read) if callable(attribute) else read[attribute]).double(), columns // 2
    ends = [c for c in (0, columns - 1) if c != middle]

    def kept_share(name):
        change = (read[name][:, ends] - read[name][:, [middle]]).abs()
        return float((change < (.2 if read[name].is_floating_point() else 1)).double().mean())
    rho = torch.tensor([spearman(torch.as_tensor(scales, dtype=torch.float64), v) for v in value])
    out = {"spearman": float(rho.nan_to_num().mean()), "span": float((value[:, -1] - value[:, 0]).mean())}
    out |= {f"kept_{name}": kept_share(name) for name in kept}
    return out | {f"at_{s:+g}": float(a) for s, a in zip(scales, value.mean(0))}


PEOPLE = ["a person", "a person with long blond hair", "a photo of a person on a blue background",
          "a person with dark skin in a garden", "a person with short black hair", "a person with light skin at the beach"]


# ------------------------------------------------------------------------------------------------ command line

def load_toybox(args):
    """The model, if its pictures are ones that the meter can read."""
    pipe = minidiff.load(args.model, args.device)
    if pipe.sample_size != 16:
        raise ValueError(f"{args.model} is not a toybox model, and only toybox can be measured; use the verbs train and sample")
    return pipe


def demonstrate(args):
    """Trains an age and a hair slider, draws people (rows) at every age (columns), then one person at every age and hair length."""
    began = time.monotonic()
    pipe = load_toybox(args)
    age = train_text_slider(pipe, [AGE], args)
    age.save(args.out / "age.safetensors")
    with age.at(0.0):
        hair = train_text_slider(pipe, [HAIR], args)
    hair.save(args.out / "hair.safetensors")
    with hair.at(0.0):
        people = sample_scales(pipe, age, PEOPLE, args.scales, range(args.seed, args.seed + len(PEOPLE)), *sampling(args))
    lengths = (-2.0, 0.0, 2.0)                                                  # at 0 it is the first person once more
    composed = lambda h: sample_scales(pipe, [age, hair], PEOPLE[:1], [(a, h) for a in args.scales], [args.seed], *sampling(args))
    grid = [composed(h) if h else people[:1] for h in lengths]
    images.save_figure(args.out / "figure.png", torch.cat([people, *grid]), column_labels=[f"age {s:+g}" for s in args.scales],
                       row_labels=[""] * len(people) + [f"hair {h:+g}" for h in lengths], title="age slider; below, composed with a hair slider")
    metrics = measure_slider(people, args.scales, "age") | {"seconds": time.monotonic() - began, "steps": args.steps}
    write_json(args.out / "metrics.json", metrics | {"device": str(pipe.device)})
    print("  ".join(f"age at {s:+g}: {metrics[f'at_{s:+g}']:.2f}" for s in args.scales))
    print(f"Spearman {metrics['spearman']:.2f}, span {metrics['span']:.2f}; kept: skin {metrics['kept_skin']:.2f}, "
          f"background {metrics['kept_background']:.2f}, hair length {metrics['kept_hair_length']:.2f}; {metrics['seconds']:.0f} s")
    print(f"written to {args.out}: figure.png, age.safetensors, hair.safetensors, metrics.json")


def train_command(args):
    pipe = minidiff.load(args.model, args.device)
    if args.pairs:
        slider = train_visual_slider(pipe, read_pairs(args.pairs, pipe.sample_size * pipe.factor), args)
    else:
        slider = train_text_slider(pipe, read_blocks(args.prompts) if args.prompts else [AGE], args)
    slider.save(args.out / "slider.safetensors", layout=args.layout)
    print(f"written: {args.out / 'slider.safetensors'}")


def sample_command(args):
    pipe, sliders, weights = with_sliders(args)
    seeds = range(args.seed, args.seed + args.n)
    pictures = sample_scales(pipe, sliders, [args.prompt] * args.n, times(weights, args.scales), seeds, *sampling(args))
    save_figure(args, pictures, args.prompt)


def edit_command(args):
    pipe, sliders, weights = with_sliders(args)
    picture = images.load(args.image, pipe.sample_size * pipe.factor)
    edited = edit_picture(pipe, sliders, picture, args.prompt, times(weights, args.scales), args.sampling, args.start)
    save_figure(args, edited, f"{args.prompt}: {Path(args.image).name}")


def merge_command(args):
    pipe, sliders, weights = with_sliders(args)
    for slider, weight in zip(sliders, weights):
        slider.scale = weight
        slider.merge()
    save_folder(pipe.unet, pipe.unet.config | {"sample_size": pipe.sample_size}, args.out / "unet", dtype=pipe.dtype)
    print(f"written: {args.out / 'unet'}, to take the place of the folder unet of {args.model}")


def with_sliders(args):
    """The model, the sliders of --slider FILE or FILE=WEIGHT on it, and their weights."""
    named = [parse_slider(text) for text in args.slider]
    pipe = minidiff.load(args.model, args.device)
    return pipe, [lora.load(pipe.unet, path) for path, _ in named], [weight for _, weight in named]


def parse_slider(text):
    """ "age.safetensors=-1.5" -> ("age.safetensors", -1.5); without a number, 1."""
    path, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0
    if not path or not abs(weight) <= 20:
        raise ValueError(f"--slider {text}: expected FILE or FILE=WEIGHT with a weight from -20 to 20")
    return path, weight


def times(weights, scales):
    return [tuple(weight * s for weight in weights) for s in scales]


def sampling(args):
    return args.sampling, args.guidance, args.start


def save_figure(args, pictures, title):
    images.save_figure(args.out / "figure.png", pictures, column_labels=[f"{s:+g}" for s in args.scales], title=title)
    print(f"written: {args.out / 'figure.png'}")


def evaluate(args):
    from tables import concept_sliders as tables            # long, and no part of the method
    tables.run(args)


def read_blocks(path):
    """Prompt blocks from a JSON file; ValueError with one clear sentence if it does not hold any."""
    try:
        blocks = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the prompt file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    blocks = [blocks] if isinstance(blocks, dict) else blocks
    if not isinstance(blocks, list) or not blocks or not all(isinstance(b, dict) for b in blocks):
        raise ValueError(f"{path} must hold a prompt block or a list of them: {BLOCK_HELP}")
    return [checked(block, path) for block in blocks]


BLOCK_HELP = '{"target": ..., "positive": ..., "negative": ..., "preserve": [...], "eta": 4.0, "scale": 1, "action": "enhance"}'


def checked(block, path):
    """A prompt block with its defaults: preserve [], eta 4, scale 1, action "enhance" ("erase" swaps the two ends)."""
    unknown = set(block) - {"target", "positive", "negative", "preserve", "eta", "scale", "action"}
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(sorted(unknown))} in a prompt block; expected {BLOCK_HELP}")
    block = {"preserve": [], "eta": 4.0, "scale": 1.0, "action": "enhance"} | block
    for key in ("target", "positive", "negative"):
        if not isinstance(block.get(key), str):
            raise ValueError(f"{path}: {key} is {block.get(key)!r}, expected a text; a block is {BLOCK_HELP}")
    if not isinstance(block["preserve"], list) or not all(isinstance(p, str) for p in block["preserve"]):
        raise ValueError(f"{path}: preserve is {block['preserve']!r}, expected a list of texts")
    for key in ("eta", "scale"):
        if isinstance(block[key], bool) or not isinstance(block[key], (int, float)):
            raise ValueError(f"{path}: {key} is {block[key]!r}, expected a number")
    if not 0 < abs(block["scale"]) <= 20:
        raise ValueError(f"{path}: scale is {block['scale']!r}, expected a position of the slider, from -20 to 20, but 0, at which it is off")
    if block["action"] not in ("enhance", "erase"):
        raise ValueError(f"{path}: action is {block['action']!r}, expected enhance or erase")
    if block["action"] == "erase":
        block["positive"], block["negative"] = block["negative"], block["positive"]
    return block


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/concept_sliders"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training and of the first picture")
    add("--steps", type=int, default=40, help="optimiser steps (paper: 500; code: 1000)")
    add("--batch", type=int, default=4, help="latents, or pairs, per step (code: 1)")
    add("--lr", type=float, default=2e-3, help="learning rate of AdamW (code: 2e-4)")
    add("--rank", type=int, default=4, help="rank of the adapter (paper: 4)")
    add("--alpha", type=float, default=1.0, help="LoRA constant; the update is alpha / rank (code: 1)")
    add("--where", default="noxattn", choices=sorted(lora.WHERE), help="layers that get an adapter (code: noxattn)")
    add("--recipe", default="staggered", choices=sorted(RECIPES), help="where text sliders get their latents (code: literal)")
    add("--rollout", type=int, default=10, help="DDIM steps of the student's roll-out, about; literal: exactly (code: 50)")
    add("--rollout-guidance", type=float, default=3.0, help="guidance of the roll-out away from c_- (code: 3)")
    add("--sampling", type=int, default=25, help="DDIM steps of a picture (paper: 50)")
    add("--guidance", type=float, help="classifier-free guidance (default: 5; edit has none; code: 7.5)")
    add("--start", type=int, help="sliders are off while t is above this (default: 700, edit 500; code: 800 for SD 1, 700 for SDXL, edit 500)")
    add("--scales", type=float, nargs="+", default=[-2.0, -1.0, 0.0, 1.0, 2.0], help="slider positions (paper: -3 to 3)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(parents=[common], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text, **more: verbs.add_parser(name, help=text, **how | more)
    train = new("train", "learn a slider from prompts or pairs", description=TRAIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    train.add_argument("--prompts", help="JSON file with prompt blocks: a text slider (default: the age slider)")
    train.add_argument("--pairs", help="folder with sub-folders named by strength: a visual slider")
    train.add_argument("--prompt", default="", help="prompt of a visual slider (paper: empty)")
    train.add_argument("--copies", type=int, default=1, help="versions of each pair, mirrored and shifted (paper: 1)")
    train.add_argument("--layout", choices=("kohya", "diffusers"), default="kohya", help="file layout")
    use = new("sample", "pictures at several positions of one or more saved sliders")
    edit = new("edit", "a picture of your own at several positions, by DDIM inversion")
    for verb in (use, edit, new("merge", "add sliders to the weights of the UNet, which then costs nothing")):
        verb.add_argument("--slider", required=True, nargs="+", metavar="FILE[=WEIGHT]", help="slider files; each moves by WEIGHT times the scale")
    for verb in (use, edit):
        verb.add_argument("--prompt", default="a person", help="what to draw, or what the picture shows")
    use.add_argument("--n", type=int, default=4, help="rows, one seed each")
    edit.add_argument("--image", required=True, help="the picture; its middle square is taken")
    table = new("eval", "the paper's tables, on toybox")
    table.add_argument("--table", default="all", help="all, or one of text, eyes, gan, ablation, compose, quality, speed")
    table.add_argument("--repeats", type=int, default=10, help="training seeds")
    table.add_argument("--pictures", type=int, default=8, help="fresh seeds for each training seed")
    args = command.parse(parser, argv)
    if args.start is None:                                  # not set_defaults: verbs share the options of `common`
        args.start = 500 if args.verb == "edit" else 700
    check(parser, args)
    args.guidance = 5.0 if args.guidance is None else args.guidance
    return parser, args


TRAIN_HELP = f"""Learn a slider, from prompts or from pairs of pictures.

--prompts FILE.json holds one prompt block or a list of them, of which each step draws one:
    {BLOCK_HELP}
  target    what to steer (c_t)               preserve  words appended to both ends, what must not change (p; default none)
  positive  its end at `scale` (c_+)          eta       how far to go (default 4, as in the authors' code)
  negative  its other end (c_-)               scale     the position of the slider at which this is learned (default 1)
                                              action    "enhance" (default), or "erase", which swaps the two ends
A slider is learned at one end, and goes on beyond the model the other way. A second block, "erase" at scale -1, learns that end as well.
A list with a block for each p, named in all three texts ("a person with dark skin", "a very old person with dark skin", ...), is the authors'
code's way to preserve. With it, and more steps, the sliders of `eval --table text` change less else.

--pairs FOLDER holds sub-folders named by strength (-1 and 1, or -2 -1 1 2 ...) with pictures of equal names: before and after.
  `python -m minidiff.toybox.pairs eye_size --out FOLDER` and `python papers/stylegan.py pairs ...` make such folders.
  Pictures get the model's own size (their code: 256 for SD 1, 512 for SDXL).
  Few pairs of small pictures: try --steps 200 --lr 8e-3 --copies 16 and a --prompt such as "a person": the loss is noisier than that of prompts.

The quality sliders of Sec. 6 on toybox (`eval --table quality`): repair is the block {{"target": "a drawing of a cat", "positive": "a clean
drawing of a cat", "negative": "a distorted drawing of a cat", "eta": 1}}; hands come from pairs, since captions do not say that six fingers
are wrong: python -m minidiff.toybox.pairs fingers --out FOLDER, and --prompt "a hand"."""


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    lowest = {"steps": 1, "batch": 1, "rank": 1, "rollout": 2, "sampling": 1, "n": 1, "pictures": 1, "repeats": 1, "copies": 1}
    for name, low in lowest.items():
        if getattr(args, name, low) < low:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least {low}")
    if any(not abs(s) <= 20 for s in args.scales):
        parser.error(f"--scales {' '.join(map(str, args.scales))}: a slider runs from about -3 to 3, at most -20 to 20")
    if args.alpha <= 0 or args.lr <= 0:
        parser.error("--alpha and --lr must be above 0")
    if getattr(args, "pairs", None) and args.prompts:
        parser.error("--prompts makes a text slider and --pairs a visual one; give one of them")
    if args.verb == "train" and args.prompt and not args.pairs:
        parser.error("--prompt is what the pictures of --pairs show; a text slider is described by --prompts FILE.json")
    if args.verb == "edit" and args.guidance is not None:
        parser.error("edit has no --guidance: inversion with guidance does not come back to the picture")
    if args.verb is None and (len(args.scales) < 3 or args.scales[len(args.scales) // 2] != 0):
        parser.error("the demonstration compares with the untouched picture; --scales needs 0 in its middle, such as -2 0 2")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "sample": sample_command, "edit": edit_command, "merge": merge_command,
             "eval": evaluate}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
