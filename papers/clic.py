"""CLiC: "Concept Learning in Context". Safaee, Mikaeili, Patashnik, Cohen-Or, Mahdavi-Amiri, CVPR 2024, arXiv:2311.17083.

Learn something local, such as the ornament of a mug, from one picture and a mask, together with where on the object it belongs; then
put it on other objects: new ones, or those of given pictures, which otherwise stay as they are.

    paper             code              meaning                                                               shape
    ----------------  ----------------  --------------------------------------------------------------------  --------------
    I_s, M_s          picture, mask     the source, and where the concept is in it                            (3, H, W), (1, H, W)
    v*                TOKEN             the new word, "<new1>"
    w*                REGION            another one, for the region alone (Sec. 3.3)
    CA_theta(v*, x_t) attention_of      where a word looks, one map for each cross-attention on the way up     (B, l, h, w)
    M_s, M_soft       M                 the mask in latents, 0 to 1; and not below alpha                       (B, 1, h, w)
    x_t, eps          x_t, eps          noisy latents, and the noise in them                                  (B, C, h, w)
    c, c*             text              states of "a mug with v* style" and of "a photo of v*"                (2 B, L, D)
    x_tg, M_tg        z, M              the target in latents; where the concept shall be                     (B, C, h, w), (B, 1, h, w)
    x'_t, x''_t       x                 after blending (Eq. 6); after guidance (Eq. 7)                        (B, C, h, w)
    t_start           args.start        steps that are left out at the noisy end; not a time
    eta               args.eta          strength of the guidance
    t_s               args.plain        steps of generation that the untouched model makes (Sec. 4.1)

Where the paper and the authors' code differ, this file follows
  * their code: l_RoI masks the picture, not the noisy latents, and counts errors inside the mask only. Eq. (4) as it stands asks for
    noise where it has been erased.
  * their code: for l_att each map is stretched to 0 .. 1 first; raw values are near 1 / L. The mask is brought to latents, not to maps.
  * both: alpha = .5 under the square is their .25 as a weight. Here both losses are weighted means, also over channels (theirs: 4 times).
  * their code: t_start counts steps left out, and sampling starts from the target, noised so far, inside the mask as well; the known
    part gets fresh noise of the step's own level before each step.
  * the paper: every step is blended, and the outside comes back exactly, but for the autoencoder. (Their last 4 of 50 are not: --free.)
  * the paper: guidance pulls the maps towards M_tg (--pull ones: towards 1 everywhere, as in their code), by the mean over layers.
  * neither: the gradient is divided by its root mean square; a raw one needs an eta that nobody gives. (Theirs: one step of a new Adam,
    which is eta times its sign.) It moves only what is inside M_tg.
  * the paper: for the region only its word is trained, which is not so in their code; and the maps are cut at 0.4, without erosion.
Differs from both
  * On toybox the whole UNet is trained by default: its cross-attention is at 8x8 latents, too coarse for the outline of an ornament
    (elsewhere --train crossattn, the paper's). No weight decay.
  * The source is also moved about and zoomed (--shift, --zoom), or a small model learns the place along with the concept.
  * Learning rates are for toybox: 3e-4 for weights, 5e-3 for words (paper: 1e-5 for both), falling to 0 over the last half.
  * 25 steps (50), guidance 2 (7.5), and for the region's word 60 steps of learning (500); brightness varies by 0.2 (0.5). One prompt
    for the region of interest, the paper's; their code draws one of eight.
  * On toybox, which cannot read "style" or "region", the prompts are "a mug with <new1>" and "a <region> of a mug".

Cost    the demonstration takes 41 s on 2 CPU cores with AVX512-BF16 (81 s in float32); 0.63 GB, and 25 MB are stored.
Run     python papers/clic.py                                                    learns an ornament of toybox and moves it
        python papers/clic.py transfer --source a.png --source-mask m.png --object mug --target b.png --target-object vase
        python papers/clic.py train --source a.png --source-mask m.png --object chair --model PATH --steps 500 --lr 1e-5 --token-lr 1e-5
        python papers/clic.py train --sources DIR --object chair                 the mask is found in what the pictures share
        python papers/clic.py transfer --learned DIR --target b.png --target-mask n.png --target-object table
                                                                                 (with --model PATH: --sampling 50 --guidance 7.5 --start 10)
        python papers/clic.py generate --learned DIR --object vase               new objects with the concept
        python papers/clic.py eval --table transfer                              the paper's tables: see papers/tables/
"""
import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

import minidiff
from minidiff import command, deltas, devices, images, tokens
from minidiff.attention import recorded
from minidiff.checkpoints import write_json
from minidiff.deltas import Delta
from minidiff.metrics import markdown, overlap, psnr
from minidiff.samplers import ddim_step, generators, noise, sample, steps_of
from minidiff.toybox import ornaments
from minidiff.training import progress, update

TOKEN, REGION = "<new1>", "<region>"
SAYS = {"source": "a {object} with {word} style", "roi": "a photo of {word}", "region": "a {word} region of a {object}",
        "plain": "a photo of a {object}", "new": "a photo of a {object}, with {word} style"}
TOYBOX_SAYS = SAYS | {"source": "a {object} with {word}", "region": "a {word} of a {object}", "new": "a photo of a {object} with {word}"}
TRAINED = {"kv": (".attn2.to_k.", ".attn2.to_v."), "crossattn": (".attn2.",), "all": ("",)}


# ------------------------------------------------------------------------------------------------ Sec. 3.1: three losses

def attention_of(maps, place, size):
    """CA_theta of word number `place`, an int or one for each prompt (B,): a map of each cross-attention layer on the way up, (B, l, h, w).

    maps: as `attention.recorded` gives them, of any resolutions.   size: (h, w) of the latents, to which they are enlarged.
    """
    up = [rearrange(m[torch.arange(len(m)), :, place], "b (y x) -> b 1 y x", y=round(math.sqrt(m.shape[1] * size[0] / size[1])))
          for name, m in maps.items() if name.startswith("up_blocks.")]
    return torch.cat([F.interpolate(m, size, mode="bilinear") for m in up], dim=1)


def stretched(m):
    """Each map (B, 1, h, w) from its lowest value, 0, to its highest, 1."""
    low, high = m.amin((1, 2, 3), keepdim=True), m.amax((1, 2, 3), keepdim=True)
    return (m - low) / (high - low + 1e-6)                      # 1e-6: a map may be flat


def attention_loss(CA, M):
    """How far the word's mean map is from the mask, for each picture, (B,).   CA (B, l, h, w); M (B, 1, h, w)"""
    return (stretched(CA.mean(1, keepdim=True)) - M).square().mean((1, 2, 3))                           # Eq. (1)


def weighted_mean(error, weight):
    """(B, C, h, w) with weights (B, 1, h, w) -> (B,)"""
    return (weight * error).sum((1, 2, 3)) / (error.shape[1] * weight.sum((1, 2, 3))).clamp(min=1e-6)


def context_loss(e, eps, M, alpha=0.5):
    """Error of the predicted noise e everywhere, but less of it outside the mask, (B,)."""
    M_soft = alpha + (1 - alpha) * M                                                                    # Eq. (2)
    return weighted_mean((e - eps).square(), M_soft.square())                                           # Eq. (3)


def roi_loss(e, eps, M):
    """Error of the noise that is predicted for the picture with all but the concept erased; inside the mask, (B,)."""
    return weighted_mean((e - eps).square(), M)                                                         # Eq. (4)


def trainable(unet, what):
    """{name: parameter} of what is trained; everything else is frozen."""
    unet.requires_grad_(False)
    return {name: p.requires_grad_(True) for name, p in unet.named_parameters() if any(part in name for part in TRAINED[what])}


def views(pipe, pictures, masks, args, generator, n=128):
    """n copies of the pictures, mirrored, moved, zoomed, and of other brightness: latents, those of the masked ones, masks (n, 1, h, w)."""
    n, much = max(n, len(pictures)), 0 if args.no_augmentation else 1
    i = torch.arange(n) % len(pictures)
    between = lambda *shape: much * (2 * torch.rand(n, *shape, generator=generator) - 1)                # -1 to 1
    mirror, scale = torch.where(between() > 0, -1, 1), torch.exp(args.zoom * between())
    place = torch.zeros(n, 2, 3)
    place[:, 0, 0], place[:, 1, 1], place[:, :, 2] = mirror * scale, scale, args.shift * between(2)
    grid = F.affine_grid(place, (n, 3, *pictures.shape[-2:]), align_corners=False)
    x, m = (F.grid_sample(y[i], grid, padding_mode="border", align_corners=False) for y in (pictures, masks))
    x = (x * (1 + args.brightness * between(1, 1, 1))).clamp(0, 1)
    with torch.no_grad():
        z, z_roi = (torch.cat([pipe.encode(part) for part in y.split(8)]) for y in (x, .5 + m * (x - .5)))     # grey outside
    return z, z_roi, in_latents(pipe, m)


def in_latents(pipe, masks):
    """(B, 1, H, W) -> (B, 1, h, w): the share of each latent's pixels that is inside."""
    return F.avg_pool2d(masks.to(pipe.device), pipe.factor)


def learn(pipe, pictures, masks, thing, args):
    """Learns TOKEN and weights of pipe's UNet, in place, from pictures (n, 3, H, W) and masks (n, 1, H, W). Returns a Delta.

    thing: words for the object.   args.con, att, roi: weights of the three losses.
    """
    generator = torch.Generator().manual_seed(args.seed)
    z, z_roi, M = views(pipe, pictures, masks, args, generator)
    learned = tokens.add(pipe, TOKEN, start_row(pipe))
    prompts, trained = [says(pipe, "source", thing), says(pipe, "roi", thing)], trainable(pipe.unet, args.train)
    place = place_of(pipe, prompts[0])
    optimizer = torch.optim.AdamW([{"params": [*trained.values()], "lr": args.lr}, {"params": [learned.rows], "lr": args.token_lr}], weight_decay=0)
    slower = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 - 2 * step / args.steps))
    with progress(args.steps, f"learning {TOKEN}") as bar:
        for step in bar:
            i = torch.randint(len(z), (args.batch,), generator=generator).to(z.device)
            text = pipe.encode_prompts(prompts).context.repeat_interleave(args.batch, 0)
            (e, e_roi), eps, maps = denoised(pipe, [z[i], z_roi[i]], text, generator)
            CA = attention_of({name: m[:args.batch] for name, m in maps.items()}, place, z.shape[-2:])
            l_con, l_att, l_RoI = context_loss(e, eps, M[i]).mean(), attention_loss(CA, M[i]).mean(), roi_loss(e_roi, eps, M[i]).mean()
            l_tot = args.con * l_con + args.att * l_att + args.roi * l_RoI                              # Eq. (5)
            update(optimizer, l_tot, step, bar, lower="--lr or --token-lr")
            slower.step()
    args.done = bar.n                                           # fewer than asked for after Ctrl-C
    pipe.unet.requires_grad_(False)
    tokens.freeze(pipe)
    weights = {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in trained.items()}
    return Delta(weights, {TOKEN: learned.rows.detach().cpu().clone()}, {TOKEN: thing})


def denoised(pipe, latents, text, generator):
    """Predicted noises of several latents (B, C, h, w) at one t and noise, that noise, and the attention maps of all, in one pass."""
    t = torch.randint(pipe.schedule.T, (len(latents[0]),), generator=generator).to(pipe.device)
    eps = torch.randn(latents[0].shape, generator=generator).to(pipe.device)
    n = len(latents)
    x_t, t = pipe.schedule.add_noise(torch.cat(latents), eps.repeat(n, 1, 1, 1), t.repeat(n)), t.repeat(n)
    with recorded(pipe.unet) as maps, devices.autocast(pipe.device):
        prediction = pipe.unet(x_t, t, text).float()
    return pipe.schedule.to_eps(prediction, x_t, t).chunk(n), eps, maps


def start_row(pipe):
    """Where v* starts: the row of "ktn", or of a letter that no caption of toybox contains."""
    vocab = pipe.tokenizer.vocab
    rare = next((vocab[symbol] for symbol in ("ktn", "q</w>", "z</w>") if symbol in vocab), None)
    if rare is None:
        raise ValueError("the tokenizer of this model has neither ktn nor q nor z, at which the new word could start")
    return tokens.table_of(pipe.text_encoder)[rare].detach()


def says(pipe, what, thing, word=TOKEN):
    templates = SAYS if len(pipe.tokenizer.encode("style")) == 1 else TOYBOX_SAYS
    return templates[what].format(object=thing, word=word)


def place_of(pipe, prompt, word=TOKEN):
    """Which token of the prompt the word is."""
    ids = pipe.tokenizer([prompt])[0].tolist()
    if pipe.tokenizer.added[word] not in ids:
        raise ValueError(f"the prompt {prompt!r} is too long: {word} is cut off; use fewer words for the object")
    return ids.index(pipe.tokenizer.added[word])


# ------------------------------------------------------------------------------------------------ Sec. 3.2: transfer

def blend(x, known, M):
    """Inside the mask x, outside what is known at the same noise level.   (B, C, h, w), (B, C, h, w), (B, 1, h, w)"""
    return M * x + (1 - M) * known                                                                      # Eq. (6)


def guidance_loss(CA, M, pull="mask"):
    """Distance of the word's map from the target mask (or from 1), mean over layers and pixels, for each picture: (B,)."""
    return (CA - (M if pull == "mask" else 1)).square().mean((1, 2, 3))


def guide_attention(x, gradient, M, eta):
    """x'' = x' - eta g, with the gradient g of `guidance_loss` at x', of root mean square 1, inside the mask. (B, C, h, w)"""
    size = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    return x - eta * M * gradient / (size + 1e-8)                                                       # Eq. (7)


def transfer(pipe, z, M, things, args, seeds):
    """Pictures (B, 3, H, W): targets with the concept inside the mask.

    Args:
        z, M: latents of the targets, and where the concept shall be, (B, C, h, w) and (B, 1, h, w).
        things: words for each target's object.
        args: start, sampling, guidance, eta, pull, no_blending, free: see --help.
        seeds: a number, or one for each picture.
    """
    prompts = [says(pipe, "source", thing) for thing in things]
    with torch.no_grad():
        condition, empty = pipe.encode_prompts(prompts), pipe.encode_prompts([""])
        predict, places = pipe.predictor(condition, empty, args.guidance), torch.tensor([place_of(pipe, p) for p in prompts])
        kv = pipe.unet.text_kv(condition.context)
    draws = generators(seeds, len(z))
    known = lambda t: pipe.schedule.add_noise(z, noise(z.shape, draws, z.device), t) if t >= 0 else z
    steps, n = steps_of(pipe.schedule, args.sampling, "ddim"), args.sampling
    x = known(steps[args.start][0]) if args.start < n else z
    for i, (t, t_prev) in list(enumerate(steps))[args.start:]:
        if not args.no_blending and i < n - args.free:
            x = blend(x, known(t), M)
        if args.eta and i < GUIDED * n:
            x = guide_attention(x, attention_gradient(pipe, x, t, kv, places, M, args.pull), M, args.eta)
        with torch.no_grad():
            x = ddim_step(pipe.schedule, predict(x, t), x, t, t_prev, 1.0, noise(z.shape, draws, z.device))
    x = blend(x, z, M) if not args.no_blending and not args.free else x
    with torch.no_grad():
        return pipe.decode(x)


GUIDED = 0.6                                                    # share of the steps, from the noisy end; their code


def attention_gradient(pipe, x, t, kv, places, M, pull):
    """Gradient of `guidance_loss` with respect to the latents, (B, C, h, w); of the prompt's half of guidance alone."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad(), recorded(pipe.unet) as maps:
        pipe.unet(x, t, kv)
        CA = attention_of(maps, places, x.shape[-2:])
        return torch.autograd.grad(guidance_loss(CA, M, pull).sum(), x)[0]


# ------------------------------------------------------------------------------------------------ Sec. 3.3: where the concept is, or would be

def learn_region(pipe, picture, mask, thing, args):
    """Learns REGION, a word that looks where the mask is: it starts at v*, and only it is trained, by l_att alone."""
    generator = torch.Generator().manual_seed(args.seed + 1)
    z, _, M = views(pipe, picture, mask, args, generator)
    learned = tokens.add(pipe, REGION, tokens.table_of(pipe.text_encoder)[pipe.tokenizer.added[TOKEN]].detach())
    pipe.unet.requires_grad_(False)
    prompt = says(pipe, "region", thing, REGION)
    place, optimizer = place_of(pipe, prompt, REGION), torch.optim.AdamW([learned.rows], args.token_lr, weight_decay=0)
    with progress(args.region_steps, f"learning {REGION}") as bar:
        for step in bar:
            i = torch.randint(len(z), (args.batch,), generator=generator).to(z.device)
            _, _, maps = denoised(pipe, [z[i]], pipe.encode_prompts([prompt]).context.repeat(args.batch, 1, 1), generator)
            update(optimizer, attention_loss(attention_of(maps, place, z.shape[-2:]), M[i]).mean(), step, bar, lower="--token-lr")
    tokens.freeze(pipe)


@torch.no_grad()
def where(pipe, z, prompt, word, seed, n=10):
    """Where a word looks in given pictures, noised again to n levels: maps (B, 1, h, w) from 0 to 1.   z (B, C, h, w): latents."""
    kv, total = pipe.unet.text_kv(pipe.encode_prompts([prompt]).context), 0
    for k, t in enumerate(torch.linspace(.2, .8, n) * (pipe.schedule.T - 1)):
        x_t = pipe.schedule.add_noise(z, noise(z.shape, seed + 1000 * k, z.device), int(t))
        with recorded(pipe.unet) as maps:
            pipe.unet(x_t, int(t), kv[[0] * len(z)])
        total = total + attention_of(maps, place_of(pipe, prompt, word), z.shape[-2:]).mean(1, keepdim=True)
    return stretched(total)


def cut(maps, size, level=0.4):
    """Masks (B, 1, H, W), 0 or 1, of maps (B, 1, h, w) from 0 to 1: where a map, enlarged, is above the level."""
    return (F.interpolate(maps, size, mode="bilinear") > level).float()


def shared_masks(pipe, pictures, thing, args):
    """Masks (n, 1, H, W) of what several pictures have in common, learned on a model that is to be thrown away."""
    plain = argparse.Namespace(**vars(args) | {"con": 1.0, "att": 0.0, "roi": 0.0})
    learn(pipe, pictures, torch.ones_like(pictures[:, :1]), thing, plain)
    with torch.no_grad():
        z = pipe.encode(pictures)
    return cut(where(pipe, z, says(pipe, "source", thing), TOKEN, args.seed), pictures.shape[-2:]).cpu()


# ------------------------------------------------------------------------------------------------ Sec. 4.1: generation

@torch.no_grad()
def put(unet, weights):
    """Puts weights {name: W} into the UNet. Returns those that were there."""
    own = unet.state_dict()
    before = {name: own[name].clone() for name in weights}
    for name, w in weights.items():
        own[name].copy_(w)
    return before


@torch.no_grad()
def generate(pipe, W_0, thing, seeds, args):
    """New objects with the concept: first the untouched model, of weights W_0, and no word of the concept; then the one that knows it."""
    seeds = generators(seeds, len(seeds))
    x_T = noise((len(seeds), pipe.unet.config["in_channels"], pipe.sample_size, pipe.sample_size), seeds, pipe.device)
    plain, with_concept, empty = pipe.encode_prompts([says(pipe, "plain", thing), says(pipe, "new", thing), ""])
    predict = lambda c: pipe.predictor(c.repeat(len(seeds)), empty, args.guidance)
    draw = lambda c, x, **part: sample(predict(c), pipe.schedule, x, args.sampling, eta=pipe.schedule.eta, generator=seeds, **part)
    W = put(pipe.unet, W_0)
    x = draw(plain, x_T, stop=args.plain)
    put(pipe.unet, W)
    return pipe.decode(draw(with_concept, x, start=args.plain))


# ------------------------------------------------------------------------------------------------ pictures and masks

def masked(path, mask, size):
    """A picture (1, 3, size, size) and its mask (1, 1, size, size), from files."""
    return [x[None] for x in images.load_masked(path, mask, size)]


def given(pipe, args):
    """Pictures, masks, and words for the object: of --source, of --sources, or of toybox, where an ornament is on a mug."""
    size = pipe.sample_size * pipe.factor
    if args.source:
        return *masked(args.source, args.source_mask, size), args.object
    if args.sources:
        pictures = images.load_folder(args.sources, size)
        return pictures, shared_masks(load(args), pictures, args.object, args), args.object
    drawn = ornaments.carriers("mug", 1, 10 + args.seed, args.ornament, size=size)
    return drawn.images, ornaments.around(ornaments.part_masks(drawn, "ornament")), ornaments.things(drawn)[0]


# ------------------------------------------------------------------------------------------------ command line

def load(args):
    """The model; fills in --train, which depends on it."""
    pipe = minidiff.load(args.model, args.device)
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError(f"{args.model} is a {type(pipe).__name__}, which learns no concept here; use a Stable Diffusion 1 or 2, or toybox")
    args.train = args.train or ("all" if pipe.sample_size == 16 else "crossattn")
    pipe.unet.to(memory_format=torch.channels_last)             # a sixth less time on a CPU
    return pipe


def train(pipe, args):
    """Learns what the options say, and writes it. Returns pictures, masks, the object's words, W_0 and metrics."""
    began = time.monotonic()
    pictures, masks, thing = given(pipe, args)
    W_0 = {name: p.detach().clone() for name, p in trainable(pipe.unet, args.train).items()}
    delta = learn(pipe, pictures, masks, thing, args)
    metrics = {"steps": args.done, "learning_seconds": time.monotonic() - began, "device": str(pipe.device)}
    deltas.save(args.out, delta, metrics)
    for i, (picture, mask) in enumerate(zip(pictures, masks)):              # the region is learned from the first, also later
        images.save(args.out / f"source_{i}.png", picture)
        images.save(args.out / f"source_{i}_mask.png", mask.repeat(3, 1, 1))
    return pictures, masks, thing, W_0, metrics


def take(pipe, args):
    """What `train` returns, but of the folder --learned; without it, `train`."""
    if not args.learned:
        return train(pipe, args)
    delta = deltas.read(args.learned, pipe.unet)
    if list(delta.rows) != [TOKEN]:
        raise ValueError(f"{args.learned} has learned {', '.join(delta.rows) or 'no word'}, expected {TOKEN}, as this file's train writes it")
    W_0 = {name: w.clone() for name, w in pipe.unet.state_dict().items() if name in delta.weights}
    delta.apply(pipe)
    source = args.learned / "source_0.png", args.learned / "source_0_mask.png"
    thing = delta.classes.get(TOKEN) or args.object
    if not thing:
        raise ValueError(f"{args.learned} does not say of what object it was learned; give --object")
    return *masked(*source, pipe.sample_size * pipe.factor), thing, W_0, {}


def found_masks(pipe, z, things, args):
    """Where in the targets the concept would be, (B, 1, H, W), once REGION has been learned."""
    maps = [where(pipe, z[[i]], says(pipe, "region", thing, REGION), REGION, args.seed) for i, thing in enumerate(things)]
    return cut(torch.cat(maps), [side * pipe.factor for side in z.shape[-2:]]).cpu()


def transferred(pipe, pictures, masks, things, args):
    """Targets (n, 3, H, W) with the concept in the masks (n, 1, H, W), on the CPU."""
    with torch.no_grad():
        z = pipe.encode(pictures)
    return transfer(pipe, z, in_latents(pipe, masks), things, args, args.seed + 100).cpu()


def demonstrate(args):
    """Learns an ornament from one mug, and puts it on other mugs, vases and pots: in given masks, in found ones, and on new objects."""
    began = time.monotonic()
    pipe = load(args)
    if pipe.sample_size != 16 or args.source or args.sources:
        raise ValueError("the demonstration learns an --ornament of toybox, with a toybox model; use the verbs train, transfer and generate for others")
    picture, mask, thing, W_0, metrics = train(pipe, args)
    targets = ornaments.targets(args.ornament, 20 + args.seed)
    into_given = transferred(pipe, targets.images, targets.masks, targets.things, args)
    with torch.no_grad():
        z, looks = pipe.encode(targets.images), where(pipe, pipe.encode(picture), says(pipe, "source", thing), TOKEN, args.seed)
    learn_region(pipe, picture, mask, thing, args)
    found = found_masks(pipe, z, targets.things, args)
    into_found = transferred(pipe, targets.images, found, targets.things, args)
    new = [generate(pipe, W_0, member, range(args.seed, args.seed + 2), args).cpu() for member in ornaments.MEMBERS]
    looks = F.interpolate(looks, picture.shape[-2:], mode="bilinear").cpu()
    gray, rest = lambda m: m.repeat(1, 3, 1, 1), torch.ones(len(targets.images) - 3, *picture.shape[1:])
    rows = {"source, its mask, where v* looks": torch.cat([picture, gray(mask), gray(looks), rest]), "targets": targets.images,
            "masks": gray(targets.masks), "with v*": into_given, "found masks": gray(found), "with v* there": into_found, "new objects": torch.cat(new)}
    images.save_figure(args.out / "figure.png", torch.stack([*rows.values()]), list(rows), targets.members,
                       f"a {args.ornament}, learned from one mug")
    metrics |= targets.measure(into_given) | targets.same_and_other("mask_iou", overlap(found, targets.masks))
    metrics["seconds"] = time.monotonic() - began
    write_json(args.out / "metrics.json", metrics)
    table = [{"": name, **{kind: metrics[f"{key}_{kind}"] for kind in ("same", "other")}} for name, key in
             (("overlap with the ornament", "score"), ("recognised", "recognised"), ("PSNR outside", "psnr_outside"), ("IoU of found masks", "mask_iou"))]
    print(markdown(table, {"": "", "same": "same class", "other": "other classes"}) + f"{metrics['steps']} steps, {metrics['seconds']:.0f} s")
    print(f"written to {args.out}: figure.png, delta.safetensors, new1.safetensors, metrics.json")


def train_command(args):
    *_, metrics = train(load(args), args)
    print(f"{metrics['steps']} steps, {metrics['learning_seconds']:.0f} s; written to {args.out}: delta.safetensors, source_0.png, source_0_mask.png")


def transfer_command(args):
    pipe = load(args)
    size = pipe.sample_size * pipe.factor
    target, mask = masked(args.target, args.target_mask, size) if args.target_mask else (images.load(args.target, size)[None], None)
    picture, source_mask, thing, _, _ = take(pipe, args)
    things = [args.target_object or args.object or thing] * args.n
    if mask is None:
        learn_region(pipe, picture[:1], source_mask[:1], thing, args)
        with torch.no_grad():
            mask = found_masks(pipe, pipe.encode(target), things[:1], args)
    made = transferred(pipe, target.repeat(args.n, 1, 1, 1), mask.repeat(args.n, 1, 1, 1), things, args)
    for i, one in enumerate(made):
        images.save(args.out / f"transfer_{i}.png", one)
    shown = [picture[:1], source_mask[:1].repeat(1, 3, 1, 1), target, mask.repeat(1, 3, 1, 1), made]
    labels = ["source", "its mask", "target", "its mask", *(f"seed {args.seed + 100 + i}" for i in range(args.n))]
    images.save_figure(args.out / "figure.png", torch.cat(shown)[None], None, labels, scale=2 if size < 128 else 1)
    print(f"PSNR outside the mask: {psnr(made, target, 1 - mask).mean():.1f} dB; written to {args.out}: figure.png, transfer_0.png ...")


def generate_command(args):
    pipe = load(args)
    _, _, thing, W_0, _ = take(pipe, args)
    thing = args.target_object or args.object or thing
    made = generate(pipe, W_0, thing, range(args.seed, args.seed + args.n), args)
    images.save_samples(args.out, made.cpu(), [says(pipe, "new", thing)])
    print(f"written to {args.out}: samples.safetensors, samples.png, {args.n} pictures")


def evaluate(args):
    from tables import clic as tables                           # long, and no part of the method
    tables.run(args)


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/clic"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training and of the first picture")
    add("--source", help="the picture to learn from; its middle square is taken")
    add("--source-mask", help="where the concept is in it: a picture of the same size, white inside")
    add("--sources", metavar="DIR", help="in place of both: pictures that share the concept; its masks are found")
    add("--object", help="words for what the source shows, such as red mug (toybox's own: a mug)")
    add("--ornament", default="heart", choices=ornaments.ORNAMENTS, help="without a source: the one on a mug of toybox")
    add("--steps", type=int, default=None, help="optimiser steps (default: 500, the paper's; of the demonstration 170)")
    add("--batch", type=int, default=4, help="noises in a step (code: 1)")
    add("--lr", type=float, default=3e-4, help="learning rate of the weights (paper: 1e-5; on toybox, with --train kv or crossattn: 1e-3)")
    add("--token-lr", type=float, default=5e-3, help="learning rate of the words (paper: 1e-5)")
    add("--train", choices=list(TRAINED), help="which weights (default: all on toybox, else crossattn; paper: crossattn)")
    for name, loss, paper in (("con", "l_con", "1"), ("att", "l_att", "0.5"), ("roi", "l_RoI", "0.5")):
        add(f"--{name}", type=float, default=float(paper), help=f"weight of {loss} (paper: {paper})")
    add("--brightness", type=float, default=.2, help="how far the brightness of the source varies (code: 0.5)")
    add("--shift", type=float, default=.3, help="how far the source is moved about, in half widths of the picture (paper: 0)")
    add("--zoom", type=float, default=.2, help="by how much, as a logarithm, it gets larger or smaller (paper: 0)")
    add("--no-augmentation", action="store_true", help="the source as it is: not mirrored, moved, zoomed, brighter or darker")
    add("--region-steps", type=int, default=60, help="steps of learning where a target's region is (paper: 500)")
    add("--sampling", type=int, default=25, help="DDIM steps of a picture, those left out included (paper: 50)")
    add("--guidance", type=float, default=2.0, help="classifier-free guidance (code: 7.5)")
    add("--start", type=int, default=3, help="t_start: steps of a transfer that are left out; more keep more of the target (paper: 5 to 15 of 50)")
    add("--eta", type=float, default=.06, help="strength of the cross-attention guidance; 0: none (paper: not given)")
    add("--pull", choices=("mask", "ones"), default="mask", help="where guidance pulls the maps (paper: mask; code: ones)")
    add("--no-blending", action="store_true", help="let the picture change outside the mask as well")
    add("--free", type=int, default=0, help="last steps without blending, which hide the seam and change what is outside (code: 4 of 50)")
    add("--plain", type=int, default=3, help="t_s: first steps of a new object, by the untouched model (paper: 5 of 50)")
    add("--n", type=int, default=4, help="pictures of a transfer or of new objects, one seed each")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    verbs = parser.add_subparsers(dest="verb")
    new = lambda name, text: verbs.add_parser(name, help=text, description=text, parents=[common], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new("train", "learn a concept")
    move, make = new("transfer", "put the concept on the object of a given picture"), new("generate", "new objects with the concept")
    for verb in (move, make):
        verb.add_argument("--learned", type=Path, metavar="DIR", help="folder that train wrote (default: learn from --source first)")
        verb.add_argument("--target-object", help="words for what is to get the concept (default: --object, or what was learned from)")
    move.add_argument("--target", required=True, help="the picture that is to get the concept; its middle square is taken")
    move.add_argument("--target-mask", help="where: a picture of the same size, white inside (default: it is found)")
    table = new("eval", "the paper's tables, on toybox")
    table.add_argument("--table", default="all", help="all, or one of transfer, ablation, guidance, start, masks, generation, rank")
    table.add_argument("--repeats", type=int, default=3, help="training seeds")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded."""
    args.steps = (500 if args.verb else 170) if args.steps is None else args.steps
    for name in ("steps", "batch", "sampling", "region_steps", "n", "repeats"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    for name in ("start", "free", "plain"):
        if not 0 <= getattr(args, name) <= args.sampling:
            parser.error(f"--{name} is {getattr(args, name)}, expected 0 to {args.sampling}, the steps of --sampling")
    if not (0 <= args.shift <= 1 and 0 <= args.zoom <= 1):
        parser.error(f"--shift {args.shift} --zoom {args.zoom}: expected 0 to 1 each")
    if min(args.lr, args.token_lr) <= 0 or not 0 <= args.brightness < 1:
        parser.error("--lr and --token-lr must be above 0, --brightness at least 0 and below 1")
    if min(args.con, args.att, args.roi) < 0 or not args.con + args.att + args.roi > 0:
        parser.error(f"--con {args.con:g} --att {args.att:g} --roi {args.roi:g}: expected weights of at least 0, and one above it")
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}, expected at least 0")
    if not 0 <= args.eta <= 1:
        parser.error(f"--eta is {args.eta}, expected 0 to 1: latents have values of about 1")
    if bool(args.source) != bool(args.source_mask) or (args.source and args.sources):
        parser.error("give --source and --source-mask, or --sources, whose masks are found")
    if args.verb and (args.source or args.sources) and not args.object:
        parser.error("--object must say what the pictures show, in words that the model reads, such as mug")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "transfer": transfer_command, "generate": generate_command,
             "eval": evaluate}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
