"""unCLIP. Ramesh, Dhariwal, Nichol, Chu, Chen, "Hierarchical Text-Conditional Image Generation with CLIP Latents", arXiv:2204.06125v1.

From a caption first the CLIP embedding of a picture is drawn (the prior), then from this embedding the picture (the decoder):

    P(x | y) = P(x | z_i, y) P(z_i | y)                                                                    (Sec. 2)

    paper          code                 meaning                                                       shape
    -------------  -------------------  ------------------------------------------------------------  ----------------
    x, y           x, y                 picture and caption; y is the index of a caption              (B, 3, 64, 64), (B,)
    z_i            z_i                  CLIP embedding of the picture: projected, not normalised      (B, E), E = 128
    z_i^(t)        z_t_i                the same, whitened, with the noise of timestep t              (B, E)
    z_t            z_t                  CLIP embedding of the caption: projected, not normalised      (B, E)
    x_t            x_t                  latents z of x (paper: pixels), with the noise of timestep t  (B, 8, 16, 16)
    f_theta        prior                predicts the whitened z_i itself, not the noise               (B, E)
    -              unet                 the decoder: predicts the noise of latents z, told z_i        (B, 8, 16, 16)

Differs from the paper
  * As in Karlo and Kandinsky: embeddings are whitened by their mean and deviation in each dimension (paper: multiplied by 17.2), one
    sample is drawn (paper: the better of two by their product with z_t; `eval` has it as a column), and no caption is the empty one.
    Each step of sampling has the fixed, small variance of DDPM (paper: that of Analytic-DPM), and captions are read by CLIP's text
    encoder (paper: by one of the prior's own).
  * The prior reads every caption as it is, and as often with the category in place of the member, "a red pet": of toybox's own captions
    too few say one to tell an instrument from a bed. In the pictures that prior and decoder were last trained on, one in eight shows a
    thing that no word names but that of its category (`--kinds ...,new=.12`), as pictures of the world do.
  * The decoder sees the picture's embedding only, added to the time and as 24 tokens; Kandinsky 2.2 has 32 (paper: 4 tokens beside those
    of the caption). It works on latents (paper: on 64 pixels), with Min-SNR weights (Hang et al. 2023). No embedding is that of mean
    grey (paper: zeros). No upsamplers.
  * The decoder is the text-to-image UNet beside it, in which only what reads the embedding is learned: its projections, and keys and
    values (paper: all, from nothing). decoder/ holds these, and the rest is read from unet/.
  * Before the decoder is trained, its cross-attentions learn to answer to an embedding as they answer to words for all that is in the
    picture (`distil`): nothing is trained through the UNet then. In a trial 11 minutes of it named 0.64 of objects right, an hour of
    training without it 0.57. It takes captions that say everything, which toybox can write.
  * Variations start from fresh noise (paper: from the inverted picture, with eta > 0).
  * AdamW with beta2 0.99 and weight decay 0.01, averages with decay 0.999, of the decoder 0.9995 (paper, of the prior: 0.96, 0.06, 0.9999).
  * 0.9 M parameters, and 0.6 M of the decoder's 6.6 M (paper: 1 B and 3.5 B).

Cost    Training takes 0.13 (prior) and 2.0 (decoder) GFLOP a sample: on one core, shared and without bfloat16 units, 260 samples/s
        of the prior and 30 of the decoder; `distil` asks 55 pictures/s, keeps 61 KB of each in memory, and learns from 740 samples/s. What
        CLIP reads in captions takes 10 KB a picture on the disk.

Run     python papers/unclip.py                       variations of pictures, and pictures of captions, from the shipped weights
        python papers/unclip.py train prior           trains f_theta on the embeddings of a store of pictures and captions
        python papers/unclip.py train decoder         trains the decoder on the latents and embeddings of the same store
        python papers/unclip.py sample --prompt "a red cat" --negative "a striped cat"
        python papers/unclip.py eval                  the tables: embeddings drawn against true ones; what the meter reads off pictures
        torchrun --nproc_per_node 8 papers/unclip.py train prior       the same on several GPUs
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from tqdm import tqdm

import minidiff
from minidiff import command, devices, toybox
from minidiff.checkpoints import bring, find, load_strict, read_config, read_folder, save_folder, write_atomically, write_json
from minidiff.clip import CLIP
from minidiff.images import save_figure, save_samples
from minidiff.kandinsky import UnCLIP
from minidiff.precomputed import captions_as_read, device_of, embed_pictures, embeddings_of_pictures, latents_of_pictures
from minidiff.prior import Prior
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.toybox.captions import by_category, full_caption
from minidiff.toybox.judge import fresh_captions, judge
from minidiff.toybox.store import kind_shares, prepare
from minidiff.toybox.world import draw, scene
from minidiff.training import Run, count, main_process_first, progress, update
from minidiff.unet import UNet
from minidiff.vae import VAE

PRIOR_CONFIG = dict(num_attention_heads=4, attention_head_dim=32, num_layers=4)
# What reads an embedding: it goes into the decoder's config beside that of the UNet, and these are the weights that it is learned with.
READER_CONFIG = dict(addition_embed_type="image", encoder_hid_dim_type="image_proj", num_image_text_embeds=24)
READER = ("add_embedding", "encoder_hid_proj", "attn2.to_k", "attn2.to_v")
# The embeddings' noise: cosine schedule, the clean embedding is predicted and kept within 10 deviations. The latents': as in toybox's UNet.
PRIOR_SCHEDULE = dict(_class_name="UnCLIPScheduler", prediction_type="sample", clip_sample=True, clip_sample_range=10.0)
DECODER_SCHEDULE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False, eta=1.0)


# ------------------------------------------------------------------------------------------------ Sec. 2.2: the prior

def prior_loss(prediction, z_i):
    """|| f_theta(z_i^(t), t, y) - z_i ||^2 per dimension, (B, E) each, whitened. Predicting the mean scores 1. Source: Sec. 2.2."""
    return (prediction - z_i).square().mean()                                                             # Sec. 2.2


def dropped(given, nothing, share, generator):
    """`given` (B, ...), where a random share of the rows is `nothing`, so that guidance works. Source: Sec. 2.1 and 2.2."""
    is_dropped = torch.rand(len(given), generator=generator, device=given.device) < share
    return torch.where(is_dropped.reshape(-1, *[1] * (given.ndim - 1)), nothing, given)


def train_prior(store, args):
    """Trains f_theta; saves it with its schedule, and the statistics that whiten embeddings, to args.out/prior."""
    torch.manual_seed(args.seed)
    clip, tokenizer = CLIP.from_pretrained(args.out / "clip", args.device, torch.float32), Tokenizer.from_pretrained(args.out / "clip")
    with main_process_first():
        embeddings = embeddings_of_pictures(clip, store)
        words = [[*wordings, *map(by_category, wordings)] for wordings in store.captions]
        captions, empty, told = captions_as_read(clip, tokenizer, store, words)
    schedule = Schedule.from_config(PRIOR_SCHEDULE)
    prior = Prior(**PRIOR_CONFIG, embedding_dim=embeddings.shape[1], num_embeddings=tokenizer.length).init_weights()
    prior.clip_mean.copy_(embeddings.mean(dim=0, keepdim=True))
    prior.clip_std.copy_(embeddings.std(dim=0, keepdim=True))
    if args.init:
        fill(prior, read_folder(find(args.init) / "prior"), args.init)
    prior.to(args.device)
    run = Run(args.out / "prior", {"prior": prior}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch or 128, ema=0.999,
              seed=args.seed, fresh=args.fresh, name=f"prior {count(prior):.1f}M")
    check_whitening(prior, embeddings)
    for step, generator in run:
        pick = lambda high, *shape: torch.randint(high, shape, generator=generator, device=run.device)
        index = pick(len(store), run.batch).cpu()
        y = captions[index, pick(captions.shape[1], run.batch).cpu()]                                     # one of its wordings
        y = dropped(y.to(run.device), empty, args.drop, generator)
        z_i, t = prior.whiten(embeddings[index].to(run.device)), pick(schedule.T, run.batch)              # (B, E), (B,)
        z_t_i = schedule.add_noise(z_i, torch.randn(z_i.shape, generator=generator, device=run.device), t)
        with devices.autocast(run.device):
            prediction = prior(z_t_i, t, *told(y)).float()
        run.update(prior_loss(prediction, z_i))                                                           # Sec. 2.2
    if run.rank == 0:
        save_folder(run.averaged("prior"), prior.config, args.out / "prior")
        schedule.save_pretrained(args.out / "prior")


def check_whitening(prior, embeddings):
    """ValueError if weights that training goes on from are of another CLIP than these embeddings (n, E)."""
    z = prior.whiten(embeddings.to(prior.clip_mean.device))
    if z.mean(dim=0).abs().max() > 1 or not 0.5 < z.std() < 2:
        raise ValueError("the prior to go on from was trained with another CLIP: its mean and deviation do not whiten the embeddings "
                         "of this one; use --fresh, and no --init")


# ------------------------------------------------------------------------------------------------ Sec. 2.1: the decoder

def decoder_loss(eps_hat, eps, weight):
    """|| eps - eps_theta(x_t, t, z_i) ||^2, the mean of each picture's latents, averaged with the weights (B,)."""
    return (weight * (eps_hat - eps).square().mean(dim=(1, 2, 3))).mean()


def min_snr_weight(alpha_bar, gamma):
    """min(SNR, gamma) / SNR: less weight on nearly clean latents. Source: Hang et al. 2023, arXiv:2303.09556. gamma 0: weight 1."""
    snr = alpha_bar / (1 - alpha_bar)
    return (snr.clamp(max=gamma) / snr) if gamma else torch.ones_like(snr)


def train_decoder(store, args):
    """Teaches args.out/unet to draw what an embedding shows; saves what it learned, with its schedule, to args.out/decoder."""
    torch.manual_seed(args.seed)
    clip, vae = (make.from_pretrained(args.out / part, args.device, torch.float32) for make, part in ((CLIP, "clip"), (VAE, "vae")))
    with main_process_first():
        embeddings, latents = embeddings_of_pictures(clip, store), latents_of_pictures(vae, store)
    schedule, no_image = Schedule(**DECODER_SCHEDULE), embedding_of_grey(clip.image)
    unet, own = reader_of_embeddings(args.out / "unet", embeddings.shape[1])
    unet.to(args.device, memory_format=torch.channels_last)
    if args.init:
        fill(unet, {k: v for k, v in read_folder(find(args.init) / "decoder").items() if k in own}, args.init)
    elif args.distil and (args.fresh or not (args.out / "decoder" / "checkpoint.pt").is_file()):
        pipe, generator = minidiff.load(args.out, args.device, torch.float32), torch.Generator().manual_seed(args.seed)
        index, heard = answers_to_words(pipe, store, latents, args.distil, args.drop, generator)
        distil(unet, torch.cat([embeddings, no_image.cpu()])[index], heard, args.distil_steps, generator)      # number -1: no picture
    run = Run(args.out / "decoder", {"unet": unet}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch or 64, ema=0.9995,
              seed=args.seed, fresh=args.fresh, name=f"decoder {sum(unet.state_dict()[k].numel() for k in own) / 1e6:.1f} of {count(unet):.1f}M")
    alpha_bar = schedule.alpha_bar.to(run.device)
    for step, generator in run:
        pick = lambda high: torch.randint(high, (run.batch,), generator=generator, device=run.device)
        index, t = pick(len(store)).cpu(), pick(schedule.T)
        z = latents(index).to(run.device, memory_format=torch.channels_last)                              # (B, 8, 16, 16)
        z_i = dropped(embeddings[index].to(run.device), no_image, args.drop, generator)                   # (B, E)
        eps = torch.randn(z.shape, generator=generator, device=run.device)
        with devices.autocast(run.device):
            eps_hat = unet(schedule.add_noise(z, eps, t), t, None, {"image_embeds": z_i}).float()
        run.update(decoder_loss(eps_hat, eps, min_snr_weight(alpha_bar[t], args.gamma)))
    if run.rank == 0:
        save_folder(run.averaged("unet"), {**unet.config, "sample_size": z.shape[-1], "_completed_by": "unet"}, args.out / "decoder", keys=own)
        schedule.save_pretrained(args.out / "decoder")


@torch.no_grad()
def answers_to_words(pipe, store, latents, n, drop, generator, positions=24):
    """What the cross-attentions of a text-to-image model are asked, and answer when told in words all that is in a picture.

    Of n pictures with the noise of any timestep, at some positions of the feature maps. Returns the pictures' numbers (n,), -1 where
    nothing was told (a share `drop`), and {layer: (asked, answered)}, (n, P, C) float16 each.
    """
    index = torch.randperm(len(store), generator=generator)[:n]
    texts, is_dropped = [full_caption(s) for s in store.scenes(index)], torch.rand(len(index), generator=generator) < drop
    heard, layers, pipe.unet = {}, pipe.unet.cross_attentions(), pipe.unet.to(memory_format=torch.channels_last)

    def listen(name):
        def hook(layer, given, answer):
            place = torch.randperm(answer.shape[1], generator=generator)[:positions]
            heard.setdefault(name, []).append([tokens[:, place].half().cpu() for tokens in (given[0], answer)])
        return layers[name].register_forward_hook(hook)
    hooks = [listen(name) for name in layers]
    for part in tqdm(torch.arange(len(index)).split(64), desc="asking the text-to-image UNet"):
        z = latents(index[part])
        t, eps = torch.randint(pipe.schedule.T, (len(part),), generator=generator), torch.randn(z.shape, generator=generator)
        context = pipe.encode_prompts(["" if is_dropped[i] else texts[i] for i in part]).context
        x_t = pipe.schedule.add_noise(z, eps, t).to(pipe.device, memory_format=torch.channels_last)
        with devices.autocast(pipe.device):
            pipe.unet(x_t, t.to(pipe.device), context)
    for hook in hooks:
        hook.remove()
    return torch.where(is_dropped, -1, index), {name: tuple(map(torch.cat, zip(*parts))) for name, parts in heard.items()}


def distil(unet, z_i, heard, steps, generator, batch=64, lr=4e-3):
    """Teaches what reads embeddings to answer to z_i (n, E) as words were answered to: {layer: (asked, answered)}, (n, P, C) each.

    One small problem of least squares for each layer, all told by the same tokens; nothing goes through the UNet.
    """
    layers, device = unet.cross_attentions(), device_of(unet)
    deviation = {name: answered[:4096].float().std(dim=0).square().mean().sqrt() for name, (_, answered) in heard.items()}
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr, betas=(0.9, 0.99), weight_decay=0)
    with progress(steps, "learning to answer as to words") as bar:
        for step in bar:
            optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 100, max(0.02, 2 - 2 * step / steps))
            index = torch.randint(len(z_i), (batch,), generator=generator)
            tokens, loss = unet.encoder_hid_proj(z_i[index].to(device)), 0
            for name, both in heard.items():
                asked, answered = (x[index].to(device).float() for x in both)
                loss = loss + ((layers[name](asked, tokens) - answered) / deviation[name]).square().mean() / len(heard)
            update(optimizer, loss, step, bar)


def reader_of_embeddings(folder, width):
    """The UNet of `folder`, told embeddings (B, width) in place of texts, and the names of the weights that it has yet to learn.

    At first an embedding adds nothing to the time.
    """
    unet = UNet.from_config({**read_config(folder), **READER_CONFIG, "encoder_hid_dim": width})
    torch.nn.init.zeros_(unet.add_embedding.image_norm.weight)
    fill(unet, read_folder(folder), folder)
    own = {k for k in unet.state_dict() if any(part in k for part in READER)}
    for name, p in unet.named_parameters():
        p.requires_grad_(name in own)
    return unet, own


@torch.no_grad()
def embedding_of_grey(tower):
    """What stands for no picture, (1, E), as in `Kandinsky.no_image`: mean grey is 0 once it is normalised."""
    return tower(torch.zeros(1, 3, tower.config["image_size"], tower.config["image_size"], device=device_of(tower)))[1]


def fill(module, tensors, source):
    """Give tensors {name: tensor} to a module that is to be trained; what is not among them stays as it is."""
    load_strict(module, module.state_dict() | {k: t.float() for k, t in tensors.items()}, source)


# ------------------------------------------------------------------------------------------------ measuring the prior

def drawn_embeddings(pipe, captions, guidance, seed):
    """z_i drawn by the prior, (n, E); caption i has seed + i."""
    pipe.prior_guidance = guidance
    with torch.no_grad():
        return pipe.encode_prompts(captions, seeds=seed).added["image_embeds"].float().cpu()


@torch.no_grad()
def embed_captions(pipe, captions):
    """z_t of captions, (n, E)."""
    return pipe.text_encoder(pipe.tokenizer(captions).to(pipe.device))[1].float().cpu()


def better_of_two(candidates, z_t):
    """Of two samples each, (2, B, E), the one with the larger product with z_t (B, E). Source: Sec. 2.2."""
    product = (candidates * z_t).sum(dim=-1)                                                              # (2, B)
    return torch.where((product[1] > product[0])[:, None], candidates[1], candidates[0])                  # Sec. 2.2


def closeness(drawn, z_i):
    """Mean cosine of each embedding to its own picture's, and how often that picture is the nearest of all; (n, E) each."""
    similarity = F.normalize(drawn, dim=1) @ F.normalize(z_i, dim=1).T
    is_right = similarity.argmax(dim=1) == torch.arange(len(z_i))
    return {"cosine to the picture": float(similarity.diagonal().mean()), "nearest of all": float(is_right.double().mean())}


def variety(groups, whiten):
    """How much embeddings of the same caption (n, k, E) differ: cosine of two, and mean square of their whitened difference."""
    is_pair = ~torch.eye(groups.shape[1], dtype=torch.bool)
    unit, z = F.normalize(groups, dim=-1), whiten(groups)
    difference = (z[:, :, None] - z[:, None]).square().mean(dim=-1)                                       # (n, k, k)
    return {"cosine of two of a caption": float((unit @ unit.mT)[:, is_pair].mean()),
            "difference of two of a caption": float(difference[:, is_pair].mean())}


def captions_of_several(n, k, seed, kind):
    """n captions, each of which k different fresh scenes have got, and these scenes: captions that leave much open."""
    scenes, several, i = {}, [], 0
    while len(several) < n:
        drawn, caption = scene(seed, i, kind)
        scenes.setdefault(caption, []).append(drawn)
        several += [caption] if len(scenes[caption]) == k else []
        i += 1
    return several, [s for caption in several for s in scenes[caption][:k]]


def score_prior(pipe, n, seed, guidances=(1.0, 2.0, 4.0), k=4):
    """{column: {row: number}}: how near drawn embeddings are to those of n pictures, and how varied for captions that fit k pictures."""
    batch = toybox.sample(2 * n, seed)
    index = [i for i, caption in enumerate(batch.captions) if caption not in batch.captions[:i]][:n]
    captions, z_i = [batch.captions[i] for i in index], embed_pictures(pipe.image_encoder, batch.images[index])
    z_t = embed_captions(pipe, captions)
    things, people = (captions_of_several(-(-n // 16), k, seed, kind) for kind in ("object", "portrait"))
    several, x = things[0] + people[0], draw(things[1] + people[1]).images
    varied = lambda z: variety(rearrange(z, "(n k) e -> n k e", k=k), lambda e: pipe.prior.whiten(e.to(pipe.device)).cpu())
    columns = {"text embedding": closeness(z_t, z_i), "pictures": varied(embed_pictures(pipe.image_encoder, x))}
    for g in guidances:
        two = torch.stack([drawn_embeddings(pipe, captions, g, first) for first in (0, 1_000_000)])
        many = drawn_embeddings(pipe, [c for c in several for _ in range(k)], g, 0)
        columns[f"guidance {g:g}"] = closeness(two[0], z_i) | varied(many)
        columns[f"guidance {g:g}, better of 2"] = closeness(better_of_two(two, z_t), z_i)
    return columns


# ------------------------------------------------------------------------------------------------ measuring the decoder

def drawn_from(pipe, z_i, seed, args):
    """Pictures of embeddings (n, E), in portions: (n, 3, H, W); picture i has seed + i."""
    parts = zip(z_i.split(50), range(seed, seed + len(z_i), 50))
    return torch.cat([pipe.draw(part, args.sampling, args.guidance, s).cpu() for part, s in parts])


def score_decoder(pipe, n, seed, args):
    """{column: {row: share}}: how many pictures of n fresh captions show what these say (see toybox/judge.py), drawn in three ways."""
    scenes, captions = fresh_captions(n, seed)
    x, first = draw(scenes).images, 10_000 * seed
    z = {"picture's embedding": embed_pictures(pipe.image_encoder, x),
         "text -> prior": drawn_embeddings(pipe, captions, args.prior_guidance, first),
         "text embedding, no prior": embed_captions(pipe, captions)}                                      # Sec. 5.1
    pictures = {"rendered": x, **{name: drawn_from(pipe, z_i, first, args) for name, z_i in z.items()}}
    return {name: judge(scenes, captions, drawn) for name, drawn in pictures.items()}


def over_seeds(runs):
    """[{column: {row: number}}] -> {column: {row: {"mean", "spread"}}}; spread is the standard deviation. nan, no such caption, is left out."""
    def scores(column, row):
        v = torch.tensor([run[column][row] for run in runs if not math.isnan(run[column][row])], dtype=torch.float64)
        return {"mean": float(v.mean()), "spread": float(v.std()) if len(v) > 1 else 0.0} if len(v) else None
    return {column: {row: both for row in rows if (both := scores(column, row))} for column, rows in runs[0].items()}


def as_markdown(columns):
    rows = dict.fromkeys(row for scores in columns.values() for row in scores)
    cell = lambda score: f"{score['mean']:.3f} ± {score['spread']:.3f}" if score else ""
    lines = [f"| {row} | {' | '.join(cell(scores.get(row)) for scores in columns.values())} |" for row in rows]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *lines])


def evaluate(args):
    """Both tables over several seeds: table.md, table.json and on the screen."""
    pipe, seeds = load(args), range(args.seed, args.seed + args.repeats)
    table = {"prior": over_seeds([score_prior(pipe, args.captions, 9000 + s) for s in seeds]),
             "decoder": over_seeds([score_decoder(pipe, args.pictures, 500 + s, args) for s in seeds])}
    text = "\n\n".join(f"The {part}\n\n{as_markdown(rows)}" for part, rows in table.items())
    write_json(args.out / "table.json", table)
    write_atomically(args.out / "table.md", lambda p: p.write_text(text + "\n", encoding="utf-8"))
    print(f"{text}\n\ntable.md and table.json: {args.out}")


# ------------------------------------------------------------------------------------------------ using both

def load(args):
    """The prior and the decoder of args.model."""
    pipe = UnCLIP.from_folder(args.model, args.device)
    pipe.prior_steps, pipe.prior_guidance = args.prior_steps, args.prior_guidance
    return pipe


def demo(args, n=3):
    """Fresh pictures, variations drawn from their embeddings, and pictures drawn from their captions: figure.png, metrics.json."""
    began, pipe = time.monotonic(), load(args)
    kinds = [fresh_captions(2, 3 * args.seed + i, kind) for i, kind in enumerate(("object", "portrait", "landscape"))]
    scenes, captions = [s for some, _ in kinds for s in some], [c for _, some in kinds for c in some]
    x = draw(scenes).images
    z_i, written = embed_pictures(pipe.image_encoder, x), [c for c in captions for _ in range(n)]
    drawn = drawn_embeddings(pipe, written, args.prior_guidance, args.seed)
    variations, pictures = (drawn_from(pipe, z, args.seed, args) for z in (repeat(z_i, "b e -> (b n) e", n=n), drawn))
    rows = [rearrange(p, "(b n) c h w -> b n c h w", n=n) for p in (variations, pictures)]
    save_figure(args.out / "figure.png", torch.cat([x[:, None], *rows], dim=1), row_labels=captions,
                column_labels=["given", *["variation"] * n, *["from the caption"] * n],
                title="Drawn from the embedding of the given picture, and from embeddings that the prior draws for its caption")
    again = lambda p: float(F.cosine_similarity(embed_pictures(pipe.image_encoder, p), z_i.repeat_interleave(n, dim=0)).mean())
    metrics = {"cosine, text embedding": float(F.cosine_similarity(embed_captions(pipe, captions), z_i).mean()),
               "cosine, prior": float(F.cosine_similarity(drawn, z_i.repeat_interleave(n, dim=0)).mean()),
               "cosine, variations": again(variations), "cosine, from the caption": again(pictures)}
    write_json(args.out / "metrics.json", metrics | {"seconds": time.monotonic() - began, "device": str(pipe.device), "steps": args.sampling})
    print("to the embedding of the given picture:")
    print("\n".join(f"{k:26s} {v:.3f}" for k, v in metrics.items()))
    print(f"figure.png and metrics.json: {args.out}")


def sample(args):
    """Pictures of prompts: samples.png and samples.safetensors."""
    pictures = load(args)(args.prompt, n=args.n, steps=args.sampling, guidance=args.guidance, seed=args.seed, negative=args.negative)
    save_samples(args.out, pictures.cpu(), args.prompt)
    print(f"samples.png and samples.safetensors: {args.out}")


# ------------------------------------------------------------------------------------------------ command line

def train(args):
    if args.steps is None and args.minutes is None:
        args.minutes = 60.0
    with main_process_first():
        for part in ("clip", "vae", "unet", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
            bring(part, args.out)
        store = prepare(args.out / ("unclip_store" if args.kinds else "store"), args.pictures, args.seed, kinds=args.kinds)
    {"prior": train_prior, "decoder": train_decoder}[args.stage](store, args)


VERBS = {"demo": demo, "train": train, "sample": sample, "eval": evaluate}
LIMITS = {"drop": (0, 1), "gamma": (0, math.inf), "batch": (1, math.inf), "pictures": (1, math.inf), "seed": (0, math.inf), "n": (1, math.inf),
          "distil": (0, math.inf), "distil_steps": (1, math.inf), "captions": (2, math.inf), "repeats": (1, math.inf), "prior_steps": (1, 1000), "sampling": (1, 1000)}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb")
    add = lambda name, help: verbs.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo, train = add("demo", "the demonstration; also without a verb"), add("train", "train the prior or the decoder")
    draw, test = add("sample", "pictures of your prompts"), add("eval", "the tables")
    train.add_argument("stage", choices=("prior", "decoder"), help="in any order: neither needs the other")
    train.add_argument("--out", type=Path, default=Path("outputs/toybox"),
                       help="where weights and checkpoints go; its clip/, vae/ and unet/ are used, by default copies of toybox's")
    train.add_argument("--minutes", type=float, default=None, help="stop after this long (whichever of minutes and steps comes first)")
    train.add_argument("--steps", type=int, default=None, help="stop after this many optimiser steps")
    train.add_argument("--batch", type=int, default=None, help="samples per step and process (default: prior 128, decoder 64; paper: 4096 and 2048 in all)")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (paper: 1.1e-4 and 1.2e-4)")
    train.add_argument("--drop", type=float, default=0.1, help="share of captions, or of embeddings, left out (paper: 0.1)")
    train.add_argument("--distil", type=int, default=32_000, help="pictures whose words the decoder first learns to answer to; 0: none")
    train.add_argument("--distil-steps", type=int, default=9000, help="steps of that, each on 64 of them")
    train.add_argument("--gamma", type=float, default=5.0, help="Min-SNR gamma of the decoder's loss; 0: no weights, as in the paper")
    train.add_argument("--pictures", type=int, default=100_000, help="pictures drawn ahead")
    train.add_argument("--kinds", type=kind_shares, default=None, metavar="KIND=SHARE,...",
                       help="how often each kind of picture is drawn, such as portrait=.3,object=.7 (default: as the world has them)")
    train.add_argument("--init", default=None, help="begin with the weights of this model, toybox or a folder, not with new ones")
    train.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    for verb in (demo, draw, test):
        verb.add_argument("--model", default="toybox", help="toybox, or a folder that `train` has written")
        verb.add_argument("--out", type=Path, default=Path("outputs/unclip"), help="where the results go")
        verb.add_argument("--sampling", type=int, default=30, help="DDIM steps of a picture (paper: 250 DDPM steps)")
        verb.add_argument("--guidance", type=float, default=3.0, help="of the decoder; 1 is none")
        verb.add_argument("--prior-steps", type=int, default=25, help="of an embedding (paper: 64)")
        verb.add_argument("--prior-guidance", type=float, default=2.0, help="of the prior; 1 is none (Kandinsky: 4)")
    draw.add_argument("--prompt", nargs="+", required=True, help="one or more texts")
    draw.add_argument("--negative", default=None, help="what to steer away from, in the prior and in the decoder")
    draw.add_argument("--n", type=int, default=4, help="pictures of each")
    test.add_argument("--captions", type=int, default=256, help="distinct fresh captions per seed, for the prior")
    test.add_argument("--pictures", type=int, default=150, help="fresh captions per seed, for the decoder")
    test.add_argument("--repeats", type=int, default=3, help="seeds")
    for verb in (demo, train, draw, test):
        verb.add_argument("--seed", type=int, default=1, help="of all randomness")
        verb.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    argv = sys.argv[1:] if argv is None else list(argv)
    return parser.parse_args(argv if argv and argv[0] in (*VERBS, "-h", "--help") else ["demo", *argv])


def main(argv=None):
    args = arguments(argv)
    command.run("unclip.py", checked, args)


def checked(args):
    command.within(args, LIMITS)
    args.device = devices.pick(args.device)
    VERBS[args.verb](args)


if __name__ == "__main__":
    main()
