"""Text-to-image: load all parts of a model, turn prompts into pictures, pictures into latents and back.

    prompts -> tokenizer -> text_encoder -> context (B, L, D)
                                               |
    noise x_T (B, C, h, w) ---- unet, once per step of a sampler ----> x_0 -> / scaling factor -> vae -> pictures

Rombach et al., "Latent Diffusion Models", CVPR 2022, arXiv:2112.10752v2, Fig. 3.
"""
import sys
from contextlib import nullcontext

import torch

from . import devices
from .checkpoints import CheckpointError, find, read_config
from .clip import CLIPText
from .samplers import generators, guide, noise, sample
from .schedule import Schedule
from .tokenizer import Tokenizer
from .unet import UNet
from .vae import VAE

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


def load(path="toybox", device=None, dtype=None):
    """A text-to-image model, frozen: the shipped "toybox", or a folder in diffusers' layout (Stable Diffusion 1 or 2).

    Raises CheckpointError if there is no such model, if it is of another family, or if its files do not fit.
    """
    folder = find(path)
    check_family(folder)
    device, dtype = devices.pick(device), dtype or torch.float32
    return TextToImage(
        Tokenizer.from_pretrained(folder / "tokenizer"),
        CLIPText.from_pretrained(folder / "text_encoder", device, dtype),
        UNet.from_pretrained(folder / "unet", device, dtype),
        VAE.from_pretrained(folder / "vae", device, dtype),
        Schedule.from_pretrained(folder / "scheduler"),
        sample_size=read_config(folder / "unet").get("sample_size"))


def check_family(folder):
    """CheckpointError unless model_index.json lists the parts of a Stable Diffusion 1 or 2, and nothing that needs more."""
    index = read_config(folder, "model_index.json")
    family = index.get("_class_name", "model of unknown class")
    there = {name for name, value in index.items() if not name.startswith("_") and value not in (None, [None, None])}
    missing = [name for name in PARTS if name not in there]
    if missing or "text_encoder_2" in there:
        why = f"without {', '.join(missing)}" if missing else "with two text encoders (SDXL)"
        raise CheckpointError(f"{folder} is a {family} {why}; expected a StableDiffusionPipeline, with {', '.join(PARTS)}")


class TextToImage:
    """The parts of a text-to-image model, and what is done with all of them together.

    Attributes: tokenizer, text_encoder, unet, vae, schedule; sample_size, the side of the latents.
    """

    def __init__(self, tokenizer, text_encoder, unet, vae, schedule, sample_size):
        self.tokenizer, self.text_encoder, self.unet, self.vae = tokenizer, text_encoder, unet, vae
        self.schedule, self.sample_size = schedule, sample_size
        for what, got, want in [
            ("channels of the latents", unet.config["in_channels"], vae.config["latent_channels"]),
            ("width of the text", unet.config["cross_attention_dim"], text_encoder.config["hidden_size"]),
        ]:
            if got != want:
                raise CheckpointError(f"these parts are not of one model: {what} is {got} for the UNet, "
                                      f"{want} for its neighbour")
        if not isinstance(sample_size, int):
            raise CheckpointError(f"sample_size of the UNet is {sample_size!r}, expected the side of the latents "
                                  "in its config.json")

    @property
    def device(self):
        return next(self.unet.parameters()).device

    @property
    def dtype(self):
        return next(self.unet.parameters()).dtype

    def encode_prompts(self, prompts):
        """Texts -> what the UNet attends to, (B, L, D)."""
        hidden, pooled = self.text_encoder(self.tokenizer(prompts).to(self.device))
        return hidden

    def encode(self, images, generator=None):
        """Images in [0, 1], (B, 3, H, W) -> latents of about unit variance, (B, C, h, w).

        The most likely latents; with `generator` a draw, see `seeds` of `samplers.noise`.
        """
        mean, logvar = self.vae.encode((2 * images - 1).to(self.device, self.dtype))
        z = mean if generator is None else mean + (logvar / 2).exp() * noise(mean.shape, generator, mean.device)
        return z * self.vae.config["scaling_factor"]

    def decode(self, z):
        """Latents (B, C, h, w) -> images in [0, 1], (B, 3, H, W) float32."""
        images = self.vae.decode((z / self.vae.config["scaling_factor"]).to(self.device, self.dtype))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def predictor(self, context, uncond=None, guidance=1.0):
        """The UNet under these texts, as `predict(x_t, t)` for `samplers`.

        Both halves of guidance go through the UNet in one batch; guidance 1 needs only one of them. The keys and
        values of the text are computed here, once: make a new predictor after a change of weights or of a LoRA.

        Args:
            context: (B, L, D), the prompt of each picture.
            uncond: (B, L, D) or (1, L, D), what to steer away from; None for no guidance.
            guidance: 1 follows the prompt, more exaggerates it.
        """
        is_guided = uncond is not None and guidance != 1
        texts = torch.cat([uncond.expand_as(context), context]) if is_guided else context
        with half_on_gpu(self.device):
            kv = self.unet.text_kv(texts.to(self.dtype))

        def predict(x_t, t):
            x_t = x_t.to(self.dtype)
            t = t.repeat(2) if is_guided and isinstance(t, torch.Tensor) and t.numel() > 1 else t
            with half_on_gpu(self.device):
                prediction = self.unet(torch.cat([x_t, x_t]) if is_guided else x_t, t, kv).float()
            return guide(*prediction.chunk(2), guidance) if is_guided else prediction

        return predict

    @torch.no_grad()
    def __call__(self, prompts, n=1, steps=50, guidance=5.0, seed=0, negative="", method="ddim", eta=0.0, callback=None,
                 progress=False):
        """Pictures for a prompt, or n for each of several: (n * prompts, 3, H, W) in [0, 1], prompt by prompt.

        Picture i of each prompt has seed + i, whatever n is and however many prompts there are.

        Args:
            steps, method, eta, callback: see `samplers.sample`.
            guidance, negative: see `predictor`; `negative` is the text of `uncond`.
            progress: count the steps on stderr.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or n < 1:
            raise ValueError(f"{len(prompts)} prompts, {n} pictures each; expected at least one of both")
        context = self.encode_prompts([*prompts, negative])
        predict = self.predictor(context[:-1].repeat_interleave(n, dim=0), context[-1:], guidance)

        seeds = generators([seed + i for _ in prompts for i in range(n)], len(prompts) * n)
        size = (len(seeds), self.unet.config["in_channels"], self.sample_size, self.sample_size)
        x_T = noise(size, seeds, self.device)
        z = sample(predict, self.schedule, x_T, steps, method, eta, seeds,
                   callback=counting(steps, callback) if progress else callback)
        if not z.isfinite().all():
            raise FloatingPointError(f"the latents are not finite after {steps} steps; "
                                     f"the model computes in {self.dtype}, try dtype=torch.float32")
        return self.decode(z)


def half_on_gpu(device):
    """Sampling in bfloat16 on a GPU; on a CPU in float32, so that the same seed gives the same picture on any laptop."""
    return devices.autocast(device) if device.type == "cuda" else nullcontext()


def counting(steps, callback=None):
    """A callback that counts on stderr, and then calls the other one."""
    def count(i, t, x):
        print(f"\rstep {i + 1} of {steps}", end="\n" if i + 1 == steps else "", file=sys.stderr, flush=True)
        return callback(i, t, x) if callback is not None else None

    return count
