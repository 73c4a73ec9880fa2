"""Exercises: one function each, from noise schedules to the lines of the papers.

The exercise ex03_q_sample asks for the function q_sample. Its parts have one name:

    ex03_q_sample.py              what to write: formula, shapes
    checks/ex03_q_sample.py       check_q_sample, which accepts or refuses a function
    hints/ex03_q_sample.md        shown by  python tutorials/exercises/hint.py ex03
    solutions/ex03_q_sample.py    the answer

    pytest tutorials/exercises -k ex03             the check, on what is in ex03_q_sample.py

The same check in a notebook, on a function that is defined in a cell:

    from exercises import check                    # where the notebook is in tutorials/
    from tutorials.exercises import check          # in the repository's root
    check(q_sample)
"""
import importlib
import importlib.util
import re
from pathlib import Path

FOLDER = Path(__file__).parent
ABOUT = re.compile(r'"""Exercise (\d+): (.+)\. About (\d+) minutes, difficulty ([1-5]) of 5\.')


def names():
    """["ex01_linear_alpha_bar", ...]"""
    return sorted(path.stem for path in FOLDER.glob("ex[0-9][0-9]_*.py"))


def about(name):
    """(title, minutes, difficulty), from the first line of the exercise; ("", 0, 0) where that was changed."""
    found = ABOUT.match((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    return (found[2], int(found[3]), int(found[4])) if found else ("", 0, 0)


def load(path):
    """The function in a file such as ex03_q_sample.py. In a sentence, NotImplementedError for no file, AssertionError for a bad one."""
    name, function = path.stem, path.stem.split("_", 1)[1]
    if not path.is_file():
        raise NotImplementedError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise AssertionError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error
    assert callable(getattr(module, function, None)), f"{path.name} defines no function {function}"
    return getattr(module, function)


def check_of(name):
    """The check of an exercise: a function that gets an implementation, and raises AssertionError if that is wrong."""
    return getattr(importlib.import_module(f"{__package__}.checks.{name}"), "check_" + name.split("_", 1)[1])


def check(answer):
    """Check a function by the exercise that asks for a function of its name. For notebooks."""
    name = next((name for name in names() if name.split("_", 1)[1] == answer.__name__), None)
    if name is None:
        raise ValueError(f"no exercise asks for a function named {answer.__name__}; there are {', '.join(names())}")
    check_of(name)(answer)
    print(f"{name}: done")
