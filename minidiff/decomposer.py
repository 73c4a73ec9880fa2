"""All eight representations of pictures, by name: what papers/composer.py tells its model, and extracts again to measure it.

    name                 what                                                     made by
    -------------------  -------------------------------------------------------  ---------------------------
    sentence             embedding of a caption (B, E), not normalised            CLIP
    words                states of a caption (B, L, D), padding too               the text encoder of the UNet
    embedding            embedding of the picture (B, E), not normalised          CLIP
    palette              (B, 156)                                                 color.py
    sketch               (B, 1, S, S), 1 on lines                                 decomposition.py
    instances, depth     (B, c, S, S), (B, 1, S, S), 1 near to 0 far              toybox/maps.py; maps beside photos
    intensity            (B, 1, S, S)                                             decomposition.py
    masking              (B, 4, S, S), see `decomposition.masked`                 decomposition.py
"""
import torch
import torch.nn.functional as F

from .clip import CLIP, CLIPText
from .color import codebook, palette
from .decomposition import GREYS, intensity, masked, random_known, sketch
from .precomputed import embed_pictures, embeddings_of_pictures, once
from .tokenizer import Tokenizer
from .toybox.maps import MapReader, planes


class Decomposer:
    """decomposer(x) -> {name: tensor} of pictures (n, 3, S, S) in [0, 1].

    Args:
        folder: has a CLIP in clip/, the text encoder of a UNet in text_encoder/ with its tokenizer/ (in Stable Diffusion, CLIP's own), and,
            for instances and depth, a MapReader in maps/; without it they must be given.
    """

    def __init__(self, folder, device):
        self.clip = CLIP.from_pretrained(folder / "clip", device, torch.float32)
        self.tokenizer = Tokenizer.from_pretrained(folder / "clip")
        self.text_encoder = CLIPText.from_pretrained(folder / "text_encoder", device, torch.float32)
        self.words_tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
        self.reader = MapReader.from_pretrained(folder / "maps", device) if (folder / "maps").is_dir() else None
        self.device = device

    @torch.no_grad()
    def __call__(self, x, captions=None, known=None, maps=None):
        """All that pictures are made of.

        Args:
            captions: n texts, or None for no caption.
            known: (n, 1, S, S), 1 outside the hole; None for a hole in the middle.
            maps: instances and depth of photos, {name: (n, c, S, S)}.
        """
        x = x.to(self.device)
        known = with_hole(x) if known is None else known.to(x)
        grey = torch.ones(len(x), dtype=torch.long, device=x.device)
        c = {"embedding": embed_pictures(self.clip.image, x).to(x), "palette": palette(x), "sketch": sketch(x),
             "intensity": intensity(x, grey), "masking": masked(x, known)}
        if self.reader is not None:
            c |= dict(zip(("instances", "depth"), planes(self.reader.read(x))))
        return c | (maps or {}) | (self.caption(captions) if captions is not None else {})

    @torch.no_grad()
    def caption(self, texts):
        """{"sentence", "words"} of n texts."""
        return self.read(self.tokenizer(texts), self.words_tokenizer(texts))

    @torch.no_grad()
    def read(self, ids, words):
        """The same of token ids, (n, L) of each of the two tokenizers."""
        return {"sentence": self.clip.encode_text(ids.to(self.device)), "words": self.text_encoder(words.to(self.device))[0]}


def with_hole(x, top=.25, left=.25, bottom=.75, right=.75):
    """What is known of pictures x (n, 3, S, S) with a rectangular hole, given as shares of the side: (n, 1, S, S)."""
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(f"the hole is {top} {left} {bottom} {right}, expected top, left, bottom and right as shares of the side, 0 to 1")
    known, S = torch.ones_like(x[:, :1]), x.shape[-1]
    rows, columns = (slice(round(a * S), round(b * S)) for a, b in ((top, bottom), (left, right)))
    known[..., rows, columns] = 0
    return known


def agreement(c, got):
    """How well pictures have conditions c of them, given what they are decomposed into: {name: number}, a likeness or an error."""
    out = {}
    if "embedding" in c:
        out["embedding cosine"] = F.cosine_similarity(got["embedding"], c["embedding"]).mean()
    if "palette" in c:                                          # 0 to 1: how much of the palette is of other colours
        out["palette distance"] = (got["palette"] - c["palette"]).abs().sum(dim=1).mean() / 2
    if "depth" in c:
        out["depth error"] = (got["depth"] - c["depth"]).abs().mean()
    if "intensity" in c:
        out["intensity error"] = (got["intensity"] - c["intensity"]).abs().mean()
    if "sketch" in c:                                           # lines within one pixel of each other are the same
        near = lambda lines: F.max_pool2d(lines, 3, stride=1, padding=1)
        right, found = ((a * near(b)).sum() / a.sum() for a, b in ((got["sketch"], c["sketch"]), (c["sketch"], got["sketch"])))
        out["sketch F1"] = 2 * right * found / (right + found)
    if "instances" in c:
        a, b = (v["instances"][:, :-1] for v in (got, c))       # without the plane of boundaries
        iou = (a * b).sum(dim=(0, 2, 3)) / torch.maximum(a, b).sum(dim=(0, 2, 3))
        out["instances mIoU"] = iou[b.sum(dim=(0, 2, 3)) > 0].mean()
    return {k: float(v) for k, v in out.items()}


def of_store(store, decomposer):
    """A function (index (B,), generator) -> {name: tensor} of pictures of a store, and {name: bool (B,)} for what some of them lack.

    One of each picture's wordings, the kind of grey and the hole are drawn. What takes time is computed here, once, beside the store.
    A store that has maps of its own (photos.Photos) needs no `decomposer.reader`.
    """
    reader, device = decomposer.reader, decomposer.device
    pictures = lambda index: (store.images(index) + 1) / 2
    cached = lambda array, index: torch.from_numpy(array[index.numpy()]).to(device)
    embeddings = embeddings_of_pictures(decomposer.clip, store)
    ids, words = (torch.stack([read(wordings) for wordings in store.captions]) for read in (decomposer.tokenizer, decomposer.words_tokenizer))
    has_caption = torch.tensor([[bool(text) for text in wordings] for wordings in store.captions])         # (n, wordings)
    palettes = once(store, "palettes", [codebook()], lambda index: palette(pictures(index)))
    sketches = once(store, "sketches", [], lambda index: sketch(pictures(index)), torch.uint8)
    if reader is not None:
        codes = once(store, "maps", reader.state_dict().values(), lambda index: reader.read(pictures(index)), torch.uint8)

    def maps(index):
        if reader is None:
            return {k: v.to(device) for k, v in store.maps(index).items()}, {k: v[index].to(device) for k, v in store.has.items()}
        return dict(zip(("instances", "depth"), planes(cached(codes, index)))), {}

    def conditions(index, generator):
        pick = lambda high: torch.randint(high, (len(index),), generator=generator, device=device)
        x, y, (own, has) = pictures(index).to(device), (index, pick(ids.shape[1]).cpu()), maps(index)
        known = random_known(len(index), x.shape[-1], generator, device)
        c = {**decomposer.read(ids[y], words[y]), "embedding": embeddings[index].to(device), "palette": cached(palettes, index).float(),
             "sketch": cached(sketches, index).float(), **own, "intensity": intensity(x, pick(len(GREYS))), "masking": masked(x, known)}
        return c, has | {"caption": has_caption[y].to(device)}
    return conditions
