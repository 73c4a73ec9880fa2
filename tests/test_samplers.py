"""minidiff.samplers: whole runs against the peers and against identities."""
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff import samplers
from minidiff.samplers import (ddim_invert, ddim_step, ddpm_step, euler_step, guide, noise, noise_share, rescale_guidance,
                               sample, steps_of)
from minidiff.schedule import Schedule

GOLDEN = Path(__file__).parent / "golden" / "schedulers"
CASE, RUNS = (json.loads((GOLDEN / name).read_text()) for name in ("case.json", "config.json"))
INPUTS, OUTPUTS = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
RUNS.pop("pndm-sd15")         # its sampler is not here


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(name):
    """What the network of a golden run answers at each step; the run's Schedule and number of steps."""
    schedule = Schedule.from_config(RUNS[name])
    answers = INPUTS["model_output"]
    if schedule.variance_type == "learned_range":
        answers = torch.cat([answers, INPUTS["predicted_variance"]], dim=2)
    return answers, schedule, RUNS[name]["_steps"]


@pytest.mark.parametrize("name", RUNS)
def test_each_step_is_the_peers(name, monkeypatch):
    answers, schedule, steps = given(name)
    kwargs, seen, made, noises = RUNS[name]["_step_kwargs"], [], [], iter(INPUTS["noise"])
    monkeypatch.setattr(samplers, "noise", lambda *_: next(noises))
    recompute_eps = kwargs.get("use_clipped_model_output", False)
    monkeypatch.setattr(samplers, "ddim_step", partial(ddim_step, recompute_eps=recompute_eps))

    def predict(x, t):
        seen.append((x, t))
        return answers[len(seen) - 1]

    sample(predict, schedule, INPUTS["sample"], steps, eta=kwargs.get("eta", 0.0), generator=0,
           callback=lambda i, t, x: made.append(x))
    xs, t = torch.stack([seen[0][0], *made]), torch.tensor([t for _, t in seen])
    x_0 = torch.stack([schedule.clip_x0(schedule.to_x0(answer[:, :2], x, t)) for answer, (x, t) in zip(answers, seen)])
    if schedule.method == "euler":
        golden(f"{name}/scaled_inputs", xs[:-1])
        xs = xs * (1 + OUTPUTS[f"{name}/sigmas"].reshape(-1, 1, 1, 1, 1) ** 2).sqrt()   # the peer has x_t / sqrt(alpha_bar)
    assert torch.equal(t, OUTPUTS[f"{name}/timesteps"].to(t.dtype))
    golden(f"{name}/samples", xs)
    golden(f"{name}/x0", x_0)


def golden(name, got):
    assert_close(got, OUTPUTS[name].reshape(got.shape), atol=CASE["atol"][name], rtol=0)


EVERYWHERE = [(spacing, steps) for spacing in ("leading", "trailing", "linspace") for steps in (1, 2, 7, 50)]


@pytest.mark.parametrize("method, spacing, steps", [("euler", *case) for case in EVERYWHERE] + [
    # "linspace", and "trailing" where 1000 is no multiple of `steps`, leave gaps between the steps of DDIM; see `steps_of`
    ("ddim", *case) for case in EVERYWHERE if case[0] == "leading" or case[0] == "trailing" and 1000 % case[1] == 0])
def test_x0_is_recovered_when_the_noise_prediction_is_exact(method, spacing, steps):
    schedule = Schedule(set_alpha_to_one=method == "ddim", timestep_spacing=spacing)    # Euler ends at x_0 anyway
    x_0, eps = draw(2, 3, 4, 4, seed=1), draw(2, 3, 4, 4, seed=2)
    x_t = schedule.add_noise(x_0, eps, steps_of(schedule, steps, method)[0][0])
    x_t = x_t / noise_share(schedule, steps, x_t, method)
    assert_close(sample(lambda x, t: eps, schedule, x_t, steps, method), x_0, atol=1e-5, rtol=1e-5)


def test_an_euler_step_is_straight_in_sigma_and_ends_without_noise():
    schedule = Schedule(set_alpha_to_one=False, clip_sample=True)
    x_t, eps = draw(1, 1, 8, 8, seed=1), draw(1, 1, 8, 8, seed=2)
    a, a_prev = (schedule.alpha_bar[t].double() for t in (600, 580))
    sigma, sigma_prev = ((1 - a) / a).sqrt(), ((1 - a_prev) / a_prev).sqrt()
    want = a_prev.sqrt() * (x_t / a.sqrt() + (sigma_prev - sigma) * eps)
    assert_close(euler_step(schedule, eps, x_t, 600, 580), want, atol=1e-5, rtol=1e-5)
    assert_close(euler_step(schedule, eps, x_t, 600, -1), x_t / a.sqrt() - sigma * eps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler_starts_from_noise_alone_unless_the_spacing_is_leading(spacing):
    schedule, x_T, seen = Schedule(timestep_spacing=spacing), draw(1, 1, 4, 4), []
    sample(lambda x, t: seen.append((x, t)) or x, schedule, x_T, 30, "euler")
    x, t = seen[0]
    assert_close(x, x_T if spacing == "leading" else x_T * (1 - schedule.alpha_bar[int(t)].double()).sqrt())
    later = sample(lambda x, t: x, schedule, x_T, 30, "euler", start=3, stop=3)
    assert torch.equal(later, x_T)                       # what comes in halfway is already x_t


def test_euler_visits_times_between_timesteps_with_linspace_spacing_only():
    assert [t for t, _ in steps_of(Schedule(timestep_spacing="linspace"), 4, "euler")] == [999, 666, 333, 0]
    t = [t for t, _ in steps_of(Schedule(timestep_spacing="linspace"), 5, "euler")]
    assert t == [999, 749.25, 499.5, 249.75, 0]
    for spacing in ("leading", "trailing"):
        assert all(isinstance(t, int) for t, _ in steps_of(Schedule(timestep_spacing=spacing), 7, "euler"))


def test_euler_works_with_zero_snr_betas():
    schedule = Schedule(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    x_0, x_T = draw(2, 3, 4, 4, seed=1), draw(2, 3, 4, 4, seed=2)
    picture = sample(lambda x, t: schedule.to_v(x_0, x_T, t), schedule, x_T, 20, "euler")
    assert_close(picture, x_0, atol=1e-3, rtol=0)
    no_velocity = euler_step(schedule, torch.zeros_like(x_T), x_T, 999, -1)
    assert_close(no_velocity, 2 ** -12 * x_T, atol=0, rtol=1e-5)           # the peers' alpha_bar ends at 2 ** -24, not at 0


@pytest.mark.parametrize("method", ["ddim", "ddpm", "unclip", "euler"])
def test_a_model_is_sampled_in_its_own_way_unless_asked_otherwise(method):
    x_T, predict = draw(1, 1, 4, 4), lambda x, t: 0.5 * x
    own = sample(predict, Schedule(method=method), x_T, 5, generator=3)
    assert torch.equal(own, sample(predict, Schedule(), x_T, 5, method, generator=3))
    assert torch.equal(own, sample(predict, Schedule(method="ddim"), x_T, 5, generator=3)) == (method == "ddim")


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_three_predictions_of_one_network_make_one_picture(prediction_type, method):
    """A network for a Gaussian world, whose x_0 has mean mu and variance 1/4, in three disguises."""
    schedule, mu = Schedule(prediction_type=prediction_type), 2.0
    as_eps = Schedule(prediction_type="epsilon")

    def exact(s):
        def predict(x, t):
            a = s.alpha_bar_at(t, x)
            eps = (1 - a).sqrt() * (x - a.sqrt() * mu) / (a / 4 + 1 - a)
            x_0 = as_eps.to_x0(eps, x, t)
            return {"epsilon": eps, "v_prediction": s.to_v(x_0, eps, t), "sample": x_0}[s.prediction_type]
        return predict

    x_T = draw(64, 1, 4, 4)
    picture = sample(exact(schedule), schedule, x_T, 40, method, generator=0)
    assert_close(picture, sample(exact(as_eps), as_eps, x_T, 40, method, generator=0), atol=1e-4, rtol=0)
    assert_close(picture.mean().item(), mu, atol=0.1, rtol=0)          # and the pictures are of that world
    assert_close(picture.std().item(), 0.5, atol=0.05, rtol=0)


def test_ddim_with_eta_1_has_the_variance_of_ddpm():
    schedule = Schedule()
    x_t, eps, z = draw(1, 1, 8, 8, seed=1), draw(1, 1, 8, 8, seed=2), draw(1, 1, 8, 8, seed=3)
    for t, t_prev in steps_of(schedule, 7)[:-1]:
        assert_close(ddim_step(schedule, eps, x_t, t, t_prev, 1.0, z), ddpm_step(schedule, eps, x_t, t, t_prev, z),
                     atol=1e-6, rtol=1e-6)


def test_unclips_arithmetic_differs_from_ddpms_by_rounding_alone():
    schedule = Schedule.from_config({"_class_name": "UnCLIPScheduler", "prediction_type": "sample", "clip_sample": False})
    x_0, x_t, z = draw(1, 1, 8, 8, seed=1), draw(1, 1, 8, 8, seed=2), draw(1, 1, 8, 8, seed=3)
    for t, t_prev in [(999, 888), (500, 499), (111, 0), (1, 0), (0, -1)]:
        ddpm, unclip = (ddpm_step(schedule, x_0, x_t, t, t_prev, z, unclip) for unclip in (False, True))
        assert_close(unclip, ddpm, atol=5e-3, rtol=0)


def test_a_step_over_one_timestep_has_the_posterior_of_ho_et_al():
    schedule, t = Schedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="sample"), 500
    x_0, x_t, z = draw(1, 1, 8, 8, seed=1), draw(1, 1, 8, 8, seed=2), draw(1, 1, 8, 8, seed=3)
    beta, a, a_prev = (table.double() for table in (schedule.betas[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]))
    mean = a_prev.sqrt() * beta / (1 - a) * x_0 + (1 - beta).sqrt() * (1 - a_prev) / (1 - a) * x_t
    want = mean + ((1 - a_prev) / (1 - a) * beta).sqrt() * z
    assert_close(ddpm_step(schedule, x_0, x_t, t, t - 1, z), want, atol=1e-5, rtol=1e-5)


def test_pictures_of_a_batch_may_be_at_different_timesteps():
    schedule = Schedule()
    x_t, eps, z = draw(2, 1, 4, 4, seed=1), draw(2, 1, 4, 4, seed=2), draw(2, 1, 4, 4, seed=3)
    t, t_prev = torch.tensor([0, 900]), torch.tensor([-1, 880])
    for step in (ddpm_step, partial(ddpm_step, unclip=True), lambda *a: ddim_step(*a[:5], 1.0, a[5]),
                 lambda *a: euler_step(*a[:5])):
        both = step(schedule, eps, x_t, t, t_prev, z)
        for i in range(2):
            one = step(schedule, eps[i:i + 1], x_t[i:i + 1], int(t[i]), int(t_prev[i]), z[i:i + 1])
            assert_close(both[i:i + 1], one)


def test_random_steps_need_noise_and_the_step_from_t_0_does_not():
    x = draw(1, 1, 4, 4)
    assert torch.equal(ddpm_step(Schedule(), x, x, 0, -1), ddpm_step(Schedule(), x, x, 0, -1, noise=100 * x))
    assert_close(ddpm_step(Schedule(), x, x, 1, -1, noise=x), ddpm_step(Schedule(), x, x, 1, -1, noise=100 * x))
    loud = Schedule(variance_type="fixed_large")
    assert not torch.allclose(ddpm_step(loud, x, x, 1, -1, noise=x), ddpm_step(loud, x, x, 1, -1, noise=-x))
    g = torch.Generator().manual_seed(0)
    sample(lambda x, t: x, Schedule(timestep_spacing="linspace"), x, 1, "ddpm", generator=g)        # one step, at t = 0
    assert torch.equal(g.get_state(), torch.Generator().manual_seed(0).get_state())
    with pytest.raises(ValueError, match="needs noise"):
        ddpm_step(Schedule(), x, x, 21, 1)
    with pytest.raises(ValueError, match="needs noise"):
        sample(lambda x, t: x, Schedule(), x, 2, eta=0.5)


@pytest.mark.parametrize("method, spacing", [("ddim", "leading"), ("ddim", "linspace"), ("euler", "leading"),
                                             ("euler", "trailing"), ("euler", "linspace")])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_inversion_then_sampling_returns_the_picture(prediction_type, method, spacing):
    schedule = Schedule(prediction_type=prediction_type, method=method, timestep_spacing=spacing)
    slope = {"epsilon": 0.3, "v_prediction": 0.2, "sample": 0.5}[prediction_type]
    x_0, predict = draw(2, 3, 4, 4), lambda x, t: slope * x
    x_T = ddim_invert(predict, schedule, x_0, 50, iterations=30)
    assert_close(sample(predict, schedule, x_T, 50), x_0, atol=1e-5, rtol=1e-5)


def test_inversion_gets_better_with_steps_and_with_iterations():
    schedule, x_0 = Schedule(), draw(2, 3, 4, 4)

    def predict(x, t):
        return 0.7 * torch.tanh(x)

    def error(steps, iterations):
        return (sample(predict, schedule, ddim_invert(predict, schedule, x_0, steps, iterations), steps) - x_0).norm()

    assert error(50, 5) < error(50, 2) < error(50, 1) < error(10, 1)


def test_inversion_stops_where_sampling_starts():
    schedule, x_0, predict = Schedule(), draw(1, 3, 4, 4), lambda x, t: 0.3 * x
    x_t = ddim_invert(predict, schedule, x_0, 10, iterations=30, start=6)
    assert_close(sample(predict, schedule, x_t, 10, start=6), x_0)


def test_a_run_in_two_parts_is_the_same_run():
    schedule, x_T, predict = Schedule(), draw(1, 3, 4, 4), lambda x, t: torch.tanh(x) * (t / 1000)
    halfway = sample(predict, schedule, x_T, 10, stop=4)
    assert torch.equal(sample(predict, schedule, halfway, 10, start=4), sample(predict, schedule, x_T, 10))


def test_the_first_and_the_last_timestep_are_both_visited():
    seen = []
    sample(lambda x, t: seen.append(t) or x, Schedule(), draw(1, 1, 2, 2), 50)
    assert (seen[0], seen[-1], len(seen)) == (981, 1, 50)


def test_the_callback_sees_every_step_and_may_replace_the_latents():
    seen = []

    def zero_at_step_3(i, t, x):
        seen.append((i, t))
        return torch.zeros_like(x) if i == 3 else None

    out = sample(lambda x, t: torch.zeros_like(x), Schedule(), draw(1, 1, 2, 2), 5, callback=zero_at_step_3)
    assert [i for i, t in seen] == [0, 1, 2, 3, 4] and seen[-1][1] == 1
    assert (out == 0).all()


def test_guidance_0_ignores_the_prompt_1_follows_it_and_3_goes_past_it():
    e_uncond, e_cond = draw(2, 1, 4, 4, seed=1), draw(2, 1, 4, 4, seed=2)
    assert torch.equal(guide(e_uncond, e_cond, 0.0), e_uncond)
    assert_close(guide(e_uncond, e_cond, 1.0), e_cond)
    assert_close(guide(e_uncond, e_cond, 3.0), 3 * e_cond - 2 * e_uncond)


def test_rescaled_guidance_has_the_contrast_of_the_conditional_prediction():
    cond, guided = draw(2, 3, 4, 4, seed=1), 5 * draw(2, 3, 4, 4, seed=2) + 1
    full = rescale_guidance(guided, cond, 1.0)
    assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))                            # each picture for itself
    factor = full / guided
    assert_close(factor, factor[:, :1, :1, :1].expand_as(factor))                       # nothing but the scale changed
    assert torch.equal(rescale_guidance(guided, cond, 0.0), guided)
    assert_close(rescale_guidance(guided, cond, 0.7), 0.7 * full + 0.3 * guided)


def test_picture_i_of_seed_s_is_picture_0_of_seed_s_plus_i():
    batch = noise((4, 2, 3, 3), 7)
    for i in range(4):
        assert torch.equal(batch[i:i + 1], noise((1, 2, 3, 3), 7 + i))
    assert torch.equal(batch, noise((4, 2, 3, 3), [7, 8, 9, 10]))
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("method, eta", [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("unclip", 0.0)])
def test_same_seed_same_picture_at_every_batch_size(method, eta):
    schedule = Schedule()

    def run(seed, n):
        x_T = noise((n, 2, 4, 4), seed)
        return sample(lambda x, t: torch.tanh(x), schedule, x_T, 5, method, eta, generator=seed + 100)

    batch = run(0, 3)
    for i in range(3):
        assert torch.equal(batch[i:i + 1], run(i, 1))


def test_each_step_draws_fresh_noise():
    """A network that always sees x_0 = 0 leaves the fresh noise and nothing else: the steps must not agree."""
    schedule, seen = Schedule(prediction_type="sample"), []
    sample(lambda x, t: torch.zeros_like(x), schedule, torch.zeros(1, 1, 32, 32), 20, eta=1.0, generator=0,
           callback=lambda i, t, x: seen.append(x.flatten()))
    assert torch.corrcoef(torch.stack([seen[0], seen[8]]))[0, 1] < 0.3
    g = torch.Generator().manual_seed(0)
    assert not torch.equal(noise((1, 2), [g]), noise((1, 2), [g]))


def test_wrong_seeds_and_an_unknown_method_are_refused():
    with pytest.raises(ValueError, match="2 seeds for 3 pictures"):
        noise((3, 1), [0, 1])
    for seed in (-1, 2 ** 64):
        with pytest.raises(ValueError, match="from 0 to 2"):
            noise((1, 1), seed)
    with pytest.raises(ValueError, match="'pndm', expected one of ddim, ddpm, unclip, euler"):
        sample(lambda x, t: x, Schedule(), torch.zeros(1, 1), 2, method="pndm")
    with pytest.raises(ValueError, match="eta 0.5 with method euler"):
        sample(lambda x, t: x, Schedule(method="euler"), torch.zeros(1, 1), 2, eta=0.5)
