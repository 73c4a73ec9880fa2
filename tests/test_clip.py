"""Properties of minidiff.clip, minidiff.resnet and minidiff.open_clip. Golden outputs: transformers' and open_clip's own
classes, tolerances measured there (case.json)."""
import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minidiff import open_clip
from minidiff.checkpoints import CheckpointError, load_strict, save_folder
from minidiff.clip import CLIP, CLIPImage, CLIPText
from minidiff.resnet import Bottleneck, CLIPResNet

GOLDEN = Path(__file__).parent / "golden"
TEXT = dict(vocab_size=50, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3,
            max_position_embeddings=10, projection_dim=12)
VISION = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=16,
              patch_size=8, projection_dim=12)
RESNET = dict(model_type="clip_resnet_model", layers=[1, 2, 1, 1], width=4, head_dim=32, image_size=64, projection_dim=12)
PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}


def golden(case, part):
    folder = GOLDEN / case
    config = json.loads((folder / "config.json").read_text())[part]
    return (config, load_file(folder / f"weights.{part}.safetensors"), load_file(folder / "inputs.safetensors"),
            load_file(folder / "outputs.safetensors"), json.loads((folder / "case.json").read_text())["atol"])


def tiny(config=PROJECTED, seed=0):
    return CLIPText({**TEXT, **config}).init_weights(torch.Generator().manual_seed(seed)).eval()


def tiny_clip(seed=0, vision=VISION):
    config = dict(projection_dim=12, text_config=TEXT, vision_config=vision)
    return CLIP.from_config(config).init_weights(torch.Generator().manual_seed(seed)).eval()


@torch.no_grad()
def test_clip_gives_the_peers_outputs():
    config, weights, inputs, want, atol = golden("clip", "clip")
    clip = load_strict(CLIP(config), weights, "golden")
    text_states, text = clip.text(inputs["input_ids"])
    image_states, image = clip.image(inputs["pixel_values"])
    text, image = F.normalize(text, dim=-1), F.normalize(image, dim=-1)
    got = {"text_embeds": text, "image_embeds": image, "logits_per_image": clip.logit_scale.exp() * image @ text.T,
           "text_embeds_pad0": F.normalize(clip.encode_text(inputs["input_ids_pad0"]), dim=-1),
           "text.last_hidden_state": text_states, "vision.last_hidden_state": image_states}
    got |= {f"mid.text.{i}": s for i, s in enumerate(clip.text_model(inputs["input_ids"]))}
    got |= {f"mid.vision.{i}": s for i, s in enumerate(clip.vision_model(inputs["pixel_values"]))}
    got |= {"text.pooled": unprojected(CLIPText, config["text_config"], weights, "text_")(inputs["input_ids"])[1],
            "vision.pooled": unprojected(CLIPImage, config["vision_config"], weights, "vision_")(inputs["pixel_values"])[1]}
    assert got.keys() == want.keys()
    for name in want:
        assert_close(got[name], want[name], atol=atol.get(name, 5e-5), rtol=0, msg=lambda m: f"{name}: {m}")


def unprojected(make, config, weights, prefix):
    return load_strict(make(config), {k: w for k, w in weights.items() if k.startswith(prefix + "model")}, "golden")


@torch.no_grad()
def test_the_projected_text_encoder_gives_the_peers_outputs():
    config, weights, inputs, want, atol = golden("clip-text-proj", "text")
    text = load_strict(CLIPText(config), weights, "golden")
    ids = inputs["input_ids"]
    last, pooled = text(ids)
    got = {"text_embeds": pooled, "last_hidden_state": last, "penultimate": text(ids, skip=1)[0],
           "penultimate_ln": text(ids, skip=1, norm=True)[0]}
    got |= {f"mid.{i}": s for i, s in enumerate(text.text_model(ids))}
    assert got.keys() == want.keys()
    for name in want:
        assert_close(got[name], want[name], atol=atol.get(name, 5e-5), rtol=0, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("name, weights_name, wrap", [
    ("open_clip_config.json", "open_clip_model.safetensors", lambda config: {"model_cfg": config, "preprocess_cfg": {}}),
    ("config.json", "open_clip_model.safetensors", lambda config: {"_about": {}, **config}),
    ("config.json", "model.safetensors", lambda config: config)])
@torch.no_grad()
def test_a_folder_in_open_clips_layout_gives_its_outputs(name, weights_name, wrap, tmp_path):
    config, weights, inputs, want, atol = golden("openclip", "clip")
    (tmp_path / name).write_text(json.dumps(wrap(config)))
    save_file(weights, tmp_path / weights_name)
    clip = CLIP.from_pretrained(tmp_path)
    ids = inputs["input_ids"]
    got = {"image_features": clip.encode_image(inputs["pixel_values"]), "text_features": clip.encode_text(ids),
           "last_hidden_state": clip.text(ids)[0], "penultimate": clip.text(ids, skip=1)[0],
           "penultimate_ln": clip.text(ids, skip=1, norm=True)[0]}
    assert got.keys() == want.keys()
    for output in want:
        assert_close(got[output], want[output], atol=atol[output], rtol=0, msg=lambda m: f"{output}: {m}")
    in_transformers_layout = load_file(GOLDEN / "openclip" / "weights.hf.safetensors")
    assert_close(dict(clip.state_dict()), in_transformers_layout, rtol=0, atol=0)


def test_every_weight_is_where_the_file_says_even_those_no_output_can_see():
    config, weights, *_ = golden("clip", "clip")
    clip = load_strict(CLIP(config), weights, "golden")
    for i, layer in enumerate(clip.text.text_model.encoder.layers):
        assert_close(layer.self_attn.k_proj.bias, weights[f"text_model.encoder.layers.{i}.self_attn.k_proj.bias"])


def test_the_pooled_output_is_read_at_the_first_end_token_and_not_at_a_larger_id():
    text = tiny({**PROJECTED, "eos_token_id": 40})
    plain = torch.tensor([[48, 5, 6, 40, 40, 40]])
    last, pooled = text(plain)
    assert_close(pooled, text.text_projection(last[:, 3]))
    after = torch.tensor([[48, 5, 6, 40, 49, 40]])                     # 49: a token that was added later
    assert_close(text(after)[1], pooled)
    before = torch.tensor([[48, 5, 49, 40, 40, 40]])
    assert_close(text(before)[1], text.text_projection(text(before)[0][:, 3]))


def test_a_legacy_config_means_the_last_token_of_the_original_vocabulary():
    with torch.device("meta"):
        assert CLIPText({"eos_token_id": 2}).end == 49407
        assert CLIPText({"eos_token_id": 2, "vocab_size": 49410}).end == 49407   # two tokens were added and saved
        assert CLIPText({"eos_token_id": 49407}).end == 49407
        assert CLIPText({"eos_token_id": 2, "vocab_size": 99}).end == 98


def test_a_row_without_an_end_token_is_read_at_its_end():
    text = tiny({"eos_token_id": 40})
    ids = torch.tensor([[48, 5, 6], [48, 5, 40]])
    hidden, pooled = text(ids)
    assert_close(pooled, hidden[:, -1])


def test_a_later_token_does_not_change_earlier_states():
    text, ids = tiny(), torch.tensor([[48, 5, 6, 7, 8, 49]])
    changed = ids.clone()
    changed[:, 4] = 9
    before, after = text(ids)[0], text(changed)[0]
    assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax(dim=-1).min() > 1e-4


def test_skipping_all_layers_leaves_the_embeddings():
    text, ids = tiny(), torch.tensor([[48, 5, 6, 49]])
    assert_close(text(ids, skip=3)[0], text.text_model.embeddings(ids))
    assert_close(text(ids, skip=1)[1], text(ids)[1])                    # pooled is read after the last layer, always
    assert_close(text(ids, norm=False)[0], text.text_model(ids)[-1])


# Published CLIPs: text width, layers, heads; image width, layers, heads, MLP; width of the embedding, activation; sha256 of
# the sorted lines "key shape" (without position_ids) of the published files, in the layout of transformers and of open_clip.
PUBLISHED = {
    "ViT-L/14": ((768, 12, 12), (1024, 24, 16, 4096), 768, "quick_gelu", 427_616_513,
                 "f7cef6c6e5c2a70aa447f7046dd75c8df62f1db07c40a70c5081201c805eb6f0",
                 "eec63838b5acb14e460dbd036b7ba3b5cd6f24382a9456fe453f69b24f5d7738"),
    "ViT-H/14": ((1024, 24, 16), (1280, 32, 16, 5120), 1024, "gelu", 986_109_441,
                 "5aaec9e2f669f5d2af4e09f167cca7d8b8f5ea6826d80daaea625364248a9ebe",
                 "e8c4c7fb33610e2fabd57424351e6a9095993cd49a0c27633e995eed05ac83c6"),
    "ViT-bigG/14": ((1280, 32, 20), (1664, 48, 16, 8192), 1280, "gelu", 2_539_567_105,
                    "811db602f2e3c7bf980bf5e7127712b095c5a3364b71207bcdec6682af5b9d50",
                    "7b03a8107ad3d3ca0a44c8d6ac1d1a69ba823c6d9c8de4f14dcdb8e7e02c371c"),
}
# Their towers, as published alone: of which CLIP, with how many layers, projected?
TOWERS = {
    "Stable Diffusion 1, first of XL": (CLIPText, "ViT-L/14", 12, False, 123_060_480,
                                        "9602ce291879ca7b5e747d32bc3f705ef5e22b7121d74d0b214b280577b7e7c6"),
    "Stable Diffusion 2": (CLIPText, "ViT-H/14", 23, False, 340_387_840,
                           "67df38c098130d2c4601b0931bfbd2dd3dd41af84ffa61e01f3a2585a8c77db2"),
    "second of XL, Kandinsky 2.2 prior": (CLIPText, "ViT-bigG/14", 32, True, 694_659_840,
                                          "cda6f69951a9c2234288cd305fe709ca89513fb8d74fb06d78aa2ad2d4b81cc8"),
    "Kandinsky 2.1 prior": (CLIPText, "ViT-L/14", 12, True, 123_650_304,
                            "fc1f3715567752a864739912b95f9c70895e2af2f03a2417a66b05453ad2a603"),
    "Kandinsky 2.1 prior, image": (CLIPImage, "ViT-L/14", 24, True, 303_966_208,
                                   "9a81991213e1fe5110962c62a3ac429039806eff9969ec45a6d04a0afda9f79f"),
    "Kandinsky 2.2 prior, image": (CLIPImage, "ViT-bigG/14", 48, True, 1_844_907_264,
                                   "2c45c3576d7da2088b0f829ef469711a0fd45c6a94ac5a3a158da02471c6a254"),
}


def published(name):
    """The config of a published CLIP, in transformers' layout."""
    (width, layers, heads), (image_width, image_layers, image_heads, mlp), embedding, activation, *_ = PUBLISHED[name]
    shared = dict(hidden_act=activation, projection_dim=embedding)
    return dict(projection_dim=embedding,
                text_config=dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                                 intermediate_size=4 * width, **shared),
                vision_config=dict(hidden_size=image_width, num_hidden_layers=image_layers, num_attention_heads=image_heads,
                                   intermediate_size=mlp, patch_size=14, **shared))


def on_meta(make, config):
    with torch.device("meta"):
        return make(config)


def digest(tensors):
    return hashlib.sha256("\n".join(sorted(f"{key} {tuple(t.shape)}" for key, t in tensors.items())).encode()).hexdigest()


def in_open_clips_layout(tensors):
    """{key: tensor} of a CLIP, or of its text tower, under our names -> in open_clip's layout."""
    pairs = [("text_model.embeddings.token_embedding", "token_embedding"), ("text_model.final_layer_norm", "ln_final"),
             ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
             ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
             ("vision_model.embeddings.patch_embedding", "visual.conv1"), ("vision_model.post_layernorm", "visual.ln_post"),
             ("vision_model.embeddings.", "visual."), ("vision_model.pre_layrnorm", "visual.ln_pre"),
             ("text_model.encoder.layers", "transformer.resblocks"), ("visual_projection.weight", "visual.proj"),
             ("vision_model.encoder.layers", "visual.transformer.resblocks"), ("text_projection.weight", "text_projection"),
             ("layer_norm", "ln_"), ("self_attn", "attn"), ("fc1", "c_fc"), ("fc2", "c_proj")]
    out = {}
    for key, t in tensors.items():
        if ".q_proj." in key:
            t = torch.cat([tensors[key.replace("q_proj", f"{name}_proj")] for name in "qkv"])
            key = key.replace("q_proj.", "in_proj_")
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        if ".k_proj." not in key and ".v_proj." not in key:
            out[key] = t.T if key in ("text_projection", "visual.proj") else t
    return out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_clips_have_these_keys_and_shapes_in_both_layouts(name):
    *_, parameters, in_transformers, in_open_clip = PUBLISHED[name]
    clip = on_meta(CLIP, published(name))
    assert sum(p.numel() for p in clip.parameters()) == parameters
    assert digest(clip.state_dict()) == in_transformers
    packed = in_open_clips_layout(clip.state_dict())
    assert digest(packed) == in_open_clip
    assert digest(open_clip.our_names(packed)) == in_transformers


@pytest.mark.parametrize("name", TOWERS)
def test_published_towers_have_these_keys_and_shapes(name):
    make, of, layers, projected, parameters, want = TOWERS[name]
    kind = "text" if make is CLIPText else "vision"
    config = published(of)[f"{kind}_config"] | {"num_hidden_layers": layers}
    tower = on_meta(make, config | {"_class_name": f"CLIP{kind.title()}Model{'WithProjection' if projected else ''}"})
    assert sum(p.numel() for p in tower.parameters()) == parameters
    assert digest(tower.state_dict()) == want


@pytest.mark.parametrize("name, vision", [
    ("ViT-L/14", dict(layers=24, width=1024, head_width=64, mlp_ratio=4.0)),
    ("ViT-H/14", dict(layers=32, width=1280, head_width=80, mlp_ratio=4.0)),
    ("ViT-bigG/14", dict(layers=48, width=1664, head_width=104, mlp_ratio=4.9231))])
def test_open_clips_configs_mean_the_published_ones(name, vision):
    (width, layers, heads), *_, embedding, activation, _, _, _ = PUBLISHED[name]
    config = dict(embed_dim=embedding, quick_gelu=activation == "quick_gelu",
                  vision_cfg=dict(image_size=224, patch_size=14, **vision),
                  text_cfg=dict(width=width, heads=heads, layers=layers))
    want = published(name)
    want["text_config"] |= dict(vocab_size=49408, max_position_embeddings=77)
    want["vision_config"] |= dict(image_size=224)
    assert open_clip.clip_config(config) == want


def test_open_clips_layout_is_translated_without_copying():
    clip = tiny_clip()
    packed = {key: t.contiguous() for key, t in in_open_clips_layout(clip.state_dict()).items()}
    there = {t.untyped_storage().data_ptr() for t in packed.values()}
    got = open_clip.our_names({**packed, "attn_mask": torch.zeros(10, 10)})
    assert_close(got, dict(clip.state_dict()), rtol=0, atol=0)
    assert {t.untyped_storage().data_ptr() for t in got.values()} <= there


def test_of_two_copies_in_a_folder_the_one_of_transformers_is_read(tmp_path):
    clip = tiny_clip()
    save_folder(clip, clip.config, tmp_path, "model.safetensors", torch.float32)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not looked at")
    assert_close(dict(CLIP.from_pretrained(tmp_path).state_dict()), dict(clip.state_dict()))


@pytest.mark.parametrize("change, message", [
    (dict(vision_cfg=dict(layers=[3, 4, 6])), r"layers are \[3, 4, 6\], expected four"),
    (dict(vision_cfg=dict(timm_model_name="vit_base")), "timm_model_name is 'vit_base'"),
    (dict(vision_cfg=dict(pool_type="avg")), "pool_type is 'avg'"),
    (dict(text_cfg=dict(hf_model_name="roberta-base")), "hf_model_name"),
    (dict(text_cfg=dict(no_causal_mask=True)), "no_causal_mask"),
    (dict(custom_text=True), "custom_text"),
    (dict(vision_cfg=dict(head_width=0)), "division")])
def test_what_open_clip_can_do_beyond_clip_is_refused(change, message, tmp_path):
    clip = tiny_clip()
    save_file({k: t.contiguous() for k, t in in_open_clips_layout(clip.state_dict()).items()},
              tmp_path / "open_clip_model.safetensors")
    config = dict(embed_dim=12,
                  vision_cfg=dict(layers=2, width=24, head_width=8, mlp_ratio=2.0, image_size=16, patch_size=8),
                  text_cfg=dict(context_length=10, vocab_size=50, width=24, heads=3, layers=3, mlp_ratio=2.0))
    write = lambda config: (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    harmless = dict(patch_dropout=0.5, ls_init_value=None, attentional_pool=False, pool_type="tok", output_tokens=True)
    write(config | {"quick_gelu": True, "vision_cfg": config["vision_cfg"] | harmless})
    assert CLIP.from_pretrained(tmp_path).config == clip.config
    write({key: value | change.get(key, {}) if isinstance(value, dict) else value
           for key, value in {**change, **config}.items()})
    with pytest.raises(CheckpointError, match=message):
        CLIP.from_pretrained(tmp_path)


@pytest.mark.parametrize("make, config, prefix", [(CLIPText, TEXT | PROJECTED, "text_model."), (CLIPText, TEXT, "text_model."),
                                                  (CLIPImage, VISION, "vision_model.")])
def test_files_load_with_and_without_the_prefix(make, config, prefix, tmp_path):
    model = make(config).init_weights()
    save_folder(model, model.config, tmp_path, "model.safetensors", torch.float32)
    bare = {k.removeprefix(prefix): t for k, t in load_file(tmp_path / "model.safetensors").items()}
    bare["embeddings.position_ids"] = torch.arange(10)[None]            # in old files; not a weight
    for _ in range(2):
        again = make.from_pretrained(tmp_path)
        assert_close(dict(again.state_dict()), dict(model.state_dict()))
        assert again.config == model.config and not any(p.requires_grad for p in again.parameters())
        save_file(bare, tmp_path / "model.safetensors")


@pytest.mark.parametrize("make, model", [(CLIPText, tiny), (CLIPImage, lambda: CLIPImage(VISION)), (CLIP, tiny_clip)])
def test_a_variant_is_read_on_request(make, model, tmp_path):
    model = model()
    save_folder(model, model.config, tmp_path, "model.fp16.safetensors", torch.float16)
    assert next(make.from_pretrained(tmp_path, variant="fp16").parameters()).dtype == torch.float16
    with pytest.raises(CheckpointError, match="fp16"):
        make.from_pretrained(tmp_path)


def test_a_whole_clip_is_saved_and_loaded_under_the_published_names(tmp_path):
    clip = tiny_clip()
    save_folder(clip, clip.config, tmp_path, "model.safetensors", torch.float32)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert {k.split(".")[0] for k in keys} == {"text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"}
    again = CLIP.from_pretrained(tmp_path)
    ids, pixels = torch.tensor([[48, 5, 49]]), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert_close(again(ids, pixels), clip(ids, pixels))
    assert again.config == clip.config


def test_the_towers_share_their_weights_with_the_whole_even_in_a_copy():
    for clip in (tiny_clip(), copy.deepcopy(tiny_clip())):
        assert clip.text.text_model is clip.text_model and clip.image.visual_projection is clip.visual_projection
        assert len(list(clip.parameters())) == len({id(p) for p in clip.parameters()}) == len(clip.state_dict())
        clip.to(torch.float64)
        assert clip.text(torch.tensor([[48, 5, 49]]))[1].dtype == torch.float64


def test_the_text_tower_of_a_clip_can_be_saved_alone(tmp_path):
    clip, ids = tiny_clip(), torch.tensor([[48, 5, 49]])
    save_folder(clip.text, clip.text.config, tmp_path, "model.safetensors", torch.float32)
    assert_close(CLIPText.from_pretrained(tmp_path)(ids), clip.text(ids))


def test_a_module_put_in_place_of_the_token_table_is_used():
    text, ids = tiny(), torch.tensor([[48, 5, 49]])
    before = text(ids)[0]
    table = text.text_model.embeddings.token_embedding
    class Doubled(torch.nn.Module):
        def forward(self, ids):
            return 2 * table(ids)
    text.text_model.embeddings.token_embedding = Doubled()
    assert (text(ids)[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("damage, message", [
    (lambda w: w.pop("text_model.final_layer_norm.bias"), "missing text_model.final_layer_norm.bias"),
    (lambda w: w.update({"text_model.extra.weight": torch.zeros(3)}), "unexpected text_model.extra.weight"),
    (lambda w: w.update({"text_model.final_layer_norm.bias": torch.zeros(7)}), r"has shape \(7,\), expected \(24,\)")])
def test_missing_extra_and_misshapen_weights_are_refused(damage, message, tmp_path):
    model = tiny()
    save_folder(model, model.config, tmp_path, "model.safetensors", torch.float32)
    weights = load_file(tmp_path / "model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        CLIPText.from_pretrained(tmp_path)


@pytest.mark.parametrize("make, config, message", [
    (CLIPText, {"text_config": {}, "vision_config": {}}, r"CLIP.from_pretrained\(folder\).text"),
    (CLIPText, {"text_cfg": {}, "vision_cfg": {}}, r"CLIP.from_pretrained\(folder\).text"),
    (CLIPText, {"architectures": ["CLIPVisionModel"]}, "CLIPVisionModel, expected a CLIPTextModel"),
    (CLIPText, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    (CLIPResNet, {"model_type": "clip_vision_model"}, "clip_vision_model, expected a clip_resnet_model"),
    (CLIPResNet, RESNET | {"layers": [3, 4, 0, 3]}, "expected four numbers above zero"),
    (CLIPResNet, RESNET | {"width": 5}, "width is 5, expected an even number"),
    (CLIP, {"vision_config": RESNET | {"image_size": 60}}, "image_size is 60, expected a multiple of 32"),
    (CLIP, {"vision_config": RESNET | {"head_dim": 48}}, "128 channels, which is no multiple of head_dim 48"),
    (CLIPImage, {"model_type": "clip_text_model"}, "clip_text_model, expected a CLIPVisionModel"),
    (CLIP, {"model_type": "siglip"}, "siglip"),
    (CLIPText, {"hidden_act": "relu6"}, "relu6"),
    (CLIPText, {"hidden_size": 100, "num_attention_heads": 3}, "not a multiple"),
    (CLIPText, {"vocab_size": 10, "eos_token_id": 11}, "not in the vocabulary")])
def test_the_config_of_another_model_is_refused(make, config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        make.from_pretrained(tmp_path)


def test_inputs_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="11 tokens in a row, this text encoder has 10"):
        tiny()(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match="reads 16x16"):
        tiny_clip().image(torch.zeros(1, 3, 24, 16))
    with pytest.raises(ValueError, match="reads 64x64"):
        tiny_clip(vision=RESNET).image(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ValueError, match="skip is 4"):
        tiny()(torch.zeros(1, 3, dtype=torch.long), skip=4)


def test_start_values_come_from_the_generator_and_keep_the_stream_of_order_one():
    assert_close(dict(tiny(seed=1).state_dict()), dict(tiny(seed=1).state_dict()))
    deep = CLIPText({**TEXT, "num_hidden_layers": 24, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 384})
    states = deep.init_weights(torch.Generator().manual_seed(0)).text_model(torch.arange(10)[None])
    assert 0.5 < states[-1].std() < 1.5           # 2.2 with the start values of torch, 5.7 without the factor for depth
    assert_close(tiny_clip().logit_scale.exp(), torch.tensor(1 / 0.07))


@pytest.mark.parametrize("vision", [VISION, RESNET])
def test_a_few_steps_of_training_tell_four_pairs_apart(vision):
    g = torch.Generator().manual_seed(0)
    clip = tiny_clip(vision=vision).train()
    ids = torch.tensor([[48, i, i + 9, 49] for i in range(4)])
    pixels = torch.randn(4, 3, vision["image_size"], vision["image_size"], generator=g)
    optimizer = torch.optim.Adam(clip.parameters(), 5e-3)
    for _ in range(10):
        text, image = (F.normalize(e, dim=-1) for e in clip(ids, pixels))
        logits = clip.logit_scale.exp() * image @ text.T
        loss = F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in clip.parameters()) and loss < 1.4   # half of 2 log 4, which guessing gives


# the ResNet ------------------------------------------------------------------------------------------------------

def pictures(n=3, seed=0):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def trained_a_little(clip):
    """`clip` with running means and variances, and last norms, as no start values are."""
    for module in clip.image.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.2, torch.Generator().manual_seed(1))
    clip.train().encode_image(pictures(8, seed=9))
    return clip.eval()


def test_rn50_has_the_published_number_of_parameters_and_these_keys():
    """102,007,137: of RN50 as published, https://github.com/mlfoundations/open_clip."""
    with torch.device("meta"):
        clip = CLIP(dict(embed_dim=1024, quick_gelu=True, text_cfg=dict(width=512, heads=8, layers=12),
                         vision_cfg=dict(layers=[3, 4, 6, 3], width=64, image_size=224, patch_size=None)))
    assert sum(p.numel() for p in clip.parameters()) == 102_007_137
    assert clip.text.config["hidden_act"] == "quick_gelu" and clip.image.attnpool.heads == 32
    shapes = {k.removeprefix("vision_model."): tuple(t.shape) for k, t in clip.state_dict().items()}
    for key, shape in {"conv1.weight": (32, 3, 3, 3), "conv3.weight": (64, 32, 3, 3), "bn3.running_var": (64,),
                       "layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer1.0.downsample.1.num_batches_tracked": (),
                       "layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.bn3.weight": (2048,),
                       "attnpool.positional_embedding": (50, 2048), "attnpool.c_proj.weight": (1024, 2048)}.items():
        assert shapes[key] == shape


def noise(shape, seed):
    """The same numbers in [-1, 1] with every version of torch."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + 1e6 * seed
    return ((12.9898 * k).sin() * 43758.5453).frac().view(shape)


@torch.no_grad()
def test_a_resnet_gives_open_clips_embeddings():
    """Of open_clip 3.3.0: ModifiedResNet(layers=[1, 2, 1, 1], output_dim=12, heads=4, image_size=64, width=4), in float64."""
    image = CLIPResNet(RESNET).double().eval()
    state = image.state_dict()
    for i, name in enumerate(sorted(state)):
        shape = state[name].shape
        if len(shape) > 1:
            state[name] = noise(shape, i) * 2 * shape[1:].numel() ** -0.5
        elif state[name].is_floating_point():
            is_factor = name.endswith(("weight", "running_var"))
            state[name] = (1 if is_factor else 0) + 0.5 * noise(shape, i)
    image.load_state_dict(state)
    want = torch.tensor([[5.9471, 4.6734, 9.6452, 1.2097, -1.2682, 1.4727, -2.2499, 3.4482, 1.7084, 2.2559, 3.2447, 2.5346],
                         [6.2971, 4.6728, 9.9271, 1.0602, -1.4071, 1.3885, -2.4103, 3.6768, 1.7707, 2.3575, 3.4593, 2.3322]],
                        dtype=torch.float64)
    assert_close(image(2 * noise((2, 3, 64, 64), 1000))[1], want, atol=6e-5, rtol=0)


@torch.no_grad()
def test_the_attention_pooling_is_the_slow_loop():
    """Sec. 2.4: multi-head attention with the mean over all places as its query."""
    image = trained_a_little(tiny_clip(vision=RESNET)).image
    hidden, pooled = image(pictures())
    pool, d = image.attnpool, 32
    assert hidden.shape == (3, 1 + 4, 128) and pooled.shape == (3, 12)
    bare = hidden - pool.positional_embedding
    assert_close(bare[:, 0], bare[:, 1:].mean(dim=1))
    for seen, want in zip(hidden, pooled):
        q, k, v = pool.q_proj(seen[0]), pool.k_proj(seen), pool.v_proj(seen)
        heads = []
        for h in range(4):
            part = slice(h * d, (h + 1) * d)
            heads.append((k[:, part] @ q[part] / d ** 0.5).softmax(dim=0) @ v[:, part])
        assert_close(pool.c_proj(torch.cat(heads)), want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_places_stand_row_by_row_behind_the_mean():
    clip = trained_a_little(tiny_clip(vision=RESNET))
    seen, hook = [], clip.image.layer4.register_forward_hook(lambda *given: seen.append(given[-1]))
    hidden = clip.image(pictures())[0] - clip.image.attnpool.positional_embedding
    hook.remove()
    assert_close(hidden[:, 2], seen[0][:, :, 0, 1])
    assert_close(hidden[:, 3], seen[0][:, :, 1, 0])


def test_every_bottleneck_starts_as_its_shortcut():
    image = tiny_clip(vision=RESNET).image
    x = torch.rand(2, 32, 8, 8)                                                  # not below zero, as after a stage
    assert_close(image.layer2[1](x), x)
    assert_close(image.layer3[0](x), image.layer3[0].downsample(F.avg_pool2d(x, 2)).relu())


def test_a_bottleneck_that_shrinks_sees_every_place_on_both_ways():
    """A 1x1 convolution of stride 2, as in the ResNet of 2015, would skip three places of four."""
    block = Bottleneck(8, 4, stride=2).eval()
    for p in block.parameters():
        p.data.abs_()                                                            # nothing is cut off at zero
    x = torch.rand(1, 8, 6, 6, requires_grad=True)
    for last, way in ((block.bn3, "shortcut"), (block.downsample[1], "branch")):
        torch.nn.init.zeros_(last.weight)
        y = block(x)
        assert y.shape == (1, 16, 3, 3)
        assert (torch.autograd.grad(y.square().sum(), x)[0].abs().amax(dim=1) > 0).all(), way
        torch.nn.init.ones_(last.weight)


def test_a_picture_is_embedded_alone_in_eval_mode_and_with_its_batch_in_training():
    clip, x = trained_a_little(tiny_clip(vision=RESNET)), pictures()
    before = {k: v.clone() for k, v in clip.state_dict().items()}
    assert_close(clip.encode_image(x)[:1], clip.encode_image(x[:1]), atol=1e-5, rtol=1e-4)
    assert_close(dict(clip.state_dict()), before, rtol=0, atol=0)
    clip.train()
    assert (clip.encode_image(x)[:1] - clip.encode_image(x[:2])[:1]).abs().max() > 1e-3
    moved = [k for k, v in clip.state_dict().items() if not torch.equal(v, before[k])]
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == [k for k in before if k.endswith(kinds)]


@pytest.mark.parametrize("layout", ["ours", "open_clip"])
def test_a_clip_with_a_resnet_is_saved_and_loaded_strictly(layout, tmp_path):
    clip = trained_a_little(tiny_clip(vision=RESNET))
    path, prefix = tmp_path / "model.safetensors", "vision_model."
    save_folder(clip, clip.config, tmp_path, path.name, torch.float32)
    if layout == "open_clip":
        path, prefix = path.rename(tmp_path / "open_clip_model.safetensors"), "visual."
        image = {prefix + k: t for k, t in clip.image.state_dict().items()}
        rest = {k: t for k, t in clip.state_dict().items() if not k.startswith("vision_model.")}
        save_file({k: t.contiguous() for k, t in (image | in_open_clips_layout(rest)).items()}, path)
        config = dict(embed_dim=12, quick_gelu=True,
                      vision_cfg=dict(layers=[1, 2, 1, 1], width=4, head_width=32, image_size=64, patch_size=None),
                      text_cfg=dict(context_length=10, vocab_size=50, width=24, heads=3, layers=3, mlp_ratio=2.0))
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    again, ids = CLIP.from_pretrained(tmp_path), torch.tensor([[48, 5, 49]])
    assert again.config == clip.config
    assert_close(dict(again.state_dict()), dict(clip.state_dict()), rtol=0, atol=0)
    assert_close(again(ids, pictures()), clip(ids, pictures()))
    assert not any(m.training for m in again.modules()) and not any(p.requires_grad for p in again.parameters())
    assert again.image is again.vision_model and clip.image.config == clip.config["vision_config"]
    weights = load_file(path)
    save_file({k: t for k, t in weights.items() if k != prefix + "bn1.running_var"}, path)
    with pytest.raises(CheckpointError, match="missing vision_model.bn1.running_var"):
        CLIP.from_pretrained(tmp_path)
    save_file(weights | {prefix + "layer1.1.conv1.weight": torch.zeros(4, 16, 1, 1)}, path)
    with pytest.raises(CheckpointError, match="unexpected vision_model.layer1.1.conv1.weight"):
        CLIP.from_pretrained(tmp_path)


def test_a_resnet_in_half_precision_embeds_nearly_the_same(tmp_path):
    clip = trained_a_little(tiny_clip(vision=RESNET))
    save_folder(clip.image, clip.image.config, tmp_path, "model.safetensors")
    image, want = CLIPResNet.from_pretrained(tmp_path), clip.encode_image(pictures())
    assert image.bn1.running_var.dtype == torch.float16 and image.bn1.num_batches_tracked == 1
    got = image(pictures().half())[1]
    assert got.dtype == torch.float16 and (got - want).abs().max() < 0.01 * want.abs().max()


def test_start_values_of_a_resnet_come_from_the_generator():
    states = [dict(tiny_clip(seed, RESNET).state_dict()) for seed in (1, 1, 2)]
    assert_close(states[0], states[1], rtol=0, atol=0)
    assert not torch.equal(states[0]["vision_model.conv1.weight"], states[2]["vision_model.conv1.weight"])
    copied = copy.deepcopy(tiny_clip(vision=RESNET))
    assert copied.image is copied.vision_model
