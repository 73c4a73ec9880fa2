"""minidiff.lora: adapters on layers, and in files."""
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from minidiff import lora
from minidiff.checkpoints import CheckpointError

torch.set_num_threads(1)          # tiny models: waking a second thread costs more than it brings


class Net(nn.Module):
    """Layers with the names and kinds that a UNet has, and nothing else."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        attn1 = nn.ModuleDict({"to_q": nn.Linear(8, 8, bias=False), "to_out": nn.ModuleList([nn.Linear(8, 8)])})
        attn2 = nn.ModuleDict({"to_k": nn.Linear(8, 8), "to_out": nn.ModuleList([nn.Linear(8, 8)])})
        block = nn.ModuleDict({"attn1": attn1, "attn2": attn2, "ff": nn.Linear(8, 8)})
        self.down_blocks = nn.ModuleList([nn.ModuleDict({"blocks": nn.ModuleList([block])})])
        resnet = nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3, padding=1), "conv2": nn.Conv2d(8, 8, 3, padding=1)})
        half = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3, stride=2, padding=1)})
        self.mid_block = nn.ModuleDict({"resnets": nn.ModuleList([nn.ModuleDict({"conv2": nn.Conv2d(8, 8, 1)}), resnet])})
        self.up_blocks = nn.ModuleList([nn.ModuleDict({"upsamplers": nn.ModuleList([half])})])
        self.to(dtype).requires_grad_(False)             # torch multiplies in another order where a gradient is wanted

    def forward(self, x):                                           # (B, 3, 8, 8) -> (B, 16, 8)
        first, second = self.mid_block["resnets"]
        x = second["conv2"](second["conv1"](x)) + first["conv2"](second["conv1"](x))
        x = self.up_blocks[0]["upsamplers"][0]["conv"](x).flatten(2).mT
        block = self.down_blocks[0]["blocks"][0]
        x = block["attn1"]["to_out"][0](block["attn1"]["to_q"](x))
        return block["ff"](block["attn2"]["to_out"][0](block["attn2"]["to_k"](x)))


def picture(batch=2, seed=1):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained(net, seed=0, **options):
    """An adapter that has learned something: B is not zero."""
    adapter, g = lora.attach(net, **options), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return adapter


def test_a_new_adapter_changes_nothing_and_a_trained_one_does():
    net, x = Net(), picture()
    base = net(x)
    new = lora.attach(net, where="full")
    assert torch.equal(net(x), base)
    new.detach()
    trained(net, where="full")
    assert (net(x) - base).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_0_is_bit_for_bit_the_model_without_it(dtype):
    net, x = Net(dtype), picture().to(dtype)
    base = net(x)
    adapter = trained(net, where="full")
    for scale in (0.0, 0, torch.zeros(2)):
        adapter.scale = scale
        assert torch.equal(net(x), base)
    adapter.detach()
    assert torch.equal(net(x), base)


def test_at_scale_0_the_adapter_is_not_even_computed():
    net, x = Net(), picture()
    base, adapter = net(x), lora.attach(net, where="full")
    for p in adapter.parameters():
        p.data.fill_(torch.nan)
    with adapter.at(0.0):
        assert torch.equal(net(x), base)


def test_the_model_keeps_its_state_dict_and_its_parameters():
    net = Net()
    keys, parameters = list(net.state_dict()), list(net.parameters())
    lora.attach(net)
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


def test_only_the_adapter_gets_gradients():
    net = Net()
    adapter = trained(net, where="full")
    net(picture()).square().mean().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())


def test_it_is_w_plus_s_alpha_over_r_b_a():
    layer = nn.Linear(6, 5)
    adapter = trained(layer, rank=2, alpha=3.0, where=lambda name: True)
    adapter.scale = 0.7
    down, up = adapter.adapters[0].down.weight, adapter.adapters[0].up.weight
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    assert_close(layer(x), x @ (layer.weight + 0.7 * 3 / 2 * up @ down).T + layer.bias)


@pytest.mark.parametrize("scale", [1.0, -0.6])
def test_merging_gives_what_the_attached_adapter_gives(scale):
    net, x = Net(), picture()
    adapter = trained(net, where="full")
    adapter.scale = scale
    with_adapter = net(x)
    adapter.merge()
    assert_close(net(x), with_adapter)
    assert not net.down_blocks[0]["blocks"][0]["attn1"]["to_q"]._forward_hooks
    with pytest.raises(ValueError, match="not on its model"):
        adapter.merge()


def test_for_a_while_merged_adapters_draw_alike_and_leave_no_trace():
    net, x = Net(), picture()
    a, b = trained(net, 1, rank=2), trained(net, 2, rank=3, where="full")
    a.scale, b.scale = 1.5, -0.5
    attached, before = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), lora.merged([a, b]):
        assert a.scale == b.scale == 0
        assert_close(net(x), attached)
        raise RuntimeError("stop")
    assert (a.scale, b.scale) == (1.5, -0.5) and torch.equal(net(x), attached)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    a.scale = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="per picture"), lora.merged([b, a]):
        pass
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and b.scale == -0.5


def test_two_adapters_on_one_layer_add_up():
    net, other, x = Net(), Net(), picture()
    a, b = trained(net, 1, rank=2), trained(net, 2, rank=3, where="full")
    a.scale, b.scale = 1.5, -0.5
    both = net(x)
    for seed, scale, options in ((1, 1.5, dict(rank=2)), (2, -0.5, dict(rank=3, where="full"))):
        adapter = trained(other, seed, **options)
        adapter.scale = scale
        adapter.merge()
    assert_close(both, other(x))
    b.detach()
    a.scale = 0.0
    assert torch.equal(net(x), Net()(x))


def test_one_scale_per_picture_equals_separate_runs():
    net, x = Net(), picture(4)
    adapter = trained(net, where="full")
    scales = [-1.0, 0.0, 0.5, 2.0]
    with adapter.at(torch.tensor(scales)):
        together = net(x)
    for i, scale in enumerate(scales):
        with adapter.at(scale):
            assert_close(together[i:i + 1], net(x[i:i + 1]))


def test_both_halves_of_a_guidance_batch_get_the_same_scales():
    net, x = Net(), picture(2)
    adapter = trained(net, where="full")
    with adapter.at(torch.tensor([0.5, 2.0])):
        assert_close(net(torch.cat([x, x])), torch.cat([net(x), net(x)]))
        with pytest.raises(ValueError, match="2 values, for a batch of 3"):
            net(picture(3))
    with pytest.raises(ValueError, match="per picture"), adapter.at(torch.tensor([0.5, 2.0])):
        adapter.merge()


def test_the_context_manager_puts_back_the_earlier_scale():
    adapter = lora.attach(Net())
    adapter.scale = 0.3
    with adapter.at(2.0):
        with adapter.at(-1.0):
            assert adapter.scale == -1.0
        assert adapter.scale == 2.0
    with pytest.raises(RuntimeError), adapter.at(5.0):
        raise RuntimeError
    assert adapter.scale == 0.3


def test_under_autocast_the_adapter_learns_in_float32():
    net = Net()
    adapter = trained(net, where="full")
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(picture()).float().square().mean()
    loss.backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in adapter.parameters())


def test_a_half_precision_model_keeps_float32_adapters_and_half_precision_outputs():
    net = Net(torch.bfloat16)
    adapter = trained(net, where="full")
    assert net(picture().bfloat16()).dtype == torch.bfloat16
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    with_adapter = net(picture().bfloat16())
    adapter.merge()
    assert_close(net(picture().bfloat16()), with_adapter, atol=0.1, rtol=0.1)


def test_a_starts_uniform_with_variance_1_over_fan_in_and_b_at_zero():
    layer = nn.Linear(1280, 1280)
    adapter = lora.attach(layer, where=lambda name: True, generator=torch.Generator().manual_seed(0)).adapters[0]
    assert_close(adapter.down.weight.max().item(), (3 / 1280) ** 0.5, atol=1e-4, rtol=0)            # 0.0484
    assert_close(adapter.down.weight.min().item(), -(3 / 1280) ** 0.5, atol=1e-4, rtol=0)
    assert (adapter.up.weight == 0).all()
    again = lora.attach(layer, where=lambda name: True, generator=torch.Generator().manual_seed(0)).adapters[0]
    assert torch.equal(again.down.weight, adapter.down.weight)


def test_rank_is_no_larger_than_the_layer():
    adapter = lora.attach(Net(), rank=64, where="full")
    assert {a.rank for a in adapter.adapters} == {3, 8}
    assert all(a.down.weight.shape[0] == a.rank for a in adapter.adapters)


def test_where_picks_layers_by_name():
    names = {where: lora.attach(Net(), where=where).names for where in lora.WHERE}
    attention = "down_blocks.0.blocks.0."
    assert len(names["full"]) == 8 and attention + "ff" not in names["full"]
    assert set(names["full"]) - set(names["noxattn"]) == set(names["xattn"])
    assert names["innoxattn"] == names["noxattn"]
    assert names["selfattn"] == [attention + "attn1.to_q", attention + "attn1.to_out.0"]
    assert names["xattn-strict"] == [attention + "attn2.to_k"]
    assert names["noxattn-hspace-last"] == ["mid_block.resnets.1.conv2"]
    assert all(name.startswith("mid_block.") for name in names["noxattn-hspace"])
    assert lora.attach(Net(), where=lambda name: name.endswith("ff")).names == [attention + "ff"]


def test_a_wrong_where_says_what_there_is():
    with pytest.raises(ValueError, match="noxattn, innoxattn"):
        lora.attach(Net(), where="crossattn")
    with pytest.raises(ValueError, match="no layer of Linear"):
        lora.attach(nn.Linear(2, 2))


# Files


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_saved_adapter_comes_back_the_same(tmp_path, layout):
    net, x = Net(), picture()
    adapter = trained(net, rank=4, alpha=1.0, where="full")
    with_adapter = net(x)
    adapter.save(tmp_path / "a.safetensors", layout)
    again = lora.load(fresh := Net(), tmp_path / "a.safetensors")
    assert_close(fresh(x), with_adapter)
    assert again.names == adapter.names and not any(p.requires_grad for p in again.parameters())
    again.save(tmp_path / "b.safetensors", layout)
    assert_close(load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors"))


def test_a_kohya_file_has_one_alpha_even_if_the_adapter_has_several(tmp_path):
    net, x = Net(), picture()
    adapter = trained(net, where="full")
    adapter.adapters[2].alpha = 8.0
    with_adapter = net(x)
    adapter.save(tmp_path / "a.safetensors")
    assert {t.item() for key, t in load_file(tmp_path / "a.safetensors").items() if key.endswith(".alpha")} == {1.0}
    lora.load(fresh := Net(), tmp_path / "a.safetensors")
    assert_close(fresh(x), with_adapter)


def test_an_official_pt_slider_loads(tmp_path):
    net, x = Net(), picture()
    adapter = trained(net)
    with_adapter = net(x)
    adapter.save(tmp_path / "a.safetensors")
    torch.save(load_file(tmp_path / "a.safetensors"), tmp_path / "a.pt")
    lora.load(fresh := Net(), tmp_path / "a.pt")
    assert_close(fresh(x), with_adapter)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    for content in ({"a": Net()}, {"a": 1}, torch.zeros(1)):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="not a plain file of tensors"):
            lora.load(Net(), tmp_path / "a.pt")


def bad_file(tmp_path, change):
    trained(Net()).save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


KEY, PEFT = "lora_unet_mid_block_resnets_1_conv2", "unet.mid_block.resnets.1.conv2"


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop(f"{KEY}.lora_up.weight"), "down or up is missing"),
    (lambda t: t.pop(f"{KEY}.lora_down.weight"), "down or up is missing"),
    (lambda t: t.update({"lora_unet_up_blocks_9_x.alpha": torch.tensor(1.0)}), "up_blocks_9_x: no such layer"),
    (lambda t: t.update({f"{KEY}.lora_up.weight": torch.zeros(9, 4, 1, 1)}),
     r"shape \(9, 4, 1, 1\), expected \(8, 4, 1, 1\)"),
    (lambda t: t.update({f"{KEY}.lora_up.weight": torch.full((8, 4, 1, 1), torch.nan)}), "not finite"),
    (lambda t: t.update({f"{KEY}.lora_down.weight": torch.full((4, 8, 3, 3), torch.inf)}), "not finite"),
    (lambda t: t.update({f"{KEY}.alpha": torch.tensor(torch.nan)}), "alpha is nan, expected one number"),
    (lambda t: t.update({f"{KEY}.alpha": torch.ones(2)}), r"alpha is \[1.0, 1.0\], expected one number"),
    (lambda t: t.update({f"{KEY}.lora_down.weight": torch.zeros(4)}), r"shape \(4,\), expected \(4, 8, 3, 3\)"),
    (lambda t: t.update({f"{KEY}.lora_down.weight": torch.zeros(0, 8, 3, 3)}), r"shape \(0, 8, 3, 3\), expected"),
    (lambda t: t.update({f"{KEY}.lora_down.weight": torch.zeros(4, 8, 3, 3, dtype=torch.int64)}), "no floating-point"),
    (lambda t: t.update({f"{PEFT}.lora_A.weight": torch.zeros(4, 8, 3, 3),
                         f"{PEFT}.lora_B.weight": torch.zeros(8, 4, 1, 1)}), "a second adapter for this layer"),
    (lambda t: t.update({k.replace("mid", "middle"): t.pop(k) for k in list(t)}), "3 of 6 layers; is it for another model"),
    (lambda t: t.clear(), "nothing for unet, only no tensors"),
    (lambda t: t.update({f"{KEY}.dora_scale": torch.zeros(8)}), "not understood.*\n.*dora_scale"),
    (lambda t: (t.clear(), t.update(weight=torch.zeros(1))), "not understood"),
    (lambda t: [t.update({k.replace("unet", "te"): t.pop(k)}) for k in list(t)], "nothing for unet, only text_encoder"),
])
def test_a_file_that_does_not_fit_says_which_keys(tmp_path, change, message):
    net, path = Net(), bad_file(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        lora.load(net, path)
    assert not any(layer._forward_hooks for layer in net.modules())         # and nothing is left half attached


def test_a_missing_file_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        lora.load(Net(), tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        lora.load(Net(), tmp_path / "none.pt")


def test_the_second_text_encoder_has_its_own_keys(tmp_path):
    net = Net()
    trained(net).save(tmp_path / "a.safetensors", prefix="text_encoder_2")
    assert all(key.startswith("lora_te2_") for key in load_file(tmp_path / "a.safetensors"))
    lora.load(Net(), tmp_path / "a.safetensors", prefix="text_encoder_2")
    with pytest.raises(CheckpointError, match="nothing for unet, only text_encoder_2"):
        lora.load(Net(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="expected one of unet, text_encoder"):
        lora.load(Net(), tmp_path / "a.safetensors", prefix="vae")


def test_one_file_may_hold_several_components(tmp_path):
    unet, first, second = (trained(Net(), seed=seed) for seed in range(3))
    for layout, starts in (("kohya", ["lora_te1", "lora_te2", "lora_unet"]),
                           ("diffusers", ["text_encoder", "text_encoder_2", "unet"])):
        lora.save(tmp_path / "a.safetensors", {"unet": unet, "text_encoder_1": first, "text_encoder_2": second}, layout)
        keys = list(load_file(tmp_path / "a.safetensors"))
        assert len(keys) == 3 * len(unet.names) * (3 if layout == "kohya" else 2)
        assert all(any(key.startswith((f"{start}.", f"{start}_")) for key in keys) for start in starts)
        for prefix, adapter in (("unet", unet), ("text_encoder_1", first), ("text_encoder", first),
                                ("text_encoder_2", second)):
            with pytest.warns(UserWarning, match="is also for"):
                lora.load(fresh := Net(), tmp_path / "a.safetensors", prefix)
            assert_close(fresh(picture()), adapter.module(picture()))


def test_the_header_may_be_damaged_or_of_a_kind_that_cannot_be_read(tmp_path):
    trained(Net()).save(tmp_path / "a.safetensors", "diffusers")
    tensors = load_file(tmp_path / "a.safetensors")
    for header, message in [("{", "not valid JSON"), ("3", "expected a JSON object"),
                            ('{"unet.alpha_pattern": 3}', "expected names of layers"),
                            ('{"unet.alpha_pattern": {"(a+)+": 3}}', "expected names of layers"),
                            ('{"unet.lora_alpha": "8"}', "alpha is 8, expected one number"),
                            ('{"unet.use_dora": true}', "DoRA"), ('{"unet.use_rslora": true}', "rank-stabilised")]:
        save_file(tensors, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": header})
        with pytest.raises(CheckpointError, match=message):
            lora.load(Net(), tmp_path / "a.safetensors")


def test_what_is_no_safetensors_file_is_one_clear_sentence(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("pickle.safetensors", "empty.safetensors", "empty.pt"):
        with pytest.raises(CheckpointError, match=name) as error:
            lora.load(Net(), tmp_path / name)
        assert "\n" not in str(error.value)


def test_an_adapter_of_no_rank_or_alpha_is_refused():
    for options in (dict(rank=0), dict(alpha=0.0), dict(alpha=float("nan"))):
        with pytest.raises(ValueError, match="a rank of at least 1 and an alpha above 0"):
            lora.attach(Net(), **options)


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="kohya or diffusers"):
        lora.attach(Net()).save(tmp_path / "a.safetensors", layout="a1111")
    with pytest.raises(ValueError, match="no LoRA to save"):
        lora.save(tmp_path / "a.safetensors", {})
