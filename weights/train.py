"""Everything in weights/toybox, trained from nothing by one command. Killed at any time, the same command goes on from there.

    python weights/train.py                              all stages in order, to outputs/toybox
    python weights/train.py --share 0.1                  each for a tenth of its minutes
    python weights/train.py --only clip meter            some of them
    python -m minidiff "a red cat" --model outputs/toybox

Each stage is a command of its own, which can be run alone; this file only puts them in order. Minutes are meant for 2 CPU cores
with bfloat16 instructions. Most stages see more objects, pairs and hands than the world has: in its own shares they are too few to
learn from. Some stages share their work among several processes: one per GPU, or one per core, which on a CPU is faster than one
process with several threads.
"""
import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
KINDS = ["--kinds", "portrait=.25,object=.4,pair=.18,landscape=.07,hand=.1"]
# name: (minutes, may have several processes, command)
STAGES = {
    "autoencoder": (20, True, ["papers/latent_diffusion.py", "train", "autoencoder"]),
    "unet": (180, True, ["papers/latent_diffusion.py", "train", "unet", *KINDS]),
    "clip": (60, False, ["papers/clip.py", "train", *KINDS]),
    "meter": (45, False, ["-m", "minidiff.toybox.meter"]),
    "stylegan": (90, False, ["papers/stylegan.py", "train"]),
    "channels": (2, False, ["papers/stylegan.py", "channels"]),             # of the StyleGAN before it, to channels.json beside its weights
    "prior": (30, False, ["papers/unclip.py", "train", "prior", *KINDS]),
    "decoder": (60, True, ["papers/unclip.py", "train", "decoder", *KINDS]),
    "maps": (20, False, ["-m", "minidiff.toybox.maps"]),
    "composer_1": (20, True, ["papers/composer.py", "train", "embedding", *KINDS]),
    "composer": (100, True, ["papers/composer.py", "train", "all", *KINDS]),
    "upsampler_128": (30, False, ["papers/upsampler.py", "train", "--to", "128", *KINDS]),
    "upsampler_256": (30, False, ["papers/upsampler.py", "train", "--to", "256", *KINDS]),
}


def command(stage, out, share, processes):
    """The arguments of Python that train one stage for its share of the minutes."""
    minutes, is_shared, words = STAGES[stage]
    if stage == "channels":                                                                 # a search, which takes the time it takes
        return [*words, "--model", str(out / "stylegan"), "--out", str(out / "stylegan")]
    several = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if is_shared and processes > 1 else []
    small = ["--batch", "32"] if is_shared and not torch.cuda.is_available() else []        # on a CPU, more only cost time
    return [*several, *words, *small, "--minutes", f"{minutes * share:g}", "--out", str(out)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox"), help="where weights and checkpoints go")
    parser.add_argument("--share", type=float, default=1.0, help="of the minutes of every stage")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="these stages")
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count() or os.cpu_count(), help="that share the work")
    args = parser.parse_args(argv)
    if args.share <= 0 or args.processes < 1:
        parser.error(f"--share {args.share:g} --processes {args.processes}: expected a share above 0 and at least 1 process")
    for stage in args.only:
        words = command(stage, args.out.absolute(), args.share, args.processes)
        print(f"{stage}: python {' '.join(words)}", flush=True)
        threads = {"OMP_NUM_THREADS": "1"} if "torch.distributed.run" in words else {}
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | threads)
        if done.returncode:
            parser.exit(done.returncode, f"{parser.prog}: the stage {stage} ended with status {done.returncode}; "
                                         "the same command goes on from its last checkpoint\n")


if __name__ == "__main__":
    main()
