"""`python -m minidiff info`: what is in a checkpoint, from headers and shapes alone."""
import json
import math
import random
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from minidiff import VAE, CLIPText, MoVQ, Prior, UNet, lora
from minidiff.__main__ import main
from minidiff.checkpoints import find, save_folder, write_json
from minidiff.unet import original_name

SD = {"_class_name": "StableDiffusionPipeline"} | {part: ["diffusers", "X"] for part in (
    "tokenizer", "text_encoder", "unet", "vae", "scheduler")}


def info(capsys, *argv):
    """Exit status, what was printed, what was complained about."""
    status = main(["info", *map(str, argv)])
    return status, *capsys.readouterr()


def row(printed, name):
    """The cells of one line of the table."""
    return next(line.split() for line in printed.splitlines() if line.startswith(f"{name} "))


def unet(width=24, **more):
    return {"block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "attention_head_dim": 2,
            "norm_num_groups": 4, "cross_attention_dim": width, "_class_name": "UNet2DConditionModel", **more}


VAE_ = {"block_out_channels": [8], "norm_num_groups": 4, "_class_name": "AutoencoderKL"}


@pytest.fixture
def model(tmp_path):
    """A small model in diffusers' layout; text encoder, tokenizer and scheduler are toybox's."""
    folder = tmp_path / "model"
    for part in ("text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(find("toybox") / part, folder / part)
    save_folder(UNet.from_config(unet(768)), unet(768), folder / "unet", dtype=torch.float32)
    save_folder(VAE.from_config(VAE_), VAE_, folder / "vae")
    write_json(folder / "model_index.json", SD)
    return folder


# -------------------------------------------------------------------------------------------------------------- folders

def test_toybox_is_complete(capsys):
    status, printed, complaint = info(capsys, "toybox")
    assert status == 0 and not complaint and printed.startswith("toybox: toybox\n")
    for part, make in (("text_encoder", "CLIPText"), ("unet", "UNet"), ("vae", "VAE"), ("clip", "CLIP")):
        assert row(printed, part)[1] == make and row(printed, part)[-1] == "fits"
    assert "fits, completed by unet" in next(line for line in printed.splitlines() if line.startswith("decoder"))


def test_a_decoder_that_its_unet_does_not_complete_is_told(tmp_path, capsys):
    for part in ("unet", "decoder"):
        shutil.copytree(find("toybox") / part, tmp_path / part)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != "conv_in.bias"}, weights)
    status, printed, complaint = info(capsys, tmp_path / "decoder")
    assert status != 0 and "missing conv_in.bias" in printed + complaint


def test_numbers_are_those_of_the_files(model, capsys):
    status, printed, _ = info(capsys, model)
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    count = sum(t.numel() for t in weights.values())
    assert row(printed, "unet") == ["unet", "UNet", f"{count / 1e6:,.2f}", "M", "float32", f"{4 * count:,}", "bytes", "fits"]
    assert row(printed, "vae")[4] == "float16"
    assert status == 0 and row(printed, "total")[3] == "float16," and row(printed, "scheduler")[-1] == "epsilon"


@pytest.mark.parametrize("width, title", [
    (768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (2048, "Stable Diffusion XL"),
    (5, "StableDiffusionPipeline, text of width 5")])
def test_the_family_shows_in_the_width_of_the_text(model, capsys, width, title):
    save_folder(UNet.from_config(unet(width)), unet(width), model / "unet")
    assert f"{model}: {title}\n" in info(capsys, model)[1]


@pytest.mark.parametrize("name, title", [("KandinskyV22PriorPipeline", "Kandinsky 2.2, the prior"),
                                         ("KandinskyV22Pipeline", "Kandinsky 2.2, the decoder")])
def test_kandinsky_shows_in_the_name_of_its_pipeline(model, capsys, name, title):
    write_json(model / "model_index.json", SD | {"_class_name": name})
    assert title in info(capsys, model)[1]


@pytest.mark.parametrize("parts, missing", [(["unet", "movq"], "scheduler"), (["prior", "text_encoder"], "image_encoder"),
                                            (["unet", "vae", "text_encoder"], "tokenizer")])
def test_parts_that_are_not_even_named_are_missed(model, capsys, parts, missing):
    write_json(model / "model_index.json", {"_class_name": "X"} | {part: ["a", "b"] for part in parts})
    status, printed, _ = info(capsys, model)
    assert status == 1 and f"\n{missing}: {model}/model_index.json does not name it" in printed


def test_what_is_missing_unexpected_or_of_another_shape_is_listed_under_the_table(model, capsys):
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {key: t for key, t in load_file(path).items() if key != "conv_in.bias"}
    save_file(weights | {"extra": torch.zeros(3), "conv_out.bias": torch.zeros(9)}, path)
    status, printed, _ = info(capsys, model)
    assert status == 1 and "1 missing, 1 unexpected, 1 of another shape" in printed
    for line in ("missing conv_in.bias (8,)", "unexpected extra (3,)", "conv_out.bias has shape (9,), expected (4,)"):
        assert line in printed
    assert row(printed, "unet")[-2:] == ["see", "below"] and row(printed, "unet")[4] == "float32"
    assert row(printed, "vae")[-1] == "fits"


@pytest.mark.parametrize("damage, message", [
    (lambda m: shutil.rmtree(m / "vae"), "no folder"),
    (lambda m: (m / "unet" / "config.json").write_text("["), "not valid JSON"),
    (lambda m: (m / "tokenizer" / "vocab.json").unlink(), "tokenizer"),
    (lambda m: shutil.rmtree(m / "scheduler"), "scheduler"),
    (lambda m: next((m / "text_encoder").glob("*.safetensors")).write_bytes(b"\x80\x04"), "text_encoder"),
    (lambda m: write_json(m / "unet" / "config.json", unet([1])), "does not describe"),
])
def test_a_damaged_part_is_one_line_and_the_others_are_told_too(model, capsys, damage, message):
    damage(model)
    status, printed, complaint = info(capsys, model)
    assert status == 1 and message in printed and not complaint
    assert sum(line.endswith("see below") for line in printed.splitlines()) == 1


def test_a_variant_is_looked_at_when_asked_for(model, capsys):
    for path in model.rglob("*.safetensors"):
        if path.parent.name != "unet":
            shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: t.half() for key, t in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
    status, printed, _ = info(capsys, model, "--variant", "fp16")
    assert status == 0 and row(printed, "unet")[4] == "float16"
    assert info(capsys, model, "--variant", "fp8")[0] == 1


# ----------------------------------------------------------------------------------------------------------- components

def text(**more):
    return {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "eos_token_id": 29, **more}


COMPONENTS = {"UNet": (UNet, unet()), "VAE": (VAE, VAE_), "CLIPText": (CLIPText, text(architectures=["CLIPTextModel"])),
              "MoVQ": (MoVQ, {"_class_name": "VQModel", "norm_type": "spatial", "block_out_channels": [32]}),
              "Prior": (Prior, {"_class_name": "PriorTransformer", "num_attention_heads": 2, "attention_head_dim": 4,
                                "num_layers": 1, "embedding_dim": 6, "num_embeddings": 5})}


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_folder_of_a_component_and_its_file_tell_the_same(tmp_path, capsys, name):
    make, config = COMPONENTS[name]
    save_folder(make.from_config(config), config, tmp_path / "part")
    for path in (tmp_path / "part", tmp_path / "part" / "diffusion_pytorch_model.safetensors"):
        status, printed, _ = info(capsys, path)
        assert status == 0 and printed.startswith(f"{path}: one component, {name}\n")
        assert row(printed, "part")[1] == name and row(printed, "part")[-1] == "fits"


@pytest.mark.parametrize("name, what", [("UNet", "a UNet"), ("VAE", "an autoencoder"), ("CLIPText", "a CLIP"),
                                        ("Prior", "a prior")])
def test_the_weights_of_a_component_without_config_are_told_by_their_keys(tmp_path, capsys, name, what):
    make, config = COMPONENTS[name]
    save_folder(make.from_config(config), config, tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "any.safetensors")
    status, printed, _ = info(capsys, tmp_path / "any.safetensors")
    assert status == 0 and what in printed and "without its config.json" in printed


# ---------------------------------------------------------------------------------------------------------- single files

def with_prefix(prefix, module, name=lambda key: key):
    return {prefix + name(key): t for key, t in module.state_dict().items()}


def single_file(family):
    """A Stable Diffusion in the original layout, as small as it gets: {key: tensor}."""
    width = {"sd1": 64, "sd2": 64, "sdxl": 128}[family]
    config = unet(width, block_out_channels=[32, 64], norm_num_groups=32, use_linear_projection=family != "sd1")
    if family == "sdxl":
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                   "projection_class_embeddings_input_dim": 1600}
    starts = {"sd1": ["cond_stage_model.transformer."], "sd2": ["cond_stage_model.model."],
              "sdxl": ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."]}[family]
    tensors = with_prefix("model.diffusion_model.", UNet.from_config(config), lambda key: original_name(key, config))
    tensors |= with_prefix("first_stage_model.", VAE.from_config(VAE_ | {"block_out_channels": [32], "norm_num_groups": 32}))
    for i, start in enumerate(starts):
        projected = {"architectures": ["CLIPTextModelWithProjection"]} if i else {}
        encoder = CLIPText(text(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, **projected))
        tensors |= with_prefix(start, encoder)
    return tensors


TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}


@pytest.mark.parametrize("family", TITLES)
def test_a_single_file_is_told_by_family_and_part(tmp_path, capsys, family):
    save_file(single_file(family), tmp_path / "a.safetensors")
    status, printed, complaint = info(capsys, tmp_path / "a.safetensors")
    assert status == 0 and not complaint and f"a.safetensors: {TITLES[family]}, single file\n" in printed
    for part, make in {"text_encoder": "CLIPText", "unet": "UNet", "vae": "VAE"}.items():
        assert row(printed, part)[1] == make and row(printed, part)[-1] == "fits"
    assert ("text_encoder_2" in printed) == (family == "sdxl")


def test_a_single_file_in_a_pickle_is_told_too(tmp_path, capsys):
    torch.save({"state_dict": single_file("sd1"), "global_step": 7}, tmp_path / "a.ckpt")
    status, printed, _ = info(capsys, tmp_path / "a.ckpt")
    assert status == 0 and "Stable Diffusion 1, single file" in printed and row(printed, "unet")[-1] == "fits"


def test_a_single_file_may_lack_a_part_or_a_key(tmp_path, capsys):
    lost = re.compile(r"first_stage_model\.|model\.diffusion_model\.out\.0\.bias")
    tensors = {key: t for key, t in single_file("sd1").items() if not lost.match(key)}
    save_file(tensors, tmp_path / "a.safetensors")
    status, printed, _ = info(capsys, tmp_path / "a.safetensors")
    assert status == 1 and "a.safetensors has no vae" in printed and "missing conv_norm_out.bias (32,)" in printed
    assert row(printed, "text_encoder")[-1] == "fits"


# ------------------------------------------------------------------------------------------------------------ additions

@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@pytest.mark.parametrize("width, title", [(768, "LoRA for Stable Diffusion 1"), (1024, "LoRA for Stable Diffusion 2")])
def test_a_lora_is_told_by_component_rank_and_family(tmp_path, capsys, layout, width, title):
    made = lora.attach(UNet.from_config(unet(width)), rank=3, alpha=1, where="full")
    made.save(tmp_path / "a.safetensors", layout)
    status, printed, _ = info(capsys, tmp_path / "a.safetensors")
    assert status == 0 and title in printed and f"{len(made.names)} layers, rank 3" in printed
    assert row(printed, "unet")[-1] == "bytes"     # whether it fits cannot be told without the model


def test_keys_that_do_not_belong_in_a_lora_are_listed(tmp_path, capsys):
    lora.attach(UNet.from_config(unet()), rank=1).save(tmp_path / "a.safetensors")
    save_file(load_file(tmp_path / "a.safetensors") | {"odd": torch.zeros(1)}, tmp_path / "a.safetensors")
    status, printed, _ = info(capsys, tmp_path / "a.safetensors")
    assert status == 1 and "keys not understood: odd" in printed


@pytest.mark.parametrize("tensors, shown", [({"<cat>": torch.zeros(768)}, ["token <cat>", "1 vectors of width 768"]),
                                            ({"emb_params": torch.zeros(3, 1024)}, ["token a", "3 vectors of width 1024"]),
                                            ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)},
                                             ["text_encoder_2", "2 vectors of width 1280"])])
def test_a_textual_inversion_is_told_by_token_and_width(tmp_path, capsys, tensors, shown):
    save_file(tensors, tmp_path / "a.safetensors")
    status, printed, _ = info(capsys, tmp_path / "a.safetensors")
    assert status == 0 and "textual inversion" in printed and all(words in printed for words in shown)


# -------------------------------------------------------------------------------------------------------------- rubbish

RUBBISH = {
    "no such path": (lambda f: None, "no file .*thing"),
    "empty folder": (lambda f: f.mkdir(), "no model_index.json and no config.json"),
    "a folder of files": (lambda f: (f.mkdir(), (f / "a.safetensors").touch()), "give .*a.safetensors"),
    "text": (lambda f: f.write_text("hello, world"), "it has 12 bytes"),
    "other tensors": (lambda f: save_file({key: torch.zeros(2) for key in "abc"}, f), "its keys are a, b, c"),
    "no tensors": (lambda f: save_file({}, f), "its keys are none"),
    "another network": (lambda f: write_json(f / "config.json", {"architectures": ["BertModel"]}), "is a BertModel"),
    "config without a name": (lambda f: write_json(f / "config.json", {}), "is a model of unknown class"),
    "index is a list": (lambda f: (f.mkdir(), (f / "model_index.json").write_text("[]")), "holds a list"),
    "a pickle": (lambda f: torch.save([1], f), "it is a zip, as torch.save writes it"),
    "inpainting": (lambda f: save_file(single_file("sd1") | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(
        32, 9, 3, 3)}, f), "reads 9 channels"),
    "control characters": (lambda f: save_file({f"\x1b[2J{i}": torch.zeros(3, 3, 3) for i in "abc"}, f), "thing"),
}


@pytest.mark.parametrize("make, message", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_is_one_sentence_and_status_2(tmp_path, capsys, make, message):
    make(tmp_path / "thing")
    status, printed, complaint = info(capsys, tmp_path / "thing")
    assert status == 2 and not printed and re.search(message, complaint) and complaint.startswith("minidiff: ")


def test_a_model_damaged_by_chance_is_never_a_traceback(model, capsys):
    rng, paths = random.Random(0), sorted(path for path in model.rglob("*.*") if path.suffix in (".json", ".safetensors"))
    for _ in range(60):
        path = rng.choice(paths)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(min(len(whole), 2000))] = rng.randrange(256)
        path.write_bytes(damaged)
        assert info(capsys, model)[0] in (0, 1, 2)
        path.write_bytes(whole)


# ---------------------------------------------------------------------------------------------------------------- speed

SDXL = {"_class_name": "UNet2DConditionModel", "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}


def test_ten_gigabytes_are_told_in_a_moment_because_no_value_is_read(tmp_path, capsys):
    """The UNet of SDXL in float32, in a file that is one large hole behind its header."""
    with torch.device("meta"):
        shapes = {key: tuple(t.shape) for key, t in UNet.from_config(SDXL).state_dict().items()}
    header, at = {}, 0
    for key, shape in shapes.items():
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * math.prod(shape)]}
        at += 4 * math.prod(shape)
    raw = json.dumps(header).encode()
    with open(tmp_path / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + at)
    write_json(tmp_path / "config.json", SDXL)
    began = time.process_time()
    status, printed, _ = info(capsys, tmp_path)
    assert time.process_time() - began < 5
    assert status == 0 and "2,567.46 M  float32  10,269,854,736 bytes  fits" in printed
