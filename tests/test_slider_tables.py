"""papers/tables/concept_sliders.py: the protocols, on sliders that had hardly any training."""
import argparse
import json
import math
from dataclasses import replace

import concept_sliders as paper
import pytest
import torch
from safetensors.torch import save_file
from tables import concept_sliders as tables

import minidiff
from minidiff import images
from minidiff.toybox.pairs import pairs

TINY = ["eval", "--steps", "1", "--batch", "1", "--rollout", "4", "--sampling", "3", "--repeats", "1", "--pictures", "2"]


def options(out, *more):
    _, args = paper.arguments([*TINY, "--out", str(out), *more])
    return args


def test_a_curve_is_read_where_the_change_reaches_what_is_wanted():
    change, curve = [0.0, 0.2, 0.6], [0.0, 1.0, 5.0]
    assert tables.at_equal(change, curve, .1) == pytest.approx(.5)
    assert tables.at_equal(change, curve, .4) == pytest.approx(3)
    assert math.isnan(tables.at_equal(change, curve, .9))
    assert tables.at_equal(change, curve, -.1) == 0.0


def test_what_is_kept_is_a_share_of_the_attributes_of_each_picture():
    drawn = pairs("age", 6, seed=0, strengths=(-1, 1)).images
    assert tables.kept_share(drawn[1], drawn[1], ("skin", "background", "age")) == 1
    assert tables.kept_share(drawn[-1], drawn[1], ("age",)) == 0
    both = tables.kept_share(drawn[-1], drawn[1], ("background", "age"))
    assert both == pytest.approx(tables.kept_share(drawn[-1], drawn[1], ("background",)) / 2)


@pytest.mark.parametrize("concept", tables.CONCEPTS)
def test_the_baselines_get_every_prompt_with_the_words_of_the_concept(concept):
    c = tables.CONCEPTS[concept]
    new_words = set(c.blocks[0]["positive"].replace(",", "").split()) - set(c.blocks[0]["target"].split())
    for prompt in c.prompts:
        edited = c.edited(prompt).replace(",", " ").split()
        assert new_words & set(edited) and set(prompt.split()) <= {*edited, "a"}, edited


@pytest.mark.parametrize("concept", tables.CONCEPTS)
def test_both_ends_of_a_block_say_what_its_target_says(concept):
    for block in tables.CONCEPTS[concept].blocks:
        said = {k: block[k].replace(",", "").split() for k in ("target", "positive", "negative")}
        assert block["positive"] != block["negative"] and set(said["target"]) <= set(said["positive"]) & set(said["negative"])


def test_log_odds_rise_with_the_first_class_and_have_no_end():
    p = torch.tensor([[.01, .01, .97, .01], [.97, .01, .01, .01], [0., 0., 1., 0.]])
    read = tables.log_odds("weather", ["rainy"], ["sunny", "cloudy"])({"weather_p": p})
    assert read[0] > 0 > read[1] and read[2] > read[0] and read.isfinite().all()
    assert read[0] == pytest.approx(math.log(.97 / .02), abs=1e-3)


def test_fifty_sliders_are_ten_attributes_in_five_surroundings():
    assert len(tables.AXES) * len(tables.GROUNDS) == 50


def test_the_tables_are_made_kept_and_put_together(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tables, "VISUAL", ("eye_size",))
    monkeypatch.setattr(tables, "CUSTOMISED", ())
    for table in ("eyes", "quality"):
        tables.run(options(tmp_path, "--table", table, "--pictures", "1", "--sampling", "2"))
    made = json.loads((tmp_path / "table.json").read_text())
    assert list(made) == ["eyes", "quality"] and all(t["rows"] for t in made.values())
    assert "eye_size" in (tmp_path / "table.md").read_text() and "wrong fingers" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "sliders").iterdir()}
    tables.run(options(tmp_path, "--table", "quality", "--pictures", "1", "--sampling", "2"))
    assert before and before == {p: p.stat().st_mtime_ns for p in (tmp_path / "sliders").iterdir()}      # not trained again


def test_text_sliders_stand_beside_prompt_to_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CONCEPTS", {"age": replace(tables.CONCEPTS["age"], steps=2)})
    _, _, rows = tables.table_text(minidiff.load("toybox", "cpu"), options(tmp_path, "--sampling", "2", "--pictures", "1"))
    assert [r["method"] for r in rows] == ["slider", "Prompt-to-Prompt", "prompt changed", "drawn so"]
    assert "spearman" in rows[0] and all("distance" in r for r in rows[:3])


def test_renders_are_compared_from_where_the_untouched_pictures_are(tmp_path, monkeypatch):
    pipe, args = minidiff.load("toybox", "cpu"), options(tmp_path)
    with torch.no_grad():
        a, b = (pipe.decode(pipe.encode(x)) for x in pairs("hair_length", 3, 5, (.25, .75)).images.values())
    monkeypatch.setattr(tables, "pictures_of", lambda *args: a[:, None])
    apart = lambda wanted: tables.drawn_row(pipe, args, "hair", 5, [0, 1, 2], wanted)["distance at P2P's change"]
    change = float((tables.value_of(b, "hair_length") - tables.value_of(a, "hair_length")).mean())
    assert apart(change) == pytest.approx(float(tables.distance(b, a).mean()), rel=1e-3)
    assert 0 < apart(change / 2) < apart(change) and math.isnan(apart(2.0))


def test_customisation_learns_each_end_of_the_pairs_and_is_measured_between_them(tmp_path, monkeypatch):
    drawn, calls = {float(s): x for s, x in pairs("eye_size", 6, seed=0).images.items()}, []

    def script(name, verb, *arguments):                    # draws exactly what it was given to learn
        calls.append((name, verb))
        folder = arguments[arguments.index("--out") + 1]
        assert arguments[-4:] == ("--model", "toybox", "--device", "cpu")
        given = torch.stack([images.load(path) for path in sorted((folder / "given").iterdir())])
        if verb == "sample":
            save_file({"images": (given * 255).round().byte()}, folder / "samples.safetensors")
    monkeypatch.setattr(tables, "script", script)
    row = tables.customised_row(options(tmp_path, "--device", "cpu"), "custom_diffusion", "eye_size", 3, 0, drawn)
    assert calls == [("custom_diffusion.py", "train"), ("custom_diffusion.py", "sample")] * 2
    assert row["share"] == pytest.approx(1, abs=.02) and row["pairs' change"] > .3


def test_a_baseline_that_fails_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="prompt_to_prompt.py .*failed: .*needs --source"):
        tables.script("prompt_to_prompt.py", "edit", "--source", "a person", "--out", tmp_path)


def test_a_slider_is_taken_off_before_the_next_is_trained(tmp_path):
    pipe = minidiff.load("toybox", "cpu")
    args = options(tmp_path)
    tables.text_slider(pipe, args, "age", 0, [paper.AGE]).detach()
    assert not any(m._forward_hooks for m in pipe.unet.modules())
    other = argparse.Namespace(**vars(args))
    assert tables.text_slider(pipe, other, "age", 0, [paper.AGE]).scale == 1
