"""python -m minidiff "a prompt": a picture for a prompt, in a file.   python -m minidiff info PATH, get NAME: see there."""
import argparse
import math
import sys
from importlib import import_module

COMMANDS = {"info": ".info", "get": ".hub"}       # anything else is a prompt


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return import_module(COMMANDS[argv[0]], __package__).main(argv[1:])
    args = parse(argv)
    import torch                            # after parsing: --help need not wait for it

    from . import images, load
    try:
        pipe = load(args.model, args.device, getattr(torch, args.dtype), args.variant, args.prior, args.tokenizer, args.prediction_type)
        pictures = pipe(args.prompt, args.n, args.steps, args.guidance, args.seed, args.negative, args.method, size=args.size,
                        progress=sys.stderr.isatty())
        images.save(args.out, pictures[0] if args.n == 1 else images.grid(pictures, columns=math.ceil(args.n ** 0.5)))
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"minidiff: {error}", file=sys.stderr)
        return 2
    print(f"{args.n} picture{'s' * (args.n > 1)} of {args.prompt!r}: {args.out}")
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m minidiff", description="Make a picture for a prompt.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                                     epilog="Two other commands: `info PATH` says what is in a checkpoint, "
                                     "`get NAME` downloads one; each has its own --help.")
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--n", type=int, default=1, help="number of pictures; several are laid out in one file")
    parser.add_argument("--steps", type=int, default=50, help="steps of the sampler")
    parser.add_argument("--guidance", type=float, default=5.0, help="1 follows the prompt, more exaggerates it")
    parser.add_argument("--seed", type=int, default=0, help="another number, another picture")
    parser.add_argument("--negative", help="what to steer away from")
    parser.add_argument("--method", help="sampler: ddim, ddpm or euler; by default the model's own")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in pixels; by default the model's own")
    parser.add_argument("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    parser.add_argument("--variant", help="fp16 for the files *.fp16.safetensors of a folder")
    parser.add_argument("--prior", help="for a Kandinsky decoder: the folder of its prior")
    parser.add_argument("--tokenizer", help="for a single file, which holds none: the folder of a tokenizer")
    parser.add_argument("--prediction-type", help="for a single file of Stable Diffusion 2: epsilon or v_prediction")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="type of the weights in memory")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--out", default="picture.png", help="where the picture goes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
