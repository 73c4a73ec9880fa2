"""Pairs: the same scene with one thing changed, and nothing else."""
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minidiff import images, toybox
from minidiff.toybox.canvas import PART_ID
from minidiff.toybox.pairs import RANGES, WHAT, changed, main, neutral_caption, pairs, save_pairs, unchanged
from minidiff.toybox.world import attributes_of, draw

N, SEED = 6, 12
PARTS = {"eye_size": ["eyes"], "brow_slant": ["brows"], "smile": ["mouth"], "hair_length": ["hair"]}
WORDS = {"age": ["young", "old"], "smile": ["smiling", "sad"], "hair_length": ["short", "long"], "fingers": ["finger"],
         "distortion": ["distorted", "clean"], "eye_size": ["eye"], "brow_slant": ["brows", "angry"]}


@pytest.fixture(scope="module")
def drawn():
    return {what: pairs(what, N, SEED) for what in WHAT}


def scenes(what):
    """The scenes of pairs(what, N, SEED): low and high."""
    plain = [unchanged(what, SEED, i, np.random.default_rng((SEED, i, 3))) for i in range(N)]
    return [[changed(p, what, s) for p in plain] for s in (-1, 1)]


@pytest.fixture(scope="module")
def masks():
    """{what: (low, high)}: the same pictures with their masks."""
    return {what: [draw(s) for s in scenes(what)] for what in WHAT}


@pytest.mark.parametrize("what", WHAT)
def test_only_the_wanted_attribute_differs(what, drawn, masks):
    low, high = scenes(what)
    key = "distorted" if what == "distortion" else what
    before, after = attributes_of(low), attributes_of(high)
    differ = {k for k in before if not torch.equal(before[k].nan_to_num(-9), after[k].nan_to_num(-9))}
    assert differ == {key} and (before[key] != after[key]).all()
    for a, b in zip(low, high):                                             # nor anything that has no truth, such as a seed
        a, b = ({**asdict(s), **(asdict(s.portrait) if s.portrait else {}), "portrait": None} for s in (a, b))
        assert {k for k in a if a[k] != b[k]} == {what}
    assert all(torch.equal(drawn[what].images[s], m.images) for s, m in zip((-1, 1), masks[what]))


@pytest.mark.parametrize("what", [w for w in WHAT if w != "distortion"])
def test_pixels_are_equal_away_from_what_changes(what, masks):
    low, high = masks[what]
    if what in PARTS:
        ids = torch.tensor([PART_ID[k] for k in PARTS[what]])
        there = torch.isin(low.parts, ids) | torch.isin(high.parts, ids)
    else:
        there = (low.instances + high.instances) > 0                        # age and fingers change the whole figure
    allowed = F.max_pool2d(there[:, None].float(), 5, 1, 2) > 0
    differs = (low.images - high.images).abs().amax(1, keepdim=True) > 1e-6
    assert not (differs & ~allowed).any() and differs.flatten(1).any(1).all()


@pytest.mark.parametrize("what", WHAT)
def test_the_same_seed_gives_the_same_pairs_however_many(what, drawn):
    few, p = pairs(what, 1, SEED), drawn[what]
    assert few.images.keys() == few.truth.keys() == {-1, 1} and few.prompts == p.prompts[:1]
    for s in (-1, 1):
        assert torch.equal(few.images[s], p.images[s][:1]) and torch.equal(few.truth[s], p.truth[s][:1])
    assert not torch.equal(pairs(what, 1, SEED + 1).images[1], few.images[1])


def test_the_truth_is_the_whole_range_and_linear_between():
    for what, (low, high) in RANGES.items():
        p = pairs(what, 1, 0, strengths=(-1, -.5, 0, 1), size=16)
        got = torch.cat([p.truth[s] for s in (-1, -.5, 0, 1)])
        assert_close(got, torch.tensor([low, .75 * low + .25 * high, (low + high) / 2, high]))
        assert p.images[0].shape == (1, 3, 16, 16) and p.images[0].min() >= 0 and p.images[0].max() <= 1
    hands = pairs("fingers", 40, 0, size=8)
    assert set(hands.truth[-1].tolist()) == {3, 4, 6, 7} and set(hands.truth[1].tolist()) == {5}
    bent = pairs("distortion", 2, 0, strengths=(-1, -.5, 0, 1), size=16)
    assert [bent.truth[s].tolist() for s in (-1, -.5, 0, 1)] == [[1, 1], [.5, .5], [0, 0], [0, 0]]
    assert torch.equal(bent.images[0], bent.images[1]) and not torch.equal(bent.images[-.5], bent.images[-1])


def test_the_meter_reads_the_change(drawn):
    for what in RANGES:
        low, high = (toybox.measure(drawn[what].images[s])[what] for s in (-1, 1))
        assert (high - low).min() > .5 * (RANGES[what][1] - RANGES[what][0])
    for s in (-1, 1):
        hands = drawn["fingers"]
        assert torch.equal(toybox.measure(hands.images[s])["fingers"] + 3, hands.truth[s].long())
    shown = {s: toybox.measure(drawn["distortion"].images[s]) for s in (-1, 1)}
    assert shown[-1]["distorted"].sum() >= N - 2 and shown[1]["distorted"].sum() == 0
    assert shown[1]["kind"].tolist() == [0, 1] * (N // 2)                   # portraits and objects by turns


@pytest.mark.parametrize("what", WHAT)
def test_captions_say_nothing_of_what_changes(what):
    rng = np.random.default_rng(0)
    prompts = [neutral_caption(unchanged(what, SEED, i, rng), what, rng) for i in range(100)]
    assert len(set(prompts)) > 10
    assert not [p for p in prompts if any(word in p for word in WORDS[what])]
    assert what != "distortion" or all(p.startswith("a drawing of a") for p in prompts)


def test_no_glasses_hide_eyes_and_brows_and_everything_is_a_clean_photo():
    assert all((attributes_of(scenes(what)[0])["glasses"] == 0).all() for what in ("eye_size", "brow_slant"))
    assert attributes_of(scenes("smile")[0])["glasses"].any()
    for what in WHAT:
        plain = [unchanged(what, SEED, i, np.random.default_rng(i)) for i in range(100)]
        assert {s.style for s in plain} == {"photo"} and {s.distortion for s in plain} == {0}


# ------------------------------------------------------------------------------------------------ files

def test_files_have_a_folder_for_each_strength_and_equal_names(tmp_path, drawn, capsys):
    main(["smile", "--n", "3", "--seed", str(SEED), "--out", str(tmp_path / "a"), "--strengths", "-1", "-0.5", "1"])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["-0.5", "-1", "1"]
    for strength in ("-1", "1"):
        assert sorted(p.name for p in (tmp_path / "a" / strength).iterdir()) == ["000.png", "001.png", "002.png"]
        read, want = images.load_folder(tmp_path / "a" / strength, 64), drawn["smile"].images[int(strength)][:3]
        assert_close(read, want, atol=.5 / 255 + 1e-6, rtol=0)
    assert str(tmp_path / "a") in capsys.readouterr().out


def test_pairs_are_not_mixed_with_other_pictures(tmp_path):
    save_pairs(tmp_path, pairs("smile", 2, 0, size=16))
    save_pairs(tmp_path, pairs("smile", 2, 1, size=16))                     # the same names: written over
    for other in (pairs("age", 1, 0, size=16), pairs("smile", 2, 0, (-1, .5), size=16)):
        with pytest.raises(ValueError, match="choose an empty folder"):
            save_pairs(tmp_path, other)


@pytest.mark.parametrize("arguments, sentence", [
    (["ears"], "'ears': expected one of eye_size"), (["age", "--strengths", "-2", "1"], "-2.0 1.0: expected numbers from -1 to"),
    (["fingers", "--strengths", "0", "1"], "none 0"), (["age", "--n", "0"], "0 pairs"), (["age", "--size", "4"], "4 pixels"),
    (["age", "--seed", "-1"], "seed -1"), (["age", "--strengths", "nan"], "nan")])
def test_bad_input_gets_one_sentence_and_status_2(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path)])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in message and message.count("\n") == 1 and not list(tmp_path.iterdir())
