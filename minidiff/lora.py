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
Several adapters on one layer add up; each has its own scale.
"""
import json
import re
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from einops import einsum
from safetensors import safe_open
from torch import nn

from .checkpoints import CheckpointError, read_tensors, write_tensors

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
    layers = {name: layer for name, layer in adaptable(module).items() if chosen(name, where)}
    if not layers:
        raise ValueError(f"no layer of {type(module).__name__} is chosen by where={where!r}")
    module.requires_grad_(False)
    return LoRA(module, {name: Adapter(layer, min(rank, *layer.weight.shape[:2]), alpha, generator)
                         for name, layer in layers.items()})


def adaptable(module):
    """{name: layer} of all Linear and Conv2d layers."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


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
        """Add the update, at the present scale, to the model's own weights, and take the adapter off."""
        if isinstance(self.scale, torch.Tensor) and self.scale.numel() != 1:
            raise ValueError("a scale per picture cannot be merged into one set of weights; set lora.scale to a float")
        if not self._hooks:
            raise ValueError("this LoRA is not on its model any more (merged or detached)")
        layers = adaptable(self._module[0])
        for name, adapter in zip(self.names, self.adapters):
            weight = layers[name].weight
            weight.copy_(weight.float() + float(self.scale) * adapter.weight().to(weight.device))
        self.detach()

    def save(self, path, layout="kohya", prefix=None):
        """Write a .safetensors file that others load; the scale is not part of it.

        Args:
            layout: "kohya" (A1111, ComfyUI, diffusers) or "diffusers" (PEFT names).
            prefix: the component's name in the file: "unet", "text_encoder" or "text_encoder_2"; None finds out.
        """
        if layout not in ("kohya", "diffusers"):
            raise ValueError(f"layout {layout!r}, expected kohya or diffusers")
        component = component_of(self._module[0], prefix)
        # diffusers misreads a kohya file whose alphas differ, so all get one, and B takes up the difference.
        alpha = float(self.adapters[0].alpha)
        tensors = {}
        for name, adapter in zip(self.names, self.adapters):
            down, up = adapter.down.weight, adapter.up.weight
            if layout == "kohya":
                key = f"{KOHYA[component][0]}_{name.replace('.', '_')}"
                tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up * (adapter.alpha / alpha),
                            f"{key}.alpha": torch.tensor(alpha)}
            else:                            # has no place for alpha: readers take alpha = r
                tensors |= {f"{component}.{name}.lora_A.weight": down,
                            f"{component}.{name}.lora_B.weight": up * (adapter.alpha / adapter.rank)}
        rank = max(adapter.rank for adapter in self.adapters)
        kohya = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
        write_tensors(path, tensors, metadata={"format": "pt", **(kohya if layout == "kohya" else {})})


# Files ------------------------------------------------------------------------------------------------------------

# The name of a component in diffusers' layouts, and what kohya's keys begin with.
KOHYA = {"unet": ("lora_unet",), "text_encoder": ("lora_te", "lora_te1"), "text_encoder_2": ("lora_te2",)}

# The end of a key, and which part of the adapter it is.
ENDINGS = [
    (r"\.lora_down\.weight$", "down"), (r"\.lora_up\.weight$", "up"), (r"\.alpha$", "alpha"),                # kohya
    (r"\.lora_A(\.\w+)?\.weight$", "down"), (r"\.lora_B(\.\w+)?\.weight$", "up"),                            # PEFT
    (r"\.lora(_linear_layer)?\.down\.weight$", "down"), (r"\.lora(_linear_layer)?\.up\.weight$", "up"),      # diffusers
    (r"_lora\.down\.weight$", "down"), (r"_lora\.up\.weight$", "up"),                        # attention processors
]


@torch.no_grad()
def load(module, path, prefix=None):
    """Put the adapter in a file on `module`, at scale 1, frozen. What the file has for other models is left alone.

    Args:
        module: a UNet or a text encoder.
        path: .safetensors (or .pt, read without unpickling code) in kohya's, diffusers' or PEFT's layout.
        prefix: which component of the file: "unet", "text_encoder" or "text_encoder_2"; None takes what `module` is.

    Returns:
        LoRA. CheckpointError for a file of another kind, and for adapters that fit no layer.
    """
    component = component_of(module, prefix)
    tensors, metadata = read_file(path)
    parts, others, unknown = {}, set(), []
    for key, tensor in tensors.items():
        owner, name, part = parse(key, component)
        if part is None:
            unknown.append(key)
        elif owner == component:
            parts.setdefault(name, {})[part] = tensor
        else:
            others.add(owner)
    if unknown:
        raise CheckpointError(f"{path} is not a LoRA that can be read here; keys not understood: {listed(unknown)}")
    if not parts:
        raise CheckpointError(f"{path} has nothing for {component}, only {', '.join(sorted(others)) or 'no tensors'}")
    if others:
        warnings.warn(f"{path} is also for {', '.join(sorted(others))}; load that part onto it as well")
    layers = adaptable(module)
    names = {name.replace(".", "_"): name for name in layers}
    adapters, problems = {}, []
    for key, part in parts.items():
        flat = key.replace(".", "_")
        name = names.get(flat) or names.get(f"text_model_{flat}")        # transformers 5 leaves out text_model
        try:
            adapters[name] = filled(layers[name], part, file_alpha(metadata, component, key))
        except KeyError:
            problems.append(f"{key}: no such layer" if name is None else f"{key}: down or up is missing")
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise CheckpointError(f"{path} does not fit this {type(module).__name__}: {listed(problems)}")
    in_order = {name: adapters[name] for name in layers if name in adapters}
    return LoRA(module, in_order).requires_grad_(False)


def component_of(module, prefix=None):
    """What `module` is called in a file: CLIP's text towers have layers named self_attn, UNets do not."""
    if prefix is not None:
        if prefix not in KOHYA:
            raise ValueError(f"prefix {prefix!r}, expected one of {', '.join(KOHYA)}")
        return prefix
    return "text_encoder" if any(".self_attn." in name for name in adaptable(module)) else "unet"


def read_file(path):
    """(tensors, metadata) of a .safetensors file, or of a .pt like those of the official sliders."""
    if Path(path).is_file() and Path(path).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:          # damaged, not from torch, or with code in it: many kinds of exception
            raise CheckpointError(f"{path} is not a plain file of tensors ({error}); use a .safetensors file") from error
        if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
            raise CheckpointError(f"{path} is not a plain file of tensors; use a .safetensors file")
        return tensors, {}
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as f:
        return tensors, f.metadata() or {}


def parse(key, component):
    """A key of a file -> (component, layer, "down" | "up" | "alpha"), the last None if the key is not understood.

    kohya writes the layer's name with "_" for ".", which cannot be undone without the list of layers.
    """
    for ending, part in ENDINGS:
        name, found = re.subn(ending, "", key)
        if found:
            break
    else:
        return component, key, None
    name = re.sub(r"^base_model\.model\.", "", name)                                    # PEFT on its own
    name = re.sub(r"\.processor\.to_out$", ".to_out.0", name).replace(".processor.", ".")
    for owner, kohya in KOHYA.items():
        for start in (f"{owner}.", *(f"{k}_" for k in kohya)):
            if name.startswith(start):
                return owner, name[len(start):], part
    return component, name, part                # diffusers' save_lora_adapter names no component


def file_alpha(metadata, component, name):
    """alpha of a layer from the file's header, where diffusers puts it; None if it does not say."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    config = {key.removeprefix(f"{component}."): value for key, value in config.items()}
    if config.get("use_rslora") or config.get("use_dora"):
        raise ValueError("rank-stabilised LoRA and DoRA are not supported")
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return alpha
    return config.get("lora_alpha")


def filled(layer, part, header_alpha):
    """An Adapter for `layer` with the tensors of a file. A missing alpha, or 0, means alpha = r."""
    rank = len(part["down"])
    adapter = Adapter(layer, rank, float(part.get("alpha", 0)) or header_alpha or rank)
    for own, tensor in ((adapter.down, part["down"]), (adapter.up, part["up"])):
        # a 1x1 convolution may be written as a Linear, and the other way round
        if tensor.shape[:2] != own.weight.shape[:2] or tensor.numel() != own.weight.numel():
            raise ValueError(f"shape {tuple(tensor.shape)}, expected {tuple(own.weight.shape)}")
        if not tensor.isfinite().all():
            raise ValueError("holds values that are not finite")
        own.weight.copy_(tensor.reshape(own.weight.shape))
    return adapter


def listed(problems, most=10):
    shown = "\n  ".join(problems[:most])
    return f"\n  {shown}" + (f"\n  and {len(problems) - most} more" if len(problems) > most else "")
