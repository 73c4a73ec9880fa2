"""Properties of minidiff.tokenizer. The golden ids are those of openai/CLIP's own code, see golden/tokenizer/SOURCES.md."""
import json
import warnings
from pathlib import Path

import pytest

from minidiff.checkpoints import CheckpointError
from minidiff.tokenizer import Tokenizer, make_vocabulary

GOLDEN = Path(__file__).parent / "golden" / "tokenizer"
STRINGS = json.loads((GOLDEN / "tokenizer_golden.json").read_text(encoding="utf-8"))["strings"]
MOJIBAKE = ("Ã", "â€", "âœ")           # what ftfy alone repairs; every string with one of these is listed in the file
CAPTIONS = ["a red cat next to a blue chair", "An old man, it's 12 o'clock", "a café in Łódź, watercolor", "déjà-vu!! 1999"]


@pytest.fixture(scope="module")
def clip():
    return Tokenizer.from_file(GOLDEN / "bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture()
def tiny():
    return Tokenizer.train(CAPTIONS, length=12)


def test_golden_data_is_there():
    assert len(STRINGS) == 314 and sum(row["agree"] for row in STRINGS) == 277


def test_ids_equal_the_originals_except_where_ftfy_repairs_mojibake(clip):
    different = [row for row in STRINGS if clip.encode(row["text"]) != row["ids"]]
    assert all(any(mark in row["text"] for mark in MOJIBAKE) and not row["agree"] for row in different), different
    assert len(different) == 6


def test_a_row_is_start_text_end_padding(clip):
    ids = clip(["a cat", ""])
    assert ids.shape == (2, 77) and len(clip) == 49408
    assert ids[0, :4].tolist() == [49406, 320, 2368, 49407] and set(ids[0, 4:].tolist()) == {49407}
    assert ids[1].tolist() == [49406] + [49407] * 76
    assert clip([]).shape == (0, 77)


def test_a_list_of_one_and_a_plain_text_give_the_same_row(clip):
    assert clip("a cat").tolist() == clip(["a cat"]).tolist()


def test_decoding_gives_the_clean_text_back(clip, tiny):
    for tok in (clip, tiny):
        assert tok.decode(tok("A  red CAT")[0]) == "a red cat"
        assert tok.decode(tok.encode("łódź 猫 😀")) == "łódź 猫 😀"


def test_the_warning_shows_the_text_that_was_cut(tiny):
    with pytest.warns(UserWarning, match="a red cat next to a blue chair".split()[-1]) as caught:
        ids = tiny("red red red red red red red red red red blue chair")
    assert "'blue chair'" in str(caught[0].message) and caught[0].filename == __file__
    assert ids.shape == (1, 12) and ids[0, -1] == tiny.eos


def test_a_prompt_that_just_fits_is_not_cut(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny.decode(tiny("red " * 10)[0]) == " ".join(["red"] * 10)


@pytest.mark.parametrize("pad", [None, "!"])
def test_saving_and_loading_changes_nothing(clip, tmp_path, pad):
    tok = Tokenizer(clip.vocab, clip.ranks, pad=pad)
    tok.add_token("<new1>")
    tok.save(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    texts = ["a photo of a <new1> cat!", "Łódź 猫, it's 12", ""]
    assert again(texts).tolist() == tok(texts).tolist()
    assert (again.bos, again.eos, again.pad, again.length, len(again)) == (tok.bos, tok.eos, tok.pad, tok.length, len(tok))


def test_stable_diffusion_2_pads_with_zero_and_keeps_the_exclamation_marks_of_the_prompt(clip, tmp_path):
    clip.save(tmp_path)               # as on the hub: the two files disagree, and the map is right
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    tok = Tokenizer.from_pretrained(tmp_path)
    assert tok("hello!")[0, :6].tolist() == [49406, 3306, 256, 49407, 0, 0] and tok.pad == 0
    assert tok.decode(tok("hello!")[0]) == "hello !"


def test_the_single_file_of_newer_peers_is_read(tiny, tmp_path):
    merges = [list(pair) for pair in tiny.ranks]
    added = [{"content": "<new1>", "id": len(tiny)}, {"content": "<|endoftext|>", "id": tiny.eos}]
    text = json.dumps({"model": {"vocab": tiny.vocab, "merges": merges}, "added_tokens": added})
    (tmp_path / "tokenizer.json").write_text(text)
    tok = Tokenizer.from_pretrained(tmp_path)
    assert tok.encode("red <new1> zebra") == [*tiny.encode("red"), len(tiny), *tiny.encode("zebra")]
    assert tok.length == 77


def test_an_added_token_is_always_matched_whole(tiny):
    i = tiny.add_token("<new1>")
    assert i == len(tiny) - 1
    for text in ("<new1>", "a <new1> cat", "a<new1>cat", "<NEW1>, red", "(<new1>)"):
        assert tiny.encode(text).count(i) == 1, text
    assert tiny.encode("a <new1> cat") == [*tiny.encode("a"), i, *tiny.encode("cat")]
    assert tiny.decode(tiny("a <new1> cat")[0]) == "a <new1> cat"
    assert i not in tiny.encode("<new2> new1")


def test_an_added_token_does_not_break_another_one_or_a_longer_word(tiny):
    short, long = tiny.add_token("xyz"), tiny.add_token("xyz-large")
    assert tiny.encode("xyz-large xyz") == [long, short]
    assert short not in tiny.encode("xyzzy axyz")


@pytest.mark.parametrize("word", ["<new1>", "red", "RED", "<|endoftext|>", "", " ", "two words"])
def test_adding_what_is_no_new_word_is_an_error(tiny, word):
    tiny.add_token("<new1>")
    with pytest.raises(ValueError, match="token"):
        tiny.add_token(word)


def test_training_gives_one_token_for_each_word_of_the_corpus_and_bytes_for_the_rest(tiny):
    for caption in CAPTIONS:
        assert tiny.decode(tiny.encode(caption)).split() == [tiny.decode([i]) for i in tiny.encode(caption)]
    assert all(len(tiny.encode(word)) == 1 for word in "red cat chair watercolor café łódź clock déjà".split())
    assert len(tiny.encode("zebra")) > 1 and tiny.decode(tiny.encode("zebra")) == "zebra"
    assert (tiny.bos, tiny.eos) == (len(tiny) - 2, len(tiny) - 1)


def test_training_depends_on_nothing_but_the_words():
    assert Tokenizer.train(CAPTIONS).vocab == Tokenizer.train(reversed(CAPTIONS)).vocab


def test_a_word_cut_in_two_ways_still_ends_as_one_token():
    words = ["abcd", "abc", "bcd", "bc", "ab", "cd", "abab", "baba", "aabb", "abcabc", "bcabcd", "aaaa", "aaa"]
    for i in range(len(words)):
        tok = Tokenizer.train(words + words[:i] * 3)
        assert all(len(tok.encode(word)) == 1 for word in words)


def test_unknown_special_names_are_named(tiny):
    with pytest.raises(ValueError, match="'<start>'"):
        Tokenizer(tiny.vocab, tiny.ranks, bos="<start>")
    with pytest.raises(ValueError, match="'<pad>'"):
        Tokenizer(tiny.vocab, tiny.ranks, pad="<pad>")


@pytest.mark.parametrize("text", [None, 3, b"cat"])
def test_what_is_not_text_is_refused(tiny, text):
    with pytest.raises(ValueError, match="expected text"):
        tiny([text])


def test_unknown_ids_are_refused(tiny):
    with pytest.raises(ValueError, match="id 99999"):
        tiny.decode([99999])


def test_half_a_surrogate_pair_does_not_stop_the_tokenizer(tiny):
    assert tiny.encode("red \ud83d") == tiny.encode("red \ufffd")


def test_damaged_files_are_refused(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="vocab.json"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        Tokenizer.from_file(tmp_path / "bpe.txt.gz")
    (tmp_path / "bpe.txt.gz").write_bytes((GOLDEN / "bpe_simple_vocab_16e6.txt.gz").read_bytes()[:9999])
    with pytest.raises(CheckpointError, match="download"):
        Tokenizer.from_file(tmp_path / "bpe.txt.gz")
    tiny.save(tmp_path)
    (tmp_path / "merges.txt").write_text("#version\nq q q\n")
    with pytest.raises(CheckpointError, match="3 symbols"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("#version\nq q\n")
    with pytest.raises(CheckpointError, match="belong together"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({**make_vocabulary([]), "a": 70000}))
    with pytest.raises(CheckpointError, match="ids"):
        Tokenizer.from_pretrained(tmp_path)
