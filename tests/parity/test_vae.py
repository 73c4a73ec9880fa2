"""minidiff.vae and minidiff.movq against the installed diffusers: random small configurations, outputs and gradients."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("hypothesis")
from diffusers import AutoencoderKL, VQModel                                        # noqa: E402
from hypothesis import Phase, given, settings                                       # noqa: E402
from hypothesis import strategies as st                                             # noqa: E402

from minidiff.checkpoints import save_folder                                        # noqa: E402
from minidiff.movq import MoVQ                                                      # noqa: E402
from minidiff.vae import VAE                                                        # noqa: E402

from .compare import assert_near, assert_same_gradients, loaded, randomised         # noqa: E402

pytestmark = pytest.mark.parity
# Phase.generate: no search for a smaller example
several = settings(max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
seeds, sides = st.integers(0, 2 ** 31), st.integers(7, 12)


@st.composite
def configs(draw, multiple):
    """What both autoencoders have in common. `multiple`: of channels."""
    channels = draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))
    return dict(in_channels=draw(st.integers(1, 4)), out_channels=draw(st.integers(1, 4)),
                block_out_channels=tuple(multiple * c for c in channels), layers_per_block=draw(st.integers(1, 2)),
                latent_channels=draw(st.integers(2, 5)), norm_num_groups=draw(st.sampled_from([1, 2, 4, 8])),
                mid_block_add_attention=draw(st.booleans()))


@st.composite
def kl_configs(draw):
    config = draw(configs(multiple=8))
    levels = len(config["block_out_channels"])
    return config | dict(down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)


@st.composite
def movq_configs(draw):
    config = draw(configs(multiple=64))           # the decoder's norms have 32 groups: two channels in each
    levels = len(config["block_out_channels"])
    types = lambda *names: tuple(draw(st.lists(st.sampled_from(names), min_size=levels, max_size=levels)))
    return config | dict(norm_type="spatial", num_vq_embeddings=draw(st.integers(2, 20)),
                         vq_embed_dim=draw(st.sampled_from([None, config["latent_channels"]])),
                         down_block_types=types("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
                         up_block_types=types("UpDecoderBlock2D", "AttnUpDecoderBlock2D"))


def picture(config, height, width, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, config["in_channels"], height, width, generator=g)


@several
@given(kl_configs(), sides, sides, seeds)
def test_vae_gives_the_peers_latents_pictures_and_gradients(config, height, width, seed):
    peer = randomised(AutoencoderKL(**config), seed)
    vae, image = loaded(VAE, peer), picture(config, height, width, seed)
    mean, logvar = vae.encode(image)
    latents = peer.encode(image).latent_dist
    decoded, want = vae.decode(mean), peer.decode(latents.mean).sample
    for what, a, b in (("mean", mean, latents.mean), ("logvar", logvar, latents.logvar), ("decoded", decoded, want)):
        assert_near(a, b, what)
    assert_same_gradients(vae, [decoded, logvar], peer, [want, latents.logvar])


@several
@given(movq_configs(), sides, sides, seeds)
def test_movq_gives_the_peers_latents_pictures_and_gradients(config, height, width, seed):
    peer = randomised(VQModel(**config), seed)
    movq, image = loaded(MoVQ, peer), picture(config, height, width, seed)
    z, latents = movq.encode(image), peer.encode(image).latents
    decoded, want = movq.decode(z), peer.decode(latents, force_not_quantize=True).sample
    assert_near(z, latents, "latents")
    assert_near(decoded, want, "decoded")
    assert_near(movq.decode(movq.quantize(latents)), peer.decode(latents).sample, "decoded from codes")
    # In float64: behind the spatial norms, rounding alone makes float32 gradients differ by up to 2e-4.
    movq, peer = movq.double(), peer.double()
    decoded, want = movq.decode(movq.encode(image.double())), peer.decode(peer.encode(image.double()).latents, force_not_quantize=True).sample
    assert_same_gradients(movq, [decoded], peer, [want])


@several
@given(kl_configs(), movq_configs(), seeds)
@torch.no_grad()
def test_the_peer_loads_what_we_save(tmp_path_factory, kl_config, movq_config, seed):
    for ours, peer_class, config in ((VAE, AutoencoderKL, kl_config), (MoVQ, VQModel, movq_config)):
        model, folder = randomised(ours.from_config(config), seed), tmp_path_factory.mktemp("saved")
        save_folder(model, model.config, folder, dtype=torch.float32)
        peer, image = peer_class.from_pretrained(folder).eval(), picture(config, 8, 8, seed)
        if ours is VAE:
            mean, _ = model.encode(image)
            assert_near(model.decode(mean), peer(image).sample, "reconstruction")
        else:
            z = peer.encode(image).latents
            assert_near(model.decode(model.encode(image)), peer.decode(z, force_not_quantize=True).sample, "reconstruction")
