"""The meter and the judge: they read what was drawn, and only that."""
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from minidiff import devices, toybox
from minidiff.toybox import maps, meter
from minidiff.toybox.judge import five_fingers, fresh_captions, judge, unseen
from minidiff.toybox.meter import Meter, accuracy, meter_loss, roughen, shipped
from minidiff.toybox.scenes import UNSEEN
from minidiff.toybox.world import CLASSES, NUMBERS, draw


@pytest.fixture(scope="module")
def renders():
    return toybox.sample(400, seed=2024, correlated=False)


def test_the_shipped_meter_reads_fresh_renders(renders):
    scores = accuracy(shipped(), renders.images, renders.attributes)
    floors = {"kind": .98, "background": .95, "member": .90, "color": .92, "glasses": .97, "beard": .96, "hair": .95, "skin": .95,
              "style": .97, "age": .85, "smile": .85, "weather": .9}
    assert {k: v for k, v in scores.items() if k in floors and v < floors[k]} == {}


def test_measure_answers_every_head_for_every_picture_of_any_size(renders):
    small = toybox.measure(renders.images[:4])
    large = toybox.measure(toybox.sample(4, seed=2024, correlated=False, size=128).images)
    assert set(small) == {*CLASSES, *NUMBERS, *(f"{k}_p" for k in CLASSES)}
    for k in CLASSES:
        assert small[k].shape == (4,) and small[f"{k}_p"].shape == (4, len(CLASSES[k]))
        assert_close(small[f"{k}_p"].sum(1), torch.ones(4))
    assert torch.equal(small["kind"], large["kind"]) and torch.equal(small["background"], large["background"])


def test_the_loss_leaves_out_what_a_picture_does_not_have():
    n = 3
    out = {k: torch.zeros(n, len(CLASSES[k])) for k in CLASSES} | {k: torch.zeros(n) for k in NUMBERS}
    nothing = {k: torch.full((n,), -1) for k in CLASSES} | {k: torch.full((n,), float("nan")) for k in NUMBERS}
    assert meter_loss(out, nothing) == 0
    one = nothing | {"age": torch.tensor([float("nan"), 0.5, float("nan")])}
    assert_close(meter_loss(out, one), torch.tensor(4 * 0.25))
    two = nothing | {"glasses": torch.tensor([-1, 1, -1])}
    assert_close(meter_loss(out, two), torch.tensor(2.0).log())


def test_roughening_keeps_range_shape_and_gist():
    x = toybox.sample(8, seed=3).images
    rough = roughen(x, torch.Generator().manual_seed(0))
    assert rough.shape == x.shape and rough.min() >= 0 and rough.max() <= 1
    assert 0 < (rough - x).abs().mean() < .06


def test_the_judge_finds_in_renders_what_their_captions_say_and_not_in_others():
    scenes, captions = fresh_captions(250, seed=5)
    pictures = draw(scenes).images
    right = judge(scenes, captions, pictures)
    wrong = judge(scenes, captions, pictures.roll(7, dims=0))
    seen = [k for k, v in right.items() if v == v and not k.startswith("pair")]
    assert len(seen) >= 11
    assert {k: right[k] for k in seen if right[k] < .85} == {}
    assert sum(wrong[k] for k in seen) < .6 * sum(right[k] for k in seen)


def test_unseen_combinations_come_equally_often_and_are_judged_by_both_words():
    scenes, captions = unseen(3, seed=6)
    pairs = [(s.things[0].color, s.things[0].member) for s in scenes]
    assert len(pairs) == 3 * len(UNSEEN) and all(pairs.count(pair) == 3 for pair in UNSEEN)
    assert all(c.startswith(f"a {color} {member} ") for c, (color, member) in zip(captions, pairs)) and len(set(captions)) == len(captions)
    pictures = draw(scenes).images
    both = lambda x: judge(scenes, captions, x)["object: member and colour"]
    assert both(pictures) > .6 and both(pictures.roll(1, dims=0)) < .2
    assert both(pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)) < .5          # the members alone do not pass


def test_hands_with_five_fingers_are_judged_by_their_fingers():
    scenes, captions = five_fingers(8, seed=6)
    assert set(captions) == {"a hand with five fingers"} and all(s.fingers == 5 for s in scenes)
    right = lambda made: judge(scenes, captions, draw(made).images)["hand: fingers"]
    assert right(scenes) > .9
    assert right([replace(s, fingers=6) for s in scenes]) < .2


def test_sketches_are_asked_for_no_colour():
    batch = toybox.sample(300, seed=9)
    sketch = batch.attributes["style"] == CLASSES["style"].index("sketch")
    assert sketch.any() and (batch.attributes["color"][sketch] == -1).all() and (batch.attributes["hair"][sketch] == -1).all()
    gray = batch.images[sketch]
    assert (gray.amax(1) - gray.amin(1)).max() < 1e-6


def test_a_meter_round_trips_through_its_folder(tmp_path):
    from minidiff.checkpoints import save_folder
    meter = Meter(width=8)
    save_folder(meter, meter.config, tmp_path, dtype=torch.float32)
    x = torch.rand(2, 3, 64, 64)
    again = Meter.from_pretrained(tmp_path)
    assert_close(again(x)["member"], meter(x)["member"])


# Training, and the commands


TINY = ["--steps", "2", "--pictures", "40", "--seed", "5"]


def test_the_meter_is_trained_where_the_other_stages_are_and_goes_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(devices, "pick", lambda: asked.append("a device") or torch.device("cpu"))
    monkeypatch.setattr(meter, "score", lambda trained, seed: {"kind": float(seed)})
    meter.main([*TINY, "--out", str(tmp_path)])
    again = Meter.from_pretrained(tmp_path / "meter")
    assert asked == ["a device"] and again(torch.rand(1, 3, 64, 64))["age"].isfinite().all()
    state = torch.load(tmp_path / "meter" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2 and '"kind": 6.0' in (tmp_path / "meter" / "config.json").read_text()


@pytest.mark.parametrize("command", [meter, maps], ids=lambda module: module.__name__)
@pytest.mark.parametrize("arguments, message", [
    (["--minutes", "0"], "--minutes is 0, expected a number above 0"), (["--minutes", "nan"], "--minutes is nan"),
    (["--steps", "0"], "--steps is 0, expected at least 1"), (["--pictures", "0"], "--pictures is 0"), (["--seed", "-1"], "--seed is -1"),
    (["--score", "-1"], "--score is -1, expected at least 0"), (["--score", "many"], "invalid int value"), (TINY, "no such device")])
def test_bad_input_is_one_sentence_and_status_2(monkeypatch, tmp_path, capsys, command, arguments, message):
    def pick():
        raise ValueError("no such device")
    monkeypatch.setattr(devices, "pick", pick)
    with pytest.raises(SystemExit) as stop:
        command.main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert arguments == TINY or not list(tmp_path.iterdir())                        # nothing was drawn


def test_a_batch_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        maps.main(["--batch", "0"])
    assert stop.value.code == 2 and "--batch is 0" in capsys.readouterr().err
