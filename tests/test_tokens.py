"""minidiff.tokens: new tokens, learned, saved and loaded."""
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minidiff import tokens
from minidiff.checkpoints import CheckpointError, save_folder
from minidiff.clip import CLIPText
from minidiff.tokenizer import Tokenizer

torch.set_num_threads(1)          # tiny models: waking a second thread costs more than it brings
WORDS = Tokenizer.train(["a photo of a red cat", "a blue chair"], length=10)
WIDTH = 8


def text_encoder(seed=0, width=WIDTH, **config):
    config = {"vocab_size": len(WORDS), "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2,
              "num_attention_heads": 2, "max_position_embeddings": 10, "projection_dim": width, "eos_token_id": WORDS.eos,
              "architectures": ["CLIPTextModel"], **config}
    return CLIPText(config).init_weights(torch.Generator().manual_seed(seed)).eval().requires_grad_(False)


def words():
    return Tokenizer(WORDS.vocab, WORDS.ranks, WORDS.length)


@pytest.fixture
def pipe():
    return SimpleNamespace(tokenizer=words(), text_encoder=text_encoder())


@pytest.fixture
def xl():
    return SimpleNamespace(tokenizer=words(), text_encoder=text_encoder(), tokenizer_2=words(),
                           text_encoder_2=text_encoder(1, width=12))


def states(pipe, text, part="text_encoder"):
    return getattr(pipe, part)(tokens.tokenizer_of(pipe, part)(text))


def rows(n=1, width=WIDTH, seed=3):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def table(pipe):
    return pipe.text_encoder.text_model.embeddings.token_embedding


# Learning


def test_a_new_token_starts_as_its_start_word(pipe):
    before = states(pipe, "a photo of a cat")
    tokens.add(pipe, "<new1>", init="cat")
    assert_close(states(pipe, "a photo of a <new1>"), before)
    assert_close(states(pipe, "a photo of a cat"), before)


def test_only_the_new_rows_are_parameters_and_only_they_get_a_gradient(pipe):
    pipe.text_encoder.requires_grad_(True)
    learned = tokens.add(pipe, "<new1>", init="cat", vectors=2)
    assert [name for name, p in pipe.text_encoder.named_parameters() if p.requires_grad] == [
        "text_model.embeddings.token_embedding.rows"]
    assert [p.shape for p in learned.parameters()] == [(2, WIDTH)]
    states(pipe, "a red cat")[0].square().sum().backward()
    assert (learned.rows.grad == 0).all()                   # the token is not in this prompt
    states(pipe, "a red <new1>")[0].square().sum().backward()
    assert (learned.rows.grad.abs().amax(dim=1) > 0).all()


def test_training_with_weight_decay_moves_the_new_row_and_no_other(pipe):
    learned = tokens.add(pipe, "<new1>", init="cat")
    before, cat = learned.table.clone(), states(pipe, "a red cat")
    optimizer = torch.optim.AdamW(learned.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        loss = states(pipe, "a photo of <new1>")[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(learned.table, before)
    assert (learned.rows[0] - before[-1]).abs().min() > 0.01
    assert_close(states(pipe, "a red cat"), cat)


def test_several_vectors_stand_in_a_row_wherever_the_token_is(pipe):
    learned = tokens.add(pipe, "<new1>", init=rows(3))
    first = learned.ids[0]
    assert pipe.tokenizer.encode("a <new1> cat") == [
        *WORDS.encode("a"), first, first + 1, first + 2, *WORDS.encode("cat")]
    ids = pipe.tokenizer("<new1>")
    assert_close(learned(ids)[0, 1:4], learned.rows.detach())
    assert_close(learned(ids)[0, 0], learned.table[WORDS.bos])
    assert learned(ids[0]).shape == (10, WIDTH)


def test_several_words_are_learned_together(pipe):
    learned = tokens.add(pipe, ["<new1>", "<new2>"], init=["cat", rows(2)])
    assert learned.words == ["<new1>", "<new2>"] and len(learned.rows) == 3
    assert_close(learned.of("<new1>")[0], learned.table[WORDS.encode("cat")[0]])
    assert_close(learned.of("<new2>"), rows(2))
    states(pipe, "<new2>")[0].square().sum().backward()
    assert (learned.rows.grad[0] == 0).all() and (learned.rows.grad[1:].abs().amax(dim=1) > 0).all()


def test_freezing_keeps_what_was_learned(pipe):
    learned = tokens.add(pipe, "<new1>", init="cat")
    with torch.no_grad():
        learned.rows.copy_(rows())
    want = states(pipe, "a red <new1>")
    tokens.freeze(pipe)
    assert_close(states(pipe, "a red <new1>"), want)
    assert type(table(pipe)) is torch.nn.Embedding and not any(p.requires_grad for p in pipe.text_encoder.parameters())
    tokens.add(pipe, "<new2>", init="<new1>")
    assert_close(states(pipe, "a red <new2>"), want)


def test_rare_tokens_are_letters_that_captions_use_seldom_and_no_part_of_another():
    tokenizer = Tokenizer.train(["cat cats dog", "bird"])
    words = ["dog cat"] * 7 + ["bird"] * 20 + ["x"] * 6
    name = {i: symbol.removesuffix("</w>") for symbol, i in tokenizer.vocab.items()}
    assert [name[i] for i in tokens.rare(tokenizer, words)] == ["x", "dog"]      # "cat" is in "cats"; "bird" is too frequent
    assert "dog" not in [name[i] for i in tokens.rare(tokenizer, words, most=6)]


def test_freezing_without_a_learned_token_is_an_error(pipe):
    with pytest.raises(ValueError, match="not learning a token"):
        tokens.freeze(pipe)


def test_a_model_in_half_precision_learns_rows_in_float32(pipe):
    pipe.text_encoder.bfloat16()
    learned = tokens.add(pipe, "<new1>", init="cat")
    assert learned.rows.dtype == torch.float32 and learned.table.dtype == torch.bfloat16
    assert states(pipe, "a <new1>")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("config_end", [WORDS.eos, 2])
def test_the_end_token_is_still_the_end_although_new_ids_are_larger(pipe, tmp_path, config_end):
    pipe.text_encoder = text_encoder(eos_token_id=config_end)
    tokens.add(pipe, "<new1>", init="cat", vectors=2)
    hidden, pooled = states(pipe, "a <new1> chair")
    end = pipe.tokenizer("a <new1> chair")[0].tolist().index(WORDS.eos)
    assert_close(pooled[0], hidden[0, end])
    tokens.freeze(pipe)
    save_folder(pipe.text_encoder, pipe.text_encoder.config, tmp_path, "model.safetensors", torch.float32)
    pipe.tokenizer.save(tmp_path)
    again = SimpleNamespace(tokenizer=Tokenizer.from_pretrained(tmp_path), text_encoder=CLIPText.from_pretrained(tmp_path))
    assert_close(states(again, "a <new1> chair"), (hidden, pooled))
    tokens.add(again, "<new2>", init="cat")                 # ids still agree


@pytest.mark.parametrize("options, message", [
    (dict(words="<new1>", init="zebra"), "start word 'zebra' is 5 tokens"),
    (dict(words="<new1>", init=""), "start word '' is 0 tokens"),
    (dict(words="cat", init="cat"), "'cat' is a token already"),
    (dict(words="<old>", init="cat"), "'<old>' is a token already"),
    (dict(words="<old>_1", init="cat"), "would be taken for a vector of the added token '<old>'"),
    (dict(words="<one>", init="cat"), "taken for a vector of the added token '<one>_1', or that for one of its own"),
    (dict(words="two words", init="cat"), "must be one word"),
    (dict(words="<new1>", init="cat", vectors=0), "at least one vector"),
    (dict(words=["<new1>", "<new2>"], init=["cat"]), "1 start values; expected different words"),
    (dict(words=["<new1>", "<new1>"], init="cat"), "expected different words"),
    (dict(words=[], init="cat"), "expected different words"),
    (dict(words="<new1>", init=torch.zeros(WIDTH + 1)), "9 wide, this text encoder 8"),
    (dict(words="<new1>", init=torch.full((WIDTH,), torch.nan)), "not finite"),
    (dict(words="<new1>", init=torch.zeros(1, 1, WIDTH)), r"shape \(1, 1, 8\)"),
])
def test_what_cannot_be_added_says_why_and_changes_nothing(pipe, options, message):
    pipe.tokenizer.add_token("<old>")
    pipe.tokenizer.add_token("<one>_1")
    pipe.text_encoder = text_encoder(vocab_size=len(pipe.tokenizer))
    size, before = len(pipe.tokenizer), table(pipe)
    with pytest.raises(ValueError, match=message):
        tokens.add(pipe, **options)
    assert len(pipe.tokenizer) == size and table(pipe) is before


def test_a_second_call_while_one_token_is_learned_is_an_error(pipe):
    tokens.add(pipe, "<new1>", init="cat")
    with pytest.raises(ValueError, match="is learning <new1>; add all words in one call"):
        tokens.add(pipe, "<new2>", init="cat")


def test_a_tokenizer_and_a_text_encoder_that_disagree_are_an_error(pipe):
    pipe.tokenizer.add_token("<alone>")
    with pytest.raises(ValueError, match="do tokenizer and text encoder belong together"):
        tokens.add(pipe, "<new1>", init="cat")


def test_each_text_encoder_of_an_sdxl_can_learn(xl):
    first = tokens.add(xl, "<new1>", init="cat")
    second = tokens.add(xl, "<new1>", init="cat", part="text_encoder_2")
    assert first.rows.shape == (1, WIDTH) and second.rows.shape == (1, 12)
    assert_close(states(xl, "a <new1>", "text_encoder_2"), states(xl, "a cat", "text_encoder_2"))


# Files

LAYOUTS = [("learned_embeds.safetensors", "diffusers"), ("<new1>.safetensors", "a1111"), ("a.pt", "a1111")]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name, layout", LAYOUTS)
def test_a_saved_token_comes_back_the_same(pipe, tmp_path, name, layout, n):
    learned = tokens.add(pipe, "<new1>", init=rows(n))
    tokens.save(tmp_path / name, "<new1>", learned.rows, layout)
    fresh = SimpleNamespace(tokenizer=words(), text_encoder=text_encoder())
    assert tokens.load(fresh, tmp_path / name) == "<new1>"
    assert_close(states(fresh, "a <new1> cat"), states(pipe, "a <new1> cat"))
    assert not any(p.requires_grad for p in fresh.text_encoder.parameters())


def test_the_files_have_the_keys_that_others_expect(tmp_path):
    tokens.save(tmp_path / "a.safetensors", "<new1>", rows(2))
    assert_close(load_file(tmp_path / "a.safetensors"), {"<new1>": rows(2)})
    tokens.save(tmp_path / "a.safetensors", "<new1>", rows(2)[0], "a1111")
    assert_close(load_file(tmp_path / "a.safetensors"), {"emb_params": rows(2)[:1]})
    tokens.save(tmp_path / "a.pt", "<new1>", rows(2), "a1111")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["name"] == "<new1>" and list(content["string_to_param"]) == ["*"]
    assert_close(content["string_to_param"]["*"], rows(2))


@pytest.mark.parametrize("content, name", [({"<x>": rows()[0]}, "<x>"), (rows(), "file"), ({"emb_params": rows()}, "file"),
                                           ({"string_to_param": {"*": rows().half()}}, "file")])
def test_plain_torch_files_are_read_too(pipe, tmp_path, content, name):
    torch.save(content, tmp_path / "file.pt")
    assert tokens.load(pipe, tmp_path / "file.pt") == name
    assert_close(table(pipe).weight[-1], rows()[0], atol=2e-3, rtol=0)


def test_another_name_may_be_given(pipe, tmp_path):
    tokens.save(tmp_path / "a.safetensors", "cat", rows())
    with pytest.raises(CheckpointError, match="train with another --token.*'cat' is a token already"):
        tokens.load(pipe, tmp_path / "a.safetensors")
    assert tokens.load(pipe, tmp_path / "a.safetensors", token="<my-cat>") == "<my-cat>"
    assert_close(table(pipe)(pipe.tokenizer("<my-cat>"))[0, 1], rows()[0])


def test_an_embedding_for_sdxl_goes_to_both_text_encoders(xl, tmp_path):
    both = {"text_encoder": rows(2), "text_encoder_2": rows(2, width=12)}
    tokens.save(tmp_path / "style.safetensors", "style", both)
    assert_close(load_file(tmp_path / "style.safetensors"), {"clip_l": rows(2), "clip_g": rows(2, width=12)})
    assert tokens.load(xl, tmp_path / "style.safetensors", token="<style>") == "<style>"
    for part in both:
        ids = tokens.tokenizer_of(xl, part)("<style>")
        assert_close(getattr(xl, part).text_model.embeddings.token_embedding(ids)[0, 1:3], both[part])


def test_an_embedding_for_sdxl_is_refused_by_others_and_the_other_way_round(pipe, xl, tmp_path):
    tokens.save(tmp_path / "xl.safetensors", "<x>", {"text_encoder": rows(), "text_encoder_2": rows(width=12)})
    with pytest.raises(CheckpointError, match=r"for 2 text encoder\(s\), this model has 1"):
        tokens.load(pipe, tmp_path / "xl.safetensors")
    tokens.save(tmp_path / "sd1.safetensors", "<x>", rows())
    with pytest.raises(CheckpointError, match=r"for 1 text encoder\(s\), this model has 2"):
        tokens.load(xl, tmp_path / "sd1.safetensors")


def test_nothing_is_added_if_only_the_second_text_encoder_refuses(xl, tmp_path):
    tokens.save(tmp_path / "xl.safetensors", "<x>", {"text_encoder": rows(), "text_encoder_2": rows(width=13)})
    with pytest.raises(CheckpointError, match="13 wide, this text encoder 12"):
        tokens.load(xl, tmp_path / "xl.safetensors")
    assert len(xl.tokenizer) == len(WORDS) == len(table(xl).weight)


def test_a_token_may_be_loaded_while_another_one_is_learned(pipe, tmp_path):
    learned = tokens.add(pipe, "<new1>", init="cat")
    before = states(pipe, "a <new1>")
    tokens.save(tmp_path / "a.safetensors", "<x>", rows())
    tokens.load(pipe, tmp_path / "a.safetensors")
    assert table(pipe) is learned
    assert_close(states(pipe, "a <new1>"), before)
    assert_close(learned(pipe.tokenizer("<x>"))[0, 1], rows()[0])


@pytest.mark.parametrize("content, message", [
    ({}, "holds 0 tensors"),
    ({"<x>": torch.full((WIDTH,), torch.nan)}, "not finite"),
    ({"<x>": torch.full((WIDTH,), torch.inf)}, "not finite"),
    ({"<x>": rows(width=13)}, "13 wide, this text encoder 8; it is for another model"),
    ({"<x>": torch.zeros(2, 2, WIDTH)}, r"shape \(2, 2, 8\)"),
    ({"<x>": torch.zeros(0, WIDTH)}, r"shape \(0, 8\)"),
    ({"<x>": torch.zeros(WIDTH, dtype=torch.int64)}, "torch.int64"),
    ({"<x>": rows(), "<y>": rows()}, "holds 2 tensors.*is it a LoRA or a whole model"),
    ({"two words": rows()}, "must be one word"),
])
def test_a_bad_file_is_one_clear_sentence_and_adds_nothing(pipe, tmp_path, content, message):
    save_file(content, tmp_path / "a.safetensors")
    torch.save(content, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        with pytest.raises(CheckpointError, match=message) as error:
            tokens.load(pipe, tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    assert len(pipe.tokenizer) == len(WORDS) == len(table(pipe).weight)


def test_nothing_is_unpickled(pipe, tmp_path):
    torch.save({"string_to_param": {"*": torch.nn.Linear(2, 2)}}, tmp_path / "a.pt")
    torch.save({"<x>": rows()}, tmp_path / "pickle.safetensors")
    torch.save({"string_to_param": {"*": 3}}, tmp_path / "number.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, message in [("a.pt", "not a plain file of tensors"), ("pickle.safetensors", "not a safetensors file.*torch.save"),
                          ("number.pt", "holds no embedding"), ("empty.pt", "not a plain file"), ("none.pt", "no file"),
                          ("none.safetensors", "no file")]:
        with pytest.raises(CheckpointError, match=message):
            tokens.load(pipe, tmp_path / name)


@pytest.mark.parametrize("name, layout, rows, message", [
    ("a.safetensors", "comfy", rows(), "expected diffusers or a1111"),
    ("a.pt", "diffusers", rows(), "expected .safetensors"),
    ("a.bin", "a1111", rows(), "expected .safetensors or .pt"), ("a.safetensors", "diffusers", rows() / 0, "not finite"),
    ("a.pt", "a1111", {"text_encoder": rows(), "text_encoder_2": rows()}, "expected .safetensors")])
def test_what_cannot_be_saved_is_an_error(tmp_path, name, layout, rows, message):
    with pytest.raises(ValueError, match=message):
        tokens.save(tmp_path / name, "<x>", rows, layout)
    assert not list(tmp_path.iterdir())
