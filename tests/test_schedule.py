"""minidiff.schedule: tables, q(x_t | x_0), and the three predictions."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff.checkpoints import CheckpointError
from minidiff.schedule import Schedule

GOLDEN = Path(__file__).parent / "golden" / "schedulers"
CASE = json.loads((GOLDEN / "case.json").read_text())
INPUTS, OUTPUTS = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")

TABLES = {
    "sd": Schedule(),
    "linear": Schedule(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "cosine": Schedule(beta_schedule="squaredcos_cap_v2"),
    "sd-zero-snr": Schedule(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def golden(name, got):
    assert_close(got, OUTPUTS[name], atol=CASE["atol"][name], rtol=0)


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_the_peers(name):
    golden(f"tables/{name}/alphas_cumprod", TABLES[name].alpha_bar)


@pytest.mark.parametrize("name", ["sd", "linear", "cosine"])
def test_noising_and_velocity_are_the_peers(name):
    x_0, eps, t = INPUTS["x0"], INPUTS["eps"], INPUTS["t"]
    golden(f"tables/{name}/add_noise", TABLES[name].add_noise(x_0, eps, t))
    golden(f"tables/{name}/velocity", TABLES[name].to_v(x_0, eps, t))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_an_exact_prediction_gives_back_x0_and_the_noise(prediction_type):
    schedule = Schedule(prediction_type=prediction_type)
    x_0, eps = draw(5, 3, 4, 4, seed=1), draw(5, 3, 4, 4, seed=2)
    t = torch.tensor([0, 1, 500, 998, 999])
    x_t = schedule.add_noise(x_0, eps, t)
    prediction = {"epsilon": eps, "v_prediction": schedule.to_v(x_0, eps, t), "sample": x_0}[prediction_type]
    assert_close(schedule.to_x0(prediction, x_t, t), x_0)
    assert_close(schedule.to_eps(prediction, x_t, t), eps)
    assert_close(schedule.eps_given_x0(x_0, x_t, t), eps)


def test_noising_scales_the_picture_and_adds_independent_noise():
    schedule, t = Schedule(), torch.full((20000,), 600)
    x_t = schedule.add_noise(torch.full((20000, 1), 3.0, dtype=torch.float64), draw(20000, 1), t)
    alpha_bar = schedule.alpha_bar[600].double()
    assert_close(x_t.mean(), 3 * alpha_bar.sqrt(), atol=0.03, rtol=0)
    assert_close(x_t.var(), 1 - alpha_bar, atol=0.03, rtol=0)


def test_a_scalar_t_means_the_same_t_for_the_whole_batch():
    schedule, x_0, eps = Schedule(), draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    want = schedule.add_noise(x_0, eps, torch.tensor([7, 7, 7]))
    assert torch.equal(schedule.add_noise(x_0, eps, 7), want)
    assert torch.equal(schedule.add_noise(x_0, eps, torch.tensor(7)), want)


def test_pictures_of_a_batch_keep_their_own_t():
    schedule, x_0, eps = Schedule(), draw(2, 2, 4, 4), draw(2, 2, 4, 4, seed=1)
    both = schedule.add_noise(x_0, eps, torch.tensor([3, 900]))
    assert torch.equal(both[1:], schedule.add_noise(x_0[1:], eps[1:], 900))


def test_the_noise_grows_with_t_and_the_first_step_changes_little():
    for schedule in TABLES.values():
        assert (schedule.alpha_bar.diff() < 0).all()
        assert 0.998 < schedule.alpha_bar[0] < 1
    assert TABLES["sd-zero-snr"].alpha_bar[-1] == 0


def test_between_two_timesteps_sigma_is_linear():
    schedule, x = Schedule(), torch.zeros(3, 1, dtype=torch.float64)
    sigma = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()

    def sigma_at(t):
        alpha_bar = schedule.alpha_bar_at(t, x).flatten()
        return ((1 - alpha_bar) / alpha_bar).sqrt().float()

    assert_close(sigma_at(torch.tensor([0.0, 500.0, 999.0])), sigma[[0, 500, 999]], atol=1e-5, rtol=1e-5)
    assert_close(sigma_at(torch.tensor([100.25, 500.5, 998.9])), torch.stack([
        0.75 * sigma[100] + 0.25 * sigma[101], (sigma[500] + sigma[501]) / 2, 0.1 * sigma[998] + 0.9 * sigma[999]]),
        atol=1e-5, rtol=1e-4)


def test_with_zero_snr_betas_the_largest_sigma_is_finite():
    x = torch.zeros(1, 1)
    assert TABLES["sd-zero-snr"].alpha_bar_at(999, x) == 0
    assert TABLES["sd-zero-snr"].alpha_bar_at(999.0, x).item() == pytest.approx(2 ** -24)
    assert TABLES["sd-zero-snr"].alpha_bar_at(998.5, x).isfinite()


def test_half_precision_pictures_are_noised_in_float32():
    x_t = Schedule().add_noise(draw(1, 1, 2, 2).half(), draw(1, 1, 2, 2).half(), 0)
    assert x_t.dtype == torch.float32


@pytest.mark.parametrize("config, first, last", [
    (dict(timestep_spacing="leading", steps_offset=0), 980, 0),
    (dict(timestep_spacing="leading", steps_offset=1), 981, 1),
    (dict(timestep_spacing="trailing"), 999, 19),
    (dict(timestep_spacing="linspace"), 999, 0),
])
def test_fifty_steps_start_and_end_where_the_peers_do(config, first, last):
    t = Schedule(**config).timesteps(50)
    assert (t[0], t[-1], len(t)) == (first, last, 50)
    assert (t.diff() < 0).all()


def test_steps_that_do_not_divide_1000_are_spread_evenly():
    assert Schedule(timestep_spacing="trailing").timesteps(7).tolist() == [999, 856, 713, 570, 428, 285, 142]
    assert Schedule(timestep_spacing="linspace").timesteps(7).tolist() == [999, 832, 666, 500, 333, 166, 0]
    assert Schedule(timestep_spacing="leading", steps_offset=1).timesteps(7).tolist() == [853, 711, 569, 427, 285, 143, 1]


def test_ties_are_rounded_as_in_the_peers():
    assert Schedule(timestep_spacing="trailing").timesteps(48)[[3, 15]].tolist() == [936, 686]      # 936.5, 686.5
    assert Schedule(timestep_spacing="linspace").timesteps(3)[1] == 500                             # 499.5


def test_unrounded_timesteps_are_evenly_spaced():
    t = Schedule(timestep_spacing="linspace").timesteps(5, rounded=False)
    assert t.tolist() == [999, 749.25, 499.5, 249.75, 0] and t.dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 250, 999])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_distinct_and_in_range(spacing, steps):
    t = Schedule(timestep_spacing=spacing, steps_offset=0).timesteps(steps)
    assert len(t) == len(t.unique()) == steps and t.min() >= 0 and t.max() <= 999


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        Schedule().timesteps(steps)


def test_steps_past_the_end_are_refused():
    with pytest.raises(ValueError, match="past the last, 999"):
        Schedule(steps_offset=1).timesteps(1000)


def test_after_the_last_step_alpha_bar_is_1_or_that_of_t_0():
    x = torch.zeros(2, 1)
    assert_close(Schedule(set_alpha_to_one=True).alpha_bar_at(torch.tensor([-1, -20]), x), torch.ones(2, 1))
    assert_close(Schedule(set_alpha_to_one=False).alpha_bar_at(-1, x), Schedule().alpha_bar[:1, None])
    for t in (-1, -1.0):
        assert_close(Schedule(set_alpha_to_one=False).alpha_bar_at(t, x, end=1.0), torch.ones(1, 1))


@pytest.mark.parametrize("config, want", [
    ({"_class_name": "DDIMScheduler"}, ("linear", True, True, "leading", "ddim")),
    ({"_class_name": "DDPMScheduler"}, ("linear", True, True, "leading", "ddpm")),
    ({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}, ("scaled_linear", False, False, "leading", "ddim")),
    ({"_class_name": "EulerDiscreteScheduler"}, ("linear", True, False, "linspace", "euler")),
    ({"_class_name": "UnCLIPScheduler"}, ("squaredcos_cap_v2", True, True, "linspace", "unclip")),
    ({}, ("linear", True, True, "leading", "ddim")),
])
def test_keys_that_a_config_leaves_out_take_the_defaults_of_its_class(config, want):
    s = Schedule.from_config(config)
    assert (s.beta_schedule, s.set_alpha_to_one, s.clip_sample, s.timestep_spacing, s.method) == want


def test_harmless_unknown_keys_are_ignored():
    config = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "skip_prk_steps": True, "trained_betas": None,
              "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    assert Schedule.from_config(config) == Schedule()


@pytest.mark.parametrize("config", [{"beta_schedule": "sigmoid"}, {"prediction_type": "score"},
                                    {"timestep_spacing": "karras"}, {"variance_type": "learned"},
                                    {"rescale_betas_zero_snr": True}, {"num_train_timesteps": 0},
                                    {"num_train_timesteps": 10 ** 12}, {"num_train_timesteps": "1000"},
                                    {"num_train_timesteps": 1000.0}, {"beta_start": "0.1"}, {"beta_end": 2.0},
                                    {"beta_end": float("nan")}, {"steps_offset": -1}, {"steps_offset": True},
                                    {"clip_sample": 1},
                                    {"clip_sample_range": float("nan")}, {"dynamic_thresholding_ratio": 1.5},
                                    {"trained_betas": 5}, {"trained_betas": []}, {"trained_betas": [0.1, -1]},
                                    {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"_class_name": None}])
def test_unknown_values_are_refused_by_name(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        Schedule.from_config(config)


@pytest.mark.parametrize("key, value", [("use_karras_sigmas", True), ("use_exponential_sigmas", True),
                                        ("use_beta_sigmas", True), ("interpolation_type", "log_linear"),
                                        ("timestep_type", "continuous"), ("final_sigmas_type", "sigma_min")])
def test_what_euler_cannot_do_here_is_refused_by_key_and_value(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        Schedule.from_config({"_class_name": "EulerDiscreteScheduler", key: value})
    Schedule.from_config({"_class_name": "DDIMScheduler", key: value})      # left over from another sampler: means nothing


@pytest.mark.parametrize("method", ["ddim", "ddpm", "unclip", "euler"])
def test_a_schedule_survives_its_folder(tmp_path, method):
    schedule = Schedule(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=True, method=method)
    schedule.save_pretrained(tmp_path)
    again = Schedule.from_pretrained(tmp_path)
    assert again == schedule and torch.equal(again.alpha_bar, schedule.alpha_bar)


def test_the_share_of_fresh_noise_is_kept_and_only_for_ddim(tmp_path):
    Schedule(eta=0.5).save_pretrained(tmp_path)
    assert Schedule.from_pretrained(tmp_path).eta == 0.5 and "eta" not in Schedule().config
    for refused in (dict(eta=1.5), dict(eta=-0.1), dict(eta="1"), dict(eta=1.0, method="euler")):
        with pytest.raises(ValueError, match="eta"):
            Schedule(**refused)


def test_a_bad_folder_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="scheduler_config.json"):
        Schedule.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text('{"beta_schedule": "sigmoid"}')
    with pytest.raises(CheckpointError, match="sigmoid"):
        Schedule.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": ["DDIMScheduler"]}')
    with pytest.raises(CheckpointError, match="scheduler_config.json"):
        Schedule.from_pretrained(tmp_path)


def test_given_betas_are_the_table():
    betas = [0.1, 0.2, 0.5]
    assert_close(Schedule(trained_betas=betas).alpha_bar, torch.tensor([0.9, 0.72, 0.36]))


def test_clipping_and_thresholding_bound_x0():
    x_0 = 5 * draw(3, 2, 8, 8)
    assert torch.equal(Schedule().clip_x0(x_0), x_0)
    assert Schedule(clip_sample=True, clip_sample_range=2.0).clip_x0(x_0).abs().max() == 2
    assert Schedule(thresholding=True, sample_max_value=4.0).clip_x0(x_0).abs().max() <= 1
    assert_close(Schedule(thresholding=True).clip_x0(x_0 / 50), x_0 / 50)     # a picture in range is left alone
