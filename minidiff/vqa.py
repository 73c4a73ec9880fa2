"""Visual question answering: `ask(image, question) -> words`. What a picture shows, said by a model that has seen more than we drew.

    ask = ZeroShot(pipe, {"cat": "a photo of a cat", "chair": "a photo of a chair"})          # CLIP chooses among these words
    ask = Blip2("blip2-flan-t5-xl")                       # writes its answer, in its own words
    answer = cleaned(ask(image, "What kind of pet is in this photo?"), known=["pet"])        # "cat", or None

Radford et al., arXiv:2103.00020 (CLIP, Sec. 3.1: zero-shot). Li et al., arXiv:2301.12597 (BLIP-2).
"""
import re

import torch
import torch.nn.functional as F

from .images import clip_pixels, to_pillow
from .tensorfile import CheckpointError

COLOUR = "(red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y)"
OPENING = re.compile(r"^(answer:|i (think|believe)( that)?|(this|it|that) (is|looks like)|there (is|are)|it's|a (photo|picture) of|an?|the|one( of)?"
                     rf"|some|several|many|few|two|three|four|five|six|\d+|(kind|type|sort|breed|species) of|{COLOUR}( and {COLOUR})?)\s+(?!and\b)")
REFUSAL = re.compile(r"\b(unknown|unsure|uncertain|unclear|none|nothing|anything|other|know|sure|tell|cannot|can't|isn't|sorry|n/a|yes|no)\b|^not\b")
MOST_WORDS = 4                                    # an answer of more is a sentence, not the name of something


class ZeroShot:
    """CLIP picks one of some words. It cannot read: the words are all that it can say, whatever the question.

    Args:
        pipe: anything with a tokenizer, a text_encoder and an image_encoder that have a common embedding.
        prompts: {word: text of pictures that show it}. Give more words than you hope to hear, or it sees one of these in anything.
    """

    def __init__(self, pipe, prompts):
        if len(prompts) < 2:
            raise ValueError(f"{len(prompts)} word(s) to choose from, expected at least 2")
        self.encoder, self.words = pipe.image_encoder, list(prompts)
        with torch.no_grad():
            _, e = pipe.text_encoder(pipe.tokenizer(list(prompts.values())).to(pipe.device))
        self.e = F.normalize(e.float(), dim=1)                                                # (words, E)

    @torch.no_grad()
    def __call__(self, image, question):
        """image: (3, H, W) in [0, 1]. Returns one of the words; `question` is not read."""
        weight = next(self.encoder.parameters())
        _, e = self.encoder(clip_pixels(image[None].to(weight), self.encoder.config["image_size"]))
        return self.words[int((self.e @ F.normalize(e[0].float(), dim=0)).argmax())]


class Blip2:
    """BLIP-2 in a folder, run by transformers (the extra `vqa`), which is imported only here.

    Args:
        folder: as transformers writes it, such as Salesforce/blip2-flan-t5-xl, with its weights in safetensors.
        dtype: None takes bfloat16 on a GPU and float32 on a CPU.
    """

    def __init__(self, folder, device="cpu", dtype=None):
        try:
            from transformers import Blip2ForConditionalGeneration, Blip2Processor
        except ImportError as error:
            raise ValueError(f"{folder} needs transformers: pip install 'minidiff[vqa]'") from error
        dtype = dtype or (torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32)
        only_local = {"local_files_only": True}                                               # never looks for a name in the net
        try:
            self.processor = Blip2Processor.from_pretrained(folder, **only_local)
            model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=dtype, use_safetensors=True, **only_local)
        except Exception as error:                                                            # transformers raises of every kind
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(f"{folder} is no folder with a BLIP-2 in safetensors: {reason}") from error
        self.model = model.to(device).eval()

    @torch.no_grad()
    def __call__(self, image, question):
        """image: (3, H, W) in [0, 1]. Returns the answer as it is written, without the question."""
        inputs = self.processor(images=to_pillow(image), text=question, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        answer = self.processor.batch_decode(self.model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True)[0]
        return answer.strip().removeprefix(question).strip()                                  # some decoders repeat it


def cleaned(answer, known=()):
    """The thing that an answer names, in lower case and without article, number or colour, or None: "No, two orange cats." is cats.

    None for a refusal ("I don't know"), for a whole sentence, and for what is `known` already: the same word, or its plural.
    """
    text = " ".join(str(answer).lower().split()).replace("\u2019", "'")
    text = re.split(r"[.,;!?]", re.sub(r"^(yes|no)[.,;!] ", "", text))[0]
    while (shorter := OPENING.sub("", text.strip(" \"'`*"))) != text:
        text = shorter
    if not re.search(r"\w", text) or len(text.split()) > MOST_WORDS or REFUSAL.search(text):
        return None
    return None if same(text) in map(same, known) else text


def same(word):
    """Equal for words that count as one: cat, Cats, a cat; puppy, puppies; peach, peaches."""
    singular = re.sub(r"^(an?|the)\s+", "", word.lower().strip()).rstrip("s")
    return re.sub("ie$", "y", re.sub("(?<=[hosxz])e$", "", singular))
