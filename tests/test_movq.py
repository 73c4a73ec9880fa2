"""Properties of minidiff.movq. Golden outputs: diffusers' VQModel, tolerances measured there (case.json)."""
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff.checkpoints import CheckpointError, load_strict, save_folder, write_json
from minidiff.movq import Codebook, MoVQ, SpatialNorm

GOLDEN = Path(__file__).parent / "golden" / "movq"
TINY = dict(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), norm_num_groups=8, latent_channels=3,
            num_vq_embeddings=16)

# Kandinsky 2.1 and 2.2; sha256 of the sorted lines "key shape" (made from the manifest kandinsky.movq of its files).
KANDINSKY = dict(block_out_channels=(128, 256, 256, 512), layers_per_block=2, latent_channels=4, vq_embed_dim=4,
                 num_vq_embeddings=16384, down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
                 up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3)
KEYS = "e7423dd6b1281b9b41ae9c8742f4a6f09d9e3f039423ba07fc47afb1686cb3c4"


def tiny(**config):
    torch.manual_seed(0)
    return MoVQ(**{**TINY, **config}).eval()


@torch.no_grad()
def test_movq_gives_the_peers_outputs():
    movq = MoVQ.from_config(json.loads((GOLDEN / "config.json").read_text())["movq"])
    load_strict(movq, load_file(GOLDEN / "weights.movq.safetensors"), "golden")
    inputs, want = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
    z = inputs["latents"]
    codes = movq.quantize(z)
    got = {"encoded": movq.encode(inputs["image"]), "decoded": movq.decode(z),
           "quantized": codes, "decoded_quantized": movq.decode(codes)}
    atol = json.loads((GOLDEN / "case.json").read_text())["atol"]
    assert set(got) == set(atol)
    for name in got:
        assert_close(got[name], want[name], rtol=0, atol=atol[name], msg=lambda numbers: f"{name}: {numbers}")


def test_kandinskys_movq_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        movq = MoVQ(**KANDINSKY)
    lines = sorted(f"{key} {tuple(t.shape)}" for key, t in movq.state_dict().items())
    assert sum(p.numel() for p in movq.parameters()) == 67_832_495
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS


@torch.no_grad()
def test_what_is_saved_comes_back(tmp_path):
    movq, image = tiny(), torch.rand(1, 3, 16, 16) * 2 - 1
    save_folder(movq, movq.config, tmp_path, dtype=torch.float32)
    again = MoVQ.from_pretrained(tmp_path)
    assert again.config == movq.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    z = movq.encode(image)
    assert z.shape == (1, 3, 8, 8)
    assert_close(again.decode(again.encode(image)), movq.decode(z), rtol=0, atol=0)


@torch.no_grad()
def test_scale_and_shift_of_a_spatial_norm_come_from_the_latent_at_that_position():
    norm, x, z = SpatialNorm(32, latents=2), torch.randn(1, 32, 4, 4), torch.randn(1, 2, 2, 2)
    deviation, mean = torch.std_mean(x[0], dim=(1, 2), correction=0)          # 32 groups of one channel
    for row in range(4):
        for column in range(4):
            here = z[:, :, row // 2:row // 2 + 1, column // 2:column // 2 + 1]
            y, b = norm.conv_y(here).flatten(), norm.conv_b(here).flatten()
            want = (x[0, :, row, column] - mean) / deviation * y + b
            assert_close(norm(x, z)[0, :, row, column], want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_all_norms_of_the_decoder_see_the_latents():
    movq, z, seen = tiny(), torch.randn(1, 3, 4, 4), []
    norms = [module for module in movq.decoder.modules() if isinstance(module, SpatialNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    movq.decode(z)
    assert not any(isinstance(norm, SpatialNorm) for norm in movq.encoder.modules())
    assert len(seen) == len(norms) == 2 * 2 + 1 + 2 * (2 * 2) + 2 + 1         # middle, two levels, the last
    assert all(torch.equal(each, z) for each in seen)


@torch.no_grad()
def test_a_code_is_its_own_nearest_code():
    codebook = Codebook(7, 3)
    ids = torch.randint(0, 7, (2, 4, 5))
    z = codebook.embedding(ids).movedim(-1, 1)
    assert_close(codebook(z + 1e-4 * torch.randn_like(z)), z, rtol=0, atol=0)


@pytest.mark.parametrize("config, message", [
    ({"norm_type": "group"}, "norm_type is 'group'"),
    ({"act_fn": "relu"}, "act_fn"),
    ({"vq_embed_dim": 8}, "vq_embed_dim is 8, expected latent_channels, 3"),
    ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL'"),
    ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types has 1 entries, block_out_channels has 2"),
    ({"up_block_types": ["UpDecoderBlock2D", "UpBlock2D"]}, "up_block_types has 'UpBlock2D'"),
])
def test_a_config_that_is_not_supported_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        MoVQ.from_config({**TINY, "norm_type": "spatial", **config})


def test_a_config_without_a_norm_type_means_the_plain_norm_and_is_refused(tmp_path):
    write_json(tmp_path / "config.json", TINY)
    save_folder(tiny(), TINY, tmp_path)
    with pytest.raises(CheckpointError, match="norm_type is 'group'; MoVQ supports only 'spatial'"):
        MoVQ.from_pretrained(tmp_path)
