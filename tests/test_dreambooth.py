"""papers/dreambooth.py: the loss, what trains and what does not, rare words, files, and the script from end to end."""
import argparse
import json

import dreambooth as paper
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import minidiff
from minidiff import images, tokens, toybox

FAST = ["--steps", "1", "--batch", "1", "--class-pictures", "1", "--class-sampling", "1", "--sampling", "2"]


@pytest.fixture(scope="module")
def pictures():
    return toybox.held_out("cat", n=2).images


def options(*more, **changes):
    _, args = paper.arguments(["train", *FAST, *more])
    return argparse.Namespace(**vars(args) | changes)


def concept(pictures, word="cat", k=1):
    return paper.Concept(pictures, word, f"<new{k}>", "qz"[k - 1])


def test_the_loss_is_the_subjects_plus_lambda_times_the_priors():
    eps, e, eps_pr, e_pr = torch.randn(4, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    a, b = (eps - e).square().mean(), (eps_pr - e_pr).square().mean()
    assert_close(paper.prior_preserved_loss(e, eps, e_pr, eps_pr, 0.0), a)
    assert_close(paper.prior_preserved_loss(e, eps, e_pr, eps_pr, 3.0), a + 3 * b)


@pytest.mark.parametrize("more, text_moves", [([], False), (["--train-text-encoder"], True)])
def test_the_whole_unet_moves_and_the_text_encoder_only_on_request(pictures, more, text_moves):
    pipe = minidiff.load("toybox", "cpu")
    paper.name_rare_words(pipe, [concept(pictures)])
    before = {part: {k: v.clone() for k, v in getattr(pipe, part).state_dict().items()} for part in ("unet", "text_encoder", "vae")}
    assert paper.fine_tune(pipe, [concept(pictures)], options(*more)) == 1
    moved = {part: [k for k, v in getattr(pipe, part).state_dict().items() if not torch.equal(v, b[k])] for part, b in before.items()}
    assert len(moved["unet"]) > .95 * len(before["unet"]) and moved["vae"] == [] and (len(moved["text_encoder"]) > 10) == text_moves
    assert text_moves or moved["text_encoder"] == []
    assert not any(p.requires_grad for part in before for p in getattr(pipe, part).parameters())


def test_subject_and_class_are_told_apart_by_the_rare_word_and_the_prior_is_drawn_before_training(pictures, monkeypatch):
    pipe, seen, drawn = minidiff.load("toybox", "cpu"), [], []
    paper.name_rare_words(pipe, [concept(pictures), concept(pictures, "chair", 2)])
    before = pipe.unet.conv_in.weight.clone()
    monkeypatch.setattr(pipe, "encode_prompts", lambda prompts, original=pipe.encode_prompts: seen.append(prompts) or original(prompts))
    monkeypatch.setattr(paper, "class_latents", lambda pipe, word, args, original=paper.class_latents:
                        drawn.append((word, torch.equal(pipe.unet.conv_in.weight, before))) or original(pipe, word, args))
    steps = paper.fine_tune(pipe, [concept(pictures), concept(pictures, "chair", 2)], options())
    assert drawn == [("cat", True), ("chair", True)] and steps == 2 and not torch.equal(pipe.unet.conv_in.weight, before)
    asked, (first, second) = seen[:2], seen[2:]
    assert asked == [["a cat", ""], ["a chair", ""]]
    assert "<new1> cat" in first[0] and first[1].endswith("a cat") and "<new2> chair" in second[0] and second[1].endswith("a chair")


def test_class_latents_are_what_the_model_draws_of_the_class():
    pipe = minidiff.load("toybox", "cpu")
    z = paper.class_latents(pipe, "cat", options("--class-pictures", "2", "--class-sampling", "2", "--seed", "3"))
    with torch.no_grad():
        assert_close(pipe.decode(z), pipe("a cat", n=2, steps=2, guidance=5.0, seed=1_003_000), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("float32")
def test_without_a_prior_nothing_is_drawn_and_the_loss_is_of_the_subject_alone(pictures, monkeypatch):
    monkeypatch.setattr(paper, "class_latents", None)
    pipe, losses = minidiff.load("toybox", "cpu"), []
    paper.name_rare_words(pipe, [concept(pictures)])
    monkeypatch.setattr(paper, "update", lambda optimizer, loss, step, bar, clip: losses.append((loss.item(), clip)))
    args = options("--prior", "0", "--batch", "2")
    paper.fine_tune(pipe, [concept(pictures)], args)
    generator = torch.Generator().manual_seed(args.seed)
    i = torch.randint(2, (2,), generator=generator)
    texts = [paper.TEMPLATES[int(torch.randint(len(paper.TEMPLATES), (), generator=generator))].format("<new1> cat") for _ in i]
    t, eps = torch.randint(1000, (2,), generator=generator), torch.randn(2, 8, 16, 16, generator=generator)
    with torch.no_grad():
        z_t = pipe.schedule.add_noise(pipe.encode(pictures)[i], eps, t)
        e = pipe.unet(z_t, t, pipe.encode_prompts(texts).context)
    (loss, clip), = losses
    assert loss == pytest.approx(float((e - eps).square().mean()), rel=1e-4) and clip == 1


def test_names_get_the_embeddings_of_words_that_no_caption_of_toybox_contains(pictures):
    pipe = minidiff.load("toybox", "cpu")
    concepts = paper.given(options("--concept", "cat", "--concept", "flower"), pipe)
    assert [c.name for c in concepts] == ["<new1> cat", "<new2> sunflower"]
    rare = {c.identifier for c in concepts}
    said = {word for caption in toybox.sample(60, seed=0).captions for word in caption.replace(",", "").split()}
    assert len(rare) == 2 and not rare & said
    table = tokens.table_of(pipe.text_encoder)
    row = lambda word: table[pipe.tokenizer.encode(word)[0]]
    rows = paper.name_rare_words(pipe, concepts)
    for c in concepts:
        assert torch.equal(rows[c.token][0], tokens.table_of(pipe.text_encoder)[pipe.tokenizer.encode(c.token)[0]])
        assert_close(rows[c.token][0], row(c.identifier) * row("a").norm() / row(c.identifier).norm())
    assert torch.equal(paper.rare_row(pipe, "dog")[0], row("dog"))                 # a word that was trained is taken as it is


# The script


def test_what_was_saved_draws_what_was_trained(tmp_path, pictures, more=("--train-text-encoder",)):
    for i, picture in enumerate(pictures):
        images.save(tmp_path / "mine" / f"{i}.png", picture)
    paper.main(["train", *FAST, "--lr", "1e-3", "--prior", "0", "--images", str(tmp_path / "mine"), "--class-word", "cat", *more, "--out", str(tmp_path / "a")])
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["steps"] == 1 and metrics["pictures"] == 2 and metrics["class_pictures"] == 0 and metrics["bytes"] > 12e6
    paper.main(["sample", "--learned", str(tmp_path / "a"), "--prompt", "a <new1> cat", "--n", "2", "--sampling", "2", "--out", str(tmp_path / "b")])
    made = load_file(tmp_path / "b" / "samples.safetensors")["images"]
    pipe = minidiff.load("toybox", "cpu")
    args = options("--images", str(tmp_path / "mine"), "--class-word", "cat", "--lr", "1e-3", "--prior", "0", *more)
    concepts = paper.given(args, pipe)
    paper.name_rare_words(pipe, concepts)
    untrained = pipe("a <new1> cat", n=2, steps=2)
    paper.fine_tune(pipe, concepts, args)
    now = pipe("a <new1> cat", n=2, steps=2)
    assert made.dtype == torch.uint8 and made.shape == (2, 3, 64, 64) and (tmp_path / "b" / "samples.png").is_file()
    assert (made.float() / 255 - now).abs().mean() < .01 < .02 < (made.float() / 255 - untrained).abs().mean()


def test_the_demonstration_writes_a_figure_and_a_unet_that_a_folder_of_a_model_can_have(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "SCENES", ["a {} in a room"])
    paper.main([*FAST, "--prior", "0", "--concept", "moongate", "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {"figure.png", "unet", "tokens", "metrics.json"}
    assert tokens.read(tmp_path / "tokens" / "1.safetensors")[0] == "<new1>" and "written to" in capsys.readouterr().out
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["sample_size"] == 16


@pytest.mark.parametrize("line, message", [
    (["train", "--images", "nowhere"], "1 --images and 0 --class-word"),
    (["train", "--images", "nowhere", "--class-word", "cat"], "no folder nowhere"),
    (["train", "--concept", "cat", "--concept", "dog", "--token", "<a>"], "2 concepts, 1 --token"),
    (["train", "--concept", "cat", "--images", "x", "--class-word", "dog"], "give one of them"),
    (["train", "--identifier", "zebra"], "'zebra' is 5 tokens"),
    (["train", "--class-pictures", "0"], "--class-pictures is 0, expected at least 1"),
    (["train", "--prior", "-1"], "--prior -1.0"),
    (["sample", "--learned", "nowhere"], "nowhere holds no folder unet"),
    (["sample", "--learned", "a", "b"], "2 folders; each holds a whole UNet"),
    (["sample", "--learned", "x", "--prompts", "nowhere.json"], "cannot read the prompts nowhere.json"),
])
def test_what_cannot_work_is_one_sentence_and_status_2(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        paper.main([*line, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()
