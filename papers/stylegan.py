"""StyleGAN2. Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, CVPR 2020, arXiv:1912.04958; and StyleSpace. Wu, Lischinski,
Shechtman, CVPR 2021, arXiv:2011.12799.

A generator draws people, a discriminator tells them from the drawings of toybox, and each learns from the other. The numbers that
steer the generator's convolutions, its styles, turn out to mean something: one of them moved, and only the hair grows longer.
Concept Sliders (papers/concept_sliders.py) makes visual sliders from pictures before and after such a move.

    paper       code              meaning                                                        shape
    ----------  ----------------  -------------------------------------------------------------  --------------------
    z, w        z, w              random vector, and what the mapping network makes of it        (B, 64)
    s           styles            one factor for each input channel of each convolution          list of (B, C_l)
    G, D        G, D              generator and discriminator                                    minidiff/stylegan.py
    R_1         r1                squared gradient of D at real pictures                         scalar
    gamma       gamma             its weight
    psi         psi               truncation: how far w is from the mean, 1 is all the way       float
    (l, u)      (layer, channel)  one style channel                                              str, int

Differs from the papers
  * StyleGAN2: small networks (minidiff/stylegan.py says which); no path length regularisation; D and G take turns by steps.
  * StyleSpace finds the channels of an attribute by gradients inside the region that shows it, or from a few dozen examples.
    Here every channel is moved and the meter of toybox reads what has changed; the best few are judged again by the pairs that
    they make. Channels that only feed colours (tRGB) are not searched.

Of the shipped channels those of hair_length, glasses and beard show what they are called; those of age, smile, eye_size and
brow_slant move the meter more than the eye: they darken or redden a few pixels. --channel chooses others.

Cost    the demonstration takes 21 s of one CPU core, the verb channels 2 minutes; the shipped weights took 90 minutes of one busy core.
Run     python papers/stylegan.py                                   people, and the channels found, from the shipped weights
        python papers/stylegan.py pairs --attribute hair_length --n 6 --out DIR      DIR/-1/000.png, DIR/1/000.png ...
        python papers/stylegan.py channels                          moves every channel, prints what each attribute is moved by
        python papers/stylegan.py train --minutes 90                trains G and D (resumes), writes outputs/toybox/stylegan
        python papers/stylegan.py eval                              distance to fresh drawings; how good the channels are
"""
import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from tqdm import tqdm, trange

from minidiff import command, devices, images
from minidiff.checkpoints import CheckpointError, files_in, find, read_config, write_atomically, write_json
from minidiff.metrics import frechet, markdown, spearman
from minidiff.stylegan import Discriminator, Generator
from minidiff.toybox import measure
from minidiff.toybox.meter import shipped
from minidiff.toybox.pairs import Pairs, save_pairs
from minidiff.toybox.render import render
from minidiff.toybox.scenes import PLAIN_GROUNDS
from minidiff.toybox.world import scene
from minidiff.training import Run, main_process_first

G_CONFIG = dict(width=64, channels=(64, 64, 64, 40))
D_CONFIG = dict(channels=(24, 48, 96, 96), group=4)
LAZY = 16                                                       # the R_1 penalty is taken at every 16th turn of D


# ------------------------------------------------------------------------------------------------ losses

def d_loss(D, real, fake):
    """What D minimises: it should be above 0 for real pictures and below 0 for others. Logistic loss, Goodfellow et al. 2014."""
    return F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean()


def g_loss(D, fake):
    """What G minimises, "non-saturating": its gradient stays strong when D is sure that the picture is a fake."""
    return F.softplus(-D(fake)).mean()


def r1(D, real):
    """R_1: squared length of the gradient of D at real pictures, mean over them. Mescheder et al. 2018, arXiv:1801.04406."""
    real = real.detach().requires_grad_()
    gradient, = torch.autograd.grad(D(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


# ------------------------------------------------------------------------------------------------ pictures

def draw(n, seed):
    """`n` portraits of `seed`, uint8 (n, 3, 64, 64): photos on plain backgrounds, all attributes independent."""
    pictures, grounds = np.empty((n, 3, 64, 64), np.uint8), list(PLAIN_GROUNDS)
    for i in trange(n, desc="drawing", unit=" pictures", mininterval=2):
        drawn, _ = scene(seed, i, "portrait", correlated=False)
        drawn = replace(drawn, style="photo", background=grounds[i % len(grounds)])
        pictures[i] = np.round(render(drawn).rgb.transpose(2, 0, 1) * 255)
    return pictures


def drawn_once(path, n, seed):
    """The pictures of `draw`, (n, 3, 64, 64) uint8, from the file `path`, which is written if it is not there."""
    def write(temporary):
        with open(temporary, "wb") as file:                     # a file object: np.save would add .npy to a name
            np.save(file, draw(n, seed))
    if not path.is_file():
        write_atomically(path, write)
    return torch.from_numpy(np.load(path))


def mixed(G, n, generator, share=0.5):
    """w of `n` people, (n, layers, width); for a share of them the later layers get the w of somebody else.

    "Style mixing", Karras et al. 2019: so that layers learn not to rely on each other.
    """
    z = torch.randn(2, n, G.width, generator=generator, device=generator.device)
    w, other = G.map(z[0]), G.map(z[1])
    cut = torch.randint(1, len(G.layers), (n, 1), generator=generator, device=generator.device)
    cut = torch.where(torch.rand(n, 1, generator=generator, device=generator.device) < share, cut, len(G.layers))
    later = rearrange(torch.arange(len(G.layers), device=generator.device) >= cut, "b l -> b l 1")
    return torch.where(later, rearrange(other, "b d -> b 1 d"), rearrange(w, "b d -> b 1 d"))


@torch.no_grad()
def people(G, n, seed, psi=1.0):
    """Styles and noise of `n` people of `seed`; psi: see `truncated`."""
    generator = torch.Generator(G.constant.device).manual_seed(seed)
    z = torch.randn(n, G.width, generator=generator, device=generator.device)
    return G.styles(truncated(G.map(z), G.w_mean, psi)), G.noise(n, generator)


def truncated(w, w_mean, psi):
    """w drawn towards the mean: likelier pictures, less various. psi 1 changes nothing, 0 is the mean itself."""
    return w_mean + psi * (w - w_mean)


@torch.no_grad()
def pictures(G, styles, noise=None):
    """Pictures (n, 3, 64, 64) in [0, 1], on the CPU."""
    parts = []
    for i in range(0, len(styles[0]), 128):
        some = [None if v is None else v[i:i + 128] for v in noise] if noise else None
        parts.append(((G.synthesize([s[i:i + 128] for s in styles], some) + 1) / 2).clamp(0, 1).cpu())
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------------ training

def train(args):
    """Trains G and D; saves G, and a sheet of its people, to args.out/stylegan."""
    device, folder = devices.pick(args.device), args.out / "stylegan"
    with main_process_first():
        real = drawn_once(args.out / f"portraits_{args.seed}_{args.pictures}.npy", args.pictures, args.seed)
    torch.manual_seed(args.seed)
    G, D = (net.to(device, memory_format=torch.channels_last) for net in (Generator(**args.G), Discriminator(**args.D)))
    run = Run(folder, {"G": G, "D": D}, args.lr, args.steps, args.minutes, args.batch, args.ema, seed=args.seed,
              warmup=100, weight_decay=0.0, clip=math.inf, fresh=args.fresh, name="stylegan")
    for group in run.optimizer.param_groups:
        group["betas"] = (0.0, 0.99)                            # momentum would follow where the other player was
    for step, generator in run:
        turn_of_D = step % 2 == 0                               # who has no gradients is left alone by the optimiser
        D.requires_grad_(turn_of_D), G.requires_grad_(not turn_of_D)
        run.parameters = list((D if turn_of_D else G).parameters())     # several processes share the gradients of these alone
        fake = G.synthesize(G.styles(mixed(G, args.batch, generator)), G.noise(args.batch, generator))
        if turn_of_D:
            index = torch.randint(len(real), (args.batch,), generator=generator, device=device).cpu()
            x = (real[index].to(device) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            loss, shown = d_loss(D, x, fake), "d"
            if step % (2 * LAZY) == 0:
                loss = loss + LAZY * args.gamma / 2 * r1(D, x)
        else:
            loss, shown = g_loss(D, fake), "g"
        run.update(loss, **{shown: loss})
        if run.step % 1000 == 0 and run.rank == 0:
            G_ema, _ = averaged(run, args)
            show_people(folder / "samples.png", G_ema, args.seed)
    if run.rank == 0:
        G, w_mean = averaged(run, args)
        G.w_mean.copy_(w_mean)
        G.save(folder)
        show_people(folder / "samples.png", G, args.seed)
        print(f"written to {folder}: weights, samples.png; next: stylegan.py channels --model {folder} --out {folder}")


@torch.no_grad()
def averaged(run, args):
    """The running average of G, as a Generator of its own, and its mean w."""
    G = Generator(**args.G).to(run.device).eval()
    G.load_state_dict(run.average["G"])
    z = torch.randn(10_000, G.width, generator=torch.Generator().manual_seed(0)).to(run.device)
    return G, G.map(z).mean(0)


def show_people(path, G, seed):
    images.save_figure(path, pictures(G, *people(G, 32, seed)).unflatten(0, (4, 8)))


# ------------------------------------------------------------------------------------------------ style space

def moved(styles, layer, channel, by):
    """A copy of the styles in which one channel of layer number `layer` is changed by `by`, a number or (B,)."""
    changed = styles[layer].clone()
    changed[:, channel] += by
    return [*styles[:layer], changed, *styles[layer + 1:]]


@torch.no_grad()
def spreads(G, n=2000):
    """Standard deviation of every style channel over people: list of (C_l,). The unit in which channels are moved."""
    styles, _ = people(G, n, seed=0)
    return [s.std(0) for s in styles]


SPANS = {"age": 1, "smile": 2, "eye_size": 1, "brow_slant": 2, "hair_length": 1}       # how long the range of each number is
YES_NO = ("glasses", "beard")
ATTRIBUTES = (*SPANS, *YES_NO)
KEPT = ("hair", "skin", "background")                           # only watched: which channels change them is not asked


def reading(faces):
    """What the meter reads off pictures: attributes (n, 7), each in shares of its range, and probabilities of KEPT classes."""
    read = measure(faces)
    values = [read[k] / span for k, span in SPANS.items()] + [read[f"{k}_p"][:, 1] for k in YES_NO]
    return torch.stack(values, 1), [read[f"{k}_p"] for k in KEPT]


def changes(before, after):
    """From two readings: signed change of each attribute (n, 7), and how much of each KEPT class has changed (n, 3), 0 to 1."""
    kept = [(a - b).abs().sum(1) / 2 for a, b in zip(after[1], before[1])]
    return after[0] - before[0], torch.stack(kept, 1)


def purity(signed, kept):
    """(..., 7): the share of each attribute in everything that has changed; 1 if nothing else has."""
    everything = signed.abs().sum(-1, keepdim=True) + kept.sum(-1, keepdim=True)
    return signed.abs() / everything.clamp(min=1e-6)


@torch.no_grad()
def search(G, n=24, by=6.0, seed=0, psi=0.7):
    """Moves every channel of the convolutions down and up by `by` standard deviations, for `n` people.

    Returns rows {layer, channel, attribute, sign, effect, purity, score}, one for each channel and attribute. effect: mean change
    from down to up, in shares of the attribute's range; sign: its direction. score = effect times purity.
    """
    (styles, noise), spread, rows = people(G, n, seed, psi), spreads(G), []
    places = [(i, c) for i, name in enumerate(G.layers) if not name.endswith("rgb") for c in range(styles[i].shape[1])]
    for i, c in tqdm(places, desc="moving every channel", mininterval=2):
        both = [moved(styles, i, c, strength * by * spread[i][c]) for strength in (-1, 1)]
        signed, kept = changes(*(reading(pictures(G, ends, noise)) for ends in both))
        share = purity(signed, kept).mean(0)
        for a, name in enumerate(ATTRIBUTES):
            effect = float(signed[:, a].mean())
            rows.append({"attribute": name, "layer": G.layers[i], "channel": c, "sign": 1 if effect > 0 else -1,
                         "effect": abs(effect), "purity": float(share[a]), "score": abs(effect) * float(share[a])})
    return sorted(rows, key=lambda row: -row["score"])


def best(rows, k=1):
    """The `k` best rows of each attribute."""
    return [row for name in ATTRIBUTES for row in [r for r in rows if r["attribute"] == name][:k]]


def make_pairs(G, where, n, seed, strengths=(-1, 1), by=6.0, psi=0.7, candidates=8):
    """`n` people, each at every strength of one style channel.

    where: {attribute, layer, channel, sign}. by: standard deviations of the channel for a strength of 1. candidates: so many
    people are drawn for each one that is taken; taken are those whose attribute the meter sees change most and most purely, and
    who are people at all strengths. Returns {strength: (n, 3, 64, 64) in [0, 1]}.
    """
    styles, noise = people(G, n * candidates, seed, psi)
    layer, a = G.layers.index(where["layer"]), ATTRIBUTES.index(where["attribute"])
    unit = where["sign"] * by * spreads(G)[layer][where["channel"]]
    faces = {s: pictures(G, moved(styles, layer, where["channel"], s * unit), noise) for s in sorted(strengths)}
    signed, kept = changes(reading(faces[min(faces)]), reading(faces[max(faces)]))
    is_face = torch.stack([measure(f)["kind_p"][:, 0] for f in faces.values()]).amin(0)
    score = signed[:, a] * purity(signed, kept)[:, a] * is_face
    taken = score.argsort(descending=True)[:n].sort().values
    return {s: f[taken] for s, f in faces.items()}


def judged(G, where, n, seed, by=6.0, psi=0.7, candidates=8):
    """How good a channel is on pairs of people of another seed: effect, purity and score as in `search`, and for what share
    of the pairs the attribute moves the right way. With candidates 1 on everybody, not only on the pairs that would be taken."""
    faces, a = make_pairs(G, where, n, seed, (-1, 1), by, psi, candidates), ATTRIBUTES.index(where["attribute"])
    signed, kept = changes(reading(faces[-1]), reading(faces[1]))
    effect, share = float(signed[:, a].mean()), float(purity(signed, kept)[:, a].mean())
    return {"effect": effect, "purity": share, "score": effect * share, "right way": float((signed[:, a] > 0).double().mean())}


# ------------------------------------------------------------------------------------------------ command line

def load(args):
    """The generator in --model (None: the one shipped), and the channels found for it: {attribute: row of `search`}."""
    folder = args.model or find("toybox") / "stylegan"
    G = Generator.from_pretrained(folder, devices.pick(args.device))
    found = read_config(folder, "channels.json") if "channels.json" in files_in(folder) else {}
    for name, where in found.items():
        try:
            check_place(G, where["layer"], where["channel"], name)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / 'channels.json'} does not fit the generator beside it ({error}); "
                                  "the verb channels writes it") from error
    return G, found


def check_place(G, layer, channel, attribute):
    """ValueError if there is no such style channel or attribute."""
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute {attribute!r}: expected one of {', '.join(ATTRIBUTES)}")
    if layer not in G.layers:
        raise ValueError(f"layer {layer!r}: expected one of {', '.join(G.layers)}")
    width = G.blocks[layer].affine.weight.shape[0]
    if not (type(channel) is int and 0 <= channel < width):
        raise ValueError(f"channel {channel!r} of layer {layer}: expected 0 to {width - 1}")


def demonstrate(args):
    """Two rows of people, then for each attribute one person, while the channel found for it is moved from - to +."""
    began = time.monotonic()
    G, found = load(args)
    steps = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    samples = pictures(G, *people(G, 256, args.seed))
    metrics = {"faces": float((measure(samples)["kind"] == 0).double().mean())}
    figure, labels = [*samples[:2 * len(steps)].unflatten(0, (2, -1))], ["people", ""]
    for name, where in found.items():
        faces = make_pairs(G, where, 8, args.seed, steps, args.by, args.psi)
        rows = torch.stack(list(faces.values()), 1)                                     # (8, steps, 3, 64, 64)
        read = reading(rows.flatten(0, 1))[0][:, ATTRIBUTES.index(name)].unflatten(0, (8, -1))
        metrics[f"{name}_spearman"] = sum(spearman(torch.tensor(steps), r) for r in read) / len(read)
        metrics[f"{name}_change"] = float((read[:, -1] - read[:, 0]).mean())
        figure.append(rows[0])
        labels.append(f"{name}, {where['layer']}:{where['channel']}")
        print(f"{labels[-1]:28s} rank correlation {metrics[f'{name}_spearman']:.2f}, "
              f"change {metrics[f'{name}_change']:+.2f} of the range")
    images.save_figure(args.out / "figure.png", torch.stack(figure), labels, [f"{s:+g}" for s in steps])
    metrics |= {"seconds": time.monotonic() - began, "steps": 0}
    write_json(args.out / "metrics.json", metrics | {"device": str(G.constant.device)})
    print(f"{metrics['faces']:.0%} of 256 samples are faces to the meter; written to {args.out}: figure.png, metrics.json")


def channels_command(args):
    G, _ = load(args)
    rows = best(search(G, args.n, args.by, args.seed, args.psi), 6)
    rows = [row | judged(G, row, 8, args.seed + 1, args.by, args.psi) for row in rows]          # as good as the pairs it makes
    rows = sorted(rows, key=lambda row: -row["score"])
    print(markdown(best(rows, 3), ["attribute", "layer", "channel", "sign", "effect", "purity", "score"]))
    write_json(args.out / "channels.json", {row["attribute"]: row for row in best(rows)})
    print(f"written: {args.out / 'channels.json'}; beside a model's weights, the other verbs use it")


def pairs_command(args):
    G, found = load(args)
    where = found.get(args.attribute) if not args.channel else parsed(G, args.channel, args.attribute)
    if not where:
        raise ValueError(f"no channel is known for attribute {args.attribute!r}, only for {', '.join(found) or 'none'}; "
                         "give one with --channel LAYER:CHANNEL, or run the verb channels")
    faces = make_pairs(G, where, args.n, args.seed, args.strengths, args.by, args.psi)
    save_pairs(args.out, Pairs(args.attribute, faces, [], {}))
    values = {s: float(reading(f)[0][:, ATTRIBUTES.index(args.attribute)].mean()) for s, f in faces.items()}
    print("  ".join(f"{args.attribute} at {s:+g}: {v:.2f}" for s, v in values.items()) + f" of its range; written to {args.out}")


def parsed(G, text, attribute):
    """A row like those of `search` from "16_conv:12", or "16_conv:-12" to turn it round."""
    layer, _, number = text.partition(":")
    if not number.lstrip("-").isdigit():
        raise ValueError(f"--channel {text!r}: expected LAYER:CHANNEL, such as {G.layers[0]}:12; "
                         "a minus before the number turns it round")
    check_place(G, layer, int(number.lstrip("-")), attribute)
    return {"attribute": attribute, "layer": layer, "channel": int(number.lstrip("-")), "sign": -1 if number.startswith("-") else 1}


def evaluate(args):
    """Samples against fresh drawings, and the channels on people that were not used to find them."""
    G, found = load(args)
    fresh = torch.from_numpy(draw(2 * args.n, args.seed + 1_000_000)).float() / 255
    features = lambda faces: torch.cat([shipped().features(part) for part in faces.split(256)]).detach()
    real, other = features(fresh[:args.n]), features(fresh[args.n:])
    table = [{"pictures": "other drawings", "Frechet distance": frechet(real, other), "faces": 1.0}]
    for psi in (1.0, args.psi):
        samples = pictures(G, *people(G, args.n, args.seed + 1, psi))
        table.append({"pictures": f"samples, psi {psi:g}", "Frechet distance": frechet(real, features(samples)),
                      "faces": float((measure(samples)["kind"] == 0).double().mean())})
    rows = []
    for where in found.values():
        everybody = judged(G, where, 128, args.seed + 2, args.by, args.psi, candidates=1)
        taken = judged(G, where, 16, args.seed + 3, args.by, args.psi)
        rows.append({"attribute": where["attribute"], "channel": f"{where['layer']}:{where['channel']}"}
                    | {f"{k}, {name}": row[k] for name, row in (("everybody", everybody), ("pairs", taken))
                       for k in ("effect", "purity", "right way")})
    write_json(args.out / "table.json", {"samples": table, "channels": rows})
    text = "\n".join(markdown(part, list(part[0])) for part in (table, rows) if part)
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    print(text)


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", type=Path, default=None, help="folder of a generator (default: the one shipped)")
    add("--out", type=Path, default=None, help="where results go (default: outputs/stylegan; of train outputs/toybox, to stylegan/ in it)")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training and of the people")
    add("--psi", type=float, default=0.7, help="truncation of the people that are moved; 1 is none")
    add("--by", type=float, default=6.0, help="standard deviations by which strength 1 moves a channel")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(parents=[common], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text: verbs.add_parser(name, help=text, **how)
    learn = new("train", "train generator and discriminator; killed and started again, it goes on")
    learn.add_argument("--minutes", type=float, default=90.0, help="of the clock, all starts together")
    learn.add_argument("--steps", type=int, help="turns, half of them D's (default: no limit but the minutes)")
    learn.add_argument("--batch", type=int, default=16, help="pictures per turn (paper: 32)")
    learn.add_argument("--pictures", type=int, default=20_000, help="portraits drawn ahead")
    learn.add_argument("--lr", type=float, default=2e-3, help="learning rate of both (paper: 2e-3)")
    learn.add_argument("--gamma", type=float, default=2.0, help="weight of R_1 (paper: 10 for 1024 x 1024)")
    learn.add_argument("--ema", type=float, default=0.998, help="decay of the running average of G, per turn")
    learn.add_argument("--fresh", action="store_true", help="forget the checkpoint in --out")
    find_them = new("channels", "move every style channel and print what each attribute is moved by")
    find_them.add_argument("--n", type=int, default=24, help="people")
    write = new("pairs", "folders of pictures before and after a channel is moved, for a visual slider")
    write.add_argument("--attribute", required=True, help=", ".join(ATTRIBUTES))
    write.add_argument("--n", type=int, default=6, help="people")
    write.add_argument("--channel", help="LAYER:CHANNEL in place of the one found")
    write.add_argument("--strengths", type=float, nargs="+", default=[-1.0, 1.0], help="one folder each")
    table = new("eval", "distance to fresh drawings, and how good the channels are")
    table.add_argument("--n", type=int, default=2000, help="pictures on each side")
    args = command.parse(parser, argv)
    args.G, args.D = G_CONFIG, D_CONFIG
    args.out = args.out or Path("outputs/toybox" if args.verb == "train" else "outputs/stylegan")
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded or drawn."""
    fewest = 600 if args.verb == "eval" else 1                  # the meter has 256 features
    lowest = {"n": fewest, "pictures": 1, "steps": 1, "batch": 1, "seed": 0}
    for name, low in lowest.items():
        value = getattr(args, name, None)
        if value is not None and value < low:
            parser.error(f"--{name} is {value}, expected at least {low}")
    for name in ("minutes", "lr", "by"):
        if not 0 < getattr(args, name, 1) < math.inf:
            parser.error(f"--{name} is {getattr(args, name)}, expected a number above 0")
    if not (0 <= args.psi <= 2 and 0 <= getattr(args, "ema", 0) < 1 and 0 <= getattr(args, "gamma", 0) < math.inf):
        parser.error("--psi must be from 0 to 2, --ema from 0 to below 1, --gamma at least 0")
    if args.verb == "train" and args.batch > args.D["group"] and args.batch % args.D["group"]:
        parser.error(f"--batch is {args.batch}, expected a multiple of {args.D['group']}, the group that D compares")
    if args.verb == "pairs" and args.attribute not in ATTRIBUTES:
        parser.error(f"--attribute {args.attribute!r}: expected one of {', '.join(ATTRIBUTES)}")
    strengths = getattr(args, "strengths", [-1, 1])
    if len(set(strengths)) < 2 or not all(abs(s) <= 5 for s in strengths):
        parser.error(f"--strengths {' '.join(map(str, strengths))}: expected two or more different numbers from -5 to 5")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train, "channels": channels_command, "pairs": pairs_command, "eval": evaluate}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
