"""Folders as diffusers and transformers write them: variants, shards and pickles load here with the same numbers."""
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from minidiff import CLIPText, UNet
from minidiff.checkpoints import read_folder

pytestmark = pytest.mark.parity
CONFIG = dict(block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
              up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, attention_head_dim=2, cross_attention_dim=6)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG)


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                                      num_attention_heads=2, projection_dim=8, bos_token_id=28, eos_token_id=29))


HOW = {"plain": {}, "variant": {"variant": "fp16"}, "shards": {"max_shard_size": "50KB"},
       "shards of a variant": {"max_shard_size": "50KB", "variant": "fp16"}, "pickle": {"safe_serialization": False}}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", HOW)
def test_a_unet_saved_by_diffusers_loads_with_the_same_weights(unet, tmp_path, how, dtype):
    unet.save_pretrained(tmp_path, **HOW[how])
    assert len(list(tmp_path.glob("*-of-*"))) == 0 or "shards" in how
    ours = UNet.from_pretrained(tmp_path, dtype=dtype, variant=HOW[how].get("variant")).state_dict()
    theirs = UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=dtype or torch.float32, **{
        key: value for key, value in {"variant": HOW[how].get("variant")}.items() if value}).state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert_close(ours[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["plain", "variant", "shards", "shards of a variant"])
def test_a_text_encoder_saved_by_transformers_loads_with_the_same_weights(text, tmp_path, how):
    options = {key: value.replace("50KB", "8KB") for key, value in HOW[how].items()}
    text.save_pretrained(tmp_path, **options)
    assert (len(list(tmp_path.glob("*-of-*"))) > 1) == ("shards" in how)
    ours, variant = CLIPText.from_pretrained(tmp_path, variant=options.get("variant")), options.get("variant")
    theirs = text.state_dict()
    for key, tensor in ours.state_dict().items():
        assert_close(tensor, theirs[key] if key in theirs else theirs[key.removeprefix("text_model.")], rtol=0, atol=0)
    assert len(read_folder(tmp_path, variant)) >= len(theirs) - 1
