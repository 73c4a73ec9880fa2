"""minidiff: the building blocks of text-to-image diffusion, small enough to read.

    import minidiff
    pipe = minidiff.load("toybox")
    images = pipe("a red cat next to a blue chair", n=4)        # (4, 3, H, W) in [0, 1]

Everything is imported when it is first used, so that `import minidiff` costs next to nothing.
"""
from importlib import import_module

HOMES = {
    "load": "pipeline", "TextToImage": "pipeline",
    "UNet": "unet", "VAE": "vae", "MoVQ": "movq", "Prior": "prior", "Schedule": "schedule",
    "Tokenizer": "tokenizer", "LearnedToken": "tokens",
    "CLIP": "clip", "CLIPText": "clip", "CLIPImage": "clip", "CheckpointError": "checkpoints",
}
MODULES = ("attention", "blocks", "charts", "checkpoints", "clip", "color", "decomposer", "decomposition", "deltas", "devices",
           "hub", "images", "info", "kandinsky", "lora", "metrics", "movq", "open_clip", "photos", "pipeline", "precomputed",
           "prior", "resnet", "samplers", "schedule", "single_file", "stylegan", "tensorfile", "tokenizer", "tokens", "toybox",
           "training", "unet", "vae", "vqa")
__all__ = [*HOMES, *MODULES]


def __getattr__(name):
    """Called by Python for `minidiff.name` when there is no such name yet."""
    if name in MODULES:
        return import_module(f".{name}", __name__)
    if name in HOMES:
        return getattr(import_module(f".{HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
