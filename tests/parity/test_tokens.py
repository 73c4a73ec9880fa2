"""Learned tokens: an embedding saved by one library gives the same text states in the other."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import minidiff
from minidiff import tokens

from . import tiny_pipelines

pytestmark = pytest.mark.parity
torch.set_num_threads(1)
PROMPTS = ["a photo of a <my-cat> on a chair", "<my-cat>", "a <my-cat>, <my-cat>.", "a red cat"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny pipelines, of which every test loads its own: tokens cannot be taken off again."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipelines.stable_diffusion(folder / "sd1")
    tiny_pipelines.stable_diffusion_xl(folder / "xl")
    return folder


@pytest.fixture
def ours(folders):
    return minidiff.load(folders / "sd1", device="cpu")


@pytest.fixture
def theirs(folders):
    return StableDiffusionPipeline.from_pretrained(folders / "sd1")


def rows(n, width=16):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


@torch.no_grad()
def same_text_states(ours, theirs, prompts=PROMPTS):
    for prompt in prompts:
        want = theirs.encode_prompt([prompt], "cpu", 1, False)[0]
        assert_close(ours.encode_prompts([prompt]).context, want, atol=1e-5, rtol=0)


# diffusers takes the whole content for rows where there is no name: it wants to be told one.
@pytest.mark.parametrize("name, layout, token", [("learned_embeds.safetensors", "diffusers", None), ("a.pt", "a1111", None),
                                                 ("a.safetensors", "a1111", "<my-cat>")])
@pytest.mark.parametrize("n", [1, 2])
def test_an_embedding_saved_here_gives_the_same_text_states_in_diffusers(ours, theirs, tmp_path, name, layout, token, n):
    learned = tokens.add(ours, "<my-cat>", init=rows(n))
    tokens.save(tmp_path / name, "<my-cat>", learned.rows, layout)
    theirs.load_textual_inversion(tmp_path, weight_name=name, token=token)
    same_text_states(ours, theirs)
    tokens.freeze(ours)
    same_text_states(ours, theirs)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("content", [lambda t: {"<my-cat>": t}, lambda t: {"string_to_param": {"*": t}, "name": "<my-cat>"}])
def test_one_pt_file_means_the_same_to_both(ours, theirs, tmp_path, content, n):
    torch.save(content(rows(n)), tmp_path / "a.pt")
    theirs.load_textual_inversion(tmp_path / "a.pt")
    assert tokens.load(ours, tmp_path / "a.pt") == "<my-cat>"
    same_text_states(ours, theirs)


@pytest.mark.parametrize("n", [1, 2])
def test_an_embedding_taken_from_diffusers_gives_the_same_text_states_here(ours, theirs, tmp_path, n):
    """As diffusers' own training script saves it: rows of the table that it has grown."""
    theirs.load_textual_inversion({"<my-cat>": rows(n)})
    ids = theirs.tokenizer.convert_tokens_to_ids(["<my-cat>", "<my-cat>_1"][:n])
    table = theirs.text_encoder.get_input_embeddings().weight.detach()
    save_file({"<my-cat>": table[ids]}, tmp_path / "learned_embeds.safetensors")
    tokens.load(ours, tmp_path / "learned_embeds.safetensors")
    same_text_states(ours, theirs)


@pytest.mark.parametrize("n", [1, 2])
def test_a_pipeline_saved_by_diffusers_with_a_token_in_it_gives_the_same_text_states_here(theirs, tmp_path, n):
    theirs.load_textual_inversion({"<my-cat>": rows(n)})
    theirs.save_pretrained(tmp_path)
    same_text_states(minidiff.load(tmp_path, device="cpu"), theirs)


def test_a_name_with_capitals_is_found_however_it_is_typed(ours, theirs):
    """With one vector only: with several, diffusers drops all but the first where the name has capitals."""
    theirs.load_textual_inversion({"<My-Cat>": rows(1)})
    tokens.add(ours, "<My-Cat>", init=rows(1))
    same_text_states(ours, theirs, ["a <My-Cat> on a <my-cat>", "<MY-CAT>"])


def test_two_embeddings_and_one_that_is_learned_live_together_in_both(ours, theirs, tmp_path):
    for name, n in (("<one>", 2), ("<two>", 1), ("<two>-three", 3)):
        tokens.save(tmp_path / "a.safetensors", name, rows(n))
        tokens.load(ours, tmp_path / "a.safetensors")
        theirs.load_textual_inversion(tmp_path / "a.safetensors")
    learned = tokens.add(ours, "<my-cat>", init="cat")
    theirs.load_textual_inversion({"<my-cat>": learned.rows.detach()})
    same_text_states(ours, theirs, [*PROMPTS, "a <one> on <two>", "<two> <my-cat> <one>"])


def test_an_embedding_for_sdxl_gives_the_same_text_states_in_diffusers(folders, tmp_path):
    ours, theirs = minidiff.load(folders / "xl", device="cpu"), StableDiffusionXLPipeline.from_pretrained(folders / "xl")
    path = tmp_path / "<my-cat>.safetensors"
    tokens.save(path, "<my-cat>", {"text_encoder": rows(2), "text_encoder_2": rows(2, 24)})
    assert tokens.load(ours, path) == "<my-cat>"
    for key, number in (("clip_l", ""), ("clip_g", "_2")):                  # diffusers wants them one by one
        theirs.load_textual_inversion({"<my-cat>": load_file(path)[key]}, tokenizer=getattr(theirs, f"tokenizer{number}"),
                                      text_encoder=getattr(theirs, f"text_encoder{number}"))
    for prompt in PROMPTS:
        condition = ours.encode_prompts([prompt])
        states, _, pooled, _ = theirs.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        assert_close(condition.context, states, atol=1e-5, rtol=0)
        assert_close(condition.added["text_embeds"], pooled, atol=1e-5, rtol=0)
