"""Properties of minidiff.vae. Golden outputs: diffusers' AutoencoderKL, tolerances measured there (case.json)."""
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minidiff.checkpoints import CheckpointError, load_strict, save_folder
from minidiff.vae import VAE, modern_names

GOLDEN = Path(__file__).parent / "golden" / "vae-kl"
TINY = dict(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4)

# sha256 of the sorted lines "key shape" of the published SD 1.5 VAE (made from the manifest sd15.vae of its files; the
# VAEs of SD 2.1 and SDXL have the same).
SD_VAE = "600696bc94ffc80f250f7a2b836e289ff191e5f194ce89f9aa389cfc8ef4a0ab"


def golden_vae(weights="weights.vae.safetensors"):
    config = json.loads((GOLDEN / "config.json").read_text())["vae"]
    return load_strict(VAE.from_config(config), modern_names(load_file(GOLDEN / weights)), weights).eval()


def tiny(**config):
    torch.manual_seed(0)
    return VAE(**{**TINY, **config}).eval()


@pytest.mark.parametrize("layout", ["vae", "vae-legacy", "vae-ldm"])
@torch.no_grad()
def test_every_published_layout_gives_the_peers_outputs(layout):
    vae = golden_vae(f"weights.{layout}.safetensors")
    inputs, want = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
    mean, logvar = vae.encode(inputs["image"])
    odd_mean, _ = vae.encode(inputs["odd.image"])
    got = {"mean": mean, "logvar": logvar, "std": (0.5 * logvar).exp(), "mode": mean,
           "decoded": vae.decode(inputs["latents"]), "odd.mean": odd_mean, "odd.reconstruction": vae.decode(odd_mean)}
    atol = json.loads((GOLDEN / "case.json").read_text())["atol"]
    assert set(got) == set(atol)
    for name in got:
        assert_close(got[name], want[name], rtol=0, atol=atol[name], msg=lambda numbers: f"{name}: {numbers}")


@pytest.mark.parametrize("layout", ["vae-legacy", "vae-ldm"])
def test_layouts_differ_only_in_names(layout):
    weights = load_file(GOLDEN / "weights.vae.safetensors")
    renamed = modern_names(load_file(GOLDEN / f"weights.{layout}.safetensors"))
    assert renamed.keys() == weights.keys()
    for key in weights:                           # by value: no output depends on the biases of the keys
        assert_close(renamed[key], weights[key], rtol=0, atol=0)


def test_stable_diffusion_vae_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        vae = VAE(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
    lines = sorted(f"{key} {tuple(t.shape)}" for key, t in vae.state_dict().items())
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == SD_VAE


@pytest.mark.parametrize("config", [{}, {"patch_size": 2}, {"mid_block_add_attention": False, "scaling_factor": 0.5}])
@torch.no_grad()
def test_what_is_saved_comes_back(tmp_path, config):
    vae, image = tiny(**config), torch.rand(1, 3, 16, 16) * 2 - 1
    save_folder(vae, vae.config, tmp_path, dtype=torch.float32)
    again = VAE.from_pretrained(tmp_path)
    assert again.config == vae.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert_close(again.encode(image), vae.encode(image), rtol=0, atol=0)


@pytest.mark.parametrize("patch_size, side", [(1, 16), (2, 8), (4, 4)])
def test_patches_make_latents_smaller_and_images_stay_as_they_are(patch_size, side):
    vae = tiny(patch_size=patch_size)
    reconstruction, mean, logvar = vae(torch.zeros(1, 3, 32, 32))
    assert mean.shape == logvar.shape == (1, 4, side, side)
    assert reconstruction.shape == (1, 3, 32, 32)


@torch.no_grad()
def test_patches_of_the_decoder_lie_where_those_of_the_encoder_came_from():
    vae = tiny(patch_size=2)
    vae.encoder, vae.decoder = torch.nn.Identity(), torch.nn.Identity()
    vae.quant_conv = vae.post_quant_conv = torch.nn.Identity()
    image = torch.rand(1, 4, 8, 8)                # mean and logvar are the two halves of the 16 patch channels
    assert_close(vae.decode(torch.cat(vae.encode(image), dim=1)), image)


@torch.no_grad()
def test_logvar_is_clamped_so_that_its_exponential_is_finite():
    vae = tiny()
    vae.quant_conv.bias.copy_(torch.tensor([0, 0, 0, 0, -1e4, -1e4, 1e4, 1e4]))
    _, logvar = vae.encode(torch.zeros(1, 3, 8, 8))
    assert logvar.unique().tolist() == [-30, 20]


def test_one_sample_in_training_follows_the_generator_and_reaches_the_encoder():
    vae, image = tiny(), torch.rand(1, 3, 16, 16)
    a, _, _ = vae(image, torch.Generator().manual_seed(1))
    b, _, _ = vae(image, torch.Generator().manual_seed(1))
    assert_close(a, b, rtol=0, atol=0)
    a.square().mean().backward()
    # A key's bias adds the same to every score of a row; the softmax cancels it.
    still = [name for name, p in vae.named_parameters() if not p.grad.abs().sum() > 0 and "to_k.bias" not in name]
    assert not still


def test_an_image_that_does_not_split_into_patches_is_refused():
    with pytest.raises(ValueError, match="15 x 16, expected multiples of 2"):
        tiny(patch_size=2).encode(torch.zeros(1, 3, 15, 16))


@pytest.mark.parametrize("config", [{"act_fn": "relu"}, {"_class_name": "VQModel"}, {"shift_factor": 0.1},
                                    {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}])
def test_a_config_that_is_not_supported_is_refused_by_name(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        VAE.from_config({**TINY, **config})


def test_keys_of_a_config_that_change_nothing_are_ignored():
    vae = VAE.from_config({**TINY, "_about": {}, "sample_size": 512, "force_upcast": True, "_diffusers_version": "0.2"})
    assert vae.config == tiny().config


@pytest.mark.parametrize("damage, message", [
    (lambda w: w.pop("decoder.conv_in.bias"), "missing decoder.conv_in.bias"),
    (lambda w: w.update(extra=torch.zeros(2)), "unexpected extra"),
    (lambda w: w.update({"quant_conv.weight": torch.zeros(8, 8)}), "quant_conv.weight has shape"),
])
def test_weights_that_do_not_fit_are_named(tmp_path, damage, message):
    vae = tiny()
    save_folder(vae, vae.config, tmp_path)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        VAE.from_pretrained(tmp_path)
