"""Composer. Huang, Chen, Liu, Shen, Zhao, Zhou, "Composer: Creative and Controllable Image Synthesis with Composable Conditions",
ICML 2023, arXiv:2302.09778v2.

A picture is taken apart into eight representations, and one diffusion model learns to make it again from any of them. Afterwards they
may come from different pictures: the depth of one, the colours of another, a caption. No code and no weights were ever published.

    paper        code             meaning                                                            shape
    -----------  ---------------  -----------------------------------------------------------------  -----------------
    x_0          x                picture, in [0, 1]                                                 (B, 3, 64, 64)
    -            z                its latents, on which the model works                              (B, 8, 16, 16)
    x_t, eps, t  z_t, eps, t      noisy latents, the noise in them, timesteps                        (B, 8, 16, 16), (B,)
    c            c                {name: tensor}: conditions; a name that is not there is absent
    caption      sentence, words  CLIP's embedding of the caption, states of the text encoder        (B, E), (B, L, D)
    embedding    embedding        CLIP's embedding of the picture: semantics and style               (B, E)
    color        palette          share of the pixels near each of 156 colours (minidiff/color.py)   (B, 156)
    sketch       sketch           lines, 1 on 0 (minidiff/decomposition.py)                          (B, 1, 64, 64)
    instances    instances        a plane for each class of things, and one for boundaries           (B, 9, 64, 64)
    depth        depth            1 near to 0 far                                                    (B, 1, 64, 64)
    intensity    intensity        the picture in grey                                                (B, 1, 64, 64)
    masking      masking          the picture around a hole, and where it is known                   (B, 4, 64, 64)
    eps_theta    composer         predicts the noise, told c                                         (B, 8, 16, 16)
    c_1, c_2, w  c_1, c_2, w      Eq. (3): what only c_2 has is emphasised by w, what only c_1 has is suppressed

What is known, and from where
  * Published: the eight representations; 11 hues, 5 saturations, 5 lights, smoothing 10; global conditions are projected and added to
    the time, and there are eight tokens beside the words; local ones go through convolutions, are summed and joined to x_t; the rates
    of dropping; two stages of training, the first one told the image embedding only; guidance between two sets; inversion; the uses.
  * From the same laboratory's VideoComposer, which is evidence and not proof: 156 colours, sigma in units of Lab; two layers in each
    projection; the shape of the stems, their 8 channels; bright lines; known = 1 - hole; strokes 70 %, rectangles 20 %, halves 10 %.
  * Ours, where nothing is published: four tokens of the embedding and four of the palette; embeddings are brought to one length, of
    palettes the square root is told; absent tokens are 0; dropping acts on what a projection or stem puts out, once per picture and
    condition; the kinds of grey; planes for instances (photos: colours of your own); what a stage adds starts as zeros, so that it
    begins where the one before ended; stage 1 drops one embedding in ten; pictures are inverted without guidance; learning rate, averaging.
Differs from the paper
  * It begins as the text-to-image model beside it, and of that UNet learns low-rank changes only (paper: all weights, from nothing;
    --rank 0 learns all). Text is read as that model reads it, by cross-attention (paper: as GLIDE, together with positions).
  * It works on latents of an autoencoder (paper: 64 pixels), with 7.4 M parameters, of which 1.3 M are its own (paper: 2 B), and with
    Min-SNR weights (Hang et al. 2023) on Eq. (1); --gamma 0 for none.
  * Depth and instances are read by a network that was trained on toybox, sketches are drawn by an edge detector, and smoothing keeps
    the sum of a palette at 1, and its smallest shares (VideoComposer: below 1e-5 they become 0).
  * Stems are 16 channels wide inside (VideoComposer: 32), projections 128 (VideoComposer: four times the UNet's first channels).
  * A translation is told caption, embedding, sketch and depth (paper: all representations). The palette is told in a pose transfer and
    a try-on too (paper: instances and embedding; masking and embedding).
  * The upsamplers are those of papers/upsampler.py (--size 256), and the optional prior is that of papers/unclip.py (--prior), which
    takes 25 steps with guidance 2 (paper: 100 and 3; --prior-steps, --prior-guidance).
Not here: networks for depth and instances of photos. Make maps with one of those that are public, before training and before use:
what lies beside a photo is read, see minidiff/photos.py.

Cost    Training takes 2.5 GFLOP a sample in stage 1 and 2.7 in stage 2: on one core 19 samples per second of CPU time, in float32.
        Before that, decomposing takes a core 10 ms a picture and 12 KB on the disk. The weights are 2.5 MB.

Run     python papers/composer.py                                     one row of pictures for each use, from the shipped weights
        python papers/composer.py compose --depth a.png --palette b.png --embedding c.png --caption "a red cat"
        python papers/composer.py use style-transfer a.png b.png      one of the uses, on pictures of yours: see `use --help`
        python papers/composer.py decompose --images a.png b.png      what a picture is taken apart into
        python papers/composer.py sample --caption "a red cat" --prior
        python papers/composer.py eval                                what each condition does, editing, captions: papers/tables/composer.py
        python papers/composer.py train embedding                     stage 1, on toybox; then `train all`, stage 2
        python papers/composer.py train all --images DIR              on photos with captions beside them: cat.jpg, cat.txt
        torchrun --nproc_per_node 8 papers/composer.py train all --accumulate 2      on several GPUs
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from minidiff import command, devices, images, lora, photos, toybox
from minidiff.checkpoints import bring, find, from_folder, load_strict, read_config, read_folder, save_folder, write_json
from minidiff.color import COLORS, painted
from minidiff.decomposer import Decomposer, agreement, of_store, with_hole
from minidiff.pipeline import half_on_gpu
from minidiff.precomputed import embeddings_of_pictures, latents_of_pictures
from minidiff.prior import Prior, sample_embedding
from minidiff.samplers import ddim_invert, generators, noise, sample
from minidiff.schedule import Schedule
from minidiff.toybox.canvas import PART_ID
from minidiff.toybox.maps import PLANES
from minidiff.toybox.store import kind_shares, prepare
from minidiff.training import Run, count, main_process_first
from minidiff.unet import UNet
from minidiff.upsampler import cascade, upsample
from minidiff.vae import VAE

GLOBALS, LOCALS = ("caption", "embedding", "palette"), ("sketch", "instances", "depth", "intensity", "masking")
NAMES = GLOBALS + LOCALS
TOKENS = 4                                        # of the embedding, and of the palette: eight in all
ALL, DROP = .1, dict.fromkeys(NAMES, .5) | {"intensity": .7}
RULES = {"paper": (ALL, .1, DROP), "each": (0, 0, DROP), "never": (0, 1, DROP),      # shares that lose all, that lose none; the others' rates
         "intensity": (ALL, .1, DROP | {"intensity": .5})}
SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False, eta=1.0)


# ------------------------------------------------------------------------------------------------ the model

class Stem(nn.Module):
    """A local condition (B, c, H, W) -> its part of the map that is joined to the latents, (B, C, h, w). Zeros at first."""

    def __init__(self, channels, hidden, out):
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1)
        self.last = zeroed(nn.Conv2d(hidden, out, 3, stride=2, padding=1))

    def forward(self, x, size):
        x = F.adaptive_avg_pool2d(F.silu(self.first(x)), 4 * size)
        return self.last(F.silu(self.second(x)))


def projection(before, hidden, after):
    return nn.Sequential(nn.Linear(before, hidden), nn.SiLU(), nn.Linear(hidden, after))


def zeroed(layer):
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Composer(nn.Module):
    """eps_theta: a text-to-image UNet, told more. composer(z_t, t, composer.told(c, z_t)) -> (B, C, h, w)

    Args:
        unet: config of the UNet that it begins with.
        embedding_dim, text_length: E and L of what reads texts.
        local: {name: channels} of the local conditions.
        rank: of the changes to the UNet's weights (minidiff/lora.py); 0: its weights themselves are learned.
        hidden, stem, shared: channels within the projections, within the stems, and of the map that these make together.
    """

    def __init__(self, unet, embedding_dim, text_length, local, rank=16, hidden=128, stem=16, shared=8, **more):
        super().__init__()
        self.config = {"_class_name": "Composer", "unet": dict(unet), "embedding_dim": embedding_dim, "text_length": text_length,
                       "local": dict(local), "rank": rank, "hidden": hidden, "stem": stem, "shared": shared, **more}
        width, context = 4 * unet["block_out_channels"][0], unet["cross_attention_dim"]
        self.unet = UNet.from_config({**unet, "in_channels": unet["in_channels"] + shared})
        self.lora = lora.attach(self.unet, rank, alpha=rank, where=lambda name: name != "conv_in") if rank else None
        self.unet.conv_in.requires_grad_(True)
        dims = {"sentence": embedding_dim, "embedding": embedding_dim, "palette": COLORS}
        self.to_time = nn.ModuleDict({name: projection(n, hidden, width) for name, n in dims.items()})
        self.to_tokens = nn.ModuleDict({name: projection(dims[name], hidden, TOKENS * context) for name in ("embedding", "palette")})
        self.stems = nn.ModuleDict({name: Stem(n, stem, shared) for name, n in local.items()})
        for new in (*self.to_time.values(), *self.to_tokens.values()):
            zeroed(new[-1])

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None):
        """folder: composer/, beside the unet/ that it began with."""
        make = lambda config: cls(**{k: v for k, v in config.items() if k != "_class_name"})
        return from_folder(make, folder, device, dtype, fix=lambda own: of_unet(Path(folder).parent / "unet", 0) | own)

    def own(self):
        """Names of the weights that it has learned; the others are those of the UNet that it began with."""
        return {k for k in self.state_dict() if not (self.config["rank"] and k.startswith("unet.")) or k.startswith("unet.conv_in.")}

    def of_stage_1(self):
        """The parts that stage 1 trains."""
        return [self.lora or self.unet, self.to_time["embedding"], self.to_tokens["embedding"]]

    def told(self, c, like, keep=None):
        """What the conditions become: the local map (B, shared, h, w), and keys and values with what is added to the time.

        like: latents (B, C, h, w).   keep: {name: (B,)}, 0 for pictures that are not told this condition; None: all are.
        What is absent adds nothing: not even the biases of its projection or stem.
        """
        width = self.unet.config["cross_attention_dim"]
        context = [like.new_zeros(len(like), n, width) for n in (self.config["text_length"], TOKENS, TOKENS)]
        vector = like.new_zeros(len(like), self.unet.time_embedding.linear_2.out_features)
        local = like.new_zeros(len(like), self.config["shared"], *like.shape[-2:])
        use = lambda name, x: x if keep is None else x * keep[name].to(x).reshape(-1, *[1] * (x.ndim - 1))
        if "words" in c:
            context[0] = use("caption", c["words"])
        for i, (name, project) in enumerate(self.to_tokens.items(), 1):
            if name in c:
                context[i] = use(name, project(scaled(name, c[name])).unflatten(1, (TOKENS, -1)))
        for name, project in self.to_time.items():
            if name in c:
                vector = vector + use(condition_of(name), project(scaled(name, c[name])))
        for name, stem in self.stems.items():
            if name in c:
                local = local + use(name, stem(c[name], like.shape[-1]))
        kv = self.unet.text_kv(torch.cat(context, dim=1))                       # (B, L + 8, D)
        kv.vector = vector
        return local, kv

    def forward(self, z_t, t, told):
        local, kv = told
        return self.unet(torch.cat([z_t, local], dim=1), t, kv)


def of_unet(folder, shared):
    """The weights in `folder` by the names that they have in a Composer; conv_in also reads `shared` channels beside the latents.

    Those weights are random: the stems, which make these channels, end in zeros, and were both zero, neither would ever learn.
    """
    tensors = {f"unet.{k}": v.float() for k, v in read_folder(folder).items()}
    own = tensors["unet.conv_in.weight"]
    new = torch.empty(len(own), shared, *own.shape[2:]).uniform_(-1, 1) / own[0].numel() ** .5
    return tensors | {"unet.conv_in.weight": torch.cat([own, new], dim=1)}


def condition_of(name):
    """Which of the eight a tensor belongs to: a caption is two of them."""
    return {"sentence": "caption", "words": "caption"}.get(name, name)


def scaled(name, x):
    """Numbers of about 1: embeddings of one length; of palettes, which are mostly nearly 0, the square root."""
    return (x * x.shape[1]).sqrt() if name == "palette" else F.normalize(x, dim=1) * x.shape[1] ** .5


def only(c, *names):
    """Some of the conditions."""
    return {k: v for k, v in c.items() if condition_of(k) in names}


def each(c, change):
    return {k: change(v) for k, v in c.items()}


# ------------------------------------------------------------------------------------------------ training

def diffusion_loss(eps_hat, eps, weight):
    """|| eps - eps_theta(alpha_t x_0 + sigma_t eps, c) ||^2 of each picture, a mean over its latents; averaged with weights (B,)."""
    return (weight * (eps_hat - eps).square().mean(dim=(1, 2, 3))).mean()                                 # Eq. (1)


def min_snr_weight(alpha_bar, gamma):
    """min(SNR, gamma) / SNR: less weight on nearly clean latents. Source: Hang et al. 2023, arXiv:2303.09556. gamma 0: weight 1."""
    snr = alpha_bar / (1 - alpha_bar)
    return (snr.clamp(max=gamma) / snr) if gamma else torch.ones_like(snr)


def drawn_subset(n, generator=None, device=None, rule="paper"):
    """{name: bool (n,)}: which conditions each picture keeps. All go with 0.1, all stay with 0.1, else each goes by itself.

    rule: for the ablation, "each" has only the last of the three, with "never" nothing goes, and with "intensity" it goes as often as others.
    """
    all_go, all_stay, rates = RULES[rule]
    u = torch.rand(n, generator=generator, device=device)
    rates = torch.tensor([rates[name] for name in NAMES], device=device)
    stays = torch.rand(n, len(NAMES), generator=generator, device=device) >= rates
    stays = (stays | (u < all_go + all_stay)[:, None]) & (u >= all_go)[:, None]
    return dict(zip(NAMES, stays.unbind(1)))


def train(args):
    """One of the two stages; writes args.out/composer_1 or, in stage 2, args.out/composer (another name: args.part)."""
    if args.steps is None and args.minutes is None:
        args.minutes = 60.0
    torch.manual_seed(args.seed)
    is_first, schedule = args.stage == "embedding", Schedule(**SCHEDULE)
    with main_process_first():
        store, latents, conditions, composer = prepared(args)
    start_from(composer, args)
    if is_first:
        composer.requires_grad_(False)
        for part in composer.of_stage_1():
            part.requires_grad_(True)
    composer.to(args.device, memory_format=torch.channels_last)
    folder = args.out / ("composer_1" if is_first else args.part)
    run = Run(folder, {"composer": composer}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch * args.accumulate,
              ema=args.ema, seed=args.seed, fresh=args.fresh, name=f"composer, {args.stage} {count(composer):.1f}M")
    alpha_bar = schedule.alpha_bar.to(run.device)

    def loss_of(generator):
        pick = lambda high: torch.randint(high, (args.batch,), generator=generator, device=run.device)
        index, t = pick(len(store)).cpu(), pick(schedule.T)
        z = latents(index).to(run.device, memory_format=torch.channels_last)
        eps = torch.randn(z.shape, generator=generator, device=run.device)
        c, has = conditions(index, generator)                                   # not every photo has a caption, or maps
        keep = {k: v & has.get(k, True) for k, v in drawn_subset(args.batch, generator, run.device, args.rule).items()}
        if is_first:
            keep = {"embedding": torch.rand(args.batch, generator=generator, device=run.device) >= ALL}
        with devices.autocast(run.device):
            eps_hat = composer(schedule.add_noise(z, eps, t), t, composer.told(c, z, keep)).float()
        return diffusion_loss(eps_hat, eps, min_snr_weight(alpha_bar[t], args.gamma))
    for step, generator in run:
        run.update(loss_of(g) for g in shares(generator, run.rank, args.accumulate))
    if run.rank == 0:
        save_folder(run.averaged("composer"), composer.config, folder, keys=composer.own())
        schedule.save_pretrained(folder)


def shares(generator, rank, accumulate):
    """Generators of the parts of a step: a batch is the same whether processes or `accumulate` split it."""
    first = generator.initial_seed() + rank * (accumulate - 1)                  # run's seeds of a step are rank apart
    return (torch.Generator(generator.device).manual_seed(first + i) for i in range(accumulate))


def prepared(args):
    """Pictures, their latents and conditions, functions of an index, all computed once; and a new composer for them."""
    for part in ["clip", "vae", "unet", "text_encoder", "tokenizer"] + (["maps"] if args.stage == "all" and not args.images else []):
        bring(part, args.out)
    if args.images:
        store = photos.prepare(args.out / "photos", args.images, args.size)
    else:
        store = prepare(args.out / ("store_of_kinds" if args.kinds else "store"), args.pictures, args.seed, kinds=args.kinds)
    decomposer, vae = Decomposer(args.out, args.device), VAE.from_pretrained(args.out / "vae", args.device, torch.float32)
    latents = latents_of_pictures(vae, store)
    if args.images:
        decomposer.reader = None
    if args.stage == "embedding":
        embeddings = embeddings_of_pictures(decomposer.clip, store)
        conditions = lambda index, generator: ({"embedding": embeddings[index].to(args.device)}, {})
    else:
        conditions = of_store(store, decomposer)
    local = {"sketch": 1, "instances": photos.MAPS["instances"] if args.images else PLANES, "depth": 1, "intensity": 1, "masking": 4}
    composer = Composer(read_config(args.out / "unet"), decomposer.clip.config["projection_dim"], decomposer.words_tokenizer.length, local,
                        args.rank, sample_size=latents(torch.arange(1)).shape[-1])
    load_strict(composer, composer.state_dict() | of_unet(args.out / "unet", composer.config["shared"]), args.out / "unet")
    return store, latents, conditions, composer


def start_from(composer, args):
    """Fill the new composer: stage 2 begins with what stage 1 learned, and both with what another model did if there is --init.

    With --init unet, both begin with the text-to-image UNet, and what is new is new.
    """
    if args.init == "unet":
        return
    place = find(args.init) / "composer" if args.init else args.out / "composer_1"
    if args.init or args.stage == "all":
        if not place.is_dir():
            raise ValueError(f"no {place}; run `train embedding` first, or give --init, a folder with a composer")
        load_strict(composer, composer.state_dict() | {k: v.float() for k, v in read_folder(place).items()}, place)


# ------------------------------------------------------------------------------------------------ sampling

def guided(e_1, e_2, w):
    """Noise predicted under the conditions c_1 and c_2: what both have counts once, what only c_2 has w times. Source: Eq. (3).

    With nothing in c_1, classifier-free guidance, Eq. (2).
    """
    return w * e_2 + (1 - w) * e_1                                                                        # Eq. (3)


class Model:
    """Composer with the frozen networks around it: decompose pictures, draw from conditions, invert."""

    def __init__(self, path, device, steps=30, w=3.0, part="composer"):
        self.folder = folder = find(path)
        if not (folder / part).is_dir():
            raise ValueError(f"{path} has no composer yet; train one (`train embedding`, then `train all`), and give its --out as --model")
        self.composer = Composer.from_pretrained(folder / part, device, torch.float32)
        self.schedule = Schedule.from_pretrained(folder / part)
        self.vae = VAE.from_pretrained(folder / "vae", device, torch.float32)
        self.decomposer = Decomposer(folder, device)
        self.device, self.steps, self.w = device, steps, w
        self.side = self.composer.config["sample_size"]
        self.size = self.side * 2 ** (len(self.vae.config["block_out_channels"]) - 1) * self.vae.config.get("patch_size", 1)
        c, d = self.composer.config, self.decomposer
        theirs = (d.clip.config["projection_dim"], d.words_tokenizer.length, self.vae.config["latent_channels"])
        ours = (c["embedding_dim"], c["text_length"], c["unet"]["in_channels"])
        if ours != theirs:
            raise ValueError(f"the parts of {path} are not of one model: the composer was trained with a CLIP, a tokenizer and a VAE of "
                             f"sizes {ours}, those beside it have {theirs}")
        if self.composer.lora:
            self.composer.lora.merge()                                          # costs nothing from here on
        if self.composer.config["local"]["instances"] != PLANES:                # trained on photos: their maps are not toybox's
            self.decomposer.reader = None
        self.beside = []                                                        # (picture, its maps) of all that `load` has read

    def load(self, path, needs=()):
        """The picture in a file, (1, 3, S, S). A model of photos is given the maps beside it when the picture is decomposed.

        needs: ValueError if one of these is among the maps that are not there.
        """
        x, maps = images.load(path, self.size)[None], {}
        if self.decomposer.reader is None:
            maps = {k: v[None].to(self.device) for k, v in photos.maps_beside(path, self.size).items()}
            absent = [name for name in photos.MAPS if name in needs and name not in maps]
            if absent:
                expected = Path(path).with_suffix(f".{absent[0]}.png")
                raise ValueError(f"no {' and no '.join(absent)} of {path}: expected {expected}, as this model was trained on photos")
        self.beside.append((x, maps))
        return x

    def decompose(self, x, **how):
        maps = next((maps for own, maps in self.beside if own is x), None)
        return self.decomposer(x, **{"maps": maps} | how)

    @torch.no_grad()
    def encode(self, x):
        return self.vae.encode(2 * x.to(self.device) - 1)[0] * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, z):
        return (self.vae.decode(z / self.vae.config["scaling_factor"]).float() / 2 + .5).clamp(0, 1).cpu()

    def noise(self, n, seed):
        return noise((n, self.composer.config["unet"]["in_channels"], self.side, self.side), seed, self.device)

    def predictor(self, c_2, c_1, w, like):
        """predict(z_t, t) for samplers, with guidance from c_1 to c_2. What the text becomes is computed here, once."""
        sets = [c_2] if w == 1 else [c_1, c_2]
        with torch.no_grad(), half_on_gpu(self.device):
            told = [self.composer.told(each(c, lambda v: v.to(self.device)), like) for c in sets]

        def predict(z_t, t):
            with half_on_gpu(self.device):
                e = [self.composer(z_t, t, conditions).float() for conditions in told]
            return e[0] if w == 1 else guided(*e, w)
        return predict

    def draw(self, c_2, c_1=None, n=1, w=None, seed=0, z_T=None):
        """n pictures of each row of c_2, with guidance away from c_1, by default nothing: (rows * n, 3, S, S), row by row.

        seed: of the first picture, the others count on; or one for each.   z_T: start from these latents, not from noise, and add none.
        """
        c_2, c_1 = (each(c, lambda v: v.repeat_interleave(n, dim=0)) for c in (c_2, c_1 or {}))
        rows = len(z_T) if z_T is not None else max([len(v) for v in c_2.values()], default=n)
        eta, draws = (self.schedule.eta, generators(seed, rows)) if z_T is None else (0.0, None)
        z_T = self.noise(rows, draws) if z_T is None else z_T
        predict = self.predictor(c_2, c_1, self.w if w is None else w, z_T)
        return self.decode(sample(predict, self.schedule, z_T, self.steps, eta=eta, generator=draws))

    def invert(self, x, c_1):
        """The z_T from which c_1 leads to the pictures x, without guidance: the first half of bidirectional guidance."""
        z = self.encode(x)
        return ddim_invert(self.predictor(c_1, {}, 1.0, z), self.schedule, z, self.steps, iterations=2)

    @torch.no_grad()
    def imagine(self, captions, seed=0, steps=25, guidance=2.0):
        """{"embedding"} of captions: CLIP embeddings of pictures that they may describe, drawn by the prior of papers/unclip.py."""
        if not (self.folder / "prior").is_dir():
            raise ValueError(f"{self.folder} has no prior; `python papers/unclip.py train prior --out FOLDER` trains one")
        prior, schedule = Prior.from_pretrained(self.folder / "prior", self.device, torch.float32), Schedule.from_pretrained(self.folder / "prior")
        d = self.decomposer
        ids = d.tokenizer([*captions, ""]).to(self.device)
        hidden, pooled = d.clip.text(ids)
        text = (pooled, hidden, d.clip.text.counts(ids))
        return {"embedding": sample_embedding(prior, schedule, [v[:-1] for v in text], [v[-1:] for v in text], steps, guidance, seed)}


# ------------------------------------------------------------------------------------------------ uses

def text_to_image(m, captions, n=3, seed=0, prior=False, **how):
    """Pictures of captions; with the prior, also told an embedding for each picture that it draws for its caption (how: see `imagine`)."""
    captions, seeds = [c for c in captions for _ in range(n)], seeds_of(captions, n, seed)
    c = m.decomposer.caption(captions) | (m.imagine(captions, seeds, **how) if prior else {})
    return m.draw(c, seed=seeds)


def seeds_of(rows, n, seed):
    """The same n seeds for each row."""
    return [seed + i for _ in rows for i in range(n)]


def variations(m, x, names=("embedding",), n=3, seed=0):
    """Other pictures with some of the representations of x; more names, nearer to it."""
    return m.draw(only(m.decompose(x), *names), n=n, seed=seed)


def interpolation(m, a, b, where, same=(), seed=0):
    """From picture a to picture b, (1, 3, S, S) each: embedding and palette in between, at each s of `where`, 0 to 1.

    same: conditions that stay as in a; one of the two may be among them. All get the same noise.
    """
    c_a, c_b, s = m.decompose(a), m.decompose(b), torch.tensor(where).to(m.device)[:, None]
    c = {"embedding": slerp(c_a["embedding"], c_b["embedding"], s), "palette": torch.lerp(c_a["palette"], c_b["palette"], s)}
    c |= each(only(c_a, *same), lambda v: v.expand(len(s), *v.shape[1:]))
    return m.draw(c, seed=[seed] * len(s))


def slerp(a, b, s):
    """On the sphere from the direction of a to that of b, (1, E) each, shares s (n, 1) -> (n, E)."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    angle = (a * b).sum(dim=1, keepdim=True).clamp(-1, 1).acos().clamp(min=1e-4)
    return (((1 - s) * angle).sin() * a + (s * angle).sin() * b) / angle.sin()


def reconfiguration(m, x, changes, names=("embedding", "palette", "sketch", "depth"), w=None):
    """x with some representations changed: inverted under what it has, c_1, drawn again with `changes` {name: tensor} in their place."""
    c_1 = only(m.decompose(x), *names)
    c_2 = {k: v for k, v in c_1.items() if k not in changes} | changes
    return m.draw(c_2, c_1, z_T=m.invert(x, c_1), w=w)                          # bidirectional guidance: the edit is c_2 - c_1


def region_edit(m, x, known, c=None, n=1, seed=0):
    """Draw anew what is not `known` (k, 1, S, S) of the pictures x (k, 3, S, S), told c; the rest stays."""
    told = only(m.decompose(x, known=known), "masking") | (c or {})
    drawn = m.draw(told, only(told, "masking"), n=n, seed=seed)
    x, known = (v.cpu().repeat_interleave(n, dim=0) for v in (x, known))
    return known * x + (1 - known) * drawn


def colorization(m, x, colors, seed=0, n=1):
    """The light of x with the palette of other pictures."""
    return m.draw(only(m.decompose(x), "intensity") | only(m.decompose(colors), "palette"), n=n, seed=seed)


def style_transfer(m, x, style, names=("sketch", "depth", "instances"), seed=0, n=1):
    """What is where, of x; how it looks, of the picture `style`, except for what is in `names` too."""
    return m.draw(only(m.decompose(style), "embedding", "palette") | only(m.decompose(x), *names), n=n, seed=seed)


def translation(m, x, caption, w=None):
    """x as a picture of another domain, which the caption names: a reconfiguration of the text; embedding, sketch and depth stay."""
    return reconfiguration(m, x, m.decomposer.caption([caption] * len(x)), ("caption", "embedding", "sketch", "depth"), w)


def pose_transfer(m, x, pose, w=None):
    """The one in x, in the pose of another picture: its instances replaced."""
    return reconfiguration(m, x, only(m.decompose(pose), "instances"), ("embedding", "palette", "instances"), w)


def try_on(m, x, known, garment, n=1, seed=0):
    """The region of x that is not known, drawn from the embedding and the palette of a garment's picture."""
    return region_edit(m, x, known, only(m.decompose(garment), "embedding", "palette"), n, seed)


# ------------------------------------------------------------------------------------------------ scripts

def load(args):
    return Model(args.model, args.device, args.sampling, args.w)


def demo(args):
    """One row of pictures for each use, of fresh toybox pictures: figure.png, metrics.json."""
    began, m = time.monotonic(), load(args)
    kinds = {kind: toybox.sample(6, args.seed + 100, kind, m.size) for kind in ("object", "portrait", "landscape")}
    a, b = (kinds["object"].images[i:i + 1] for i in (0, 1))
    face, other, land = kinds["portrait"].images[:1], kinds["portrait"].images[1:2], kinds["landscape"].images[:1]
    shirt = 1 - (kinds["portrait"].parts[:1] == PART_ID["shirt"])[:, None].float()
    mixed = only(m.decompose(a), "depth", "sketch") | only(m.decompose(land), "palette") | only(m.decompose(b), "embedding")
    caption, s = ["a red cat in a garden"], args.seed
    rows = {
        "text to image: " + caption[0]: ([], text_to_image(m, caption, seed=s)),
        "variation (embedding)": ([a], variations(m, a, seed=s)),
        "variation (all but masking)": ([a], variations(m, a, NAMES[1:-1], seed=s)),
        "interpolation": ([a, b], interpolation(m, a, b, [.25, .5, .75], seed=s)),
        "reconfiguration: the palette": ([a, land], reconfiguration(m, a, only(m.decompose(land), "palette"))),
        "region edit: the middle": ([a], region_edit(m, a, with_hole(a), m.decomposer.caption(caption), 3, s)),
        "colorization": ([a, land], colorization(m, a, land, s, 3)),
        "style transfer": ([a, b], style_transfer(m, a, b, seed=s, n=3)),
        "translation: a sketch": ([a], translation(m, a, "a sketch")),
        "pose transfer": ([face, other], pose_transfer(m, face, other)),
        "try-on": ([face, b], try_on(m, face, shirt, b, 3, s)),
        "depth, palette, embedding of three": ([a, land, b], m.draw(mixed, n=3, seed=s))}
    padded = lambda x, n: torch.cat([*x, torch.ones(n - sum(map(len, x)), 3, m.size, m.size)])
    table = torch.stack([torch.cat([padded(given, 3), padded([out], 3)]) for given, out in rows.values()])
    images.save_figure(args.out / "figure.png", table, row_labels=list(rows), column_labels=["given", "", "", "drawn", "", ""])
    x = torch.cat([kinds[kind].images[2:4] for kind in ("object", "portrait")])
    c, metrics = m.decompose(x), {}
    nothing = m.draw({}, n=len(x), seed=s)
    for name in ("embedding", "palette", "sketch", "instances", "depth"):
        for how, drawn in (("told", m.draw(only(c, name), seed=s)), ("not told", nothing)):
            metrics |= {f"{k}, {how}": v for k, v in agreement(only(c, name), m.decompose(drawn)).items()}
    write_json(args.out / "metrics.json", metrics | {"seconds": time.monotonic() - began, "device": str(m.device), "steps": m.steps})
    print("\n".join(f"{k:32s} {v:.3f}" for k, v in metrics.items()) + f"\nfigure.png and metrics.json: {args.out}")


def compose(args):
    """Each condition from a picture of its own: samples.png and samples.safetensors."""
    m = load(args)
    c = given(m, args)
    for option in ("both", "suppress"):
        absent = [name for name in getattr(args, option) if not only(c, name)]
        if absent:
            raise ValueError(f"--{option} {' '.join(absent)}: there is no such condition; give its picture too, or the caption")
    c_1 = only(c, *args.both, *args.suppress)
    c_2 = {k: v for k, v in c.items() if condition_of(k) not in args.suppress}
    if not c_2:
        raise ValueError(f"nothing to compose from; give --caption or a picture for one of {', '.join(NAMES[1:])}, which is not in --suppress")
    finish(m, args, m.draw(c_2, c_1, seed=args.seed), [args.caption or ", ".join(c)])


def given(m, args):
    """The conditions of args.n pictures: of a picture for each, of the caption, and of the prior."""
    c = {}
    if args.masking is None and (args.hole or args.mask):
        raise ValueError("--hole and --mask say what --masking leaves out; give its picture too")
    if args.prior and (args.caption is None or args.embedding):
        raise ValueError("--prior draws the embedding of the --caption; give one, and no --embedding")
    for name in NAMES[1:]:
        path = getattr(args, name)
        if path is not None:
            x = m.load(path, needs=[name])
            c |= only(m.decompose(x, known=outside(args, x, path) if name == "masking" else None), name)
    c |= m.decomposer.caption([args.caption]) if args.caption else {}
    c = each(c, lambda v: v.repeat_interleave(args.n, dim=0))
    return c | (m.imagine([args.caption] * args.n, args.seed, args.prior_steps, args.prior_guidance) if args.prior else {})


def outside(args, x, path):
    """What is known of the picture x, (1, 1, S, S): all but --mask, a picture that is light in the hole, or all but --hole."""
    if args.mask is None:
        return with_hole(x, *(args.hole or ()))
    return 1 - images.load_masked(path, args.mask, x.shape[-1])[1][None]


def sample_captions(args):
    m = load(args)
    pictures = text_to_image(m, args.caption, args.n, args.seed, args.prior, steps=args.prior_steps, guidance=args.prior_guidance)
    finish(m, args, pictures, args.caption)


# name: (how many pictures it takes; which options it has; --names by default, and of which picture they are; what is drawn).
# Text to image is `sample`, any other combination `compose`.
USES = {
    "variation": (1, ("names", "n"), ("embedding",), 0, lambda m, a, x: variations(m, x, a.names, a.n, a.seed)),
    "interpolation": (2, ("names", "n"), (), 0, lambda m, a, x, y: interpolation(m, x, y, torch.linspace(0, 1, a.n).tolist(), a.names, a.seed)),
    "reconfiguration": (2, ("names",), ("palette",), 1, lambda m, a, x, y: reconfiguration(m, x, only(m.decompose(y), *a.names))),
    "region-edit": (1, ("caption", "hole", "mask", "n"), (), 0,
                    lambda m, a, x: region_edit(m, x, outside(a, x, a.pictures[0]), m.decomposer.caption([said(a)]), a.n, a.seed)),
    "colorization": (2, ("n",), (), 0, lambda m, a, x, y: colorization(m, x, y, a.seed, a.n)),
    "style-transfer": (2, ("names", "n"), ("sketch", "depth", "instances"), 0, lambda m, a, x, y: style_transfer(m, x, y, a.names, a.seed, a.n)),
    "translation": (1, ("caption",), (), 0, lambda m, a, x: translation(m, x, said(a))),
    "pose-transfer": (2, (), ("instances",), 1, lambda m, a, x, y: pose_transfer(m, x, y)),
    "try-on": (2, ("hole", "mask", "n"), (), 0, lambda m, a, x, y: try_on(m, x, outside(a, x, a.pictures[0]), y, a.n, a.seed))}


def said(args):
    if args.caption is None:
        raise ValueError(f"{args.name} needs a --caption")
    return args.caption


def use(args):
    """One of the uses, on pictures of yours: samples.png and samples.safetensors."""
    wanted, options, names, of, draw = USES[args.name]
    if len(args.pictures) != wanted:
        raise ValueError(f"{args.name} takes {wanted} picture{'s' * (wanted > 1)}, got {len(args.pictures)}")
    for option in ("names", "caption", "hole", "mask", "n"):
        if getattr(args, option) is not None and option not in options:
            raise ValueError(f"--{option} means nothing for {args.name}; expected {' '.join(f'--{o}' for o in options) or 'none of its kind'}")
    args.names, args.n = args.names or names, args.n or 4
    if args.name in ("interpolation", "style-transfer") and {"embedding", "palette"} <= {*args.names}:
        raise ValueError(f"--names with embedding and palette leaves nothing of the second picture in {args.name}; expected one of them at most")
    m = load(args)
    pictures = [m.load(path, args.names if i == of else ()) for i, path in enumerate(args.pictures)]
    finish(m, args, draw(m, args, *pictures), [args.name])


def finish(m, args, pictures, rows):
    """Writes pictures, made larger if args.size asks for it."""
    if args.size is not None:
        pictures = upsample(cascade(m.folder, m.size, args.size, m.device), pictures, args.seed)
    images.save_samples(args.out, pictures, rows)
    print(f"samples.png and samples.safetensors: {args.out}")


def decompose(args):
    """The representations of pictures that are pictures themselves, and the palette: decomposition.png. Of photos, the maps that all have."""
    m = Model(args.model, args.device)
    pictures = [m.load(path) for path in args.images] if args.images else [toybox.sample(6, args.seed, size=m.size).images]
    parts = [m.decompose(x) for x in pictures]
    x, c = torch.cat(pictures), {k: torch.cat([p[k] for p in parts]).cpu() for k in parts[0] if all(k in p for p in parts)}
    rows = {"picture": x, "palette": torch.stack([painted(h, m.size) for h in c["palette"]]),
            "masking": c["masking"][:, :3] / 2 + .5, **{k: c[k].repeat(1, 3, 1, 1) for k in ("sketch", "intensity", "depth") if k in c}}
    if "instances" in c:
        rows["instances"] = c["instances"] if m.decomposer.reader is None else colored(c["instances"])
    images.save_figure(args.out / "decomposition.png", torch.stack(list(rows.values())), row_labels=list(rows))
    print(f"decomposition.png: {args.out}")


def colored(instances):
    """Planes (n, 9, S, S) -> (n, 3, S, S): the classes from red to blue, boundaries white."""
    hues = torch.linspace(0, 1, PLANES - 1)
    colors = torch.stack([1 - hues, 1 - (2 * hues - 1).abs(), hues], dim=1)
    return torch.maximum(torch.einsum("nkhw,kc->nchw", instances[:, :-1], colors), instances[:, -1:])


def evaluate(args):
    from tables import composer as tables                       # long, and no part of the method
    tables.run(args)


VERBS = {"demo": demo, "train": train, "compose": compose, "sample": sample_captions, "use": use, "decompose": decompose, "eval": evaluate}
LIMITS = {"batch": (1, math.inf), "accumulate": (1, 1000), "rank": (0, math.inf), "pictures": (1, math.inf), "repeats": (1, math.inf),
          "size": (8, math.inf), "seed": (0, math.inf), "ema": (0, 1), "gamma": (0, math.inf), "n": (1, math.inf), "sampling": (1, 1000),
          "drawn": (1, math.inf), "prior_steps": (1, 1000)}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb")
    add = lambda name, help: verbs.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo, train, compose = add("demo", "the demonstration; also without a verb"), add("train", "train"), add("compose", "mix conditions")
    draw, apply = add("sample", "pictures of captions"), add("use", "one of the uses, on pictures of yours")
    apart = add("decompose", "show the representations of pictures")
    test = add("eval", "tables: see papers/tables/composer.py")
    train.add_argument("stage", choices=("embedding", "all"), help="stage 1, told the image embedding only; stage 2, told all")
    train.add_argument("--out", type=Path, default=Path("outputs/toybox"),
                       help="where weights go; the clip/, vae/, unet/, text_encoder/, tokenizer/ and maps/ there are used, by default copies of toybox's")
    train.add_argument("--images", type=Path, default=None, metavar="DIR", help="photos with captions beside them; toybox without")
    train.add_argument("--size", type=int, default=64, help="pixels of the photos")
    train.add_argument("--minutes", type=float, default=None, help="stop after this long (whichever of minutes and steps comes first)")
    train.add_argument("--steps", type=int, default=None, help="stop after this many steps (paper: 1M, then 200K)")
    train.add_argument("--batch", type=int, default=64, help="samples at a time, in each process (paper: 1024 in all)")
    train.add_argument("--accumulate", type=int, default=1, help="times --batch samples for each step")
    train.add_argument("--rank", type=int, default=16, help="of the changes to the text-to-image UNet; 0: learn all its weights, as in the paper")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (paper: not published)")
    train.add_argument("--ema", type=float, default=.9995, help="decay of the average of the weights (paper: not published)")
    train.add_argument("--gamma", type=float, default=5.0, help="Min-SNR gamma; 0: no weights, Eq. (1)")
    train.add_argument("--pictures", type=int, default=100_000, help="toybox pictures drawn ahead")
    train.add_argument("--kinds", type=kind_shares, default=None, metavar="KIND=SHARE,...", help="how often each kind of them is drawn")
    train.add_argument("--init", default=None, help="begin with the composer of this model, toybox or a folder; unet: with none")
    train.add_argument("--rule", default="paper", choices=RULES, help="how stage 2 drops conditions; the others are for comparison")
    train.add_argument("--part", default="composer", help="name of the folder in --out that stage 2 writes")
    train.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    for name in NAMES[1:]:
        compose.add_argument(f"--{name}", type=Path, metavar="PICTURE", help=f"take the {name} of this picture")
    apply.add_argument("name", choices=USES, help="which")
    apply.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="one or two; the second says how the first is to change")
    apply.add_argument("--names", nargs="+", default=None, choices=NAMES[1:], metavar="NAME",
                       help="representations: what a variation, an interpolation or a style transfer keeps of the first picture, what a "
                            "reconfiguration takes from the second")
    for verb, what in ((compose, "what --masking leaves out"), (apply, "what a region edit and a try-on draw anew")):
        hole = verb.add_mutually_exclusive_group()
        hole.add_argument("--hole", type=float, nargs=4, default=None, metavar=("TOP", "LEFT", "BOTTOM", "RIGHT"),
                          help=f"{what}, as shares of the side; by default the middle, .25 .25 .75 .75")
        hole.add_argument("--mask", type=Path, default=None, metavar="PICTURE", help="the same, as a picture of that size: white is the hole")
    compose.add_argument("--both", nargs="+", default=[], choices=NAMES, metavar="NAME",
                         help="conditions that are also in c_1, so that w does not emphasise them")
    compose.add_argument("--suppress", nargs="+", default=[], choices=NAMES, metavar="NAME",
                         help="conditions that are only in c_1, so that w leads away from them")
    for verb in (compose, apply):
        verb.add_argument("--caption", default=None, help="a text")
    for verb in (compose, draw):
        verb.add_argument("--prior", action="store_true", help="also tell an embedding that the prior draws for the caption")
        verb.add_argument("--prior-steps", type=int, default=25, help="of such an embedding (paper: 100)")
        verb.add_argument("--prior-guidance", type=float, default=2.0, help="of the prior; 1 is none (paper: 3)")
    draw.add_argument("--caption", nargs="+", required=True, help="one or more texts")
    apart.add_argument("--images", nargs="+", type=Path, help="pictures; without, fresh ones of toybox")
    test.add_argument("--table", default="all", help="one of reconstruction, swap, three, guidance, region, edit, text, drop; all: all but drop")
    test.add_argument("--pictures", type=int, default=64, help="for each seed; the table `text` has four times as many")
    test.add_argument("--repeats", type=int, default=3, help="seeds")
    test.add_argument("--minutes", type=float, default=None, help="of each of the trainings of the table drop")
    test.add_argument("--steps", type=int, default=None, help="of each of them; the same work for all, however busy the machine is")
    test.add_argument("--init", default="unet", help="what the trainings begin with: unet, or a model with a composer")
    test.add_argument("--drawn", type=int, default=20_000, help="pictures drawn ahead for the trainings")
    test.add_argument("--batch", type=int, default=32, help="samples at a time in the trainings")
    for verb in (demo, compose, draw, apply, apart, test):
        verb.add_argument("--model", default="toybox", help="toybox, or a folder that `train` has written")
        verb.add_argument("--out", type=Path, default=Path("outputs/composer"), help="where the results go")
    for verb in (demo, compose, draw, apply, test):
        verb.add_argument("--sampling", type=int, default=25, help="DDIM steps of a picture (paper: 50)")
        verb.add_argument("--w", type=float, default=3.0, help="guidance, w in Eq. (3) (paper: 3)")
    for verb in (compose, draw):
        verb.add_argument("--n", type=int, default=4, help="pictures of each")
    apply.add_argument("--n", type=int, default=None, help="pictures, by default 4; reconfiguration, translation and pose-transfer draw one")
    for verb in (compose, draw, apply):
        verb.add_argument("--size", type=int, default=None, help="pixels, by the upsamplers beside the composer: 128 or 256")
    for verb in (demo, train, compose, draw, apply, apart, test):
        verb.add_argument("--seed", type=int, default=1, help="of all randomness")
        verb.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    argv = sys.argv[1:] if argv is None else list(argv)
    return parser.parse_args(argv if argv and argv[0] in (*VERBS, "-h", "--help") else ["demo", *argv])


def main(argv=None):
    args = arguments(argv)
    command.run("composer.py", checked, args)


def checked(args):
    command.within(args, LIMITS)
    args.device = devices.pick(args.device)
    VERBS[args.verb](args)


if __name__ == "__main__":
    main()
