"""Properties of papers/clip.py: the loss of Fig. 3, what a batch is made of, and that a killed run goes on where it was."""
import argparse
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minidiff.attention import attend
from minidiff.checkpoints import read_tensors
from minidiff.clip import CLIP
from minidiff.tokenizer import Tokenizer
from minidiff.toybox.store import prepare
from minidiff.training import Run

SPEC = importlib.util.spec_from_file_location("papers_clip", Path(__file__).parents[1] / "papers" / "clip.py")
paper = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(paper)

TINY_TEXT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32)
TINY_VISION = dict(model_type="clip_resnet_model", layers=[1, 1, 1, 1], width=4, image_size=64)
TRANSFORMER = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def embeddings(n=7, seed=0):
    return torch.randn(2, n, 5, generator=rng(seed), dtype=torch.float64)


def nothing(n):
    return torch.zeros(n, n, dtype=torch.bool)


# the loss --------------------------------------------------------------------------------------------------------

def slow_loss(I_e, T_e, t, same):
    """Fig. 3 in loops, with duplicates left out of the sums."""
    n, total = len(I_e), 0.0
    cosine = lambda i, j: float(I_e[i] @ T_e[j] / I_e[i].norm() / T_e[j].norm())
    contrasted = lambda i, j: i == j or not same[i, j]
    for i in range(n):
        of_texts = sum(math.exp(math.exp(t) * cosine(i, j)) for j in range(n) if contrasted(i, j))
        of_pictures = sum(math.exp(math.exp(t) * cosine(j, i)) for j in range(n) if contrasted(j, i))
        own = math.exp(math.exp(t) * cosine(i, i))
        total += -math.log(own / of_texts) / (2 * n) - math.log(own / of_pictures) / (2 * n)
    return total


@pytest.mark.parametrize("t", [0.0, 1.0, 2.6])
def test_loss_is_the_slow_loop(t):
    I_e, T_e = embeddings()
    same = torch.eye(7, dtype=torch.bool)
    same[[1, 4, 2, 6], [4, 1, 6, 2]] = True
    loss = paper.contrastive_loss(I_e, T_e, torch.tensor(t, dtype=torch.float64), same)
    assert_close(float(loss), slow_loss(I_e, T_e, t, same))
    assert float(loss) < slow_loss(I_e, T_e, t, nothing(7))


def test_loss_does_not_change_when_pictures_and_captions_swap_roles():
    I_e, T_e = embeddings()
    same = nothing(7)
    same[0, 3] = same[3, 0] = True
    t = torch.tensor(1.5)
    assert_close(paper.contrastive_loss(I_e, T_e, t, same), paper.contrastive_loss(T_e, I_e, t, same))


def test_duplicates_are_no_negatives():
    """With two captions alike, the picture of one does not push the caption of the other: no gradient joins them."""
    I_e, T_e = embeddings(n=2)
    I_e.requires_grad_()
    t = torch.tensor(2.0)
    loss = paper.contrastive_loss(I_e, T_e, t, torch.ones(2, 2, dtype=torch.bool))
    assert_close(loss, torch.zeros_like(loss))
    assert_close(torch.autograd.grad(loss, I_e)[0], torch.zeros_like(I_e))
    assert paper.contrastive_loss(I_e, T_e, t, nothing(2)) > 0.01


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_perfect_embeddings_leave_what_the_temperature_leaves(scale):
    """n orthogonal pairs: log(1 + (n - 1) exp(-scale)), which is close to 0 at the largest scale allowed."""
    e = torch.eye(8, dtype=torch.float64)
    loss = paper.contrastive_loss(3 * e, 5 * e, torch.tensor(scale, dtype=torch.float64).log(), nothing(8))
    assert_close(loss, torch.log1p(7 * torch.exp(torch.tensor(-scale, dtype=torch.float64))))


def test_alike_are_identical_captions_and_identical_pictures():
    T = torch.tensor([[1, 5, 9], [1, 6, 9], [1, 5, 9], [1, 7, 9]])
    index = torch.tensor([10, 11, 12, 11])
    want = torch.eye(4, dtype=torch.bool)
    want[[0, 2, 1, 3], [2, 0, 3, 1]] = True
    assert torch.equal(paper.alike(T, index), want)


# batches ---------------------------------------------------------------------------------------------------------

def test_a_share_of_the_batch_comes_in_handfuls_of_one_group_and_all_pictures_stay_equally_likely():
    group = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    counts = torch.zeros(100)
    for seed in range(400):
        index = paper.draw_batch(group, 64, 0.75, rng(seed))
        assert all(len(group[handful].unique()) == 1 for handful in index[:48].split(16)) and len(group[index[48:]].unique()) > 1
        counts += index.bincount(minlength=100)
    assert ((counts > 0.6 * 256) & (counts < 1.5 * 256)).all()


def test_without_hard_negatives_a_batch_is_drawn_from_everything():
    group = torch.arange(50)
    assert torch.equal(paper.draw_batch(group, 20, 0.0, rng()), torch.randint(50, (20,), generator=rng()))


def test_groups_are_categories_and_colours_of_things_hair_of_people_and_kinds_of_the_rest(store):
    truth, group = store.attributes(), paper.groups(store)

    def name(i):
        kind, member = paper.KIND_NAMES[truth["kind"][i]], int(truth["member"][i])
        within = (paper.MEMBERS[list(paper.MEMBERS)[member]], int(truth["color"][i])) if member >= 0 else None
        return kind, int(truth["hair"][i]) if kind == "portrait" else within
    names = [name(i) for i in range(len(store))]
    assert all((group[i] == group[j]) == (names[i] == names[j]) for i in range(len(store)) for j in range(i))


def test_trimming_the_padding_changes_no_embedding(store):
    tokenizer, ids = paper.tokenized(store)
    clip = paper.make(tokenizer).eval()
    ids = ids[:, 0]
    short = paper.trimmed(ids, tokenizer.eos)
    assert short.shape[1] < ids.shape[1] and (short == tokenizer.eos).any(dim=1).all()
    with torch.no_grad():
        assert_close(clip.encode_text(short), clip.encode_text(ids), atol=1e-5, rtol=1e-4)


def test_ids_are_those_of_each_pictures_captions(store):
    tokenizer, ids = paper.tokenized(store)
    assert torch.equal(ids[5], tokenizer(store.captions[5]))


@pytest.mark.parametrize("caption, broad", [
    ("a red cat next to an apple", "a red pet next to a fruit"), ("an apple in a garden", "a fruit in a garden"), ("a piano", "an instrument"),
    ("a sunflower in a pot", "a plant in a pot"), ("a red mug", "a red mug"), ("an old person with red hair", "an old person with red hair"),
    ("a sketch of a striped bed", "a sketch of a striped piece of furniture"), ("a category of a catalogue", "a category of a catalogue")])
def test_a_caption_can_say_the_category_in_place_of_the_member(caption, broad):
    assert paper.by_category(caption) == broad


def test_categories_are_said_outside_the_handfuls_only(train, monkeypatch):
    def said(categories):
        seen, alike = [], paper.alike
        monkeypatch.setattr(paper, "alike", lambda T, index: seen.append(T.clone()) or alike(T, index))
        folder = train(f"broad{categories}", 2, categories=categories, hard=.5)
        monkeypatch.setattr(paper, "alike", alike)
        return folder, torch.stack(seen)
    (folder, all_broad), (_, none) = said(1.0), said(0.0)
    half = all_broad.shape[1] // 2
    assert torch.equal(all_broad[:, :half], none[:, :half]) and not torch.equal(all_broad[:, half:], none[:, half:])
    members = {i for m in paper.MEMBERS if paper.MEMBERS[m] != "thing" for i in Tokenizer.from_pretrained(folder).encode(m)[:1]}
    assert not members & set(all_broad[:, half:].flatten().tolist()) and members & set(none[:, half:].flatten().tolist())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_same_in_training_where_it_takes_another_path(causal):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=rng()).bfloat16()
    with torch.no_grad():
        fused = attend(q, k, v, causal=causal)
    assert_close(attend(q, k, v, causal=causal), fused, atol=0.02, rtol=0.02)


# training --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toybox")
    prepare(folder / "store", 64, 3, workers=1)
    return folder


@pytest.fixture
def store(pictures):
    return prepare(pictures / "store", 64, 3)


@pytest.fixture
def train(pictures, monkeypatch, tmp_path):
    """A function that trains a tiny CLIP on 64 pictures in its own folder and returns the folder with the weights."""
    monkeypatch.setattr(paper, "TEXT_CONFIG", TINY_TEXT)
    monkeypatch.setattr(paper, "VISION_CONFIG", TINY_VISION)
    monkeypatch.setattr(paper, "score_table", lambda clip, tokenizer, n, first=0: {"age_r": {"mean": .5, "spread": 0.0, "chance": 0.0}})

    def train(name, steps, init=None, lr=1e-2, categories=.5, hard=.5):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        if not (out / "store").exists():
            (out / "store").symlink_to(pictures / "store")
        paper.train(argparse.Namespace(out=out, pictures=64, seed=3, steps=steps, minutes=None, batch=16, lr=lr, hard=hard, categories=categories, kinds=None,
                                       device=torch.device("cpu"), fresh=False, renders=20, init=init))
        return out / "clip"
    return train


@pytest.mark.parametrize("vision, when", [(TRANSFORMER, "within a step"), (TINY_VISION, "between two steps")])
def test_a_killed_run_goes_on_to_exactly_the_same_weights(train, monkeypatch, vision, when):
    """Within a step, a batch norm has already counted the batch: then a ResNet's running means are not exactly the same."""
    monkeypatch.setattr(paper, "VISION_CONFIG", vision)
    whole = train("whole", 4)
    update = Run.update

    def killed(run, loss, **shown):
        if run.step == 2 and when == "within a step":
            raise KeyboardInterrupt
        update(run, loss, **shown)
        if run.step == 2 and when == "between two steps":
            raise KeyboardInterrupt
    monkeypatch.setattr(Run, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train("halves", 4)
    monkeypatch.setattr(Run, "update", update)
    halves = train("halves", 4)
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, halves))
    assert a["step"] == b["step"] == 4
    for part in ("modules", "average"):
        for key, value in a[part]["clip"].items():
            assert torch.equal(value, b[part]["clip"][key]), f"{part} {key}"


def test_two_and_two_more_steps_are_four(train):
    """The learning rate still rises at step 4, so the end of the run does not matter to it."""
    whole = train("whole", 4)
    train("halves", 2)
    halves = train("halves", 4)
    a, b = (read_tensors(f / "model.safetensors") for f in (whole, halves))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_changes_every_weight_and_the_folder_stands_alone(train):
    folder = train("one", 2)
    clip, tokenizer = CLIP.from_pretrained(folder, dtype=torch.float32), Tokenizer.from_pretrained(folder)
    torch.manual_seed(3)
    start = paper.make(tokenizer)
    trained = torch.load(folder / "checkpoint.pt", weights_only=True)["modules"]["clip"]
    no_effect = "k_proj.bias"                    # adds the same to all scores of a query
    assert [k for k, v in start.state_dict().items() if torch.equal(v, trained[k]) and not k.endswith(no_effect)] == []
    assert clip.encode_text(tokenizer(["a red cat"])).shape == (1, paper.PROJECTION)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 2 and metrics["age_r"] == .5 and {"seconds", "device", "loss"} <= metrics.keys()


def test_training_masks_duplicates(train, monkeypatch):
    loss, masked = paper.contrastive_loss, []
    monkeypatch.setattr(paper, "contrastive_loss", lambda I_e, T_e, t, same: masked.append(int(same.sum()) - 16) or loss(I_e, T_e, t, same))
    train("masked", 4)
    assert len(masked) == 4 and max(masked) > 0 and min(masked) >= 0       # 16 of 64 pictures: some are drawn twice


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(train, monkeypatch):
    losses = iter([torch.tensor(1.0), torch.tensor(math.nan)])
    loss = paper.contrastive_loss
    monkeypatch.setattr(paper, "contrastive_loss", lambda *given: loss(*given) * next(losses))
    with pytest.raises(SystemExit, match="nan at step 1"):
        train("nan", 4)


def test_training_goes_on_from_the_weights_and_words_of_another(train):
    first = train("first", 3)
    (first / "checkpoint.pt").unlink()
    second = train("second", 1, init=str(first), lr=1e-9)
    assert (first / "vocab.json").read_text() == (second / "vocab.json").read_text()
    a, b = (read_tensors(f / "model.safetensors") for f in (first, second))
    learned = [k for k in a if "running" not in k and "num_batches" not in k]           # a batch norm counts what it sees
    assert learned and all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3, rtol=1e-2) for k in learned)


# scores ----------------------------------------------------------------------------------------------------------

def test_scores_of_embeddings_that_know_everything_are_perfect():
    """Embeddings made from the truth: each prompt is the direction of its words."""
    generator, words = rng(1), {}
    vector = lambda word: words.setdefault(word, torch.randn(512, generator=generator))
    texts = lambda prompts: F.normalize(torch.stack([sum(map(vector, p.split()[1:])) for p in prompts]), dim=1)
    n = 60
    truth = {"member": torch.arange(n) % 35, "color": torch.arange(n) % 8, "style": torch.zeros(n, dtype=torch.long),
             "glasses": torch.arange(n) % 2, "age": torch.linspace(0, 1, n)}
    members, colors = list(paper.MEMBERS), list(paper.COLORS)
    named = texts([f"a {colors[c]} {members[m]} {paper.MEMBERS[members[m]]}" for m, c in zip(truth["member"], truth["color"])])
    assert paper.naming(named, truth, texts) == {"member_in_category": 1.0, "member": 1.0, "category": 1.0, "color": 1.0}
    nobody_knows = texts([f"a {colors[c]} {members[m]}" for m, c in zip(truth["member"], truth["color"])])
    assert paper.naming(nobody_knows, truth, texts)["category"] < .5
    seen = torch.stack([a * vector("old") + (1 - a) * vector("young") + (vector("with") if g else vector("without"))
                        for a, g in zip(truth["age"], truth["glasses"])])
    got = paper.faces(seen, truth, texts)
    assert got["glasses_auc"] == 1.0 and got["age_r"] > .99
    assert paper.retrieval(named[:35], named[:35]) == {"text_of_256": 1.0, "image_of_256": 1.0}
    assert paper.retrieval(named[:35], named[:35].roll(1, 0)) == {"text_of_256": 0.0, "image_of_256": 0.0}


def test_zero_shot_probabilities_sum_to_one_and_sharpen_with_the_scale():
    I_e, T_e = F.normalize(embeddings(), dim=2)
    soft, sharp = (paper.zero_shot(I_e, T_e, torch.tensor(t)) for t in (0.0, 4.0))
    assert_close(soft.sum(dim=1), torch.ones(7, dtype=torch.float64))
    assert (sharp.amax(dim=1) > soft.amax(dim=1)).all()


# command line ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("argv, says", [
    (["eval", "--model", "/nowhere"], "no folder /nowhere"), (["--model", "/nowhere"], "no folder /nowhere"),
    (["train", "--init", "/nowhere"], "no folder /nowhere"), (["train", "--hard", "2"], "--hard is 2.0"), (["train", "--categories", "-1"], "--categories is -1.0"), (["train", "--batch", "1"], "--batch is 1"),
    (["train", "--lr", "-1"], "--lr is -1, expected a number above 0"), (["train", "--lr", "nan"], "--lr is nan"),
    (["train", "--steps", "0"], "--steps is 0"), (["train", "--minutes", "-2"], "--minutes is -2"), (["train", "--pictures", "0"], "--pictures is 0"),
    (["train", "--device", "abacus"], "abacus"), (["train", "--pictures", "many"], "invalid int value"),
    (["evaluate"], "unrecognized arguments: evaluate")])
def test_bad_input_is_one_sentence_and_status_2_before_anything_is_drawn(argv, says, capsys, monkeypatch):
    monkeypatch.setattr(paper, "prepare", lambda *args, **how: pytest.fail("pictures are drawn"))
    with pytest.raises(SystemExit) as stopped:
        paper.main(argv)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and says in error and "Traceback" not in error
