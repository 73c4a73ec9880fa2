"""RealFill, in its spirit: "Reference-Driven Generation for Authentic Image Completion". Tang, Ruiz, Chu, Li, Aberman, Hariharan,
and others, SIGGRAPH 2024, arXiv:2309.16668v2.

Fill a hole in a picture with what was there, known from a few other pictures of the same thing: an inpainting model is fine-tuned on
these, and on the picture around its hole, with random parts hidden from it.

    paper         code              meaning                                                        shape
    ------------  ----------------  -------------------------------------------------------------  ----------------------
    X_ref         references        a few pictures of the same thing                               (n, 3, H, W)
    x_tgt, m_tgt  pictures, holes   the picture to complete, and its hole; here one or several     (n, 3, H, W), (n, 1, H, W)
    -             hidden            1 in latents that a hole touches, 0 in references              (n, 1, h, w)
    m             m                 what is hidden in a step: random parts, and always the hole    (B, 1, h, w)
    p             PROMPT            one prompt for all pictures, with a rare word
    x_t, eps      z_t, eps          noisy latents, and the noise in them                           (B, C, h, w)
    (1 - m) x     shown(z, m)       what the model is shown without noise: m, and latents around   (B, 1 + C, h, w)

What is different here, and why
  * minidiff has no inpainting model, and loads none of the public ones (nine input channels). `widened` makes one of a text-to-image
    model: conv_in gets room for m and (1 - m) z, with weights of zero. In the paper that layer has been trained on millions of
    pictures before; here it learns from the few pictures alone, and so knows little of how pictures go on in general. To keep what
    is known, it is put back at each step of sampling, at the step's noise level, as in blended editing. That needs no such layer,
    and here the layer makes no difference: with it PSNR in the hole is 15.2 and 14.2 dB (two seeds of filling), without 15.2 and 14.1.
  * LoRA on the UNet and the row of the new word; the paper: LoRA on the UNet and on the text encoder.
  * Latents next to a hole have seen its grey, which shows as a pale frame. Filling these too, one latent around, costs more than it
    brings: 1.2 dB less outside the hole, and 0.5 dB less inside.
  * The paper's last step ranks seeds by how many points of a filled picture match the references. It needs a network that matches
    points, and is left out: every seed is shown.
The paper itself was not at hand: this follows a summary of it and an unofficial implementation (github.com/thuanz123/realfill), and
cites no equations. From the latter: rank 8, alpha 16; masks of up to 29 rectangles of 3 to 25 % of the side, every other one inverted.

On toybox's chair (seed 0), PSNR in the hole rises from 10.5 dB (the plain model, told "a photo of a chair") to 15.2, the perceptual
distance to the truth falls from 2.16 to 1.38; the back has its place, form and checks, as far as the autoencoder leaves these.

Cost    the demonstration takes 86 seconds of CPU time, on one thread and in float32; 1.4 MB are stored.
Run     python papers/realfill.py                                          completes pictures of a chair of toybox from five others of it
        python papers/realfill.py fill --references DIR --target a.png --target-mask m.png --model PATH --steps 2000 --lr 2e-4 --batch 16
        python papers/realfill.py train --references DIR --target a.png --target-mask m.png --out DIR
        python papers/realfill.py fill --learned DIR --target a.png --target-mask m.png
No `eval`: papers/clic.py eval --table rank compares it with others.
"""
import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import minidiff
from minidiff import command, devices, images, lora, tokens, toybox
from minidiff.checkpoints import CheckpointError, write_json, write_tensors
from minidiff.metrics import markdown, perceptual_distance, psnr
from minidiff.samplers import ddim_step, generators, noise, steps_of
from minidiff.tensorfile import read_tensors
from minidiff.toybox import ornaments
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.toybox.meter import shipped
from minidiff.training import progress, update

WORD = "<new1>"
PROMPT = f"a photo of {WORD}"
RARE = ("ktn", "q</w>", "z</w>")
WHERE = {"full": "full", "attention": lambda name: ".attn1." in name or ".attn2." in name}


# ------------------------------------------------------------------------------------------------ an inpainting model, and its loss

@torch.no_grad()
def widened(unet):
    """Gives conv_in room for m and (1 - m) z behind z_t, 2 C + 1 channels, as inpainting models have. Zero weights: nothing changes yet."""
    old = unet.conv_in
    C = old.in_channels
    new = nn.Conv2d(2 * C + 1, old.out_channels, old.kernel_size, padding=old.padding).to(old.weight)
    new.weight.zero_()
    new.weight[:, :C] = old.weight
    new.bias.copy_(old.bias)
    unet.conv_in = new
    return unet


def shown(z, m):
    """What the model is told of a picture: m, and the latents outside it. (B, 1 + C, h, w)"""
    return torch.cat([m, (1 - m) * z], dim=1)


def random_masks(n, side, generator):
    """n masks (n, 1, side, side), 1 where something is hidden: up to 29 rectangles, or all but these."""
    draw = lambda low, high: int(torch.randint(low, high, (), generator=generator))
    masks = torch.zeros(n, 1, side, side)
    for mask in masks:
        for _ in range(draw(1, 30)):
            h, w = (draw(max(1, round(.03 * side)), max(1, side // 4) + 1) for _ in range(2))
            y, x = draw(0, side - h + 1), draw(0, side - w + 1)
            mask[:, y:y + h, x:x + w] = 1
        if draw(0, 2):
            mask.copy_(1 - mask)
    return masks


def completion_loss(e, eps, hidden):
    """Mean of (e - eps)^2 where the truth is known, for each picture, (B,): all of a reference, a target but for its hole."""
    known = 1 - hidden
    return (known * (e - eps).square()).sum((1, 2, 3)) / (e.shape[1] * known.sum((1, 2, 3))).clamp(min=1)


# ------------------------------------------------------------------------------------------------ fine-tuning

def learn(pipe, pictures, holes, args):
    """Fine-tunes pipe's UNet, widened, and WORD, in place. Returns the LoRA and the word's row.

    pictures (n, 3, H, W), holes (n, 1, H, W): references have none.
    """
    generator = torch.Generator().manual_seed(args.seed)
    z, hidden = encoded(pipe, pictures, holes)
    learned, unet = tokens.add(pipe, WORD, rare_row(pipe)), widened(pipe.unet)
    adapter = lora.attach(unet, args.rank, 2.0 * args.rank, WHERE[args.layers], generator)
    weights = [*adapter.parameters(), unet.conv_in.weight.requires_grad_(True)]
    is_target = (holes.amax((1, 2, 3)) > 0).float()
    often = (1 - is_target) / (1 - is_target).sum() + is_target / is_target.sum().clamp(min=1)          # as many references as targets
    optimizer = torch.optim.AdamW([{"params": weights, "lr": args.lr}, {"params": [learned.rows], "lr": args.token_lr}], weight_decay=0)
    slower = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 - 2 * step / args.steps))
    with progress(args.steps, f"learning {WORD}") as bar:
        for step in bar:
            i = torch.multinomial(often, args.batch, replacement=True, generator=generator).to(z.device)
            m = torch.maximum(random_masks(args.batch, z.shape[-1], generator).to(z), hidden[i])
            t = torch.randint(pipe.schedule.T, (args.batch,), generator=generator).to(z.device)
            eps = torch.randn(z[i].shape, generator=generator).to(z.device)
            z_t = pipe.schedule.add_noise(z[i], eps, t)
            with devices.autocast(pipe.device):
                c = pipe.encode_prompts([PROMPT]).context.repeat(args.batch, 1, 1)
                prediction = unet(torch.cat([z_t, shown(z[i], m)], dim=1), t, c).float()
            loss = completion_loss(pipe.schedule.to_eps(prediction, z_t, t), eps, hidden[i]).mean()
            update(optimizer, loss, step, bar, lower="--lr or --token-lr")
            slower.step()
    args.done = bar.n
    unet.requires_grad_(False)
    adapter.requires_grad_(False)
    tokens.freeze(pipe)
    return adapter, learned.rows.detach().cpu().clone()


@torch.no_grad()
def encoded(pipe, pictures, holes):
    """Latents (n, C, h, w) of the pictures, grey in their holes, and the latents that a hole touches, (n, 1, h, w)."""
    z = torch.cat([pipe.encode(part) for part in (pictures + holes * (.5 - pictures)).split(8)])
    return z, F.max_pool2d(holes, pipe.factor).to(z)


def rare_row(pipe):
    """Where the word starts: a token that no caption has, as long as a common one."""
    vocab, table = pipe.tokenizer.vocab, tokens.table_of(pipe.text_encoder).detach()
    rare = next((table[vocab[symbol]] for symbol in RARE if symbol in vocab), None)
    if rare is None:
        raise ValueError(f"the tokenizer of this model has none of {', '.join(RARE)}, at which the new word could start")
    return rare * (table[pipe.tokenizer.encode("a")[0]].norm() / rare.norm()).clamp(min=1)


# ------------------------------------------------------------------------------------------------ filling

@torch.no_grad()
def fill(pipe, pictures, holes, prompt, args, seeds):
    """The pictures (B, 3, H, W) with their holes (B, 1, H, W) filled; by a UNet that is widened, or by one that is not.

    seeds: the first one, or one for each picture.
    """
    z, m = encoded(pipe, pictures, holes)
    condition, empty = pipe.encode_prompts([prompt]).repeat(len(z)), pipe.encode_prompts([""])
    is_shown = pipe.unet.conv_in.in_channels > z.shape[1]
    predict, draws = pipe.predictor(condition, empty, args.guidance), generators(seeds, len(z))
    x = noise(z.shape, draws, z.device)
    for t, t_prev in steps_of(pipe.schedule, args.sampling, "ddim"):
        prediction = predict(torch.cat([x, shown(z, m)], dim=1) if is_shown else x, t)
        x = ddim_step(pipe.schedule, prediction, x, t, t_prev)
        known = pipe.schedule.add_noise(z, noise(z.shape, draws, z.device), t_prev) if t_prev >= 0 else z
        x = m * x + (1 - m) * known
    return pipe.decode(x).cpu()


# ------------------------------------------------------------------------------------------------ pictures, files

def targets_of(args, size):
    """The pictures (n, 3, size, size) of --target and the holes (n, 1, size, size) of --target-mask."""
    pairs = [images.load_masked(path, mask, size) for path, mask in zip(args.target, args.target_mask)]
    return tuple(map(torch.stack, zip(*pairs)))


def of_toybox(name, seed, size):
    """Five references, and four targets with holes, of one individual: the upper half of the box around it."""
    references, drawn = toybox.held_out(name, 5, seed, size), toybox.held_out(name, 4, seed + 50, size)
    box = ornaments.around((drawn.instances > 0)[:, None].float())
    rows = box.amax(3, keepdim=True)                                                                    # (n, 1, S, 1)
    return references.images, drawn.images, box * (rows.cumsum(2) <= rows.sum(2, keepdim=True) / 2)


def save(folder, pipe, adapter, row, metrics):
    """What is learned, as a folder: lora.safetensors, conv_in.safetensors, new1.safetensors, metrics.json."""
    adapter.save(folder / "lora.safetensors")
    write_tensors(folder / "conv_in.safetensors", {"weight": pipe.unet.conv_in.weight}, {"format": "pt"})
    tokens.save(folder / "new1.safetensors", WORD, row)
    size = sum((folder / f"{name}.safetensors").stat().st_size for name in ("lora", "conv_in", "new1"))
    write_json(folder / "metrics.json", metrics | {"bytes": size})


def put(pipe, folder):
    """Puts what `save` wrote into the model that it was made from."""
    unet, weight = widened(pipe.unet), read_tensors(folder / "conv_in.safetensors").get("weight")
    if weight is None or weight.shape != unet.conv_in.weight.shape:
        raise CheckpointError(f"{folder / 'conv_in.safetensors'} is for another model; expected what train wrote for this one")
    unet.conv_in.weight.data.copy_(weight)
    lora.load(unet, folder / "lora.safetensors")
    tokens.load(pipe, folder / "new1.safetensors")


# ------------------------------------------------------------------------------------------------ command line

def load(args):
    """The model; fills in --layers, which depends on it."""
    pipe = minidiff.load(args.model, args.device)
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError(f"{args.model} is a {type(pipe).__name__}, which completes nothing here; use a Stable Diffusion 1 or 2, or toybox")
    args.layers = args.layers or ("full" if pipe.sample_size == 16 else "attention")
    return pipe


def train(pipe, references, pictures, holes, args):
    """Learns, and writes it. Returns metrics."""
    began = time.monotonic()
    adapter, row = learn(pipe, torch.cat([references, pictures]), torch.cat([torch.zeros_like(references[:, :1]), holes]), args)
    metrics = {"steps": args.done, "learning_seconds": time.monotonic() - began, "device": str(pipe.device)}
    save(args.out, pipe, adapter, row, metrics)
    return metrics


def demonstrate(args):
    """Completes four pictures of an individual from five others of it, and beside these what the untouched model puts there."""
    began = time.monotonic()
    pipe = load(args)
    if pipe.sample_size != 16 or args.references or args.target:
        raise ValueError("the demonstration completes pictures of a --concept of toybox, with a toybox model; use train and fill for others")
    references, pictures, holes = of_toybox(args.concept, args.seed, 64)
    word = CLASS_WORDS.get(args.concept, args.concept)
    plain = fill(pipe, pictures, holes, f"a photo of a {word}", argparse.Namespace(**vars(args) | {"guidance": 5.0}), args.seed + 100)
    metrics = train(pipe, references, pictures, holes, args)
    made = fill(pipe, pictures, holes, PROMPT, args, args.seed + 100)
    rows = {"references": references, "to complete": pictures * (1 - holes) + .5 * holes, "the plain model": plain, "RealFill": made}
    rows["the truth"] = pictures
    rows = {name: torch.cat([row, torch.ones(5 - len(row), *row.shape[1:])]) for name, row in rows.items()}
    images.save_figure(args.out / "figure.png", torch.stack([*rows.values()]), list(rows), [""] * 5, f"completing pictures of one {word}")
    for who, filled in (("plain", plain), ("realfill", made)):
        metrics |= {f"{name}_{who}": value for name, value in compared(filled, pictures, holes).items()}
    metrics["seconds"] = time.monotonic() - began
    write_json(args.out / "metrics.json", metrics)
    table = [{"": name, **{who: metrics[f"{key}_{who}"] for who in ("plain", "realfill")}} for name, key in
             (("PSNR in the hole", "psnr_hole"), ("perceptual distance", "distance"), ("PSNR outside", "psnr_outside"))]
    print(markdown(table, {"": "", "plain": "the plain model", "realfill": "RealFill"}) + f"{metrics['steps']} steps, {metrics['seconds']:.0f} s")
    print(f"written to {args.out}: figure.png, lora.safetensors, conv_in.safetensors, new1.safetensors, metrics.json")


@torch.no_grad()
def compared(made, truth, holes):
    """{measure: mean over pictures}; the distance is of the whole pictures, with what is known put in, by what the meter's layers see."""
    only_hole = holes * made + (1 - holes) * truth
    of = {"psnr_hole": psnr(made, truth, holes), "distance": perceptual_distance(only_hole, truth, shipped().layers),
          "psnr_outside": psnr(made, truth, 1 - holes)}
    return {name: float(value.mean()) for name, value in of.items()}


def train_command(args):
    pipe = load(args)
    size = pipe.sample_size * pipe.factor
    pictures, holes = targets_of(args, size) if args.target else (torch.zeros(0, 3, size, size), torch.zeros(0, 1, size, size))
    metrics = train(pipe, images.load_folder(args.references, size), pictures, holes, args)
    print(f"{metrics['steps']} steps, {metrics['learning_seconds']:.0f} s")
    print(f"written to {args.out}: lora.safetensors, conv_in.safetensors, new1.safetensors")


def fill_command(args):
    pipe = load(args)
    size = pipe.sample_size * pipe.factor
    pictures, holes = targets_of(args, size)
    if args.learned:
        put(pipe, args.learned)
    else:
        train(pipe, images.load_folder(args.references, size), pictures, holes, args)
    made = torch.cat([fill(pipe, pictures, holes, PROMPT, args, [args.seed + 100 + k] * len(pictures)) for k in range(args.n)])
    images.save_samples(args.out, made, [f"seed {args.seed + 100 + k}" for k in range(args.n)])
    for i, one in enumerate(made):
        images.save(args.out / f"fill_{i}.png", one)
    print(f"written to {args.out}: fill_0.png ..., samples.safetensors, samples.png: each target, {args.n} times")


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/realfill"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training, of toybox's pictures and of the first filling")
    add("--concept", default="chair", choices=list(HELD_OUT), help="without pictures of your own: an individual of toybox")
    add("--references", metavar="DIR", help="folder of other pictures of the same thing")
    add("--target", nargs="+", default=[], metavar="FILE", help="pictures to complete; their middle squares are taken")
    add("--target-mask", nargs="+", default=[], metavar="FILE", help="what to fill in each: pictures of the same size, white inside")
    add("--steps", type=int, default=250, help="optimiser steps (unofficial code: 2000)")
    add("--batch", type=int, default=4, help="pictures in a step (unofficial code: 16)")
    add("--lr", type=float, default=2e-3, help="learning rate of LoRA and conv_in (unofficial code: 2e-4)")
    add("--token-lr", type=float, default=2e-3, help="learning rate of the word (unofficial code: 4e-5, of the text encoder's LoRA)")
    add("--rank", type=int, default=8, help="of LoRA (unofficial code: 8)")
    add("--layers", choices=list(WHERE), help="which layers get LoRA (default: full on toybox, else attention; full: residual blocks too)")
    add("--sampling", type=int, default=25, help="steps of a picture")
    add("--guidance", type=float, default=1.0, help="classifier-free guidance; 1: none")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text: verbs.add_parser(name, help=text, description=text, parents=[common], **how)
    new("train", "learn from references, and from targets around their holes")
    use = new("fill", "complete targets")
    use.add_argument("--learned", type=Path, metavar="DIR", help="what train wrote (default: learn first)")
    use.add_argument("--n", type=int, default=1, help="fillings of each target, of one seed each")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    for name in ("steps", "batch", "rank", "sampling", "n"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    if min(args.lr, args.token_lr) <= 0:
        parser.error("--lr and --token-lr must be above 0")
    if len(args.target) != len(args.target_mask):
        parser.error(f"{len(args.target)} --target and {len(args.target_mask)} --target-mask; give a mask for each target")
    if args.verb == "fill" and not args.target:
        parser.error("give --target and --target-mask: what to complete")
    if args.verb and not args.references and not getattr(args, "learned", None):
        parser.error("give --references, a folder of other pictures of the same thing" + (", or --learned" if args.verb == "fill" else ""))


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "fill": fill_command}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
