"""From prompt to picture, ours against diffusers' pipelines on one folder: every piece in its place."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler          # noqa: E402

import minidiff                                                                     # noqa: E402
from minidiff.samplers import noise                                                 # noqa: E402

from . import tiny_pipelines                                                        # noqa: E402
from .compare import assert_near                                                    # noqa: E402

pytestmark = pytest.mark.parity
PROMPT, NEGATIVE = "a photo of a red cat", "an old man"
CLOSE = 1e-3


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("make", [tiny_pipelines.stable_diffusion, tiny_pipelines.stable_diffusion_xl])
def test_stable_diffusion_makes_the_peers_pictures(tmp_path, make, scheduler, negative):
    peer = make(tmp_path / "model")
    peer.scheduler = scheduler.from_config(peer.scheduler.config)
    peer.scheduler.save_pretrained(tmp_path / "model" / "scheduler")
    pipe = minidiff.load(tmp_path / "model", device="cpu")
    for prompts, size in (([PROMPT], 16), ([PROMPT, "a blue chair"], (16, 24))):
        h, w = (size, size) if isinstance(size, int) else size
        x_T = noise((len(prompts), 4, h // 2, w // 2), [3] * len(prompts))
        want = peer(prompts, negative_prompt=negative and [negative] * len(prompts), latents=x_T, num_inference_steps=4, guidance_scale=4.0,
                    height=h, width=w, output_type="pt").images
        assert_near(pipe(prompts, steps=4, guidance=4.0, seed=3, negative=negative, size=size), want, f"pictures of {size}", CLOSE)


def test_guidance_is_rescaled_as_the_peer_does(tmp_path):
    peer = tiny_pipelines.stable_diffusion(tmp_path / "model")
    pipe = minidiff.load(tmp_path / "model", device="cpu")
    want = peer(PROMPT, latents=noise((1, 4, 8, 8), 3), num_inference_steps=4, guidance_scale=9.0, guidance_rescale=0.7, output_type="pt").images
    assert_near(pipe(PROMPT, steps=4, guidance=9.0, seed=3, rescale=0.7), want, "pictures", CLOSE)


def test_a_checkpoint_that_names_pndm_is_sampled_with_ddim(tmp_path):
    peer = tiny_pipelines.stable_diffusion(tmp_path / "model")
    PNDMScheduler.from_config(peer.scheduler.config).save_pretrained(tmp_path / "model" / "scheduler")
    pipe = minidiff.load(tmp_path / "model", device="cpu")
    want = peer(PROMPT, latents=noise((1, 4, 8, 8), 3), num_inference_steps=4, guidance_scale=4.0, output_type="pt").images
    assert_near(pipe(PROMPT, steps=4, guidance=4.0, seed=3), want, "pictures", CLOSE)


def test_kandinsky_makes_the_peers_pictures(tmp_path):
    """One generator goes through prior and decoder, and draws the same numbers in both implementations."""
    peer = tiny_pipelines.kandinsky(tmp_path / "model")
    pipe = minidiff.load(tmp_path / "model", device="cpu")
    pipe.prior_steps = 5
    want = peer(PROMPT, num_inference_steps=4, prior_num_inference_steps=5, height=8, width=8, generator=torch.Generator().manual_seed(3),
                output_type="pt").images          # in [-1, 1]
    assert_near(pipe(PROMPT, steps=4, guidance=4.0, seed=3), (want / 2 + 0.5).clamp(0, 1), "pictures", CLOSE)


def test_kandinskys_prior_is_steered_away_from_a_negative_prompt(tmp_path):
    peer = tiny_pipelines.kandinsky(tmp_path / "model")
    pipe = minidiff.load(tmp_path / "model", device="cpu")
    pipe.prior_steps = 5
    want = peer.prior_pipe([PROMPT], negative_prompt=[NEGATIVE], num_inference_steps=5, generator=[torch.Generator().manual_seed(s) for s in (3, 0)])
    condition, uncond = pipe.conditions([PROMPT], NEGATIVE, 1, [3], None)
    assert_near(condition.added["image_embeds"], want.image_embeds, "embedding", CLOSE)
    assert_near(uncond.added["image_embeds"], want.negative_image_embeds, "negative embedding", CLOSE)
