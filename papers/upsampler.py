"""Cascaded diffusion. Ho, Saharia, Chan, Fleet, Norouzi, Salimans, "Cascaded Diffusion Models for High Fidelity Image Generation",
JMLR 2022, arXiv:2106.15282: the stages that make a drawn picture larger. Composer (arXiv:2302.09778) and unCLIP (arXiv:2204.06125)
each have two, told nothing but the small picture.

    paper     code      meaning                                                                      shape
    --------  --------  ---------------------------------------------------------------------------  ----------------------
    x_0       y         the large picture, in [-1, 1]                                                (B, 3, H, H)
    z, z_0    z         the small one                                                                (B, 3, H/f, H/f)
    z_s       z_s       z with noise of deviation s: conditioning augmentation (Sec. 3.3)            the same
    -         b, b_s    z and z_s, enlarged by bicubic interpolation                                 (B, 3, H, H)
    -         x_0       not the paper's: (y - b) / std, what bicubic lacks, in patches of p x p      (B, 3 p p, H/p, H/p)
    x_t       x_t, eps  our x_0 with noise, and the noise                                            the same
    x_theta   unet      predicts our x_0 of x_t, told t, b_s and s (minidiff/upsampler.py)           the same
    s, t      s, t      how much noise is in z_s, and when in the diffusion we are                   (B,)

Sections are those of Ho et al., v3; they are from public notes that quote it page by page, not from the paper itself. What unCLIP does
is in its appendix C, what Composer does in a sentence or two: nobody has published more.

A small picture from a model is not one from the world: what draws it makes mistakes, and a stage that has only seen the world's
takes them for detail. So it learns from noisy ones and is told how noisy, one network for every s (Sec. 3); when it is used, the small
picture is drawn to its end and then made a little noisy (Sec. 3.3, "non-truncated"). Half of its small pictures have also been through
what comes before it: the autoencoder, and the stages below.

Differs from the papers
  * It draws what bicubic interpolation of z lacks, not the picture: that is zero wherever nothing happens, so flat areas stay flat
    however small the network is. The noise of z_s is only told, and nothing has to be undone.
  * It predicts x_0 (paper: the noise): 24 channels need not carry noise through the network, and the last step's answer has none.
  * The loss is absolute, as in one version of SR3 (Saharia et al. 2021, arXiv:2104.07636), not squared: what is missing is 0 nearly
    everywhere, and with squares so small a network draws coloured noise along edges.
  * The UNet works on patches of 2 x 2 pixels, a quarter of the places; 0.2 M parameters (Composer: 1.1 B and 0.3 B), with attention at
    its coarsest level, as in Composer (unCLIP: none). It sees crops of 64 pixels (unCLIP: of a quarter of the side).
  * Noise is added to z, uniform in [0, 0.1], without shrinking z, and s enters as a plane beside the picture: the UNet has one clock.
    (Ho et al.: the noise of the forward process, which shrinks z, Sec. 3.3; to 128 and 256 pixels blur, for half of the pictures,
    Sec. 3.1. unCLIP: blur, then other damage.)
  * Factors of 2, 64 -> 128 -> 256 (Composer: 4, 64 -> 256 -> 1024; that is `train --from 64 --to 256`, then `--from 256 --to 1024`).

Cost    A stage has 0.23 M parameters, 0.5 MB. The shipped ones saw 60,000 and 103,000 crops in 72 minutes each, on a part of one core; on a core
        of its own 58 in a second.

Run     python papers/upsampler.py                                  fresh pictures at 256 pixels, and what was lost, from the shipped weights
        python papers/upsampler.py enlarge --images a.png b.png     pictures of yours
        python papers/upsampler.py eval                             against bicubic interpolation, on fresh renders: table.md
        python papers/upsampler.py train --to 128                   then `train --to 256`, which needs the first one
        python papers/upsampler.py train --to 128 --images DIR      on photos
        torchrun --nproc_per_node 8 papers/upsampler.py train --to 128      on several GPUs
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from minidiff import command, devices, images, photos, toybox
from minidiff.checkpoints import bring, find, save_folder, write_atomically, write_json
from minidiff.metrics import markdown, mean_std, psnr
from minidiff.precomputed import device_of, once
from minidiff.schedule import Schedule
from minidiff.toybox.store import kind_shares, prepare
from minidiff.toybox.world import CLASSES, draw
from minidiff.training import Run, count, main_process_first
from minidiff.unet import UNet, zero_residuals
from minidiff.upsampler import Upsampler, cascade, upsample
from minidiff.vae import VAE

SCHEDULE = dict(beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing", steps_offset=0, set_alpha_to_one=True)


def unet_config(channels, patch):
    """Told x_t, b and s: 3 p p channels, as many again, and one."""
    levels, pixels = len(channels), 3 * patch ** 2
    return dict(in_channels=2 * pixels + 1, out_channels=pixels, block_out_channels=channels, layers_per_block=1, attention_head_dim=2,
                cross_attention_dim=None, norm_num_groups=4, down_block_types=["DownBlock2D"] * levels, up_block_types=["UpBlock2D"] * levels)


# ------------------------------------------------------------------------------------------------ training

def upsampler_loss(prediction, x_0):
    """|| x_theta(x_t, t, z_s, s) - x_0 ||_1 per number."""
    return (prediction - x_0).abs().mean()


def augmented(z, s, generator):
    """z_s: z (B, 3, h, w) with noise of deviation s (B,). Source: Sec. 3.3, without shrinking z."""
    return z + s.reshape(-1, 1, 1, 1) * torch.randn(z.shape, generator=generator, device=z.device)


def train(args):
    """One stage; writes args.out/upsampler_SIZE."""
    if args.steps is None and args.minutes is None:
        args.minutes = 30.0
    torch.manual_seed(args.seed)
    with main_process_first():
        pairs = prepared(args)
    schedule = Schedule(**SCHEDULE)
    unet = zero_residuals(UNet(**unet_config(args.channels, args.patch))).to(args.device, memory_format=torch.channels_last)
    upsampler = Upsampler(unet, schedule, args.low, args.to, std=1.0, noise=args.noise)
    upsampler.std = deviation(upsampler, pairs)
    run = Run(args.out / f"upsampler_{args.to}", {"unet": unet}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch,
              ema=.998, seed=args.seed, fresh=args.fresh, name=f"upsampler to {args.to} {count(unet):.2f}M")
    for step, generator in run:
        y, z = (x.to(run.device) for x in pairs(run.batch, generator))
        s = args.noise * torch.rand(run.batch, generator=generator, device=run.device)
        x_0 = upsampler.missing_of(y, upsampler.enlarged(z))
        b_s = upsampler.enlarged(augmented(z, s, generator))
        t = torch.randint(schedule.T, (run.batch,), generator=generator, device=run.device)
        x_t = schedule.add_noise(x_0, torch.randn(x_0.shape, generator=generator, device=run.device), t)
        with devices.autocast(run.device):
            prediction = upsampler.predict(x_t, t, b_s, s).float()
        run.update(upsampler_loss(prediction, x_0))
    if run.rank == 0:
        save_folder(run.averaged("unet"), upsampler.config, args.out / f"upsampler_{args.to}")
        schedule.save_pretrained(args.out / f"upsampler_{args.to}")


def deviation(upsampler, pairs):
    """Of what bicubic interpolation lacks: the unit of x_0."""
    y, z = pairs(256, torch.Generator().manual_seed(0))
    return float((y - upsampler.enlarged(z)).std())


def prepared(args):
    """A function pairs(n, generator): random crops y (n, 3, H, H) of large pictures and the same of small ones, z, in [-1, 1].

    The pictures are drawn, or photos decoded, at each size; what the stages before this one make of them is computed once.
    """
    stores = {size: store_of(size, args) for size in (args.first, args.low, args.to)}
    made, factor, n = what_is_made(stores[args.first], args), args.to // args.low, args.crop // (args.to // args.low)

    def pairs(batch, generator):
        draws = lambda high: torch.randint(high, (batch,), generator=generator, device=generator.device).cpu()
        index, row, column = draws(len(stores[args.to])), draws(args.low - n + 1), draws(args.low - n + 1)
        is_made = torch.rand(batch, generator=generator, device=generator.device).cpu() < args.made
        z = torch.where(is_made[:, None, None, None], made(index), stores[args.low].images(index))
        cut = lambda x, k: torch.stack([p[:, k * i:k * (i + n), k * j:k * (j + n)] for p, i, j in zip(x, row, column)])
        return cut(stores[args.to].images(index), factor), cut(z, 1)
    return pairs


def store_of(size, args):
    """The pictures to learn from, `size` pixels wide; the same ones at every size."""
    if args.images:
        return photos.prepare(args.out / f"photos_{size}", args.images, size)
    return prepare(args.out / f"pictures_{size}", args.pictures, args.seed, kinds=args.kinds, size=size)


def what_is_made(store, args):
    """A function of an index: pictures as this stage will be given them, (B, 3, low, low) in [-1, 1].

    What the autoencoder makes of the smallest ones, made larger by the stages that are there already.
    """
    bring("vae", args.out)
    vae = VAE.from_pretrained(args.out / "vae", args.device, torch.float32)
    stages = cascade(args.out, args.first, args.low, args.device)

    def compute(index):
        x = decoded(vae, (store.images(index) + 1) / 2)
        return (upsample(stages, x, seed=int(index[0]), steps=2) * 255).round()
    made_by = [*vae.state_dict().values(), *(v for stage in stages for v in stage.unet.state_dict().values())]
    made = once(store, f"made_{args.low}", made_by, compute, torch.uint8, batch=32)
    return lambda index: torch.from_numpy(made[index.numpy()]).float() / 127.5 - 1


@torch.no_grad()
def decoded(vae, x):
    """Pictures in [0, 1], on the CPU, after a round through the autoencoder."""
    return (vae.decode(vae.encode(2 * x.to(device_of(vae)) - 1)[0]).float() / 2 + .5).clamp(0, 1).cpu()


# ------------------------------------------------------------------------------------------------ measuring

def slopes(x):
    """How much grey changes from pixel to pixel, along rows and columns: (n, 2, H - 1, W - 1)."""
    grey = x.mean(dim=1)
    return torch.stack([grey[:, :-1, 1:] - grey[:, :-1, :-1], grey[:, 1:, :-1] - grey[:, :-1, :-1]], dim=1)


def edges(x, y):
    """{measure: number} of pictures x, of which y is the truth; grey levels 0 to 255.

    sharpness: how steep the 5 % steepest places of x are, as a share of those of y, wherever they are; 1 is as sharp as the truth.
    texture: how steep x is, on average, in places around which y is flat; what is there was invented.
    """
    a, b = slopes(x), slopes(y)
    steep, steep_y = a.norm(dim=1), b.norm(dim=1)
    steepest = lambda v: v.flatten(1).topk(v[0].numel() // 20, dim=1).values.mean()
    is_flat = F.max_pool2d(steep_y[:, None], 9, stride=1, padding=4)[:, 0] < 2 / 255
    return {"slope error": 255 * float((a - b).abs().mean()), "sharpness": float(steepest(steep) / steepest(steep_y)),
            "texture": 255 * float(steep[is_flat].mean())}


def agreement(x, small, truth):
    """How often the meter reads the same class off pictures x and off the renders `small`, of what is in the scene."""
    a, b = toybox.measure(x), toybox.measure(small)
    return float(torch.cat([(a[k] == b[k])[truth[k] >= 0] for k in CLASSES]).double().mean())


def score(stages, vae, n, seed, sampling, s):
    """{row: {column: number}} of n fresh scenes: every size of the cascade, from renders and from what the autoencoder makes of them."""
    batch = toybox.sample(n, seed, size=stages[0].low)
    given, rows = {"render": batch.images, "decoded": decoded(vae, batch.images)}, {}
    for k, stage in enumerate(stages, 1):
        y = draw(batch.scenes, size=stage.high).images
        bicubic = lambda x: F.interpolate(x, size=(stage.high, stage.high), mode="bicubic", align_corners=False).clamp(0, 1)
        ways = {"bicubic": bicubic, "1 step": lambda x: upsample(stages[:k], x, seed, 1, s),
                f"{sampling} steps": lambda x: upsample(stages[:k], x, seed, sampling, s)}
        for source, x in given.items():
            for way, make in ways.items():
                began = time.monotonic()
                out = make(x)
                rows[f"{stage.high}, {source}, {way}"] = {
                    "PSNR": float(psnr(out, y, torch.ones_like(y[:, :1])).mean()), **edges(out, y),
                    "meter agrees": agreement(out, batch.images, batch.attributes), "seconds": (time.monotonic() - began) / n}
    return rows


def evaluate(args):
    """The cascade against bicubic interpolation: table.md, table.json and on the screen."""
    stages, vae = load(args)
    seeds = [args.seed + 900 + i for i in range(args.repeats)]
    runs = [score(stages, vae, args.pictures, seed, args.sampling, args.s) for seed in seeds]
    rows = [{"": row} | {k: mean_std([run[row][k] for run in runs], 3) for k in cells} for row, cells in runs[0].items()]
    text = markdown(rows, list(rows[0]))
    write_json(args.out / "table.json", {"rows": rows, "seeds": seeds, "pictures": args.pictures, "s": args.s})
    write_atomically(args.out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    print(f"{text}\ntable.md and table.json: {args.out}")


# ------------------------------------------------------------------------------------------------ use

def load(args):
    """The stages from args.low to args.size pixels, and the autoencoder beside them."""
    return cascade(args.model, args.low, args.size, args.device), VAE.from_pretrained(find(args.model) / "vae", args.device, torch.float32)


def demo(args):
    """Fresh pictures, large: figure.png, metrics.json."""
    began, (stages, vae) = time.monotonic(), load(args)
    scenes = [s for i, kind in enumerate(("object", "portrait", "pair", "landscape")) for s in toybox.sample(1, args.seed + 800 + i, kind).scenes]
    x, y = (draw(scenes, size=size).images for size in (args.low, args.size))
    x_hat = decoded(vae, x)
    bicubic = lambda x: F.interpolate(x, size=(args.size, args.size), mode="bicubic", align_corners=False).clamp(0, 1)
    ours = lambda x: upsample(stages, x, args.seed, args.sampling, args.s)
    columns = {"bicubic": bicubic(x), "cascade": ours(x), "autoencoder, bicubic": bicubic(x_hat), "autoencoder, cascade": ours(x_hat), "truth": y}
    images.save_figure(args.out / "figure.png", torch.stack(list(columns.values()), dim=1), column_labels=list(columns), scale=1)
    whole = torch.ones_like(y[:, :1])
    metrics = {f"PSNR, {name}": float(psnr(out, y, whole).mean()) for name, out in list(columns.items())[:-1]}
    metrics |= {f"sharpness, {name}": edges(out, y)["sharpness"] for name, out in list(columns.items())[:-1]}
    write_json(args.out / "metrics.json", metrics | {"seconds": time.monotonic() - began, "device": str(args.device), "steps": args.sampling})
    print("\n".join(f"{k:34s} {v:.3f}" for k, v in metrics.items()) + f"\nfigure.png and metrics.json: {args.out}")


def enlarge(args):
    """Pictures of yours, each to args.out/NAME_SIZE.png; to 1_NAME_SIZE.png, 2_... if two have the same name."""
    stages, _ = load(args)
    names = [path.stem for path in args.images]
    if len(set(names)) < len(names):                            # x/a.png and y/a.png
        names = [f"{i}_{name}" for i, name in enumerate(names, 1)]
    for path, name in zip(args.images, names):
        place = args.out / f"{name}_{args.size}.png"
        images.save(place, upsample(stages, images.load(path, args.low)[None], args.seed, args.sampling, args.s)[0])
        print(place)


# ------------------------------------------------------------------------------------------------ command line

def check_sizes(args):
    """ValueError for sizes that do not go together; fills in args.low."""
    args.low = args.low or args.to // 2
    factor = args.to // args.low
    if args.to != factor * args.low or factor < 2:
        raise ValueError(f"--from {args.low} --to {args.to}: expected a whole number of times as many pixels, at least twice")
    args.crop = min(args.crop, args.to)
    if args.crop % factor or args.crop % args.patch:
        raise ValueError(f"--crop {args.crop} is not a multiple of the factor {factor} and of the patch, {args.patch}")
    if any(c < 4 or c % 4 for c in args.channels):
        raise ValueError(f"--channels {' '.join(map(str, args.channels))}: expected multiples of 4, from 4 on")


def train_stage(args):
    check_sizes(args)
    train(args)


VERBS = {"demo": demo, "train": train_stage, "enlarge": enlarge, "eval": evaluate}
LIMITS = {"to": (8, math.inf), "low": (8, math.inf), "first": (8, math.inf), "crop": (8, math.inf), "patch": (1, 16), "batch": (1, math.inf),
          "pictures": (1, math.inf), "repeats": (1, math.inf), "seed": (0, math.inf), "made": (0, 1), "sampling": (1, 1000), "s": (0, 1),
          "noise": (1e-3, 1), "size": (8, math.inf)}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb")
    add = lambda name, help: verbs.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo, train = add("demo", "the demonstration; also without a verb"), add("train", "train one stage")
    enlarge, test = add("enlarge", "make pictures larger"), add("eval", "the table")
    train.add_argument("--to", type=int, default=128, help="pixels of the large pictures")
    train.add_argument("--from", type=int, default=None, dest="low", help="pixels of the small ones; by default half as many")
    train.add_argument("--first", type=int, default=64, help="pixels of what the model draws: where the cascade begins")
    train.add_argument("--out", type=Path, default=Path("outputs/toybox"),
                       help="where weights go; its vae/, by default a copy of toybox's, and its stages make small pictures to learn from")
    train.add_argument("--images", type=Path, default=None, metavar="DIR", help="photos; toybox without")
    train.add_argument("--minutes", type=float, default=None, help="stop after this long (whichever of minutes and steps comes first)")
    train.add_argument("--steps", type=int, default=None, help="stop after this many steps (Composer: 1M)")
    train.add_argument("--batch", type=int, default=8, help="crops at a time, in each process (Composer: 512 in all)")
    train.add_argument("--crop", type=int, default=64, help="pixels of a crop of the large picture")
    train.add_argument("--channels", type=int, nargs="+", default=[24, 24, 24], help="of the UNet's levels")
    train.add_argument("--patch", type=int, default=2, help="pixels that the UNet sees as one, along a side")
    train.add_argument("--noise", type=float, default=.1, help="the largest s")
    train.add_argument("--made", type=float, default=.5, help="share of small pictures that have been through the stages before")
    train.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    train.add_argument("--pictures", type=int, default=1000, help="toybox pictures drawn ahead, at each size")
    train.add_argument("--kinds", type=kind_shares, default=None, metavar="KIND=SHARE,...", help="how often each kind of them is drawn")
    train.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    enlarge.add_argument("--images", type=Path, nargs="+", required=True, metavar="PICTURE", help="the largest square of each is made smaller first")
    test.add_argument("--pictures", type=int, default=48, help="for each seed")
    test.add_argument("--repeats", type=int, default=3, help="seeds")
    for verb in (demo, enlarge, test):
        verb.add_argument("--model", default="toybox", help="toybox, or a folder that `train` has written")
        verb.add_argument("--out", type=Path, default=Path("outputs/upsampler"), help="where the results go")
        verb.add_argument("--low", type=int, default=64, help="pixels to begin with")
        verb.add_argument("--size", type=int, default=256, help="pixels to end with")
        verb.add_argument("--sampling", type=int, default=Upsampler.steps, help="DDIM steps of each stage (unCLIP: 27 and 15; Composer: 20)")
        verb.add_argument("--s", type=float, default=Upsampler.s, help="noise that is added to what a stage is given")
    for verb in (demo, train, enlarge, test):
        verb.add_argument("--seed", type=int, default=1, help="of all randomness")
        verb.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    argv = sys.argv[1:] if argv is None else list(argv)
    return parser.parse_args(argv if argv and argv[0] in (*VERBS, "-h", "--help") else ["demo", *argv])


def main(argv=None):
    args = arguments(argv)
    command.run("upsampler.py", checked, args)


def checked(args):
    command.within(args, LIMITS)
    args.device = devices.pick(args.device)
    VERBS[args.verb](args)


if __name__ == "__main__":
    main()
