"""CLIP's other image tower: a modified ResNet. Radford et al., arXiv:2103.00020v1, Sec. 2.4.

It differs from the ResNet of He et al. (arXiv:1512.03385) in three places:

    after He et al., arXiv:1812.01187    three 3x3 convolutions come first, and a shortcut that makes the picture smaller
    ("ResNet-D")                         averages before its 1x1 convolution
    after Zhang, arXiv:1904.11486        wherever the picture gets smaller after the first convolution, it is averaged:
                                         convolutions of stride 2 would alias
    attention pooling                    in place of the mean over all places: one query, made from that mean, attends to them

    name      shape, for pictures of 64x64 and width 16     what
    --------  --------------------------------------------  ------------------------------------------------
    pixels    (B, 3, 64, 64)                                normalised by images.clip_pixels
    x         (B, 16, 16, 16) ... (B, 512, 2, 2)            after the stem ... after the last stage
    hidden    (B, 5, 512)                                   mean and places, what the attention pooling reads
    pooled    (B, E)                                        the embedding, not normalised

Names are those of OpenAI's and open_clip's files inside `visual.`.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import attend
from .checkpoints import from_folder

MODEL_TYPE = "clip_resnet_model"
DEFAULTS = dict(model_type=MODEL_TYPE, layers=[3, 4, 6, 3], width=64, image_size=224, head_dim=64, projection_dim=1024)
EXPANSION = 4                        # a bottleneck gives 4 times the channels that it works with
SHRINKS = 32                         # the last stage's side is 1/32 of the picture's


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, added to the input. (B, C, H, W) -> (B, 4 width, H / stride, W / stride)"""

    def __init__(self, channels, width, stride=1):
        super().__init__()
        wide = EXPANSION * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.stride = stride
        self.downsample = None
        if stride > 1 or channels != wide:
            self.downsample = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x):
        y = rectified(self.bn1(self.conv1(x)))
        y = rectified(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.shrink(y)))
        return rectified(y + (x if self.downsample is None else self.downsample(self.shrink(x))))

    def shrink(self, x):
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


def rectified(x):
    """max(x, 0) in place: nobody needs what was there, neither a norm nor a sum on its way back."""
    return F.relu(x, inplace=True)


class AttentionPool(nn.Module):
    """(B, D, H, W) -> hidden (B, 1 + H W, D), the mean, then the places row by row; pooled (B, E), what the mean asks for."""

    def __init__(self, places, width, heads, out):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(1 + places, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, out)

    def forward(self, x):
        places = rearrange(x, "b d h w -> b (h w) d")
        hidden = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        q, k, v = (rearrange(proj(y), "b n (h d) -> b h n d", h=self.heads)
                   for proj, y in ((self.q_proj, hidden[:, :1]), (self.k_proj, hidden), (self.v_proj, hidden)))
        return hidden, self.c_proj(rearrange(attend(q, k, v), "b h 1 d -> b (h d)"))


class CLIPResNet(nn.Module):
    """The image tower: clip_resnet(pixels) -> hidden (B, 1 + places, D), pooled (B, E).

    Args:
        config: dict with
            layers: number of bottlenecks in each of the four stages.
            width: channels after the stem; those of the stages are 4, 8, 16 and 32 times as many, and D is the last.
            image_size: side of the pictures, a multiple of 32.
            head_dim: channels of each head of the attention pooling.
            projection_dim: E.

    In training, batch norms use the mean and variance of the batch, in eval mode the running ones, which are among the weights.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config = {**DEFAULTS, **config}
        width, side, heads = check(config)
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        layers = config["layers"]
        self.layer1 = stage(layers[0], width, width, stride=1)
        self.layer2 = stage(layers[1], 4 * width, 2 * width, stride=2)
        self.layer3 = stage(layers[2], 8 * width, 4 * width, stride=2)
        self.layer4 = stage(layers[3], 16 * width, 8 * width, stride=2)
        self.attnpool = AttentionPool(side ** 2, 32 * width, heads, config["projection_dim"])

    @classmethod
    def from_config(cls, config):
        return cls(config)

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Read config.json and *.safetensors; `variant="fp16"` for *.fp16.safetensors."""
        return from_folder(cls, folder, device, dtype, variant=variant)

    def forward(self, pixels):
        """pixels: (B, 3, H, W), normalised by `images.clip_pixels`. `hidden` is what the attention pooling reads."""
        size = self.config["image_size"]
        if pixels.shape[-2:] != (size, size):
            raise ValueError(f"images are {tuple(pixels.shape[-2:])}, this image encoder reads {size}x{size}; "
                             "see minidiff.images.clip_pixels")
        x = pixels.contiguous(memory_format=torch.channels_last)                    # a quarter less time in training on a CPU
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = rectified(norm(conv(x)))
        x = F.avg_pool2d(x, 2)                                                      # (B, width, H / 4, W / 4)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.attnpool(x)                                                     # of (B, D, H / 32, W / 32)

    def init_weights(self, generator=None):
        """Start values as in the authors' code: torch's own for convolutions; every bottleneck starts as its shortcut."""
        pool, std = self.attnpool, self.attnpool.c_proj.in_features ** -0.5
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=5 ** 0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std, generator=generator)
                nn.init.uniform_(module.bias, -std, std, generator=generator)
        nn.init.normal_(pool.positional_embedding, std=std, generator=generator)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
        return self


def stage(count, channels, width, stride):
    """`count` bottlenecks, of which the first one makes the picture smaller. (B, channels, H, W) -> (B, 4 width, ...)"""
    first = Bottleneck(channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width) for _ in range(count - 1)))


def check(config):
    """(width, side of the last stage, heads) of a config; ValueError if no such tower can be."""
    width, size, head = config["width"], config["image_size"], config["head_dim"]
    if config["model_type"] != MODEL_TYPE:
        raise ValueError(f"it is a {config['model_type']}, expected a {MODEL_TYPE}")
    if len(config["layers"]) != 4 or min(config["layers"]) < 1:
        raise ValueError(f"layers are {config['layers']}, expected four numbers above zero")
    if width % 2 or size % SHRINKS:
        raise ValueError(f"width is {width}, expected an even number" if width % 2 else
                         f"image_size is {size}, expected a multiple of {SHRINKS}")
    if 32 * width % head:
        raise ValueError(f"the last stage has {32 * width} channels, which is no multiple of head_dim {head}")
    return width, size // SHRINKS, 32 * width // head
