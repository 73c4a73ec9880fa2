"""A UNet at its true size, random weights: ours against diffusers' on the same files and inputs.

    python tests/parity/true_size.py [--family sd15] [--threads 2] [--repeats 3]

Writes the weights to a temporary folder with the peer's `save_pretrained` (SD 1.5: 3.4 GB, SDXL: 10.3 GB in two shards), loads
them with both, compares one prediction, and prints times as ratios ours / peer, measured in turns (A B A B ...), medians.
Not a test: it takes minutes, and memory for the weights three times over.
"""
import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from minidiff.unet import UNet

# What is not the peer's default; side of the latents.
FAMILIES = {
    "sd15": (dict(cross_attention_dim=768, attention_head_dim=8), 64),
    "sd21": (dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True), 64),
    "sdxl": (dict(block_out_channels=[320, 640, 1280], down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
                  up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], transformer_layers_per_block=[1, 2, 10],
                  attention_head_dim=[5, 10, 20], cross_attention_dim=2048, use_linear_projection=True,
                  addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816), 32),
    "kandinsky22": (dict(block_out_channels=[384, 768, 1152, 1536], layers_per_block=3, out_channels=8, attention_head_dim=64,
                         down_block_types=["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
                         up_block_types=["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"], cross_attention_dim=768,
                         mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift", encoder_hid_dim=1280,
                         addition_embed_type="image", encoder_hid_dim_type="image_proj"), 32),
}


def timed(run):
    began = time.perf_counter()
    out = run()
    return time.perf_counter() - began, out


def in_turns(ours, peer, repeats):
    """Median seconds of ours, of the peer, and the median ratio of pairs; what was run is returned too."""
    pairs = [(timed(ours), timed(peer)) for _ in range(repeats + 1)][1:]            # the first pair warms up
    a, b = ([pair[i][0] for pair in pairs] for i in (0, 1))
    ratio = statistics.median(x / y for x, y in zip(a, b))
    return statistics.median(a), statistics.median(b), ratio, pairs[-1][0][1], pairs[-1][1][1]


def report(what, ours, peer, ratio):
    print(f"{what:44s} {ours:8.3f} s   peer {peer:8.3f} s   ratio {ratio:.2f}", flush=True)


def inputs(family, dtype):
    """x, t, context, added"""
    g, (config, side) = torch.Generator().manual_seed(0), FAMILIES[family]
    draw = lambda *shape: torch.randn(2, *shape, generator=g).to(dtype)
    x, context = draw(4, side, side), draw(77, config["cross_attention_dim"])
    if family == "sdxl":
        return x, torch.tensor([981, 21]), context, {"text_embeds": draw(1280), "time_ids": torch.tensor([[1024., 768, 0, 8, 1024, 1024]] * 2)}
    if family == "kandinsky22":
        return x, torch.tensor([981, 21]), None, {"image_embeds": draw(1280)}
    return x, torch.tensor([981, 21]), context, None


LOAD = """
import re, sys, torch
from minidiff.unet import UNet
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
unet = UNet.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print((peak() - before) * 1024)
"""


def peak(folder, dtype):
    """Bytes by which the memory of a new process grows while it loads the folder, mapped pages included."""
    out = subprocess.run([sys.executable, "-c", LOAD, str(folder), dtype], capture_output=True, text=True, check=True)
    return int(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the weights are, or go and stay; default a temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = args.folder or Path(temporary)
        if not (folder / "config.json").is_file():
            torch.manual_seed(0)
            UNet2DConditionModel(**FAMILIES[args.family][0]).save_pretrained(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for dtype in ("float32", "bfloat16"):
            print(f"memory while loading as {dtype}: {peak(folder, dtype) / size:.2f} of the file's {size / 1e9:.2f} GB")
        *times, ours, peer = in_turns(lambda: UNet.from_pretrained(folder),
                                      lambda: UNet2DConditionModel.from_pretrained(folder), args.repeats)
        report("load the folder, float32", *times)
        for dtype in (torch.float32, torch.bfloat16):
            ours, peer = ours.to(dtype), peer.to(dtype).eval()
            x, t, context, added = inputs(args.family, dtype)
            *times, a, b = in_turns(lambda: ours(x, t, context, added), lambda: peer(x, t, context, added_cond_kwargs=added).sample, args.repeats)
            report(f"one forward, {dtype}", *times)
            print(f"  largest difference, relative to the largest value: {float((a - b).abs().max() / b.abs().max()):.1e}")


if __name__ == "__main__":
    main()
