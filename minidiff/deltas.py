"""Some weights of a UNet and some new tokens, changed by training: kept as a file without the rest of the model.

    delta = deltas.read("delta.bin", pipe.unet)         # any layout below
    delta.apply(pipe)                                   # from here on "a photo of a <new1> cat" is a prompt
    deltas.write("delta.ckpt", delta, pipe.unet, "compvis")
    deltas.save(folder, delta, {"seconds": 60})         # delta.safetensors, new1.safetensors, metrics.json; `read` takes the folder too

    layout      file          keys and values                                                          written by
    ----------  ------------  -----------------------------------------------------------------------  ---------------------
    minidiff    .safetensors  unet.NAME: W, or unet.NAME.u and unet.NAME.v;  modifier_token.WORD: rows   minidiff
    adobe       .bin          unet: {NAME: W, or {u, v}};  modifier_token: {WORD: row}                   Custom Diffusion
    compvis     .ckpt         state_dict: {model.diffusion_model.ORIGINAL NAME: W;  embed: rows}         Custom Diffusion
    diffusers   .bin          ... .attn2.processor.to_k_custom_diffusion.weight: W;  ... .attn1.processor: {}     diffusers

W is the whole new weight, not the difference, whatever the files are called. u (o, r) and v (r, d) are: W = W_0 + u v.
Source of the compression: Kumari et al. 2023, arXiv:2212.04488, Appendix C.

diffusers' layout has no place for tokens: write them with `tokens.save`. It reads the .bin only with its empty entries for
self-attention, and only by `pipe.unet.load_attn_procs(..., _pipeline=pipe)`; without `_pipeline` several of its versions read
the file and change nothing. `Delta.lora` gives a file that every program reads. compvis' rows have no names: <new1>, <new2>, ...
"""
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import lora, tokens
from .checkpoints import is_finite, write_json, write_pickle, write_tensors
from .lora_files import listed
from .tensorfile import PICKLES, CheckpointError, load_pickle, printable, read_metadata, read_tensors
from .unet import original_name

LAYOUTS = {"minidiff": ".safetensors", "adobe": ".bin", "compvis": ".ckpt", "diffusers": ".bin"}
COMPVIS = "model.diffusion_model."
# What `export` writes for other programs: layout -> name of the file.
EXPORTS = {"lora": "lora.safetensors", "lora-diffusers": "lora.safetensors", "minidiff": "delta.safetensors", "adobe": "delta.bin",
           "compvis": "delta.ckpt", "diffusers": "pytorch_custom_diffusion_weights.bin"}


@dataclass
class Delta:
    """weights: {name in the UNet: W, or (u, v)}; rows: {new word: (n, D)}; classes: {new word: word of its class, if known}."""
    weights: dict
    rows: dict = field(default_factory=dict)
    classes: dict = field(default_factory=dict)

    @property
    def tensors(self):
        return [t for w in (*self.weights.values(), *self.rows.values()) for t in (w if isinstance(w, tuple) else (w,))]

    @property
    def nbytes(self):
        """Bytes of all values."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    @property
    def numbers(self):
        return sum(t.numel() for t in self.tensors)

    def full(self, unet):
        """{name: W}, on `unet`, which holds W_0."""
        base = unet.state_dict()
        return {name: w if torch.is_tensor(w) else base[name] + (w[0] @ w[1]).to(base[name]) for name, w in self.weights.items()}

    @torch.no_grad()
    def apply(self, pipe):
        """Put the weights into the UNet, in place, and the tokens, frozen, into tokenizer and text encoder."""
        try:
            for word, rows in self.rows.items():
                tokens.check(pipe.tokenizer, pipe.text_encoder, word, rows)
        except ValueError as error:
            raise CheckpointError(f"the token {word} cannot be added: {error}") from error
        own = pipe.unet.state_dict()
        for name, weight in self.full(pipe.unet).items():
            own[name].copy_(weight)
        for word, rows in self.rows.items():
            tokens.grow(pipe.tokenizer, pipe.text_encoder, word, rows)

    def compressed(self, unet, ratio=.6):
        """The same with (u, v) in place of every W that is a matrix; `unet` holds W_0. See `low_rank`."""
        base = unet.state_dict()
        small = {name: low_rank(w - base[name].to(w), ratio) if w.ndim == 2 else w for name, w in self.full(unet).items()}
        return Delta(small, self.rows, self.classes)

    def lora(self, unet, ratio=1.0):
        """The change as a LoRA on `unet`, which holds W_0: exact with ratio 1, else as in `compressed`."""
        pairs = {name.removesuffix(".weight"): w for name, w in self.compressed(unet, ratio).weights.items()}
        other = [name for name, w in pairs.items() if torch.is_tensor(w)]
        if other:
            raise ValueError(f"a LoRA holds changes of matrices only, this one also has {', '.join(other[:3])}; "
                             "use another layout, or train only keys and values")
        layers = lora.adaptable(unet)
        fill = lambda name, u, v: lora.filled(layers[name], {"down": v, "up": u, "alpha": None})
        with torch.no_grad():
            return lora.LoRA(unet, {name: fill(name, u, v) for name, (u, v) in pairs.items()}).requires_grad_(False)


def low_rank(difference, ratio):
    """(o, d) -> u (o, r), v (r, d): the fewest leading singular values whose sum is at least `ratio` of the sum of all.

    Source: Appendix C. The authors' code stops one value earlier, just below the ratio.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"a ratio of {ratio} of the singular values, expected above 0 and at most 1")
    U, S, Vh = torch.linalg.svd(difference.double(), full_matrices=False)
    mass = S.cumsum(0)
    r = len(S) if ratio == 1 else 1 + int((mass < ratio * mass[-1]).sum())
    return (U[:, :r] * S[:r]).to(difference.dtype), Vh[:r].to(difference.dtype)


# ------------------------------------------------------------------------------------------------ files

def write(path, delta, unet, layout="minidiff"):
    """One file; see the table above. `unet` gives the names, and W_0 where a layout has no place for (u, v)."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    full = {name: w.detach().contiguous().cpu() for name, w in delta.full(unet).items()} if layout in ("compvis", "diffusers") else {}
    if layout == "minidiff":
        write_tensors(path, flat(delta), {"format": "pt", "classes": json.dumps(delta.classes)})
        return
    if layout == "adobe":
        content = {"unet": {name: w.detach().cpu() if torch.is_tensor(w) else {"u": w[0], "v": w[1]} for name, w in delta.weights.items()},
                   "modifier_token": {word: rows[0] for word, rows in delta.rows.items()}}
    elif layout == "compvis":
        weights = {COMPVIS + original_name(name, unet.config): w for name, w in full.items()}
        content = {"state_dict": weights | ({"embed": torch.cat([*delta.rows.values()])} if delta.rows else {})}
    else:
        content = {f"{name}.processor": {} for name in unet.self_attentions()} | {processor_name(name): w for name, w in full.items()}
    many = [word for word, rows in delta.rows.items() if len(rows) > 1]
    if many and layout != "diffusers":
        raise ValueError(f"{many[0]} has {len(delta.rows[many[0]])} vectors; layout {layout} has room for one per token")
    write_pickle(path, content)


def flat(delta):
    tensors = {f"modifier_token.{word}": rows for word, rows in delta.rows.items()}
    for name, w in delta.weights.items():
        tensors |= {f"unet.{name}": w} if torch.is_tensor(w) else {f"unet.{name}.u": w[0], f"unet.{name}.v": w[1]}
    return tensors


def processor_name(name):
    """ "...attn2.to_k.weight" -> "...attn2.processor.to_k_custom_diffusion.weight", diffusers' name for it."""
    theirs, found = re.subn(r"\.attn2\.(to_q|to_k|to_v|to_out)(\.0)?\.(weight|bias)$",
                            lambda m: f".attn2.processor.{m[1]}_custom_diffusion{m[2] or ''}.{m[3]}", name)
    if not found:
        raise ValueError(f"layout diffusers holds cross-attention only, not {name}; use another layout")
    return theirs


def read(path, unet):
    """A Delta from a file of any layout, or a folder of `save`; CheckpointError if it is none, or fits another UNet than this."""
    path = Path(path) / "delta.safetensors" if Path(path).is_dir() else path
    content = (load_pickle if str(path).endswith(PICKLES) else read_tensors)(path)
    state = content.get("state_dict", {}) if isinstance(content, dict) else {}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected weights and tokens of a Custom Diffusion")
    if isinstance(content.get("unet"), dict):
        weights, rows = {k: pair(v) for k, v in content["unet"].items()}, content.get("modifier_token") or {}
    elif isinstance(state, dict) and any(str(k).startswith(COMPVIS) for k in state):
        weights, rows = from_compvis(state, unet)
    elif any("_custom_diffusion" in str(k) for k in content):
        weights, rows = {re.sub(r"\.processor\.(\w+)_custom_diffusion", r".\1", k): t for k, t in content.items() if torch.is_tensor(t)}, {}
    else:
        weights, rows = from_flat(content)
    if not weights and not rows:
        raise CheckpointError(f"{path} has no weights of a Custom Diffusion, and no new token; is it a LoRA or a whole model? "
                              f"First keys:{listed([str(k) for k in content], most=3)}")
    try:
        rows = {str(word): tokens.checked_rows(r) for word, r in rows.items()}
        classes = json.loads(read_metadata(path).get("classes", "{}"))
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its tokens cannot be used: {error}") from error
    check(path, weights, unet)
    return Delta(weights, rows, {word: str(c) for word, c in classes.items()} if isinstance(classes, dict) else {})


def save(folder, delta, metrics):
    """What a training has learned, as a folder: delta.safetensors, a file for each new word, and metrics.json.

    metrics: {name: number}, of the training; "bytes", of delta.safetensors, and "numbers" are added. Returns the paths but the last.
    """
    path = Path(folder) / "delta.safetensors"
    write(path, delta, None)
    words = save_words(folder, delta)
    write_json(Path(folder) / "metrics.json", metrics | {"bytes": path.stat().st_size, "numbers": delta.numbers})
    return [path, *words]


def save_words(folder, delta):
    """Each new word as a textual inversion of its own, see `tokens.save`; "<new1>" is in new1.safetensors. Returns the paths."""
    plain = lambda word: "".join(letter for letter in word if letter.isalnum() or letter in "-_") or "token"
    names = ["token" if plain(word) == "delta" else plain(word) for word in delta.rows]         # delta.safetensors are the weights
    names = [name if name not in names[:i] else f"{name}_{i + 1}" for i, name in enumerate(names)]      # "<a b>" beside "<ab>"
    paths = [Path(folder) / f"{name}.safetensors" for name in names]
    for path, (word, rows) in zip(paths, delta.rows.items()):
        tokens.save(path, word, rows)
    return paths


def export(folder, delta, unet, layout="lora", ratio=1.0):
    """Files for other programs: the weights in a layout of EXPORTS, and the words beside them. Returns the paths.

    unet: holds W_0.   ratio: share of the singular values to keep, see `low_rank`.
    """
    path = Path(folder) / EXPORTS[layout]
    if layout.startswith("lora"):
        delta.lora(unet, ratio).save(path, "diffusers" if layout == "lora-diffusers" else "kohya")
    else:
        write(path, delta if ratio == 1 else delta.compressed(unet, ratio), unet, layout)
    return [path, *save_words(folder, delta)]


def pair(value):
    """{"u": u, "v": v} of a compressed file -> (u, v); a tensor as it is."""
    return (value["u"], value["v"]) if isinstance(value, dict) and set(value) == {"u", "v"} else value


def from_flat(tensors):
    weights, rows = {}, {}
    for key, tensor in tensors.items():
        kind, _, name = str(key).partition(".")
        if kind == "modifier_token":
            rows[name] = tensor
        elif kind == "unet":
            stem, _, part = name.rpartition(".")
            weights |= {stem: (tensor, tensors.get(f"unet.{stem}.v"))} if part == "u" else {} if part == "v" else {name: tensor}
    return weights, rows


def from_compvis(state, unet):
    ours = {COMPVIS + original_name(name, unet.config): name for name in unet.state_dict()}
    rows = state.get("embed", [])
    return ({ours.get(key, key): t for key, t in state.items() if key != "embed"}, {f"<new{i + 1}>": row for i, row in enumerate(rows)})


def check(path, weights, unet):
    """CheckpointError that lists what of {name: W or (u, v)} does not fit."""
    own, problems = unet.state_dict(), []
    for name, w in weights.items():
        parts = w if isinstance(w, tuple) else (w,)
        if name not in own:
            problems.append(f"no weight {printable(name)}")
        elif not all(torch.is_tensor(t) and t.is_floating_point() for t in parts):
            problems.append(f"{name} is no tensor of floating-point numbers")
        elif not all(map(is_finite, parts)):
            problems.append(f"{name} holds values that are not finite")
        elif shape(parts) != tuple(own[name].shape):
            problems.append(f"{name} has shape {shape(parts)}, expected {tuple(own[name].shape)}")
    if problems:
        raise CheckpointError(f"{path} does not fit this UNet, {len(problems)} of {len(weights)} weights; "
                              f"is it for another model?{listed(problems, most=5)}")


def shape(parts):
    """Of W, or of u v; None if u and v cannot be multiplied."""
    if len(parts) == 1:
        return tuple(parts[0].shape)
    u, v = parts
    return (len(u), v.shape[1]) if u.ndim == v.ndim == 2 and u.shape[1] == len(v) else None
