"""One test for each exercise.     pytest tutorials/exercises -k ex03

Not collected by a plain `pytest` in the repository's root (pytest.ini): exercises that nobody has done yet fail.
"""
import pytest

from . import about, check_of, load, names


@pytest.mark.parametrize("name", names())
def test_exercise(name, request):
    title, minutes, difficulty = about(name)
    told = request.node.user_properties                            # for the summary, and for --junitxml
    told += [("exercise", name), ("title", title), ("difficulty", difficulty)]
    try:
        check_of(name)(load(request.config.getoption("--answers") / f"{name}.py"))
    except NotImplementedError as error:
        result, message = "to do", str(error)
    except AssertionError as error:
        result, message = "wrong", str(error)
    else:
        return told.append(("result", "done"))
    told.append(("result", f"wrong: {message.splitlines()[0]}" if result == "wrong" else result))
    pytest.fail(f"{message}\n\nA hint: python tutorials/exercises/hint.py {name.split('_')[0]}", pytrace=False)
