"""minidiff.deltas: the layouts of the files, folders of what was learned, compression, exports."""
import copy
import json

import pytest
import tiny_models
import torch
from tiny_models import changed
from torch.testing import assert_close

import minidiff
from minidiff import deltas, lora, tokens
from minidiff.deltas import Delta


@pytest.fixture(scope="module")
def toybox():
    return minidiff.load("toybox", "cpu")


@pytest.fixture
def pipe(toybox):
    return copy.deepcopy(toybox)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_compression_keeps_the_leading_singular_values_and_1_keeps_all():
    A = draw(9, 6)
    S = torch.linalg.svdvals(A)
    ranks, errors = [], []
    for ratio in (.2, .5, .6, .9, 1.0):
        u, v = deltas.low_rank(A, ratio)
        r = u.shape[1]
        assert S[:r].sum() >= ratio * S.sum() - 1e-4 and (r == 1 or S[:r - 1].sum() < ratio * S.sum())
        ranks.append(r)
        errors.append(float((A - u @ v).norm()))
    assert ranks == sorted(ranks) and errors == sorted(errors, reverse=True) and errors[-1] < 1e-5
    assert deltas.low_rank(torch.zeros(3, 4), .6)[0].shape == (3, 1)
    with pytest.raises(ValueError, match="above 0"):
        deltas.low_rank(A, 0)


# Files

@pytest.mark.parametrize("layout", deltas.LAYOUTS)
@pytest.mark.parametrize("ratio", [1, .5])
def test_every_layout_comes_back(pipe, tmp_path, layout, ratio):
    delta = changed(pipe) if ratio == 1 else changed(pipe).compressed(pipe.unet, ratio)
    path = tmp_path / f"delta{deltas.LAYOUTS[layout]}"
    deltas.write(path, delta, pipe.unet, layout)
    back = deltas.read(path, pipe.unet)
    assert_close(back.full(pipe.unet), delta.full(pipe.unet), rtol=0, atol=1e-6)
    assert list(back.rows) == ([] if layout == "diffusers" else ["<new1>"])
    assert all(torch.equal(rows, delta.rows[word]) for word, rows in back.rows.items())
    assert back.classes == (delta.classes if layout == "minidiff" else {})


def test_names_are_those_of_the_published_files(tmp_path):
    pipe = minidiff.load(tiny_models.stable_diffusion(tmp_path / "model"), "cpu")
    delta, block = changed(pipe), "down_blocks.0.attentions.0.transformer_blocks.0"
    read = lambda layout, path: deltas.write(path, delta, pipe.unet, layout) or torch.load(path, weights_only=True)
    adobe, compvis, theirs = (read(layout, tmp_path / f"{layout}.bin") for layout in ("adobe", "compvis", "diffusers"))
    assert set(adobe) == {"unet", "modifier_token"} and adobe["modifier_token"]["<new1>"].shape == (16,)
    assert torch.equal(adobe["unet"][f"{block}.attn2.to_k.weight"], delta.weights[f"{block}.attn2.to_k.weight"])
    state = compvis["state_dict"]
    assert state["embed"].shape == (1, 16)
    assert torch.equal(state["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"],
                       delta.weights[f"{block}.attn2.to_k.weight"])
    assert torch.equal(theirs[f"{block}.attn2.processor.to_v_custom_diffusion.weight"], delta.weights[f"{block}.attn2.to_v.weight"])
    assert theirs[f"{block}.attn1.processor"] == {} and len(theirs) == len(delta.weights) + len(pipe.unet.self_attentions())


def test_a_compressed_file_of_the_authors_is_read(pipe, tmp_path):
    small = changed(pipe).compressed(pipe.unet, .3)
    deltas.write(tmp_path / "delta.bin", small, pipe.unet, "adobe")
    content = torch.load(tmp_path / "delta.bin", weights_only=True)["unet"]
    assert all(set(part) == {"u", "v"} for part in content.values())
    back, own = deltas.read(tmp_path / "delta.bin", pipe.unet).full(pipe.unet), pipe.unet.state_dict()
    assert all(torch.allclose(back[name], own[name] + part["u"] @ part["v"], atol=1e-6) for name, part in content.items())
    assert small.nbytes < .5 * changed(pipe).nbytes


@torch.no_grad()
def test_a_lora_of_the_change_predicts_what_the_changed_model_does(pipe, tmp_path):
    delta, (x, c) = changed(pipe, size=.04), (draw(2, 8, 16, 16), pipe.encode_prompts(["a cat", "a red dog"]).context)
    plain = pipe.unet(x, 500, c)
    hooked = delta.lora(pipe.unet)
    hooked.save(tmp_path / "lora.safetensors")
    hooked.detach()
    assert torch.equal(pipe.unet(x, 500, c), plain)
    loaded = lora.load(pipe.unet, tmp_path / "lora.safetensors")
    from_file = pipe.unet(x, 500, c)
    loaded.detach()
    stored = deltas.read_tensors(tmp_path / "lora.safetensors")
    assert len({float(t) for key, t in stored.items() if key.endswith(".alpha")}) == 1
    delta.apply(pipe)
    assert_close(from_file, pipe.unet(x, 500, c), rtol=0, atol=1e-4)
    assert (plain - from_file).abs().max() > .02


@pytest.mark.parametrize("content, message", [
    ({"unet": {"nowhere.weight": torch.zeros(2, 2)}}, "no weight nowhere"), ({"a": torch.zeros(3)}, "no weights of a Custom Diffusion"),
    ({"unet": {"conv_in.bias": torch.zeros(7)}}, r"\(7,\), expected \(80,\)"), ({"unet": {"conv_in.bias": torch.full((80,), float("nan"))}}, "not finite"),
    ({"unet": {"conv_in.bias": [1, 2]}}, "no tensor"), ({"unet": {"conv_in.bias": torch.zeros(80)}, "modifier_token": {"<n>": torch.zeros(3, dtype=torch.long)}}, "tokens cannot be used"),
    ([1, 2], "holds a list"), ({"unet": {"conv_in.bias": {"u": torch.zeros(3, 2), "v": torch.zeros(3, 2)}}}, "shape None")])
def test_files_that_do_not_fit_are_one_sentence(pipe, tmp_path, content, message):
    torch.save(content, tmp_path / "delta.bin")
    with pytest.raises(minidiff.CheckpointError, match=message):
        deltas.read(tmp_path / "delta.bin", pipe.unet)


def test_what_a_layout_cannot_hold_is_refused(pipe, tmp_path):
    delta = changed(pipe)
    delta.weights["conv_in.bias"] = torch.zeros(80)
    with pytest.raises(ValueError, match="layout diffusers holds cross-attention only"):
        deltas.write(tmp_path / "a.bin", delta, pipe.unet, "diffusers")
    with pytest.raises(ValueError, match="changes of matrices only"):
        delta.lora(pipe.unet)
    with pytest.raises(ValueError, match="layout 'zip'"):
        deltas.write(tmp_path / "a.zip", delta, pipe.unet, "zip")
    delta.rows["<new1>"] = torch.zeros(2, 128)
    with pytest.raises(ValueError, match="one per token"):
        deltas.write(tmp_path / "a.bin", delta, pipe.unet, "adobe")
    with pytest.raises(minidiff.CheckpointError, match="the token <wide> cannot be added"):
        Delta({}, {"<wide>": torch.zeros(1, 7)}).apply(pipe)
    assert not any(tmp_path.iterdir())


def test_what_was_learned_is_a_folder_that_can_be_read_as_one(pipe, tmp_path):
    delta = changed(pipe)
    delta.rows["<a b>"] = torch.ones(2, 128)
    paths = deltas.save(tmp_path / "a", delta, {"seconds": 1.5})
    assert [path.name for path in paths] == ["delta.safetensors", "new1.safetensors", "ab.safetensors"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"metrics.json", *(path.name for path in paths)}
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"seconds": 1.5, "bytes": paths[0].stat().st_size, "numbers": delta.numbers}
    for path in (tmp_path / "a", str(tmp_path / "a"), paths[0]):
        back = deltas.read(path, pipe.unet)
        for part in ("weights", "rows"):
            assert_close(getattr(back, part), getattr(delta, part), rtol=0, atol=0)
        assert back.classes == delta.classes
    name, rows = tokens.read(paths[2])
    delta.rows["<ab>"] = torch.zeros(2, 128)                                 # would have the file of "<a b>"
    assert [tokens.read(path)[0] for path in deltas.save_words(tmp_path / "words", delta)] == ["<new1>", "<a b>", "<ab>"]
    assert name == "<a b>" and torch.equal(rows["text_encoder"], torch.ones(2, 128))
    with pytest.raises(minidiff.CheckpointError, match="no file .*delta.safetensors"):
        deltas.read(tmp_path, pipe.unet)


def test_a_word_called_delta_does_not_overwrite_the_weights(pipe, tmp_path):
    delta = Delta(changed(pipe).weights, {"<delta>": torch.ones(1, 128)})
    assert len(set(deltas.save(tmp_path, delta, {}))) == 2
    assert deltas.read(tmp_path, pipe.unet).weights.keys() == delta.weights.keys()


@pytest.mark.parametrize("layout", deltas.EXPORTS)
@torch.no_grad()
def test_every_export_holds_the_change_and_the_words_beside_it(pipe, tmp_path, layout):
    delta, own = changed(pipe), {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    for ratio in (1.0, .5):
        path, word = deltas.export(tmp_path, delta, pipe.unet, layout, ratio)
        want = delta.compressed(pipe.unet, ratio).full(pipe.unet)
        if layout.startswith("lora"):
            assert all(key.startswith("lora_unet_") == (layout == "lora") for key in deltas.read_tensors(path))
            lora.load(pipe.unet, path).merge()
            got = {name: w.clone() for name, w in pipe.unet.state_dict().items() if name in want}
            pipe.unet.load_state_dict(own)
        else:
            got = deltas.read(path, pipe.unet).full(pipe.unet)
        assert_close(got, want, rtol=0, atol=1e-4)                      # a LoRA is in half precision
        assert word == tmp_path / "new1.safetensors" and tokens.read(word)[0] == "<new1>"
    assert (want[next(iter(want))] - delta.weights[next(iter(want))]).abs().max() > 1e-3
