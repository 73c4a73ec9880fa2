"""Why Custom Diffusion trains what it does, and how small it can be stored. Run by `python papers/custom_diffusion.py analyze`.

    rate_of_change.png   Fig. 3: when everything is fine-tuned, which layers change most, || theta' - theta || / || theta ||. Adam moves
                         most weights about equally far, so that small ones change most; the table has how far, and how large they are
    compression.png      Appendix C: pictures with fewer and fewer singular values of the change; the last row has the new word only
    analysis.json        both as numbers, with the image alignment (mean cosine of toybox's CLIP to the given pictures) of each size
"""
import argparse

import custom_diffusion as paper
import torch
from PIL import Image, ImageDraw

from minidiff import images
from minidiff.checkpoints import write_json
from minidiff.deltas import Delta
from minidiff.metrics import markdown

COLUMNS = "change", "of a weight (root mean square)", "size of a weight"
SHARES = (1.0, .8, .6, .4, .2, .05, 0)                           # of the sum of the singular values; 0: the new word alone


def run(args):
    rates, curve = rates_when_all_is_trained(args), compression_curve(args)
    write_json(args.out / "analysis.json", {"rate_of_change": rates, "compression": curve})
    print(markdown([{"group": group} | {k: f"{v:.5f}" for k, v in of.items()} for group, of in rates.items()], ["group", *COLUMNS]))
    print(markdown(curve, list(curve[0])))
    print(f"written to {args.out}: rate_of_change.png, compression.png, analysis.json")


def rates_when_all_is_trained(args):
    """{group of layers: its COLUMNS}."""
    pipe = paper.load(args)
    before = {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    paper.train(pipe, argparse.Namespace(**vars(args) | {"train": "all", "lr": None}))
    rates = rate_of_change(before, pipe.unet.state_dict())
    changes = {group: of["change"] for group, of in rates.items()}
    images.save(args.out / "rate_of_change.png", bars(changes, "mean change of a layer, relative to its size"))
    return rates


def rate_of_change(before, after):
    """{group: its COLUMNS, means over its matrices and convolutions}. Source: Fig. 3.

    before, after: {name in the UNet: weight}.
    """
    found = {"cross-attention": [], "self-attention": [], "the rest": []}
    for name, theta in before.items():
        if theta.ndim > 1:
            group = "cross-attention" if ".attn2." in name else "self-attention" if ".attn1." in name else "the rest"
            moved, size = (float(w.square().mean().sqrt()) for w in (after[name] - theta, theta))
            found[group].append((moved / size, moved, size))                                            # Delta_l first
    return {group: dict(zip(COLUMNS, (sum(v) / len(v) for v in zip(*layers)))) for group, layers in found.items() if layers}


def compression_curve(args):
    """Rows {share of the singular values, bytes, image alignment}; share 0 is the new word alone."""
    pipe = paper.load(args)
    base = {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    (concept, *_), delta, _ = paper.train(pipe, args)
    prompts, rows, pictures = [scene.format(f"a {concept.name}") for scene in paper.SCENES], [], []
    for share in SHARES:
        pipe.unet.load_state_dict(base)
        small = delta.compressed(pipe.unet, share) if 0 < share < 1 else Delta(delta.weights if share else {}, delta.rows)
        Delta(small.weights).apply(pipe)                        # pipe knows the word already
        pictures.append(pipe(prompts, args.n, args.sampling, args.guidance, args.seed).cpu())
        rows.append({"share of the singular values": share, "bytes": small.nbytes,
                     "image alignment": paper.image_alignment(pictures[-1], concept.pictures)})
    columns = torch.stack([made[::args.n] for made in pictures])
    images.save_figure(args.out / "compression.png", columns, [f"{row['bytes'] / 1e3:.1f} kB" for row in rows])
    return rows


def bars(values, title, width=420):
    """A picture (3, H, W) of {label: number} as horizontal bars."""
    sheet = Image.new("RGB", (width, 30 + 26 * len(values)), "white")
    pen, longest = ImageDraw.Draw(sheet), max(values.values()) or 1
    pen.text((6, 6), title, fill="black")
    for i, (label, value) in enumerate(values.items()):
        y = 30 + 26 * i
        pen.text((6, y + 3), label, fill="black")
        pen.rectangle((120, y, 120 + int((width - 190) * value / longest), y + 16), fill=(70, 110, 180))
        pen.text((width - 64, y + 3), f"{value:.4f}", fill="black")
    return images.from_pillow(sheet)
