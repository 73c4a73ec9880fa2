"""The files of low-rank adapters, read and written: .safetensors, or an old .pt.

    layout       keys for the layer mid_block.attentions.0.proj_in of a UNet                            written by
    -----------  -------------------------------------------------------------------------------------  -------------------
    kohya        lora_unet_mid_block_attentions_0_proj_in .lora_down.weight, .lora_up.weight, .alpha    kohya, minidiff
    kohya, SDXL  lora_unet_middle_block_1_proj_in ... : the block numbers of the original code          kohya, minidiff
    PEFT         unet.mid_block.attentions.0.proj_in .lora_A.weight, .lora_B.weight                     diffusers, minidiff
    diffusers    unet.mid_block.attentions.0.proj_in .lora.down.weight, .lora.up.weight                 diffusers in 2023
    processors   unet.<attention>.processor .to_q_lora.down.weight, .to_q_lora.up.weight                diffusers before

On reading all of them are accepted, whatever the UNet; layers are found by comparing with the names of the UNet at
hand, because kohya's "_" for "." cannot be undone without that list. Where a layout has no place for alpha, alpha = r.
"""
import re
import warnings

import torch
from torch import nn

from .checkpoints import write_tensors
from .tensorfile import CheckpointError, printable, read_json, read_metadata, read_tensors
from .unet import UNet, original_name

# What a component's keys begin with: in diffusers' layouts, and in kohya's.
COMPONENTS = {"unet": ("unet", "lora_unet"), "text_encoder": ("text_encoder", "lora_te"),
              "text_encoder_1": ("text_encoder", "lora_te1"),            # the first of SDXL's two, under another name
              "text_encoder_2": ("text_encoder_2", "lora_te2")}

# The end of a key, and which part of the adapter it is.
ENDINGS = [
    (r"\.lora_down\.weight$", "down"), (r"\.lora_up\.weight$", "up"), (r"\.alpha$", "alpha"),                # kohya
    (r"\.lora_A(\.\w+)?\.weight$", "down"), (r"\.lora_B(\.\w+)?\.weight$", "up"),                            # PEFT
    (r"\.lora(_linear_layer)?\.down\.weight$", "down"), (r"\.lora(_linear_layer)?\.up\.weight$", "up"),      # diffusers
    (r"_lora\.down\.weight$", "down"), (r"_lora\.up\.weight$", "up"),                                        # processors
]

FAMILIES = {768: "sd_v1", 1024: "sd_v2", 2048: "sdxl_base_v1-0"}         # width of the text -> its name in kohya's headers


# Names of layers --------------------------------------------------------------------------------------------------


def adaptable(module):
    """{name: layer} of all Linear and Conv2d layers."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def component_of(module, prefix=None):
    """What `module` is called in a file: CLIP's text towers have layers named self_attn, UNets do not."""
    if prefix is not None:
        if prefix not in COMPONENTS:
            raise ValueError(f"prefix {prefix!r}, expected one of {', '.join(COMPONENTS)}")
        return prefix
    return "text_encoder" if any(".self_attn." in name for name in adaptable(module)) else "unet"


def flat(name):
    return name.replace(".", "_")


def original_names(module):
    """{layer: its name in the original code}; empty if `module` is no UNet, or of a kind that has no such names."""
    if not isinstance(module, UNet):
        return {}
    try:
        return {name: original_name(name, module.config) for name in adaptable(module)}
    except ValueError:
        return {}


def names_in_files(module):
    """{a layer's name in any layout, with "_" for ".": the layer}"""
    names = {flat(theirs): ours for ours, theirs in original_names(module).items()}
    for name in adaptable(module):
        names[flat(name.removeprefix("text_model."))] = name             # transformers 5 leaves it out
        names[flat(name)] = name
    return names


def family(module):
    """kohya's name for the family of a UNet; None for a text encoder, or if this UNet is of no public family."""
    config = getattr(module, "config", {})
    is_told_of_images = config.get("addition_embed_type") not in (None, "text_time")      # Kandinsky is as wide as SD 1
    return None if is_told_of_images else FAMILIES.get(config.get("cross_attention_dim"))


# Writing ----------------------------------------------------------------------------------------------------------


def save(path, loras, layout="kohya"):
    """Write one .safetensors file for one or several models; the scales are not part of it.

    Args:
        loras: {component: LoRA}, such as {"unet": a, "text_encoder_1": b, "text_encoder_2": c}; see COMPONENTS.
        layout: "kohya" (A1111, ComfyUI, diffusers) or "diffusers" (PEFT's names).

    The UNet of an SDXL is written with the original code's names in kohya's layout, as kohya does: A1111 knows no other
    names for some of its layers. diffusers 0.42 reads every layer under them.
    """
    if layout not in ("kohya", "diffusers"):
        raise ValueError(f"layout {layout!r}, expected kohya or diffusers")
    if not loras:
        raise ValueError("no LoRA to save; expected {component: LoRA}")
    # diffusers misreads a kohya file whose alphas differ, so all get one, and B takes up the difference.
    first = next(iter(loras.values()))
    alpha = float(first.adapters[0].alpha)
    tensors = {}
    for component, lora in loras.items():
        write = kohya_tensors if layout == "kohya" else peft_tensors
        tensors |= write(lora, COMPONENTS[component_of(None, component)], alpha)
    metadata = {"format": "pt"}
    if layout == "kohya":
        rank = max(adapter.rank for lora in loras.values() for adapter in lora.adapters)
        metadata |= {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
        known = [name for name in (family(lora.module) for lora in loras.values()) if name]
        metadata |= {"ss_base_model_version": known[0]} if known else {}
    write_tensors(path, tensors, metadata)


def kohya_tensors(lora, starts, alpha):
    is_sdxl = getattr(lora.module, "config", {}).get("addition_embed_type") == "text_time"
    theirs = original_names(lora.module) if is_sdxl else {}
    tensors = {}
    for name, adapter in zip(lora.names, lora.adapters):
        key = f"{starts[1]}_{flat(theirs.get(name, name))}"
        tensors |= {f"{key}.lora_down.weight": adapter.down.weight, f"{key}.alpha": torch.tensor(alpha),
                    f"{key}.lora_up.weight": adapter.up.weight * (adapter.alpha / alpha)}
    return tensors


def peft_tensors(lora, starts, alpha):
    """This layout has no place for alpha: readers take alpha = r."""
    tensors = {}
    for name, adapter in zip(lora.names, lora.adapters):
        key = f"{starts[0]}.{name}"
        tensors |= {f"{key}.lora_A.weight": adapter.down.weight,
                    f"{key}.lora_B.weight": adapter.up.weight * (adapter.alpha / adapter.rank)}
    return tensors


# Reading ----------------------------------------------------------------------------------------------------------


def read(path, module, prefix=None):
    """What a file has for `module`.

    Returns:
        {layer's name as in the file: {"down": tensor, "up": tensor, "alpha": number or None}}, nothing checked yet.
        CheckpointError if the file is no LoRA, has nothing for `module`, or says that it is for another family.
    """
    component = COMPONENTS[component_of(module, prefix)][0]
    tensors, header = read_tensors(path), read_metadata(path)
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
    check_family(path, module, parts, header)
    if others:
        warnings.warn(f"{path} is also for {', '.join(sorted(others))}; load that part onto it as well", stacklevel=3)
    add_alphas(path, parts, header, component)
    return parts


def parse(key, component):
    """A key of a file -> (component, layer, "down" | "up" | "alpha"), the last None if the key is not understood."""
    for ending, part in ENDINGS:
        name, found = re.subn(ending, "", key)
        if found:
            break
    else:
        return component, key, None
    name = re.sub(r"^base_model\.model\.", "", name)                                    # PEFT on its own
    name = re.sub(r"\.processor\.to_out$", ".to_out.0", name).replace(".processor.", ".")
    for owner, kohya in COMPONENTS.values():
        for start in (f"{owner}.", f"{kohya}_"):
            if name.startswith(start):
                return owner, name[len(start):], part
    return component, name, part                # diffusers' save_lora_adapter names no component


def check_family(path, module, parts, header):
    """CheckpointError if the file is for one public family and `module` is of another one.

    The layers that are not about text are alike in Stable Diffusion 1 and 2: then only the header can tell.
    """
    widths = [part["down"].shape[-1] for name, part in parts.items() if "down" in part and part["down"].ndim == 2
              and re.search(r"attn2[._]to_[kv]$", name)]
    made_for, own = header.get("ss_base_model_version") or FAMILIES.get(max(widths, default=None)), family(module)
    if made_for and own and not made_for.startswith(own[:5]):
        raise CheckpointError(f"{path} is a LoRA for {made_for}, this UNet is {own}; use one that was made for it")


def add_alphas(path, parts, header, component):
    """Fill in alpha from the file's header, where diffusers puts it."""
    config = read_json(header.get("lora_adapter_metadata", "{}").encode(), f"lora_adapter_metadata in the header of {path}")
    config = {key.removeprefix(f"{component}."): value for key, value in config.items()}
    if config.get("use_rslora") or config.get("use_dora"):
        raise CheckpointError(f"{path} is a rank-stabilised LoRA or a DoRA, which cannot be read here")
    alphas = config.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(re.fullmatch(r"[\w.]+", name) for name in alphas):
        raise CheckpointError(f"the header of {path} has an alpha_pattern of {printable(alphas)}, expected names of layers")
    for name, part in parts.items():
        found = [alpha for end, alpha in alphas.items() if f".{name}".endswith(f".{end}")]
        part.setdefault("alpha", found[0] if found else config.get("lora_alpha"))


def listed(problems, most=10):
    shown = "\n  ".join(map(printable, problems[:most]))
    return f"\n  {shown}" + (f"\n  and {len(problems) - most} more" if len(problems) > most else "")
