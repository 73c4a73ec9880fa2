"""Properties of minidiff.unet and minidiff.attention. Golden outputs: diffusers' UNet2DConditionModel, tolerances
measured there (case.json)."""
import hashlib
import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minidiff import devices
from minidiff.attention import GEGLU, Attention, attend, recorded
from minidiff.blocks import Conv3x3
from minidiff.checkpoints import CheckpointError, load_strict, save_folder
from minidiff.unet import UNet, original_name, sinusoid, zero_residuals

GOLDEN = Path(__file__).parent / "golden"
TINY = dict(in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=12, norm_num_groups=4)

SDXL = dict(block_out_channels=[320, 640, 1280], down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20], cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
KANDINSKY = dict(block_out_channels=[384, 768, 1152, 1536], down_block_types=["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
                 up_block_types=["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"], mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                 layers_per_block=3, attention_head_dim=64, cross_attention_dim=768, out_channels=8, resnet_time_scale_shift="scale_shift",
                 addition_embed_type="image", encoder_hid_dim=1280, encoder_hid_dim_type="image_proj")

# sha256 of the sorted lines "key shape" of the published UNets, in their folders and in single files.
PUBLISHED = {
    "sd15": (dict(), 859_520_964, "5159ace1d6e60acb2ff7b9ddd73044e92771c04623d5c12ebfaaf0067d0aabb7", 
             "2489855b740ba326b790207b1118e63205e3a533d068913c24787d987ad98626"),
    "sd21": (dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True),
             865_910_724, "61d626becb5b11d894e2956c6a9b97e2ef40b8dedb66529bc101650e187b27f0", 
             "50e424db2fb788a23106981491307c72d949eea2538499fbf93cf806705bc6e2"),
    "sdxl": (SDXL, 2_567_463_684, "9556a38d644b6b5389f13de11fde3b4314fff6224b313378827c9a1b34b67f27", 
             "d8427731b1d2b4b612e3c50353d91f7c1eef2d8fb29d7539903578a9604a530a"),
    "kandinsky22": (KANDINSKY, 1_253_057_288, "7b83d26cb551b015231ac9a25e92cacd6791815a38e84f81fa8bf31ca1df8493", None),
}


def tiny(**config):
    torch.manual_seed(0)
    return UNet(**{**TINY, **config}).eval()


def batch(n=2, side=8, width=12):
    g = torch.Generator().manual_seed(1)
    return (torch.randn(n, 4, side, side, generator=g), torch.randint(0, 1000, (n,), generator=g),
            torch.randn(n, 5, width, generator=g))


@pytest.mark.parametrize("case, size", [("unet-sd1", ""), ("unet-sd1", "odd."), ("unet-sd2", ""), ("unet-sd2", "odd."),
                                        ("unet-sdxl", ""), ("unet-kandinsky22", "")])
@torch.no_grad()
def test_unet_gives_the_peers_output(case, size):
    folder = GOLDEN / case
    unet = UNet.from_config(json.loads((folder / "config.json").read_text())["unet"])
    load_strict(unet, load_file(folder / "weights.unet.safetensors"), "golden")
    inputs, want = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    atol = json.loads((folder / "case.json").read_text())["atol"][size + "sample"]
    conditions = {name: inputs.get(size + name) for name in ("text_embeds", "time_ids", "image_embeds")}
    context, added = inputs.get(size + "encoder_hidden_states"), {name: c for name, c in conditions.items() if c is not None}
    x, t = inputs[size + "sample"], inputs[size + "timestep"]
    assert_close(unet(x, t, context, added), want[size + "sample"], rtol=0, atol=atol)
    assert_close(unet(x, t, unet.text_kv(context, added)), want[size + "sample"], rtol=0, atol=atol)


def digest(names, unet):
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in zip(names, unet.state_dict().values()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_unets_have_these_keys_and_shapes(name):
    config, parameters, folder, single_file = PUBLISHED[name]
    with torch.device("meta"):
        unet = UNet(**config)
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert digest(unet.state_dict(), unet) == folder
    if single_file:
        assert digest([original_name(key, unet.config) for key in unet.state_dict()], unet) == single_file


@torch.no_grad()
def test_linear_projections_are_the_convolutions_written_differently():
    conv, linear = tiny(), tiny(use_linear_projection=True)
    weights = conv.state_dict()
    load_strict(linear, {k: t[:, :, 0, 0] if ".proj_" in k and t.ndim == 4 else t for k, t in weights.items()}, "conv")
    assert_close(linear(*batch()), conv(*batch()))


@torch.no_grad()
def test_memory_format_changes_no_prediction():
    unet, (x, t, context) = tiny(), batch()
    want = unet(x, t, context)
    assert_close(unet.to(memory_format=torch.channels_last)(x, t, context), want)


@pytest.mark.parametrize("height, width", [(9, 5), (8, 7), (1, 1), (6, 10)])
def test_any_size_comes_back_in_that_size(height, width):
    x = torch.zeros(1, 4, height, width)
    assert tiny()(x, 3, torch.zeros(1, 5, 12)).shape == x.shape


def test_a_scalar_timestep_means_the_same_for_every_image():
    unet, (x, _, context) = tiny(), batch()
    want = unet(x, torch.tensor([7, 7]), context)
    for t in (7, torch.tensor(7), torch.tensor([7])):
        assert_close(unet(x, t, context), want, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"t has shape \(3,\)"):
        unet(x, torch.tensor([7, 7, 7]), context)


def test_sinusoids_are_cosines_then_sines():
    got = sinusoid(torch.tensor([0, 3]), 4)
    angles = [3.0, 3.0 / 100]                     # 10000 ** (-0/2) and 10000 ** (-1/2)
    want = [[1, 1, 0, 0], [*map(math.cos, angles), *map(math.sin, angles)]]
    assert_close(got, torch.tensor(want, dtype=torch.float32))


@pytest.mark.parametrize("batch, side", [(1, 1), (1, 3), (2, 3), (2, 8)])        # few positions and many: two ways to compute it
def test_conv3x3_is_a_convolution(batch, side):
    torch.manual_seed(0)
    conv = Conv3x3(6, 20).double()
    x = torch.randn(batch, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
    got, want = conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    assert_close(got, want)
    assert_close(torch.autograd.grad(got.square().sum(), [x, *conv.parameters()]), torch.autograd.grad(want.square().sum(), [x, *conv.parameters()]))


@torch.no_grad()
def test_products_in_emulated_half_precision_are_made_in_float32(monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)
    for dtype in (torch.bfloat16, torch.float16):
        x, w = torch.randn(3, 500).to(dtype), torch.randn(4, 500).to(dtype)
        with devices.products(x):
            assert_close(F.linear(x, w), F.linear(x.float(), w.float()).to(dtype), rtol=0, atol=0)
            image, kernel = torch.randn(1, 3, 5, 5).to(dtype), torch.randn(2, 3, 3, 3).to(dtype)
            assert_close(F.conv2d(image, kernel, padding=1), F.conv2d(image.float(), kernel.float(), padding=1).to(dtype), rtol=0, atol=0)
        unet, (x, t, context) = tiny().to(dtype), batch()
        got = unet(x.to(dtype), t, context.to(dtype))
        assert got.dtype == dtype
        assert_close(got.float(), unet.float()(x, t, context), rtol=0, atol=0.1)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: True)
    assert isinstance(devices.products(x.bfloat16()), nullcontext) and isinstance(devices.products(x.float()), nullcontext)


# Attention

def test_attention_is_a_weighted_mean_of_the_values():
    torch.manual_seed(0)
    layer = Attention(6, heads=2, context_width=5).double()
    x, context = torch.randn(1, 4, 6, dtype=torch.float64), torch.randn(1, 3, 5, dtype=torch.float64)
    q, k, v = layer.to_q(x)[0], layer.to_k(context)[0], layer.to_v(context)[0]
    out = torch.zeros(4, 6, dtype=torch.float64)
    for pixel in range(4):
        for head in (slice(0, 3), slice(3, 6)):
            weights = torch.stack([(q[pixel, head] @ k[word, head] / 3 ** 0.5).exp() for word in range(3)])
            out[pixel, head] = sum(w * v[word, head] for word, w in enumerate(weights / weights.sum()))
    assert_close(layer(x, context), layer.to_out(out)[None])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_training_and_sampling_attend_alike(dtype, tolerance):
    q, k, v = torch.randn(3, 2, 2, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    with torch.no_grad():
        want = attend(q, k, v)
    assert_close(attend(q, k, v), want, rtol=tolerance, atol=tolerance)


def test_a_gated_layer_keeps_no_more_for_backward_than_its_three_factors():
    """On Stable Diffusion these are a third of all that a training step keeps."""
    layer, x, kept = GEGLU(16, 64).requires_grad_(False), torch.randn(2, 50, 16, requires_grad=True), {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    value = 4 * 2 * 50 * 64                                     # bytes; beside it the gate, and gelu(gate)
    assert sum(kept.values()) <= 3 * value + 4 * layer.proj.weight.numel()


@pytest.mark.parametrize("control", [None, lambda maps: maps])
def test_a_mask_hides_keys_and_causal_is_one(control):
    q, k, v = torch.randn(3, 2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    sees = torch.tensor([True, True, False, True])
    assert_close(attend(q, k, v, control, mask=sees.expand(4, 4)), attend(q, k[:, :, sees], v[:, :, sees]))
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    assert_close(attend(q, k, v, control, causal=True), attend(q, k, v, control, mask=lower))


@torch.no_grad()
def test_text_kv_gives_what_the_context_gives():
    unet, (x, t, context) = tiny(), batch()
    kv = unet.text_kv(context)
    assert len(kv) == 2
    assert_close(unet(x, t, kv), unet(x, t, context), rtol=0, atol=0)
    rows = [1, 0, 1]
    assert_close(unet(x[rows], t[rows], kv[rows]), unet(x[rows], t[rows], context[rows]), rtol=0, atol=0)
    assert_close(unet(x[:1], 5, kv[:1]), unet(x[:1], 5, context[:1]), rtol=0, atol=0)


@torch.no_grad()
def test_text_kv_goes_through_whatever_is_attached_to_the_layers():
    unet, (x, t, context) = tiny(), batch()
    plain = unet(x, t, context)
    for layer in unet.cross_attentions().values():
        layer.to_v.register_forward_hook(lambda layer, inputs, out: out + 1)
    assert (unet(x, t, context) - plain).abs().max() > 1e-3
    assert_close(unet(x, t, unet.text_kv(context)), unet(x, t, context), rtol=0, atol=0)


def test_text_kv_of_another_unet_is_refused():
    x, t, context = batch()
    with pytest.raises(ValueError, match="another UNet"):
        tiny()(x, t, tiny().text_kv(context))


@torch.no_grad()
def test_control_sees_maps_whose_rows_sum_to_1_and_leaving_them_alone_changes_nothing():
    unet, (x, t, context) = tiny(), batch()
    plain, seen = unet(x, t, context), {}
    for name, layer in unet.attentions().items():
        layer.control = lambda maps, name=name: seen.setdefault(name, maps)
    assert_close(unet(x, t, context), plain, rtol=0, atol=1e-5)
    assert list(seen) == list(unet.attentions())                 # every layer, in the order they run in
    for name, maps in seen.items():
        keys = 5 if name in unet.cross_attentions() else maps.shape[2]
        pixels = 16 if name.startswith("mid_block") else 64
        assert maps.shape == (2, 2, pixels, keys)
        assert_close(maps.sum(dim=-1), torch.ones(2, 2, pixels))


@torch.no_grad()
def test_control_decides_which_words_count():
    unet, (x, t, context) = tiny(), batch()
    for layer in unet.cross_attentions().values():
        layer.control = lambda maps: torch.zeros_like(maps).index_fill(-1, torch.tensor([0]), 1.0)
    other = torch.cat([context[:, :1], torch.randn(2, 4, 12)], dim=1)
    assert_close(unet(x, t, other), unet(x, t, context))         # all weight on the first word: the rest is not read


def test_gradients_flow_through_control():
    unet, (x, t, context) = tiny(), batch()
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    strength = torch.ones(5, requires_grad=True)
    layer.control = lambda maps: maps * strength
    unet(x, t, context).square().mean().backward()
    assert (strength.grad.abs() > 0).all() and layer.to_k.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_recorded_maps_are_means_over_heads_and_calls_and_recording_changes_nothing():
    unet, (x, t, context) = tiny(), batch()
    plain, heard = unet(x, t, context), []
    with recorded(unet) as maps:
        for call in range(3):
            out = unet(x + call, t, context)
            heard.append({name: m.clone() for name, m in maps.items()})
            assert call or (out - plain).abs().max() < 1e-5
    assert list(maps) == list(unet.cross_attentions())
    assert all(m.shape == (2, 16 if name.startswith("mid_block") else 64, 5) for name, m in maps.items())
    for name, m in maps.items():
        assert_close(m.sum(-1), torch.ones(m.shape[:2]))
    alone = []
    for call in range(3):
        with recorded(unet) as one:
            unet(x + call, t, context)
        alone.append(one)
    for name in maps:
        for k in (1, 2, 3):
            assert_close(heard[k - 1][name], sum(one[name] for one in alone[:k]) / k)
    q, k = torch.randn(2, 1, 3, 64, 4)
    layer = unet.cross_attentions()[name]
    with recorded(unet) as maps:
        attend(q, k, k, layer.control)
    assert_close(maps[name], torch.stack([(q[:, h] @ k[:, h].mT / 2).softmax(-1) for h in range(3)]).mean(0))
    assert layer.control is None and torch.equal(unet(x, t, context), plain)


def test_recording_leaves_a_control_at_work_and_takes_itself_off_whatever_happens():
    unet, (x, t, context) = tiny(), batch()
    name, layer = next(iter(unet.cross_attentions().items()))
    layer.control = control = lambda maps: torch.zeros_like(maps).index_fill(-1, torch.tensor([2]), 1.0)
    want = unet(x, t, context)
    with pytest.raises(KeyboardInterrupt), recorded(unet) as maps:
        assert_close(unet(x, t, context), want, rtol=0, atol=1e-5)
        raise KeyboardInterrupt
    assert torch.equal(maps[name], F.one_hot(torch.tensor(2), 5).expand_as(maps[name]).float())
    assert layer.control is control and all(other.control in (None, control) for other in unet.cross_attentions().values())


def test_gradients_flow_into_recorded_maps():
    unet, (x, t, context) = tiny(), batch()
    context.requires_grad_()
    with recorded(unet) as maps:
        unet(x, t, context)
    sum(m[..., 1].sum() for m in maps.values()).backward()
    assert (context.grad.abs().sum(-1) > 0).all()


def test_every_parameter_takes_part():
    unet, (x, t, context) = tiny(), batch()
    unet(x, t, context).square().mean().backward()
    assert not [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_zero_residuals_predicts_zero_and_still_learns():
    unet, (x, t, context) = zero_residuals(tiny()), batch()
    optimizer = torch.optim.Adam(unet.parameters(), 1e-2)
    losses = []
    for _ in range(4):
        loss = (unet(x, t, context) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(x.square().mean().item())
    assert losses[-1] < losses[0]


def tiny_sdxl():
    return tiny(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=7 + 6 * 4)


def tiny_kandinsky():
    return tiny(down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], attention_head_dim=4, out_channels=8,
                up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                resnet_time_scale_shift="scale_shift", addition_embed_type="image", encoder_hid_dim=7, encoder_hid_dim_type="image_proj")


@pytest.mark.parametrize("make, names", [(tiny_sdxl, ["text_embeds", "time_ids"]), (tiny_kandinsky, ["image_embeds"])])
def test_every_added_condition_counts_and_all_parameters_learn(make, names):
    unet, (x, t, context) = make(), batch()
    context = context if "time_ids" in names else None
    added = {name: torch.randn(2, 6 if name == "time_ids" else 7).requires_grad_() for name in names}
    unet(x, t, context, added).square().mean().backward()
    assert not [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all((condition.grad.abs().sum(dim=1) > 0).all() for condition in added.values())


@pytest.mark.parametrize("make, names", [(tiny_sdxl, ["text_embeds", "time_ids"]), (tiny_kandinsky, ["image_embeds"])])
def test_added_conditions_that_do_not_fit_are_refused(make, names):
    unet, (x, t, context) = make(), batch()
    context = context if "time_ids" in names else None
    added = {name: torch.randn(2, 6 if name == "time_ids" else 7) for name in names}
    with pytest.raises(ValueError, match=f"needs added conditions {', '.join(names)}; it got none"):
        unet(x, t, context)
    with pytest.raises(ValueError, match="numbers per picture, this UNet takes"):
        unet(x, t, context, {**added, names[0]: torch.randn(2, 8)})
    with pytest.raises(ValueError, match="added is for a batch of 1|context is for a batch of 1"):
        unet(x, t, context, {name: condition[:1] for name, condition in added.items()})


def test_a_context_is_refused_where_the_unet_makes_it_of_the_image():
    (x, t, context) = batch()
    with pytest.raises(ValueError, match="pass None"):
        tiny_kandinsky()(x, t, context, {"image_embeds": torch.randn(2, 7)})


@pytest.mark.parametrize("side", [8, 9])
def test_residual_sampling_comes_back_in_the_size_it_was_given(side):
    x = torch.randn(1, 4, side, side - 1)
    assert tiny_kandinsky()(x, 3, None, {"image_embeds": torch.randn(1, 7)}).shape == (1, 8, side, side - 1)


# Input that does not fit

def test_a_unet_without_text_takes_no_context():
    unet, (x, t, context) = tiny(cross_attention_dim=None), batch()
    assert unet(x, t).shape == x.shape
    assert not unet.cross_attentions()
    with pytest.raises(ValueError, match="no context"):
        unet(x, t, context)


def test_conditions_that_do_not_fit_are_refused():
    unet, (x, t, context) = tiny(), batch()
    with pytest.raises(ValueError, match="it got None"):
        unet(x, t)
    for wrong in (context[:1], unet.text_kv(context[:1])):       # a batch of 1 is not spread over the others silently
        with pytest.raises(ValueError, match="a batch of 1, x is a batch of 2"):
            unet(x, t, wrong)
    for use in (lambda c: unet(x, t, c), unet.text_kv):
        with pytest.raises(ValueError, match=r"expected \(B, L, 12\)"):
            use(torch.zeros(2, 5, 13))
    with pytest.raises(ValueError, match="added conditions of no kind; it got time_ids"):
        unet(x, t, context, added={"time_ids": 0})


@pytest.mark.parametrize("config", [{"mid_block_type": "UNetMidBlock2D"}, {"attention_head_dim": [2]},
                                    {"addition_embed_type": "text"}, {"encoder_hid_dim": None, "addition_embed_type": "image"},
                                    {"addition_time_embed_dim": None, "addition_embed_type": "text_time"}, {"_class_name": "AutoencoderKL"},
                                    {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, {"act_fn": "gelu"}])
def test_a_config_that_is_not_supported_is_refused_by_name(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        UNet.from_config({**TINY, **config})


def test_keys_of_a_config_that_change_nothing_are_ignored():
    unet = UNet.from_config({**TINY, "_about": {}, "sample_size": 64, "upcast_attention": True, "act_fn": "silu"})
    assert unet.config == tiny().config


def test_what_an_old_config_leaves_out_means_the_peers_default():
    with torch.device("meta"):
        assert UNet.from_config({}).config["cross_attention_dim"] == 1280


@torch.no_grad()
def test_what_is_saved_comes_back(tmp_path):
    unet = tiny()
    save_folder(unet, unet.config, tmp_path, dtype=torch.float32)
    again = UNet.from_pretrained(tmp_path)
    assert again.config == unet.config
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert_close(again(*batch()), unet(*batch()), rtol=0, atol=0)


@pytest.mark.parametrize("damage, message", [
    (lambda w: w.pop("mid_block.resnets.1.conv2.bias"), "missing mid_block.resnets.1.conv2.bias"),
    (lambda w: w.update(extra=torch.zeros(2)), "unexpected extra"),
    (lambda w: w.update({"conv_in.weight": torch.zeros(8, 9, 3, 3)}), "conv_in.weight has shape"),
])
def test_weights_that_do_not_fit_are_named(tmp_path, damage, message):
    unet = tiny()
    save_folder(unet, unet.config, tmp_path)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        UNet.from_pretrained(tmp_path)
