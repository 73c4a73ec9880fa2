"""The denoising UNet of latent diffusion. Rombach et al., CVPR 2022, arXiv:2112.10752v2, Sec. 3.2-3.3.

One class, driven by its config: Stable Diffusion 1.x, 2.x and XL, the decoder of Kandinsky 2.2, and toybox. It reads as a
table. SD 1.5, for example (one line is one level, `x2` a residual block and a transformer, twice):

    down                            middle                        up
    320   (res, attention) x2, half                               320   (res, attention) x3
    640   (res, attention) x2, half                               640   (res, attention) x3, double
    1280  (res, attention) x2, half                               1280  (res, attention) x3, double
    1280  (res) x2                  (res, attention, res)         1280  (res) x3, double

    What differs      SD 1          SD 2            SDXL                         Kandinsky 2.2
    ----------------  ------------  --------------  ---------------------------  -----------------------------------------
    attention         transformer   transformer     1, 2 or 10 transformers      one softmax over text and pixels, no MLP
    half, double      convolution   convolution     convolution                  residual block
    time enters by    a sum         a sum           a sum                        scale and shift
    added to time     nothing       nothing         pooled text, picture sizes   image embedding
    context           text          text            text, of two encoders        32 tokens made of the image embedding

What every block on the way down puts out is pushed onto a list; every residual block on the way up pops one.
Modules carry the names of diffusers (UNet2DConditionModel), so its checkpoints load without renaming.
"""
import torch
import torch.nn.functional as F
from torch import nn

from . import devices
from .attention import AddedKVAttention, Attention, TextKV, Transformer
from .blocks import Downsample, ImageProjection, ImageTimeEmbedding, Level, ResBlock, TimeEmbedding, Upsample, batched, sinusoid
from .checkpoints import arguments, from_folder

# Block types by their names in config.json: the attention of the level, and what halves or doubles its side.
DOWN = {"CrossAttnDownBlock2D": ("transformer", "conv"), "DownBlock2D": (None, "conv"),
        "SimpleCrossAttnDownBlock2D": ("added_kv", "res"), "ResnetDownsampleBlock2D": (None, "res")}
UP = {"CrossAttnUpBlock2D": ("transformer", "conv"), "UpBlock2D": (None, "conv"),
      "SimpleCrossAttnUpBlock2D": ("added_kv", "res"), "ResnetUpsampleBlock2D": (None, "res")}
MIDDLE = {"UNetMidBlock2DCrossAttn": ("transformer", None), "UNetMidBlock2DSimpleCrossAttn": ("added_kv", None)}

# The conditions that `added` must hold, by what the config calls them.
ADDED = {"text_time": ("text_embeds", "time_ids"), "image": ("image_embeds",), "image_proj": ("image_embeds",)}

class UNet(nn.Module):
    """Predicts the noise (or x_0, or v: the schedule's business) in a noisy latent.

    Args: named as in config.json, with the defaults of SD 1.5. "One per level" may be one for all.
        in_channels, out_channels: of the latent. Kandinsky puts out twice as many: noise, then variance.
        block_out_channels: channels of each level, fine to coarse; each level but the last halves the side.
        down_block_types, up_block_types, mid_block_type: see `DOWN`, `UP` and `MIDDLE`.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        transformer_layers_per_block: blocks in each transformer, one per level.
        attention_head_dim: one per level. In levels with transformers the NUMBER of heads, a naming mistake in the
            configs of Stable Diffusion that everybody keeps; in Kandinsky's really the width of a head.
        cross_attention_dim: D, width of the text; None for a UNet without text (toybox only).
        norm_num_groups, norm_eps: of the GroupNorms. To train on a CPU choose groups of 16 channels or more: with
            fewer, PyTorch's kernel for channels_last takes 3 to 18 times as long in bfloat16.
        use_linear_projection: see `Transformer`.
        resnet_time_scale_shift: "default" (the time is added) or "scale_shift", see `ResBlock`.
        addition_embed_type: what `added` adds to the time embedding: "text_time" (SDXL), "image" (Kandinsky) or None.
        addition_time_embed_dim, projection_class_embeddings_input_dim: sinusoids per number, and all that goes in, of
            "text_time".
        encoder_hid_dim_type: "image_proj" makes the context of an image embedding; None takes it as it is.
        encoder_hid_dim: width of the image embedding.
        num_image_text_embeds: tokens that "image_proj" makes of it (Kandinsky: 32).
    Not needed here: `upcast_attention` (SD 2.1), because `attend` never holds unscaled products in half precision.
    """

    # What a config may also say, and the only value it may have here.
    ONLY = {"_class_name": "UNet2DConditionModel", "act_fn": "silu", "flip_sin_to_cos": True, "freq_shift": 0,
            "center_input_sample": False, "downsample_padding": 1, "mid_block_scale_factor": 1, "dual_cross_attention": False,
            "only_cross_attention": False, "num_class_embeds": None, "class_embed_type": None, "class_embeddings_concat": False,
            "num_attention_heads": None, "reverse_transformer_layers_per_block": None, "time_embedding_type": "positional",
            "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None, "time_cond_proj_dim": None,
            "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_norm": None, "mid_block_only_cross_attention": None,
            "resnet_skip_time_act": False, "resnet_out_scale_factor": 1, "attention_type": "default", "dropout": 0}

    def __init__(self, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280),
                 down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                 up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, mid_block_type="UNetMidBlock2DCrossAttn",
                 layers_per_block=2, transformer_layers_per_block=1, attention_head_dim=8, cross_attention_dim=768,
                 norm_num_groups=32, norm_eps=1e-5, use_linear_projection=False, resnet_time_scale_shift="default",
                 addition_embed_type=None, addition_time_embed_dim=None, projection_class_embeddings_input_dim=None,
                 encoder_hid_dim=None, encoder_hid_dim_type=None, num_image_text_embeds=32):
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__()
        self.config = c = checked(given)
        channels, width = c["block_out_channels"], 4 * c["block_out_channels"][0]
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], width)
        if addition_embed_type == "text_time":
            self.add_embedding = TimeEmbedding(projection_class_embeddings_input_dim, width)
        if addition_embed_type == "image":
            self.add_embedding = ImageTimeEmbedding(encoder_hid_dim, width)
        if encoder_hid_dim_type == "image_proj":
            self.encoder_hid_proj = ImageProjection(encoder_hid_dim, cross_attention_dim, num_image_text_embeds)
        skips = [channels[0]]                     # channels of what `forward` pushes; the way up pops them again
        self.down_blocks = nn.ModuleList(self.down(level, skips) for level in range(len(channels)))
        self.mid_block = self.middle(skips[-1])
        self.up_blocks = nn.ModuleList(self.up(level, skips) for level in reversed(range(len(channels))))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels[0], eps=norm_eps)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def forward(self, x, t, context=None, added=None):
        """The raw prediction.

        Args:
            x: noisy latents, (B, C, H, W).
            t: timesteps 0 .. T-1, (B,) or one for all.
            context: text states (B, L, D), or what `text_kv` made of them and of `added`; None if this UNet has no
                cross-attention, or makes its context itself.
            added: further conditions by name: {"text_embeds": (B, E), "time_ids": (B, 6)} for SDXL,
                {"image_embeds": (B, E)} for Kandinsky.

        Returns: (B, out_channels, H, W). Raises ValueError if the conditions do not fit the UNet or the batch.
        """
        if isinstance(context, TextKV):
            vector = context.vector
        else:
            context, vector = self.conditions(context, added)
        self.check_batch(x, context, vector)
        with devices.products(x):
            time = self.time_embedding(sinusoid(batched(t, x), self.config["block_out_channels"][0]).to(x.dtype))
            time = F.silu(time if vector is None else time + vector)       # every residual block would apply this silu
            return self.down_and_up(self.conv_in(x), time, context)

    def down_and_up(self, x, time, context):
        skips = [x]
        for level in self.down_blocks:
            for res, attention in level.rows():
                x = attention(res(x, time), context)
                skips.append(x)
            for downsample in level.downsamplers:
                x = downsample(x, time)
                skips.append(x)

        for res, attention in self.mid_block.rows():
            x = attention(res(x, time), context)

        for level in self.up_blocks:
            for res, attention in level.rows():
                x = torch.cat([x, skips.pop()], dim=1)
                x = attention(res(x, time), context)
            for upsample in level.upsamplers:
                x = upsample(x, time, size=skips[-1].shape[-2:])

        return self.conv_out(F.silu(self.conv_norm_out(x)))

    # The three lists of blocks. Level 0 is the finest.

    def down(self, level, skips):
        channels, (attention, sampling) = self.config["block_out_channels"][level], DOWN[self.config["down_block_types"][level]]
        block = Level()
        for _ in range(self.config["layers_per_block"]):
            block.add(self.res(skips[-1], channels), self.attention(attention, level))
            skips.append(channels)
        if level < len(self.config["block_out_channels"]) - 1:
            block.downsamplers.append(Downsample(channels) if sampling == "conv" else self.res(channels, channels, "down"))
            skips.append(channels)
        return block

    def middle(self, channels):
        attention, _ = MIDDLE[self.config["mid_block_type"]]
        block = Level()
        block.add(self.res(channels, channels), self.attention(attention, -1))
        block.add(self.res(channels, channels))
        return block

    def up(self, level, skips):
        # The config lists the types in the order of the way up: coarse to fine.
        channels, (attention, sampling) = self.config["block_out_channels"], UP[self.config["up_block_types"][-1 - level]]
        width = (*channels, channels[-1])[level + 1]             # what comes from below
        block = Level()
        for _ in range(self.config["layers_per_block"] + 1):
            block.add(self.res(width + skips.pop(), channels[level]), self.attention(attention, level))
            width = channels[level]
        if level > 0:
            block.upsamplers.append(Upsample(width) if sampling == "conv" else self.res(width, width, "up"))
        return block

    def res(self, before, after, sampling=None):
        c = self.config
        return ResBlock(before, after, 4 * c["block_out_channels"][0], c["norm_num_groups"], c["norm_eps"],
                        c["resnet_time_scale_shift"] == "scale_shift", sampling)

    def attention(self, kind, level):
        c = self.config
        channels, heads, groups = c["block_out_channels"][level], c["attention_head_dim"][level], c["norm_num_groups"]
        if kind == "transformer":
            return Transformer(channels, heads, c["cross_attention_dim"], groups, c["use_linear_projection"],
                               c["transformer_layers_per_block"][level])
        if kind == "added_kv":
            return AddedKVAttention(channels, channels // heads, c["cross_attention_dim"], groups)

    def cross_attentions(self):
        """{name: layer} of the layers that attend to the text, in the order they run in."""
        return {name: layer for name, layer in self.attentions().items() if layer.is_cross}

    def self_attentions(self):
        """{name: layer} of the layers in which the image attends to itself, in the order they run in."""
        return {name: layer for name, layer in self.attentions().items() if not layer.is_cross}

    def attentions(self):
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, Attention)}

    def text_kv(self, context=None, added=None):
        """Everything that the conditions (as for `forward`) become in the UNet, to pass in place of the context."""
        context, vector = self.conditions(context, added)
        return TextKV({layer: layer.keys_values(context) for layer in self.cross_attentions().values()}, vector)

    def conditions(self, context, added):
        """What cross-attention sees (B, L, D), and what is added to the time embedding (B, W); None where there is nothing."""
        self.check_names(added or {})
        if self.config["encoder_hid_dim_type"] == "image_proj":
            if context is not None:
                raise ValueError("this UNet makes its context of added['image_embeds']; pass None")
            context = self.encoder_hid_proj(added["image_embeds"])
        self.check_width(context)
        vector = None
        if self.config["addition_embed_type"] == "image":
            vector = self.add_embedding(added["image_embeds"])
        if self.config["addition_embed_type"] == "text_time":
            text, numbers = added["text_embeds"], added["time_ids"]
            sinusoids = sinusoid(numbers, self.config["addition_time_embed_dim"]).flatten(1).to(text.dtype)
            vector = self.add_embedding(torch.cat([text, sinusoids], dim=1))
        return context, vector

    def check_names(self, added):
        """ValueError unless `added` has what the config asks for, and in the right width."""
        c = self.config
        wanted = {name for kind in (c["addition_embed_type"], c["encoder_hid_dim_type"]) for name in ADDED.get(kind, ())}
        if set(added) != wanted:
            raise ValueError(f"this UNet needs added conditions {', '.join(sorted(wanted)) or 'of no kind'}; "
                             f"it got {', '.join(sorted(added)) or 'none'}")
        got = sum(t.shape[-1] * (c["addition_time_embed_dim"] if name == "time_ids" else 1) for name, t in added.items())
        want = c["projection_class_embeddings_input_dim"] if c["addition_embed_type"] == "text_time" else c["encoder_hid_dim"]
        if added and got != want:
            raise ValueError(f"added conditions {', '.join(sorted(added))} make {got} numbers per picture, this UNet takes {want}")

    def check_width(self, context):
        width = self.config["cross_attention_dim"]
        if (context is None) != (width is None):
            raise ValueError("this UNet needs text states (B, L, D) as its context; it got None" if context is None else
                             "this UNet takes no context, because it has no cross-attention; it got one")
        if context is not None and (context.ndim != 3 or context.shape[-1] != width):
            raise ValueError(f"context has shape {tuple(context.shape)}, expected (B, L, {width}): "
                             "is it from the text encoder that this UNet was trained with?")

    def check_batch(self, x, context, vector):
        for what, given in (("context", context), ("added", vector)):
            if given is not None and len(given) != len(x):
                raise ValueError(f"{what} is for a batch of {len(given)}, x is a batch of {len(x)}; repeat the {what}")

    @classmethod
    def from_config(cls, config):
        """Build from the dict in config.json, random weights. ValueError for what this class cannot be."""
        config = {"cross_attention_dim": 1280, **config}         # what a config.json that does not say means
        return cls(**arguments(cls, config))

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Load config.json and the weights in `folder`, frozen and in eval mode; CheckpointError if they do not fit."""
        return from_folder(cls.from_config, folder, device, dtype, variant=variant)


def checked(config):
    """The config with a list where there is one value per level, and with its class's name. ValueError if it makes no UNet."""
    config = {"_class_name": "UNet2DConditionModel", **config}
    levels = len(config["block_out_channels"])
    for key in ("attention_head_dim", "transformer_layers_per_block", "down_block_types", "up_block_types", "block_out_channels"):
        config[key] = [config[key]] * levels if isinstance(config[key], (int, str)) else list(config[key])
        if len(config[key]) != levels:
            raise ValueError(f"{key} has {len(config[key])} entries, block_out_channels has {levels}")
    choices = {"down_block_types": DOWN, "up_block_types": UP, "mid_block_type": MIDDLE,
               "resnet_time_scale_shift": ("default", "scale_shift"), "addition_embed_type": (None, "text_time", "image"),
               "encoder_hid_dim_type": (None, "image_proj")}
    for key, known in choices.items():
        for name in config[key] if isinstance(config[key], list) else [config[key]]:
            if name not in known:
                raise ValueError(f"{key} has {name!r}; UNet knows {', '.join(map(str, known))}")
    for kind, needs in {"text_time": ("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
                        "image": ("encoder_hid_dim",), "image_proj": ("encoder_hid_dim", "cross_attention_dim")}.items():
        missing = [key for key in needs if config[key] is None]
        if missing and kind in (config["addition_embed_type"], config["encoder_hid_dim_type"]):
            raise ValueError(f"{kind!r} needs {' and '.join(missing)}")
    return config


# The layer whose output is added to the residual stream, or returned.
LAST = {ResBlock: "conv2", Transformer: "proj_out", AddedKVAttention: "to_out.0", UNet: "conv_out"}


def zero_residuals(unet):
    """Let every residual branch, and the prediction, start at zero: training from scratch is then stable and faster.

    The authors of latent diffusion do it; without, a new UNet has PyTorch's random weights everywhere.
    """
    for module in unet.modules():
        if type(module) in LAST:
            last = module.get_submodule(LAST[type(module)])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    return unet


# The names of the original code, still used by single-file checkpoints and, for SDXL, by kohya's LoRA files.
IN_RESBLOCK = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
               "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def original_name(name, config):
    """The name of a layer or weight of `UNet(**config)` in the original code: `conv_in.weight` -> `input_blocks.0.0.weight`.

    The original counts through: one block per residual block and one per downsampling; the way up likewise, but there
    the upsampling is a part of the level's last block.
    """
    for ours, theirs in original_blocks(config).items():
        if name.startswith(f"{ours}."):
            rest = name[len(ours) + 1:]
            if ".resnets." in ours:
                part, _, rest = rest.partition(".")
                rest = f"{IN_RESBLOCK[part]}.{rest}" if rest else IN_RESBLOCK[part]
            return f"{theirs}.{rest}"
        if name == ours:
            return theirs
    raise ValueError(f"{name!r} has no name in the original code")


def original_blocks(config):
    """{block of `UNet(**config)`: its name in the original code}"""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    names = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
             "mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for i in range(layers):
            names[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{first + i}.0"
            names[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{first + i}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
        for i in range(layers + 1):
            names[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{first - 1 + i}.0"
            names[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{first - 1 + i}.1"
        place = 2 if UP[config["up_block_types"][level]][0] else 1
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first - 1 + layers}.{place}.conv"
    return names
