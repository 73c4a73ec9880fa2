"""CLIP: a text tower and an image tower with a common embedding. Radford et al., arXiv:2103.00020v1.

Module names are those of the published files (transformers), so that OpenAI's, LAION's, Stable Diffusion's and
Kandinsky's encoders load without renaming. Configs are theirs too; a key that is missing has their default. The other
layout in which LAION publishes, open_clip's, is translated by minidiff.open_clip. The image tower is the vision transformer
of this page or the ResNet of minidiff.resnet, as the config says.

    paper               code                          shape
    ------------------  ----------------------------  -------------
    text, Fig. 3 (T)    ids                           (B, L) int64
    image, Fig. 3 (I)   pixels, normalised            (B, 3, H, W)
    T_f, I_f            pooled, before projection     (B, D)
    T_e, I_e            pooled, encode_*()            (B, E), not normalised
    t                   logit_scale, exp(t) scales    ()

The losses live in papers/clip.py.
"""
import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from . import open_clip, resnet
from .attention import attend
from .checkpoints import build, from_folder

TEXT_DEFAULTS = dict(model_type="clip_text_model", vocab_size=49408, hidden_size=512, intermediate_size=2048,
                     num_hidden_layers=12, num_attention_heads=8, max_position_embeddings=77, projection_dim=512,
                     hidden_act="quick_gelu", layer_norm_eps=1e-5, bos_token_id=49406, eos_token_id=2)
VISION_DEFAULTS = dict(model_type="clip_vision_model", hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                       num_attention_heads=12, num_channels=3, image_size=224, patch_size=32, projection_dim=512,
                       hidden_act="quick_gelu", layer_norm_eps=1e-5)
CLIP_DEFAULTS = dict(model_type="clip", projection_dim=512, logit_scale_init_value=math.log(1 / 0.07))

ORIGINAL_VOCABULARY = 49408           # of every public CLIP; its last id is the end token

# A tower saved alone may lack the first part of every name: transformers 5 leaves it out.
TEXT_NAMES = [(r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1.")]
VISION_NAMES = [(r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.\1.")]


def quick_gelu(x):
    """OpenAI's approximation. Weights trained with one kind of gelu give wrong features, and no error, with the other."""
    return F.silu(1.702 * x) / 1.702       # = x * sigmoid(1.702 * x), with less to keep for the backward pass


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Attention(nn.Module):
    """Self-attention. x: (B, N, D) -> (B, N, D)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, causal):
        q, k, v = (rearrange(proj(x), "b n (h d) -> b h n d", h=self.heads)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(rearrange(attend(q, k, v, causal=causal), "b h n d -> b n (h d)"))


class MLP(nn.Module):
    def __init__(self, width, hidden, activation):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention and MLP, each on the normalised input and added to it."""

    def __init__(self, config):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = Attention(width, config["num_attention_heads"])
        self.mlp = MLP(width, config["intermediate_size"], ACTIVATIONS[config["hidden_act"]])

    def forward(self, x, causal):
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x, causal):
        """(B, N, D) -> list of (B, N, D): the input and what each layer made of it."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], causal))
        return states


class TextEmbeddings(nn.Module):
    """ids (B, L) -> (B, L, D). `token_embedding` is called as a module: a learned token can take its place."""

    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])

    def forward(self, ids):
        length, limit = ids.shape[-1], self.position_embedding.num_embeddings
        if length > limit:
            raise ValueError(f"{length} tokens in a row, this text encoder has {limit} positions; cut the text first")
        return self.token_embedding(ids) + self.position_embedding.weight[:length]


class TextTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def forward(self, ids):
        return self.encoder(self.embeddings(ids), causal=True)


class VisionEmbeddings(nn.Module):
    """pixels (B, C, H, W) -> (B, 1 + patches, D): the class token, then the patches row by row."""

    def __init__(self, config):
        super().__init__()
        width, size, patch = config["hidden_size"], config["image_size"], config["patch_size"]
        self.size = size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(config["num_channels"], width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(1 + (size // patch) ** 2, width)

    def forward(self, pixels):
        if pixels.shape[-2:] != (self.size, self.size):
            raise ValueError(f"images are {tuple(pixels.shape[-2:])}, this image encoder reads {self.size}x{self.size}; "
                             "see minidiff.images.clip_pixels")
        patches = rearrange(self.patch_embedding(pixels), "b d h w -> b (h w) d")
        first = repeat(self.class_embedding, "d -> b 1 d", b=len(pixels))
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class VisionTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps)      # spelled as in the files
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(width, eps)

    def forward(self, pixels):
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)), causal=False)


class CLIPText(nn.Module):
    """The text tower: clip_text(ids, skip=0, norm=None) -> hidden (B, L, D), pooled (B, E).

    Args:
        config: dict of transformers' CLIPTextConfig. `pooled` is projected (E is projection_dim) if `_class_name` or
            `architectures` ends in WithProjection, as in SDXL's second encoder; otherwise E is D.

    The end token, where `pooled` is read, is found by its id: the first one in the row, since the end token may also
    be the padding. Old configs say `eos_token_id: 2`, which is wrong and was harmless as long as everybody took the
    largest id, always the end token's. Tokens added later have larger ids, so for such configs the end token is the
    last one of the original vocabulary: 49407, or vocab_size - 1 if the vocabulary is smaller than CLIP's.
    A row without an end token is read at its last position.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config = {**TEXT_DEFAULTS, **config}
        _check(config, "Text", hint="CLIP.from_pretrained(folder).text")
        self.end = config["eos_token_id"]
        if self.end == 2:
            self.end = min(config["vocab_size"], ORIGINAL_VOCABULARY) - 1
        if self.end >= config["vocab_size"]:
            raise ValueError(f"eos_token_id {self.end} is not in the vocabulary of {config['vocab_size']} tokens")
        self.text_model = TextTransformer(config)
        if _is_projected(config):
            self.text_projection = nn.Linear(config["hidden_size"], config["projection_dim"], bias=False)

    @classmethod
    def from_config(cls, config):
        return cls(config)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Read config.json and *.safetensors; `variant="fp16"` for *.fp16.safetensors."""
        return from_folder(cls, folder, device, dtype, pairs=TEXT_NAMES, variant=variant)

    def forward(self, ids, skip=0, norm=None):
        """Encode token ids.

        Args:
            ids: (B, L) int64, start, text, end, padding.
            skip: how many of the last layers `hidden` leaves out: 1 for SDXL and "clip skip 2".
            norm: apply the final LayerNorm to `hidden`; None means only if skip is 0. SDXL skips one layer without
                the norm, a single-file SD 2 skips one layer with it.

        Returns:
            hidden (B, L, D), and pooled (B, E), which is always read after the last layer and the norm.
        """
        layers = len(self.text_model.encoder.layers)
        if not 0 <= skip <= layers:
            raise ValueError(f"skip is {skip}, this text encoder has {layers} layers")
        states = self.text_model(ids)
        last = self.text_model.final_layer_norm(states[-1])
        hidden = states[-1 - skip]
        if norm or (norm is None and skip == 0):
            hidden = self.text_model.final_layer_norm(hidden) if skip else last
        pooled = last[torch.arange(len(ids), device=ids.device), self._end_position(ids)]
        return hidden, self.text_projection(pooled) if _is_projected(self.config) else pooled

    def counts(self, ids):
        """(B, L) -> bool (B, L): True up to the end token, False for padding."""
        return torch.arange(ids.shape[1], device=ids.device) <= self._end_position(ids)[:, None]

    def _end_position(self, ids):
        """(B, L) -> (B,): where the first end token is."""
        is_end = (ids == self.end).int()
        return torch.where(is_end.any(dim=1), is_end.argmax(dim=1), ids.shape[1] - 1)   # argmax: the first of equals

    def init_weights(self, generator=None):
        """Start values for training, see `init_transformer`."""
        embeddings, width = self.text_model.embeddings, self.config["hidden_size"]
        normal_(embeddings.token_embedding.weight, 0.02, generator)
        normal_(embeddings.position_embedding.weight, 0.01, generator)
        init_transformer(self.text_model.encoder, width, generator)
        if _is_projected(self.config):
            normal_(self.text_projection.weight, width ** -0.5, generator)
        return self


class CLIPImage(nn.Module):
    """The image tower: clip_image(pixels) -> hidden (B, 1 + patches, D), pooled (B, E).

    Args:
        config: dict of transformers' CLIPVisionConfig; projected as in `CLIPText`.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config = {**VISION_DEFAULTS, **config}
        _check(config, "Vision", hint="CLIP.from_pretrained(folder).image")
        self.vision_model = VisionTransformer(config)
        if _is_projected(config):
            self.visual_projection = nn.Linear(config["hidden_size"], config["projection_dim"], bias=False)

    @classmethod
    def from_config(cls, config):
        return cls(config)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Read config.json and *.safetensors; `variant="fp16"` for *.fp16.safetensors."""
        return from_folder(cls, folder, device, dtype, pairs=VISION_NAMES, variant=variant)

    def forward(self, pixels):
        """pixels: (B, 3, H, W), normalised by `images.clip_pixels`. `hidden` is the last layer's output without a norm."""
        hidden = self.vision_model(pixels)[-1]
        pooled = self.vision_model.post_layernorm(hidden[:, 0])      # the class token
        return hidden, self.visual_projection(pooled) if _is_projected(self.config) else pooled

    def init_weights(self, generator=None):
        """Start values for training, see `init_transformer`."""
        embeddings, width = self.vision_model.embeddings, self.config["hidden_size"]
        for weight in (embeddings.class_embedding, embeddings.position_embedding.weight):
            normal_(weight, width ** -0.5, generator)
        normal_(embeddings.patch_embedding.weight, embeddings.patch_embedding.weight[0].numel() ** -0.5, generator)
        init_transformer(self.vision_model.encoder, width, generator)
        if _is_projected(self.config):
            normal_(self.visual_projection.weight, width ** -0.5, generator)
        return self


class CLIP(nn.Module):
    """Both towers and the temperature.

    Args:
        config: dict of transformers' CLIPConfig, with `text_config` and `vision_config` inside; or that of open_clip,
            with `text_cfg` and `vision_cfg`. `clip.config` is the former in both cases. If the `model_type` of `vision_config`
            is clip_resnet_model, which transformers does not have, the image tower is a `resnet.CLIPResNet`.

    `clip.text` and `clip.image` are a CLIPText and a CLIPImage with projection; they share their modules with `clip`,
    whose state dict has the names of the published files: text_model.*, text_projection.weight, vision_model.*, ...
    A ResNet, which projects in its attention pooling, is `clip.image` and `clip.vision_model` at once.
    """

    def __init__(self, config):
        super().__init__()
        if "text_cfg" in config or "model_cfg" in config:
            config = open_clip.clip_config(config)
        config = {**CLIP_DEFAULTS, **config}
        _check_family(config, "clip", "CLIPModel")
        text = {**TEXT_DEFAULTS, **(config.get("text_config") or {}), **(config.pop("text_config_dict", None) or {})}
        vision = {**(config.get("vision_config") or {}), **(config.pop("vision_config_dict", None) or {})}
        is_resnet = vision.get("model_type") == resnet.MODEL_TYPE
        vision = (resnet.DEFAULTS if is_resnet else VISION_DEFAULTS) | vision
        projection = {"projection_dim": config["projection_dim"]}
        self.config = {**config, "text_config": text | projection, "vision_config": vision | projection}

        text_tower = CLIPText(self.config["text_config"] | {"architectures": ["CLIPTextModelWithProjection"]})
        self.text_model, self.text_projection = text_tower.text_model, text_tower.text_projection
        if is_resnet:
            image_tower = self.vision_model = resnet.CLIPResNet(self.config["vision_config"])
        else:
            image_tower = CLIPImage(self.config["vision_config"] | {"architectures": ["CLIPVisionModelWithProjection"]})
            self.vision_model, self.visual_projection = image_tower.vision_model, image_tower.visual_projection
        self.logit_scale = nn.Parameter(torch.tensor(float(config["logit_scale_init_value"])))
        # Past nn.Module's bookkeeping, or every weight would appear twice in the state dict.
        self.__dict__.update(text=text_tower, image=image_tower)

    @classmethod
    def from_config(cls, config):
        return cls(config)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Read config.json and *.safetensors of a CLIPModel; or open_clip_config.json and open_clip_model.safetensors."""
        if open_clip.is_open_clip(folder):
            return build(cls, *open_clip.read(folder, "meta" if str(device) == "meta" else "cpu"), folder, device, dtype)
        return from_folder(cls, folder, device, dtype, fix=open_clip.our_names, variant=variant)

    def encode_text(self, ids):
        """(B, L) int64 -> (B, E), not normalised."""
        return self.text(ids)[1]

    def encode_image(self, pixels):
        """(B, 3, H, W), normalised pixels -> (B, E), not normalised."""
        return self.image(pixels)[1]

    def forward(self, ids, pixels):
        """Both embeddings in one call, which is what DistributedDataParallel needs: (B, E), (B, E)."""
        return self.encode_text(ids), self.encode_image(pixels)

    def init_weights(self, generator=None):
        """Start values for training; the temperature starts at 0.07 (Sec. 2.5)."""
        self.text.init_weights(generator)
        self.image.init_weights(generator)
        nn.init.constant_(self.logit_scale, math.log(1 / 0.07))
        return self


def init_transformer(encoder, width, generator=None):
    """Start values as in the authors' code: the paths into the residual stream are smaller the more layers there are.

    Without the factor (2 * layers) ** -0.5 the stream, a sum over all layers, would grow with depth (Sec. 2.4, after GPT-2).
    """
    into_stream = width ** -0.5 * (2 * len(encoder.layers)) ** -0.5
    for layer in encoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear, std in [(attention.q_proj, width ** -0.5), (attention.k_proj, width ** -0.5),
                            (attention.v_proj, width ** -0.5), (attention.out_proj, into_stream),
                            (mlp.fc1, (2 * width) ** -0.5), (mlp.fc2, into_stream)]:
            normal_(linear.weight, std, generator)
            nn.init.zeros_(linear.bias)


def normal_(weight, std, generator):
    nn.init.normal_(weight, std=std, generator=generator)


def _class_names(config):
    return [name for name in (config.get("_class_name"), *(config.get("architectures") or [])) if name]


def _is_projected(config):
    return any(name.endswith("WithProjection") for name in _class_names(config))


def _check(config, kind, hint):
    if {"text_config", "vision_config", "text_cfg", "model_cfg"} & config.keys():
        raise ValueError(f"it is a whole CLIP; use {hint}")
    _check_family(config, f"clip_{kind.lower()}_model", f"CLIP{kind}Model")
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {config['hidden_act']!r}, known are {', '.join(ACTIVATIONS)}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(f"hidden_size {config['hidden_size']} is not a multiple of {config['num_attention_heads']} heads")


def _check_family(config, model_type, class_name):
    """Refuse the config of another model before the names of its weights fill the screen."""
    for name in (config["model_type"], *_class_names(config)):
        if name != model_type and not name.startswith(class_name):
            raise ValueError(f"it is a {name}, expected a {class_name}")
