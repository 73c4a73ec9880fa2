"""minidiff.prior against the installed diffusers: random small configurations, outputs and gradients."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("hypothesis")
from diffusers import PriorTransformer                                              # noqa: E402
from hypothesis import Phase, given, settings                                       # noqa: E402
from hypothesis import strategies as st                                             # noqa: E402

from minidiff.checkpoints import save_folder                                        # noqa: E402
from minidiff.prior import Prior                                                    # noqa: E402

from .compare import assert_near, assert_same_gradients, loaded, randomised         # noqa: E402

pytestmark = pytest.mark.parity
# Phase.generate: no search for a smaller example
several = settings(max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
seeds, batches = st.integers(0, 2 ** 31), st.integers(1, 3)
configs = st.fixed_dictionaries(dict(
    num_attention_heads=st.integers(1, 4), attention_head_dim=st.sampled_from([2, 4, 6, 16]), num_layers=st.integers(1, 3),
    embedding_dim=st.integers(1, 20), num_embeddings=st.integers(1, 9)))


def inputs(config, batch, seed):
    """z_t, t, text_pooled, text_hidden, and any mask at all."""
    g, (width, length) = torch.Generator().manual_seed(seed), (config[key] for key in ("embedding_dim", "num_embeddings"))
    draw = lambda *shape: torch.randn(batch, *shape, generator=g).requires_grad_()
    return (draw(width), torch.randint(0, 1000, (batch,), generator=g), draw(width), draw(length, width),
            torch.rand(batch, length, generator=g) < 0.6)


def ask_peer(peer, z_t, t, text_pooled, text_hidden, mask):
    return peer(z_t, t, text_pooled, text_hidden, mask).predicted_image_embedding


@several
@given(configs, batches, st.booleans(), seeds)
def test_priors_give_the_peers_predictions_and_gradients(config, batch, masked, seed):
    peer = randomised(PriorTransformer(**config), seed)
    prior, (z_t, t, pooled, hidden, mask) = loaded(Prior, peer), inputs(config, batch, seed)
    given = (z_t, t, pooled, hidden, mask if masked else None)
    got, want = prior(*given), ask_peer(peer, *given)
    assert_near(got, want, "prediction")
    assert_near(prior.unwhiten(got), peer.post_process_latents(want), "embedding")
    for name, x in (("z_t", z_t), ("text_pooled", pooled)):
        a, b = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (got, want))
        assert_near(a, b, f"gradient of {name}")
    assert_same_gradients(prior, [got], peer, [want])


@several
@given(configs, seeds)
@torch.no_grad()
def test_the_peer_loads_what_we_save(tmp_path_factory, config, seed):
    prior, folder = randomised(Prior(**config), seed), tmp_path_factory.mktemp("saved")
    prior.clip_mean.normal_(), prior.clip_std.uniform_(0.5, 2)
    save_folder(prior, prior.config, folder, dtype=torch.float32)
    peer, given = PriorTransformer.from_pretrained(folder).eval(), inputs(config, 2, seed)
    want = ask_peer(peer, *given)
    assert_near(prior(*given), want, "prediction")
    assert_near(prior.unwhiten(want), peer.post_process_latents(want), "embedding")
