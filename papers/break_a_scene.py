"""Break-A-Scene: "Extracting Multiple Concepts from a Single Image". Avrahami, Aberman, Fried, Cohen-Or, Lischinski,
SIGGRAPH Asia 2023, arXiv:2305.16311.

Learn several concepts from one picture, each marked by a mask: a word for each of them, to draw it alone or with any of the others.

    paper              code              meaning                                                         shape
    -----------------  ----------------  --------------------------------------------------------------  --------------------
    I, M_i             picture, masks    the picture, and where each of N concepts is in it              (1, 3, H, W), (N, 1, H, W)
    v_i                learned.rows      the handles, one for each concept: "<new1>", "<new2>" ...       (N, D)
    s                  s                 some of the concepts, other ones for each picture of a step     list of numbers
    p_s                prompts           "a photo of [v_x] and [v_y]", the handles of s                  B strings
    M_s                M_s               union of the masks of s                                         (B, 1, h, w)
    z_t, eps           z_t, eps          noisy latents, and the noise in them                            (B, C, h, w)
    CA_theta(v, z_t)   CA                where each word of the prompt looks                             (B, L, r, r)
    lambda_attn        args.attention    weight of the loss on attention

Training has two phases: first only the handles learn, at a high rate, then they and the UNet, at a low one.

Where the paper and the authors' code differ, or the paper leaves it open, this file follows
  * their code: the masked errors are averaged over the whole picture, so that small concepts weigh less; each map is divided by its
    largest value; maps are those of the way down and up at 16x16, means over heads and layers (here: the largest of at most 16x16).
  * the paper: the loss on attention is a mean over the concepts of s (theirs: the sum).
Not here: their prior preservation (weight 1, 100 pictures), and the text encoder, which they train too in the second phase.
Numbers of equations are from memory of the paper.
Differs from both
  * The picture is mirrored only with --mirror (theirs: in half of the steps). On toybox a concept that has been seen left and right is
    drawn twice when it is asked for alone; and even so, now and then, something stands where the other one stood.
  * On toybox prompts are "a photo of a <new1> next to a <new2>", as it has read no list of things; and it draws two things at most.
  * Learning rates are for toybox: 5e-3, then 1e-4 (theirs: 5e-4, then 2e-6). Of a mask counts each cell's share that is inside.

Cost    the demonstration takes 85 seconds of CPU time, on one thread and in float32; 25 MB are stored.
Run     python papers/break_a_scene.py                                    learns a cat and a chair of toybox from one picture of both
        python papers/break_a_scene.py train --image a.png --mask m.png --mask n.png --class-word cat --class-word chair --model PATH \\
            --token-steps 400 --token-lr 5e-4 --steps 400 --lr 2e-6 --batch 1 --mirror
        python papers/break_a_scene.py sample --learned DIR --prompt "a photo of <new2> at the beach"
No `eval`: papers/clic.py eval --table rank compares it with others.
"""
import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

import minidiff
from minidiff import command, deltas, devices, images, tokens, toybox
from minidiff.attention import recorded
from minidiff.checkpoints import find, write_json
from minidiff.clip import CLIP
from minidiff.deltas import Delta
from minidiff.metrics import clip_embeddings, markdown, overlap
from minidiff.pipeline import read_prompts
from minidiff.samplers import noise
from minidiff.toybox.canvas import Paint
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.toybox.scenes import PLAIN_GROUNDS, Scene, Thing
from minidiff.toybox.world import SPECIES, draw
from minidiff.training import progress, update

RARE = ("ktn", "q</w>", "z</w>", "x</w>", "j</w>")               # where handles start without a --class-word: no caption has these
TRAINED = {"crossattn": (".attn2.",), "all": ("",)}


# ------------------------------------------------------------------------------------------------ two losses, and which concepts

def subset(n, generator):
    """Some of the concepts 0 .. n - 1, in any order: first how many, 1 to n, then which. The paper's union sampling."""
    k = int(torch.randint(1, n + 1, (), generator=generator))
    return torch.randperm(n, generator=generator)[:k].tolist()


def masked_loss(e, eps, M_s):
    """|| eps M_s - e M_s ||^2 per number, for each picture, (B,).   (B, C, h, w), (B, C, h, w), (B, 1, h, w)"""
    return (eps * M_s - e * M_s).square().mean((1, 2, 3))                                               # Eq. (1)


def attention_loss(CA, M):
    """How far each concept's map (k, r, r), stretched to a largest value of 1, is from its mask (k, r, r): a number."""
    return (CA / CA.amax((1, 2), keepdim=True) - M).square().mean()                                     # Eq. (2)


def attention_of(maps, most=16):
    """CA_theta of every word of the prompts, (B, L, r, r): the mean of the layers on the way down and up of one resolution.

    maps: as `attention.recorded` gives them. r: the largest of their sides that is not above `most`.
    """
    sides = {name: math.isqrt(m.shape[1]) for name, m in maps.items() if name.startswith(("down_blocks.", "up_blocks."))}
    r = max((side for side in sides.values() if side <= most), default=min(sides.values()))
    return torch.stack([rearrange(maps[name], "b (y x) l -> b l y x", y=r) for name, side in sides.items() if side == r]).mean(0)


def resized(masks, side):
    """Masks (..., H, W) at side x side: the share of each cell that is inside."""
    return F.adaptive_avg_pool2d(masks, side)


def says(pipe, words):
    """The prompt that names these concepts, p_s."""
    if len(pipe.tokenizer.encode("style")) == 1:
        return "a photo of " + " and ".join(words)
    return "a photo of " + " next to ".join(f"a {word}" for word in words)              # toybox


def places_of(pipe, prompt, words):
    """Which tokens of the prompt the words are."""
    ids = pipe.tokenizer([prompt])[0].tolist()
    missing = [word for word in words if pipe.tokenizer.added[word] not in ids]
    if missing:
        raise ValueError(f"the prompt {prompt!r} is too long: {missing[0]} is cut off; use fewer concepts")
    return [ids.index(pipe.tokenizer.added[word]) for word in words]


# ------------------------------------------------------------------------------------------------ training

def learn(pipe, picture, masks, words, starts, args):
    """Learns a handle for each mask, and weights of pipe's UNet, in place. Returns a Delta.

    picture (1, 3, H, W), masks (N, 1, H, W); words: N new ones; starts: where their rows start, see `tokens.add`.
    """
    generator = torch.Generator().manual_seed(args.seed)
    learned, trained = tokens.add(pipe, words, starts), trainable(pipe.unet, args.train)
    with torch.no_grad():
        z = pipe.encode(torch.cat([picture, picture.flip(-1)]))                                         # as it is, mirrored
    masks = torch.stack([masks[:, 0], masks[:, 0].flip(-1)]).to(z)                                      # (2, N, H, W)
    phases = {"handles": (args.token_steps, [learned.rows], args.token_lr),
              "handles and weights": (args.steps, [learned.rows, *trained.values()], args.lr)}
    args.done = 0
    for what, (steps, parameters, lr) in phases.items():
        for p in trained.values():
            p.requires_grad_(what != "handles")
        optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0)
        with progress(steps, f"learning {what}") as bar:
            for step in bar:
                i = torch.randint(1 + args.mirror, (args.batch,), generator=generator)
                s = [subset(len(words), generator) for _ in i]
                e, eps, CA, places = denoised(pipe, z[i], [[words[k] for k in one] for one in s], generator)
                M = [masks[flipped, one] for flipped, one in zip(i, s)]                                 # (k, H, W) each
                M_s = torch.stack([m.amax(0, keepdim=True) for m in M])
                l_rec = masked_loss(e, eps, resized(M_s, e.shape[-1])).mean()                           # Eq. (1)
                l_attn = torch.stack([attention_loss(ca[p], resized(m, ca.shape[-1])) for ca, p, m in zip(CA, places, M)]).mean()
                l_total = l_rec + args.attention * l_attn                                               # Eq. (3)
                update(optimizer, l_total, step, bar, lower="--lr or --token-lr")
        args.done += bar.n
        if bar.n < steps:                                       # Ctrl-C
            break
    pipe.unet.requires_grad_(False)
    tokens.freeze(pipe)
    weights = {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in trained.items()}
    return Delta(weights, {word: learned.of(word).detach().cpu().clone() for word in words})


def denoised(pipe, z, handles, generator):
    """Predicted noise, noise, and where the words of each prompt look; which of these are the handles.   handles: B lists of words"""
    prompts = [says(pipe, words) for words in handles]
    t = torch.randint(pipe.schedule.T, (len(z),), generator=generator).to(pipe.device)
    eps = torch.randn(z.shape, generator=generator).to(pipe.device)
    z_t = pipe.schedule.add_noise(z, eps, t).contiguous(memory_format=torch.channels_last)
    with recorded(pipe.unet) as maps, devices.autocast(pipe.device):
        prediction = pipe.unet(z_t, t, pipe.encode_prompts(prompts).context).float()
    places = [places_of(pipe, prompt, words) for prompt, words in zip(prompts, handles)]
    return pipe.schedule.to_eps(prediction, z_t, t), eps, attention_of(maps), places


def trainable(unet, what):
    """{name: parameter} of what the second phase trains; everything is frozen until then."""
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    return {name: p for name, p in unet.named_parameters() if any(part in name for part in TRAINED[what])}


def starts_of(pipe, class_words, n):
    """Where n handles start: at the words of their classes, or else at tokens that no caption has."""
    rare = [pipe.tokenizer.vocab[symbol] for symbol in RARE if symbol in pipe.tokenizer.vocab]
    if not class_words and len(rare) >= n:
        return [tokens.table_of(pipe.text_encoder)[i].detach() for i in rare[:n]]
    if len(class_words) != n:
        raise ValueError(f"{n} masks and {len(class_words)} --class-word; give a word such as cat for each mask")
    return class_words


# ------------------------------------------------------------------------------------------------ what to learn from, what is looked at

def together(names, seed, size):
    """A picture of toybox with individuals that no training picture shows, side by side: (1, 3, S, S), and masks (N, 1, S, S)."""
    places = {1: [(0.0, .8)], 2: [(-.5, .5), (.5, .5)]}[len(names)]
    things = [Thing(SPECIES.get(name, name), HELD_OUT[name][0], "none", Paint(**HELD_OUT[name][1]), scale=scale, x=x, ground=.8)
              for name, (x, scale) in zip(names, places)]
    grounds = list(PLAIN_GROUNDS)
    batch = draw([Scene("pair" if len(names) == 2 else "object", seed, grounds[seed % len(grounds)], things=things)], size=size)
    return batch.images, torch.stack([batch.instances == i + 1 for i in range(len(names))]).float()


def given(pipe, args):
    """Picture, masks, and the words of their classes: of --image and --mask, or of toybox."""
    size = pipe.sample_size * pipe.factor
    if args.image:
        pictures, masks = zip(*(images.load_masked(args.image, mask, size) for mask in args.mask))
        return pictures[0][None], torch.stack(masks), args.class_word
    return *together(args.concept, args.seed, size), args.class_word or [CLASS_WORDS.get(name, name) for name in args.concept]


@torch.no_grad()
def where(pipe, picture, words, seed, n=5):
    """Where each word looks in the picture, noised to n levels under the prompt that names them all: maps (N, 1, r, r), up to 1."""
    z, prompt, total = pipe.encode(picture), says(pipe, words), 0
    context = pipe.encode_prompts([prompt]).context
    for k, t in enumerate(torch.linspace(.2, .8, n) * (pipe.schedule.T - 1)):
        with recorded(pipe.unet) as maps:
            pipe.unet(pipe.schedule.add_noise(z, noise(z.shape, seed + 1000 * k, z.device), int(t)), int(t), context)
        total = total + attention_of(maps)[0, places_of(pipe, prompt, words)]
    return (total / total.amax((1, 2), keepdim=True))[:, None].cpu()


def disentangled(maps, masks):
    """IoU of where each word looks, above half of its most, with its own mask and with the others': two numbers."""
    looks = (F.interpolate(maps, masks.shape[-2:], mode="bilinear") > .5).float()
    iou = torch.stack([overlap(looks, mask.expand_as(looks)) for mask in masks], dim=1)                 # (N, N): of word i with mask j
    own = iou.diagonal().sum()
    return float(own / len(iou)), float((iou.sum() - own) / max(1, iou.numel() - len(iou)))


# ------------------------------------------------------------------------------------------------ command line

def load(args):
    pipe = minidiff.load(args.model, args.device)
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError(f"{args.model} is a {type(pipe).__name__}, which learns no concepts here; use a Stable Diffusion 1 or 2, or toybox")
    return pipe


def train(pipe, args):
    """Learns what the options say, and writes it. Returns picture, masks, the new words and metrics."""
    began = time.monotonic()
    picture, masks, class_words = given(pipe, args)
    words = [f"<new{k + 1}>" for k in range(len(masks))]
    delta = learn(pipe, picture, masks, words, starts_of(pipe, class_words, len(masks)), args)
    delta.classes = dict(zip(words, class_words))
    metrics = {"steps": args.done, "learning_seconds": time.monotonic() - began, "device": str(pipe.device)}
    deltas.save(args.out, delta, metrics)
    return picture, masks, words, metrics


def demonstrate(args):
    """Learns two individuals from one picture; draws each alone, and both, in new scenes; and where their words look."""
    began = time.monotonic()
    pipe = load(args)
    if pipe.sample_size != 16 or args.image or len(args.concept) != 2:
        raise ValueError("the demonstration learns two --concept of toybox, with a toybox model; use the verbs train and sample for others")
    picture, masks, words, metrics = train(pipe, args)
    maps = where(pipe, picture, words, args.seed)
    prompts = [f"{scene.format(word)}" for word in words for scene in SCENES]
    prompts += [scene.format(" next to a ".join(words)) for scene in SCENES]
    drawn = pipe(prompts, 4, args.sampling, args.guidance, args.seed).cpu().unflatten(0, (len(prompts), 4))
    gray = lambda m: F.interpolate(m, picture.shape[-2:], mode="bilinear").repeat(1, 3, 1, 1)
    top = torch.cat([picture, gray(masks), torch.ones_like(picture)]), torch.cat([gray(maps), torch.ones(2, 3, 64, 64)])
    labels = ["given: a picture and two masks", f"where {' and '.join(words)} look", *prompts]
    images.save_figure(args.out / "figure.png", torch.cat([torch.stack(top), drawn]), labels, title="Break-A-Scene: two concepts from one picture")
    alone = drawn[:4].reshape(2, -1, *drawn.shape[2:])
    metrics["iou_own"], metrics["iou_other"] = disentangled(maps, masks)
    metrics["alignment_own"], metrics["alignment_other"] = alignments(alone, args.concept)
    metrics["seconds"] = time.monotonic() - began
    write_json(args.out / "metrics.json", metrics)
    table = [{"": name, "own": metrics[f"{key}_own"], "other": metrics[f"{key}_other"]} for name, key in
             (("where a word looks: IoU with the mask", "iou"), ("drawn alone: image alignment to the individual", "alignment"))]
    print(markdown(table, {"": "", "own": "its own", "other": "the other's"}) + f"{metrics['steps']} steps, {metrics['seconds']:.0f} s")
    print(f"written to {args.out}: figure.png, delta.safetensors, new1.safetensors, new2.safetensors, metrics.json")


SCENES = ["a {} in a garden", "a {} on a purple background"]


@torch.no_grad()
def alignments(drawn, concepts):
    """Mean cosine, by toybox's CLIP, of pictures of each concept alone (2, n, 3, 64, 64) with renders of it, and with those of the other."""
    clip = CLIP.from_pretrained(find("toybox") / "clip", "cpu", torch.float32)
    e = torch.stack([clip_embeddings(clip, None, pictures) for pictures in drawn])                      # (2, n, E)
    true = torch.stack([clip_embeddings(clip, None, toybox.held_out(name, 5).images) for name in concepts])
    cosine = einsum(e, true, "a n e, b m e -> a b") / (e.shape[1] * true.shape[1])
    return float(cosine.diagonal().mean()), float(cosine.flip(1).diagonal().mean())


def train_command(args):
    *_, words, metrics = train(load(args), args)
    print(f"{metrics['steps']} steps, {metrics['learning_seconds']:.0f} s; written to {args.out}: delta.safetensors")
    print(f"in prompts: {', '.join(words)}")


def sample_command(args):
    prompts = read_prompts(args.prompts) if args.prompts else [args.prompt]
    pipe = load(args)
    deltas.read(args.learned, pipe.unet).apply(pipe)
    images.save_samples(args.out, pipe(prompts, args.n, args.sampling, args.guidance, args.seed), prompts)
    print(f"written to {args.out}: samples.safetensors, samples.png, {len(prompts) * args.n} pictures")


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/break_a_scene"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training, of toybox's picture and of the first drawn")
    add("--sampling", type=int, default=25, help="steps of a picture (code: 50)")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance (code: 7.5)")
    learning = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: learning.add_argument(*names, **how)
    add("--concept", action="append", choices=list(HELD_OUT), help="an individual of toybox; two at most, in one picture (default: cat and chair)")
    add("--image", help="your own picture; its middle square is taken")
    add("--mask", action="append", default=[], help="where a concept is: a picture of the same size, white inside; one for each")
    add("--class-word", action="append", default=[], help="a word that is one token, where a handle starts; one for each mask, or none")
    add("--token-steps", type=int, default=100, help="steps of the first phase, handles alone (code: 400)")
    add("--token-lr", type=float, default=5e-3, help="its learning rate (code: 5e-4)")
    add("--steps", type=int, default=150, help="steps of the second phase (code: 400)")
    add("--lr", type=float, default=1e-4, help="its learning rate (code: 2e-6)")
    add("--batch", type=int, default=4, help="noises, and subsets of the concepts, in a step (code: 1)")
    add("--mirror", action="store_true", help="mirror the picture in half of the steps (code: yes)")
    add("--attention", type=float, default=.01, help="lambda_attn (paper: 0.01); 0: without")
    add("--train", choices=list(TRAINED), default="all", help="which weights of the UNet (paper: all)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common, learning])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text, *more: verbs.add_parser(name, help=text, description=text, parents=[common, *more], **how)
    new("train", "learn the concepts of one picture", learning)
    use = new("sample", "pictures with what was learned")
    use.add_argument("--learned", required=True, metavar="DIR", help="what train wrote")
    use.add_argument("--prompt", default="a photo of a <new1>", help="what to draw")
    use.add_argument("--prompts", metavar="FILE.json", help="a list of prompts instead")
    use.add_argument("--n", type=int, default=4, help="pictures of each prompt")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    for name in ("steps", "token_steps", "batch", "sampling", "n"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    if not hasattr(args, "image"):
        return
    args.concept = args.concept or ([] if args.image else ["cat", "chair"])
    if min(args.lr, args.token_lr) <= 0 or args.attention < 0:
        parser.error("--lr and --token-lr must be above 0, --attention at least 0")
    if bool(args.image) != bool(args.mask) or (args.image and args.concept):
        parser.error("give --image and a --mask for each concept in it, or one or two --concept of toybox")
    if len(args.concept) > 2:
        parser.error(f"{len(args.concept)} --concept; toybox draws at most two things in a picture")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "sample": sample_command}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
