"""The one command that trains all shipped weights: its stages are commands that exist, in an order that works."""
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


@pytest.mark.parametrize("stage", ["autoencoder", "polish", "unet", "clip", "stylegan", "prior", "decoder", "composer_1", "composer",
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
    assert "stylegan" in recipe.STAGES["channels"][2]


def test_the_hours_in_the_readme_are_those_of_the_stages():
    text = " ".join((ROOT / "weights" / "README.md").read_text(encoding="utf-8").split())
    assert f"the minutes that its stages are given come to {recipe.hours(recipe.STAGES, 1, 2):.1f} hours," in text
    assert recipe.hours(["unet", "clip", "meter"], .5, 2) == (147 + 110) / 2 / 60        # the last two at once


class Machine:
    """Stands in for subprocess, where every look is a minute; those that fail do it in the first. Knows what ran beside what."""

    def __init__(self, monkeypatch, fails=()):
        self.running, self.began, self.beside, self.ended, self.stopped, self.fails = [], [], {}, [], [], fails
        self.minutes = 0
        monkeypatch.setattr(recipe.subprocess, "Popen", self.start)
        monkeypatch.setattr(recipe.time, "sleep", self.wait)

    def wait(self, seconds):
        self.minutes += 1

    def start(self, words, env, **how):
        stage = next(s for s in recipe.STAGES if recipe.command(s, self.out, 1, self.processes) == words[1:])
        assert set(recipe.STAGES[stage][2]) <= set(self.ended), f"{stage} began before what it needs"
        self.began.append(stage)
        self.running.append(stage)
        for one in self.running:
            self.beside.setdefault(one, set()).update(self.running)
        machine, looks = self, iter(range(0 if stage in self.fails else recipe.STAGES[stage][0] - 1))

        class Process:
            returncode = 3 if stage in self.fails else 0

            def poll(self):
                if next(looks, None) is None and stage in machine.running:
                    machine.running.remove(stage)
                    machine.ended.append(stage)
                return self.returncode if stage not in machine.running else None

            def terminate(self):
                machine.stopped.append(stage)

            def wait(self):
                return self.returncode
        return Process()

    def main(self, out, processes, *more):
        self.out, self.processes = out, processes
        recipe.main(["--out", str(out), "--processes", str(processes), *more])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_stage_runs_once_after_what_it_needs_and_no_more_at_a_time_than_there_are_processes(monkeypatch, tmp_path, processes):
    machine = Machine(monkeypatch)
    machine.main(tmp_path, processes)
    assert sorted(machine.ended) == sorted(recipe.STAGES) == sorted(machine.began)
    assert machine.minutes / 60 == pytest.approx(recipe.hours(recipe.STAGES, 1, processes), rel=.05)
    if processes > 1:
        shared = {s for s, (_, is_shared, *_) in recipe.STAGES.items() if is_shared}
        assert all(machine.beside[s] == {s} for s in shared)                # it has all processes to itself
        assert max(len(machine.beside[s]) for s in set(recipe.STAGES) - shared) > 1
        assert (tmp_path / "logs" / "clip.txt").is_file() and not (tmp_path / "logs" / "unet.txt").exists()
    else:
        assert all(beside == {s} for s, beside in machine.beside.items()) and not (tmp_path / "logs").exists()


def test_what_was_not_asked_for_is_not_waited_for(monkeypatch, tmp_path):
    machine = Machine(monkeypatch)
    machine.ended = ["unet", "clip"]                                        # of an earlier day
    machine.main(tmp_path, 2, "--only", "decoder")
    assert machine.began == ["decoder"]


def test_a_stage_that_fails_ends_the_recipe_and_stops_those_beside_it(monkeypatch, tmp_path, capsys):
    machine = Machine(monkeypatch, fails=["clip"])
    with pytest.raises(SystemExit) as stop:
        machine.main(tmp_path, 2)
    assert stop.value.code == 3 and "stage clip ended with status 3" in capsys.readouterr().err
    assert set(machine.stopped) == machine.beside["clip"] - {"clip"} and "prior" not in machine.began


@pytest.mark.parametrize("arguments", [["--share", "0"], ["--processes", "0"], ["--only", "moon"]])
def test_bad_input_is_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        recipe.main(arguments)
    assert stop.value.code == 2 and arguments[1] in capsys.readouterr().err


def test_shipped_weights_stay_small():
    sizes = [path.stat().st_size for path in (ROOT / "weights" / "toybox").rglob("*") if path.is_file()]
    assert sum(sizes) <= 32 << 20 and max(sizes) < 16 << 20
