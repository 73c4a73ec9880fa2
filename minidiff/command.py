"""What the command lines of the papers share: options that are heard, and a sentence in place of a traceback."""
import sys

import torch


def parse(parser, argv=None):
    """The options. Those in front of the verb are refused: argparse would replace them by the verb's own defaults."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if args.verb and argv[0] != args.verb:
        parser.error(f"options come after the verb: {args.verb} {argv[0]} ...")
    return args


def within(args, limits):
    """ValueError for a number outside limits, {option: (lowest, highest)}."""
    for name, (low, high) in limits.items():
        value = getattr(args, name, None)
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected a number between {low} and {high}")


def run(name, verb, args):
    """verb(args); what went wrong is said in one sentence, with exit status 2, or 130 after Ctrl-C."""
    try:
        verb(args)
    except torch.OutOfMemoryError as error:
        stop(name, "the GPU has too little memory; use smaller pictures, a smaller --batch or --n, or --device cpu", 2, error)
    except (ValueError, FloatingPointError, OSError) as error:
        stop(name, error, 2, error)
    except KeyboardInterrupt as error:
        stop(name, "stopped", 130, error)


def stop(name, why, status, error):
    print(f"{name}: {why}", file=sys.stderr)
    raise SystemExit(status) from error
