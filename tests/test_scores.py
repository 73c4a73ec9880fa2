"""The one command that makes the score card: its commands exist, run once, and end up in the card."""
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minidiff import images
from minidiff.checkpoints import find

ROOT = Path(__file__).parents[1]


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem + "_of_scores", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded                            # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


card = module(ROOT / "weights" / "scores.py")
COMMANDS = [words + more for commands in card.SCORES.values() for words, *both in commands for more in both]


@pytest.fixture
def runs(monkeypatch):
    """The commands that were run, in order; each draws a picture, and an eval a table."""
    ran = []

    def run(words, **how):
        ran.append(words[1:])
        if "--out" in words:
            folder = Path(words[words.index("--out") + 1])
            images.save(folder / "figure.png", torch.rand(3, 4, 4))
            if "eval" in words:
                (folder / "table.md").write_text("| a | b |\n|---|---|\n| PSNR | 1 |\n", encoding="utf-8")
        return SimpleNamespace(returncode=3 if "clip.py" in words[1] else 0, stdout="printed: 0.5\n")
    monkeypatch.setattr(card.subprocess, "run", run)
    return ran


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] != "-m"], ids=" ".join)
def test_every_command_is_one_that_its_paper_understands(monkeypatch, tmp_path, words):
    script, *arguments = words
    monkeypatch.syspath_prepend(str(ROOT / "papers"))
    args = module(ROOT / script).arguments([*arguments, "--out", str(tmp_path)])
    args = args[1] if isinstance(args, tuple) else args
    assert args.out == tmp_path


def test_every_shipped_part_is_in_the_table_of_sizes():
    lines = [line.strip("| ").split(" | ") for line in card.sizes(find("toybox")).splitlines()[2:]]
    assert [name for name, *_ in lines[:-1]] == sorted(path.parent.name for path in find("toybox").glob("*/*.safetensors"))
    numbers = [[int(n.replace(",", "")) for n in row] for _, *row in lines]
    assert [sum(column) for column in zip(*numbers[:-1])] == numbers[-1] and 20e6 < numbers[-1][1] <= 32 << 20


def test_the_card_holds_tables_pictures_and_what_was_printed_and_nothing_runs_twice(runs, tmp_path):
    for _ in range(2):
        card.main(["--out", str(tmp_path), "--only", "maps", "stylegan", "--quick"])
    assert len(runs) == 4 and ["papers/stylegan.py", "eval", "--n", "600"] == runs[2][:4]
    out = tmp_path / "quick"
    text = (out / "scores.md").read_text(encoding="utf-8")
    assert "| PSNR | 1 |" in text and "printed: 0.5" in text and "## maps" in text
    for name in ("stylegan/0/figure.png", "maps/1/figure.png"):
        assert f"]({name})" in text and (out / name).is_file()


def test_a_quick_card_leaves_a_full_one_as_it_is(runs, tmp_path):
    everything = lambda: {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "quick" not in path.parts}
    card.main(["--out", str(tmp_path), "--only", "stylegan"])
    full = everything()
    assert "--n 1000" in (tmp_path / "scores.md").read_text(encoding="utf-8")
    card.main(["--out", str(tmp_path), "--only", "stylegan", "--quick"])
    assert everything() == full and len(runs) == 4 and "--n 600" in (tmp_path / "quick" / "scores.md").read_text(encoding="utf-8")


def test_other_weights_are_measured_again_and_leave_nothing_of_the_old(runs, tmp_path, monkeypatch):
    card.main(["--out", str(tmp_path), "--only", "stylegan"])
    (tmp_path / "stylegan" / "0" / "old.png").write_bytes(b"")
    monkeypatch.setattr(card, "fingerprint", lambda *args: "others")
    card.main(["--out", str(tmp_path), "--only", "stylegan"])
    text = (tmp_path / "scores.md").read_text(encoding="utf-8")
    assert len(runs) == 4 and "weights others" in text and "old.png" not in text


def test_the_fingerprint_is_that_of_the_files_of_the_parts_that_count(tmp_path):
    for part in ("unet", "clip"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(b"abc")
    before = [card.fingerprint(tmp_path, parts) for parts in (None, "unet", "clip", "clip unet")]
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"abd")
    after = [card.fingerprint(tmp_path, parts) for parts in (None, "unet", "clip", "clip unet")]
    assert [a == b for a, b in zip(before, after)] == [False, False, True, False]
    assert all((find("toybox") / part).is_dir() for parts in card.PARTS.values() for part in parts.split()) and set(card.PARTS) <= set(card.SCORES)


def test_a_command_that_fails_ends_it_with_one_sentence_and_the_rest_stays(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        card.main(["--out", str(tmp_path), "--only", "meter", "clip", "maps"])
    assert stop.value.code == 3 and "clip ended with status 3" in capsys.readouterr().err
    assert "## meter" in (tmp_path / "scores.md").read_text(encoding="utf-8") and not (tmp_path / "clip" / "0" / "done.json").exists()
    assert len(runs) == 2 and json.loads((tmp_path / "meter" / "0" / "done.json").read_text())["printed"] == "printed: 0.5\n"


def test_bad_input_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        card.main(["--only", "moon"])
    assert stop.value.code == 2 and "moon" in capsys.readouterr().err
