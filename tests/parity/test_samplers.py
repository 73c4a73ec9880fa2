"""Samplers against diffusers' schedulers: the same noise and the same answers of a network, configurations at random."""
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("diffusers")
pytest.importorskip("hypothesis")
from diffusers import (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler,     # noqa: E402
                       UnCLIPScheduler)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg    # noqa: E402
from hypothesis import assume, given, settings                                                  # noqa: E402
from hypothesis import strategies as st                                                         # noqa: E402

from minidiff import samplers                                                                   # noqa: E402
from minidiff.samplers import rescale_guidance, sample                                          # noqa: E402
from minidiff.schedule import Schedule                                                          # noqa: E402

pytestmark = pytest.mark.parity
SHAPE = (2, 3, 4, 4)
many = settings(deadline=None, max_examples=60, derandomize=True, database=None)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def tables(draw):
    """The part of a configuration that every scheduler but UnCLIP's has."""
    kind, T = draw(st.sampled_from(["epsilon", "v_prediction", "sample"])), draw(st.sampled_from([1000, 1000, 300]))
    trained_betas = [0.001 + 0.01 * (i / T) ** 3 for i in range(T)]
    return {"num_train_timesteps": T, "prediction_type": kind,
            "trained_betas": draw(st.sampled_from([None, None, None, trained_betas])),
            "beta_schedule": draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
            "beta_start": draw(st.floats(1e-5, 1e-3)), "beta_end": draw(st.floats(5e-3, 0.02)),
            "timestep_spacing": draw(st.sampled_from(["leading", "trailing", "linspace"])),
            "steps_offset": draw(st.integers(0, 2)),
            "rescale_betas_zero_snr": kind != "epsilon" and draw(st.booleans())}


@st.composite
def clips(draw):
    """How x_0 is clipped."""
    return {"clip_sample": draw(st.booleans()), "clip_sample_range": draw(st.floats(0.5, 10)),
            "thresholding": draw(st.booleans()), "dynamic_thresholding_ratio": draw(st.floats(0.5, 1)),
            "sample_max_value": draw(st.floats(1, 3))}


def peer_run(peer, answers, noises, x_T, steps, **kwargs):
    """The inputs of the network and its t at each step of the peer, and the picture."""
    peer.set_timesteps(steps)
    assume(len(peer.timesteps) == steps)        # with "trailing" spacing the peers can have one step too many, at t = -1
    x, inputs = x_T * getattr(peer, "init_noise_sigma", 1), []
    with patch(f"{type(peer).__module__}.randn_tensor", lambda *_, **__: next(noises)):
        for i, t in enumerate(peer.timesteps):
            inputs.append(peer.scale_model_input(x, t))
            if isinstance(peer, UnCLIPScheduler):
                kwargs["prev_timestep"] = peer.timesteps[i + 1] if i + 1 < steps else None
            x = peer.step(answers[i], t, x, **kwargs).prev_sample
    return torch.stack([*inputs, x]), peer.timesteps.double()


def our_run(schedule, answers, noises, x_T, steps, **kwargs):
    """The same of `sample`."""
    inputs, times = [], []

    def predict(x, t):
        inputs.append(x)
        times.append(t)
        return answers[len(inputs) - 1]

    with patch.object(samplers, "noise", lambda *_: next(noises)):
        x = sample(predict, schedule, x_T, steps, generator=0, **kwargs)
    return torch.stack([*inputs, x]), torch.tensor(times, dtype=torch.float64)


def agree(peer, seed, steps, schedule=None, channels=3, tolerance=1e-4, **kwargs):
    """Each t, each input of the network and the picture; worst relative error of each."""
    schedule = schedule or Schedule.from_config({**peer.config, "_class_name": type(peer).__name__})
    answers, noises = draw(steps, 2, channels, 4, 4, seed=seed), draw(steps, *SHAPE, seed=seed + 1)
    x_T = draw(*SHAPE, seed=seed + 2)
    want, want_t = peer_run(peer, answers, iter(noises), x_T, steps, **kwargs)
    got, got_t = our_run(schedule, answers, iter(noises), x_T, steps, **kwargs)
    assert_close(got_t, want_t, atol=0, rtol=0)
    error = (got - want).flatten(1).abs().amax(1) / want.flatten(1).abs().amax(1)
    assert error.max() < tolerance, f"relative error {error.max():.1e} at step {error.argmax()} of {steps}"


seeds, any_steps = st.integers(0, 2 ** 20), st.integers(1, 60)


@many
@given(tables(), clips(), st.booleans(), st.sampled_from([0.0, 0.0, 0.3, 1.0]), any_steps, seeds)
def test_ddim_is_the_peers(table, clip, set_alpha_to_one, eta, steps, seed):
    agree(DDIMScheduler(**table, **clip, set_alpha_to_one=set_alpha_to_one), seed, steps, eta=eta)


@many
@given(tables(), clips(), st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large", "learned_range"]), any_steps,
       seeds)
def test_ddpm_is_the_peers(table, clip, variance_type, steps, seed):
    agree(DDPMScheduler(**table, **clip, variance_type=variance_type), seed, steps,
          channels=6 if variance_type == "learned_range" else 3)


@many
@given(tables(), any_steps, seeds)
def test_euler_is_the_peers(table, steps, seed):
    """The peer carries x_t / sqrt(alpha_bar) in float32: from a large sigma on (zero-SNR, cosine) it rounds coarsely."""
    peer = EulerDiscreteScheduler(**table)
    agree(peer, seed, steps, tolerance=max(1e-4, 2 ** -22 * float(peer.sigmas.max())))


@many
@given(st.sampled_from(["epsilon", "sample"]), st.sampled_from(["fixed_small_log", "learned_range"]), st.booleans(),
       st.floats(0.5, 10), st.integers(2, 60), seeds)
def test_unclip_is_the_peers(prediction_type, variance_type, clip_sample, clip_sample_range, steps, seed):
    peer = UnCLIPScheduler(prediction_type=prediction_type, variance_type=variance_type, clip_sample=clip_sample,
                           clip_sample_range=clip_sample_range)
    agree(peer, seed, steps, channels=6 if variance_type == "learned_range" else 3)


def test_a_model_made_for_pndm_is_sampled_as_the_peer_does_when_given_ddim():
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True,
              "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}               # Stable Diffusion 1
    schedule = Schedule.from_config({**config, "_class_name": "PNDMScheduler"})
    agree(DDIMScheduler.from_config(PNDMScheduler.from_config(config).config), seed=0, steps=20, schedule=schedule)


@pytest.mark.parametrize("peer", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UnCLIPScheduler])
def test_the_peer_reads_what_we_save(peer, tmp_path):
    schedule = Schedule.from_config({"_class_name": peer.__name__, "prediction_type": "sample", "clip_sample_range": 0.7})
    schedule.save_pretrained(tmp_path)
    agree(peer.from_pretrained(tmp_path), seed=0, steps=20, schedule=schedule)


@given(st.floats(0, 1), st.floats(1, 20), seeds)
@many
def test_rescaled_guidance_is_the_peers(phi, scale, seed):
    cond, uncond = draw(*SHAPE, seed=seed), draw(*SHAPE, seed=seed + 1)
    guided = samplers.guide(uncond, cond, scale)
    want = rescale_noise_cfg(guided, cond, guidance_rescale=phi)
    assert (rescale_guidance(guided, cond, phi) - want).abs().max() < 1e-4 * want.abs().max()
