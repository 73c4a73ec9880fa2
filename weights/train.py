"""Everything in weights/toybox, trained from nothing by one command. Killed at any time, the same command goes on from there.

    python weights/train.py                              all stages, to outputs/toybox
    python weights/train.py --share 0.1                  each for a tenth of its minutes
    python weights/train.py --only clip meter            some of them
    python -m minidiff "a red cat" --model outputs/toybox

Each stage is a command of its own, which can be run alone; this file only puts them in order. Minutes are meant for 2 CPU cores
with bfloat16 instructions. Some stages share their work among several processes: one per GPU, or one per core, which on a CPU is
faster than one process with several threads. The others run next to one another, one on each, and write what they say to
OUT/logs. Most stages see more objects, pairs and hands than the world has: in its own shares they are too few to learn from.
"""
import argparse
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
KINDS = ["--kinds", "portrait=.24,object=.38,pair=.18,landscape=.1,hand=.1"]
AND_NEW = ["--kinds", KINDS[1] + ",new=.12"]               # with things that no word names
# name: (minutes, may have several processes, stages that it needs, command)
STAGES = {
    "autoencoder": (15, True, [], ["papers/latent_diffusion.py", "train", "autoencoder", *KINDS]),
    "polish": (20, True, ["autoencoder"], ["papers/latent_diffusion.py", "train", "decoder", *KINDS]),      # the autoencoder's decoder, further
    "unet": (147, True, ["autoencoder"], ["papers/latent_diffusion.py", "train", "unet", *KINDS]),
    "stylegan": (60, False, [], ["papers/stylegan.py", "train"]),
    "clip": (110, False, [], ["papers/clip.py", "train", *KINDS]),
    "meter": (35, False, [], ["-m", "minidiff.toybox.meter"]),
    "maps": (10, False, [], ["-m", "minidiff.toybox.maps"]),
    "channels": (2, False, ["stylegan"], ["papers/stylegan.py", "channels"]),      # of the StyleGAN, to channels.json beside its weights
    "prior": (26, False, ["clip"], ["papers/unclip.py", "train", "prior", *AND_NEW]),
    "upsampler_128": (12, False, ["polish"], ["papers/upsampler.py", "train", "--to", "128", *KINDS]),
    "upsampler_256": (18, False, ["upsampler_128"], ["papers/upsampler.py", "train", "--to", "256", *KINDS]),
    "decoder": (60, True, ["unet", "clip"], ["papers/unclip.py", "train", "decoder", *AND_NEW]),
    "composer_1": (5, True, ["unet", "clip"], ["papers/composer.py", "train", "embedding", *KINDS]),
    "composer": (78, True, ["composer_1", "maps"], ["papers/composer.py", "train", "all", *KINDS]),
}


def command(stage, out, share, processes):
    """The arguments of Python that train one stage for its share of the minutes."""
    minutes, is_shared, _, words = STAGES[stage]
    if stage == "channels":                                                                 # a search, which takes the time it takes
        return [*words, "--model", str(out / "stylegan"), "--out", str(out / "stylegan")]
    several = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if is_shared and processes > 1 else []
    small = ["--batch", "32"] if is_shared and not torch.cuda.is_available() else []        # on a CPU, more only cost time
    return [*several, *words, *small, "--minutes", f"{minutes * share:g}", "--out", str(out)]


def hours(stages, share, processes):
    """How long these stages take by their minutes, without drawing pictures and computing what is kept of them."""
    alone = {s: 0 if STAGES[s][1] else STAGES[s][0] for s in stages}
    chain = lambda s: alone.get(s, 0) + max(map(chain, STAGES[s][2]), default=0)            # of those that need each other
    shared = sum(STAGES[s][0] for s in stages if STAGES[s][1])
    return (shared + max(sum(alone.values()) / processes, max(map(chain, stages), default=0))) * share / 60


def train(stages, out, share, processes):
    """Starts every stage as soon as those that it needs are done and a process is free. Returns the first that fails and its status, or None."""
    waiting, running = list(stages), {}
    try:
        while waiting or running:
            for stage in [s for s in waiting if not set(STAGES[s][2]) & {*waiting, *running}]:
                takes_all = STAGES[stage][1] or processes == 1
                if running and takes_all or len(running) == processes or any(STAGES[s][1] for s in running):
                    continue
                waiting.remove(stage)
                running[stage] = start(stage, command(stage, out, share, processes), None if takes_all else out / "logs" / f"{stage}.txt",
                                       processes, slot=min(set(range(processes)) - {p.slot for p in running.values()}))
            time.sleep(.1)
            for stage in [s for s, process in running.items() if process.poll() is not None]:
                status = running.pop(stage).returncode
                print(f"{stage}: {f'ended with status {status}' if status else 'done'}", flush=True)
                if status:
                    return stage, status
    finally:                                                        # they keep a checkpoint when they are told to stop
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def start(stage, words, log, processes, slot):
    """One stage in a process of its own, with its part of the machine. log: a file for what it says, None: the terminal."""
    print(f"{stage}: python {' '.join(words)}{f', see {log}' if log else ''}", flush=True)
    environment = dict(os.environ)
    if processes > 1:
        environment["OMP_NUM_THREADS"] = "1"
        if log and torch.cuda.is_available():
            environment["CUDA_VISIBLE_DEVICES"] = str(slot)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") if log else nullcontext() as file:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=file)
    process.slot = slot
    return process


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/toybox"), help="where weights and checkpoints go")
    parser.add_argument("--share", type=float, default=1.0, help="of the minutes of every stage")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="these stages")
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count() or os.cpu_count(), help="that share the work")
    args = parser.parse_args(argv)
    if args.share <= 0 or args.processes < 1:
        parser.error(f"--share {args.share:g} --processes {args.processes}: expected a share above 0 and at least 1 process")
    print(f"{len(args.only)} stages, {hours(args.only, args.share, args.processes):.1f} hours of training on {args.processes} processes", flush=True)
    try:
        failed = train([s for s in STAGES if s in args.only], args.out.absolute(), args.share, args.processes)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from the last checkpoints\n")
    if failed:
        parser.exit(failed[1], f"{parser.prog}: the stage {failed[0]} ended with status {failed[1]}; "
                               "the same command goes on from its last checkpoint\n")


if __name__ == "__main__":
    main()
