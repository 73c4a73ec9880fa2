"""Learned tokens: new rows in the table of a text encoder, to train, save and load. Gal et al. ("Textual Inversion"),
ICLR 2023, arXiv:2208.01618.

    learned = tokens.add(pipe, "<new1>", init="cat")            # from here on "a photo of <new1>" is a prompt
    optimizer = torch.optim.AdamW(learned.parameters())         # the new row, and nothing else
    ...
    tokens.save("new1.safetensors", "<new1>", learned.rows)
    tokens.load(another_pipe, "new1.safetensors")

A token may have several vectors: `<new1>` in a prompt then stands for the tokens <new1> <new1>_1 <new1>_2, as in the peers.

    layout                  content of the file                                               name of the token
    ----------------------  ----------------------------------------------------------------  ---------------------
    diffusers               {"<new1>": (D,) or (n, D)}                                        the key
    A1111, .pt              {"string_to_param": {"*": (n, D)}, "name": "<new1>", ...}         "name"
    A1111, .safetensors     {"emb_params": (n, D)}                                            that of the file
    SDXL                    {"clip_l": (n, 768), "clip_g": (n, 1280)}, one per text encoder   that of the file
"""
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from .checkpoints import write_pickle, write_tensors
from .tensorfile import PICKLES, CheckpointError, load_pickle, read_tensors

SDXL = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}         # keys of a file -> parts of a pipeline


class LearnedToken(nn.Module):
    """A frozen table of embeddings in which the rows of some new tokens are learned. ids (B, L) -> (B, L, D)

    Args:
        table: (V, D), the rows to learn included; they start as they are there.
        places: {word: range of its ids}; all of them together are one range.

    Attributes: rows, the only parameter, (n, D) float32 whatever the table is; table, a buffer, which keeps the start
    values; words, ids: what the rows belong to.
    """

    def __init__(self, table, places):
        super().__init__()
        self.places, self.words = dict(places), list(places)
        self.ids = [i for ids in places.values() for i in ids]
        self.register_buffer("table", table.detach())
        self.rows = nn.Parameter(self.table[self.ids].float())

    def forward(self, ids):
        row = ids - self.ids[0]                                         # (B, L): which of the rows, if any
        is_new = (row >= 0) & (row < len(self.rows))
        new = F.embedding(row.clamp(0, len(self.rows) - 1), self.rows).to(self.table.dtype)
        return torch.where(rearrange(is_new, "... -> ... 1"), new, F.embedding(ids, self.table))

    def of(self, word):
        """The rows of one of the words, (n, D)."""
        ids = self.places[word]
        return self.rows[ids.start - self.ids[0]:ids.stop - self.ids[0]]


def add(pipe, words, init, vectors=1, part="text_encoder"):
    """Put new tokens into a model, to be learned. Everything else in the text encoder is frozen.

    Args:
        pipe: anything with a tokenizer and a text encoder under these names.
        words: a new word such as "<new1>", or several.
        init: where it starts: a word that is one token, or rows (D,) or (n, D); one for all words, or a list.
        vectors: rows per word, if `init` is a word; all start alike.
        part: "text_encoder", or "text_encoder_2" for the other one of an SDXL.

    Returns:
        LearnedToken, in place of the text encoder's table. ValueError if a word is no new word or `init` no known one.
    """
    tokenizer, text_encoder = tokenizer_of(pipe, part), getattr(pipe, part)
    words = [words] if isinstance(words, str) else list(words)
    inits = list(init) if isinstance(init, (list, tuple)) else [init] * len(words)
    learning = text_encoder.text_model.embeddings.token_embedding
    if isinstance(learning, LearnedToken):
        raise ValueError(f"this text encoder is learning {', '.join(learning.words)}; add all words in one call, "
                         "or end that with tokens.freeze first")
    if not words or len(set(words)) < len(words) or len(inits) != len(words):
        raise ValueError(f"words {words}, {len(inits)} start values; expected different words, and a value for each or all")
    starts = [start(tokenizer, text_encoder, value, vectors) for value in inits]
    for word, rows in zip(words, starts):
        check(tokenizer, text_encoder, word, rows)
    places = {word: grow(tokenizer, text_encoder, word, rows) for word, rows in zip(words, starts)}
    text_encoder.requires_grad_(False)
    learned = LearnedToken(table_of(text_encoder), places)
    text_encoder.text_model.embeddings.token_embedding = learned
    return learned


def freeze(pipe, part="text_encoder"):
    """End the learning: the new rows, as they are now, become rows of an ordinary frozen table."""
    text_encoder = getattr(pipe, part)
    learned = text_encoder.text_model.embeddings.token_embedding
    if not isinstance(learned, LearnedToken):
        raise ValueError(f"the {part} of this model is not learning a token")
    table = learned.table.clone()
    table[learned.ids] = learned.rows.detach().to(table.dtype)
    text_encoder.text_model.embeddings.token_embedding = nn.Embedding.from_pretrained(table)


def start(tokenizer, text_encoder, init, vectors):
    """(n, D): the row of a word, `vectors` times, or the rows given."""
    if isinstance(init, torch.Tensor):
        return checked_rows(init)
    ids = tokenizer.encode(init)
    if len(ids) != 1:
        raise ValueError(f"the start word {init!r} is {len(ids)} tokens; choose one that this model knows as a single token")
    return repeat(table_of(text_encoder)[ids[0]].detach(), "d -> n d", n=vectors)


def rare(tokenizer, captions, least=5, most=10):
    """Ids of the symbols that captions use `least` to `most` times, made of letters only, and in no longer symbol: places to start.

    Source: Kumari et al. 2023, arXiv:2212.04488, Appendix E, where 200,000 captions of LAION-400M are counted.
    """
    counts = Counter(i for words in captions for i in tokenizer.encode(words))
    name = lambda symbol: symbol.removesuffix("</w>")
    every = "\n".join({name(symbol) for symbol in tokenizer.vocab} - set(tokenizer.names.values()))
    is_letters = lambda word: word.isascii() and word.islower() and word.isalpha()
    is_rare = lambda symbol, i: least <= counts[i] <= most and is_letters(name(symbol))
    return [i for symbol, i in tokenizer.vocab.items() if is_rare(symbol, i) and every.count(name(symbol)) == 1]


def tokenizer_of(pipe, part):
    return getattr(pipe, part.replace("text_encoder", "tokenizer"))


def table_of(text_encoder):
    """(V, D): the embeddings of all tokens."""
    layer = text_encoder.text_model.embeddings.token_embedding
    return layer.table if isinstance(layer, LearnedToken) else layer.weight


def check(tokenizer, text_encoder, word, rows):
    """ValueError unless `grow` can do it."""
    table = table_of(text_encoder)
    tokenizer.check_new(word, len(rows))
    if rows.shape[-1] != table.shape[-1]:
        raise ValueError(f"its embedding is {rows.shape[-1]} wide, this text encoder {table.shape[-1]}; it is for another "
                         "model (768: Stable Diffusion 1; 1024: 2; 768 and 1280: XL)")
    if tokenizer.next_id != len(table):
        raise ValueError(f"the next new token is number {tokenizer.next_id}, but the text encoder has {len(table)} rows: "
                         "do tokenizer and text encoder belong together?")


def grow(tokenizer, text_encoder, word, rows):
    """Add a word to the tokenizer and its rows (n, D) to the table, frozen. Returns the range of its ids."""
    first = tokenizer.add_token(word, len(rows))
    embeddings, old = text_encoder.text_model.embeddings, table_of(text_encoder)
    table = torch.cat([old.detach(), rows.to(old)])
    if isinstance(embeddings.token_embedding, LearnedToken):
        embeddings.token_embedding.table = table
    else:
        embeddings.token_embedding = nn.Embedding.from_pretrained(table)
    # Where a config does not say which token is the end, that is derived from the size of the table before it grew.
    text_encoder.config = {**text_encoder.config, "vocab_size": len(table), "eos_token_id": text_encoder.end}
    return range(first, first + len(rows))


# Files ------------------------------------------------------------------------------------------------------------


def load(pipe, path, token=None):
    """Add the token in a file to a model: a frozen one, for prompts. Returns its name.

    Args:
        path: .safetensors, .pt or .bin (read without unpickling code), see above.
        token: its name; None takes the one in the file.

    Raises CheckpointError, and adds nothing, if the file holds no embedding, one for another model, or a name that
    is taken.
    """
    name, rows = read(path)
    token = name if token is None else token
    parts = [part for part in SDXL.values() if hasattr(pipe, part)]
    if set(rows) != set(parts):
        raise CheckpointError(f"{path} is for {len(rows)} text encoder(s), this model has {len(parts)}; "
                              "an embedding for SDXL holds clip_l and clip_g, others hold one tensor")
    try:
        for part in parts:
            check(tokenizer_of(pipe, part), getattr(pipe, part), token, rows[part])
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be added as {token!r} (for another name, train with another --token, or load "
                              f"with token=...): {error}") from error
    for part in parts:
        grow(tokenizer_of(pipe, part), getattr(pipe, part), token, rows[part])
    return token


def save(path, token, rows, layout="diffusers"):
    """Write a file that `load`, diffusers, A1111 and ComfyUI read.

    Args:
        path: .safetensors; in layout "a1111" also .pt. A1111 and ComfyUI take the name of the file for that of the token.
        token: its name.
        rows: (D,) or (n, D); for SDXL {"text_encoder": rows, "text_encoder_2": rows}, which has one layout only.
        layout: "diffusers" or "a1111".
    """
    if layout not in ("diffusers", "a1111"):
        raise ValueError(f"layout {layout!r}, expected diffusers or a1111")
    suffix, is_sdxl = Path(path).suffix, isinstance(rows, dict)
    suffixes = [".safetensors", ".pt"] if layout == "a1111" and not is_sdxl else [".safetensors"]
    if suffix not in suffixes:
        raise ValueError(f"{path} ends in {suffix!r}, expected {' or '.join(suffixes)}")
    if is_sdxl:
        return write_tensors(path, {key: checked_rows(rows[part]) for key, part in SDXL.items()}, {"format": "pt"})
    rows = checked_rows(rows)
    if suffix == ".pt":
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": token, "step": None,
                   "sd_checkpoint": None, "sd_checkpoint_name": None}             # 265 is "*" in CLIP's vocabulary
        return write_pickle(path, content)
    write_tensors(path, {token if layout == "diffusers" else "emb_params": rows}, {"format": "pt"})


def read(path):
    """(name of the token, {part of a pipeline: its rows (n, D)}) of a file; CheckpointError if it is no embedding."""
    content, name = (load_pickle if Path(path).suffix in PICKLES else read_tensors)(path), Path(path).stem
    if isinstance(content, torch.Tensor):
        content = {"*": content}
    if isinstance(content, dict) and "string_to_param" in content:
        content, name = content["string_to_param"], str(content.get("name") or name)
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise CheckpointError(f"{path} holds no embedding of a token")
    keys = set(content)
    if keys != set(SDXL) and len(keys) != 1:
        raise CheckpointError(f"{path} holds {len(keys)} tensors, expected one embedding, or clip_l and clip_g; "
                              "is it a LoRA or a whole model?")
    if len(keys) == 1:
        name = name if keys <= {"*", "emb_params"} else str(*keys)
    try:
        return name, {SDXL.get(key, "text_encoder"): checked_rows(t) for key, t in content.items()}
    except ValueError as error:
        raise CheckpointError(f"{path} holds no embedding of a token: {error}") from error


def checked_rows(rows):
    """Rows (D,) or (n, D) of any floating-point type -> (n, D), float32, detached, finite, on the CPU, or ValueError."""
    rows = torch.as_tensor(rows).detach()
    if rows.ndim not in (1, 2) or not rows.numel() or not rows.is_floating_point():
        raise ValueError(f"{rows.dtype} of shape {tuple(rows.shape)}, expected floating point of shape (D,) or (n, D)")
    rows = rows.to("cpu", torch.float32, copy=True).reshape(-1, rows.shape[-1])
    if not rows.isfinite().all():
        raise ValueError("it has values that are not finite")
    return rows
