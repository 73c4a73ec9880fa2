"""The score card of the weights in weights/toybox, by one command: their sizes, their scores, and pictures that they draw.

    python weights/scores.py                       everything, for hours; killed at any time, the same command goes on
    python weights/scores.py --quick               little of everything, to outputs/scores/quick: that it works, not how good the weights are
    python weights/scores.py --only clip maps      some of it; the card keeps what was made of the others

Every number and picture comes from a command that can be run alone (SCORES); this file runs them in order and puts what they write
together in outputs/scores/scores.md. What was made is made again when the weights or the command have changed. Captions and seeds
are the same for every version of the weights, so that progress shows.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from minidiff.checkpoints import find, read_tensors, write_atomically, write_json
from minidiff.metrics import markdown

ROOT = Path(__file__).resolve().parents[1]
CAPTIONS = ["an old person with glasses and a beard", "a smiling person with long red hair", "a red cat", "a striped blue dog in a garden",
            "a large yellow guitar", "a white rabbit in the snow", "a brown chair next to a yellow lamp", "a city in the rain"]
# title: commands, each with what is added for the card, or else with --quick
SCORES = {
    "text_to_image": [
        (["papers/latent_diffusion.py", "eval"], ["--pictures", "1000"],
         ["--pictures", "16", "--frechet", "16", "--repeats", "1", "--sampling", "10"]),
        (["papers/latent_diffusion.py"], [], ["--sampling", "10"])],
    "clip": [(["papers/clip.py", "eval"], [], ["--renders", "50"]), (["papers/clip.py", "demo"], [], [])],
    "prior_and_decoder": [
        (["papers/unclip.py", "eval"], [], ["--captions", "32", "--pictures", "8", "--repeats", "1", "--sampling", "5", "--prior-steps", "5"]),
        (["papers/unclip.py", "demo"], [], ["--sampling", "5"]),
        (["papers/unclip.py", "sample", "--prompt", *CAPTIONS], [], ["--sampling", "5"])],
    "composer": [
        (["papers/composer.py", "eval"], [], ["--table", "reconstruction", "--pictures", "4", "--repeats", "1", "--sampling", "5"]),
        (["papers/composer.py", "demo"], [], ["--sampling", "5"]),
        (["papers/composer.py", "sample", "--caption", *CAPTIONS], [], ["--sampling", "5"])],
    "stylegan": [(["papers/stylegan.py", "eval"], ["--n", "1000"], ["--n", "600"]), (["papers/stylegan.py"], [], [])],
    "meter": [(["-m", "minidiff.toybox.meter", "--score", "770011"], [], [])],
    "maps": [(["-m", "minidiff.toybox.maps", "--score", "770012"], [], []), (["papers/composer.py", "decompose"], [], [])],
    "upsamplers": [(["papers/upsampler.py", "eval"], [], ["--pictures", "4", "--repeats", "1"]), (["papers/upsampler.py"], [], [])],
}
# the parts that the scores of a model depend on; those that are not here depend on nearly all
PARTS = {"text_to_image": "vae unet text_encoder tokenizer scheduler meter", "clip": "clip", "stylegan": "stylegan meter", "meter": "meter",
         "maps": "maps", "upsamplers": "upsampler_128 upsampler_256 vae meter"}


def sizes(folder):
    """A Markdown table: parameters and bytes of every part that has weights."""
    rows = []
    for part in sorted(folder.iterdir()):
        files = sorted(part.glob("*.safetensors")) if part.is_dir() else []
        tensors = [t for file in files for t in read_tensors(file).values() if t.is_floating_point()]
        if files:
            rows.append({"part": part.name, "parameters": sum(t.numel() for t in tensors), "bytes": sum(f.stat().st_size for f in files)})
    rows.append({"part": "all", **{k: sum(row[k] for row in rows) for k in ("parameters", "bytes")}})
    return markdown([row | {k: f"{row[k]:,}" for k in ("parameters", "bytes")} for row in rows], list(rows[0]))


def fingerprint(folder, parts=None):
    """Letters and digits that change with any file of these parts, "unet vae", or of all."""
    folders = [folder / part for part in parts.split()] if parts else [folder]
    files = sorted(path for some in folders for path in some.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def measure(words, folder, weights):
    """Runs one command, unless what it made for these weights is in `folder`. Returns its exit status."""
    done, asked = folder / "done.json", {"words": words, "weights": weights}
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")).items() >= asked.items():
        return 0
    writes = [] if words[0] == "-m" else ["--out", str(folder)]           # the others print their scores
    for stale in (path for path in folder.glob("*") if path.is_file()):    # of other weights, or another command
        stale.unlink()
    print(f"python {' '.join(map(quoted, words))}", flush=True)
    began = time.monotonic()
    run = subprocess.run([sys.executable, *words, *writes], cwd=ROOT, env=os.environ | {"PYTHONUTF8": "1"}, stdout=subprocess.PIPE, encoding="utf-8")
    if not run.returncode:
        write_json(done, asked | {"seconds": round(time.monotonic() - began), "printed": run.stdout})
    return run.returncode


def section(title, out):
    """The card's part about one model: what its commands have made so far."""
    text = [f"## {title.replace('_', ' ')}"]
    for done in sorted(out.glob(f"{title}/*/done.json")):
        made, table = json.loads(done.read_text(encoding="utf-8")), done.parent / "table.md"
        text.append(f"`python {' '.join(map(quoted, made['words']))}`, {made['seconds']} s, weights {made['weights']}")
        text.append(table.read_text(encoding="utf-8") if table.is_file() else f"```\n{made['printed'].strip()}\n```")
        text += [f"![{picture.stem}]({picture.relative_to(out).as_posix()})" for picture in sorted(done.parent.glob("*.png"))]
    return "\n\n".join(text)


def quoted(word):
    return f'"{word}"' if " " in word else word


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "scores", help="where the card and the pictures go")
    parser.add_argument("--only", nargs="+", choices=SCORES, default=list(SCORES), help="these models")
    parser.add_argument("--quick", action="store_true", help="few pictures; a card of its own, in the folder quick in --out")
    args = parser.parse_args(argv)
    out, folder = args.out.absolute() / ("quick" if args.quick else ""), find("toybox")
    for title in args.only:
        weights = fingerprint(folder, PARTS.get(title))
        for i, (words, full, quick) in enumerate(SCORES[title]):
            try:
                status = measure([*words, *(quick if args.quick else full)], out / title / str(i), weights)
            except KeyboardInterrupt:
                status = 130
            if status:
                parser.exit(status, f"{parser.prog}: {title} ended with status {status}; the same command goes on with it\n")
        card = "\n\n".join(["# Scores of weights/toybox", sizes(folder), *(section(title, out) for title in SCORES if (out / title).is_dir())]) + "\n"
        write_atomically(out / "scores.md", lambda p: p.write_text(card, encoding="utf-8"))
    print(f"written: {out / 'scores.md'}")


if __name__ == "__main__":
    main()
