"""A hint for one exercise.

python tutorials/exercises/hint.py ex03        the first one, which says where to look
python tutorials/exercises/hint.py ex03 2      the second one, which is nearly the answer
"""
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "hints"


def hint(exercise, which="1"):
    """The text of one hint. ValueError for an exercise, or a hint, that does not exist."""
    names = sorted(path.stem for path in FOLDER.glob("ex*.md"))
    found = [name for name in names if exercise in (name, name.split("_")[0], name[2:4].lstrip("0"))]
    if not found:
        raise ValueError(f"there is no exercise {exercise}; expected {names[0].split('_')[0]} to {names[-1].split('_')[0]}")
    hints = (FOLDER / f"{found[0]}.md").read_text(encoding="utf-8").strip().split("\n\n")
    if which not in map(str, range(1, len(hints) + 1)):
        raise ValueError(f"there is no hint {which} for {found[0]}; it has {len(hints)}")
    more = f"\n\n(Hint {which} of {len(hints)}. More: python tutorials/exercises/hint.py {exercise} {int(which) + 1})"
    return hints[int(which) - 1] + (more if int(which) < len(hints) else "")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) not in (1, 2) or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    try:
        print(hint(*arguments))
    except ValueError as error:
        print(f"hint.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
