"""One table of the results of a class.

pytest tutorials/exercises --answers submissions/anna --junitxml scores/anna.xml       for each student
python tutorials/exercises/scores.py scores/*.xml

A row for each file: exercises done, points (a point for each degree of difficulty), and which are wrong or to do.
"""
import argparse
from pathlib import Path
from xml.etree import ElementTree


def read(path):
    """{exercise: {"result": ..., "difficulty": ...}} of one JUnit file. ValueError if it is none, or not of exercises."""
    try:
        cases = ElementTree.parse(path).iter("testcase")
        found = [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]
    except (ElementTree.ParseError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; expected a file that pytest --junitxml has written") from error
    found = {p["exercise"]: p for p in found if "exercise" in p and "result" in p}
    if not found:
        raise ValueError(f"{path} has no exercise in it; expected a file of pytest tutorials/exercises --junitxml {path}")
    return found


def row(path):
    found = read(path)
    having = lambda word: [name for name, p in found.items() if p["result"].startswith(word)]
    points = sum(int(found[name]["difficulty"]) for name in having("done"))
    short = lambda some: " ".join(name.split("_")[0] for name in some)
    return f"| {path.stem} | {len(having('done'))} of {len(found)} | {points} | {short(having('wrong'))} | {short(having('to do'))} |"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="JUnit files, one for each student")
    args = parser.parse_args(argv)
    try:
        rows = [row(path) for path in args.files]
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("| student | done | points | wrong | to do |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
