"""A copy of the repository for students: everything but the answers, and the tests that contain wrong ones.

python tutorials/exercises/handout.py DIR

DIR must be new or empty, and outside the repository. What .gitignore names is left out, and the repository's history as well,
since the answers are in it. The repository itself is not changed, and no git is needed.
"""
import argparse
import shutil
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ["tutorials/exercises/solutions", "tests/test_exercises.py", "tests/wrong_answers", ".git"]


def files(root=ROOT):
    """Paths, relative to the repository's root, of what is handed out."""
    ignored = (root / ".gitignore").read_text(encoding="utf-8").split() if (root / ".gitignore").is_file() else []
    is_ignored = lambda path: any(fnmatch(part, pattern.rstrip("/")) for part in path.parts for pattern in ignored)
    is_left_out = lambda path: any(path.is_relative_to(there) for there in LEFT_OUT)
    found, folders = [], [root]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            inside = path.relative_to(root)
            if not is_ignored(inside) and not is_left_out(inside):
                (folders if path.is_dir() else found).append(path if path.is_dir() else inside)
    return found


def hand_out(to):
    """Copies the files into the folder `to`; returns them. ValueError if `to` will not do."""
    to = Path(to).resolve()
    if to.is_relative_to(ROOT):
        raise ValueError(f"{to} is inside the repository; give a folder outside of it")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} exists and is not an empty folder; give a new one")
    copied = files()
    for path in copied:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, to / path)
    return copied


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the copy goes")
    args = parser.parse_args(argv)
    try:
        print(f"{len(hand_out(args.folder))} files, none of them an answer, are in {args.folder}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
