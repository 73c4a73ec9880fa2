"""papers/concept_sliders.py: the equation, what trains and what does not, and the script from end to end."""
import argparse
import json

import concept_sliders as paper
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import minidiff
from minidiff import lora
from minidiff.samplers import ddim_step, guide
from minidiff.toybox.captions import age_word

FAST = ["--steps", "2", "--batch", "1", "--rollout", "4", "--sampling", "4"]


@pytest.fixture
def pipe():
    return minidiff.load("toybox", "cpu")


def options(**changes):
    _, args = paper.arguments(FAST)
    return argparse.Namespace(**vars(args) | changes)


def constant_eps(values):
    """A frozen predictor that answers each context with its own constant: the context's first entry."""
    return lambda x_t, t, contexts: [torch.full_like(x_t, float(c.flatten()[0])) for c in contexts]


def contexts(*values):
    return [torch.full((2, 3), float(v)) for v in values]


# Eq. (7) and (8)


def test_the_target_moves_from_c_t_along_c_pos_minus_c_neg():
    x = torch.zeros(1, 4, 2, 2)
    c_t, pos, neg = contexts(1, 5, 2)
    assert_close(paper.slider_target(constant_eps(x), x, 10, c_t, [pos], [neg], 2.0), torch.full_like(x, 1 + 2 * (5 - 2)))
    assert_close(paper.slider_target(constant_eps(x), x, 10, c_t, [neg], [pos], 2.0), torch.full_like(x, 1 - 2 * (5 - 2)))
    assert_close(paper.slider_target(constant_eps(x), x, 10, c_t, [pos], [neg], 0.0), torch.full_like(x, 1.0))


def test_preserved_concepts_add_one_difference_each():
    x = torch.zeros(1, 4, 2, 2)
    c_t, p1, p2, n1, n2 = contexts(1, 5, 11, 2, 4)
    target = paper.slider_target(constant_eps(x), x, 10, c_t, [p1, p2], [n1, n2], 3.0)
    assert_close(target, torch.full_like(x, 1 + 3 * ((5 - 2) + (11 - 4))))


def test_the_loss_of_step_0_is_eta_squared_times_the_distance_of_the_two_ends(pipe):
    slider = lora.attach(pipe.unet)
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE | {"preserve": []})
    x, t = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)), 500
    eps = paper.predictions(pipe.unet)
    with torch.no_grad():
        loss = F.mse_loss(pipe.unet(x, t, c_t.context.expand(2, -1, -1)), paper.slider_target(eps, x, t, c_t, pos, neg, eta))
        e_pos, e_neg = eps(x, t, [pos[0], neg[0]])
    assert slider.scale == 1
    assert_close(loss, eta ** 2 * F.mse_loss(e_pos, e_neg), rtol=1e-3, atol=1e-7)


def test_one_batched_forward_equals_one_forward_per_text(pipe):
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    c = pipe.encode_prompts(["a person", "a red cat", "a house"])
    with torch.no_grad():
        together = paper.predictions(pipe.unet)(x, 300, list(c))
        alone = [pipe.unet(x, 300, one.context.expand(2, -1, -1)) for one in c]
    assert_close(list(together), alone, rtol=1e-4, atol=1e-4)


def test_preserved_words_are_appended_to_both_ends(pipe, monkeypatch):
    seen = []
    original = pipe.encode_prompts
    monkeypatch.setattr(pipe, "encode_prompts", lambda prompts: seen.extend(prompts) or original(prompts))
    c_t, pos, neg, eta = paper.encoded(pipe, paper.AGE)
    assert seen == ["a person", "a very old person with glasses", "a very old person without glasses",
                    "a very young person with glasses", "a very young person without glasses"]
    assert len(pos) == len(neg) == 2 and len(c_t) == len(pos[0]) == 1


# The roll-out


def test_the_latents_and_the_loss_are_at_the_same_timestep(pipe):
    """After k steps from the first timestep of the sampler's list, the latents are at entry k of the same list."""
    c_t, c_neg = pipe.encode_prompts(["a person", "a very young person"])
    x_t, t = paper.denoise_partway(pipe, c_t, c_neg, 1, 10, 2, torch.Generator().manual_seed(0))
    times = pipe.schedule.timesteps(10).tolist()
    assert t == times[1]
    x_T = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        e_neg, e_t = (pipe.unet(x_T, times[0], c.context.expand(2, -1, -1)) for c in (c_neg, c_t))
    assert_close(x_t, ddim_step(pipe.schedule, guide(e_neg, e_t, 3.0), x_T, times[0], times[1]), rtol=1e-3, atol=1e-3)


def test_the_student_rolls_out_and_the_frozen_model_sets_the_target(pipe, monkeypatch):
    scales = []
    def partway(*args, original=paper.denoise_partway):
        scales.append(("rollout", slider_of(pipe).scale))
        return original(*args)
    def target(eps, *args, original=paper.slider_target):
        scales.append(("target", slider_of(pipe).scale))
        return original(eps, *args)
    monkeypatch.setattr(paper, "denoise_partway", partway)
    monkeypatch.setattr(paper, "slider_target", target)
    attached = []
    monkeypatch.setattr(paper.lora, "attach", lambda *a, original=lora.attach: attached.append(original(*a)) or attached[-1])
    slider_of = lambda pipe: attached[-1]
    paper.train_slider(pipe, [paper.AGE], options(steps=1))
    assert scales == [("rollout", 1.0), ("target", 0.0)] and attached[-1].scale == 1.0


# Training


def test_only_the_adapter_trains_and_the_seed_decides_it(pipe):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    slider = paper.train_slider(pipe, [paper.AGE], options())
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert all(p.requires_grad for p in slider.parameters()) and not any(p.requires_grad for p in pipe.unet.parameters())
    assert any(adapter.up.weight.abs().max() > 0 for adapter in slider.adapters)
    again = paper.train_slider(minidiff.load("toybox", "cpu"), [paper.AGE], options())
    assert all(torch.equal(a, b) for a, b in zip(slider.parameters(), again.parameters()))


def test_ctrl_c_keeps_the_slider_as_far_as_it_got(pipe, monkeypatch, capsys):
    calls = []

    def stop_at_the_second(*args, original=paper.denoise_partway):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(paper, "denoise_partway", stop_at_the_second)
    slider = paper.train_slider(pipe, [paper.AGE], options(steps=5))
    assert "stopped after 1 of 5" in capsys.readouterr().out
    assert any(adapter.up.weight.abs().max() > 0 for adapter in slider.adapters)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(pipe):
    with pytest.raises(FloatingPointError, match="at step 0"):
        paper.train_slider(pipe, [paper.AGE | {"eta": float("inf")}], options(steps=3))


# Using it


def trained(pipe):
    slider = lora.attach(pipe.unet)
    for i, adapter in enumerate(slider.adapters):
        torch.nn.init.normal_(adapter.up.weight, std=.05, generator=torch.Generator().manual_seed(i))
    return slider


def test_scale_0_is_the_picture_of_the_untouched_model(pipe):
    plain = pipe("a person", n=1, steps=4, guidance=5.0, seed=3)
    pictures = paper.sample_scales(pipe, trained(pipe), ["a person"], [0.0, 2.0], [3], steps=4)
    assert torch.equal(pictures[0, 0], plain[0])
    assert (pictures[0, 1] - plain[0]).abs().max() > 0.02


@pytest.mark.parametrize("start, moves", [(-1, False), (1000, True)])
def test_above_start_the_slider_is_off(pipe, start, moves):
    slider = trained(pipe)
    low, high = paper.sample_scales(pipe, slider, ["a person"], [-1.0, 1.0], [0], steps=4, start=start)[0]
    assert torch.equal(low, high) != moves
    assert slider.scale == 1.0


def test_spearman_is_1_for_any_rising_sequence():
    assert paper.spearman(torch.tensor([-2., 0., 5.]), torch.tensor([.1, .2, .9])) == pytest.approx(1)
    assert paper.spearman(torch.tensor([-2., 0., 5.]), torch.tensor([3., 2., 1.])) == pytest.approx(-1)


def test_the_prompts_of_the_default_slider_use_words_of_the_captions():
    assert age_word(.95) in paper.AGE["positive"] and age_word(.05) in paper.AGE["negative"]


# The script


def test_the_script_trains_saves_draws_and_measures(tmp_path, capsys):
    paper.main([*FAST, "--out", str(tmp_path), "--scales", "-1", "0", "1"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"spearman", "span", "seconds", "device", "steps", "age_at_+0"} <= set(metrics)
    assert not any(isinstance(v, (dict, list)) for v in metrics.values())
    assert (tmp_path / "figure.png").stat().st_size > 5000 and "figure.png" in capsys.readouterr().out
    paper.main(["sample", "--slider", str(tmp_path / "age.safetensors"), "--sampling", "2", "--n", "1", "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "figure.png").is_file()


@pytest.mark.parametrize("block, message", [
    ("{", "not valid JSON"), ("[]", "a list of them"), ('"age"', "a list of them"), ('[{"target": "a"}]', "positive"),
    ('{"target": "a", "positive": "b", "negative": 3}', "negative is 3"),
    ('{"target": "a", "positive": "b", "negative": "c", "guidance": 4}', "unknown key guidance"),
    ('{"target": "a", "positive": "b", "negative": "c", "eta": "big"}', "eta"),
    ('{"target": "a", "positive": "b", "negative": "c", "action": "burn"}', "enhance or erase"),
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
    ["train", "--prompts", "/nowhere.json"], ["sample", "--slider", "/nowhere.safetensors"],
])
def test_bad_arguments_are_status_2(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_erase_is_enhance_with_the_ends_swapped():
    block = {"target": "a", "positive": "b", "negative": "c"}
    erased = paper.checked(block | {"action": "erase"}, "here")
    assert (erased["positive"], erased["negative"]) == ("c", "b")


@pytest.mark.filterwarnings("ignore:prompt has")
@pytest.mark.parametrize("make", [tiny_models.stable_diffusion, tiny_models.stable_diffusion_xl])
def test_the_same_file_trains_and_samples_on_other_models(tmp_path, make):
    model, out = make(tmp_path / "model"), tmp_path / "out"
    use = ["--model", str(model), "--out", str(out), "--device", "cpu", *FAST]
    paper.main(["train", *use])
    paper.main(["sample", *use, "--slider", str(out / "slider.safetensors"), "--n", "2", "--prompt", "a red cat", "--scales", "0", "2"])
    assert (out / "figure.png").is_file()
