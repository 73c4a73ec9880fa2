"""Kandinsky 2.2: text becomes a CLIP image embedding (the prior), which becomes a picture (the decoder).

    prompts -> text_encoder -> prior -> image embedding (B, E) -> unet, once per step -> latents -> movq -> pictures

and its small relative that is trained on toybox, with a VAE in place of the MoVQ (`UnCLIP`).

Razzhigaev et al., arXiv:2310.03502, after unCLIP (Ramesh et al., arXiv:2204.06125). Of the two text encoders and decoders
that were published for 2.1 and 2.2, this is 2.2: its decoder sees the image embedding only, so one text encoder is enough.
"""
import torch

from . import devices
from .checkpoints import CheckpointError, find, from_folder, read_config, read_folder
from .clip import CLIP, CLIPImage, CLIPText
from .movq import MoVQ
from .pipeline import Condition, TextToImage, check_parts, dtype_of, parts_of
from .prior import Prior, sample_embedding
from .samplers import generators, noise, sample
from .schedule import Schedule
from .tokenizer import Tokenizer
from .unet import UNet
from .vae import VAE

DECODER = ("unet", "movq", "scheduler")
PRIOR = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler")
UNCLIP = ("clip", "vae", "prior", "decoder")


class Kandinsky(TextToImage):
    """A prior and a decoder. Attributes beside those of TextToImage: prior, prior_schedule, image_encoder; `vae` is a MoVQ.

    prior_steps, prior_guidance: of the prior's sampling; the defaults are those of the public pipelines.
    """
    prior_steps, prior_guidance = 25, 4.0

    def __init__(self, tokenizer, text_encoder, image_encoder, prior, prior_schedule, unet, movq, schedule, sample_size):
        self.image_encoder, self.prior, self.prior_schedule = image_encoder, prior, prior_schedule
        super().__init__(tokenizer, text_encoder, unet, movq, schedule, sample_size)
        self.check("width of the image embedding", unet.config["encoder_hid_dim"], prior.config["embedding_dim"])

    @classmethod
    def from_folders(cls, decoder, prior, device, dtype, variant=None):
        """decoder, prior: folders in diffusers' layout; one folder with both (a combined pipeline) needs no `prior`."""
        parts, before = parts_of(decoder), ""
        check_parts(decoder, parts, DECODER)
        if "prior_prior" in parts:
            prior, before = decoder, "prior_"
        if prior is None:
            raise CheckpointError(f"{decoder} is a Kandinsky decoder, which needs a prior to understand text; give its folder, "
                                  "prior=... (kandinsky-community/kandinsky-2-2-prior)")
        prior = find(prior)
        check_parts(prior, parts_of(prior), [before + part for part in PRIOR])
        load = lambda make, folder, part: make.from_pretrained(folder / part, device, dtype, variant)
        return cls(
            Tokenizer.from_pretrained(prior / f"{before}tokenizer"), load(CLIPText, prior, f"{before}text_encoder"),
            load(CLIPImage, prior, f"{before}image_encoder"), load(Prior, prior, f"{before}prior"),
            Schedule.from_pretrained(prior / f"{before}scheduler"), load(UNet, decoder, "unet"), load(MoVQ, decoder, "movq"),
            Schedule.from_pretrained(decoder / "scheduler"), sample_size=read_config(decoder / "unet").get("sample_size"))

    def text_width(self):
        return self.unet.config["cross_attention_dim"]           # the UNet makes its context of the image embedding

    def encode_prompts(self, prompts, size=None, negative="", seeds=0):
        """Texts -> Condition, by sampling the prior: another seed, another image embedding."""
        ids = self.tokenizer([*prompts, negative]).to(self.device)
        hidden, pooled = self.text_encoder(ids)
        text = (pooled, hidden, self.text_encoder.counts(ids))
        embedding = sample_embedding(self.prior, self.prior_schedule, [t[:-1] for t in text], [t[-1:] for t in text],
                                     self.prior_steps, self.prior_guidance, seeds)
        return Condition(None, {"image_embeds": embedding.to(self.dtype)})

    def conditions(self, prompts, negative, n, seeds, size):
        repeated = [prompt for prompt in prompts for _ in range(n)]
        condition = self.encode_prompts(repeated, size, negative or "", seeds)
        if negative is None:
            return condition, self.no_image()
        return condition, self.encode_prompts([negative], size, negative)

    def no_image(self):
        """What the decoder was trained with for no text: the embedding of mean grey, which is 0 once it is normalised."""
        side = self.image_encoder.config["image_size"]
        hidden, embedding = self.image_encoder(torch.zeros(1, 3, side, side, device=self.device, dtype=dtype_of(self.image_encoder)))
        return Condition(None, {"image_embeds": embedding})

    @torch.no_grad()
    def draw(self, embeddings, steps=50, guidance=4.0, seeds=0):
        """Pictures (B, 3, H, W) in [0, 1] of CLIP image embeddings (B, E), wherever these are from. See `samplers.noise` for seeds."""
        seeds = generators(seeds, len(embeddings))
        condition = Condition(None, {"image_embeds": embeddings.to(self.device, self.dtype)})
        z_T = noise((len(embeddings), self.unet.config["in_channels"], self.sample_size, self.sample_size), seeds, self.device)
        predict = self.predictor(condition, self.no_image(), guidance)
        return self.decode(sample(predict, self.schedule, z_T, steps, eta=self.schedule.eta, generator=seeds))

    def encode(self, images, generator=None):
        """Images in [0, 1], (B, 3, H, W) -> latents (B, C, h, w). They have no variance of their own; `generator` is not used."""
        return self.vae.encode((2 * images - 1).to(self.device, dtype_of(self.vae)))

    def decode(self, z):
        """Latents (B, C, h, w) -> images in [0, 1], (B, 3, H, W) float32."""
        return (self.vae.decode(z.to(self.device, dtype_of(self.vae))).float() / 2 + 0.5).clamp(0, 1)


class UnCLIP(Kandinsky):
    """The same of toybox's parts: one CLIP has both encoders, and the latents are those of a VAE."""
    encode, decode = TextToImage.encode, TextToImage.decode

    @classmethod
    def from_folder(cls, folder="toybox", device=None, dtype=None):
        """folder: toybox, or one like it: clip/ with its tokenizer, vae/, and prior/ and decoder/ with a scheduler_config.json each.

        Where decoder/config.json says `"_completed_by": "unet"`, the weights that decoder/ has not are those of unet/: one UNet draws
        what texts say, and what embeddings do.
        """
        folder, device, dtype = find(folder), devices.pick(device), dtype or torch.float32
        missing = [part for part in UNCLIP if not (folder / part).is_dir()]
        if missing:
            raise CheckpointError(f"{folder} has no {' and no '.join(missing)}; expected {', '.join(UNCLIP)} in it. "
                                  "papers/unclip.py trains prior and decoder")
        load = lambda make, part: make.from_pretrained(folder / part, device, dtype)
        beside = read_config(folder / "decoder").get("_completed_by")
        rest = read_folder(folder / str(beside)) if beside else {}
        clip, decoder = load(CLIP, "clip"), from_folder(UNet.from_config, folder / "decoder", device, dtype, fix=lambda own: rest | own)
        return cls(Tokenizer.from_pretrained(folder / "clip"), clip.text, clip.image, load(Prior, "prior"),
                   Schedule.from_pretrained(folder / "prior"), decoder, load(VAE, "vae"), Schedule.from_pretrained(folder / "decoder"),
                   sample_size=read_config(folder / "decoder").get("sample_size"))
