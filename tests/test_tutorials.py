"""tutorials/: every notebook is small, holds no outputs, tells of what exists, and runs. The last is asked for: `pytest -m tutorials`."""
import ast
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from minidiff.checkpoints import find, read_tensors

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind=None):
    """[(number, source)] of the cells, of one kind or of all."""
    book = json.loads(path.read_text(encoding="utf-8"))
    return [(i, "".join(cell["source"])) for i, cell in enumerate(book["cells"]) if kind in (None, cell["cell_type"])]


def lines_of(source):
    """How many lines of code, imports aside."""
    return sum(1 for line in source.splitlines() if line.strip() and not re.match(r"\s*(#|import |from .* import )", line))


def test_there_are_notebooks_numbered_without_a_gap():
    assert len(NOTEBOOKS) >= 12
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS)))


def test_the_index_names_every_notebook_and_no_other():
    index = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\w+\.ipynb", index))) == [path.name for path in NOTEBOOKS]


@every_notebook
def test_a_notebook_is_valid_small_and_stored_without_outputs(path):
    assert path.stat().st_size < 150_000
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])                          # since nbformat 4.5
    for cell in book["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and cell["metadata"] == {}
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@every_notebook
def test_a_notebook_is_one_story_of_short_cells(path):
    code, text = cells(path, "code"), cells(path, "markdown")
    assert code[0] == cells(NOTEBOOKS[0], "code")[0] and code[0][0] == 0            # the first one is that for Colab, the same in all
    assert 6 <= len(code) + len(text) <= 15 and len(text) >= 6
    assert text[0][0] == 1 and re.match(rf"# {int(path.stem[:2])}\. ", text[0][1]) and "?" in text[0][1]      # a question
    assert "**Where this is at full length.**" in text[-1][1]
    for i, source in code:
        compile(source, f"{path.name} cell {i}", "exec")
        assert lines_of(source) <= 10, f"cell {i} has {lines_of(source)} lines; move some to minidiff/ or papers/"
        assert max(map(len, source.splitlines())) <= 140
    everything = "\n".join(source for _, source in code[1:])
    for odd in (r"^\s*[!%]", r"pip install", r"[\"'](/|~|[A-Z]:)", r"matplotlib"):   # installs, magics, absolute paths
        assert not re.search(odd, everything, re.MULTILINE), f"{odd} in {path.name}"
    assert 'os.environ.get("MINIDIFF_FAST") == "1"' in everything
    assert "NOTICE" not in str(text)


# what the text names, exists -------------------------------------------------------------------------------------

def names_in(module):
    """Top-level names of a Python file, and `Class.method`, without running it."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {name for f in node.body if isinstance(f, ast.FunctionDef) for name in (f.name, f"{node.name}.{f.name}")}
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def named(text):
    """(files, names): the Python files and the names in backticks of a text."""
    ticked = re.findall(r"`([^`\n]+)`", text)
    files = [t for t in ticked if re.fullmatch(r"(papers|minidiff)/[\w/]+\.py", t)]
    return files, [t for t in ticked if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", t)]


@every_notebook
def test_what_the_last_lines_name_is_in_the_files_that_they_name(path):
    files, names = named(cells(path, "markdown")[-1][1])
    assert files and names
    for file in files:
        assert (ROOT / file).is_file(), file
    there = set().union(*(names_in(ROOT / file) for file in files))
    assert not [name for name in names if name not in there], f"not in {', '.join(files)}"


@every_notebook
def test_every_name_that_the_text_says_exists_somewhere(path):
    text = "\n".join(source for _, source in cells(path, "markdown"))
    code = "\n".join(source for _, source in cells(path, "code"))
    files, names = named(text)
    files += re.findall(r"python (papers/\w+\.py)", text)
    modules = [f for folder in ("papers", "minidiff", "minidiff/toybox") for f in (ROOT / folder).glob("*.py")]
    everywhere = set().union(*map(names_in, modules))
    assert all((ROOT / file).is_file() for file in files)
    for name in names:
        assert name.split(".")[-1] in everywhere or re.search(rf"\b{name}\b", code), f"{name} is nowhere"


def test_a_name_that_does_not_exist_is_noticed():
    files, names = named("`ddim_step`, `Schedule.add_noise` and `ddim_stop` in `minidiff/samplers.py` and `minidiff/schedule.py`")
    there = set().union(*(names_in(ROOT / file) for file in files))
    assert [name for name in names if name not in there] == ["ddim_stop"]


# what the text says of the weights and of the paper, is so ------------------------------------------------------

def text_of(stem):
    return "\n".join(source for _, source in cells(ROOT / "tutorials" / f"{stem}.ipynb", "markdown"))


def test_the_temperature_of_clip_is_that_of_the_shipped_weights():
    scale = read_tensors(find("toybox") / "clip" / "model.safetensors")["logit_scale"].float().exp()
    assert f"here $e^t$ is {scale:.1f}." in text_of("06_clip_space")


def test_every_equation_of_clic_has_its_number():
    assert set(re.findall(r"Eq\. (\d)", text_of("12_clic"))) == set("1234567")


# the first cell --------------------------------------------------------------------------------------------------

def first_cell():
    return compile(cells(NOTEBOOKS[0], "code")[0][1], "the first cell", "exec")


@pytest.fixture
def without_minidiff(monkeypatch, tmp_path):
    """Colab before anything has been put there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    is_editable = lambda finder: getattr(finder, "__module__", "").startswith("__editable__")
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not is_editable(finder)])
    for name in [name for name in sys.modules if name.split(".")[0] == "minidiff"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    importlib.invalidate_caches()
    return tmp_path


def test_the_first_cell_does_nothing_outside_colab(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    exec(first_cell(), {})
    assert sys.path == before and capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_in_colab_the_first_cell_says_what_to_do_and_then_finds_the_clone(without_minidiff):
    with pytest.raises(ImportError, match="git clone ADDRESS minidiff"):
        exec(first_cell(), {})
    package = without_minidiff / "minidiff" / "minidiff"                            # a folder of the same name as the package in it
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with pytest.raises(ImportError):
        exec(first_cell(), {})                                                      # half a clone
    (without_minidiff / "minidiff" / "setup.py").touch()
    exec(first_cell(), {})
    assert importlib.util.find_spec("minidiff").origin == str(package / "__init__.py")
    found = list(sys.path)
    exec(first_cell(), {})
    assert sys.path == found                                                        # once is enough


# they run --------------------------------------------------------------------------------------------------------

@pytest.mark.tutorials
@every_notebook
def test_a_notebook_runs_from_a_fresh_state(path, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDIFF_FAST", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    scope = {"__name__": "__main__"}
    for i, source in cells(path, "code"):
        exec(compile(source, f"{path.name} cell {i}", "exec"), scope)
