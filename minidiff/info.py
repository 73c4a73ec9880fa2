"""What is in a checkpoint, and does it fit? `python -m minidiff info PATH`, for a folder or for one file.

Everything is loaded, strictly, but onto the meta device: names, shapes and types, no values. That takes a second.
"""
import argparse
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from . import CLIP, VAE, CLIPImage, CLIPText, MoVQ, Prior, UNet, lora_files, single_file, tokens
from .checkpoints import CheckpointError, find, from_folder, printable, read_config, read_folder, variants
from .kandinsky import DECODER, PRIOR
from .pipeline import PARTS, PARTS_XL, parts_of
from .resnet import CLIPResNet
from .schedule import Schedule
from .tensorfile import read_tensors
from .tokenizer import Tokenizer

CLASSES = {"UNet2DConditionModel": UNet, "AutoencoderKL": VAE, "VQModel": MoVQ, "PriorTransformer": Prior,
           "CLIPTextModel": CLIPText, "CLIPTextModelWithProjection": CLIPText, "clip_text_model": CLIPText,
           "CLIPVisionModel": CLIPImage, "CLIPVisionModelWithProjection": CLIPImage, "clip_vision_model": CLIPImage,
           "clip_resnet_model": CLIPResNet, "CLIPModel": CLIP, "clip": CLIP}
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}        # of the text
KANDINSKY = {"KandinskyV22PriorPipeline": "Kandinsky 2.2, the prior", "KandinskyV22Pipeline": "Kandinsky 2.2, the decoder",
             "KandinskyV22CombinedPipeline": "Kandinsky 2.2, prior and decoder", "UnCLIPPipeline": "Karlo",
             "KandinskyPriorPipeline": "Kandinsky 2.1, the prior", "KandinskyPipeline": "Kandinsky 2.1, the decoder"}

# A component's weights without their config.json, by their keys.
ALONE = [(r"^(down_blocks|mid_block)\.", "a UNet in the layout of diffusers"),
         (r"^((en|de)coder|(post_)?quant_conv)\.", "an autoencoder"),
         (r"^prd_embedding$", "a prior"),
         (r"^(text_model\.|vision_model\.|transformer\.resblocks\.|visual\.)", "a CLIP, or a tower of one")]
UNUSED = "not used"


@dataclass
class Part:
    """One line of the report: a component, what its files hold, and what is wrong with it."""
    name: str
    kind: str = ""                                # class, or what it is in words
    tensors: dict = field(default_factory=dict)   # {key: tensor}, of which only shapes and types matter
    config: dict = field(default_factory=dict)
    problem: str = ""
    note: str = ""

    def cells(self):
        floats = [t for t in self.tensors.values() if t.is_floating_point()]
        numbers = [f"{sum(t.numel() for t in floats) / 1e6:,.2f} M",
                   ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in floats})),
                   f"{sum(t.numel() * t.element_size() for t in self.tensors.values()):,} bytes"]
        return [self.name, self.kind, *(numbers if self.tensors else [""] * 3), "see below" if self.problem else self.note]


def describe(path, variant=None):
    """(title, [Part]) of a folder or a file. CheckpointError if it is nothing that minidiff knows."""
    path = Path(path).expanduser() if str(path) != "toybox" else find(path)
    if path.is_dir():
        return describe_folder(path, variant)
    tensors = read_tensors(path, device="meta")
    for look in (describe_lora, describe_embedding, describe_alone):
        found = look(path, tensors)
        if found:
            return found
    return describe_single_file(path, tensors)    # or the error that says what else it may be


# -------------------------------------------------------------------------------------------------------------- folders

def describe_folder(folder, variant):
    if (folder / "model_index.json").is_file():
        names = sorted(parts_of(folder))
        others = sorted(p.name for p in folder.iterdir() if p.name not in names and (p / "config.json").is_file())
        parts = [describe_part(folder / name, variant) for name in [*names, *others]]
        missing = [name for name in wanted(names) if name not in names]
        parts += [Part(name, problem=f"{folder}/model_index.json does not name it") for name in missing]
        return family(read_config(folder, "model_index.json").get("_class_name"), parts), parts
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    if not any((folder / name).is_file() for name in ("config.json", "open_clip_config.json")):
        raise CheckpointError(f"no model_index.json and no config.json in {folder}, which would say what it is" +
                              (f"; for one of its files give {folder / files[0]}" if files else ""))
    part = describe_network(folder, variant)
    if part.note == UNUSED:
        known = ", ".join(sorted({make.__name__ for make in CLASSES.values()}))
        raise CheckpointError(f"{folder} is a {part.kind}, expected {known}")
    return f"one component, {part.kind}", [part]


def wanted(names):
    """The parts that a model needs, by those it has."""
    if "prior" in names:
        return PRIOR if "decoder" not in names else ()           # Karlo: both in one folder, of which we have the prior
    return DECODER if "movq" in names else PARTS_XL if "text_encoder_2" in names else PARTS


def family(pipeline, parts):
    """What a whole model is called, by the name of its class and the numbers in the configs of its parts."""
    configs = {part.name: part.config for part in parts}
    if isinstance(pipeline, str) and pipeline in KANDINSKY:
        return KANDINSKY[pipeline]
    if configs.get("vae", {}).get("patch_size", 1) != 1:      # public autoencoders have none
        return "toybox"
    width = configs.get("unet", {}).get("cross_attention_dim")
    known = WIDTHS.get(width) if isinstance(width, int) else None
    return known or f"{printable(pipeline)}, text of width {printable(width)}"


def describe_part(folder, variant):
    """The Part that a folder is: a network, a tokenizer, a scheduler, or something else."""
    if folder.name.startswith("tokenizer"):
        return describe_small(folder, Tokenizer, lambda tokenizer: f"{len(tokenizer.vocab):,} tokens")
    if folder.name.endswith("scheduler"):
        return describe_small(folder, Schedule, lambda schedule: f"predicts {schedule.prediction_type}")
    if not folder.is_dir():
        return Part(folder.name, problem=f"no folder {folder}, which model_index.json names")
    if folder.name in ("feature_extractor", "image_processor"):
        return Part(folder.name, note=UNUSED)
    return describe_network(folder, variant)


def describe_small(folder, make, note):
    try:
        return Part(folder.name, make.__name__, note=note(make.from_pretrained(folder)))
    except ValueError as error:
        return Part(folder.name, make.__name__, problem=str(error))


def describe_network(folder, variant):
    part = Part(folder.absolute().name)
    try:
        part.config = read_config(folder, "config.json" if (folder / "config.json").is_file() else "open_clip_config.json")
        make, part.kind = class_of(part.config)
        if make is None:
            part.note = UNUSED
            return part
        part.note, part.tensors = "fits", whatever_is_there(folder, variant)
        beside = part.config.get("_completed_by")               # toybox's decoder is only what a UNet has learned
        if beside:
            rest = read_folder(folder.absolute().parent / str(beside), variant, "meta")
            from_folder(make.from_config, folder, "meta", fix=lambda own: rest | own, variant=variant)
            part.note = f"fits, completed by {printable(beside)}"
        else:
            part.tensors = make.from_pretrained(folder, "meta", variant=variant).state_dict()
    except CheckpointError as error:
        part.problem = str(error)
    return part


def class_of(config):
    """(our class, its name); for what minidiff has no class for None, and the name in the config."""
    if {"vision_cfg", "model_cfg"} & config.keys():
        return CLIP, "CLIP"
    names = config.get("architectures")
    names = [config.get("_class_name"), *(names if isinstance(names, list) else []), config.get("model_type")]
    names = [name for name in names if isinstance(name, str)] or ["model of unknown class"]
    known = next((CLASSES[name] for name in names if name in CLASSES), None)
    return known, known.__name__ if known else printable(names[0])


def whatever_is_there(folder, variant):
    """The tensors of a component that does not fit; none if there are none that can be read."""
    try:
        return read_folder(folder, variant, "meta")
    except CheckpointError:
        return {}


# ------------------------------------------------------------------------------------------------------------- one file

def describe_lora(path, tensors):
    """A LoRA, if any key ends like one: a Part for each component it is for."""
    found = {key: lora_files.parse(key, "unet") for key in tensors}
    if not any(part in ("up", "down") for _, _, part in found.values()):
        return None
    parts = []
    for component in sorted({owner for owner, _, _ in found.values()}):
        own = {key: tensors[key] for key, (owner, _, _) in found.items() if owner == component}
        layers = {found[key][1] for key in own if found[key][2]}
        ranks = sorted({len(t) for key, t in own.items() if found[key][2] == "down" and t.ndim})
        strange = ", ".join(printable(key) for key in own if not found[key][2])
        parts.append(Part(component, f"{len(layers)} layers, rank {' or '.join(map(str, ranks))}", own,
                          problem=f"{path}: keys not understood: {printable(strange)}" if strange else ""))
    return f"LoRA{lora_family(tensors)}", parts


def lora_family(tensors):
    """" for Stable Diffusion 1": by the width of the text that its layers read; "" if none of them reads text."""
    widths = {t.shape[-1] for key, t in tensors.items() if re.search(r"attn2[._]to_k\b.*(down|lora_A)", key) and t.ndim > 1}
    return f" for {WIDTHS.get(max(widths), f'text of width {max(widths)}')}" if widths else ""


def describe_embedding(path, tensors):
    """A textual inversion, if there are one or two tensors, each a row or a few."""
    if not 1 <= len(tensors) <= 2 or any(t.ndim not in (1, 2) for t in tensors.values()):
        return None
    name, rows = tokens.read(path)
    return f"textual inversion, token {printable(name)}", [
        Part(part, f"{len(t)} vectors of width {t.shape[-1]}", {part: t}) for part, t in rows.items()]


def describe_single_file(path, tensors):
    """A Stable Diffusion in the original layout, also one without text encoder or VAE; CheckpointError for other files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")           # that it does not say what it predicts is no news here
        file = single_file.split(tensors, path, partial=True)
    parts = [describe_piece(file, name) for name in single_file.PREFIXES[file.family]]
    return f"{single_file.TITLES[file.family]}, single file", parts


def describe_piece(file, name):
    if name not in file.tensors:
        return Part(name, problem=f"{file.path} has no {name}")
    make = single_file.MAKERS[name]               # a class, or its from_config
    part = Part(name, getattr(make, "__self__", make).__name__, dict(file.tensors[name]), note="fits")
    try:
        file.module(name, "meta")
    except CheckpointError as error:
        part.problem = str(error)
    return part


def describe_alone(path, tensors):
    """A component's weights, by themselves or with their config beside them."""
    kinds = [what for pattern, what in ALONE if any(re.search(pattern, key) for key in tensors)]
    if not kinds:
        return None
    if variants([path.name]) and (path.parent / "config.json").is_file() and class_of(read_config(path.parent))[0]:
        return describe_folder(path.parent, *variants([path.name]))
    return f"{kinds[0]}, without its config.json", [Part(path.name, "", tensors)]


# ------------------------------------------------------------------------------------------------------------- printing

def table(rows):
    """Lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) if i in (2, 4) else cell.ljust(width)
                      for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


def main(argv=None):
    """The command. Status 0 if everything fits, 1 if something is missing or wrong, 2 if it is no checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m minidiff info", description="Say what is in a checkpoint. "
                                     "Status 1 if something in it does not fit, 2 if it is none.")
    parser.add_argument("path", help="toybox, a folder in diffusers' layout, a component's folder, or one file")
    parser.add_argument("--variant", help="fp16 for the files *.fp16.safetensors")
    args = parser.parse_args(argv)
    try:
        title, parts = describe(args.path, args.variant)
    except (ValueError, OSError) as error:
        print(f"minidiff: {error}", file=sys.stderr)
        return 2
    every = {f"{part.name}.{key}": t for part in parts for key, t in part.tensors.items()}
    print(f"{args.path}: {title}\n")
    print("\n".join(table([part.cells() for part in parts] + [Part("total", "", every).cells()[:5] + [""]])))
    problems = [part for part in parts if part.problem]
    for part in problems:
        print(f"\n{part.name}: {part.problem}")
    return 1 if problems else 0
