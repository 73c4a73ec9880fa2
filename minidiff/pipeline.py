"""Text-to-image: load all parts of a model, turn prompts into pictures, pictures into latents and back.

    prompts -> tokenizer -> text_encoder -> context (B, L, D)
                                               |
    noise x_T (B, C, h, w) ---- unet, once per step of a sampler ----> x_0 -> / scaling factor -> vae -> pictures

Rombach et al., "Latent Diffusion Models", CVPR 2022, arXiv:2112.10752v2, Fig. 3. Stable Diffusion XL: Podell et al.,
arXiv:2307.01952, two text encoders, and the sizes of the picture as a condition (Sec. 2.2). Kandinsky: kandinsky.py.
"""
import itertools
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import devices
from .checkpoints import CheckpointError, find, read_config
from .clip import CLIPText
from .samplers import generators, guide, noise, rescale_guidance, sample
from .schedule import Schedule
from .tokenizer import Tokenizer
from .unet import UNet
from .vae import VAE

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
PARTS_XL = (*PARTS, "tokenizer_2", "text_encoder_2")


def load(path="toybox", device=None, dtype=None, variant=None, prior=None, tokenizer=None, prediction_type=None):
    """A text-to-image model, frozen.

    Args:
        path: the shipped "toybox"; a folder in diffusers' layout (Stable Diffusion 1, 2, XL, Kandinsky 2.2); or one
            .safetensors file in the original layout (Stable Diffusion 1, 2, XL).
        device, dtype: where, and in which floating-point type; by default a GPU if there is one, and float32.
        variant: "fp16" takes the files `*.fp16.safetensors` of a folder.
        prior: folder of the prior, for a Kandinsky decoder.
        tokenizer: for a single file, which holds none: a folder with vocab.json and merges.txt, or
            bpe_simple_vocab_16e6.txt.gz. By default they are looked for beside the file.
        prediction_type: for a single file of SD 2, which does not say: "epsilon" or "v_prediction".

    Raises CheckpointError if there is no such model, if it is of another family, or if its files do not fit.
    """
    device, dtype = devices.pick(device), dtype or torch.float32
    if Path(path).expanduser().is_file():
        return from_single_file(Path(path).expanduser(), device, dtype, tokenizer, prediction_type)
    folder = find(path)
    parts = parts_of(folder)
    if {"movq", "prior_prior"} & parts:
        from .kandinsky import Kandinsky
        return Kandinsky.from_folders(folder, prior, device, dtype, variant)
    if "prior" in parts:
        raise CheckpointError(f"{folder} is a KandinskyV22PriorPipeline, which makes no pictures; give the decoder's folder, and this one "
                              "as prior=...")
    is_xl = "text_encoder_2" in parts
    check_parts(folder, parts, PARTS_XL if is_xl else PARTS)
    numbers = ("", "_2") if is_xl else ("",)
    return (StableDiffusionXL if is_xl else TextToImage)(
        *(Tokenizer.from_pretrained(folder / f"tokenizer{i}") for i in numbers),
        *(CLIPText.from_pretrained(folder / f"text_encoder{i}", device, dtype, variant) for i in numbers),
        UNet.from_pretrained(folder / "unet", device, dtype, variant),
        VAE.from_pretrained(folder / "vae", device, vae_dtype(read_config(folder / "vae"), dtype), variant),
        Schedule.from_pretrained(folder / "scheduler"),
        sample_size=read_config(folder / "unet").get("sample_size"))


def parts_of(folder):
    """The names of the parts that model_index.json lists."""
    index = read_config(folder, "model_index.json")
    return {name for name, value in index.items() if not name.startswith("_") and value not in (None, [None, None])}


def check_parts(folder, parts, wanted):
    missing = [name for name in wanted if name not in parts]
    if missing:
        family = read_config(folder, "model_index.json").get("_class_name", "model of unknown class")
        raise CheckpointError(f"{folder} is a {family} without {', '.join(missing)}; expected {', '.join(wanted)}")


def vae_dtype(config, dtype):
    """float32 in place of half precision where the config asks for it: SDXL's decoder overflows to black pictures."""
    return torch.float32 if config.get("force_upcast") and dtype == torch.float16 else dtype


def from_single_file(path, device, dtype, tokenizer, prediction_type):
    """A Stable Diffusion in one file, see `single_file`."""
    from . import single_file
    file = single_file.read(path, prediction_type=prediction_type)
    tokenizers = tokenizers_for(file, tokenizer)
    encoders = [file.module(part, device, dtype) for part in ("text_encoder", "text_encoder_2")[:len(tokenizers)]]
    vae = file.module("vae", device, vae_dtype(file.configs["vae"], dtype))
    return (StableDiffusionXL if len(encoders) == 2 else TextToImage)(
        *tokenizers, *encoders, file.module("unet", device, dtype), vae, Schedule.from_config(file.schedule), file.sample_size)


PADDING = {"sd1": [None], "sd2": ["!"], "sdxl": [None, "!"]}    # of each tokenizer; None: the end token
BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"


def tokenizers_for(file, source=None):
    """One tokenizer for each text encoder: all have CLIP's vocabulary, which a single file does not hold."""
    places = [Path(source).expanduser()] if source else [file.path.parent / "tokenizer", file.path.parent / BPE_FILE]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise CheckpointError(f"{file.path} holds no tokenizer, and there is no {' and no '.join(map(str, places))}; give the folder "
                              f"with CLIP's vocab.json and merges.txt, or {BPE_FILE}, as tokenizer=...")
    tokenizers = []
    for padding in PADDING[file.family]:
        tokenizers.append(Tokenizer.from_pretrained(place) if place.is_dir() else Tokenizer.from_file(place))
        tokenizers[-1].names["pad"] = padding or tokenizers[-1].names["eos"]
    return tokenizers


@dataclass
class Condition:
    """What the UNet is told about every picture of a batch.

    context: text states (B, L, D), or None.   added: {name: (B, ...)}, see `UNet.forward`.
    """
    context: torch.Tensor | None
    added: dict = field(default_factory=dict)

    def __len__(self):
        return len(next(t for t in (self.context, *self.added.values()) if t is not None))

    def __getitem__(self, rows):
        """Some of the rows, always as a batch: `c[0]`, `c[:2]`, `c[[0, 0, 1]]`, `for row in c`."""
        rows = [rows] if isinstance(rows, int) else rows
        return self.map(lambda t: t[rows])

    def repeat(self, n):
        """Every row n times in a row."""
        return self.map(lambda t: t.repeat_interleave(n, dim=0))

    def map(self, change):
        return Condition(None if self.context is None else change(self.context), {k: change(t) for k, t in self.added.items()})

    @staticmethod
    def cat(conditions):
        contexts = [c.context for c in conditions]
        return Condition(None if contexts[0] is None else torch.cat(contexts),
                         {k: torch.cat([c.added[k] for c in conditions]) for k in conditions[0].added})


class TextToImage:
    """The parts of a text-to-image model, and what is done with all of them together.

    Attributes: tokenizer, text_encoder, unet, vae, schedule; sample_size, the side of the latents.
    """

    def __init__(self, tokenizer, text_encoder, unet, vae, schedule, sample_size):
        self.tokenizer, self.text_encoder, self.unet, self.vae = tokenizer, text_encoder, unet, vae
        self.schedule, self.sample_size = schedule, sample_size
        self.check("width of the text", unet.config["cross_attention_dim"], self.text_width())
        self.check("channels of the latents", unet.config["in_channels"], vae.config["latent_channels"])
        if not isinstance(sample_size, int):
            raise CheckpointError(f"sample_size of the UNet is {sample_size!r}, expected the side of the latents "
                                  "in its config.json")

    def check(self, what, got, want):
        if got != want:
            raise CheckpointError(f"these parts are not of one model: {what} is {got} for the UNet, {want} for its neighbour")

    def text_width(self):
        return self.text_encoder.config["hidden_size"]

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def dtype(self):
        return dtype_of(self.unet)

    @property
    def factor(self):
        """Pixels per latent, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1) * self.vae.config.get("patch_size", 1)

    def encode_prompts(self, prompts, size=None):
        """Texts -> Condition. `size`: of the pictures, (height, width) in pixels, for models that are told (SDXL)."""
        hidden, pooled = self.text_encoder(self.tokenizer(prompts).to(self.device))
        return Condition(hidden)

    def no_prompt(self, size=None):
        """Condition of one row: what guidance steers away from where nothing else is asked for."""
        return self.encode_prompts([""], size)

    def conditions(self, prompts, negative, n, seeds, size):
        """Condition of every picture (n per prompt) and, one row, of no prompt or the negative one."""
        both = self.encode_prompts([*prompts, negative or ""], size)
        return both[:-1].repeat(n), both[-1]

    def encode(self, images, generator=None):
        """Images in [0, 1], (B, 3, H, W) -> latents of about unit variance, (B, C, h, w).

        The most likely latents; with `generator` a draw, see `seeds` of `samplers.noise`.
        """
        mean, logvar = self.vae.encode((2 * images - 1).to(self.device, dtype_of(self.vae)))
        z = mean if generator is None else mean + (logvar / 2).exp() * noise(mean.shape, generator, mean.device)
        return z * self.vae.config["scaling_factor"]

    def decode(self, z):
        """Latents (B, C, h, w) -> images in [0, 1], (B, 3, H, W) float32."""
        images = self.vae.decode((z / self.vae.config["scaling_factor"]).to(self.device, dtype_of(self.vae)))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def predictor(self, condition, uncond=None, guidance=1.0, rescale=0.0):
        """The UNet under these conditions, as `predict(x_t, t)` for `samplers`.

        Both halves of guidance go through the UNet in one batch; guidance 1 needs only one of them. The keys and
        values of the text are computed here, once: make a new predictor after a change of weights or of a LoRA.

        Args:
            condition: Condition, of each picture.
            uncond: Condition of as many rows or of one, what to steer away from; None for no guidance.
            guidance: 1 follows the prompt, more exaggerates it.
            rescale: see `samplers.rescale_guidance`.
        """
        is_guided = uncond is not None and guidance != 1
        if is_guided:
            uncond = uncond.repeat(len(condition)) if len(uncond) == 1 else uncond
            condition = Condition.cat([uncond, condition])
        with half_on_gpu(self.device):
            kv = self.unet.text_kv(condition.context, condition.added)

        def predict(x_t, t):
            x_t = x_t.to(self.dtype)
            t = t.repeat(2) if is_guided and isinstance(t, torch.Tensor) and t.numel() > 1 else t
            with half_on_gpu(self.device):
                prediction = self.unet(torch.cat([x_t, x_t]) if is_guided else x_t, t, kv).float()
            return self.guided(prediction, guidance, rescale) if is_guided else prediction

        return predict

    def guided(self, prediction, guidance, rescale):
        """Predictions without and with the prompt, (2B, ...) -> (B, ...). A learned variance is not guided."""
        channels = self.unet.config["in_channels"]
        e_uncond, e_cond = prediction.chunk(2)
        e = rescale_guidance(guide(e_uncond, e_cond, guidance)[:, :channels], e_cond[:, :channels], rescale)
        return torch.cat([e, e_cond[:, channels:]], dim=1)

    @torch.no_grad()
    def __call__(self, prompts, n=1, steps=50, guidance=5.0, seed=0, negative=None, method=None, eta=None, rescale=0.0,
                 size=None, callback=None, progress=False, batch=32):
        """Pictures for a prompt, or n for each of several: (n * prompts, 3, H, W) in [0, 1], prompt by prompt.

        Picture i of each prompt has seed + i, whatever n is and however many prompts there are.

        Args:
            seed: a number, which all prompts share, or a list with one for each prompt.
            steps, callback: see `samplers.sample`; the callback gets one batch after the other.
            method: "ddim", "ddpm" or "euler"; None takes the model's own.
            eta: of "ddim", 0 to 1, see `samplers.ddim_step`; None takes the model's own (public weights: 0), or 0 if `method` is given.
            guidance, rescale: see `predictor`.
            negative: text to steer away from; None is what the model was trained with for no text.
            size: (height, width) of the pictures in pixels, or one side; None takes the model's own.
            progress: count the steps on stderr.
            batch: pictures at most at once, for the memory's sake. What is drawn does not depend on it.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or n < 1 or batch < 1:
            raise ValueError(f"{len(prompts)} prompts, {n} pictures each, {batch} at once; expected at least one of each")
        size = self.checked_size(size)
        first = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(first) != len(prompts):
            raise ValueError(f"{len(first)} seeds for {len(prompts)} prompts; expected one for each, or one for all")
        seeds = generators([s + i for s in first for i in range(n)], len(prompts) * n)
        latents = (self.unet.config["in_channels"], *(side // self.factor for side in size))
        each, some = min(n, batch), max(1, batch // n)           # pictures of a prompt, and prompts, at once
        groups = [(prompts[i:i + some], min(each, n - k)) for i in range(0, len(prompts), some) for k in range(0, n, each)]
        callback, pictures = counting(steps * len(groups), callback) if progress else callback, []
        eta = eta if eta is not None else 0.0 if method else self.schedule.eta
        for group, m in groups:
            own, seeds = seeds[:len(group) * m], seeds[len(group) * m:]
            predict = self.predictor(*self.conditions(group, negative, m, own, size), guidance, rescale)
            x_T = noise((len(own), *latents), own, self.device)
            z = sample(predict, self.schedule, x_T, steps, method, eta, own, callback=callback)
            if not z.isfinite().all():
                raise FloatingPointError(f"the latents are not finite after {steps} steps; "
                                         f"the model computes in {self.dtype}, try dtype=torch.float32")
            pictures.append(self.decode(z))
        return torch.cat(pictures)

    def checked_size(self, size):
        """(height, width) in pixels."""
        size = self.sample_size * self.factor if size is None else size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if len(size) != 2 or any(not isinstance(side, int) or side < 1 or side % self.factor for side in size):
            raise ValueError(f"size is {size}, expected height and width in pixels, multiples of {self.factor}")
        return size


class StableDiffusionXL(TextToImage):
    """Two text encoders, whose states stand side by side; the second one's pooled state and the picture's sizes go to the
    time embedding. Further attributes: tokenizer_2, text_encoder_2."""

    def __init__(self, tokenizer, tokenizer_2, text_encoder, text_encoder_2, unet, vae, schedule, sample_size):
        self.tokenizer_2, self.text_encoder_2 = tokenizer_2, text_encoder_2
        super().__init__(tokenizer, text_encoder, unet, vae, schedule, sample_size)

    def text_width(self):
        return self.text_encoder.config["hidden_size"] + self.text_encoder_2.config["hidden_size"]

    def encode_prompts(self, prompts, size=None):
        hidden, _ = self.text_encoder(self.tokenizer(prompts).to(self.device), skip=1)          # without the final norm
        hidden_2, pooled = self.text_encoder_2(self.tokenizer_2(prompts).to(self.device), skip=1)
        height, width = self.checked_size(size)
        # Original size, the corner of the crop, size to draw: a picture of that size, not cropped.
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        return Condition(torch.cat([hidden, hidden_2], dim=-1),
                         {"text_embeds": pooled, "time_ids": time_ids.repeat(len(pooled), 1)})

    def no_prompt(self, size=None):
        """Condition of one row, of zeros: it was trained with these for no text; "" is a text like any other."""
        c = super().no_prompt(size)
        return Condition(torch.zeros_like(c.context), {**c.added, "text_embeds": torch.zeros_like(c.added["text_embeds"])})

    def conditions(self, prompts, negative, n, seeds, size):
        condition, uncond = super().conditions(prompts, negative, n, seeds, size)
        return condition, self.no_prompt(size) if negative is None else uncond


def dtype_of(module):
    return next(module.parameters()).dtype


def half_on_gpu(device):
    """Sampling in bfloat16 on a GPU; on a CPU in float32, so that the same seed gives the same picture on any laptop."""
    return devices.autocast(device) if device.type == "cuda" else nullcontext()


def read_prompts(path):
    """The prompts in a JSON file, a list of texts; ValueError if it holds none."""
    try:
        prompts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the prompts {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f'{path} must hold a list of prompts in JSON, such as ["a red cat", "a blue chair"]')
    return prompts


def read_lines(path, what):
    """The lines of a text file that are not blank, stripped. ValueError, which says `what` should be in it, if it cannot be read."""
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from error


def counting(steps, callback=None):
    """A callback that counts on stderr, up to `steps`, and then calls the other one."""
    calls = itertools.count(1)

    def count(i, t, x):
        done = next(calls)
        print(f"\rstep {done} of {steps}", end="\n" if done == steps else "", file=sys.stderr, flush=True)
        return callback(i, t, x) if callback is not None else None

    return count
