"""papers/textual_inversion.py: one row is learned and nothing else moves; files, prompts, and the script from end to end."""
import argparse
import json

import pytest
import textual_inversion as paper
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import minidiff
from minidiff import images, tokens, toybox

FAST = ["--steps", "2", "--batch", "1", "--sampling", "2"]


@pytest.fixture(scope="module")
def pictures():
    return toybox.held_out("cat", n=2).images


def options(*more, **changes):
    _, args = paper.arguments(["train", *FAST, *more])
    return argparse.Namespace(**vars(args) | {"init": "cat"} | changes)


def state(pipe):
    return {f"{part}.{k}": v.clone() for part in ("unet", "text_encoder", "vae") for k, v in getattr(pipe, part).state_dict().items()}


def test_only_the_new_row_moves_and_the_seed_decides_where_to(pictures):
    pipe, again = (minidiff.load("toybox", "cpu") for _ in range(2))
    before, start = state(pipe), tokens.table_of(pipe.text_encoder)[pipe.tokenizer.encode("cat")[0]].clone()
    learned, steps = paper.learn(pipe, pictures, options())
    assert steps == 2 and learned.rows.shape == (1, 128) and (learned.rows - start).abs().max() > 1e-3
    tokens.freeze(pipe)
    after, table = state(pipe), "text_encoder.text_model.embeddings.token_embedding.weight"
    assert torch.equal(after.pop(table)[:-1], before.pop(table))
    assert after.keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in after.items())
    assert torch.equal(paper.learn(again, pictures, options())[0].rows, learned.rows)
    tokens.freeze(again)
    assert not torch.equal(paper.learn(again, pictures, options("--token", "<other>", seed=1))[0].rows, learned.rows)


def test_the_row_gets_the_gradient_of_the_loss_through_both_networks(pictures):
    """One AdamW step moves every number by the learning rate, against the sign of its gradient: here, of a finite difference."""
    pipe, args = minidiff.load("toybox", "cpu"), options(steps=1, batch=2, lr=1e-3, flip=False)
    learned, _ = paper.learn(pipe, pictures, args)
    start = learned.table[learned.ids]
    move = learned.rows.detach() - start
    assert_close(move.abs(), torch.full_like(move, 1e-3), rtol=.3, atol=0)             # less where the gradient is tiny
    generator = torch.Generator().manual_seed(args.seed)
    draw = lambda high: torch.randint(high, (2,), generator=generator)
    i, t, k = draw(2), draw(1000), draw(len(paper.TEMPLATES))
    eps = torch.randn(2, 8, 16, 16, generator=generator)
    z = pipe.encode(pictures)
    z_t = pipe.schedule.add_noise(z[i], eps, t)

    def loss(rows):
        with torch.no_grad():
            learned.rows.copy_(rows)
            c = pipe.encode_prompts([paper.TEMPLATES[j].format("<new1>") for j in k])
            return float((pipe.unet(z_t, t, c.context) - eps).double().square().mean())
    assert loss(start + 5 * move) < loss(start) < loss(start - 5 * move)


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    eps, error = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert paper.ldm_loss(eps, eps) == 0
    assert_close(paper.ldm_loss(eps + error, eps), error.square().mean())


def test_a_word_may_have_several_rows_and_is_met_in_different_templates(pictures, monkeypatch):
    pipe, seen = minidiff.load("toybox", "cpu"), []
    monkeypatch.setattr(pipe, "encode_prompts", lambda prompts, original=pipe.encode_prompts: seen.extend(prompts) or original(prompts))
    learned, _ = paper.learn(pipe, pictures, options("--vectors", "3", "--batch", "4"))
    assert len(set(seen)) > 1 and set(seen) <= {t.format("<new1>") for t in paper.TEMPLATES}
    assert learned.rows.shape == (3, 128) and len(pipe.tokenizer.encode("a <new1>")) == 4


def test_every_template_is_a_prompt_around_the_word():
    assert all(t.count("{}") == 1 for t in paper.TEMPLATES) and len(set(paper.TEMPLATES)) == len(paper.TEMPLATES)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(pictures):
    with pytest.raises(FloatingPointError, match="at step 0"):
        paper.learn(minidiff.load("toybox", "cpu"), pictures * float("nan"), options())


def test_ctrl_c_keeps_the_word_as_far_as_it_got(pictures, monkeypatch, capsys):
    def stop(optimizer, loss, step, bar, original=paper.update):
        if step == 1:
            raise KeyboardInterrupt
        original(optimizer, loss, step, bar)
    monkeypatch.setattr(paper, "update", stop)
    learned, steps = paper.learn(minidiff.load("toybox", "cpu"), pictures, options(steps=4))
    assert steps == 1 and "stopped after 1 of 4" in capsys.readouterr().out and (learned.rows != learned.table[learned.ids]).any()


# The script


def test_the_script_learns_and_draws_your_own_pictures(tmp_path, pictures, monkeypatch, capsys):
    for i, picture in enumerate(pictures):
        images.save(tmp_path / "mine" / f"{i}.png", picture)
    paper.main(["train", *FAST, "--images", str(tmp_path / "mine"), "--class-word", "cat", "--token", "<mine>", "--out", str(tmp_path / "a")])
    name, rows = tokens.read(tmp_path / "a" / "learned.safetensors")
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert name == "<mine>" and rows["text_encoder"].shape == (1, 128)
    assert metrics["steps"] == 2 and metrics["pictures"] == 2 and 512 < metrics["bytes"] < 1024 and metrics["seconds"] > 0
    (tmp_path / "prompts.json").write_text('["a <mine> in a room", "a cat"]')
    paper.main(["sample", "--learned", str(tmp_path / "a"), "--prompts", str(tmp_path / "prompts.json"), "--n", "2", "--sampling", "2",
                "--seed", "5", "--out", str(tmp_path / "b")])
    made, plain = load_file(tmp_path / "b" / "samples.safetensors")["images"], minidiff.load("toybox", "cpu")
    assert made.dtype == torch.uint8 and made.shape == (4, 3, 64, 64) and (tmp_path / "b" / "samples.png").is_file()
    assert_close(made[2:].float() / 255, plain("a cat", n=2, steps=2, seed=5), rtol=0, atol=.01)           # the model is as it was
    monkeypatch.setattr(paper, "SCENES", ["a {} in a room"])
    paper.main([*FAST, "--concept", "flower", "--out", str(tmp_path / "c")])
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"figure.png", "learned.safetensors", "metrics.json"}
    assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize("line, message", [
    (["train", "--images", "nowhere"], "needs --class-word"),
    (["train", "--images", "nowhere", "--class-word", "cat"], "no folder nowhere"),
    (["train", "--class-word", "zebra"], "'zebra' is 5 tokens"),
    (["train", "--token", "cat"], "'cat' is a token already"),
    (["train", "--steps", "0"], "--steps is 0, expected at least 1"),
    (["train", "--lr", "-1"], "--lr is -1.0"),
    (["train", "--concept", "zebra"], "invalid choice"),
    (["train", "--concept", "cat", "--images", "x", "--class-word", "cat"], "give one of them"),
    (["train", "--templates", "nowhere.txt"], "cannot read the templates nowhere.txt"),
    (["sample", "--learned", "nowhere"], "nowhere"),
    (["sample", "--learned", "x", "--prompts", "nowhere.json"], "cannot read the prompts nowhere.json"),
])
def test_what_cannot_work_is_one_sentence_and_status_2(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        paper.main([*line, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text, wrong", [("a {}\na photo", "'a photo'"), ("a {} {}", "'a {} {}'"), ("a {x}", "'a {x}'"), ("", "every line")])
def test_templates_that_are_none_are_named(tmp_path, text, wrong):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(ValueError, match="once, in place of the new word") as error:
        paper.read_templates(tmp_path / "t.txt")
    assert wrong in str(error.value)
