"""papers/concept_sliders.py: the equations, what trains and what does not, pairs, composition, and the script from end to end."""
import argparse
import json
import shutil

import concept_sliders as paper
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import minidiff
from minidiff import images, lora
from minidiff.checkpoints import find
from minidiff.samplers import ddim_step, guide, noise
from minidiff.toybox.captions import age_word
from minidiff.toybox.pairs import pairs, save_pairs

FAST = ["--steps", "2", "--batch", "1", "--rollout", "4", "--sampling", "4"]


@pytest.fixture
def pipe():
    return minidiff.load("toybox", "cpu")


def options(*more, **changes):
    _, args = paper.arguments([*more, *FAST])
    return argparse.Namespace(**vars(args) | changes)


# Eq. (7) and (8)


def constants(*values):
    return [torch.full((1, 4, 2, 2), float(v)) for v in values]


def test_the_target_moves_from_c_t_along_c_pos_minus_c_neg():
    e_t, pos, neg = constants(1, 5, 2)
    assert_close(paper.slider_target(e_t, [pos], [neg], 2.0), *constants(1 + 2 * (5 - 2)))
    assert_close(paper.slider_target(e_t, [neg], [pos], 2.0), *constants(1 - 2 * (5 - 2)))
    assert_close(paper.slider_target(e_t, [pos], [neg], 0.0), e_t)


def test_preserved_concepts_add_one_difference_each():
    e_t, p1, p2, n1, n2 = constants(1, 5, 11, 2, 4)
    assert_close(paper.slider_target(e_t, [p1, p2], [n1, n2], 3.0), *constants(1 + 3 * ((5 - 2) + (11 - 4))))


def test_the_loss_of_step_0_is_eta_squared_times_the_distance_of_the_two_ends(pipe):
    slider = lora.attach(pipe.unet)
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE | {"preserve": [], "eta": 3.0})
    x, t = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500, 500])
    with torch.no_grad():
        e_t, e_pos, e_neg = paper.predictions(pipe.unet, x, t, [c_t], pos, neg)
        student = pipe.unet(x, 500, c_t.context.expand(2, -1, -1))
    assert slider.scale == 1
    assert_close(F.mse_loss(student, paper.slider_target(e_t[0], e_pos, e_neg, eta)), 9 * F.mse_loss(e_pos[0], e_neg[0]), rtol=1e-3, atol=1e-7)


def test_one_batched_forward_equals_one_forward_per_text_and_picture(pipe):
    x, t = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 700])
    c = pipe.encode_prompts(["a person", "a red cat", "a house"])
    with torch.no_grad():
        first, others = paper.predictions(pipe.unet, x, t, [c[0]], [c[1], c[2]])
        alone = [torch.cat([pipe.unet(x[[i]], int(t[i]), one.context) for i in range(2)]) for one in c]
    assert_close([*first, *others], alone, rtol=1e-4, atol=1e-4)


def test_preserved_words_are_appended_to_both_ends(pipe, monkeypatch):
    seen = []
    original = pipe.encode_prompts
    monkeypatch.setattr(pipe, "encode_prompts", lambda prompts: seen.extend(prompts) or original(prompts))
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE)
    assert seen == ["a person", "a very old person with glasses", "a very old person without glasses",
                    "a very young person with glasses", "a very young person without glasses"]
    assert len(pos) == len(neg) == 2 and len(c_t) == len(pos[0]) == 1


# The roll-outs


def test_a_roll_out_step_is_a_guided_ddim_step_of_each_picture_from_its_own_t(pipe):
    args, generator = options(batch=3, rollout=10), torch.Generator().manual_seed(0)
    c_t, c_neg = pipe.encode_prompts(["a person", "a very young person"])
    rollouts = paper.Rollouts(pipe, c_t, c_neg, args, generator)
    rollouts.k = torch.tensor([0, 10, 20])
    x, t = rollouts.latents()
    assert t.tolist() == pipe.schedule.timesteps(50)[[0, 10, 20]].tolist()
    e_t, e_neg = torch.randn(2, 3, 8, 16, 16, generator=generator)
    rollouts.advance(e_t, e_neg)
    after, t_after = rollouts.latents()
    assert (t_after < t).all()
    for i in range(3):
        want = ddim_step(pipe.schedule, guide(e_neg, e_t, 3.0)[[i]], x[[i]], int(t[i]), int(t_after[i]))
        assert_close(after[[i]], want)


def test_finished_pictures_start_again_from_new_noise_and_every_timestep_is_visited(pipe):
    args, generator = options(batch=16, rollout=10), torch.Generator().manual_seed(0)
    c = pipe.encode_prompts(["a person"])
    rollouts = paper.Rollouts(pipe, c, c, args, generator)
    visited = []
    for _ in range(120):
        x, t = rollouts.latents()
        visited += t.tolist()
        assert x[t == 999].numel() == 0 or .8 < float(x[t == 999].std()) < 1.2
        rollouts.advance(torch.zeros_like(x), torch.zeros_like(x))
    late = sum(v < 500 for v in visited[320:]) / len(visited[320:])
    assert set(visited) == set(pipe.schedule.timesteps(50).tolist()) and .35 < late < .6


def test_the_literal_roll_out_and_its_loss_are_at_the_same_timestep(pipe):
    """After k steps from the first timestep of the sampler's list, the latents are at entry k of the same list."""
    c_t, c_neg = pipe.encode_prompts(["a person", "a very young person"])
    args = options(batch=2, rollout=2)                                        # so that k can only be 1
    x_t, t = paper.FreshRollouts(pipe, c_t, c_neg, args, torch.Generator().manual_seed(0)).latents()
    times = pipe.schedule.timesteps(2).tolist()
    assert t.tolist() == [times[1]] * 2
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, 2, (), generator=generator)                              # k
    x_T = torch.randn(2, 8, 16, 16, generator=generator)
    with torch.no_grad():
        e_neg, e_t = (pipe.unet(x_T, times[0], c.context.expand(2, -1, -1)) for c in (c_neg, c_t))
    assert_close(x_t, ddim_step(pipe.schedule, guide(e_neg, e_t, 3.0), x_T, times[0], times[1]), rtol=1e-3, atol=1e-3)


# Training


@pytest.mark.parametrize("recipe", ["staggered", "literal"])
def test_the_student_learns_from_the_frozen_model(pipe, monkeypatch, recipe):
    scales, attached = [], []
    monkeypatch.setattr(paper, "predictions", lambda *a, original=paper.predictions: scales.append(attached[-1].scale) or original(*a))
    monkeypatch.setattr(paper.lora, "attach", lambda *a, original=lora.attach: attached.append(original(*a)) or attached[-1])
    paper.train_text_slider(pipe, [paper.AGE], options(steps=2, recipe=recipe))
    assert scales == [0.0, 1.0] * 2 and attached[-1].scale == 1.0


@pytest.mark.parametrize("recipe", ["staggered", "literal"])
def test_a_block_is_learned_at_its_own_position(pipe, monkeypatch, recipe):
    """Both ends: the student, and the latents that it is asked about, are at the block's scale."""
    scales, attached = [], []
    monkeypatch.setattr(paper, "predictions", lambda *a, original=paper.predictions: scales.append(attached[-1].scale) or original(*a))
    monkeypatch.setattr(paper.lora, "attach", lambda *a, original=lora.attach: attached.append(original(*a)) or attached[-1])
    kind = paper.RECIPES[recipe]
    monkeypatch.setattr(kind, "latents", lambda self, original=kind.latents: scales.append(("x_t", attached[-1].scale)) or original(self))
    other = paper.AGE | {"positive": paper.AGE["negative"], "negative": paper.AGE["positive"], "scale": -1.0}
    paper.train_text_slider(pipe, [paper.AGE, other], options(steps=6, recipe=recipe))
    assert attached[-1].scale == 1.0
    steps = [tuple(scales[i:i + 3]) for i in range(0, len(scales), 3)]
    assert set(steps) == {(("x_t", s), 0.0, s) for s in (-1.0, 1.0)}


def test_a_slider_learned_at_its_other_end_only_turns_the_attribute_the_same_way(pipe):
    """The target at scale -1 is that of the swapped ends, so scale 1 goes where the block's own end is."""
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE)
    other = paper.AGE | {"positive": paper.AGE["negative"], "negative": paper.AGE["positive"], "scale": -1.0}
    x, t = noise((2, 8, 16, 16), 5), torch.tensor([999, 999])
    slider = paper.train_text_slider(pipe, [other], options(steps=8, batch=2))
    with torch.no_grad():
        with slider.at(0.0):
            e_t, e_pos, e_neg = paper.predictions(pipe.unet, x, t, [c_t], pos, neg)
        (student,), = paper.predictions(pipe.unet, x, t, [c_t])
    push = paper.slider_target(e_t[0], e_pos, e_neg, eta) - e_t[0]
    assert F.cosine_similarity((student - e_t[0]).flatten(), push.flatten(), dim=0) > .3


def test_only_the_adapter_trains_and_the_seed_decides_it(pipe):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    slider = paper.train_text_slider(pipe, [paper.AGE], options())
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert all(p.requires_grad for p in slider.parameters()) and not any(p.requires_grad for p in pipe.unet.parameters())
    assert any(adapter.up.weight.abs().max() > 0 for adapter in slider.adapters)
    again = paper.train_text_slider(minidiff.load("toybox", "cpu"), [paper.AGE], options())
    assert all(torch.equal(a, b) for a, b in zip(slider.parameters(), again.parameters()))


def test_training_brings_the_student_closer_to_the_target(pipe):
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE)
    x, t = noise((2, 8, 16, 16), 5), torch.tensor([999, 999])
    slider = paper.train_text_slider(pipe, [paper.AGE], options(steps=8, batch=2))
    with torch.no_grad():
        with slider.at(0.0):
            e_t, e_pos, e_neg = paper.predictions(pipe.unet, x, t, [c_t], pos, neg)
        (student,), = paper.predictions(pipe.unet, x, t, [c_t])
    target = paper.slider_target(e_t[0], e_pos, e_neg, eta)
    assert F.mse_loss(student, target) < .9 * F.mse_loss(e_t[0], target)


def test_ctrl_c_keeps_the_slider_as_far_as_it_got(pipe, monkeypatch, capsys):
    calls = []

    def stop_at_the_second(*args, original=paper.update, **how):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **how)
    monkeypatch.setattr(paper, "update", stop_at_the_second)
    slider = paper.train_text_slider(pipe, [paper.AGE], options(steps=5))
    assert "stopped after 1 of 5" in capsys.readouterr().out
    assert any(adapter.up.weight.abs().max() > 0 for adapter in slider.adapters)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(pipe):
    with pytest.raises(FloatingPointError, match="at step 0; lower --lr or eta"):
        paper.train_text_slider(pipe, [paper.AGE | {"eta": float("inf")}], options(steps=3))


# Visual sliders


def test_the_visual_loss_wants_the_same_noise_from_both_ends():
    eps, error = torch.randn(2, 2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert paper.visual_loss(eps, eps, eps) == 0
    assert_close(paper.visual_loss(eps + error, eps, eps), error.square().mean())
    assert_close(paper.visual_loss(eps, eps - 2 * error, eps), 4 * error.square().mean())


def test_both_pictures_of_a_pair_get_one_noise_one_timestep_and_opposite_scales(pipe, monkeypatch):
    drawn = pairs("eye_size", 3, seed=0).images
    z = {s: pipe.encode(x) for s, x in drawn.items()}
    seen, attached = [], []
    monkeypatch.setattr(paper.lora, "attach", lambda *a, original=lora.attach: attached.append(original(*a)) or attached[-1])
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, *a, original=pipe.unet.forward: seen.append((x, t, attached[-1].scale)) or original(x, t, *a))
    paper.train_visual_slider(pipe, drawn, options("train", steps=1, batch=2))
    (x, t, scale), = seen
    assert scale.tolist() == [-1, -1, 1, 1] and attached[-1].scale == 1.0
    assert t[:2].tolist() == t[2:].tolist()
    difference = x[2:] - x[:2]                                                # the noise cancels
    signal = pipe.schedule.alpha_bar_at(t[:2], x).sqrt()
    assert all(min(float((difference[i] - signal[i] * d).abs().max()) for d in z[1] - z[-1]) < 1e-5 for i in range(2))


def test_versions_of_a_pair_are_mirrored_and_shifted_alike():
    before = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = paper.varied({-1.0: before, 1.0: before + 1}, 8, torch.Generator().manual_seed(0))
    assert made[-1.0].shape == (24, 3, 64, 64)
    assert torch.equal(made[-1.0][:3], before) and len({float(x.mean()) for x in made[-1.0]}) == 24
    assert_close(made[1.0] - made[-1.0], torch.ones(24, 3, 64, 64))
    flat = [x.flatten().sort().values for x in made[-1.0]]
    assert all(torch.isin(x, before).all() for x in flat)                     # only moved, never mixed


def test_pairs_are_read_by_strength_and_name(tmp_path):
    drawn = pairs("eye_size", 3, seed=0, strengths=(-1, -.5, .5, 1))
    save_pairs(tmp_path, drawn)
    found = paper.read_pairs(tmp_path, 64)
    assert set(found) == {-1, -.5, .5, 1}
    assert all(torch.allclose(found[s], drawn.images[s], atol=1 / 255) for s in found)


@pytest.mark.parametrize("make, message", [
    (lambda d: None, "no folder"), (lambda d: d.mkdir(), "none has a number"),
    (lambda d: images.save(d / "1" / "a.png", torch.zeros(3, 64, 64)), "the opposite of 1"),
    (lambda d: [images.save(d / "1" / "a.png", torch.zeros(3, 64, 64)), images.save(d / "-1" / "b.png", torch.zeros(3, 64, 64))], "a, b"),
    (lambda d: [(d / s).mkdir(parents=True) for s in ("-1", "1")], "no pictures in"),
])
def test_bad_folders_of_pairs_are_one_sentence_and_status_2(tmp_path, capsys, make, message):
    make(tmp_path / "pairs")
    with pytest.raises(SystemExit) as stop:
        paper.main(["train", *FAST, "--pairs", str(tmp_path / "pairs"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()


# Using it


def trained(pipe):
    slider = lora.attach(pipe.unet, generator=torch.Generator().manual_seed(0))
    for i, adapter in enumerate(slider.adapters):
        torch.nn.init.normal_(adapter.up.weight, std=.05, generator=torch.Generator().manual_seed(i))
    return slider


def test_scale_0_is_the_picture_of_the_untouched_model(pipe):
    plain = pipe("a person", n=1, steps=4, guidance=5.0, seed=3, eta=0.0)
    pictures = paper.sample_scales(pipe, trained(pipe), ["a person"], [0.0, 2.0], [3], steps=4)
    assert torch.equal(pictures[0, 0], plain[0])
    assert (pictures[0, 1] - plain[0]).abs().max() > 0.02


@pytest.mark.parametrize("start, moves", [(-1, False), (1000, True)])
def test_above_start_the_slider_is_off(pipe, start, moves):
    slider = trained(pipe)
    low, high = paper.sample_scales(pipe, slider, ["a person"], [-1.0, 1.0], [0], steps=4, start=start)[0]
    assert torch.equal(low, high) != moves
    assert slider.scale == 1.0


def test_sliders_with_their_own_scales_add_up_and_one_that_is_at_0_is_absent(pipe):
    a, b = trained(pipe), trained(pipe)
    both, only_a, half_each = paper.sample_scales(pipe, [a, b], ["a person"], [1.0, (1.0, 0.0), (.5, .5)], [3], steps=4)[0]
    assert_close(half_each, only_a, rtol=0, atol=1e-3)                         # two equal sliders at a half are one
    assert (both - only_a).abs().max() > .01
    with pytest.raises(ValueError, match="1 scales for 2 sliders"):
        paper.sample_scales(pipe, [a, b], ["a person"], [(1.0,)], [3], steps=4)


def test_merged_weights_draw_what_the_sliders_draw(pipe):
    a, b = trained(pipe), trained(pipe)
    hooked = paper.sample_scales(pipe, [a, b], ["a person"], [(1.5, -.5)], [3], steps=4, start=1000)
    a.scale, b.scale = 1.5, -.5
    a.merge()
    b.merge()
    assert_close(paper.sample_scales(pipe, [], ["a person"], [0.0], [3], steps=4), hooked, rtol=0, atol=1e-3)


def test_an_inverted_picture_comes_back_at_scale_0_and_moves_with_the_slider(pipe):
    picture = pairs("age", 1, seed=4).images[1][0]
    slider = trained(pipe)
    back, moved = paper.edit_picture(pipe, slider, picture, "a person", [0.0, 3.0], steps=20)[0]
    rendered = pipe.decode(pipe.encode(picture[None]))[0].detach()
    assert (back - rendered).abs().mean() < .002 < .005 < (moved - rendered).abs().mean()


@pytest.mark.parametrize("text, path, weight", [("age.safetensors", "age.safetensors", 1), ("age.safetensors=-1.5", "age.safetensors", -1.5),
                                                ("a=b.safetensors", "a=b.safetensors", 1), ("a=b.safetensors=2", "a=b.safetensors", 2)])
def test_a_slider_may_be_named_with_its_weight(text, path, weight):
    assert paper.parse_slider(text) == (path, weight)


def test_what_the_meter_reads_becomes_the_numbers_of_a_slider():
    drawn = pairs("age", 4, seed=3, strengths=(-1, 0, 1)).images
    m = paper.measure_slider(torch.stack(list(drawn.values()), 1), (-1, 0, 1), "age")
    assert m["spearman"] == pytest.approx(1) and m["span"] > .6 and m["kept_background"] == 1 and m["at_-1"] < m["at_+0"] < m["at_+1"]


def test_the_prompts_of_the_default_slider_use_words_of_the_captions():
    assert age_word(.95) in paper.AGE["positive"] and age_word(.05) in paper.AGE["negative"]


# The script


def test_the_script_trains_saves_draws_and_measures(tmp_path, capsys):
    paper.main([*FAST, "--out", str(tmp_path), "--scales", "-1", "0", "1"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"spearman", "span", "seconds", "device", "steps", "at_+0"} <= set(metrics)
    assert not any(isinstance(v, (dict, list)) for v in metrics.values())
    assert (tmp_path / "figure.png").stat().st_size > 5000 and "figure.png" in capsys.readouterr().out
    sliders = ["--slider", str(tmp_path / "age.safetensors"), f"{tmp_path / 'hair.safetensors'}=-1", "--sampling", "2"]
    paper.main(["sample", *sliders, "--n", "1", "--out", str(tmp_path / "again")])
    picture = pairs("age", 1, seed=4).images[1][0]
    images.save(tmp_path / "face.png", picture)
    paper.main(["edit", *sliders, "--image", str(tmp_path / "face.png"), "--out", str(tmp_path / "edit")])
    assert (tmp_path / "again" / "figure.png").is_file() and (tmp_path / "edit" / "figure.png").is_file()
    paper.main(["merge", *sliders, "--out", str(tmp_path / "merged")])
    merged, plain = minidiff.UNet.from_pretrained(tmp_path / "merged" / "unet"), minidiff.load("toybox", "cpu").unet
    age = lora.load(plain, tmp_path / "age.safetensors")
    changed = {name + ".weight" for name in age.names}
    assert {k for k, v in merged.state_dict().items() if not torch.equal(v, plain.state_dict()[k])} <= changed
    hair, key = lora.load(plain, tmp_path / "hair.safetensors"), age.names[0] + ".weight"
    update = age.adapters[0].weight() - hair.adapters[0].weight()
    assert_close(merged.state_dict()[key] - plain.state_dict()[key], update, rtol=1e-3, atol=1e-6)
    shutil.copytree(find("toybox"), tmp_path / "whole", ignore=shutil.ignore_patterns("unet", "prior", "decoder", "composer"))
    shutil.move(tmp_path / "merged" / "unet", tmp_path / "whole" / "unet")             # as the script says
    assert minidiff.load(tmp_path / "whole", "cpu").sample_size == 16


def test_the_script_learns_a_slider_from_a_folder_of_pairs(tmp_path):
    save_pairs(tmp_path / "pairs", pairs("eye_size", 2, seed=0))
    paper.main(["train", *FAST, "--pairs", str(tmp_path / "pairs"), "--out", str(tmp_path)])
    assert (tmp_path / "slider.safetensors").is_file()


@pytest.mark.parametrize("block, message", [
    ("{", "not valid JSON"), ("[]", "a list of them"), ('"age"', "a list of them"), ('[{"target": "a"}]', "positive"),
    ('{"target": "a", "positive": "b", "negative": 3}', "negative is 3"),
    ('{"target": "a", "positive": "b", "negative": "c", "guidance": 4}', "unknown key guidance"),
    ('{"target": "a", "positive": "b", "negative": "c", "eta": "big"}', "eta"),
    ('{"target": "a", "positive": "b", "negative": "c", "action": "burn"}', "enhance or erase"),
    ('{"target": "a", "positive": "b", "negative": "c", "scale": "left"}', "scale"),
    ('{"target": "a", "positive": "b", "negative": "c", "scale": 0}', "at which it is off"),
    ('{"target": "a", "positive": "b", "negative": "c", "preserve": "glasses"}', "preserve"),
])
def test_a_bad_prompt_file_is_one_sentence_and_status_2(tmp_path, capsys, block, message):
    (tmp_path / "p.json").write_text(block)
    with pytest.raises(SystemExit) as stop:
        paper.main(["train", "--prompts", str(tmp_path / "p.json"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [
    ["--scales", "nan"], ["--scales", "500"], ["--steps", "0"], ["--rank", "0"], ["--lr", "-1"], ["--model", "/nowhere"], ["--device", "toaster"],
    ["train", "--prompts", "/nowhere.json"], ["sample", "--slider", "/nowhere.safetensors"], ["sample", "--slider", "a.safetensors=99"],
    ["train", "--prompts", "a.json", "--pairs", "b"], ["edit", "--slider", "/nowhere.safetensors", "--image", "/nowhere.png"],
    ["merge", "--slider", "/nowhere.safetensors"], ["eval", "--table", "shoes"], ["train", "--prompt", "a smiling person"],
    ["edit", "--slider", "a", "--image", "b", "--guidance", "7.5"], ["--scales", "1"], ["--scales", "0", "1", "2"],
])
def test_bad_arguments_are_status_2(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb, start", [([], 700), (["train"], 700), (["sample", "--slider", "a"], 700), (["eval"], 700),
                                         (["edit", "--slider", "a", "--image", "b"], 500), (["edit", "--slider", "a", "--image", "b", "--start", "9"], 9)])
def test_only_edit_starts_later(verb, start):
    assert paper.arguments(verb)[1].start == start


def test_erase_is_enhance_with_the_ends_swapped():
    block = {"target": "a", "positive": "b", "negative": "c"}
    erased = paper.checked(block | {"action": "erase"}, "here")
    assert (erased["positive"], erased["negative"]) == ("c", "b")


@pytest.mark.filterwarnings("ignore:prompt has")
@pytest.mark.parametrize("make", [tiny_models.stable_diffusion, tiny_models.stable_diffusion_xl])
def test_at_scale_0_the_picture_is_the_one_that_the_model_draws_without_a_slider(tmp_path, make):
    pipe = minidiff.load(make(tmp_path / "model"), "cpu")
    slider = lora.attach(pipe.unet)
    pictures = paper.sample_scales(pipe, slider, ["a red cat"], [0.0], [3], 3, 4.0)
    slider.detach()
    assert_close(pictures[:, 0], pipe("a red cat", 1, 3, 4.0, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:prompt has")
@pytest.mark.parametrize("make", [tiny_models.stable_diffusion, tiny_models.stable_diffusion_xl])
def test_the_same_file_trains_and_samples_on_other_models(tmp_path, make):
    model, out = make(tmp_path / "model"), tmp_path / "out"
    use = ["--model", str(model), "--out", str(out), "--device", "cpu", *FAST]
    paper.main(["train", *use])
    save_pairs(tmp_path / "pairs", pairs("eye_size", 2, seed=0))
    paper.main(["train", *use, "--pairs", str(tmp_path / "pairs"), "--out", str(out / "visual")])
    sliders = ["--slider", str(out / "slider.safetensors"), str(out / "visual" / "slider.safetensors") + "=-1"]
    paper.main(["sample", *use, *sliders, "--n", "2", "--prompt", "a red cat", "--scales", "0", "2"])
    paper.main(["edit", *use, *sliders, "--image", str(tmp_path / "pairs" / "1" / "000.png"), "--out", str(out / "edit")])
    assert (out / "figure.png").is_file() and (out / "edit" / "figure.png").is_file()
