"""Tiny pipelines with random weights, made and saved by diffusers, for tests that load the same folder with minidiff."""
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DDPMScheduler, KandinskyV22CombinedPipeline, PriorTransformer,
                       StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel, UnCLIPScheduler, VQModel)
from transformers import (CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
                          CLIPVisionConfig, CLIPVisionModelWithProjection)

from minidiff.tokenizer import Tokenizer

LENGTH = 12         # tokens in a row
WORDS = ["a photo of a red cat on a blue chair", "an old man with grey hair"]


def stable_diffusion(folder):
    """Save a tiny Stable Diffusion 1 in `folder`; returns diffusers' pipeline."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)
    tokenizer = tiny_tokenizer(folder.parent / "words", pad=None)
    pipe = StableDiffusionPipeline(tiny_vae(), tiny_text(CLIPTextModel, tokenizer, 16), tokenizer, unet, scheduler(),
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return saved(pipe, folder)


def stable_diffusion_xl(folder):
    """The same with the parts of an SDXL: two text encoders, added conditions, blocks in the order of SDXL."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 2, 2),
        cross_attention_dim=16 + 24, down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8)
    first, second = (tiny_tokenizer(folder.parent / f"words{i}", pad) for i, pad in ((1, None), (2, "!")))
    pipe = StableDiffusionXLPipeline(
        tiny_vae(), tiny_text(CLIPTextModel, first, 16), tiny_text(CLIPTextModelWithProjection, second, 24),
        first, second, unet, scheduler(), add_watermarker=False)
    return saved(pipe, folder)


def tiny_tokenizer(folder, pad):
    words = Tokenizer.train(WORDS, length=LENGTH)
    if pad is not None:
        words.names["pad"] = pad
    words.save(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tiny_text(kind, tokenizer, width):
    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=LENGTH, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def tiny_vae():
    return AutoencoderKL(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=16,
                         down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)


def scheduler():
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1)


def saved(pipe, folder):
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def kandinsky(folder):
    """Save a tiny Kandinsky 2.2, prior and decoder in one folder; returns diffusers' combined pipeline."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, out_channels=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        cross_attention_dim=12, encoder_hid_dim=16, addition_embed_type="image", encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift", mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"))
    movq = VQModel(block_out_channels=(32,), norm_num_groups=8, latent_channels=4, vq_embed_dim=4, num_vq_embeddings=24,
                   down_block_types=("AttnDownEncoderBlock2D",), up_block_types=("AttnUpDecoderBlock2D",), norm_type="spatial")
    tokenizer = tiny_tokenizer(folder.parent / "words", pad="!")
    image = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
                             projection_dim=16)
    pipe = KandinskyV22CombinedPipeline(
        unet, DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=True, clip_sample_range=2.0,
                            variance_type="learned_range"), movq,
        PriorTransformer(num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=16, num_embeddings=LENGTH),
        CLIPVisionModelWithProjection(image), tiny_text(CLIPTextModelWithProjection, tokenizer, 16), tokenizer,
        UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0),
        CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}))
    pipe.prior_prior.clip_std.data.uniform_(0.5, 2)
    pipe.prior_pipe.set_progress_bar_config(disable=True)
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    return saved(pipe, folder)
