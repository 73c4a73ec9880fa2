"""Low-rank adapters: W x + s (alpha / r) B A x on chosen layers of a frozen model. Hu et al. 2022, arXiv:2106.09685, Eq. (3).

    paper        code                  meaning                                        shape (Linear; convolution)
    -----------  --------------------  ---------------------------------------------  ------------------------------------
    A            down.weight           random at the start                            (r, in); (r, in, k, k)
    B            up.weight             zero at the start: nothing changes             (out, r); (out, r, 1, 1)
    r            rank                  smaller where the layer itself is smaller      int
    alpha / r    alpha / rank          fixed; files carry alpha                       float
    s            lora.scale            how much of it is on, free to change: the      float, or (B,): one per picture
                                       position of a slider

An adapter is a forward hook on the layer it changes, so the model keeps its names, its weights and its state dict.
Several adapters on one layer add up; each has its own scale. The formats of files are in lora_files.py.
"""
import math
import re
from contextlib import contextmanager
from functools import partial

import torch
from einops import einsum
from torch import nn

from .checkpoints import CheckpointError
from .lora_files import adaptable, component_of, listed, names_in_files, read, save

# Which Linear and Conv2d layers of a UNet get an adapter ("c3lier" of the Concept Sliders code): those inside attention,
# residual blocks and samplers. Not conv_in, conv_out, the time embedding, feed-forward, proj_in and proj_out.
TARGETS = re.compile(r"\.attn[12]\.|\.resnets\.|\.downsamplers\.|\.upsamplers\.|\.attentions\.\d+\.(to|add)_")

WHERE = {
    "full": lambda name: True,
    "noxattn": lambda name: ".attn2." not in name,
    "innoxattn": lambda name: ".attn2." not in name,            # their code has both names; the sets are equal
    "selfattn": lambda name: ".attn1." in name,
    "xattn": lambda name: ".attn2." in name,
    "xattn-strict": lambda name: ".attn2." in name and ".to_out." not in name,
    "noxattn-hspace": lambda name: ".attn2." not in name and name.startswith("mid_block."),
    "noxattn-hspace-last": lambda name: name == "mid_block.resnets.1.conv2",
}


def attach(module, rank=4, alpha=1.0, where="noxattn", generator=None):
    """Put a new adapter on `module`, whose own weights are frozen from here on: only the adapter learns.

    Args:
        module: a UNet, or any module.
        rank, alpha: see above.
        where: a name in WHERE, or a function of a layer's name that says whether it gets an adapter.
        generator: torch.Generator for A.

    Returns:
        LoRA, at scale 1.
    """
    if rank < 1 or not alpha > 0:
        raise ValueError(f"rank {rank}, alpha {alpha}; expected a rank of at least 1 and an alpha above 0")
    layers = {name: layer for name, layer in adaptable(module).items() if chosen(name, where)}
    if not layers:
        raise ValueError(f"no layer of {type(module).__name__} is chosen by where={where!r}")
    module.requires_grad_(False)
    return LoRA(module, {name: Adapter(layer, min(rank, *layer.weight.shape[:2]), alpha, generator)
                         for name, layer in layers.items()})


def chosen(name, where):
    if callable(where):
        return where(name)
    if where not in WHERE:
        raise ValueError(f"where={where!r}, expected a function or one of {', '.join(WHERE)}")
    return bool(TARGETS.search(name)) and WHERE[where](name)


class Adapter(nn.Module):
    """(alpha / r) B A for one layer. Its weights are float32, whatever the layer's are."""

    def __init__(self, layer, rank, alpha, generator=None):
        super().__init__()
        out_width, in_width = layer.weight.shape[:2]
        self.rank, self.alpha = rank, alpha
        new = dict(bias=False, device=layer.weight.device, dtype=torch.float32)
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                raise ValueError("an adapter for a grouped convolution is not supported")
            geometry = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
            self.down = nn.Conv2d(in_width, self.rank, layer.kernel_size, **geometry, **new)
            self.up = nn.Conv2d(self.rank, out_width, 1, **new)
        else:
            self.down = nn.Linear(in_width, self.rank, **new)
            self.up = nn.Linear(self.rank, out_width, **new)
        nn.init.kaiming_uniform_(self.down.weight, a=1, generator=generator)        # uniform in +- sqrt(3 / fan_in)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.alpha / self.rank * self.up(self.down(x.to(self.down.weight.dtype)))

    def weight(self):
        """(alpha / r) B A as one weight in the layer's shape: (out, in) or (out, in, k, k), float32."""
        up, down = self.up.weight.flatten(1), self.down.weight
        return self.alpha / self.rank * einsum(up, down, "o r, r i ... -> o i ...")


class LoRA(nn.Module):
    """The adapters of one model, with one scale. Made by `attach` and `load`.

    scale: a float; 0.0 is bit for bit the model without it. A tensor (B,) gives every picture of a batch its own; a
        batch of k times B pictures (guidance) repeats it k times. It may change at any time, but text keys and values
        computed ahead (`unet.text_kv`) keep the scale that they were computed with.
    """

    def __init__(self, module, adapters):
        super().__init__()
        self.names = list(adapters)
        self.adapters = nn.ModuleList(adapters.values())
        self.scale = 1.0
        self._module = [module]              # in a list, so that the model's weights do not become parameters of the LoRA
        layers = adaptable(module)
        self._hooks = [layers[name].register_forward_hook(partial(self._add, adapter))
                       for name, adapter in adapters.items()]

    @property
    def module(self):
        """The model that it was made for."""
        return self._module[0]

    def _add(self, adapter, layer, args, output):
        """Forward hook: what the layer gave -> that plus s (alpha / r) B A x."""
        if isinstance(self.scale, torch.Tensor):
            return output + (self._scale_for(output) * adapter(args[0])).to(output.dtype)
        if self.scale == 0:
            return output
        return output + (self.scale * adapter(args[0])).to(output.dtype)

    def _scale_for(self, output):
        """The scale, shaped to multiply (B, ...)."""
        scale, batch = self.scale.to(output.device).reshape(-1), len(output)
        if batch % len(scale) and batch != 1:
            raise ValueError(f"scale has {len(scale)} values, for a batch of {batch}; expected 1, {batch} or a divisor")
        repeated = scale.repeat(max(1, batch // len(scale)))
        return repeated.reshape(-1, *[1] * (output.ndim - 1))

    @contextmanager
    def at(self, scale):
        """`with lora.at(0.5): ...` sets the scale and afterwards puts back what it was."""
        before, self.scale = self.scale, scale
        try:
            yield self
        finally:
            self.scale = before

    def detach(self):
        """Take the adapter off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def merge(self):
        """Add the update, at the present scale, to the model's own weights, and take the adapter off. See also `merged`."""
        for weight, update in self.updates():
            weight.copy_(weight.float() + update)
        self.detach()

    def updates(self):
        """Yields (a weight of the model, what the adapter adds to it at the present scale), one at a time: together they are large."""
        if isinstance(self.scale, torch.Tensor) and self.scale.numel() != 1:
            raise ValueError("a scale per picture cannot be merged into one set of weights; set lora.scale to a float")
        if not self._hooks:
            raise ValueError("this LoRA is not on its model any more (merged or detached)")
        layers = adaptable(self.module)
        for name, adapter in zip(self.names, self.adapters) if self.scale != 0 else ():
            weight = layers[name].weight
            yield weight, float(self.scale) * adapter.weight().to(weight.device)

    def save(self, path, layout="kohya", prefix=None):
        """Write a .safetensors file that others load; the scale is not part of it.

        Args:
            layout: "kohya" (A1111, ComfyUI, diffusers) or "diffusers" (PEFT's names).
            prefix: which component of a file this is: "unet", "text_encoder", for SDXL "text_encoder_1" and
                "text_encoder_2"; None finds out, but takes every text encoder for the only one.

        `lora.save(path, {component: LoRA}, layout)` writes several components into one file.
        """
        save(path, {component_of(self.module, prefix): self}, layout)


@contextmanager
def merged(loras):
    """`with lora.merged([a, b]): ...` has the updates, at their present scales, in the model's own weights.

    The model then costs what it costs without adapters. Afterwards its weights are what they were, bit for bit: until then a copy
    of those that change is kept. In half precision the sum is rounded to what the weights can hold.
    """
    before, scales = {}, [one.scale for one in loras]
    try:
        with torch.no_grad():
            for one in loras:
                for weight, update in one.updates():
                    before.setdefault(weight, weight.clone())
                    weight.copy_(weight.float() + update)
                one.scale = 0.0                                     # its hooks add nothing more
        yield
    finally:
        for weight, values in before.items():
            weight.data.copy_(values)
        for one, scale in zip(loras, scales):
            one.scale = scale


@torch.no_grad()
def load(module, path, prefix=None):
    """Put the adapter in a file on `module`, at scale 1, frozen. What the file has for other models is left alone.

    Args:
        module: a UNet or a text encoder.
        path: .safetensors (or .pt, read without unpickling code) in kohya's, diffusers' or PEFT's layout.
        prefix: which component of the file, as in `LoRA.save`.

    Returns:
        LoRA. CheckpointError for a file of another kind or family, and for adapters that fit no layer.
    """
    parts = read(path, module, prefix)
    layers, names = adaptable(module), names_in_files(module)
    adapters, problems = {}, []
    for key, part in parts.items():
        name = names.get(key.replace(".", "_"))
        try:
            if name is None or name in adapters:
                raise ValueError("no such layer" if name is None else "a second adapter for this layer")
            adapters[name] = filled(layers[name], part)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise CheckpointError(f"{path} does not fit this {type(module).__name__}, {len(problems)} of {len(parts)} layers; "
                              f"is it for another model?{listed(problems)}")
    in_order = {name: adapters[name] for name in layers if name in adapters}
    return LoRA(module, in_order).requires_grad_(False)


def filled(layer, part):
    """An Adapter for `layer` with the tensors of a file, or ValueError. A missing alpha, or 0, means alpha = r."""
    if "down" not in part or "up" not in part:
        raise ValueError("down or up is missing")
    (out_width, *inner), rank = layer.weight.shape, part["down"].shape[:1].numel()
    for tensor, shape in ((part["down"], (rank, *inner)), (part["up"], (out_width, rank, *[1] * (len(inner) - 1)))):
        # a 1x1 convolution may be written as a Linear, and the other way round
        if rank == 0 or tensor.shape[:2] != shape[:2] or tensor.numel() != math.prod(shape):
            raise ValueError(f"shape {tuple(tensor.shape)}, expected {shape}")
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise ValueError("holds values that are not finite, or no floating-point numbers")
    adapter = Adapter(layer, rank, alpha_of(part) or rank)
    for own, tensor in ((adapter.down, part["down"]), (adapter.up, part["up"])):
        own.weight.copy_(tensor.reshape(own.weight.shape))
    return adapter


def alpha_of(part):
    """alpha as a float, 0 if there is none."""
    alpha = part.get("alpha")
    if isinstance(alpha, torch.Tensor):
        alpha = alpha.item() if alpha.numel() == 1 else alpha.tolist()
    alpha = 0 if alpha is None else alpha
    if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"alpha is {alpha}, expected one number")
    return float(alpha)
