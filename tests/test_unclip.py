"""papers/unclip.py: its losses, what it computes once per store, tiny trainings of both networks, and its measures."""
import argparse
import json
import math
import shutil

import latent_diffusion
import minidiff
import pytest
import torch
import torch.nn.functional as F
import unclip as paper
from torch.testing import assert_close

from minidiff.checkpoints import find, read_config, read_folder, read_tensors, save_folder
from minidiff.clip import CLIP, CLIPText
from minidiff.kandinsky import UnCLIP
from minidiff.pipeline import Condition
from minidiff.prior import Prior
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.toybox import sample
from minidiff.toybox.captions import by_category, full_caption
from minidiff.toybox.store import prepare
from minidiff.training import Run
from minidiff.unet import UNet
from minidiff.vae import VAE

N = 24                                            # pictures in the store
TEXT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32, hidden_act="gelu")
UNET = dict(in_channels=8, out_channels=8, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2, cross_attention_dim=8,
            norm_num_groups=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=32, hidden_act="gelu")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a store, a tiny CLIP, a tiny VAE and a tiny UNet."""
    folder = tmp_path_factory.mktemp("base")
    store = prepare(folder / "store", N, 3, workers=1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([c for words in store.captions for c in words])
    text = dict(TEXT, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
    clip = CLIP(dict(projection_dim=16, text_config=text, vision_config=VISION)).init_weights()
    vae = VAE(block_out_channels=(6, 6), latent_channels=8, layers_per_block=1, norm_num_groups=3, patch_size=2)
    unet = UNet(**UNET)
    words = CLIPText(dict(text, hidden_size=8, intermediate_size=16))
    save_folder(unet, unet.config | {"sample_size": 16}, folder / "unet", dtype=torch.float32)
    save_folder(words, words.config, folder / "text_encoder", "model.safetensors", torch.float32)
    tokenizer.save(folder / "tokenizer")
    Schedule(**paper.DECODER_SCHEDULE).save_pretrained(folder / "scheduler")
    shutil.copy(find("toybox") / "model_index.json", folder)
    save_folder(clip, clip.config, folder / "clip", "model.safetensors", torch.float32)
    save_folder(vae, vae.config | {"scaling_factor": 3.0}, folder / "vae", dtype=torch.float32)
    tokenizer.save(folder / "clip")
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "PRIOR_CONFIG", dict(num_attention_heads=2, attention_head_dim=8, num_layers=1))
        yield


def train(base, out, stage, *more):
    """Trains one stage in the folder `out`, on the pictures of `base`; returns `out`."""
    out.mkdir(exist_ok=True)
    for part in ("store", "clip", "vae", "unet", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        if not (out / part).exists():
            (out / part).symlink_to(base / part)
    paper.main(["train", stage, "--out", str(out), "--pictures", str(N), "--seed", "3", "--batch", "8", "--device", "cpu",
                *([] if stage == "prior" or "--distil" in more else ["--distil", "0"]), *more])
    return out


@pytest.fixture(scope="module")
def model(base, tiny, tmp_path_factory):
    """The folder of a prior and a decoder in which every weight matters."""
    out = tmp_path_factory.mktemp("model")
    for stage in ("prior", "decoder"):
        train(base, out, stage, "--steps", "1")
    pipe, generator = UnCLIP.from_folder(out, "cpu"), rng(1)
    for part, module in (("prior", pipe.prior), ("decoder", pipe.unet)):
        for p in module.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=p[0].numel() ** -0.5, generator=generator)
        save_folder(module, read_config(out / part), out / part, dtype=torch.float32)
    return out


@pytest.fixture
def pipe(model):
    pipe = UnCLIP.from_folder(model, "cpu")
    pipe.prior_steps = 3
    return pipe


@pytest.fixture
def clip(base):
    return CLIP.from_pretrained(base / "clip"), Tokenizer.from_pretrained(base / "clip"), prepare(base / "store", N, 3)


# losses and conditions -------------------------------------------------------------------------------------------

def test_the_loss_of_the_prior_is_the_slow_loop():
    a, b = torch.randn(2, 5, 7, generator=rng())
    want = sum((float(a[i, k]) - float(b[i, k])) ** 2 for i in range(5) for k in range(7)) / 35
    assert_close(float(paper.prior_loss(a, b)), want)
    assert_close(float(paper.prior_loss(torch.zeros(2000, 9), torch.randn(2000, 9, generator=rng()))), 1.0, atol=.03, rtol=0)


def test_the_loss_of_the_decoder_is_the_slow_loop_and_min_snr_bounds_the_weight():
    eps, eps_hat = torch.randn(2, 3, 4, 2, 2, generator=rng())
    alpha_bar = Schedule(**paper.DECODER_SCHEDULE).alpha_bar[[0, 500, 999]]
    snr, total = alpha_bar / (1 - alpha_bar), 0.0
    for i in range(3):
        total += min(float(snr[i]), 5) / float(snr[i]) * float(((eps - eps_hat)[i] ** 2).mean()) / 3
    assert_close(float(paper.decoder_loss(eps_hat, eps, paper.min_snr_weight(alpha_bar, 5.0))), total)
    assert_close(paper.min_snr_weight(alpha_bar, 0), torch.ones(3))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_a_share_of_the_rows_is_dropped_whole(share, shape):
    given, nothing = torch.ones(4000, *shape), torch.zeros(1, *shape)
    out = paper.dropped(given, nothing, share, rng(1)).reshape(4000, -1)
    assert out.shape[0] == 4000 and (out == out[:, :1]).all()
    assert float(1 - out[:, 0].mean()) == pytest.approx(share, abs=.03 if 0 < share < 1 else 0)


# what is computed once per store ---------------------------------------------------------------------------------

@pytest.mark.parametrize("other", [False, True])
def test_captions_are_read_as_the_text_encoder_reads_them(clip, other):
    clip, tokenizer, store = clip
    paper.captions_as_read(clip, tokenizer, store)                            # kept apart from what others say
    said = [[f"{c} at night" for c in words] if other else words for words in store.captions]
    index, empty, told = paper.captions_as_read(clip, tokenizer, store, said if other else None)
    for texts, y in [(said[i], index[i]) for i in range(N)] + [([""], empty[None])]:
        ids = tokenizer(texts)
        want, pooled = clip.text(ids)
        z_t, hidden, mask = told(y)
        assert torch.equal(mask, clip.text.counts(ids))
        assert_close(hidden[mask], want[mask], atol=4e-3, rtol=2e-3)          # kept in half precision
        assert_close(z_t, pooled, atol=4e-3, rtol=2e-3)


def test_what_is_kept_beside_the_store_is_not_computed_again_and_belongs_to_its_clip(clip, monkeypatch):
    clip, tokenizer, store = clip
    first, captions = paper.embeddings_of_pictures(clip, store), paper.captions_as_read(clip, tokenizer, store)[2](torch.arange(3))
    assert_close(first[:5], paper.embed_pictures(clip.image, (store.images(torch.arange(5)) + 1) / 2), atol=4e-3, rtol=2e-3)
    with monkeypatch.context() as patch:
        patch.setattr(paper, "embed_pictures", None)
        patch.setattr(clip.text, "forward", None)
        assert torch.equal(paper.embeddings_of_pictures(clip, store), first)
        assert torch.equal(paper.captions_as_read(clip, tokenizer, store)[2](torch.arange(3))[1], captions[1])
    clip.visual_projection.weight.data.mul_(-1)
    assert_close(paper.embeddings_of_pictures(clip, store), -first)


def test_latents_are_those_of_latent_diffusion_in_the_same_file(base):
    store, args = prepare(base / "store", N, 3), argparse.Namespace(out=base, device=torch.device("cpu"))
    latents = paper.latents_of_pictures(VAE.from_pretrained(base / "vae"), store)
    files = set(store.folder.glob("latents-*"))
    theirs, scale = latent_diffusion.cached_latents(store, args)
    assert set(store.folder.glob("latents-*")) == files and len(files) == 1
    index = torch.tensor([5, 0, 5])
    assert_close(latents(index), theirs(index) * scale)


# training --------------------------------------------------------------------------------------------------------

def given_to(monkeypatch, cls):
    """What each call of a network of `cls` is given, recorded."""
    calls, forward = [], cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *given: calls.append(given) or forward(self, *given))
    return calls


def test_the_prior_learns_whitened_embeddings_of_the_pictures_that_the_captions_describe(base, tmp_path, clip, monkeypatch):
    clip, tokenizer, store = clip
    calls, targets, loss = given_to(monkeypatch, Prior), [], paper.prior_loss
    monkeypatch.setattr(paper, "prior_loss", lambda prediction, z_i: targets.append(z_i) or loss(prediction, z_i))
    out = train(base, tmp_path / "out", "prior", "--steps", "3", "--drop", "0")
    embeddings, prior = paper.embeddings_of_pictures(clip, store), Prior.from_pretrained(out / "prior", dtype=torch.float32)
    z = prior.whiten(embeddings)
    assert_close(z.mean(dim=0), torch.zeros(16), atol=.02, rtol=0)
    assert_close(z.std(dim=0), torch.ones(16), atol=.02, rtol=0)
    said = [[*words, *map(by_category, words)] for words in store.captions]
    pooled = [clip.encode_text(tokenizer(words)) for words in said]
    schedule, noises, broad = Schedule.from_config(paper.PRIOR_SCHEDULE), [], []
    for (z_t_i, t, text_pooled, _, _), z_i in zip(calls, targets):
        noises.append(schedule.eps_given_x0(z_i, z_t_i, t)[t > 50])
        for target, told in zip(z_i, text_pooled):
            picture = int((z - target).abs().sum(dim=1).argmin())
            assert_close(target, z[picture], atol=.05, rtol=.01)
            far = (pooled[picture] - told).abs().amax(dim=1)
            assert far.min() < .02
            broad.append(said[picture][far.argmin()] not in store.captions[picture])
    assert True in broad and False in broad                                   # "a red pet", and "a red cat"
    noises = torch.cat(noises)
    assert float(noises.mean()) == pytest.approx(0, abs=.2) and float(noises.std()) == pytest.approx(1, abs=.15)


@pytest.mark.usefixtures("float32")
def test_left_out_captions_are_the_empty_one(base, tmp_path, clip, monkeypatch):
    clip, tokenizer, store = clip
    calls = given_to(monkeypatch, Prior)
    train(base, tmp_path / "out", "prior", "--steps", "2", "--drop", "1")
    want = clip.encode_text(tokenizer([""]))
    for _, _, text_pooled, _, mask in calls:
        assert_close(text_pooled, want.expand(8, -1), atol=4e-3, rtol=2e-3)
        assert (mask.sum(dim=1) == 2).all()                                   # start and end


@pytest.mark.parametrize("share", ["0", "1"])
def test_left_out_pictures_are_what_the_pipeline_means_by_no_image(base, tmp_path, clip, pipe, share, monkeypatch):
    calls = given_to(monkeypatch, UNet)
    train(base, tmp_path / "out", "decoder", "--steps", "2", "--drop", share)
    grey, embeddings = pipe.no_image().added["image_embeds"], paper.embeddings_of_pictures(clip[0], clip[2])
    for x, t, context, added in calls:
        told = added["image_embeds"]
        of_pictures = torch.cdist(told, embeddings).amin(dim=1) < .02
        assert x.shape == (8, 8, 16, 16) and context is None
        assert of_pictures.all() if share == "0" else torch.equal(told, grey.expand(8, -1))


def test_the_decoder_sees_the_noisy_latents_of_the_picture_whose_embedding_it_is_told(base, tmp_path, clip, monkeypatch):
    calls, losses, loss = given_to(monkeypatch, UNet), [], paper.decoder_loss
    monkeypatch.setattr(paper, "decoder_loss", lambda *given: losses.append(given) or loss(*given))
    train(base, tmp_path / "out", "decoder", "--steps", "2", "--drop", "0")
    embeddings, latents = paper.embeddings_of_pictures(clip[0], clip[2]), paper.latents_of_pictures(VAE.from_pretrained(base / "vae"), clip[2])
    schedule = Schedule(**paper.DECODER_SCHEDULE)
    for (x, t, _, added), (_, eps, weight) in zip(calls, losses):
        index = torch.cdist(added["image_embeds"], embeddings).argmin(dim=1)
        assert_close(schedule.add_noise(latents(index), eps, t), x.contiguous())
        assert eps.std() == pytest.approx(1, abs=.05)
        assert_close(weight, paper.min_snr_weight(schedule.alpha_bar[t], 5.0))


def test_the_decoder_is_the_unet_beside_it_but_for_what_reads_embeddings(base, tmp_path):
    out = train(base, tmp_path / "out", "decoder", "--steps", "2", "--lr", "0.1")
    before, own, decoder = read_folder(base / "unet"), read_folder(out / "decoder"), UNet.from_config(read_config(out / "decoder"))
    assert set(decoder.state_dict()) == {*before, *own} and all(any(part in k for part in paper.READER) for k in own)
    train(base, out, "prior", "--steps", "1")
    whole = UnCLIP.from_folder(out, "cpu").unet.state_dict()
    assert all(torch.equal(whole[k], own[k].float() if k in own else before[k]) for k in whole)
    learned = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert not torch.equal(own[learned], before[learned].half())
    assert {k.split(".")[0] for k in own} > {"add_embedding", "encoder_hid_proj"} and "time_embedding.linear_1.weight" not in own


@pytest.mark.usefixtures("float32")
def test_what_layers_are_asked_and_answer_is_that_of_a_model_told_everything(base):
    store, latents = prepare(base / "store", N, 3), paper.latents_of_pictures(VAE.from_pretrained(base / "vae"), prepare(base / "store", N, 3))
    pipe, seen = minidiff.load(base, "cpu", torch.float32), []
    pipe.encode_prompts, real = lambda texts: seen.append(texts) or real(texts), pipe.encode_prompts
    index, heard = paper.answers_to_words(pipe, store, latents, N, .3, rng(5), positions=3)
    texts = [text for some in seen for text in some]
    assert len(set(index.tolist()) - {-1}) == int((index >= 0).sum()) and 0 < int((index < 0).sum()) < N / 2
    assert all(text == (full_caption(store.scenes([i])[0]) if i >= 0 else "") for text, i in zip(texts, index))
    layers = pipe.unet.cross_attentions()
    assert heard.keys() == layers.keys() and all(not layer._forward_hooks for layer in layers.values())
    for name, (asked, answered) in heard.items():
        assert asked.shape == answered.shape and asked.shape[:2] == (N, 3)
        with torch.no_grad():
            assert_close(layers[name](asked.float(), real(texts).context), answered.float(), atol=2e-3, rtol=1e-2)


def test_distilled_layers_answer_to_embeddings_as_they_did_to_words(base):
    torch.manual_seed(3)
    unet, own = paper.reader_of_embeddings(base / "unet", 16)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    teacher, _ = paper.reader_of_embeddings(base / "unet", 16)
    z_i, layers = torch.randn(256, 16, generator=rng(1)), teacher.cross_attentions()
    with torch.no_grad():
        asked = {name: torch.randn(256, 5, layer.to_q.in_features, generator=rng(2)) for name, layer in layers.items()}
        heard = {name: (x, layers[name](x, teacher.encoder_hid_proj(z_i))) for name, x in asked.items()}

        def error():
            tokens = unet.encoder_hid_proj(z_i)
            return sum(float((unet.cross_attentions()[name](x, tokens) - y).square().mean() / y.var(dim=0).mean()) for name, (x, y) in heard.items())
        first = error()
    paper.distil(unet, z_i, {k: (x.half(), y.half()) for k, (x, y) in heard.items()}, 300, rng(4))
    with torch.no_grad():
        assert error() < first / 5
    changed = {k for k, v in unet.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in own if "add_embedding" not in k}


def test_the_decoder_begins_with_what_was_distilled(base, tmp_path, clip, pipe, monkeypatch):
    seen, told, asked, distil, answers = [], [], [], paper.distil, paper.answers_to_words
    keep = lambda unet: seen.append({k: v.clone() for k, v in unet.state_dict().items()})
    monkeypatch.setattr(paper, "distil", lambda unet, z_i, *given: told.append(z_i) or distil(unet, z_i, *given) or keep(unet))
    monkeypatch.setattr(paper, "answers_to_words", lambda *given: asked.append(answers(*given)) or asked[0])
    out = train(base, tmp_path / "out", "decoder", "--steps", "1", "--lr", "1e-9", "--distil", "10", "--distil-steps", "3", "--drop", "0.5")
    own = read_folder(out / "decoder")
    assert len(seen) == 1 and all(torch.allclose(seen[0][k], v.float(), atol=1e-3) for k, v in own.items())
    assert not own["add_embedding.image_norm.weight"].any()                   # an embedding adds nothing to the time yet
    embeddings, nothing = paper.embeddings_of_pictures(clip[0], clip[2]), pipe.no_image().added["image_embeds"][0]
    for z_i, i in zip(told[0], asked[0][0]):                                   # each answer was about its own picture, or about none
        assert_close(z_i, embeddings[i] if i >= 0 else nothing)
    train(base, out, "decoder", "--steps", "2", "--distil", "10", "--distil-steps", "3")
    assert len(seen) == 1                                                     # what goes on has had it


@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_a_killed_run_goes_on_to_exactly_the_same_weights(base, tmp_path, stage, monkeypatch):
    whole = train(base, tmp_path / "whole", stage, "--steps", "3")
    update = Run.update

    def killed(run, loss, **shown):
        if run.step == 1:
            raise KeyboardInterrupt
        update(run, loss, **shown)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", killed)
        with pytest.raises(SystemExit):
            train(base, tmp_path / "halves", stage, "--steps", "3")
    halves = train(base, tmp_path / "halves", stage, "--steps", "3")
    a, b = (read_folder(f / stage) for f in (whole, halves))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_of_another_clip_are_not_gone_on_from(base, tmp_path, capsys):
    out = train(base, tmp_path / "out", "prior", "--steps", "1")
    (out / "clip").unlink()
    shutil.copytree(base / "clip", out / "clip")
    clip = CLIP.from_pretrained(out / "clip")
    clip.visual_projection.weight.mul_(4)
    save_folder(clip, clip.config, out / "clip", "model.safetensors", torch.float32)
    with pytest.raises(SystemExit) as stop:
        train(base, out, "prior", "--steps", "2")
    assert stop.value.code == 2 and "another CLIP" in capsys.readouterr().err
    train(base, out, "prior", "--steps", "2", "--fresh")


def test_training_goes_on_from_the_weights_of_another_model(base, model, tmp_path):
    for stage in ("prior", "decoder"):
        out = train(base, tmp_path / "out", stage, "--steps", "1", "--lr", "1e-9", "--init", str(model))
        a, b = read_folder(model / stage), read_folder(out / stage)
        assert b and all(torch.allclose(a[k].float(), b[k].float(), atol=2e-3) for k in b), stage


def test_the_schedules_beside_the_weights_are_the_cosine_one_and_that_of_the_latents(model):
    prior, decoder = (Schedule.from_pretrained(model / part) for part in ("prior", "decoder"))
    f = lambda u: math.cos((u + .008) / 1.008 * math.pi / 2) ** 2
    for t in (0, 100, 500, 900):
        assert float(prior.alpha_bar[t]) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-3)
    assert (prior.prediction_type, prior.method, prior.clip_sample, prior.clip_sample_range) == ("sample", "unclip", True, 10.0)
    assert decoder == Schedule(eta=1.0)                                       # as in Stable Diffusion, with fresh noise


# sampling --------------------------------------------------------------------------------------------------------

def prior_samples(pipe, guidance, negative=""):
    pipe.prior_guidance = guidance
    with torch.no_grad():
        return pipe.encode_prompts(["a red cat", "a person"], negative=negative, seeds=3).added["image_embeds"]


def test_guidance_of_the_prior_is_nothing_at_1_and_the_negative_prompt_itself_at_0(pipe):
    assert torch.equal(prior_samples(pipe, 1.0), prior_samples(pipe, 1.0, "a blue dog"))
    pipe.prior_guidance = 1.0
    with torch.no_grad():
        negative = pipe.encode_prompts(["a blue dog"] * 2, seeds=3).added["image_embeds"]
    assert_close(prior_samples(pipe, 0.0, "a blue dog"), negative, atol=1e-4, rtol=1e-4)
    assert (prior_samples(pipe, 3.0, "a blue dog") - prior_samples(pipe, 3.0)).abs().max() > 1e-3


def test_the_decoder_draws_the_same_without_an_embedding_whatever_the_embedding(pipe, monkeypatch):
    a, b = torch.randn(2, 2, 16, generator=rng())
    draw = lambda z_i, guidance: pipe.draw(z_i, steps=2, guidance=guidance, seeds=4)
    assert_close(draw(a, 0.0), draw(b, 0.0), atol=1e-4, rtol=0)
    assert (draw(a, 1.0) - draw(b, 1.0)).abs().max() > 1e-3
    grey = pipe.no_image()
    assert_close(draw(grey.added["image_embeds"].repeat(2, 1), 1.0), draw(a, 0.0), atol=1e-4, rtol=0)
    plain, guided = draw(a, 1.0), draw(a, 3.0)
    monkeypatch.setattr(pipe, "no_image", lambda: Condition(None, {"image_embeds": b[:1]}))
    assert torch.equal(draw(a, 1.0), plain) and (draw(a, 3.0) - guided).abs().max() > 1e-3


def test_a_prompt_is_drawn_from_the_embedding_that_the_prior_samples(pipe):
    """Both random streams are one: first the prior's noise, then the decoder's, of the same generators."""
    seeds = [torch.Generator().manual_seed(9)]
    with torch.no_grad():
        z_i = pipe.encode_prompts(["a red cat"], seeds=seeds).added["image_embeds"]
    assert_close(pipe.draw(z_i, steps=2, guidance=4.0, seeds=seeds), pipe("a red cat", steps=2, guidance=4.0, seed=9), atol=1e-5, rtol=0)


# measures --------------------------------------------------------------------------------------------------------

def test_the_better_of_two_is_the_nearer_to_the_caption_and_counts_its_length():
    z_t = torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
    two = torch.tensor([[[1., 0.], [9., -1.], [1., 0.]], [[-1., 9.], [0., 1.], [0., 3.]]])
    assert torch.equal(paper.better_of_two(two, z_t), torch.stack([two[0, 0], two[1, 1], two[1, 2]]))


def test_closeness_is_perfect_for_the_embeddings_themselves_and_chance_for_shifted_ones():
    z_i = torch.eye(6) + .1
    assert paper.closeness(5 * z_i, z_i) == {"cosine to the picture": pytest.approx(1), "nearest of all": 1.0}
    shifted = paper.closeness(z_i.roll(1, 0), z_i)
    assert shifted["nearest of all"] == 0 and shifted["cosine to the picture"] == pytest.approx(float(F.cosine_similarity(z_i[:1], z_i[1:2])))


def test_variety_is_that_of_the_slow_loop():
    groups, whiten = torch.randn(3, 4, 5, generator=rng()), lambda e: (e - 1) / 2
    pairs = [(g[i], g[j]) for g in groups for i in range(4) for j in range(4) if i != j]
    got = paper.variety(groups, whiten)
    assert got["cosine of two of a caption"] == pytest.approx(sum(float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs) / 36, abs=1e-5)
    assert got["difference of two of a caption"] == pytest.approx(sum(float(((a - b) / 2).square().mean()) for a, b in pairs) / 36, abs=1e-5)
    assert paper.variety(groups[:, :1].expand(3, 4, 5), whiten)["difference of two of a caption"] == 0


def test_captions_of_several_pictures_are_distinct_and_their_scenes_differ():
    captions, scenes = paper.captions_of_several(3, 2, 1, "portrait")
    assert len(set(captions)) == 3 and len(scenes) == 6
    assert all(a.kind == b.kind == "portrait" and a.seed != b.seed for a, b in (scenes[:2], scenes[2:4], scenes[4:]))


def test_means_and_spreads_leave_out_what_no_caption_says():
    runs = [{"x": {"a": 1.0, "b": math.nan, "c": math.nan}, "y": {"b": 1.0}}, {"x": {"a": 3.0, "b": .5, "c": math.nan}, "y": {"b": 1.0}}]
    table = paper.over_seeds(runs)
    assert table["x"] == {"a": {"mean": 2.0, "spread": pytest.approx(2 ** .5)}, "b": {"mean": .5, "spread": 0.0}}
    assert paper.as_markdown(table).splitlines() == ["| | x | y |", "|---|---|---|", "| a | 2.000 ± 1.414 |  |", "| b | 0.500 ± 0.000 | 1.000 ± 0.000 |"]


# the script ------------------------------------------------------------------------------------------------------

def test_every_verb_writes_what_it_says(model, tmp_path, capsys, monkeypatch):
    several = paper.captions_of_several                                       # of hands, because few captions of these are soon found twice
    monkeypatch.setattr(paper, "captions_of_several", lambda n, k, seed, kind: several(n, k, seed, "hand"))
    how = ["--model", str(model), "--sampling", "1", "--prior-steps", "1", "--device", "cpu"]
    paper.main([*how, "--out", str(tmp_path / "demo")])
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert (tmp_path / "demo" / "figure.png").is_file() and {"cosine, prior", "seconds", "device", "steps"} <= set(metrics)
    paper.main(["sample", "--prompt", "a red cat", "a dog", "--negative", "a hand", "--n", "2", *how, "--out", str(tmp_path / "sample")])
    assert read_tensors(tmp_path / "sample" / "samples.safetensors")["images"].shape == (4, 3, 64, 64)
    paper.main(["eval", "--captions", "4", "--pictures", "2", "--repeats", "1", *how, "--out", str(tmp_path / "eval")])
    table = json.loads((tmp_path / "eval" / "table.json").read_text())
    assert set(table) == {"prior", "decoder"} and set(table["prior"]["guidance 2"]["nearest of all"]) == {"mean", "spread"}
    assert "text embedding" in (tmp_path / "eval" / "table.md").read_text() and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("argv, says", [
    (["--model", "/nowhere"], "no folder /nowhere"), (["train", "prior", "--drop", "2"], "--drop is 2.0"), (["train", "text"], "invalid choice"),
    (["train", "decoder", "--batch", "0"], "--batch is 0"), (["--device", "abacus"], "abacus"), (["sample"], "--prompt"),
    (["eval", "--prior-steps", "0"], "--prior-steps is 0"), (["train", "prior", "--steps", "0"], "a run needs an end")])
def test_bad_input_is_one_sentence_and_status_2(base, tmp_path, argv, says, capsys):
    out = ["--out", str(base), "--pictures", str(N), "--seed", "3"] if argv[0] == "train" else ["--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        paper.main([*argv, *out])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and "Traceback" not in error


def test_a_folder_without_prior_and_decoder_is_refused_by_name(base, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        paper.main(["--model", str(base), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "no prior and no decoder" in capsys.readouterr().err


@pytest.mark.skipif(not (find("toybox") / "prior").is_dir(), reason="no prior is shipped yet")
def test_the_shipped_prior_belongs_to_the_shipped_clip():
    clip, prior = CLIP.from_pretrained(find("toybox") / "clip", dtype=torch.float32), Prior.from_pretrained(find("toybox") / "prior", dtype=torch.float32)
    paper.check_whitening(prior, paper.embed_pictures(clip.image, sample(200, 31).images))
