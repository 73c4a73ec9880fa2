"""A plain line for each exercise after the tests; and --answers, to check files that lie elsewhere."""
import argparse
from pathlib import Path


def folder(text):
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def pytest_addoption(parser):
    parser.addoption("--answers", type=folder, default=Path(__file__).parent, metavar="DIR",
                     help="the folder with the ex*.py to check (default: the one that the checks are in)")


def pytest_terminal_summary(terminalreporter):
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    found = sorted((dict(r.user_properties) for r in reports if dict(r.user_properties).get("exercise")), key=lambda p: p["exercise"])
    if not found:
        return
    terminalreporter.section("exercises")
    for p in found:
        terminalreporter.write_line(f"{p['exercise']:<32} {p['result']}")
    done = [p for p in found if p["result"] == "done"]
    points = [sum(p["difficulty"] for p in some) for some in (done, found)]             # a point for each degree of difficulty
    terminalreporter.write_line(f"{len(done)} of {len(found)} done, {points[0]} of {points[1]} points")
