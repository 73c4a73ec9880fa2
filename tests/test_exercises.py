"""The exercises of tutorials/: every check accepts the answer and refuses the empty stub and each mistake in wrong_answers/, with a
message that names it; and what a teacher does with them works."""
import ast
import configparser
import inspect
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tutorials"))

import exercises                                                            # noqa: E402
from exercises import handout, hint, scores                                # noqa: E402

FOLDER, NAMES = exercises.FOLDER, exercises.names()
STUBS, ANSWERS = ({name: folder / f"{name}.py" for name in NAMES} for folder in (FOLDER, FOLDER / "solutions"))
OTHERS = {name: runpy.run_path(str(ROOT / "tests" / "wrong_answers" / f"{name}.py")) for name in NAMES}
MISTAKES = [pytest.param(name, says, function, id=f"{name}-{mistake}")
            for name in NAMES for mistake, says, function in OTHERS[name]["WRONG"]]
OTHER_WAYS = [pytest.param(name, function, id=f"{name}-{i}") for name in NAMES for i, function in enumerate(OTHERS[name]["RIGHT"])]


# The checks


@pytest.mark.parametrize("name", NAMES)
def test_a_check_accepts_the_answer(name):
    check, answer, began = exercises.check_of(name), exercises.load(ANSWERS[name]), time.process_time()
    check(answer)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", NAMES)
def test_a_check_refuses_the_stub_with_the_stubs_sentence(name):
    with pytest.raises(NotImplementedError, match=rf"{name[:4]}: write {name[5:]}\(\) in tutorials/exercises/{name}.py: \w+"):
        exercises.check_of(name)(exercises.load(STUBS[name]))


@pytest.mark.parametrize("name, says, wrong", MISTAKES)
def test_a_check_refuses_a_mistake_and_names_it(name, says, wrong):
    with pytest.raises(AssertionError) as refusal:
        exercises.check_of(name)(wrong)
    assert says.lower() in str(refusal.value).lower()


@pytest.mark.parametrize("name, function", OTHER_WAYS)
def test_a_check_accepts_the_answer_written_in_another_way(name, function):
    exercises.check_of(name)(function)


def test_every_exercise_has_at_least_five_mistakes_and_all_together_120():
    assert len(NAMES) >= 24 and len(MISTAKES) >= 120
    assert min(len(others["WRONG"]) for others in OTHERS.values()) >= 5
    assert len({p.id for p in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("name", NAMES)
def test_no_mistake_is_another_one_in_disguise(name):
    """All of them get what the answer gets in the check, and do something different with it."""
    calls, answer = [], exercises.load(ANSWERS[name])

    def recorded(*args):
        calls.append((torch.is_grad_enabled(), copied(args)))
        return answer(*args)
    exercises.check_of(name)(recorded)
    seen = {}
    for mistake, _, function in [("the answer", "", answer), *OTHERS[name]["WRONG"]]:
        print_of = tuple(fingerprint(function, *given) for given in calls)
        assert print_of not in seen, f"{mistake} does what {seen[print_of]} does"
        seen[print_of] = mistake


def fingerprint(function, with_grad, args):
    """What a function returns, calls others with, and makes of what it is given; or how it stops."""
    args, told = copied(args), []
    if callable(args[0]):
        inner, args = args[0], [lambda *a: told.append(repr([rounded(x) for x in a])) or inner(*a), *args[1:]]
    try:
        with torch.set_grad_enabled(with_grad):
            result = function(*args)
    except Exception as error:
        result = type(error).__name__
    return repr([rounded(result), rounded([a for a in args if not callable(a)]), told])


def rounded(x):
    if isinstance(x, torch.Tensor):
        return x.dtype, x.requires_grad, gradients(x), (x.detach().double() * 1e5).round().tolist()
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return [rounded(v) for v in x] if isinstance(x, (list, tuple)) else x


def gradients(x):
    """Of x.sum(), with respect to all that it depends on, whether that was given or is hidden in a function."""
    leaves, nodes = {}, [x.grad_fn]
    while nodes:
        node = nodes.pop()
        leaves |= {id(node.variable): node.variable} if hasattr(node, "variable") else {}
        nodes += [following for following, _ in getattr(node, "next_functions", ())]
    found = torch.autograd.grad(x.sum(), list(leaves.values()), retain_graph=True) if leaves else []
    return sorted(((g.double() * 1e5).round().tolist() for g in found), key=repr)


def copied(x):
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, dict):
        return {k: copied(v) for k, v in x.items()}
    return [copied(v) for v in x] if isinstance(x, (list, tuple)) else x


@pytest.mark.parametrize("path", sorted((FOLDER / "checks").glob("*.py")), ids=lambda p: p.stem)
def test_a_check_imports_neither_answers_nor_other_exercises(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    modules |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules <= {"torch", "torch.nn.functional", "einops", "math", "inspect", "traceback", ".tools"}
    assert not re.search(r"solutions|import_module|__import__|exec\(|open\(", path.read_text(encoding="utf-8"))


def test_a_file_that_does_not_load_and_a_function_that_stops_are_sentences(tmp_path):
    path = tmp_path / "ex16_guide.py"
    missing = "defines no function guide"
    for text, message in (("def guide(:", "SyntaxError"), ("import torch", missing), ("guide = 3", missing)):
        path.write_text(text)
        with pytest.raises(AssertionError, match=message):
            exercises.load(path)
    path.write_text("def guide(e_uncond, e_cond, scale):\n    return e_uncond @ e_cond[0, 0, :3]\n")
    where = r"it stopped at line 2, `return e_uncond @ e_cond\[0, 0, :3\]`, .*\n.*e_uncond \(2, 3, 4, 4\)"
    with pytest.raises(AssertionError, match=where):
        exercises.check_of("ex16_guide")(exercises.load(path))


# The parts of an exercise


def test_every_part_of_an_exercise_has_its_name():
    for kind in ("solutions/*.py", "hints/*.md", "checks/ex*.py", "../../tests/wrong_answers/*.py"):
        assert sorted(path.stem for path in FOLDER.glob(kind)) == NAMES
    assert [name[:4] for name in NAMES] == [f"ex{i:02}" for i in range(1, len(NAMES) + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_says_what_it_takes_and_has_the_answers_signature(name):
    text, (title, minutes, difficulty) = STUBS[name].read_text(encoding="utf-8"), exercises.about(name)
    assert title and 5 <= minutes <= 30 and 1 <= difficulty <= 5
    assert f"Exercise {int(name[2:4])}: " in text and text.splitlines()[0].endswith(f"     pytest tutorials/exercises -k {name[:4]}")
    stub, answer = exercises.load(STUBS[name]), exercises.load(ANSWERS[name])
    assert inspect.signature(stub) == inspect.signature(answer) and stub.__doc__ == answer.__doc__ and " -> " in stub.__doc__
    function, = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert [type(node) for node in function.body] == [ast.Expr, ast.Raise]


def test_difficulty_does_not_start_high_and_the_table_for_teachers_is_true():
    teaching = (FOLDER.parent / "TEACHING.md").read_text(encoding="utf-8")
    found = {name: exercises.about(name) for name in NAMES}
    rows = re.findall(r"^\| (ex\d\d_\w+) \| (.+?) \| (\d+) \| (\d) \|", teaching, re.M)
    assert rows == [(name, title, str(minutes), str(difficulty)) for name, (title, minutes, difficulty) in found.items()]
    assert max(found[name][2] for name in NAMES[:8]) <= 2
    total = f"{len(NAMES)} exercises, {sum(m for _, m, _ in found.values())} minutes, {sum(d for *_, d in found.values())} points"
    assert total in teaching


def test_the_plan_has_every_exercise_once_and_no_more_than_fits_into_a_lesson():
    teaching = (FOLDER.parent / "TEACHING.md").read_text(encoding="utf-8")
    lessons = re.findall(r"^\| [1-6]: .+? \| .+? \| ((?:ex\d\d ?)+) \| ((?:ex\d\d ?)+) \|", teaching, re.M)
    assert len(lessons) == 6 and sorted(" ".join(map(" ".join, lessons)).split()) == [name[:4] for name in NAMES]
    minutes = {name[:4]: exercises.about(name)[1] for name in NAMES}
    assert all(sum(minutes[e] for e in in_class.split()) <= 40 for in_class, _ in lessons)


def test_the_teachers_page_names_every_notebook_and_only_files_that_exist():
    teaching = (FOLDER.parent / "TEACHING.md").read_text(encoding="utf-8")
    for path in (FOLDER.parent).glob("[0-9][0-9]_*.ipynb"):
        assert path.stem in teaching
    for path in re.findall(r"`((?:tutorials|tests)/[\w./]+\.\w+)`", teaching):
        assert (ROOT / path.replace("NN_name", NAMES[2][2:])).is_file(), path


@pytest.mark.parametrize("name", NAMES)
def test_hints_come_one_by_one_and_hold_no_line_of_the_answer(name, capsys):
    hint.main([name[:4]])
    first = capsys.readouterr().out
    hint.main([str(int(name[2:4])), "2"])
    second = capsys.readouterr().out
    assert len(first) > 60 and len(second) > 60 and "Hint 1 of 2" in first and second.strip() not in first
    for line in body(ANSWERS[name]):
        assert line not in first + second


@pytest.mark.parametrize("arguments, message", [
    (["ex99"], "there is no exercise ex99; expected ex01 to"), (["ex03", "7"], "there is no hint 7"), ([], "")])
def test_a_hint_that_is_not_there_is_one_sentence(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        hint.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def body(path):
    """The lines of code of the functions in a file, long enough to be told from others."""
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    lines = [line for f in functions for node in f.body[1:] for line in ast.unparse(node).splitlines()]
    return [line.strip() for line in lines if len(line.strip()) > 20]


# Where the checks are called


def test_a_notebook_cell_calls_the_same_check(capsys):
    exercises.check(exercises.load(ANSWERS["ex16_guide"]))
    assert capsys.readouterr().out == "ex16_guide: done\n"
    with pytest.raises(NotImplementedError, match="ex16: write guide"):
        exercises.check(exercises.load(STUBS["ex16_guide"]))
    with pytest.raises(ValueError, match="no exercise asks for a function named fingerprint"):
        exercises.check(fingerprint)


@pytest.mark.parametrize("folder, module", [(ROOT, "tutorials.exercises"), (ROOT / "tutorials", "exercises")])
def test_the_check_is_found_from_the_root_and_from_tutorials(folder, module, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] in ("tutorials", "exercises")]:
        monkeypatch.delitem(sys.modules, name)
    scope = {}
    exec(f"from {module} import check", scope)
    scope["check"](exercises.load(ANSWERS["ex16_guide"]))


def test_a_plain_pytest_does_not_collect_the_exercises():
    config = configparser.ConfigParser()
    config.read(ROOT / "pytest.ini")
    assert config["pytest"]["testpaths"] == "tests"


# Handing out, and scores


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "students"
    handout.main([str(folder)])
    return folder


def test_the_handout_is_the_repository_without_answers(handed_out):
    inside = {path.relative_to(handed_out).as_posix() for path in handed_out.rglob("*") if path.is_file()}
    assert {"README.md", "setup.py", "pytest.ini", "minidiff/unet.py", "papers/clic.py", "tests/test_samplers.py",
            "weights/toybox/unet/config.json", *(f"tutorials/exercises/{name}.py" for name in NAMES)} <= inside
    assert not any("solutions" in path or "wrong_answers" in path or path.startswith((".git/", "outputs/")) for path in inside)
    ours = [path for path in inside if path.startswith("tutorials/exercises") and path.endswith((".py", ".md"))]
    ours = "\n".join((handed_out / path).read_text(encoding="utf-8") for path in ours)
    for name in NAMES:
        answer = ANSWERS[name].read_text(encoding="utf-8").rsplit('"""\n', 1)[1].strip()
        assert answer.split("\n")[-1].startswith("    return") or answer.startswith("return"), "the answer was not found"
        assert answer not in ours, f"the answer to {name} is in the hand-out"


def test_the_handout_is_what_git_knows(handed_out):
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    known = {path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()}
    left_out = {path for path in known if path.startswith(tuple(handout.LEFT_OUT[:-1]))}
    assert {path.as_posix() for path in handout.files()} == known - left_out
    assert f"tutorials/exercises/solutions/{NAMES[0]}.py" in left_out


def test_a_handout_goes_nowhere_but_into_an_empty_folder_outside(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    for folder, message in ((tmp_path / "full", "is not an empty folder"), (tmp_path / "full" / "mine.txt", "is not an empty folder"),
                            (ROOT / "handout", "inside the repository")):
        with pytest.raises(SystemExit) as stop:
            handout.main([str(folder)])
        error = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and message in error and "\n" not in error
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"] and not (ROOT / "handout").exists()


def test_a_student_fails_asks_for_a_hint_and_passes(handed_out, tmp_path, capsys):
    """One run of the handed-out checks: an answer pasted in, a mistake, a file that does not load, and everything else untouched."""
    work = handed_out / "tutorials" / "exercises"
    (work / "ex03_q_sample.py").write_text(ANSWERS["ex03_q_sample"].read_text(encoding="utf-8"), encoding="utf-8")
    swapped = "def guide(e_uncond, e_cond, scale):\n    return e_cond + scale * (e_uncond - e_cond)\n"
    (work / "ex16_guide.py").write_text(STUBS["ex16_guide"].read_text(encoding="utf-8").split("def ")[0] + swapped, encoding="utf-8")
    (work / "ex17_compose_guidance.py").write_text("def compose_guidance(:\n", encoding="utf-8")
    xml = tmp_path / "anna.xml"
    command = [sys.executable, "-m", "pytest", "tutorials/exercises", "--junitxml", str(xml), "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=handed_out, capture_output=True, text=True)
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in run.stdout.splitlines() if re.match(r"ex\d\d_\w+ ", line)}
    assert run.returncode == 1 and list(lines) == NAMES, run.stdout + run.stderr
    assert lines.pop("ex03_q_sample") == "done" and "swapped" in lines.pop("ex16_guide")
    assert "SyntaxError" in lines.pop("ex17_compose_guidance") and set(lines.values()) == {"to do"}
    assert f"1 of {len(NAMES)} done, {exercises.about('ex03_q_sample')[2]} of" in run.stdout
    assert "A hint: python tutorials/exercises/hint.py ex16" in run.stdout and "Traceback" not in run.stdout
    assert f'failures="{len(NAMES) - 1}"' in xml.read_text() and len(list(ElementTree.parse(xml).iter("testcase"))) == len(NAMES)
    scores.main([str(xml)])
    assert re.search(rf"\| anna \| 1 of {len(NAMES)} \| 1 \| ex16 ex17 \| ex01 ex02 ex04 ", capsys.readouterr().out)


def test_scores_of_something_else_are_one_sentence(tmp_path, capsys):
    (tmp_path / "a.xml").write_text("not xml")
    (tmp_path / "b.xml").write_text("<testsuites/>")
    for name, message in (("a.xml", "cannot be read"), ("b.xml", "has no exercise"), ("c.xml", "cannot be read")):
        with pytest.raises(SystemExit) as stop:
            scores.main([str(tmp_path / name)])
        error = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and message in error and "\n" not in error
