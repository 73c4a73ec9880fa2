"""Properties of minidiff.prior. Golden outputs: diffusers' PriorTransformer and the sampling loop of Kandinsky 2.2's
prior, tolerances measured there (case.json)."""
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff import prior as prior_module
from minidiff import samplers
from minidiff.checkpoints import CheckpointError, load_strict, save_folder, write_json
from minidiff.prior import Prior, predictor, sample_embedding, visible
from minidiff.samplers import noise, sample
from minidiff.schedule import Schedule

GOLDEN = Path(__file__).parent / "golden"
TINY = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=6, num_embeddings=5)
UNCLIP = dict(_class_name="UnCLIPScheduler", prediction_type="sample", clip_sample=True, clip_sample_range=10.0)

# sha256 of the sorted lines "key shape" of the published priors (made from the manifests of their files).
PUBLISHED = {
    "kandinsky21, karlo": (768, 1_022_030_080, "f25bb54a5739af7fd247bd5f905d4a7aed2d4286e9c08efd8116a46b00bdd82b"),
    "kandinsky22": (1280, 1_026_225_920, "8ad99030878523b96931fa157934e914256ea776d781ed9308d182828ff04b5c"),
}


def tiny(**config):
    torch.manual_seed(0)
    prior = Prior(**{**TINY, **config}).eval()
    for p in (*prior.parameters(), *prior.buffers()):             # weights that all matter
        torch.nn.init.normal_(p, std=0.3)
    torch.nn.init.uniform_(prior.clip_std, 0.5, 2)
    return prior


def batch(n=3):
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    return (torch.randn(n, 6, generator=g), torch.randint(0, 1000, (n,), generator=g),
            torch.randn(n, 6, generator=g), torch.randn(n, 5, 6, generator=g), mask[:n])


def captions(n=2, seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g), torch.randn(n, 5, 6, generator=g), torch.rand(n, 5, generator=g) < 0.7


def golden(case):
    """The prior of a golden case, inputs, outputs, tolerances, config."""
    config = json.loads((GOLDEN / case / "config.json").read_text())
    prior = load_strict(Prior.from_config(config["prior"]), load_file(GOLDEN / case / "weights.prior.safetensors"), case)
    inputs, want = (load_file(GOLDEN / case / f"{name}.safetensors") for name in ("inputs", "outputs"))
    return prior, inputs, want, json.loads((GOLDEN / case / "case.json").read_text())["atol"], config


@torch.no_grad()
def test_prior_gives_the_peers_outputs():
    prior, inputs, want, atol, _ = golden("prior")
    given = [inputs[name] for name in ("hidden_states", "timestep", "proj_embedding", "encoder_hidden_states")]
    prediction = prior(*given, inputs["attention_mask"])
    got = {"predicted_image_embedding": prediction, "no_mask": prior(*given), "post_processed": prior.unwhiten(prediction)}
    assert set(got) == set(atol)
    for name in got:
        assert_close(got[name], want[name], rtol=0, atol=atol[name], msg=lambda numbers: f"{name}: {numbers}")


@torch.no_grad()
def test_sampling_gives_the_peers_embedding_step_by_step(monkeypatch):
    model, inputs, want, atol, config = golden("pipeline-kandinsky22")
    schedule, steps = Schedule.from_config(config["prior_scheduler"]), len(want["prior.timesteps"])
    texts = [inputs[f"prior.{name}"].chunk(2) for name in ("prompt_embeds", "text_encoder_hidden_states", "text_mask")]
    (negative, text), guidance = zip(*texts), inputs["prior.guidance_scale"].item()
    assert schedule.timesteps(steps).tolist() == want["prior.timesteps"].tolist()

    draws = iter(inputs["prior.noise"])           # what the peer drew, in place of fresh noise
    monkeypatch.setattr(samplers, "noise", lambda *args: next(draws))
    trajectory = []
    sample(predictor(model, text, negative, guidance), schedule, inputs["prior.latents"], steps, generator=0,
           callback=lambda i, t, z: trajectory.append(z))
    assert_close(torch.stack(trajectory), want["prior.trajectory"], rtol=0, atol=atol["prior.trajectory"])

    draws = iter(inputs["prior.noise"])
    monkeypatch.setattr(prior_module, "noise", lambda *args: inputs["prior.latents"])
    embedding = sample_embedding(model, schedule, text, negative, steps, guidance)
    assert_close(embedding, want["image_embeds"], rtol=0, atol=atol["image_embeds"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_priors_have_these_keys_and_shapes(name):
    width, numbers, digest = PUBLISHED[name]
    with torch.device("meta"):
        prior = Prior(embedding_dim=width)
    lines = sorted(f"{key} {tuple(t.shape)}" for key, t in prior.state_dict().items())
    assert sum(t.numel() for t in prior.state_dict().values()) == numbers
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


@torch.no_grad()
def test_what_is_saved_comes_back_with_its_statistics(tmp_path):
    prior = tiny()
    save_folder(prior, prior.config, tmp_path, dtype=torch.float32)
    again = Prior.from_pretrained(tmp_path)
    assert again.config == prior.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert_close(again(*batch()), prior(*batch()), rtol=0, atol=0)
    assert_close(again.clip_mean, prior.clip_mean, rtol=0, atol=0)


# Tokens and what they see

@torch.no_grad()
def test_a_token_sees_itself_and_what_is_to_its_left():
    prior, (z_t, t, pooled, hidden, mask) = tiny(), batch()
    states = []
    prior.transformer_blocks[-1].register_forward_hook(lambda module, args, out: states.append(out))
    prior(z_t, t, pooled, hidden, mask)
    prior(z_t, t, pooled, torch.cat([hidden[:, :2], hidden[:, 2:] + 1], dim=1), mask)
    prior(z_t, t, pooled + 1, hidden, mask)
    prior(z_t, t + 1, pooled, hidden, mask)
    prior(z_t + 1, t, pooled, hidden, mask)
    same = (torch.stack(states[1:]) == states[0]).all(dim=-1)[:, 0]           # (4, N), of the caption without padding
    for row, first in zip(same.tolist(), (2, 5, 6, 7)):                       # the text's third token, pooled, t, z_t
        assert row == [True] * first + [False] * (9 - first)


@torch.no_grad()
def test_padding_changes_nothing_and_every_other_token_counts():
    prior, (z_t, t, pooled, hidden, mask) = tiny(), batch()
    mask[0, 0] = False                            # also in front
    want = prior(z_t, t, pooled, hidden, mask)
    for i in range(5):
        other = hidden.clone()
        other[:, i] += 1
        changed = (prior(z_t, t, pooled, other, mask) - want).abs().amax(dim=1) > 1e-4
        assert torch.equal(changed, mask[:, i])


@torch.no_grad()
def test_short_captions_are_read_alike_beside_a_long_one_and_alone():
    """Alone, what is padding in all of them is left out."""
    prior, (z_t, t, pooled, hidden, mask) = tiny(), batch()
    mask[1] = torch.tensor([True, False, True, False, False])                 # padding also in between
    together = prior(z_t, t, pooled, hidden, mask)
    assert_close(prior(z_t[1:], t[1:], pooled[1:], hidden[1:], mask[1:]), together[1:])


@torch.no_grad()
def test_a_caption_without_any_token_gives_a_finite_prediction():
    z_t, t, pooled, hidden, mask = batch()
    prediction = tiny()(z_t, t, pooled, hidden, torch.zeros_like(mask))
    assert prediction.isfinite().all()
    assert_close(prediction, tiny()(z_t, t, pooled, hidden + 1, torch.zeros_like(mask)))
    assert visible(torch.zeros_like(mask)).any(dim=-1).all()      # not every kernel survives an empty row


@torch.no_grad()
def test_a_scalar_timestep_holds_for_all_and_a_mask_may_hold_0_and_1():
    prior, (z_t, t, pooled, hidden, mask) = tiny(), batch()
    want = prior(z_t, torch.full((3,), 7), pooled, hidden, mask)
    for same in (7, torch.tensor(7), torch.tensor([7])):
        assert_close(prior(z_t, same, pooled, hidden, mask), want, rtol=0, atol=0)
    assert_close(prior(z_t, 7, pooled, hidden, mask.long()), want, rtol=0, atol=0)


@pytest.mark.parametrize("change, message", [
    ({"z_t": torch.zeros(3, 7)}, r"z_t has shape \(3, 7\), expected \(3, 6\)"),
    ({"text_pooled": torch.zeros(2, 6)}, r"text_pooled has shape \(2, 6\), expected \(3, 6\)"),
    ({"text_hidden": torch.zeros(3, 4, 6)}, r"text_hidden has shape \(3, 4, 6\), expected \(3, 5, 6\)"),
    ({"mask": torch.ones(3, 9)}, r"mask has shape \(3, 9\), expected \(3, 5\)"),
    ({"t": torch.zeros(2)}, r"t has shape \(2,\), expected \(3,\)"),
])
def test_conditions_that_do_not_fit_are_named(change, message):
    given = dict(zip(("z_t", "t", "text_pooled", "text_hidden", "mask"), batch()))
    with pytest.raises(ValueError, match=message):
        tiny()(**{**given, **change})


# Whitening and training

def test_unwhitening_undoes_whitening_and_whitened_embeddings_have_mean_0_and_variance_1():
    prior = Prior(**TINY)
    e = 3 + 2 * torch.randn(500, 6)
    prior.clip_mean.copy_(e.mean(dim=0, keepdim=True))
    prior.clip_std.copy_(e.std(dim=0, keepdim=True))
    z = prior.whiten(e)
    assert_close(z.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-5)
    assert_close(z.std(dim=0), torch.ones(6))
    assert_close(prior.unwhiten(z), e)


def test_the_statistics_are_saved_but_not_trained():
    prior = Prior(**TINY)
    assert {"clip_mean", "clip_std"} <= prior.state_dict().keys()
    assert not {"clip_mean", "clip_std"} & dict(prior.named_parameters()).keys()


def test_gradients_reach_every_weight_and_the_text():
    prior, (z_t, t, pooled, hidden, mask) = tiny(), batch()
    given = [x.requires_grad_() for x in (z_t, pooled, hidden)]
    prior(z_t, t, pooled, hidden, mask).square().sum().backward()
    still = [name for name, p in prior.named_parameters() if not p.grad.abs().sum() > 0 and "to_k.bias" not in name]
    assert not still                              # a key's bias adds the same to every score of a row
    assert all(x.grad.abs().sum() > 0 for x in given)
    assert hidden.grad[1, 3:].abs().sum() == 0    # padding


def test_training_starts_at_the_mean_embedding_and_learns_to_copy_the_text():
    """The image embedding is a fixed map of the caption's; nothing else tells it, at t near T."""
    g = torch.Generator().manual_seed(0)
    prior = Prior(**TINY).init_weights(g)
    schedule, to_image = Schedule.from_config(UNCLIP), torch.linalg.qr(torch.randn(6, 6, generator=g)).Q
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        pooled, hidden = torch.randn(64, 6, generator=g), torch.randn(64, 5, 6, generator=g)
        z_0, t = pooled @ to_image, torch.randint(500, 1000, (64,), generator=g)
        z_t = schedule.add_noise(z_0, torch.randn(64, 6, generator=g), t)
        loss = (prior(z_t, t, pooled, hidden, torch.ones(64, 5, dtype=torch.bool)) - z_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.2)
    assert losses[-1] < 0.3


def test_start_values_follow_the_generator():
    a, b, c = (Prior(**TINY).init_weights(torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["prd_embedding"], c["prd_embedding"])


@torch.no_grad()
def test_start_values_keep_the_tokens_as_large_at_any_depth():
    sizes = []
    for depth in (1, 24):
        prior = Prior(**{**TINY, "num_layers": depth}).init_weights(torch.Generator().manual_seed(0))
        prior.transformer_blocks[-1].register_forward_hook(lambda module, args, out: sizes.append(out.std().item()))
        prior(*batch())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)


# Sampling

@torch.no_grad()
def test_guidance_goes_from_the_negative_caption_through_the_caption():
    prior, text, negative = tiny(), captions(), captions(1, seed=3)
    z_t, t = torch.randn(2, 6), 400
    away = prior(z_t, t, *(x.expand(2, *x.shape[1:]) for x in negative))
    to = prior(z_t, t, *text)
    assert_close(predictor(prior, text, negative, 3.0)(z_t, t), 3 * to - 2 * away)
    assert_close(predictor(prior, text, negative, 0.0)(z_t, t), away)
    for plain in (predictor(prior, text, negative, 1.0), predictor(prior, text, None, 3.0)):
        assert_close(plain(z_t, t), to)


@torch.no_grad()
def test_a_sample_depends_on_its_own_seed_and_not_on_its_neighbours():
    prior, schedule, text = tiny(), Schedule.from_config(UNCLIP), captions(1)
    prior.proj_in.weight *= 10                    # so that what it starts from matters
    three = sample_embedding(prior, schedule, [x.expand(3, *x.shape[1:]) for x in text], steps=4, seeds=5)
    for i in range(3):
        assert_close(sample_embedding(prior, schedule, text, steps=4, seeds=5 + i), three[i:i + 1])
    assert (three[0] - three[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_sample_is_the_unwhitened_last_prediction():
    """One step, at t = 0, from pure noise: no noise is left and no noise is added."""
    prior, text = tiny(), captions(2)
    want = prior(noise((2, 6), 0), 0, *text).clamp(-10, 10)
    got = sample_embedding(prior, Schedule.from_config(UNCLIP), text, steps=1)
    assert_close(got, prior.unwhiten(want), rtol=2e-3, atol=2e-3)     # 1 - alpha_bar has three digits at t = 0


# Configs

@pytest.mark.parametrize("config", [{"dropout": 0.1}, {"_class_name": "UNet2DConditionModel"}, {"added_emb_type": None},
                                    {"clip_embed_dim": 1024}, {"additional_embeddings": 0}])
def test_a_config_that_is_not_supported_is_refused_by_name(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        Prior.from_config({**TINY, **config})


def test_keys_of_a_config_that_change_nothing_are_ignored():
    config = {**TINY, "_about": {}, "_diffusers_version": "0.2", "additional_embeddings": 4, "dropout": 0.0,
              "time_embed_act_fn": "silu", "clip_embed_dim": None}
    assert Prior.from_config(config).config == tiny().config


def test_weights_that_do_not_fit_are_named(tmp_path):
    prior = tiny()
    save_folder(prior, prior.config, tmp_path)
    write_json(tmp_path / "config.json", {**prior.config, "num_embeddings": 7})
    with pytest.raises(CheckpointError, match="positional_embedding has shape"):
        Prior.from_pretrained(tmp_path)
