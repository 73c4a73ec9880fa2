"""Stable Diffusion 1.5's UNet at its true size, random weights: ours against diffusers' on the same files and inputs.

    python tests/parity/true_size.py [--threads 2] [--repeats 3]

Writes 3.4 GB to a temporary folder with the peer's `save_pretrained`, loads them with both, compares one prediction, and
prints times as ratios ours / peer, measured in turns (A B A B ...), medians. Not a test: it takes minutes and 10 GB.
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

SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)          # everything else is the peer's default


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


def inputs(dtype):
    g = torch.Generator().manual_seed(0)
    return (torch.randn(2, 4, 64, 64, generator=g).to(dtype), torch.tensor([981, 21]), torch.randn(2, 77, 768, generator=g).to(dtype))


LOAD = """
import resource, sys, torch
from minidiff.unet import UNet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unet = UNet.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def peak(folder, dtype):
    """Bytes by which the memory of a new process grows while it loads the folder, mapped pages included."""
    out = subprocess.run([sys.executable, "-c", LOAD, str(folder), dtype], capture_output=True, text=True, check=True)
    return int(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the weights are, or go and stay; default a temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = args.folder or Path(temporary)
        if not (folder / "config.json").is_file():
            torch.manual_seed(0)
            UNet2DConditionModel(**SD15).save_pretrained(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for dtype in ("float32", "bfloat16"):
            print(f"memory while loading as {dtype}: {peak(folder, dtype) / size:.2f} of the file's {size / 1e9:.2f} GB")
        *times, ours, peer = in_turns(lambda: UNet.from_pretrained(folder),
                                      lambda: UNet2DConditionModel.from_pretrained(folder), args.repeats)
        report("load the folder, float32", *times)
        for dtype in (torch.float32, torch.bfloat16):
            ours, peer, x = ours.to(dtype), peer.to(dtype).eval(), inputs(dtype)
            *times, a, b = in_turns(lambda: ours(*x), lambda: peer(*x).sample, args.repeats)
            report(f"one forward, {dtype}", *times)
            print(f"  largest difference, relative to the largest value: {float((a - b).abs().max() / b.abs().max()):.1e}")


if __name__ == "__main__":
    main()
