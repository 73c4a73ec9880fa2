"""Properties of minidiff.clip. Golden outputs: transformers' own classes, tolerances measured there (case.json)."""
import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minidiff.checkpoints import CheckpointError, load_strict, save_folder
from minidiff.clip import CLIP, CLIPImage, CLIPText

GOLDEN = Path(__file__).parent / "golden"
TEXT = dict(vocab_size=50, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3,
            max_position_embeddings=10, projection_dim=12)
VISION = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=16,
              patch_size=8, projection_dim=12)
PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}


def golden(case, part):
    folder = GOLDEN / case
    config = json.loads((folder / "config.json").read_text())[part]
    return (config, load_file(folder / f"weights.{part}.safetensors"), load_file(folder / "inputs.safetensors"),
            load_file(folder / "outputs.safetensors"), json.loads((folder / "case.json").read_text())["atol"])


def tiny(config=PROJECTED, seed=0):
    return CLIPText({**TEXT, **config}).init_weights(torch.Generator().manual_seed(seed)).eval()


def tiny_clip(seed=0):
    config = dict(projection_dim=12, text_config=TEXT, vision_config=VISION)
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


def test_the_true_text_encoders_have_their_public_number_of_parameters():
    size = lambda module: sum(p.numel() for p in module.parameters())
    large = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    image = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    sd2 = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
    with torch.device("meta"):
        assert size(CLIPText(large)) == 123_060_480
        assert size(CLIPText(sd2)) == 340_387_840
        assert size(CLIP(dict(projection_dim=768, text_config=large, vision_config=image))) == 427_616_513


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
    (CLIPText, {"architectures": ["CLIPVisionModel"]}, "CLIPVisionModel, expected a CLIPTextModel"),
    (CLIPText, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    (CLIPImage, {"model_type": "clip_text_model"}, "clip_text_model, expected a CLIPVisionModel"),
    (CLIP, {"model_type": "siglip"}, "siglip"),
    (CLIPText, {"hidden_act": "relu6"}, "relu6"),
    (CLIPText, {"hidden_size": 100, "num_attention_heads": 3}, "not a multiple"),
    (CLIPText, {"vocab_size": 10, "eos_token_id": 11}, "not in the vocabulary")])
def test_the_config_of_another_model_is_refused(make, config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        make.from_pretrained(tmp_path)


def test_inputs_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="11 tokens in a row, this text encoder has 10"):
        tiny()(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match="reads 16x16"):
        tiny_clip().image(torch.zeros(1, 3, 24, 16))
    with pytest.raises(ValueError, match="skip is 4"):
        tiny()(torch.zeros(1, 3, dtype=torch.long), skip=4)


def test_start_values_come_from_the_generator_and_keep_the_stream_of_order_one():
    assert_close(dict(tiny(seed=1).state_dict()), dict(tiny(seed=1).state_dict()))
    deep = CLIPText({**TEXT, "num_hidden_layers": 24, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 384})
    states = deep.init_weights(torch.Generator().manual_seed(0)).text_model(torch.arange(10)[None])
    assert 0.5 < states[-1].std() < 1.5           # 2.2 with the start values of torch, 5.7 without the factor for depth
    assert_close(tiny_clip().logit_scale.exp(), torch.tensor(1 / 0.07))


def test_a_few_steps_of_training_tell_four_pairs_apart():
    g = torch.Generator().manual_seed(0)
    clip = tiny_clip().train()
    ids = torch.tensor([[48, i, i + 9, 49] for i in range(4)])
    pixels = torch.randn(4, 3, 16, 16, generator=g)
    optimizer = torch.optim.Adam(clip.parameters(), 5e-3)
    for _ in range(10):
        text, image = (F.normalize(e, dim=-1) for e in clip(ids, pixels))
        logits = clip.logit_scale.exp() * image @ text.T
        loss = F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in clip.parameters()) and loss < 1.4   # half of 2 log 4, which guessing gives
