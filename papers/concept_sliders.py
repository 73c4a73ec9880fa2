"""Concept Sliders. Gandikota, Materzynska, Zhou, Torralba, Bau, ECCV 2024, arXiv:2311.12092v2.

Learn a low-rank change of the weights that turns one attribute of a picture up or down, and nothing else.

    paper           code             meaning                                                  shape
    --------------  ---------------  -------------------------------------------------------  --------------------
    c_t             c_t              the concept to steer: "a person"                         Condition of one row
    c_+ , c_-       c_pos, c_neg     its two ends: "a very old person", "a very young person"  (L, D)
    p in P          preserve         what must not change along: "with glasses"               words
    eta             eta              how far to go; no unit                                   float
    X at time t     x_t, t           noisy latents and their timestep                         (B, C, h, w), int
    theta           frozen           the model with the adapter off (scale 0)
    theta*          student          the model with the adapter on (scale 1)
    alpha           scale            position of the slider; the paper also writes alpha for the LoRA constant
    Eq. (7), (8)    slider_target    what the student learns to predict                       (B, C, h, w)

Where the paper and the authors' code differ, this file follows
  * the paper: all preserved concepts enter each target (Eq. 8). Their code draws one at random per step and also puts it into
    c_t and the base term.
  * their code: x_t comes from the student's own sampling, with guidance 3 away from c_-, stopped after k steps. No pictures.
  * neither: their loss asks the network at t = 999 - 20 k, for latents that are at 980 - 20 k, and their roll-out ignores the
    offset of one step that Stable Diffusion's schedule has. Here the latents and the loss are at the same t of one list.
On SDXL, whose own sampler is Euler's, "DDIM steps" are Euler steps.
Differs from both: several latents per step in place of one (--batch), fewer steps of roll-out and a higher learning rate, for
a model of 64x64 pictures; float32 adapters, not bfloat16. Of the paper, text sliders are here; several can be moved together, all to the same scale.

Cost    the demonstration takes 55 s and 0.54 GB on 2 CPU cores with bfloat16 (AMX).
Run     python papers/concept_sliders.py                                  trains an age slider on toybox and shows it
        python papers/concept_sliders.py train --prompts FILE.json        your own slider (see train --help)
        python papers/concept_sliders.py sample --slider age.safetensors --prompt "an old person" --scales -2 0 2
        python papers/concept_sliders.py eval                             the measurements in README
"""
import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import trange

import minidiff
from minidiff import devices, images, lora
from minidiff.checkpoints import write_atomically, write_json
from minidiff.pipeline import Condition
from minidiff.samplers import noise, sample, steps_of
from minidiff.toybox import measure

AGE = {"target": "a person", "positive": "a very old person", "negative": "a very young person",
       "preserve": ["with glasses", "without glasses"], "eta": 1.0}


# ------------------------------------------------------------------------------------------------ Sec. 4.1: the method

def slider_target(eps, x_t, t, c_t, c_pos, c_neg, eta):
    """Noise that the slider is trained to predict.

    Args:
        eps: frozen noise predictor, called as eps(x_t, t, contexts) -> one (B, C, h, w) per context.
        x_t, t: noisy latents (B, C, h, w) and their timestep, an int.
        c_t: Condition of one row, the concept.
        c_pos, c_neg: lists of Conditions, one pair for each preserved concept, or one pair.
        eta: strength; 0 changes nothing, a negative value reverses the direction.

    Returns (B, C, h, w), in the units of `eps`. Source: Eq. (8); with one pair, Eq. (7).
    """
    e_t, *e = eps(x_t, t, [c_t, *c_pos, *c_neg])
    e_pos, e_neg = e[:len(c_pos)], e[len(c_pos):]
    return e_t + eta * sum(p - n for p, n in zip(e_pos, e_neg))                                         # Eq. (7), (8)


def denoise_partway(pipe, c_t, c_neg, k, steps, batch, generator, guidance=3.0):
    """The latents after k of `steps` DDIM steps from noise, and the timestep they are at. Source: the authors' code."""
    x_T = torch.randn(batch, pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size, generator=generator)
    predict = pipe.predictor(c_t.repeat(batch), c_neg, guidance)
    x_t = sample(predict, pipe.schedule, x_T.to(pipe.device), steps, stop=k)
    return x_t, steps_of(pipe.schedule, steps)[k][0]


def train_slider(pipe, blocks, args):
    """Learns one slider from prompt blocks; returns the LoRA, on pipe.unet. Source: Sec. 4.1 and the authors' code."""
    generator = torch.Generator().manual_seed(args.seed)
    slider = lora.attach(pipe.unet, args.rank, args.alpha, args.where, generator)
    optimizer = torch.optim.AdamW(slider.parameters(), args.lr)
    blocks = [encoded(pipe, block) for block in blocks]
    bar, step = trange(args.steps, desc=f"slider, {len(slider.names)} layers of rank {args.rank}"), 0
    try:
        for step in bar:
            c_t, c_pos, c_neg, eta = blocks[int(torch.randint(len(blocks), (), generator=generator))]
            k = int(torch.randint(1, args.rollout, (), generator=generator))
            with devices.autocast(pipe.device):
                x_t, t = denoise_partway(pipe, c_t, c_neg[0], k, args.rollout, args.batch, generator)   # student: scale 1
                with torch.no_grad(), slider.at(0.0):
                    target = slider_target(predictions(pipe.unet), x_t, t, c_t, c_pos, c_neg, eta)      # Eq. (8), frozen
                prediction, = predictions(pipe.unet)(x_t, t, [c_t])
            loss = F.mse_loss(prediction, target)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower --lr or eta")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.4f}")
    except KeyboardInterrupt:
        print(f"\nstopped after {step} of {args.steps} steps; going on with the slider as it is")
    return slider


def predictions(unet):
    """eps(x_t, t, contexts): the UNet's answer under each of several texts, from one batched forward."""
    def eps(x_t, t, contexts):
        texts = Condition.cat([c.repeat(len(x_t)) for c in contexts])                                   # (n B, L, D)
        return unet(x_t.repeat(len(contexts), 1, 1, 1), t, texts.context, texts.added).float().chunk(len(contexts))
    return eps


def encoded(pipe, block):
    """A prompt block as Conditions: c_t, [c_+ for each p], [c_- for each p], eta."""
    with_each = lambda words: [f"{words} {p}" for p in block["preserve"]] or [words]
    pos, neg = with_each(block["positive"]), with_each(block["negative"])
    with torch.no_grad():
        c = pipe.encode_prompts([block["target"], *pos, *neg])
    c_t, *ends = c
    return c_t, ends[:len(pos)], ends[len(pos):], block["eta"]


# ------------------------------------------------------------------------------------------------ Sec. 5: using a slider

@torch.no_grad()
def sample_scales(pipe, sliders, prompts, scales, seeds, steps=50, guidance=5.0, start=700):
    """The same pictures at every position of the slider.

    Args:
        sliders: LoRAs on pipe.unet that move together, or one.
        prompts: one for each seed. scales: slider positions, one column each. seeds: one row each.
        start: the slider is off while t > start, so that it edits the layout of the untouched model (SDEdit).

    Returns images in [0, 1], (len(seeds), len(scales), 3, H, W).
    """
    sliders = sliders if isinstance(sliders, list) else [sliders]
    context, empty = pipe.encode_prompts(list(prompts)), pipe.encode_prompts([""])
    x_T = noise((len(seeds), pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size), list(seeds), pipe.device)
    k = sum(t > start for t, _ in steps_of(pipe.schedule, steps))
    set_scale(sliders, 0.0)
    x = sample(pipe.predictor(context, empty, guidance), pipe.schedule, x_T, steps, stop=k)             # shared by all scales
    columns = []
    for scale in scales:
        set_scale(sliders, float(scale))
        z = sample(pipe.predictor(context, empty, guidance), pipe.schedule, x, steps, start=k)
        columns.append(pipe.decode(z))
    set_scale(sliders, 1.0)
    return torch.stack(columns, dim=1)


def set_scale(sliders, scale):
    for slider in sliders:
        slider.scale = scale


# ------------------------------------------------------------------------------------------------ Sec. 6: measuring

def spearman(x, y):
    """Rank correlation of two 1-d tensors."""
    rank = lambda v: v.argsort().argsort().double()
    return float(torch.corrcoef(torch.stack([rank(x), rank(y)]))[0, 1])


def measure_age(pictures, scales):
    """What the slider did, as the meter reads it. pictures (seeds, scales, 3, H, W) -> flat dict of numbers.

    spearman: of scale and age, mean over seeds. span: mean age at the last scale minus at the first. kept_*: share of pictures
    whose attribute is the same at the ends as in the middle (numbers: within 0.2). glasses_change: how much more often glasses
    are seen at the last scale than at the first.
    """
    rows, columns = pictures.shape[:2]
    read = {k: v.unflatten(0, (rows, columns)) for k, v in measure(pictures.flatten(0, 1)).items()}
    age, middle = read["age"], columns // 2
    ends = [c for c in (0, columns - 1) if c != middle]
    same = lambda k: float((read[k][:, ends] == read[k][:, [middle]]).double().mean())
    close = lambda k: float(((read[k][:, ends] - read[k][:, [middle]]).abs() < .2).double().mean())
    scales = torch.as_tensor(scales, dtype=torch.float64)
    rho = torch.tensor([spearman(scales, a) for a in age], dtype=torch.float64)
    out = {"spearman": float(rho.mean()), "spearman_std": float(rho.std()), "span": float(age[:, -1].mean() - age[:, 0].mean()),
           "kept_skin": same("skin"), "kept_background": same("background"), "kept_hair_length": close("hair_length"),
           "glasses_change": float((read["glasses_p"][:, -1, 1] - read["glasses_p"][:, 0, 1]).mean()),
           "faces": float((read["kind"] == 0).double().mean())}
    return out | {f"age_at_{s:+g}": float(a) for s, a in zip(scales.tolist(), age.mean(0))}


PEOPLE = ["a person", "a person with long blond hair", "a photo of a person on a blue background",
          "a person with dark skin in a garden", "a person with short black hair, smiling",
          "a person with red hair on a green background", "a person with light skin at the beach", "a person with brown hair in a room"]


# ------------------------------------------------------------------------------------------------ command line

def load_toybox(args):
    """The model, if its pictures are ones that the meter can read."""
    pipe = minidiff.load(args.model, args.device)
    if pipe.sample_size != 16:
        raise ValueError(f"{args.model} is not a toybox model, and only toybox can be measured; use the verbs train and sample")
    return pipe


def demonstrate(args):
    """Trains the age slider, saves it, draws people (rows) at every position of the slider (columns), and measures."""
    began = time.monotonic()
    pipe = load_toybox(args)
    slider = train_slider(pipe, [AGE], args)
    slider.save(args.out / "age.safetensors")
    pictures = sample_scales(pipe, slider, PEOPLE, args.scales, range(args.seed, args.seed + len(PEOPLE)), *sampling(args))
    save_figure(args.out / "figure.png", pictures, args.scales, "age slider")
    metrics = measure_age(pictures, args.scales) | {"seconds": time.monotonic() - began, "steps": args.steps}
    write_json(args.out / "metrics.json", metrics | {"device": str(pipe.device)})
    print("  ".join(f"age at {s:+g}: {metrics[f'age_at_{s:+g}']:.2f}" for s in args.scales))
    print(f"Spearman {metrics['spearman']:.2f}, span {metrics['span']:.2f}; kept: skin {metrics['kept_skin']:.2f}, "
          f"background {metrics['kept_background']:.2f}, hair length {metrics['kept_hair_length']:.2f}; {metrics['seconds']:.0f} s")
    print(f"written to {args.out}: figure.png, age.safetensors, metrics.json")


def evaluate(args):
    """The rows of README: 32 fresh seeds, with and without the preserved concept, several training seeds."""
    rows = []
    for name, preserve in (("glasses preserved", AGE["preserve"]), ("nothing preserved", [])):
        for seed in range(args.seed + 10, args.seed + 10 + args.repeats):               # not the one of the demonstration
            pipe = load_toybox(args)
            block = AGE | {"preserve": preserve, "eta": AGE["eta"] * (1 if preserve else len(AGE["preserve"]))}
            slider = train_slider(pipe, [block], argparse.Namespace(**vars(args) | {"seed": seed}))
            prompts = [PEOPLE[i % len(PEOPLE)] for i in range(args.pictures)]
            fresh = range(1000 + 100 * seed, 1000 + 100 * seed + args.pictures)
            pictures = sample_scales(pipe, slider, prompts, args.scales, fresh, *sampling(args))
            save_figure(args.out / f"{name.split()[0]}_{seed}.png", pictures[:8], args.scales, name)
            rows.append({"slider": name, "seed": seed, **measure_age(pictures, args.scales)})
    write_json(args.out / "table.json", rows)
    table = as_table(rows)
    write_atomically(args.out / "table.md", lambda p: p.write_text(table, encoding="utf-8"))
    print(table)


def as_table(rows):
    """Markdown: one line per slider, mean and standard deviation over the training seeds."""
    columns = ["spearman", "span", "kept_skin", "kept_background", "kept_hair_length", "glasses_change", "faces"]
    lines = ["| slider | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(r["slider"] for r in rows):
        values = torch.tensor([[r[c] for c in columns] for r in rows if r["slider"] == name], dtype=torch.float64)
        spread = values.std(0) if len(values) > 1 else torch.zeros(len(columns))
        lines.append(f"| {name} | " + " | ".join(f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(0), spread)) + " |")
    return "\n".join(lines) + "\n"


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


BLOCK_HELP = '{"target": ..., "positive": ..., "negative": ..., "preserve": [...], "eta": 4.0, "action": "enhance"}'


def checked(block, path):
    """A prompt block with its defaults: preserve [], eta 4, action "enhance" ("erase" swaps the two ends)."""
    unknown = set(block) - {"target", "positive", "negative", "preserve", "eta", "action"}
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(sorted(unknown))} in a prompt block; expected {BLOCK_HELP}")
    block = {"preserve": [], "eta": 4.0, "action": "enhance"} | block
    for key in ("target", "positive", "negative"):
        if not isinstance(block.get(key), str):
            raise ValueError(f"{path}: {key} is {block.get(key)!r}, expected a text; a block is {BLOCK_HELP}")
    if not isinstance(block["preserve"], list) or not all(isinstance(p, str) for p in block["preserve"]):
        raise ValueError(f"{path}: preserve is {block['preserve']!r}, expected a list of texts")
    if isinstance(block["eta"], bool) or not isinstance(block["eta"], (int, float)):
        raise ValueError(f"{path}: eta is {block['eta']!r}, expected a number")
    if block["action"] not in ("enhance", "erase"):
        raise ValueError(f"{path}: action is {block['action']!r}, expected enhance or erase")
    if block["action"] == "erase":
        block["positive"], block["negative"] = block["negative"], block["positive"]
    return block


def sampling(args):
    return args.sampling, args.guidance, args.start


def save_figure(path, pictures, scales, title):
    images.save_figure(path, pictures, column_labels=[f"{s:+g}" for s in scales], title=title)


def train_command(args):
    pipe = minidiff.load(args.model, args.device)
    slider = train_slider(pipe, read_blocks(args.prompts) if args.prompts else [AGE], args)
    slider.save(args.out / "slider.safetensors", layout=args.layout)
    print(f"written: {args.out / 'slider.safetensors'}")


def sample_command(args):
    pipe = minidiff.load(args.model, args.device)
    sliders = [lora.load(pipe.unet, path) for path in args.slider]
    seeds = range(args.seed, args.seed + args.n)
    pictures = sample_scales(pipe, sliders, [args.prompt] * args.n, args.scales, seeds, *sampling(args))
    save_figure(args.out / "figure.png", pictures, args.scales, args.prompt)
    print(f"written: {args.out / 'figure.png'}")


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/concept_sliders"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training and of the first picture")
    add("--steps", type=int, default=60, help="optimiser steps (paper: 500; code: 1000)")
    add("--batch", type=int, default=4, help="latents per step (code: 1)")
    add("--lr", type=float, default=2e-3, help="learning rate of AdamW (code: 2e-4)")
    add("--rank", type=int, default=4, help="rank of the adapter (paper: 4)")
    add("--alpha", type=float, default=1.0, help="LoRA constant; the update is alpha / rank (code: 1)")
    add("--where", default="noxattn", choices=sorted(lora.WHERE), help="layers that get an adapter (code: noxattn)")
    add("--rollout", type=int, default=20, help="DDIM steps of the student's roll-out (code: 50)")
    add("--sampling", type=int, default=25, help="DDIM steps of a picture (paper: 50)")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance (code: 7.5)")
    add("--start", type=int, default=700, help="the slider is off while t is above this (code: 800 for SD 1, 700 for SDXL)")
    add("--scales", type=float, nargs="+", default=[-2.0, -1.0, 0.0, 1.0, 2.0], help="slider positions (paper: -3 to 3)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(parents=[common], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text: verbs.add_parser(name, help=text, **how)
    train = new("train", "learn a slider from a prompt file")
    train.add_argument("--prompts", help=f"JSON file with one prompt block or a list: {BLOCK_HELP}")
    train.add_argument("--layout", choices=("kohya", "diffusers"), default="kohya", help="file layout")
    use = new("sample", "pictures at several positions of one or more saved sliders")
    use.add_argument("--slider", required=True, nargs="+", help="slider files; several move together")
    use.add_argument("--prompt", default="a person", help="what to draw")
    use.add_argument("--n", type=int, default=4, help="rows, one seed each")
    table = new("eval", "the measurements in README")
    table.add_argument("--repeats", type=int, default=3, help="training seeds")
    table.add_argument("--pictures", type=int, default=32, help="fresh seeds per slider")
    args = parser.parse_args(argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    lowest = {"steps": 1, "batch": 1, "rank": 1, "rollout": 2, "sampling": 1, "n": 1, "pictures": 1, "repeats": 1}
    for name, low in lowest.items():
        if getattr(args, name, low) < low:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least {low}")
    if any(not abs(s) <= 20 for s in args.scales):
        parser.error(f"--scales {' '.join(map(str, args.scales))}: a slider runs from about -3 to 3, at most -20 to 20")
    if args.alpha <= 0 or args.lr <= 0:
        parser.error("--alpha and --lr must be above 0")


def main(argv=None):
    parser, args = arguments(argv)
    run = {None: demonstrate, "train": train_command, "sample": sample_command, "eval": evaluate}[args.verb]
    try:
        run(args)
    except (ValueError, FloatingPointError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nstopped\n")


if __name__ == "__main__":
    main()
