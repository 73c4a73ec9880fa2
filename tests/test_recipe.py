"""The one command that trains all shipped weights: its stages are commands that exist."""
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem + "_of_recipe", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded                            # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


recipe = module(ROOT / "weights" / "train.py")


def after_options_of_torchrun(words):
    return words[words.index("torch.distributed.run") + 3:] if "torch.distributed.run" in words else words


@pytest.mark.parametrize("stage", ["autoencoder", "unet", "clip", "stylegan", "prior", "decoder", "composer_1", "composer",
                                   "upsampler_128", "upsampler_256"])
@pytest.mark.parametrize("processes", [1, 4])
def test_every_stage_is_a_command_of_a_paper(monkeypatch, tmp_path, stage, processes):
    script, *arguments = after_options_of_torchrun(recipe.command(stage, tmp_path, .5, processes))
    monkeypatch.syspath_prepend(str(ROOT / "papers"))
    args = module(ROOT / script).arguments(arguments)
    args = args[1] if isinstance(args, tuple) else args         # some return the parser too
    assert args.verb == "train" and args.minutes == recipe.STAGES[stage][0] / 2 and tmp_path in (args.out, args.out.parent)


def test_the_channels_are_searched_in_the_stylegan_that_was_trained_and_lie_beside_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "papers"))
    script, *arguments = recipe.command("channels", tmp_path, .5, 4)
    _, args = module(ROOT / script).arguments(arguments)
    assert args.verb == "channels" and args.model == args.out == tmp_path / "stylegan"
    stages = list(recipe.STAGES)
    assert stages.index("channels") == stages.index("stylegan") + 1


def test_the_minutes_in_the_readme_are_those_of_the_stages():
    text = " ".join((ROOT / "weights" / "README.md").read_text(encoding="utf-8").split())
    assert f"the minutes that its stages are given sum to {sum(minutes for minutes, *_ in recipe.STAGES.values())}," in text


def test_the_stages_run_in_order_and_a_failed_one_ends_it(monkeypatch, tmp_path, capsys):
    ran = []

    def run(words, **how):
        ran.append(words)
        return type("Done", (), {"returncode": 3 if "clip.py" in " ".join(words) else 0})
    monkeypatch.setattr(recipe.subprocess, "run", run)
    with pytest.raises(SystemExit) as stop:
        recipe.main(["--out", str(tmp_path), "--processes", "2"])
    assert stop.value.code == 3 and len(ran) == 3 and "autoencoder" in ran[0] and "unet" in ran[1]
    assert "stage clip ended with status 3" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--share", "0"], ["--processes", "0"], ["--only", "moon"]])
def test_bad_input_is_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        recipe.main(arguments)
    assert stop.value.code == 2 and arguments[1] in capsys.readouterr().err


def test_shipped_weights_stay_small():
    sizes = [path.stat().st_size for path in (ROOT / "weights" / "toybox").rglob("*") if path.is_file()]
    assert sum(sizes) <= 32 << 20 and max(sizes) < 16 << 20
