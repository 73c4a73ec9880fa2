"""Tiny models with random weights, in diffusers' layout, for tests that load a whole one; and what a training could have changed."""
import torch

from minidiff.checkpoints import save_folder, write_json
from minidiff.clip import CLIPText
from minidiff.deltas import Delta
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.unet import UNet
from minidiff.vae import VAE

INDEX = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "safety_checker": [None, None],
         "tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModel"],
         "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
         "scheduler": ["diffusers", "DDIMScheduler"]}
UNET = {"in_channels": 4, "out_channels": 4, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
        "attention_head_dim": 2, "cross_attention_dim": 16, "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
UNET_XL = UNET | {"cross_attention_dim": 28, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
                  "projection_class_embeddings_input_dim": 10 + 6 * 4}
VAE_CONFIG = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
              "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


def stable_diffusion(folder, unet=UNET):
    """A tiny Stable Diffusion 1 in `folder`, which is returned."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red cat", "a blue chair"], length=8)
    tokenizer.save(folder / "tokenizer")
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": 16, "eos_token_id": tokenizer.eos,
            "bos_token_id": tokenizer.bos, "hidden_act": "quick_gelu", "architectures": ["CLIPTextModel"]}
    save_folder(CLIPText(text).init_weights(), text, folder / "text_encoder", "model.safetensors", torch.float32)
    save_folder(UNet.from_config(unet), unet, folder / "unet", dtype=torch.float32)
    save_folder(VAE.from_config(VAE_CONFIG), VAE_CONFIG, folder / "vae", dtype=torch.float32)
    Schedule().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX)
    return folder


def stable_diffusion_xl(folder):
    """The same with a second text encoder, and a UNet that is told the pooled text and the sizes."""
    stable_diffusion(folder, UNET_XL)
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.names["pad"] = "!"
    tokenizer.save(folder / "tokenizer_2")
    text = {"vocab_size": len(tokenizer), "hidden_size": 12, "intermediate_size": 32, "num_hidden_layers": 3, "projection_dim": 10,
            "num_attention_heads": 2, "max_position_embeddings": 8, "eos_token_id": tokenizer.eos, "hidden_act": "gelu",
            "architectures": ["CLIPTextModelWithProjection"]}
    save_folder(CLIPText(text).init_weights(), text, folder / "text_encoder_2", "model.safetensors", torch.float32)
    Schedule(method="euler").save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX | {
        "_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"]})
    return folder


def changed(pipe, word="<new1>", class_word="cat", seed=1, size=.02):
    """A Delta with random changes of all keys and values of a model's cross-attention, and one word."""
    draw = lambda *shape, seed: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    own = pipe.unet.state_dict()
    names = [name for name in own if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))]
    weights = {name: own[name] + size * draw(*own[name].shape, seed=seed + i) for i, name in enumerate(names)}
    return Delta(weights, {word: .2 * draw(1, pipe.text_width(), seed=seed)}, {word: class_word})
