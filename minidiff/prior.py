"""The diffusion prior: from a caption to the CLIP embedding of a picture it describes. Ramesh et al., "Hierarchical
Text-Conditional Image Generation with CLIP Latents" (unCLIP), arXiv:2204.06125v1, Sec. 2.2.

    paper              code                  meaning                                                           shape
    -----------------  --------------------  ----------------------------------------------------------------  ---------
    z_i                e                     CLIP embedding of the image: projected, not normalised            (B, E)
    z_i^(t)            z_t                   the same, whitened, with the noise of timestep t                  (B, E)
    z_t                text_pooled           CLIP embedding of the caption: projected, not normalised          (B, E)
    y, encoded         text_hidden           last states of CLIP's text encoder, after its final norm          (B, L, E)
    f_theta            prior(z_t, t, ...)    predicts the clean, whitened embedding, not the noise             (B, E)

Mind the t: in the paper's z_t it stands for text, in the z_t of the code, as in other files, for a timestep.

One Transformer reads one row of tokens, each of which sees itself and what is to its left:

    text_hidden 1 .. L | text_pooled | t | z_t | query -> Linear -> prediction

Differs from the paper, as Karlo and Kandinsky do: each dimension of an embedding is whitened by its mean and deviation
over the training images, where the paper multiplies all by 17.2; sampling draws one candidate, the paper keeps the better
of two; its steps have the fixed, small variance of DDPM, the paper's that of Analytic-DPM; captions are read by CLIP's text
encoder, the paper's prior has one of its own. Modules carry the names of diffusers (PriorTransformer), so its checkpoints
load without renaming.
"""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import Attention, attend
from .checkpoints import arguments, from_folder
from .samplers import generators, guide, noise, sample
from .blocks import sinusoid

EXTRA = 4                                         # tokens after the text


class Prior(nn.Module):
    """The network f_theta. Args: named as in config.json, with the defaults of diffusers: those of Karlo and Kandinsky 2.1.

        num_attention_heads, attention_head_dim: heads and the width of each; their product D is the Transformer's width.
        num_layers: number of blocks.
        embedding_dim: E, of CLIP's embeddings and of the states of its text encoder.
        num_embeddings: L, tokens of text.
    """

    # What a config may also say, and the only value it may have here.
    ONLY = {"_class_name": "PriorTransformer", "additional_embeddings": EXTRA, "dropout": 0, "time_embed_act_fn": "silu",
            "norm_in_type": None, "embedding_proj_norm_type": None, "encoder_hid_proj_type": "linear",
            "added_emb_type": "prd", "time_embed_dim": None, "embedding_proj_dim": None, "clip_embed_dim": None}

    def __init__(self, num_attention_heads=32, attention_head_dim=64, num_layers=20, embedding_dim=768, num_embeddings=77):
        super().__init__()
        width = num_attention_heads * attention_head_dim
        if width % 2:
            raise ValueError(f"{num_attention_heads} heads of width {attention_head_dim}: their product must be even")
        self.config = {"_class_name": "PriorTransformer", "num_attention_heads": num_attention_heads,
                       "attention_head_dim": attention_head_dim, "num_layers": num_layers, "embedding_dim": embedding_dim,
                       "num_embeddings": num_embeddings, "additional_embeddings": EXTRA}
        self.encoder_hidden_states_proj = nn.Linear(embedding_dim, width)
        self.embedding_proj = nn.Linear(embedding_dim, width)
        self.time_embedding = nn.Sequential(OrderedDict(
            linear_1=nn.Linear(width, width), act=nn.SiLU(), linear_2=nn.Linear(width, width)))
        self.proj_in = nn.Linear(embedding_dim, width)
        self.prd_embedding = nn.Parameter(torch.zeros(1, 1, width))               # the query
        self.positional_embedding = nn.Parameter(torch.zeros(1, num_embeddings + EXTRA, width))
        self.transformer_blocks = nn.ModuleList(Block(width, num_attention_heads) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_clip_embeddings = nn.Linear(width, embedding_dim)
        # Measured on the training images, not learned: copy_ yours into them before training.
        self.register_buffer("clip_mean", torch.zeros(1, embedding_dim))
        self.register_buffer("clip_std", torch.ones(1, embedding_dim))

    def forward(self, z_t, t, text_pooled, text_hidden, mask=None):
        """The clean embedding, whitened.

        Args:
            z_t: noisy whitened embeddings, (B, E).
            t: timesteps 0 .. T-1 of the schedule it was trained with, int64, (B,) or one for all.
            text_pooled, text_hidden: (B, E) and (B, L, E).
            mask: (B, L), True where a token counts, False for padding. Give it always: for None, as in diffusers, every
                token sees every other, which is not how the public priors were trained.

        Returns: (B, E). Raises ValueError if the shapes do not fit.
        """
        t = torch.as_tensor(t, device=z_t.device)
        self.check(z_t, t, text_pooled, text_hidden, mask)
        width = self.prd_embedding.shape[-1]
        time = self.time_embedding(sinusoid(t.expand(len(z_t)), width).to(z_t.dtype))
        single = [self.embedding_proj(text_pooled), time, self.proj_in(z_t)]                          # (B, D) each
        tokens = torch.cat([self.encoder_hidden_states_proj(text_hidden), *(x[:, None] for x in single),
                            self.prd_embedding.expand(len(z_t), -1, -1)], dim=1)                      # (B, L + 4, D)
        tokens = tokens + self.positional_embedding
        if mask is not None:                      # nothing that counts sees padding: what is padding everywhere can go
            mask = mask.to(tokens.device, torch.bool)
            used = mask.any(dim=0)
            mask, tokens = mask[:, used], tokens[:, F.pad(used, (0, EXTRA), value=True)]

        sees = None if mask is None else visible(mask)
        for block in self.transformer_blocks:
            tokens = block(tokens, sees)
        return self.proj_to_clip_embeddings(self.norm_out(tokens[:, -1]))

    def whiten(self, e):
        """CLIP embeddings of images (B, E) -> about mean 0 and variance 1 in each dimension."""
        return (e - self.clip_mean) / self.clip_std

    def unwhiten(self, z):
        """The inverse of `whiten`."""
        return z * self.clip_std + self.clip_mean

    def check(self, z_t, t, text_pooled, text_hidden, mask):
        batch, width, length = len(z_t), self.config["embedding_dim"], self.config["num_embeddings"]
        for name, x, shape in [("z_t", z_t, (batch, width)), ("text_pooled", text_pooled, (batch, width)),
                               ("text_hidden", text_hidden, (batch, length, width)), ("mask", mask, (batch, length))]:
            if x is not None and x.shape != shape:
                raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {shape}: "
                                 "is it from the CLIP that this prior was trained with?")
        if t.ndim > 1 or t.numel() not in (1, batch):
            raise ValueError(f"t has shape {tuple(t.shape)}, expected ({batch},) or a single timestep")

    def init_weights(self, generator=None):
        """Start values for training. The first prediction is 0, the mean of all embeddings, whose loss is 1."""
        into_stream = (2 * len(self.transformer_blocks)) ** -0.5      # it sums over all layers, see clip.init_transformer
        for name, p in self.named_parameters():
            if name.endswith(".bias") or name.startswith("proj_to_clip"):
                nn.init.zeros_(p)
            elif p.ndim == 1:                                         # of a norm
                nn.init.ones_(p)
            elif name in ("prd_embedding", "positional_embedding"):
                nn.init.normal_(p, std=0.01, generator=generator)
            else:
                scale = into_stream if name.endswith((".to_out.0.weight", ".net.2.weight")) else 1
                nn.init.normal_(p, std=scale * p.shape[1] ** -0.5, generator=generator)
        return self

    @classmethod
    def from_config(cls, config):
        """Build from the dict in config.json, random weights. ValueError for what this class cannot be."""
        return cls(**arguments(cls, config))

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Load config.json and the weights in `folder`, frozen and in eval mode; CheckpointError if they do not fit."""
        return from_folder(cls.from_config, folder, device, dtype, variant=variant)


def visible(mask):
    """(B, L) bool -> (B, 1, N, N) for N = L + 4 tokens: True where the token of the row sees that of the column."""
    keys = F.pad(mask, (0, EXTRA), value=True)
    everywhere = torch.ones(keys.shape[1], keys.shape[1], dtype=torch.bool, device=mask.device)
    itself = everywhere.tril() & everywhere.triu()                    # or a row could be empty, its softmax NaN
    return everywhere.tril() & (rearrange(keys, "b n -> b 1 1 n") | itself)


class Block(nn.Module):
    """Masked self-attention and an MLP, each on the normalised input and added to it. There is no norm2 in the files."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = MaskedAttention(width, heads, bias=True)
        self.norm3 = nn.LayerNorm(width)
        self.ff = MLP(width)

    def forward(self, x, sees):                   # (B, N, D), (B, 1, N, N) or None -> (B, N, D)
        x = x + self.attn1(self.norm1(x), sees)
        return x + self.ff(self.norm3(x))


class MaskedAttention(Attention):
    def forward(self, x, sees):
        q, (k, v) = self.split_heads(self.to_q(x)), self.keys_values(x)
        out = attend(q, k, v, self.control, mask=sees)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Linear, exact gelu, Linear; four times as wide inside. Nested like this, the keys are net.0.proj and net.2."""

    def __init__(self, width):
        super().__init__()
        first = nn.Sequential(OrderedDict(proj=nn.Linear(width, 4 * width)))
        self.net = nn.Sequential(first, nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


def predictor(prior, text, negative=None, guidance=1.0):
    """The prior under these captions, as `predict(z_t, t)` for `samplers`.

    Args:
        text: (text_pooled, text_hidden, mask) of B captions, see `Prior`.
        negative: the same of B captions, or one, to steer away from, mostly of the empty one; None for no guidance.
        guidance: 1 follows the caption, more exaggerates it.
    """
    is_guided = negative is not None and guidance != 1
    if is_guided:
        text = [torch.cat([away.expand_as(to), to]) for away, to in zip(negative, text)]

    def predict(z_t, t):
        z_t = z_t.to(text[0].dtype)
        prediction = prior(torch.cat([z_t, z_t]) if is_guided else z_t, t, *text).float()
        return guide(*prediction.chunk(2), guidance) if is_guided else prediction

    return predict


@torch.no_grad()
def sample_embedding(prior, schedule, text, negative=None, steps=25, guidance=4.0, seeds=0):
    """CLIP embeddings (B, E) of pictures that B captions describe, for a decoder.

    Args:
        schedule: UnCLIP's, with prediction_type "sample". Its clip_sample_range must match the whitening: 5 to 10.
        text, negative, guidance: see `predictor`.
        seeds: see `samplers.noise`.
    """
    text_pooled = text[0]
    seeds = generators(seeds, len(text_pooled))
    z_T = noise(text_pooled.shape, seeds, text_pooled.device)
    z_0 = sample(predictor(prior, text, negative, guidance), schedule, z_T, steps, generator=seeds)
    return prior.unwhiten(z_0)
