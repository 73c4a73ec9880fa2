"""Byte-pair encoding as in CLIP. Sennrich et al., arXiv:1508.07909v5, on the bytes of the text (GPT-2, CLIP).

A text becomes clean lower-case words, a word becomes its UTF-8 bytes, each byte written as one printable character
and the last one marked with `</w>`; then the pairs that were learned first are joined first. What is left are tokens.

Ids are those of the original (openai/CLIP), which cleans its prompts with the library ftfy. Of ftfy this file does
what changes a prompt that a person types: curly quotes become straight, ligatures and full-width letters are folded,
control characters and terminal escapes go, HTML entities are resolved, characters are composed (NFC). Left out: the
repair of mojibake, text that was decoded with the wrong encoding ("schÃ¶n" stays, ftfy makes it "schön").
"""
import gzip
import html
import json
import re
import unicodedata
import warnings
from collections import Counter
from functools import lru_cache
from itertools import count, takewhile
from pathlib import Path

import torch

from .checkpoints import CheckpointError, read_config, write_atomically

START, END = "<|startoftext|>", "<|endoftext|>"
OPENAI_MERGES = 49152 - 256 - 2      # the vocabulary file holds more merges than CLIP was trained with
LENGTH = 77


def byte_symbols():
    """One printable character for each byte: {byte: character}, in the order of CLIP's vocabulary.

    Bytes that are printable in Latin-1 stand for themselves and come first; the others, space and control bytes among
    them, follow as characters 256, 257, ... so that no symbol is ever white space.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def folded_characters():
    """What `clean` does to single characters: {code point: replacement}."""
    quotes = dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
    ligatures = [0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07)]
    unfold = lambda c: "".join(chr(int(part, 16)) for part in unicodedata.decomposition(chr(c)).split()[1:])
    control = [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
    return (quotes
            | {c: unfold(c).translate(quotes) for c in ligatures}
            | {c: unicodedata.normalize("NFKC", chr(c)) for c in range(0xFF01, 0xFFF0)}    # full and half width
            | {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
            | dict.fromkeys(control, ""))


BYTE_SYMBOLS = byte_symbols()
SYMBOL_BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}
FOLDED = folded_characters()
TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
RUN = re.compile("L+|N|P+")           # a run of letters, a single digit, a run of anything else


def clean(text):
    """Repair the text, resolve HTML entities, put one space between words, lower-case."""
    if "<" not in text:               # ftfy leaves entities alone in what may be HTML, so a quote written &rsquo; stays curly
        text = html.unescape(text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")    # half a character cannot be encoded
    text = TERMINAL_ESCAPE.sub("", text).translate(FOLDED)
    text = unicodedata.normalize("NFC", text)
    text = html.unescape(html.unescape(text))                                    # twice, like the original: &amp;amp;
    return " ".join(text.split()).lower()


@lru_cache(maxsize=65536)
def kind(character):
    """L for a letter, N for a number, P for the rest: `\\p{L}` and `\\p{N}`, which the module `re` does not know."""
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "P"


def special_pattern(names=(START, END)):
    return re.compile("|".join(map(re.escape, names)) + "|" + CONTRACTIONS, re.IGNORECASE)


def words(chunk, special=special_pattern()):
    """Split text without white space into special tokens, contractions, runs of letters, single digits, other runs.

    The regular expression of the original, `special|'s|...|\\p{L}+|\\p{N}|[^\\s\\p{L}\\p{N}]+`: the classes are looked
    up in `kinds`, which has one class letter for each character of `chunk`.
    """
    kinds = "".join(map(kind, chunk))
    position = 0
    while position < len(chunk):
        end = (special.match(chunk, position) or RUN.match(kinds, position)).end()
        yield chunk[position:end]
        position = end


def to_symbols(word):
    """The bytes of a word as symbols, the last one with the end mark: "cat" -> ("c", "a", "t</w>")."""
    symbols = [BYTE_SYMBOLS[byte] for byte in word.encode("utf-8")]
    return (*symbols[:-1], symbols[-1] + "</w>")


def join(symbols, pair):
    """Join every occurrence of `pair`, from left to right."""
    out = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def merge(symbols, ranks):
    """Join the pair with the lowest rank, again and again, until no pair has one."""
    while len(symbols) > 1:
        pair = min(zip(symbols, symbols[1:]), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        symbols = join(symbols, pair)
    return symbols


def make_vocabulary(merges):
    """{symbol: id}: 256 bytes, the same with the end mark, the merges in their order, start, end."""
    symbols = [*BYTE_SYMBOLS.values(), *(s + "</w>" for s in BYTE_SYMBOLS.values()), *map("".join, merges), START, END]
    return {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}    # two merges may give the same string


class Tokenizer:
    """Text -> ids.

    Args:
        vocab: {symbol: id}.
        merges: pairs of symbols, the first learned first.
        length: tokens in a row, start and end included.
        bos, eos, pad: names of the start, end and padding tokens; `pad` None means the end token.
        added: {word: id} of tokens added after training.

    Raises ValueError if a special name is not in the vocabulary.
    """

    def __init__(self, vocab, merges, length=LENGTH, bos=START, eos=END, pad=None, added=None):
        self.vocab = dict(vocab)
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.length = int(length)
        self.names = {"bos": bos, "eos": eos, "pad": pad or eos}
        self._check()
        self._special = special_pattern((bos, eos))
        self._cache = {}              # {text without white space: its ids}
        self._symbols = {i: symbol for symbol, i in self.vocab.items()}
        self.added, self._added_ids, self._added_pattern = {}, {}, None
        for word, i in (added or {}).items():
            self._register(word, i)

    def _check(self):
        if self.length < 3:
            raise ValueError(f"a row of {self.length} tokens has no room for a word between start and end; use at least 3")
        if {*self.vocab.values()} != {*range(len(self.vocab))}:
            raise CheckpointError(f"the ids of a vocabulary of {len(self.vocab)} tokens must be 0 to {len(self.vocab) - 1}")
        for role, name in self.names.items():
            if name not in self.vocab:
                raise ValueError(f"the {role} token {name!r} is not in the vocabulary of {len(self.vocab)} tokens")
        needed = [s + end for s in BYTE_SYMBOLS.values() for end in ("", "</w>")] + ["".join(p) for p in self.ranks]
        missing = [s for s in needed if s not in self.vocab]
        if missing:
            raise CheckpointError(f"{len(missing)} symbols of a byte-pair encoding are not in the vocabulary, e.g. "
                                  f"{missing[0]!r}; do vocab.json and merges.txt belong together?")

    # where a vocabulary comes from -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder):
        """Read the `tokenizer/` folder of a public checkpoint: vocab.json, merges.txt (or tokenizer.json, where the
        peers write both today), tokenizer_config.json, special_tokens_map.json, added_tokens.json.

        The padding token of special_tokens_map.json wins over tokenizer_config.json: Stable Diffusion 2 says the end
        token in one and `!` (id 0) in the other, was trained with 0, and its UNet attends to padding.
        """
        folder = Path(folder)
        optional = lambda name: read_config(folder, name) if (folder / name).is_file() else {}
        config = {**optional("tokenizer_config.json"), **optional("special_tokens_map.json")}
        vocab, merges, added = _read_tables(folder, optional("tokenizer.json"))
        added |= {_content(token): int(i) for i, token in (config.get("added_tokens_decoder") or {}).items()}
        added |= optional("added_tokens.json")
        name = lambda role, default: _content(config.get(f"{role}_token") or default)
        length = config.get("model_max_length") or LENGTH
        return cls(vocab, merges, length if length < 1e6 else LENGTH,        # the peers write 1e30 for "not known"
                   name("bos", START), name("eos", END), name("pad", None),
                   {word: i for word, i in added.items() if word not in vocab})

    @classmethod
    def from_file(cls, path, length=LENGTH, pad=None):
        """Read OpenAI's `bpe_simple_vocab_16e6.txt.gz`: a version line, then one merge per line."""
        merges = _read_merges(path)[:OPENAI_MERGES]
        return cls(make_vocabulary(merges), merges, length, pad=pad)

    @classmethod
    def train(cls, texts, length=32):
        """Learn merges from `texts` until every word in them is one token; other text is still encoded, in bytes.

        Each round joins the most frequent pair of neighbours. Ties go to the pair that sorts last, so the result
        depends on nothing but the words and their counts.
        """
        chunks = Counter(chunk for text in texts for chunk in clean(text).split())
        counts = Counter()
        for chunk, n in chunks.items():
            for word in words(chunk):
                counts[word] += n
        split, ranks = {word: to_symbols(word) for word in counts if word not in (START, END)}, {}
        while any(len(symbols) > 1 for symbols in split.values()):
            pairs = Counter()
            for word, symbols in split.items():
                for pair in zip(symbols, symbols[1:]):
                    pairs[pair] += counts[word]
            ranks[max(pairs, key=lambda p: (pairs[p], p))] = len(ranks)
            split = {word: merge(symbols, ranks) if len(symbols) > 1 else symbols for word, symbols in split.items()}
        return cls(make_vocabulary(ranks), ranks, length)

    def save(self, folder):
        """Write vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json as the peers do."""
        folder = Path(folder)
        specials = {f"{role}_token": name for role, name in self.names.items()} | {"unk_token": self.names["eos"]}
        tokens = {self.names["bos"]: self.bos, self.names["eos"]: self.eos, **self.added}
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, "do_lower_case": True, **specials,
                  "added_tokens_decoder": {str(i): {"content": word, "special": word not in self.added}
                                           for word, i in tokens.items()}}
        _write(folder / "vocab.json", json.dumps(self.vocab, ensure_ascii=False))
        _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self.ranks))
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        _write(folder / "special_tokens_map.json", json.dumps(specials, indent=2) + "\n")

    # what it knows ---------------------------------------------------------------------------------------------

    def __len__(self):
        """Number of tokens, added ones included."""
        return len(self.vocab) + len(self.added)

    @property
    def bos(self):
        """Id of the start token."""
        return self.vocab[self.names["bos"]]

    @property
    def eos(self):
        """Id of the end token."""
        return self.vocab[self.names["eos"]]

    @property
    def pad(self):
        """Id that fills a row after the end token: the end token itself (SD 1) or 0 (SD 2, SDXL's second encoder)."""
        return self.vocab[self.names["pad"]]

    @property
    def next_id(self):
        """Id that the next new token gets."""
        return max(self._symbols) + 1

    def add_token(self, word, vectors=1):
        """Add a token that is always matched whole, such as "<new1>"; returns its id.

        A word that begins or ends with a letter or a digit is not matched inside a longer word. With several
        `vectors` it becomes as many tokens in a row, <new1> <new1>_1 <new1>_2, as in the peers; their ids follow its own.
        Raises ValueError if the word is empty, has white space in it, or is one token already.
        """
        self.check_new(word, vectors)
        first = self.next_id
        for k in range(vectors):
            self._register(f"{word}_{k}" if k else word, first + k)
        return first

    def check_new(self, word, vectors=1):
        """ValueError unless `add_token` can add this word."""
        name = clean(word)
        if not name or len(name.split()) > 1:
            raise ValueError(f"a new token must be one word, got {word!r}")
        if vectors < 1:
            raise ValueError(f"a new token needs at least one vector, got {vectors}")
        if name in self._added_ids or len(self.encode(name)) == 1:
            raise ValueError(f"{word!r} is a token already; choose a word that is not, such as '<new1>'")
        numbered = lambda a, b: re.fullmatch(re.escape(a) + r"_\d+", b)      # <new>_1 is the second vector of <new>
        clash = [other for other in self._added_ids if numbered(other, name) or numbered(name, other)]
        if clash:
            raise ValueError(f"{word!r} would be taken for a vector of the added token {clash[0]!r}, or that for one of "
                             "its own; choose another word")

    def _register(self, word, i):
        self.added[word], self._symbols[i] = i, word
        self._added_ids[clean(word)] = i
        bound = lambda w: (r"(?<!\w)" if w[0].isalnum() else "") + re.escape(w) + (r"(?!\w)" if w[-1].isalnum() else "")
        longest_first = sorted(self._added_ids, key=len, reverse=True)       # or <new1> would break <new1>-<new2>
        self._added_pattern = re.compile(f"({'|'.join(map(bound, longest_first))})")

    # text -> ids -> text ---------------------------------------------------------------------------------------

    def __call__(self, texts):
        """One text or a list of B texts -> ids (B, L) int64: start, text, end, padding.

        Warns, and shows what is lost, when a text is too long and its end is cut off.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = torch.empty(len(texts), self.length, dtype=torch.long)
        for row, text in zip(rows, texts):
            row[:] = torch.tensor(self._row(text))
        return rows

    def _row(self, text):
        ids, room = self.encode(text), self.length - 2
        if len(ids) > room:
            warnings.warn(f"prompt has {len(ids)} tokens and {room} fit; cut off: {self._text(ids[room:])!r}", stacklevel=3)
        ids = [self.bos, *ids[:room], self.eos]
        return ids + [self.pad] * (self.length - len(ids))

    def encode(self, text):
        """Text -> list of ids, without start, end and padding, of any length."""
        if not isinstance(text, str):
            raise ValueError(f"expected text, got {type(text).__name__}")
        ids = []
        text = clean(text)
        for piece in self._added_pattern.split(text) if self._added_pattern else [text]:
            ids += self._vectors(piece) if piece in self._added_ids else self._encode_words(piece)
        return ids

    def _vectors(self, name):
        """An added token -> the ids of all its vectors, <new> <new>_1 <new>_2 ..."""
        more = takewhile(self._added_ids.__contains__, (f"{name}_{k}" for k in count(1)))
        return [self._added_ids[n] for n in (name, *more)]

    def _encode_words(self, text):
        ids = []
        for chunk in text.split():
            if chunk not in self._cache:
                self._cache[chunk] = [i for word in words(chunk, self._special) for i in self._encode_word(word)]
            ids += self._cache[chunk]
        return ids

    def _encode_word(self, word):
        if word in (self.names["bos"], self.names["eos"]):
            return [self.vocab[word]]
        return [self.vocab[symbol] for symbol in merge(to_symbols(word), self.ranks)]

    def decode(self, ids):
        """Ids -> text, up to the first end token, without the start token; bytes that are no UTF-8 are replaced."""
        ids = [int(i) for i in ids]
        ids = ids[:ids.index(self.eos)] if self.eos in ids else ids
        return self._text(i for i in ids if i != self.bos)

    def _text(self, ids):
        whole = {*self.added.values(), self.bos, self.eos}
        out = b""
        for i in ids:
            symbol = self._symbols.get(i)
            if symbol is None:
                raise ValueError(f"id {i} is not in the vocabulary of {len(self)} tokens")
            out += f"{symbol} ".encode() if i in whole else _symbol_bytes(symbol)
        return out.decode("utf-8", "replace").strip()


def _symbol_bytes(symbol):
    end = symbol.endswith("</w>")
    return bytes(SYMBOL_BYTES[c] for c in (symbol[:-4] if end else symbol)) + b" " * end


def _read_tables(folder, tokenizer_json):
    """vocab {symbol: id}, merges [(a, b)], added {word: id} of a folder; vocab.json and merges.txt come first."""
    if (folder / "vocab.json").is_file() or not tokenizer_json:
        return read_config(folder, "vocab.json"), _read_merges(folder / "merges.txt"), {}
    try:
        model = tokenizer_json["model"]
        merges = [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        return model["vocab"], merges, {t["content"]: t["id"] for t in tokenizer_json.get("added_tokens") or []}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'tokenizer.json'} is not a byte-pair encoding: no {error}") from error


def _content(token):
    """The name of a token: the peers write "<|endoftext|>" or {"content": "<|endoftext|>", ...}."""
    return token["content"] if isinstance(token, dict) else token


def _read_merges(path):
    """Lines "a b" -> list of (a, b). The first line is a version; the file may be gzipped."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file {path}; expected the merges of a byte-pair encoding, one pair per line")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again") from error
    pairs = [tuple(line.split()) for line in lines[1:] if line.strip()]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong:
        raise CheckpointError(f"{path} has a line with {len(wrong)} symbols, expected pairs")
    return pairs


def _write(path, text):
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
