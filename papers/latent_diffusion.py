"""Latent Diffusion. Rombach, Blattmann, Lorenz, Esser, Ommer, CVPR 2022, arXiv:2112.10752v2.

First an autoencoder learns a small grid of latents for each picture; then a UNet learns to denoise latents, told by
cross-attention what the caption says. Stable Diffusion is this paper, larger.

    paper         code               meaning                                          shape
    ------------  -----------------  -----------------------------------------------  --------------------
    x             image              picture, in [-1, 1]                              (B, 3, 64, 64)
    E, D          vae.encode/decode  encoder and decoder                              f = 4
    z             z                  latent, scaled to unit variance                  (B, 8, 16, 16)
    z_t           z_t                noisy latent                                     (B, 8, 16, 16)
    y             captions           what the picture shows                           B strings
    tau_theta     text_encoder       transformer over the caption's tokens            (B, L, D)
    eps_theta     unet               noise predictor                                  (B, 8, 16, 16)

Differs from the paper
  * Autoencoder: pixel and gradient losses in place of the perceptual and adversarial ones (no pretrained VGG here, and a
    cartoon has little texture to invent); a weak KL penalty, as in the paper's KL-regularised variant.
  * UNet: Min-SNR-5 weights (Hang et al. 2023) on the loss of Eq. (3); with weight 1 the loss is Eq. (3) itself (--gamma 0).
  * The UNet trains on the mean of E's posterior, computed once for each picture; Stable Diffusion draws z from it anew at every step.
  * The betas are those of Stable Diffusion, "scaled linear" from 0.00085 to 0.012: their square roots rise linearly.
  * tau_theta starts from scratch and is trained together with eps_theta, as Eq. (3) says. Stable Diffusion freezes CLIP instead.
  * One caption in ten is dropped (Ho & Salimans 2022), so that guidance works.

Run     python papers/latent_diffusion.py                       a grid of samples from the shipped weights, and its scores
        python papers/latent_diffusion.py train autoencoder     trains E and D         (recipe and time: weights/README.md)
        python papers/latent_diffusion.py train unet            trains eps_theta and tau_theta on the trained autoencoder
        python papers/latent_diffusion.py eval                  the table in weights/README.md
        python papers/latent_diffusion.py profile               where a training step spends its time
        torchrun --nproc_per_node 8 papers/latent_diffusion.py train unet      the same on several GPUs
"""
import argparse
import hashlib
import math
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import minidiff
from minidiff import command, devices, images, toybox
from minidiff.checkpoints import find, load_strict, read_folder, read_tensors, save_folder, write_atomically, write_json, write_tensors
from minidiff.clip import CLIPText
from minidiff.metrics import frechet
from minidiff.precomputed import fingerprint
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.toybox.judge import five_fingers, fresh_captions, judge, unseen
from minidiff.toybox.meter import shipped
from minidiff.toybox.store import kind_shares, prepare
from minidiff.toybox.world import CLASSES, draw
from minidiff.training import Run, count, main_process_first
from minidiff.unet import UNet, zero_residuals
from minidiff.vae import VAE

VAE_CONFIG = dict(block_out_channels=(48, 96), latent_channels=8, layers_per_block=1, norm_num_groups=3, patch_size=2)
UNET_CONFIG = dict(in_channels=8, out_channels=8, block_out_channels=(80, 160), layers_per_block=1, attention_head_dim=4,
                   cross_attention_dim=128, norm_num_groups=5,
                   down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
TEXT_CONFIG = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=32)


# ------------------------------------------------------------------------------------------------ Sec. 3.1: the autoencoder

def kl_loss(mean, logvar):
    """KL(N(mean, exp(logvar)) || N(0, 1)) per latent number. Source: Sec. 3.1, "KL-reg."."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def reconstruction_loss(x_hat, x):
    """How far a reconstruction is from its picture: pixels, and differences of neighbouring pixels (edges, thin lines)."""
    d = x_hat - x
    edges = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return d.abs().mean() + 0.5 * d.square().mean() + 0.5 * edges


def train_autoencoder(store, args):
    """Trains E and D; saves them, with the scaling factor that gives latents unit variance, to args.out/vae."""
    torch.manual_seed(args.seed)
    vae = VAE(**VAE_CONFIG).to(args.device, memory_format=torch.channels_last)
    go_on_from(args.init, {"vae": vae}, args.device)
    run = Run(args.out / "vae", {"vae": vae}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch or 32, ema=0.998,
              seed=args.seed, fresh=args.fresh, name=f"autoencoder {count(vae):.1f}M")
    for step, generator in run:
        x = random_pictures(store, run, generator)
        with devices.autocast(run.device):
            mean, logvar = vae.encode(x)
            z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator, device=run.device)
            x_hat = vae.decode(z.contiguous(memory_format=torch.channels_last)).float()
        l_rec, l_kl = reconstruction_loss(x_hat, x), kl_loss(mean.float(), logvar.float())
        run.update(l_rec + args.kl * l_kl, kl=l_kl)                                                         # Sec. 3.1
    vae = run.averaged("vae").eval()
    vae.config["scaling_factor"] = 1 / float(encode_all(vae, store, args, n=2000).float().std())  # unit variance
    if run.rank == 0:
        save_folder(vae, vae.config, args.out / "vae")


def train_decoder(store, args):
    """Goes on training D alone: sharper pictures from the same latents, so a UNet trained on them stays valid."""
    vae = VAE.from_pretrained(args.out / "vae", args.device, torch.float32).to(memory_format=torch.channels_last)
    decoder = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)
    run = Run(args.out / "vae_decoder", {"decoder": decoder}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch or 32,
              ema=0.998, seed=args.seed, fresh=args.fresh, name=f"decoder {count(decoder):.1f}M")
    for step, generator in run:
        x = random_pictures(store, run, generator)
        with devices.autocast(run.device):
            with torch.no_grad():
                z = vae.encode(x)[0].contiguous(memory_format=torch.channels_last)
            x_hat = vae.decode(z).float()
        run.update(reconstruction_loss(x_hat, x))
    run.averaged("decoder")
    if run.rank == 0:
        save_folder(vae, vae.config, args.out / "vae")


def random_pictures(store, run, generator):
    """A batch of pictures, (B, 3, 64, 64) in [-1, 1]."""
    index = torch.randint(len(store), (run.batch,), generator=generator, device=run.device)
    return store.images(index.cpu()).to(run.device, memory_format=torch.channels_last)


@torch.no_grad()
def encode_all(vae, store, args, n=None):
    """Latent means of the first n pictures (all if None), unscaled, float16 (n, 8, 16, 16)."""
    out, n = [], min(n or len(store), len(store))
    for start in range(0, n, 256):
        x = store.images(torch.arange(start, min(start + 256, n))).to(args.device, memory_format=torch.channels_last)
        with devices.autocast(args.device):
            out.append(vae.encode(x)[0].half().cpu())
    return torch.cat(out)


# ------------------------------------------------------------------------------------------------ Sec. 3.3: conditional diffusion

def ldm_loss(eps_hat, eps, weight):
    """|| eps - eps_theta(z_t, t, tau_theta(y)) ||^2, one number per picture averaged with its weight. Source: Eq. (3)."""
    return (weight * (eps_hat - eps).square().mean(dim=(1, 2, 3))).mean()                                 # Eq. (3)


def min_snr_weight(alpha_bar, gamma):
    """min(SNR, gamma) / SNR: less weight on nearly clean latents, whose noise is hard to see and matters little.

    Source: Hang et al. 2023, arXiv:2303.09556, for noise prediction. gamma 0 gives weight 1.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return (snr.clamp(max=gamma) / snr) if gamma else torch.ones_like(snr)


def train_unet(store, args):
    """Trains eps_theta and tau_theta on cached latents; saves unet, text_encoder, tokenizer and scheduler to args.out."""
    torch.manual_seed(args.seed)
    with main_process_first():
        latents, scale = cached_latents(store, args)
    tokenizer, ids, empty = tokenized(store, args)
    schedule = Schedule(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False, eta=1.0)
    unet, text_encoder = new_networks(len(tokenizer), tokenizer.eos, args.device)
    go_on_from(args.init, {"unet": unet, "text_encoder": text_encoder}, args.device)
    run = Run(args.out / "unet", {"unet": unet, "text_encoder": text_encoder}, lr=args.lr, steps=args.steps,
              minutes=args.minutes, batch=args.batch or 128, ema=0.9995, seed=args.seed, fresh=args.fresh,
              name=f"unet {count(unet):.1f}M + text {count(text_encoder):.1f}M")
    alpha_bar = schedule.alpha_bar.to(run.device)
    for step, generator in run:
        draw = lambda high, *shape: torch.randint(high, shape, generator=generator, device=run.device)
        index = draw(len(store), run.batch)
        z = latents(index.cpu()).to(run.device, memory_format=torch.channels_last) * scale   # (B, 8, 16, 16)
        y = ids[index, draw(ids.shape[1], run.batch)]                                                     # (B, L): one of its wordings
        y = torch.where((torch.rand(run.batch, 1, generator=generator, device=run.device) < args.drop), empty, y)
        t = draw(len(alpha_bar), run.batch)
        eps = torch.randn(z.shape, generator=generator, device=run.device)
        z_t = schedule.add_noise(z, eps, t)
        with devices.autocast(run.device):
            eps_hat = unet(z_t, t, text_encoder(y)[0]).float()
        run.update(ldm_loss(eps_hat, eps, min_snr_weight(alpha_bar[t], args.gamma)))                      # Eq. (3)
    if run.rank == 0:
        export(run, tokenizer, schedule, args.out)


def go_on_from(model, modules, device):
    """Fill the modules, before training, with the weights of another model; None leaves them new.

    Layers that the other model lacks stay new as well: behind their zeros (`zero_residuals`) they change nothing at first.
    """
    for name, module in modules.items() if model else ():
        known = {k: t.float() for k, t in read_folder(find(model) / name).items()}
        load_strict(module, module.state_dict() | known, f"{model}, {name}")
        module.to(device, memory_format=torch.channels_last)


def new_networks(vocabulary, end, device):
    """eps_theta, whose residual branches and output start at zero, and tau_theta."""
    unet = UNet(**UNET_CONFIG).to(device, memory_format=torch.channels_last)
    zero_residuals(unet)
    text_encoder = CLIPText.from_config(dict(TEXT_CONFIG, vocab_size=vocabulary, eos_token_id=end))
    return unet, text_encoder.init_weights().to(device)


def cached_latents(store, args):
    """Latents of every picture, computed once per encoder and mapped into memory: (function of an index (B,), scaling factor)."""
    vae = VAE.from_pretrained(args.out / "vae", args.device, torch.float32).to(memory_format=torch.channels_last)
    path = store.folder / f"latents-{fingerprint(vae.encoder.state_dict().values())}.npy"
    if not path.is_file():
        store.save(path, encode_all(vae, store, args).numpy())
    z = np.load(path, mmap_mode="r")
    return (lambda index: torch.from_numpy(z[index.numpy()]).float()), vae.config["scaling_factor"]


def tokenized(store, args):
    """The tokenizer, the ids of every caption (n, wordings, L), and those of the empty caption (1, L)."""
    if args.init:
        tokenizer = Tokenizer.from_pretrained(find(args.init) / "tokenizer")
    else:
        tokenizer = Tokenizer.train([c for words in store.captions for c in words], length=TEXT_CONFIG["max_position_embeddings"])
    ids = torch.stack([tokenizer(words) for words in store.captions]).to(args.device)
    return tokenizer, ids, tokenizer([""]).to(args.device)


def export(run, tokenizer, schedule, out):
    """The averaged weights in the layout of Stable Diffusion, so that minidiff.load(out) finds a whole model."""
    save_folder(run.averaged("unet"), {**run.modules["unet"].config, "sample_size": 16}, out / "unet")
    save_folder(run.averaged("text_encoder"), run.modules["text_encoder"].config, out / "text_encoder", "model.safetensors")
    tokenizer.save(out / "tokenizer")
    schedule.save_pretrained(out / "scheduler")
    write_json(out / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]})


# ------------------------------------------------------------------------------------------------ measuring

@torch.no_grad()
def score_autoencoder(pipe, batch):
    """Of renders: PSNR of their reconstructions, how often the meter reads the same class off both; and the reconstructions."""
    x, truth = batch.images, batch.attributes
    x_hat = torch.cat([pipe.decode(pipe.encode(part)).cpu() for part in x.split(64)])
    psnr = -10 * (x_hat - x).square().mean(dim=(1, 2, 3)).log10()
    a, b = toybox.measure(x), toybox.measure(x_hat)
    same = torch.cat([(a[k] == b[k])[truth[k] >= 0] for k in CLASSES])
    return {"psnr": float(psnr.mean()), "meter agrees": float(same.double().mean())}, x_hat


def drawn(pipe, captions, first, args):
    """Pictures of captions, (n, 3, 64, 64); caption i from the noise of seed first + i."""
    seeds = list(range(first, first + len(captions)))
    return pipe(captions, seed=seeds, steps=args.sampling, guidance=args.guidance, batch=64).cpu()


def kept(pipe, captions, seed, args, part=64):
    """The same from seed 10,000 * seed on, as bytes and back. They stay in --out, where an evaluation that was stopped finds them."""
    parts, pictures = (pipe.text_encoder, pipe.unet, pipe.vae), []
    weights = fingerprint(p for module in parts for p in module.state_dict().values())
    for i in tqdm(range(0, len(captions), part), desc=f"{len(captions)} captions, seed {seed}", leave=False):
        some, first = captions[i:i + part], 10_000 * seed + i
        what = repr((weights, pipe.schedule, some, first, args.sampling, args.guidance))
        path = args.out / "drawn" / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors"
        if not path.is_file():
            write_tensors(path, {"images": (drawn(pipe, some, first, args) * 255).round().byte()})
        pictures.append(read_tensors(path)["images"].float() / 255)
    return torch.cat(pictures)


@torch.no_grad()
def distances(seed, **pictures):
    """{name: Frechet distance, in the meter's features, of pictures (n, 3, 64, 64) to n fresh renders of `seed`}.

    The renders are the world's own, with all its styles, and so must be what the captions are of that samples were drawn for. What
    is compared has to be equally many pictures that are none of these renders: the distance of few is mostly chance (about 115
    between 1,000 renders and 1,000 others), and that of pictures to their own reconstructions has no such part.
    """
    features = lambda x: torch.cat([shipped().features(part) for part in x.split(256)])
    fresh = features(toybox.sample(len(next(iter(pictures.values()))), seed).images)
    return {name: frechet(features(x), fresh) for name, x in pictures.items()}


PROMPTS = ["a young person with long red hair", "a very old person with glasses and a beard", "a sad person with dark skin",
           "a photo of a smiling person", "a red cat", "a striped blue dog in a garden", "a large yellow guitar",
           "a dotted green vase in a room", "a white rabbit in the snow", "a brown chair next to a yellow lamp",
           "mountains on a sunny day", "a city in the rain", "a boat on the sea in heavy snow", "a hand with five fingers",
           "a watercolor of a purple parrot", "a sketch of a house"]


def demonstrate(args):
    """Samples a grid from the trained model and scores a few fresh captions."""
    began = time.monotonic()
    pipe = minidiff.load(args.model, args.device)
    pictures = [pipe(PROMPTS, steps=args.sampling, guidance=args.guidance, seed=args.seed + i).cpu() for i in range(2)]
    images.save(args.out / "figure.png", images.grid(torch.cat(pictures), columns=8, scale=2))
    scenes, captions = fresh_captions(50, args.seed + 77)
    scores = judge(scenes, captions, drawn(pipe, captions, 10_000 * (args.seed + 77), args))
    scores = {k: v for k, v in scores.items() if v == v}
    more = {"seconds": time.monotonic() - began, "device": str(pipe.device), "steps": args.sampling}
    write_json(args.out / "metrics.json", scores | more)
    print("\n".join(f"{k:24s} {v:.2f}" for k, v in scores.items()))
    print(f"written to {args.out}: figure.png, metrics.json")


def evaluate(args):
    """The table of weights/README.md: fresh captions and renders, mean and spread over sampling seeds."""
    if min(args.pictures, args.repeats, args.sampling) < 1 or args.frechet < 0 or args.frechet == 1:
        raise ValueError(f"--pictures {args.pictures} --repeats {args.repeats} --sampling {args.sampling} --frechet {args.frechet}: expected at "
                         "least 1 of each, and for --frechet 0 or at least 2")
    pipe, runs = minidiff.load(args.model, args.device), []
    pipe.unet.to(memory_format=torch.channels_last)
    for seed in range(args.seed, args.seed + args.repeats):
        runs.append(score(pipe, seed, args))
        table = "\n".join(["| what | mean | spread |", "|---|---|---|", *(row(k, [r[k] for r in runs]) for k in runs[0])]) + "\n"
        write_json(args.out / "table.json", runs)
        write_atomically(args.out / "table.md", lambda p: p.write_text(table, encoding="utf-8"))
    print(table)


def score(pipe, seed, args):
    """{what: number} of one seed; its reconstructions_SEED.png and samples_SEED.png."""
    sheet = lambda name, x: images.save(args.out / f"{name}_{seed}.png", images.grid(x, columns=8, scale=2))
    batch = toybox.sample(max(args.pictures, args.frechet), 9000 + seed)
    auto, x_hat = score_autoencoder(pipe, batch)
    sheet("reconstructions", torch.cat([batch.images[:8], x_hat[:8]]))
    scenes, captions = fresh_captions(args.pictures, 500 + seed)
    pictures = kept(pipe, captions, 500 + seed, args)
    sheet("samples", pictures[:64])
    scores = {f"autoencoder: {k}": v for k, v in auto.items()} | judge(scenes, captions, pictures)
    each = -(-args.pictures // 80)                              # a tenth as many again, of each of these two
    scenes, captions = five_fingers(8 * each, 600 + seed)
    pictures = kept(pipe, captions, 600 + seed, args)
    sheet("five_fingers", pictures[:16])
    scores["a hand with five fingers: fingers"] = judge(scenes, captions, pictures)["hand: fingers"]
    scenes, captions = unseen(each, 700 + seed)
    pictures = kept(pipe, captions, 700 + seed, args)
    sheet("unseen", pictures[:16])
    for what, x in (("", pictures), (", renders", draw(scenes).images)):                # the meter has not seen these either
        scores[f"unseen combination: both{what}"] = judge(scenes, captions, x)["object: member and colour"]
    if args.frechet:
        found = distances(9500 + seed, renders=batch.images[:args.frechet], reconstructions=x_hat[:args.frechet],
                          samples=kept(pipe, batch.captions[:args.frechet], 800 + seed, args))
        scores |= {f"Frechet distance: {k}": v for k, v in found.items()}
        scores["Frechet distance: samples / reconstructions"] = found["samples"] / found["reconstructions"]
    return scores


GROUPS = {"convolutions": ("conv",), "matrix products": ("mm",), "norms": ("norm",), "softmax": ("softmax",),
          "optimiser and running average": ("adamw", "lerp", "foreach"), "copies and casts": ("copy", "cat", "clone")}


def profile(args):
    """Where a training step of eps_theta and tau_theta spends its time, and how much of the machine's arithmetic it uses."""
    check(args)
    device = devices.pick(args.device)
    unet, text_encoder = new_networks(1000, 999, device)
    run = Run(args.out / "profile", {"unet": unet, "text_encoder": text_encoder}, lr=1e-4, steps=args.steps, batch=args.batch, fresh=True,
              save_every=float("inf"))
    z_t, t = torch.randn(args.batch, 8, 16, 16, device=device), torch.randint(1000, (args.batch,), device=device)
    y = torch.randint(999, (args.batch, 32), device=device)

    def train_step():
        with devices.autocast(device):
            eps_hat = unet(z_t, t, text_encoder(y)[0]).float()
        run.update(ldm_loss(eps_hat, z_t, torch.ones(args.batch, device=device)))
    counter, seconds = FlopCounterMode(display=False), []
    with torch.profiler.profile() as records:
        for step, _ in run:
            began = time.monotonic()
            with counter if step == 0 else nullcontext():
                train_step()                                                    # its checks wait for the device
            seconds.append(time.monotonic() - began)
    flops, rate = counter.get_total_flops() / args.batch, args.batch / torch.tensor(seconds[2:]).median()  # the first two warm up
    peak = matrix_peak(device)
    shares = dict.fromkeys([*GROUPS, "elementwise and the rest"], 0.0)
    for event in records.key_averages():
        group = next((g for g, words in GROUPS.items() if any(w in event.key.lower() for w in words)), "elementwise and the rest")
        shares[group] += event.self_cpu_time_total if device.type == "cpu" else event.self_device_time_total
    print(f"{rate:.0f} samples/s with the profiler on, batch {args.batch}, {torch.get_num_threads()} threads; {flops / 1e9:.1f} GFLOP a sample: "
          f"{rate * flops / 1e9:.0f} of the {peak / 1e9:.0f} GFLOP/s of a large matrix product, {rate * flops / peak:.0%}")
    print("\n".join(f"{100 * v / sum(shares.values()):5.1f} %  {k}" for k, v in shares.items()))


def matrix_peak(device, n=2048, times=5):
    """Operations per second of the product of two n x n matrices, in the type that training computes in."""
    a, seconds = torch.randn(n, n, device=device), []
    for _ in range(times):
        began = time.monotonic()
        with devices.autocast(device):
            float((a @ a)[0, 0])                                                # read a number: the product is done
        seconds.append(time.monotonic() - began)
    return 2 * n ** 3 / min(seconds)


def row(name, values):
    """One line of a table: mean and standard deviation of what was measured."""
    v = torch.tensor([x for x in values if x == x], dtype=torch.float64)
    return f"| {name} | {v.mean():.3f} | {v.std() if len(v) > 1 else 0:.3f} |"


# ------------------------------------------------------------------------------------------------ command line

STAGES = {"autoencoder": train_autoencoder, "unet": train_unet, "decoder": train_decoder}


def arguments(argv=None):
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    shared.add_argument("--seed", type=int, default=1, help="of pictures, captions and all randomness")
    use = argparse.ArgumentParser(add_help=False, parents=[shared])
    use.add_argument("--model", default="toybox", help="toybox, or a folder that `train` has written")
    use.add_argument("--out", type=Path, default=Path("outputs/latent_diffusion"), help="where results go")
    use.add_argument("--sampling", type=int, default=50, help="DDIM steps of a picture")
    use.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[use])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    train = verbs.add_parser("train", help="train one stage", parents=[shared], **how)
    train.add_argument("stage", choices=STAGES, help="autoencoder first, then unet; decoder: polish the autoencoder's decoder")
    train.add_argument("--out", type=Path, default=Path("outputs/toybox"), help="where weights and checkpoints go")
    train.add_argument("--minutes", type=float, default=None, help="stop after this long (whichever of minutes and steps comes first)")
    train.add_argument("--steps", type=int, default=None, help="stop after this many optimiser steps")
    train.add_argument("--batch", type=int, default=None, help="pictures per step and process (autoencoder 32, unet 128)")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    train.add_argument("--kl", type=float, default=1e-4, help="weight of the KL term, on means")
    train.add_argument("--gamma", type=float, default=5.0, help="Min-SNR gamma; 0: the paper's unweighted Eq. (3)")
    train.add_argument("--drop", type=float, default=0.1, help="share of captions dropped")
    train.add_argument("--pictures", type=int, default=100_000, help="pictures drawn ahead")
    train.add_argument("--kinds", type=kind_shares, default=None, metavar="KIND=SHARE,...",
                       help="how often each kind of picture is drawn, such as portrait=.3,pair=.3,hand=.1 (default: as the world has them)")
    train.add_argument("--init", default=None, help="begin with the weights of this model, toybox or a folder, not with new ones")
    train.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    table = verbs.add_parser("eval", help="the table of weights/README.md", parents=[use], **how)
    table.add_argument("--pictures", type=int, default=300, help="fresh captions, and fresh renders, per seed")
    table.add_argument("--frechet", type=int, default=1000, help="other captions, and renders, for the Frechet distance, per seed; 0: without it")
    table.add_argument("--repeats", type=int, default=3, help="sampling seeds")
    speed = verbs.add_parser("profile", help="where a training step of the UNet spends its time", parents=[shared], **how)
    speed.add_argument("--out", type=Path, default=Path("outputs/latent_diffusion"), help="where its checkpoint goes")
    speed.add_argument("--steps", type=int, default=12, help="steps, of which the first two are not counted")
    speed.add_argument("--batch", type=int, default=64, help="samples per step")
    return parser, command.parse(parser, argv)


def check(args):
    """Refuse numbers that cannot work."""
    lowest = {"batch": 1, "pictures": 1, "steps": 3 if args.verb == "profile" else 1, "seed": 0}
    for name, low in lowest.items():
        value = getattr(args, name, None)
        if value is not None and value < low:
            raise ValueError(f"--{name} is {value}, expected at least {low}")
    for name in ("minutes", "lr"):
        value = getattr(args, name, None)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} is {value:g}, expected a number above 0")


def rehearse(args):
    """Load what the stage begins with, only to see that it is there and fits: pictures take minutes to draw."""
    if args.init and args.stage == "autoencoder":
        go_on_from(args.init, {"vae": VAE(**VAE_CONFIG)}, "cpu")
    if args.init and args.stage == "unet":
        tokenizer = Tokenizer.from_pretrained(find(args.init) / "tokenizer")
        go_on_from(args.init, dict(zip(("unet", "text_encoder"), new_networks(len(tokenizer), tokenizer.eos, "cpu"))), "cpu")
    if args.init and args.stage == "decoder":
        raise ValueError(f"--init {args.init}: the decoder goes on from the autoencoder in --out, expected no --init")
    if args.stage != "autoencoder":
        VAE.from_pretrained(args.out / "vae", "cpu")


def train(args):
    if args.steps is None and args.minutes is None:
        args.minutes = 60.0
    check(args)
    if not (0 <= args.drop <= 1 and 0 <= args.gamma < math.inf and 0 <= args.kl < math.inf):
        raise ValueError(f"--drop {args.drop:g} --gamma {args.gamma:g} --kl {args.kl:g}: expected --drop from 0 to 1, the others at least 0")
    rehearse(args)
    args.device = devices.pick(args.device)
    with main_process_first():
        store = prepare(args.out / ("store_of_kinds" if args.kinds else "store"), args.pictures, args.seed, kinds=args.kinds)
    STAGES[args.stage](store, args)


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train, "eval": evaluate, "profile": profile}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
