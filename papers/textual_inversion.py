"""Textual Inversion. Gal, Alaluf, Atzmon, Patashnik, Bermano, Chechik, Cohen-Or, ICLR 2023, arXiv:2208.01618.

Learn a new word for what three to five pictures show: one row in the text encoder's table. Nothing else in the model moves.

    paper         code            meaning                                            shape
    ------------  --------------  -------------------------------------------------  --------------------
    S_*           --token         the new word, "<new1>"
    v_*           learned.rows    its embedding, the only thing that is learned      (vectors, D)
    y             prompts         a neutral text around S_*: "a photo of a <new1>"   B strings
    c_theta(y)    text_encoder    states of the text                                 (B, L, D)
    E(x)          z               latents of the pictures                            (n, C, h, w)
    z_t, eps      z_t, eps        noisy latents, and the noise in them               (B, C, h, w)
    Eq. (2)       ldm_loss        what v_* makes small                               scalar

The gradient goes back through the UNet and the text encoder down to v_*; both are frozen.

Differs from the paper
  * Fewer, shorter templates (--templates FILE brings your own): toybox has never read "rendition" or "depiction".
  * AdamW without weight decay, so that only the loss moves v_*; the learning rate falls to 0 over the last half.
  * Steps and learning rate are for pictures of 64x64. On Stable Diffusion: --steps 3000 --lr 5e-3, and the word that says roughly
    what it is as --class-word (it must be a single token).
  * `vectors` above 1 is one of the paper's variants (Sec. 5.2): nearer to the pictures, harder to put into new scenes.

Cost    a step takes about 0.2 s of a busy CPU core; there are 200, and the samples of the figure.
Run     python papers/textual_inversion.py                                     learns a cat of toybox and draws it in new scenes
        python papers/textual_inversion.py train --images DIR --class-word cat --model PATH --out mycat
        python papers/textual_inversion.py sample --learned mycat --prompt "a photo of <new1> at the beach" --model PATH
In prompts <new1> stands for the noun: "a <new1> in a garden". `eval`, beside other methods: papers/custom_diffusion.py eval.
"""
import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import minidiff
from minidiff import command, devices, images, tokens, toybox
from minidiff.checkpoints import write_json
from minidiff.pipeline import read_lines, read_prompts
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.training import progress, update

TEMPLATES = ["a {}", "a photo of a {}", "a picture of a {}", "a photo of the {}"]
SCENES = ["a {} in a room", "a {} at the beach", "a {} at night", "a red {} in the snow", "a {} next to a blue chair"]


# ------------------------------------------------------------------------------------------------ Sec. 4

def ldm_loss(eps_hat, eps):
    """|| eps - eps_theta(z_t, t, c_theta(y)) ||^2 per number; all (B, C, h, w). Source: Eq. (1), and Eq. (2) with y of S_*."""
    return F.mse_loss(eps_hat, eps)                                                                     # Eq. (1)


def learn(pipe, pictures, args):
    """v_* = argmin of the loss over the pictures (n, 3, H, W) in [0, 1]: a LearnedToken, in pipe's text encoder. Source: Eq. (2)."""
    generator = torch.Generator().manual_seed(args.seed)
    learned = tokens.add(pipe, args.token, init=args.init, vectors=args.vectors)
    optimizer = torch.optim.AdamW(learned.parameters(), args.lr, weight_decay=0.0)
    templates = read_templates(args.templates) if args.templates else TEMPLATES
    with torch.no_grad():
        z = pipe.encode(torch.cat([pictures, pictures.flip(-1)]) if args.flip else pictures)           # E(x)
    with progress(args.steps, f"learning {args.token}") as bar:
        for step in bar:
            draw = lambda high: torch.randint(high, (args.batch,), generator=generator)
            i, t = draw(len(z)).to(z.device), draw(pipe.schedule.T).to(z.device)
            prompts = [templates[k].format(args.token) for k in draw(len(templates))]
            eps = torch.randn(len(i), *z.shape[1:], generator=generator).to(z.device)
            z_t = pipe.schedule.add_noise(z[i], eps, t)
            with devices.autocast(pipe.device):
                c = pipe.encode_prompts(prompts)
                prediction = pipe.unet(z_t, t, c.context, c.added).float()
            loss = ldm_loss(pipe.schedule.to_eps(prediction, z_t, t), eps)
            optimizer.param_groups[0]["lr"] = args.lr * min(1, 2 - 2 * step / args.steps)
            update(optimizer, loss, step, bar)
    return learned, bar.n


# ------------------------------------------------------------------------------------------------ what is learned, what is drawn

def given(args, size):
    """The pictures to learn from, (n, 3, size, size) in [0, 1], and the word that says roughly what they show."""
    if args.images:
        if not args.class_word:
            raise ValueError(f"--images {args.images} needs --class-word, which says roughly what the pictures show, such as cat")
        if args.concept:
            raise ValueError("--concept and --images: one word is learned, so give one of them")
        return images.load_folder(args.images, size), args.class_word
    name = args.concept or "cat"
    return toybox.held_out(name, n=5, size=size).images, args.class_word or CLASS_WORDS.get(name, name)


def read_templates(path):
    """Lines of a file, each with {} in place of the new word."""
    lines = read_lines(path, "templates")
    wrong = [line for line in lines if line.count("{}") != 1 or line.count("{") != 1 or line.count("}") != 1]
    if wrong or not lines:
        raise ValueError(f"{path}: every line must hold {{}} once, in place of the new word"
                         + (f"; not so: {wrong[0]!r}" if wrong else ""))
    return lines


def learn_and_save(pipe, args):
    """Trains one word and writes it to args.out: learned.safetensors, in diffusers' layout. Returns the pictures and metrics."""
    pictures, class_word = given(args, pipe.sample_size * pipe.factor)
    args.init = args.init or class_word
    began = time.monotonic()
    learned, steps = learn(pipe, pictures, args)
    seconds = time.monotonic() - began
    path = args.out / "learned.safetensors"
    tokens.save(path, args.token, learned.rows)
    tokens.freeze(pipe)
    metrics = {"seconds": seconds, "steps": steps, "batch": args.batch, "lr": args.lr, "vectors": args.vectors,
               "pictures": len(pictures), "bytes": path.stat().st_size, "device": str(pipe.device)}
    write_json(args.out / "metrics.json", metrics)
    return pictures, metrics


# ------------------------------------------------------------------------------------------------ command line

def demonstrate(args):
    """Learns one concept and draws it: the given pictures, then new scenes, one a row."""
    began = time.monotonic()
    pipe = load_model(args)
    pictures, metrics = learn_and_save(pipe, args)
    n = len(pictures)
    prompts = [scene.format(args.token) for scene in SCENES]
    drawn = pipe(prompts, n, args.sampling, args.guidance, args.seed).cpu().unflatten(0, (len(prompts), n))
    images.save_figure(args.out / "figure.png", torch.cat([pictures[None], drawn]), title=f"Textual Inversion: {args.token}",
                       row_labels=["given", *prompts])
    metrics |= {"seconds training": metrics["seconds"], "seconds": time.monotonic() - began}
    write_json(args.out / "metrics.json", metrics)
    print(f"{metrics['vectors']} vector(s), {metrics['bytes']} bytes; {metrics['steps']} steps in {metrics['seconds training']:.0f} s, "
          f"{metrics['seconds']:.0f} s with the pictures")
    print(f"written to {args.out}: figure.png, learned.safetensors, metrics.json")


def train_command(args):
    learn_and_save(load_model(args), args)
    print(f"written: {args.out / 'learned.safetensors'}; in prompts, {args.token} is the noun: \"a photo of a {args.token}\"")


def sample_command(args):
    prompts = read_prompts(args.prompts) if args.prompts else [args.prompt]
    pipe = load_model(args)
    for folder in args.learned:
        tokens.load(pipe, folder / "learned.safetensors" if folder.is_dir() else folder)
    images.save_samples(args.out, pipe(prompts, args.n, args.sampling, args.guidance, args.seed), prompts)
    print(f"written to {args.out}: samples.safetensors, samples.png")


def load_model(args):
    pipe = minidiff.load(args.model, args.device)
    if not hasattr(pipe, "text_encoder") or hasattr(pipe, "text_encoder_2"):
        raise ValueError(f"{args.model} has not exactly one text encoder; expected a Stable Diffusion 1 or 2, or toybox")
    return pipe


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/textual_inversion"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training, or of the first picture")
    add("--sampling", type=int, default=25, help="DDIM steps of a picture (paper: 50)")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance (code: 5, README 10)")
    learn = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: learn.add_argument(*names, **how)
    add("--concept", choices=sorted(HELD_OUT), help="an individual of toybox, five pictures of it (default: cat)")
    add("--images", type=Path, metavar="DIR", help="your own pictures; needs --class-word")
    add("--class-word", help="what they show, roughly: one token of the model, where v_* starts")
    add("--token", default="<new1>", help="the new word, S_*")
    add("--init", help="another word to start from (default: the class word)")
    add("--vectors", type=int, default=1, help="rows for the word (paper: 1; also tried: 2, 3)")
    add("--steps", type=int, default=200, help="optimiser steps (paper: 5000)")
    add("--batch", type=int, default=4, help="pictures per step (paper: 4 on each of two GPUs)")
    add("--lr", type=float, default=5e-3, help="learning rate of AdamW (paper: 0.005 x batch x GPUs = 0.04)")
    add("--templates", metavar="FILE", help="texts with {} for the new word, one a line (default: %d short ones)" % len(TEMPLATES))
    add("--no-flip", dest="flip", action="store_false", help="no mirrored copies (paper: mirrored with probability 0.5)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common, learn])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    verbs.add_parser("train", help="learn a word from pictures", parents=[common, learn], **how)
    use = verbs.add_parser("sample", help="pictures with learned words in the prompt", parents=[common], **how)
    use.add_argument("--learned", type=Path, nargs="+", required=True, metavar="DIR", help="what `train` wrote, or any file of a token")
    use.add_argument("--prompt", default="a photo of a <new1>", help="what to draw")
    use.add_argument("--prompts", metavar="FILE.json", help="a list of prompts instead")
    use.add_argument("--n", type=int, default=4, help="pictures of each prompt")
    args = command.parse(parser, argv)
    for name in ("steps", "batch", "vectors", "sampling", "n"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    if getattr(args, "lr", 1) <= 0:
        parser.error(f"--lr is {args.lr}, expected a number above 0")
    return parser, args


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "sample": sample_command}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
