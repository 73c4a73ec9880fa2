"""minidiff.unet against the installed diffusers: random small configurations of every family, outputs and gradients."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("hypothesis")
from diffusers import UNet2DConditionModel                                          # noqa: E402
from hypothesis import Phase, given, settings                                       # noqa: E402
from hypothesis import strategies as st                                             # noqa: E402

from minidiff.checkpoints import save_folder                                        # noqa: E402
from minidiff.unet import UNet                                                      # noqa: E402

from .compare import assert_near, assert_same_gradients, loaded, randomised         # noqa: E402

pytestmark = pytest.mark.parity
# Phase.generate: no search for a smaller example
several = settings(max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
FAMILIES = ["sd1", "sd2", "sdxl", "kandinsky"]


@st.composite
def configs(draw, family):
    """A small UNet of the family, as its config.json: 1 to 3 levels, with attention or without."""
    groups, levels = draw(st.sampled_from([2, 4])), draw(st.integers(1, 3))
    channels = [groups * 4 * draw(st.integers(1, 2)) for _ in range(levels)]
    attends = [draw(st.booleans()) for _ in range(levels)]
    simple = family == "kandinsky"
    kinds = {True: ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D") if simple else ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
             False: ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if simple else ("DownBlock2D", "UpBlock2D")}
    config = dict(block_out_channels=channels, norm_num_groups=groups, layers_per_block=draw(st.integers(1, 2)), in_channels=4,
                  out_channels=8 if simple else 4, sample_size=8, cross_attention_dim=draw(st.integers(3, 9)),
                  down_block_types=[kinds[a][0] for a in attends], up_block_types=[kinds[a][1] for a in attends[::-1]],
                  attention_head_dim=draw(st.sampled_from([2, 4])))
    if family in ("sd2", "sdxl"):                 # one number in Kandinsky: on the way up the peer reads a list of widths in the wrong order
        config["attention_head_dim"] = [draw(st.sampled_from([2, 4])) for _ in range(levels)]
    if family in ("sd2", "sdxl"):
        config["use_linear_projection"] = True
    if family == "sdxl":
        config |= dict(transformer_layers_per_block=[draw(st.integers(1, 2)) for _ in range(levels)], addition_embed_type="text_time",
                       addition_time_embed_dim=4, projection_class_embeddings_input_dim=5 + 6 * 4)
    if simple:
        config |= dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift", encoder_hid_dim=5,
                       addition_embed_type="image", encoder_hid_dim_type="image_proj")
    return config


def inputs(config, family, batch, side, seed):
    """x, t, context, added"""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(batch, *shape, generator=g)
    side = side * 2 ** (len(config["block_out_channels"]) - 1) if family == "kandinsky" else side     # the peer's cannot do odd sides
    added = {"sdxl": {"text_embeds": draw(5), "time_ids": torch.randint(0, 1024, (batch, 6), generator=g).float()},
             "kandinsky": {"image_embeds": draw(5)}}.get(family)
    context = None if family == "kandinsky" else draw(6, config["cross_attention_dim"])
    return draw(4, side, side + side % 2), torch.randint(0, 1000, (batch,), generator=g), context, added


@pytest.mark.parametrize("family", FAMILIES)
def test_unets_give_the_peers_predictions_and_gradients(family):
    @several
    @given(configs(family), st.integers(1, 2), st.integers(4, 9), st.integers(0, 2 ** 31))
    def check(config, batch, side, seed):
        peer = randomised(UNet2DConditionModel(**config), seed)
        unet, (x, t, context, added) = loaded(UNet, peer), inputs(config, family, batch, side, seed)
        got, want = unet(x, t, context, added), peer(x, t, context, added_cond_kwargs=added).sample
        assert_near(got, want, "prediction")
        assert_near(unet(x, t, unet.text_kv(context, added)), want, "prediction with text keys and values")
        assert_same_gradients(unet, [got], peer, [want])

    check()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_peer_loads_what_we_save(tmp_path, family):
    config = {"sd1": {}, "sd2": {"use_linear_projection": True}, "sdxl": dict(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=29, transformer_layers_per_block=[1, 2])}
    config["kandinsky"] = dict(
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], addition_embed_type="image",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], mid_block_type="UNetMidBlock2DSimpleCrossAttn", encoder_hid_dim=5,
        encoder_hid_dim_type="image_proj", resnet_time_scale_shift="scale_shift", out_channels=8)
    tiny = dict(block_out_channels=[8, 16], layers_per_block=1, attention_head_dim=2, norm_num_groups=4, cross_attention_dim=6,
                down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"])
    unet = randomised(UNet(**tiny | config[family]), 0)
    save_folder(unet, unet.config, tmp_path, dtype=torch.float32)
    peer, (x, t, context, added) = UNet2DConditionModel.from_pretrained(tmp_path).eval(), inputs(unet.config, family, 2, 8, 1)
    assert_near(unet(x, t, context, added), peer(x, t, context, added_cond_kwargs=added).sample, "prediction")
