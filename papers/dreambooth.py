"""DreamBooth. Ruiz, Li, Jampani, Pritch, Rubinstein, Aberman, CVPR 2023, arXiv:2208.12242v2.

Fine-tune a whole UNet on three to five pictures of one subject, under a rare word before its class: "a <new1> cat". Pictures that
the untouched model draws of "a cat" keep what the class word means.

    paper         code                  meaning                                                       shape
    ------------  --------------------  ------------------------------------------------------------  ------------
    [V] [class]   "<new1> cat"          the subject; <new1> has the embedding of a rare word, frozen
    x, c          z, "a <new1> cat"     latents of the given pictures, and their text                 (n, C, h, w)
    x_pr, c_pr    z_pr, "a cat"         latents that the frozen model draws of the class              (m, C, h, w)
    lambda        --prior               weight of the second term; 0 leaves it out                    float
    w_t           1                     in the noise form of the loss
    Sec. 3.3      prior_preserved_loss  the loss of the given pictures + lambda times that of x_pr    scalar

The rare word should mean nothing yet. For CLIP's vocabulary it is "sks", as is common for Stable Diffusion. Every word of toybox's
vocabulary is a common one, but it has tokens for single letters that no caption uses ("q", "z"): their rows are as they were before
training. The name in the prompt (--token) gets such a row (--identifier), stretched to the length of a trained one, or the UNet
would hardly hear it.

Differs from the paper
  * The loss is on noise, as in implementations for Stable Diffusion; the paper's is on pictures. Both terms go through the UNet in one
    batch, each picture with its own noise and timestep.
  * The class pictures stay latents: to decode and encode them would only blur them. They are few (32), so they are drawn from seeds
    that no later picture has: those the fine-tuned model knows by heart.
  * No super-resolution network. Steps and learning rate are for a UNet of 6 million weights and pictures of 64x64; for Stable
    Diffusion: --steps 800 --lr 5e-6 --class-pictures 200, on a GPU. The learning rate falls to 0 over the last half. The demonstration's
    140 steps leave much of a subject unlearned: the tables of papers/README.md take 250, and 500.
  * Several concepts (--concept cat --concept chair, or --images and --class-word repeated) are learned together, each with its word.

Cost    a step takes about 0.7 s of a busy CPU core; there are 140, the class pictures before and the samples of the figure after.
Run     python papers/dreambooth.py                                        learns a cat of toybox and draws it in new scenes
        python papers/dreambooth.py train --images DIR --class-word cat --model PATH --out mycat
        python papers/dreambooth.py sample --learned mycat --prompt "a photo of a <new1> cat at the beach" --model PATH
What is stored is the whole UNet, DIR/unet, in half precision: it can take the place of the model's own folder, with "a sks cat" in the
prompt; on toybox, where the row was stretched, the word in DIR/tokens is needed as well. `eval`, beside other methods: papers/custom_diffusion.py eval.
"""
import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import minidiff
from minidiff import command, devices, images, tokens, toybox
from minidiff.checkpoints import save_folder, write_json
from minidiff.clip import CLIPText
from minidiff.pipeline import read_prompts
from minidiff.samplers import generators, noise, sample
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.training import progress, update
from minidiff.unet import UNet

TEMPLATES = ["a {}", "a photo of a {}"]
SCENES = ["a {} in a room", "a {} at the beach", "a {} at night", "a {} next to a blue chair"]
RARE = ("sks", "ktn", "pll", "ucd", "q", "z", "j", "x")            # those that are one token of the vocabulary are used, in this order


@dataclass
class Concept:
    """pictures (n, 3, S, S) in [0, 1]; class_word: "cat"; token: "<new1>"; identifier: the rare word whose row it has."""
    pictures: torch.Tensor
    class_word: str
    token: str
    identifier: str

    @property
    def name(self):
        return f"{self.token} {self.class_word}"                                                        # [V] [class noun]


# ------------------------------------------------------------------------------------------------ Sec. 3.3

def prior_preserved_loss(eps_hat, eps, eps_hat_pr, eps_pr, lam):
    """The loss of the subject's pictures plus lambda times that of the class's own; all (B, C, h, w). Source: Sec. 3.3, w_t = 1."""
    return F.mse_loss(eps_hat, eps) + lam * F.mse_loss(eps_hat_pr, eps_pr)


@torch.no_grad()
def class_latents(pipe, class_word, args):
    """x_pr: what the model, still frozen, draws of the class, as latents (m, C, h, w)."""
    seeds = [1_000_000 + args.seed * 1000 + i for i in range(args.class_pictures)]          # none that a picture is later drawn with
    condition, empty = pipe.encode_prompts([f"a {class_word}", ""])
    shape = (pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size)
    groups = [generators(seeds[i:i + 16], len(seeds[i:i + 16])) for i in range(0, len(seeds), 16)]
    return torch.cat([sample(pipe.predictor(condition.repeat(len(group)), empty, args.guidance), pipe.schedule,
                             noise((len(group), *shape), group, pipe.device), args.class_sampling, eta=pipe.schedule.eta, generator=group)
                      for group in groups])


def fine_tune(pipe, concepts, args):
    """Trains the UNet, and the text encoder on request, on the concepts. Returns the number of steps made. Source: Sec. 3.3."""
    generator = torch.Generator().manual_seed(args.seed)
    with torch.no_grad():
        z = [pipe.encode(c.pictures) for c in concepts]                                            # x
        z_pr = [class_latents(pipe, c.class_word, args) if args.prior else None for c in concepts]      # x_pr
    trained = [pipe.unet, pipe.text_encoder] if args.train_text_encoder else [pipe.unet]
    parameters = [p for module in trained for p in module.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, args.lr, weight_decay=0.01)

    def drawn(pool, noun):
        """A batch from a pool of latents: clean latents (B, C, h, w), and the text of each."""
        i = torch.randint(len(pool), (args.batch,), generator=generator)
        template = lambda: TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
        return pool[i.to(pool.device)], [template().format(noun) for _ in i]

    total = args.steps * len(concepts)
    with progress(total, f"fine-tuning {sum(p.numel() for p in parameters) / 1e6:.1f} M weights") as bar:
        for step in bar:
            k = step % len(concepts)
            batch = [drawn(z[k], concepts[k].name)] + ([drawn(z_pr[k], concepts[k].class_word)] if args.prior else [])
            z_0, prompts = torch.cat([latents for latents, _ in batch]), [text for _, texts in batch for text in texts]
            t = torch.randint(pipe.schedule.T, (len(z_0),), generator=generator).to(pipe.device)
            eps = torch.randn(z_0.shape, generator=generator).to(pipe.device)
            z_t = pipe.schedule.add_noise(z_0, eps, t)
            with torch.set_grad_enabled(args.train_text_encoder):
                c = pipe.encode_prompts(prompts)
            with devices.autocast(pipe.device):
                prediction = pipe.unet(z_t, t, c.context, c.added).float()
            eps_hat = pipe.schedule.to_eps(prediction, z_t, t)
            if args.prior:
                (e, e_pr), (n, n_pr) = eps_hat.chunk(2), eps.chunk(2)
                loss = prior_preserved_loss(e, n, e_pr, n_pr, args.prior)
            else:
                loss = F.mse_loss(eps_hat, eps)
            optimizer.param_groups[0]["lr"] = args.lr * min(1, 2 - 2 * step / total)
            update(optimizer, loss, step, bar, clip=1.0)
    for module in trained:
        module.requires_grad_(False)
    return bar.n


# ------------------------------------------------------------------------------------------------ what is learned, what is drawn

def given(args, pipe):
    """The concepts to learn: of toybox (--concept), or the caller's own pictures (--images)."""
    size = pipe.sample_size * pipe.factor
    words = args.class_word or []
    if args.images and args.concept:
        raise ValueError("--concept and --images: give one of them, as often as you like")
    if args.images:
        if len(words) != len(args.images):
            raise ValueError(f"{len(args.images)} --images and {len(words)} --class-word; give one word such as cat for each folder")
        found = [(images.load_folder(folder, size), word) for folder, word in zip(args.images, words)]
    else:
        names = args.concept or ["cat"]
        if len(words) not in (0, len(names)):
            raise ValueError(f"{len(names)} --concept and {len(words)} --class-word; give one word for each, or none")
        words = words or [CLASS_WORDS.get(name, name) for name in names]
        found = [(toybox.held_out(name, n=5, size=size).images, word) for name, word in zip(names, words)]
    names = args.token or [f"<new{k + 1}>" for k in range(len(found))]
    rare = args.identifier or [word for word in RARE if len(pipe.tokenizer.encode(word)) == 1]
    if len(names) != len(found) or len(rare) < len(found):
        raise ValueError(f"{len(found)} concepts, {len(names)} --token and {len(rare)} rare words for --identifier; give one of each")
    return [Concept(*pictures_and_word, name, word) for pictures_and_word, name, word in zip(found, names, rare)]


def name_rare_words(pipe, concepts):
    """Give the names in the prompts the embeddings of the rare words. Returns {name: row (1, D)}, which stay as they are."""
    rows = {c.token: rare_row(pipe, c.identifier) for c in concepts}
    tokens.add(pipe, list(rows), init=list(rows.values()))
    tokens.freeze(pipe)
    return rows


def rare_row(pipe, word):
    """The embedding of a rare word, (1, D). One that training never touched is short: it gets the length of a common one."""
    rare, common = (tokens.start(pipe.tokenizer, pipe.text_encoder, w, 1) for w in (word, "a"))
    ratio = float(common.norm() / rare.norm())
    return rare * ratio if ratio > 2 else rare


def learn_and_save(pipe, args):
    """Trains, and writes to args.out: unet (and text_encoder), tokens, metrics.json. Returns the concepts and the metrics."""
    concepts, began = given(args, pipe), time.monotonic()
    rows = name_rare_words(pipe, concepts)
    steps = fine_tune(pipe, concepts, args)
    seconds = time.monotonic() - began
    save_folder(pipe.unet, pipe.unet.config | {"sample_size": pipe.sample_size}, args.out / "unet")
    if args.train_text_encoder:
        save_folder(pipe.text_encoder, pipe.text_encoder.config, args.out / "text_encoder", "model.safetensors")
    for old in (args.out / "tokens").glob("*.safetensors"):
        old.unlink()
    for i, (token, row) in enumerate(rows.items()):
        tokens.save(args.out / "tokens" / f"{i + 1}.safetensors", token, row)
    metrics = {"seconds": seconds, "steps": steps, "batch": args.batch, "lr": args.lr, "prior": args.prior, "concepts": len(concepts),
               "pictures": sum(len(c.pictures) for c in concepts), "class_pictures": args.class_pictures if args.prior else 0,
               "bytes": sum(p.stat().st_size for p in args.out.glob("*/*.safetensors")), "device": str(pipe.device)}
    write_json(args.out / "metrics.json", metrics)
    return concepts, metrics


def load_learned(pipe, folder):
    """Put what `train` wrote to a folder into the model that it was made from."""
    if not (folder / "unet").is_dir():
        raise ValueError(f"{folder} holds no folder unet; expected what `dreambooth.py train --out DIR` wrote")
    pipe.unet = UNet.from_pretrained(folder / "unet", pipe.device, pipe.dtype)
    pipe.check("width of the text", pipe.unet.config["cross_attention_dim"], pipe.text_width())
    for path in sorted((folder / "tokens").glob("*.safetensors")):
        tokens.load(pipe, path)
    if (folder / "text_encoder").is_dir():
        pipe.text_encoder = CLIPText.from_pretrained(folder / "text_encoder", pipe.device, pipe.dtype)


# ------------------------------------------------------------------------------------------------ command line

def demonstrate(args):
    """Learns one concept and draws it: the given pictures, new scenes, and what the class word alone gives now."""
    began = time.monotonic()
    pipe = load_model(args)
    concepts, metrics = learn_and_save(pipe, args)
    prompts = [scene.format(c.name) for c in concepts for scene in SCENES] + [f"a photo of a {c.class_word}" for c in concepts]
    drawn = pipe(prompts, 4, args.sampling, args.guidance, args.seed).cpu().unflatten(0, (len(prompts), 4))
    shown = torch.stack([c.pictures[torch.arange(4) % len(c.pictures)] for c in concepts])
    images.save_figure(args.out / "figure.png", torch.cat([shown, drawn]), title="DreamBooth",
                       row_labels=[f"given: {c.name}" for c in concepts] + prompts)
    metrics |= {"seconds training": metrics["seconds"], "seconds": time.monotonic() - began}
    write_json(args.out / "metrics.json", metrics)
    print(f"{metrics['bytes'] / 1e6:.1f} MB; {metrics['steps']} steps in {metrics['seconds training']:.0f} s, "
          f"{metrics['seconds']:.0f} s with the pictures")
    print(f"written to {args.out}: figure.png, unet, tokens, metrics.json")


def train_command(args):
    concepts, metrics = learn_and_save(load_model(args), args)
    print(f"written: {args.out / 'unet'}; in prompts: " + ", ".join(f'"a photo of a {c.name}"' for c in concepts))


def sample_command(args):
    prompts = read_prompts(args.prompts) if args.prompts else [args.prompt]
    pipe = load_model(args)
    if len(args.learned) > 1:
        raise ValueError(f"{len(args.learned)} folders; each holds a whole UNet, so only one can be used. Learn several concepts "
                         "together: train --concept cat --concept chair, or --images and --class-word repeated")
    load_learned(pipe, args.learned[0])
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
    add("--out", type=Path, default=Path("outputs/dreambooth"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training, or of the first picture")
    add("--sampling", type=int, default=25, help="DDIM steps of a picture")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance, of class pictures too (often 7.5)")
    learn = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: learn.add_argument(*names, **how)
    add("--concept", action="append", choices=sorted(HELD_OUT), help="five pictures of an individual of toybox (default: cat); repeatable")
    add("--images", action="append", type=Path, metavar="DIR", help="your own pictures; needs --class-word; repeatable")
    add("--class-word", action="append", help="the class noun, such as cat")
    add("--token", action="append", help="the name of the subject in prompts (default: <new1>, <new2> ...)")
    add("--identifier", action="append", help=f"the rare word whose embedding it gets (default: {', '.join(RARE)})")
    add("--steps", type=int, default=140, help="optimiser steps for each concept (paper: about 1000)")
    add("--batch", type=int, default=4, help="given pictures per step, and as many of the class (often 1)")
    add("--lr", type=float, default=5e-4, help="learning rate of AdamW (paper: 5e-6 for Stable Diffusion)")
    add("--prior", type=float, default=1.0, help="lambda, the weight of prior preservation (paper: 1); 0: without")
    add("--class-pictures", type=int, default=32, help="pictures that the model draws of the class (paper: about 1000)")
    add("--class-sampling", type=int, default=12, help="DDIM steps of each")
    add("--train-text-encoder", action="store_true", help="train the text encoder too (paper: frozen)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common, learn])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    verbs.add_parser("train", help="learn one or several subjects from pictures", parents=[common, learn], **how)
    use = verbs.add_parser("sample", help="pictures with what was learned", parents=[common], **how)
    use.add_argument("--learned", type=Path, nargs="+", required=True, metavar="DIR", help="what `train` wrote")
    use.add_argument("--prompt", default="a photo of a <new1> cat", help="what to draw")
    use.add_argument("--prompts", metavar="FILE.json", help="a list of prompts instead")
    use.add_argument("--n", type=int, default=4, help="pictures of each prompt")
    args = command.parse(parser, argv)
    for name in ("steps", "batch", "class_pictures", "class_sampling", "sampling", "n"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    if getattr(args, "lr", 1) <= 0 or getattr(args, "prior", 0) < 0:
        parser.error(f"--lr {args.lr} --prior {args.prior}: expected a learning rate above 0 and a weight of at least 0")
    return parser, args


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "sample": sample_command}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
