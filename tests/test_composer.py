"""papers/composer.py and what it is made of: colours, sketches, masks, maps, photos; the model, its drop rule, its training, its uses."""
import json
import os
import shutil
from contextlib import suppress

import composer as paper
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from minidiff import color, decomposition, images, photos, toybox
from minidiff.checkpoints import load_strict, read_folder, read_tensors, save_folder
from minidiff.clip import CLIP, CLIPText
from minidiff.decomposer import Decomposer, agreement, of_store, with_hole
from minidiff.precomputed import embeddings_of_pictures, latents_of_pictures
from minidiff.prior import Prior
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.toybox import maps, world
from minidiff.toybox.store import prepare
from minidiff.training import Run
from minidiff.unet import UNet, zero_residuals
from minidiff.vae import VAE

N = 24                                            # pictures in the store
TEXT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32, hidden_act="gelu")
VISION = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=32, hidden_act="gelu")
TINY = dict(in_channels=8, out_channels=8, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=4, cross_attention_dim=8,
            norm_num_groups=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
PARTS = ("store", "clip", "vae", "unet", "text_encoder", "tokenizer", "maps")
LOCAL = {"sketch": 1, "instances": maps.PLANES, "depth": 1, "intensity": 1, "masking": 4}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a store and, tiny and with random weights: a CLIP, a VAE, a UNet and its text encoder, and a reader of maps."""
    folder = tmp_path_factory.mktemp("base")
    store = prepare(folder / "store", N, 3, workers=1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([c for words in store.captions for c in words])
    text = dict(TEXT, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
    clip = CLIP(dict(projection_dim=12, text_config=text, vision_config=VISION)).init_weights()
    vae = VAE(block_out_channels=(6, 6), latent_channels=8, layers_per_block=1, norm_num_groups=3, patch_size=2)
    save_folder(clip, clip.config, folder / "clip", "model.safetensors", torch.float32)
    save_folder(vae, vae.config | {"scaling_factor": 3.0}, folder / "vae", dtype=torch.float32)
    unet, encoder = UNet(**TINY), CLIPText.from_config(dict(TEXT, hidden_size=8, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos)).init_weights()
    save_folder(unet, unet.config, folder / "unet", dtype=torch.float32)
    save_folder(encoder, encoder.config, folder / "text_encoder", "model.safetensors", torch.float32)
    tokenizer.save(folder / "tokenizer")
    reader = maps.MapReader(8)
    save_folder(reader, reader.config, folder / "maps", dtype=torch.float32)
    tokenizer.save(folder / "clip")
    return folder


@pytest.fixture(scope="module", autouse=True)
def first(base):
    """Stage 1 is trained once, beside the store."""
    return train(base, base, "embedding", "--steps", "1")


def train(base, out, stage, *more):
    """Trains one stage in the folder `out`, on the pictures of `base`; returns `out`."""
    out.mkdir(exist_ok=True)
    for part in (*PARTS, *(["composer_1"] if stage == "all" else [])):
        with suppress(FileExistsError):                         # another process of the same training may have been faster
            (out / part).symlink_to(base / part)
    paper.main(["train", stage, "--out", str(out), "--pictures", str(N), "--seed", "3", "--batch", "4", "--device", "cpu", *more])
    return out


def random_weights(module, seed=1):
    """Every weight matters: nothing is zero."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -.5 if p.ndim > 1 else .3, generator=rng(seed))
    return module


@pytest.fixture(scope="module")
def model(base, first, tmp_path_factory):
    """The folder of a composer in which every weight matters."""
    out = train(base, tmp_path_factory.mktemp("model"), "all", "--steps", "1")
    trained = random_weights(paper.Composer.from_pretrained(out / "composer", dtype=torch.float32))
    save_folder(trained, trained.config, out / "composer", dtype=torch.float32)
    return out


@pytest.fixture
def m(model):
    return paper.Model(model, torch.device("cpu"), steps=2)


@pytest.fixture(scope="module")
def pictures():
    return toybox.sample(4, 8).images


def conditions(n=3, seed=0):
    """Random conditions of n pictures, for `composer()`."""
    g, r = rng(seed), lambda *shape: torch.randn(n, *shape, generator=rng(seed))
    c = {"sentence": r(12), "words": r(32, 8), "embedding": r(12), "palette": torch.rand(n, 156, generator=g)}
    return c | {name: torch.rand(n, k, 64, 64, generator=g) for name, k in LOCAL.items()}


def composer():
    return random_weights(paper.Composer(TINY, 12, 32, LOCAL, 2, sample_size=16))


def predict(net, c, keep=None, n=3):
    z_t = torch.randn(n, 8, 16, 16, generator=rng(5))
    with torch.no_grad():
        return net(z_t, torch.arange(n) * 300, net.told(c, z_t, keep))


# colours ---------------------------------------------------------------------------------------------------------

def test_lab_is_the_slow_formula_and_goes_back():
    def slow(rgb):
        lin = [v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4 for v in rgb]
        rows = ((.4124564, .3575761, .1804375), (.2126729, .7151522, .0721750), (.0193339, .1191920, .9503041))
        xyz = [sum(a * b for a, b in zip(row, lin)) / sum(row) for row in rows]
        f = [v ** (1 / 3) if v > (6 / 29) ** 3 else (29 / 6) ** 2 / 3 * v + 4 / 29 for v in xyz]
        return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]
    rgb = torch.cat([torch.rand(50, 3, generator=rng()), torch.rand(50, 3, generator=rng(1)) * .05, torch.eye(3), torch.ones(1, 3)]).double()
    assert_close(color.to_lab(rgb), torch.tensor([slow(c) for c in rgb.tolist()], dtype=torch.float64))
    assert_close(color.to_rgb(color.to_lab(rgb)), rgb, atol=1e-9, rtol=0)
    assert_close(color.to_lab(torch.ones(3)), torch.tensor([100.0, 0, 0]), atol=1e-3, rtol=0)
    assert_close(color.to_lab(torch.tensor([1.0, 0, 0])), torch.tensor([53.24, 80.09, 67.20]), atol=.01, rtol=0)      # known values


def test_the_codebook_has_156_colours_black_and_white_among_them():
    lab = color.codebook()
    assert len(lab) == 156 == color.COLORS and len(lab.unique(dim=0)) == 156
    assert (lab - torch.tensor([100.0, 0, 0])).norm(dim=1).min() < .01 and lab.norm(dim=1).min() < .01
    apart = torch.cdist(lab, lab) + 1e9 * torch.eye(156)
    assert 11 < apart.amin(dim=1).median() < 14                               # in units of Lab


def test_a_palette_sums_to_1_whatever_the_order_of_the_pixels(pictures):
    h = color.palette(pictures)
    assert_close(h.sum(dim=1), torch.ones(4))
    order = torch.randperm(64 * 64, generator=rng())
    assert_close(color.palette(pictures.flatten(2)[..., order].unflatten(2, (64, 64))), h)
    assert (h[0] - h[1]).abs().sum() > .1


def test_a_palette_is_smoothed_in_units_of_lab():
    lab = color.codebook()
    i = 40
    x = color.to_rgb(lab[i]).reshape(1, 3, 1, 1).expand(-1, -1, 4, 4)
    d = (lab - lab[i]).norm(dim=1)
    want = torch.exp(-d ** 2 / 200)
    assert_close(color.palette(x)[0], want / want.sum(), atol=1e-6, rtol=1e-4)
    assert .2 < float(color.palette(x)[0, i]) < .8                            # with sigma in bins, all would be 1/156


# sketch, intensity, masks ----------------------------------------------------------------------------------------

def test_a_sketch_is_the_thin_outline_of_what_differs_in_colour():
    x = torch.full((2, 3, 32, 32), .5)
    x[0, 0, 8:24, 8:24], x[0, 1, 8:24, 8:24] = .8, .2                          # a square of another colour, equally light for a mean of channels
    s = decomposition.sketch(x)
    inside = torch.zeros(32, 32)
    inside[6:26, 6:26] = 1
    inside[10:22, 10:22] = 0
    assert s[1].sum() == 0 and set(s.unique().tolist()) == {0, 1}
    assert 48 <= s[0].sum() <= 72 and (s[0, 0] * (1 - inside)).sum() == 0
    assert s[0, 0, 16].sum() == 2 and s[0, 0, :, 16].sum() == 2                # one pixel on each side


def test_lines_that_are_short_or_nowhere_strong_are_left_out():
    x = torch.full((1, 3, 32, 32), .5)
    x[..., :16] += torch.linspace(.2, .05, 32)[:, None]                        # an edge that fades
    x[..., 20:22, 24:26] = 0                                                  # a speck
    s = decomposition.sketch(x, weak=1.5, strong=5.0, shortest=14)[0, 0]
    assert s[:, 14:18].sum() >= 24 and s[:, 20:].sum() == 0                   # the weak end hangs on to the strong one
    assert decomposition.sketch(x, weak=1.5, strong=5.0, shortest=1)[0, 0][:, 20:].sum() > 0
    assert decomposition.sketch(x, weak=1.5, strong=30.0, shortest=1)[0, 0][:, :20].sum() == 0


@pytest.mark.parametrize("density", [.2, .4, .6])
def test_components_are_those_of_the_slow_search(density):
    mask = torch.rand(3, 11, 13, generator=rng(int(10 * density))) < density
    for picture, numbers in zip(mask, decomposition.components(mask).reshape(mask.shape)):
        seen, pieces = {}, 0
        for start in picture.nonzero().tolist():
            todo, pieces = [tuple(start)], pieces + (tuple(start) not in seen)
            while todo:
                i, j = todo.pop()
                if (i, j) not in seen and 0 <= i < 11 and 0 <= j < 13 and picture[i, j]:
                    seen[i, j] = pieces
                    todo += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        pairs = {(piece, int(numbers[place])) for place, piece in seen.items()}
        assert len(pairs) == pieces == len({number for _, number in pairs})


def test_greys_are_weighted_sums_of_weights_that_sum_to_1(pictures):
    assert_close(torch.tensor(decomposition.GREYS).sum(dim=1), torch.ones(len(decomposition.GREYS)))
    which = torch.tensor([0, 3, 4, 1])
    got = decomposition.intensity(pictures, which)
    assert_close(got[0, 0], pictures[0].mean(dim=0))
    assert_close(got[1, 0], pictures[1, 0])
    assert_close(got[2, 0], pictures[2, 1])
    assert_close(got[3, 0], .299 * pictures[3, 0] + .587 * pictures[3, 1] + .114 * pictures[3, 2])


def test_masks_are_strokes_rectangles_and_halves_in_their_shares():
    known = decomposition.random_known(600, 16, rng())
    assert known.shape == (600, 1, 16, 16) and set(known.unique().tolist()) == {0, 1}
    assert 0 < known.mean(dim=(1, 2, 3)).min() and known.mean(dim=(1, 2, 3)).max() < 1
    hole = 1 - known[:, 0]
    rows, columns = hole.amax(dim=2).sum(dim=1), hole.amax(dim=1).sum(dim=1)
    is_box, is_half = rows * columns == hole.sum(dim=(1, 2)), hole.mean(dim=(1, 2)) == .5
    is_half &= is_box & ((rows == 16) | (columns == 16))
    assert .06 < is_half.float().mean() < .14 and .26 < is_box.float().mean() < .36
    halves = hole[is_half]
    assert len(halves.flatten(1).unique(dim=0)) == 4
    strokes = decomposition.strokes(40, 64, rng()).float()
    for stroke in strokes:                                                    # one piece, with room around it
        numbers = decomposition.components(stroke[None].bool())[0]
        assert len(numbers[stroke.flatten() > 0].unique()) == 1 and .01 < stroke.mean() < .8


def test_what_is_masked_shows_the_picture_where_it_is_known_and_says_where(pictures):
    known = with_hole(pictures, .25, 0, .5, 1)
    c = decomposition.masked(pictures, known)
    assert (known[:, :, 16:32] == 0).all() and known.mean() == .75
    assert_close(c[:, :3, :16], 2 * pictures[:, :, :16] - 1)
    assert (c[:, :3, 16:32] == 0).all() and torch.equal(c[:, 3:], known)


# depth and instances ---------------------------------------------------------------------------------------------

def test_the_truth_of_renders_is_their_classes_boundaries_and_nearness():
    scenes = [toybox.scene(4, i)[0] for i in range(12)] + [toybox.scene(4, 12, "new")[0]]
    batch = world.draw(scenes)
    instances, near = maps.planes(maps.truth(batch.scenes, batch.instances, batch.depth))
    assert_close(near, 1 - batch.depth, atol=.003, rtol=0)
    assert torch.equal(instances[:, :-1].sum(dim=1), (batch.instances > 0).float())
    kinds = {"portrait": "person", "hand": "hand"}
    for scene, own, planes in zip(batch.scenes, batch.instances, instances):
        for number, thing in enumerate(scene.things or [None] * (scene.kind in kinds), 1):
            name = kinds[scene.kind] if thing is None else maps.MEMBERS.get(thing.member, thing.member)
            assert (planes[maps.CLASSES.index(name)][own == number] == 1).all()
        edges = {(i, j) for i in range(63) for j in range(63) if len({int(own[i, j]), int(own[i, j + 1]), int(own[i + 1, j])}) > 1}
        assert {(i, j) for i, j in planes[-1].nonzero().tolist() if i < 63 and j < 63} == edges


def test_a_reader_of_maps_learns(tmp_path):
    images_, codes = (torch.from_numpy(a) for a in maps.drawn(5, 0, 6))
    torch.manual_seed(0)
    reader = maps.MapReader(8)
    optimizer, losses = torch.optim.Adam(reader.parameters(), 1e-2), []
    for _ in range(20):
        loss = maps.reader_loss(reader(images_.float() / 255), codes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    got = reader.read(images_.float() / 255)
    assert losses[-1] < .6 * losses[0] and got.dtype == torch.uint8 and got.shape == codes.shape
    assert (got[:, 0] // 2 == codes[:, 0] // 2).float().mean() > .6
    assert (got[:, 1].float() - codes[:, 1].float()).abs().mean() < 50


# photos ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder_of_photos(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(("a", "b", "c")):
        images.save(folder / f"{name}.png", toybox.sample(1, i).images[0])
    (folder / "a.txt").write_text("a red cat\nan animal\n", encoding="utf-8")
    Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))).save(folder / "b.depth.png")
    Image.new("RGB", (64, 64), (255, 0, 51)).save(folder / "c.instances.png")
    return folder


def test_photos_are_a_store_with_captions_and_the_maps_that_lie_beside_them(folder_of_photos, tmp_path):
    store = photos.prepare(tmp_path / "store", folder_of_photos, 32, workers=1)
    assert len(store) == 3 and store.captions == [["a red cat", "an animal", "a red cat"], [""] * 3, [""] * 3]
    x = images.load(folder_of_photos / "b.png", 32)
    assert_close((store.images(torch.tensor([1])) + 1) / 2, x[None], atol=.003, rtol=0)
    own = store.maps(torch.tensor([1, 2]))
    assert own["depth"].shape == (2, 1, 32, 32) and own["instances"].shape == (2, 3, 32, 32)
    assert own["depth"][0, 0, 0, 0] < .1 and own["depth"][0, 0, 0, -1] > .9
    assert_close(own["instances"][1, :, 5, 5], torch.tensor([1.0, 0, .2]), atol=.003, rtol=0)
    assert store.has["depth"].tolist() == [False, True, False] and store.has["instances"].tolist() == [False, False, True]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".webp"])
def test_maps_keep_their_values_and_colours_whatever_their_suffix(tmp_path, suffix):
    images.save(tmp_path / "a.jpg", torch.rand(3, 40, 40))
    ramp = np.tile(np.linspace(0, 1, 40), (40, 1))
    depth = (ramp * 65535).astype(np.uint16) if suffix.lower() == ".png" else (ramp * 255).astype(np.uint8)        # 16 bits where there may be
    Image.fromarray(depth).save(tmp_path / f"a.depth{suffix}")
    classes = torch.tensor([[1.0, 0, .2], [0, .4, 1.0]])[(torch.arange(40) % 7 > 2).long()]                        # stripes of two colours
    images.save(tmp_path / "a.instances.png", classes.T[:, None].expand(3, 40, 40))
    own = photos.maps_beside(tmp_path / "a.jpg", 16)
    assert_close(own["depth"][0], torch.linspace(0, 1, 33)[1::2].expand(16, -1), atol=.03, rtol=0)
    assert len(own["instances"].flatten(1).unique(dim=1).T) == 2
    assert photos.photos_in(tmp_path) == [tmp_path / "a.jpg"]


@pytest.mark.parametrize("sides, fits", [((300, 200), True), ((150, 100), True), ((640, 427), True), ((101, 67), True), ((640, 480), False), ((200, 300), False)])
def test_a_map_must_have_the_proportions_of_its_photo_but_for_a_rounded_pixel(tmp_path, sides, fits):
    images.save(tmp_path / "a.png", torch.rand(3, 200, 300))
    Image.new("L", sides, 128).save(tmp_path / "a.depth.png")
    if fits:
        assert photos.maps_beside(tmp_path / "a.png", 16)["depth"].shape == (1, 16, 16)
    else:
        with pytest.raises(ValueError, match=f"a.depth.png is {sides[0]}x{sides[1]} pixels and .*a.png 300x200; a map must have the proportions"):
            photos.maps_beside(tmp_path / "a.png", 16)


def test_photos_are_decoded_once_and_again_when_they_change(folder_of_photos, tmp_path, monkeypatch):
    store = photos.prepare(tmp_path / "store", folder_of_photos, 32, workers=1)
    store.save(store.folder / "stale.npy", np.zeros(1))
    with monkeypatch.context() as patch:
        patch.setattr(photos, "ProcessPoolExecutor", None)
        assert len(photos.prepare(tmp_path / "store", folder_of_photos, 32)) == 3
    (folder_of_photos / "c.png").unlink()
    assert len(photos.prepare(tmp_path / "store", folder_of_photos, 32, workers=1)) == 2 and not (store.folder / "stale.npy").exists()


# the model -------------------------------------------------------------------------------------------------------

def test_what_is_absent_adds_nothing_and_what_is_dropped_is_as_if_absent():
    net, c = composer(), conditions()
    z_t = torch.zeros(3, 8, 16, 16)
    local, kv = net.told({}, z_t)
    all_ = predict(net, c)
    assert (local == 0).all() and (kv.vector == 0).all()
    for name in paper.NAMES:
        left = {k: v for k, v in c.items() if paper.condition_of(k) != name}
        keep = {k: torch.ones(3) for k in paper.NAMES} | {name: torch.zeros(3)}
        less = predict(net, left)
        assert_close(predict(net, c, keep), less, atol=1e-5, rtol=1e-5)
        assert (all_ - less).abs().amax(dim=(1, 2, 3)).min() > 1e-4, name     # each has an effect


def test_dropping_is_per_picture():
    net, c = composer(), conditions()
    keep = {name: torch.tensor([1, 0, 1]) for name in paper.NAMES}
    some, all_, none = predict(net, c, keep), predict(net, c), predict(net, {})
    assert_close(some[[0, 2]], all_[[0, 2]], atol=1e-5, rtol=1e-5)
    assert_close(some[1], none[1], atol=1e-5, rtol=1e-5)


def test_context_is_words_then_eight_tokens():
    net, c = composer(), conditions()
    seen = []
    net.unet.text_kv = lambda context: seen.append(context) or type(net.unet).text_kv(net.unet, context)
    net.told(c, torch.zeros(3, 8, 16, 16))
    net.told(paper.only(c, "palette"), torch.zeros(3, 8, 16, 16))
    assert seen[0].shape == (3, 32 + 8, 8) and torch.equal(seen[0][:, :32], c["words"]) and (seen[0][:, 32:].abs().sum(dim=2) > 0).all()
    assert (seen[1][:, :36] == 0).all() and (seen[1][:, 36:].abs().sum(dim=2) > 0).all() and torch.equal(seen[0][:, 36:], seen[1][:, 36:])


def test_the_length_of_an_embedding_is_not_told():
    net, c = composer(), conditions()
    assert_close(predict(net, c), predict(net, c | {"embedding": 7 * c["embedding"], "sentence": .1 * c["sentence"]}), atol=1e-5, rtol=1e-4)


def test_what_stage_2_adds_begins_as_nothing_and_can_be_learned(base):
    torch.manual_seed(0)
    net, c = paper.Composer(TINY, 12, 32, LOCAL, 2), conditions()
    load_strict(net, net.state_dict() | paper.of_unet(base / "unet", 8), "the base")
    z = torch.randn(1, 8, 5, 5, generator=rng())
    assert_close(net.unet.conv_in(torch.cat([z, 0 * z], dim=1)), UNet.from_pretrained(base / "unet", dtype=torch.float32).conv_in(z))
    assert torch.equal(predict(net, c | {"words": 0 * c["words"]}), predict(net, {}))
    for part in (net.to_time["embedding"], net.to_tokens["embedding"]):
        random_weights(part)
    assert torch.equal(predict(net, c), predict(net, paper.only(c, "embedding", "caption")))
    assert (predict(net, c) - predict(net, {})).abs().max() > 1e-3
    loss = net(torch.ones(3, 8, 16, 16), torch.tensor(5), net.told(c, torch.ones(3, 8, 16, 16))).square().mean()
    loss.backward()                                                           # but all of it can be learned
    for part in (net.lora, net.unet.conv_in, net.to_time["sentence"], net.to_time["palette"], net.to_tokens["palette"], *net.stems.values()):
        assert max(float(p.grad.abs().max()) for p in part.parameters()) > 0


def test_the_drop_rule_has_the_published_rates():
    kept = paper.drawn_subset(40_000, rng())
    table = torch.stack([kept[name] for name in paper.NAMES], dim=1)
    free = .5 ** 7
    assert float((~table).all(dim=1).float().mean()) == pytest.approx(.1 + .8 * free * .7, abs=.006)
    assert float(table.all(dim=1).float().mean()) == pytest.approx(.1 + .8 * free * .3, abs=.006)
    for name, rate in zip(paper.NAMES, table.float().mean(dim=0)):
        assert float(rate) == pytest.approx(.1 + .8 * (.3 if name == "intensity" else .5), abs=.01)
    a, b = (kept[name][table.any(dim=1) & ~table.all(dim=1)].float() for name in ("depth", "palette"))
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < .03         # each by itself


def test_the_rules_of_the_ablation_leave_out_parts_of_the_published_one():
    each, never = (torch.stack([*paper.drawn_subset(40_000, rng(), rule=rule).values()], dim=1) for rule in ("each", "never"))
    assert never.all() and float((~each).all(dim=1).float().mean()) == pytest.approx(.5 ** 7 * .7, abs=.003)
    assert float(each.all(dim=1).float().mean()) == pytest.approx(.5 ** 7 * .3, abs=.003)
    like_others = paper.drawn_subset(40_000, rng(), rule="intensity")
    assert_close(like_others["intensity"].float().mean(), torch.tensor(.5), atol=.01, rtol=0)
    assert all(torch.equal(v, like_others[k]) for k, v in paper.drawn_subset(40_000, rng()).items() if k != "intensity")
    assert_close(each.float().mean(dim=0), torch.tensor([.3 if name == "intensity" else .5 for name in paper.NAMES]), atol=.01, rtol=0)


# training --------------------------------------------------------------------------------------------------------

def test_the_loss_is_the_slow_loop_and_min_snr_bounds_the_weight():
    eps, eps_hat = torch.randn(2, 3, 4, 2, 2, generator=rng())
    alpha_bar = Schedule(**paper.SCHEDULE).alpha_bar[[0, 500, 999]]
    snr = alpha_bar / (1 - alpha_bar)
    weight = paper.min_snr_weight(alpha_bar, 5.0)
    assert_close(weight, torch.stack([min(s, torch.tensor(5.0)) / s for s in snr]))
    assert torch.equal(paper.min_snr_weight(alpha_bar, 0), torch.ones(3))
    want = sum(float(w) * float((a - b).square().sum()) / 16 for w, a, b in zip(weight, eps_hat, eps)) / 3
    assert float(paper.diffusion_loss(eps_hat, eps, weight)) == pytest.approx(want, rel=1e-5)


def test_conditions_in_training_are_those_of_the_picture_itself(base):
    store, made = prepare(base / "store", N, 3), Decomposer(base, torch.device("cpu"))
    clip, reader = made.clip, made.reader
    read, index = of_store(store, made), torch.tensor([5, 0, 17])
    c, has = read(index, rng())
    x = (store.images(index) + 1) / 2
    assert has["caption"].all()
    for name, want in {"palette": color.palette(x), "sketch": decomposition.sketch(x), "embedding": embeddings_of_pictures(clip, store)[index],
                       "instances": maps.planes(reader.read(x))[0], "depth": maps.planes(reader.read(x))[1]}.items():
        assert_close(c[name], want, atol=4e-3, rtol=2e-3)
    known = c["masking"][:, 3:]
    assert_close(c["masking"], decomposition.masked(x, known))
    for i, row in enumerate(c["intensity"]):
        greys = decomposition.intensity(x[i:i + 1].expand(9, -1, -1, -1), torch.arange(9))
        assert (greys - row).abs().amax(dim=(1, 2, 3)).min() < 1e-5
        texts = store.captions[int(index[i])]
        off = (clip.encode_text(made.tokenizer(texts)) - c["sentence"][i]).abs().amax(dim=1)
        assert off.min() < 1e-5                                               # the same wording in both
        assert_close(c["words"][i], made.text_encoder(made.words_tokenizer([texts[int(off.argmin())]]))[0][0], atol=1e-5, rtol=1e-4)


def given_to(monkeypatch, name):
    calls, method = [], getattr(paper.Composer, name)
    monkeypatch.setattr(paper.Composer, name, lambda self, *given: calls.append(given) or method(self, *given))
    return calls


def test_training_tells_what_the_rule_keeps_about_the_noisy_latents_of_the_same_pictures(base, tmp_path, monkeypatch):
    told, calls, losses, loss = given_to(monkeypatch, "told"), given_to(monkeypatch, "forward"), [], paper.diffusion_loss
    monkeypatch.setattr(paper, "diffusion_loss", lambda *given: losses.append(given) or loss(*given))
    out = train(base, tmp_path / "out", "embedding", "--steps", "2")
    train(base, out, "all", "--steps", "2")
    store, schedule = prepare(base / "store", N, 3), Schedule(**paper.SCHEDULE)
    embeddings, latents = embeddings_of_pictures(CLIP.from_pretrained(base / "clip"), store), latents_of_pictures(VAE.from_pretrained(base / "vae"), store)
    assert [set(c) for c, _, _ in told[:2]] == [{"embedding"}] * 2 and [set(keep) for _, _, keep in told[2:]] == [set(paper.NAMES)] * 2
    for (c, z, _), (z_t, t, _), (_, eps, weight) in zip(told, calls, losses, strict=True):
        index = torch.cdist(c["embedding"], embeddings).argmin(dim=1)
        assert_close(z.contiguous(), latents(index))
        assert_close(schedule.add_noise(latents(index), eps, t), z_t.contiguous())
        assert_close(weight, paper.min_snr_weight(schedule.alpha_bar[t], 5.0))


def test_stage_1_moves_its_own_parts_and_stage_2_begins_where_it_ended(base, tmp_path, monkeypatch):
    trained, update = [], Run.update
    monkeypatch.setattr(Run, "update", lambda run, loss: trained.append(sum(p.numel() for p in run.parameters)) or update(run, loss))
    out = train(base, tmp_path / "out", "embedding", "--steps", "2")
    torch.manual_seed(3)
    net, first = paper.Composer(TINY, 12, 32, LOCAL), read_folder(out / "composer_1")
    new, own = net.state_dict(), net.of_stage_1()                             # the others get no weight decay either
    moved = {k for k in first if not torch.equal(new[k].half(), first[k])}
    assert trained == 2 * [sum(p.numel() for part in own for p in part.parameters())]
    assert moved and all(k.startswith(("lora.", "unet.conv_in.", "to_time.embedding.", "to_tokens.embedding.")) for k in moved)
    assert set(first) == net.own() and not any(k.startswith("unet.") and "conv_in" not in k for k in first)
    train(base, out, "all", "--steps", "1", "--lr", "1e-9")
    second = read_folder(out / "composer")
    assert all(torch.allclose(first[k].float(), second[k].float(), atol=1e-6) for k in first)


def test_a_killed_run_goes_on_to_exactly_the_same_weights(base, tmp_path, monkeypatch):
    whole, update = train(base, tmp_path / "whole", "all", "--steps", "3"), Run.update

    def killed(run, loss, **shown):
        if run.step == 1:
            raise KeyboardInterrupt
        update(run, loss, **shown)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", killed)
        with pytest.raises(SystemExit):
            train(base, tmp_path / "halves", "all", "--steps", "3")
    halves = train(base, tmp_path / "halves", "all", "--steps", "3")
    a, b = (read_folder(f / "composer") for f in (whole, halves))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def process(rank, base, out, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    train(base, out, "all", "--steps", "2", "--accumulate", "2")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_the_weights_of_one(base, tmp_path):
    """Four parts of a batch: two processes with two each, or one with all four."""
    train(base, tmp_path / "one", "all", "--steps", "2", "--accumulate", "4")
    torch.multiprocessing.spawn(process, (base, tmp_path / "two", 29500 + os.getpid() % 1000), nprocs=2)
    one, two = (torch.load(tmp_path / folder / "composer" / "checkpoint.pt", weights_only=True) for folder in ("one", "two"))
    assert one["step"] == two["step"] == 2
    a, b = one["modules"]["composer"], two["modules"]["composer"]
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    assert not all(torch.equal(a[k], v.float()) for k, v in read_folder(base / "composer_1").items())


def test_parts_of_a_batch_differ_and_do_not_depend_on_who_draws_them():
    seeds = lambda world, k: [g.initial_seed() for rank in range(world) for g in paper.shares(rng(1000 + rank), rank, k)]
    assert seeds(1, 4) == seeds(2, 2) == seeds(4, 1) == [1000, 1001, 1002, 1003]


def test_photos_train_a_composer_with_what_each_of_them_has(base, folder_of_photos, tmp_path, monkeypatch, capsys):
    told = given_to(monkeypatch, "told")
    out = train(base, tmp_path / "out", "embedding", "--steps", "1", "--images", str(folder_of_photos), "--size", "32")
    train(base, out, "all", "--steps", "6", "--images", str(folder_of_photos), "--size", "32")
    captions = 0
    for c, _, keep in told[1:]:
        has = {"depth": c["depth"].flatten(1).any(dim=1), "instances": c["instances"].flatten(1).any(dim=1)}
        assert c["instances"].shape[1] == 3
        for name, own in has.items():
            assert not (keep[name] & ~own).any()
        captions += int(keep["caption"].sum())
    m = paper.Model(out, torch.device("cpu"), steps=1)
    assert m.decomposer.reader is None and captions > 0
    a, b, c = (str(folder_of_photos / f"{name}.png") for name in "abc")        # b has depth, c instances
    how, rows = ["--model", str(out), "--out", str(tmp_path / "drawn"), "--device", "cpu"], {}
    for argv, name in ((["compose", "--depth", b], "depth"), (["use", "variation", b, "--names", "depth"], "depth"), (["use", "pose-transfer", a, c], "instances"),
                       (["use", "reconfiguration", a, c, "--names", "instances"], "instances"), (["use", "style-transfer", c, a, "--names", "instances"], "instances")):
        told.clear()
        paper.main([*argv, *how, "--sampling", "1"])
        own = photos.maps_beside(b if name == "depth" else c, 32)[name]
        assert any(torch.equal(given[name][0], own) for given, *_ in told if name in given)
    for argv in (["compose", "--depth", a], ["use", "variation", a, "--names", "depth"], ["use", "pose-transfer", c, a], ["use", "style-transfer", b, a],
                 ["use", "reconfiguration", a, b, "--names", "instances"]):
        with pytest.raises(SystemExit):
            paper.main([*argv, *how, "--sampling", "1"])
        assert ".png, as this model was trained on photos" in capsys.readouterr().err
    monkeypatch.setattr(images, "save_figure", lambda path, table, row_labels: rows.update(zip(row_labels, table)))
    paper.main(["decompose", "--images", b, *how])
    assert rows["picture"].shape == (1, 3, 32, 32) and "instances" not in rows   # at the size of the model
    assert_close(rows["depth"][0, :1], photos.maps_beside(b, 32)["depth"])
    paper.main(["decompose", "--images", c, *how])
    assert_close(rows["instances"][0], photos.maps_beside(c, 32)["instances"])


# guidance, sampling and uses -------------------------------------------------------------------------------------

def test_guidance_between_two_sets_is_the_first_at_0_the_second_at_1_and_goes_beyond(m, pictures):
    c = m.decompose(pictures[:2], captions=["a red cat", "a person"])
    c_1, c_2 = paper.only(c, "depth", "palette"), paper.only(c, "depth", "caption")
    z = torch.randn(2, 8, 16, 16, generator=rng())
    at = lambda w: m.predictor(c_2, c_1, w, z)(z, 500)
    with torch.no_grad():
        first, second = (m.composer(z, 500, m.composer.told(told, z)) for told in (c_1, c_2))
    assert_close(at(0.0), first)
    assert_close(at(1.0), second)
    assert_close(at(3.0), 3 * second - 2 * first, atol=1e-4, rtol=1e-4)
    assert (first - second).abs().max() > 1e-3
    same = m.predictor(c_2, c_2, 7.0, z)(z, 500)
    assert_close(same, second, atol=1e-4, rtol=1e-4)                          # what both have counts once


def test_an_identity_edit_brings_the_picture_back_and_a_change_does_not(m, pictures):
    m.steps, x = 10, pictures[:1]
    plain, change = m.decode(m.encode(x)), paper.only(m.decompose(pictures[2:3]), "palette")
    same, other = (paper.reconfiguration(m, x, changes, w=3.0) for changes in ({}, change))
    assert (same - plain).abs().mean() < .02 and (other - same).abs().mean() > 3 * (same - plain).abs().mean()


def test_a_region_edit_keeps_what_is_known(m, pictures):
    known = with_hole(pictures[:2])
    out = paper.region_edit(m, pictures[:2], known, m.decomposer.caption(["a red cat"] * 2), n=2)
    x, k = pictures[:2].repeat_interleave(2, dim=0), known.repeat_interleave(2, dim=0)
    assert out.shape == (4, 3, 64, 64) and torch.equal(out * k, x * k)
    assert ((out - x).abs() * (1 - k)).sum() > 1 and not torch.equal(out[0], out[1])


def test_interpolation_runs_along_the_sphere():
    a, b = torch.tensor([[2.0, 0]]), torch.tensor([[0, 5.0]])
    assert_close(paper.slerp(a, b, torch.tensor([[0.0], [.5], [1.0]])), torch.tensor([[1.0, 0], [.5 ** .5, .5 ** .5], [0, 1.0]]), atol=1e-6, rtol=0)
    assert_close(paper.slerp(a, a, torch.tensor([[.3]])), torch.tensor([[1.0, 0]]), atol=1e-3, rtol=0)


def test_steps_add_fresh_noise_of_each_picture_s_seed_unless_latents_are_given(m, monkeypatch):
    etas, sample = [], paper.sample
    monkeypatch.setattr(paper, "sample", lambda *given, **how: etas.append(how["eta"]) or sample(*given, **how))
    two = m.draw({}, n=2, seed=5)
    assert_close(m.draw({}, seed=[6]), two[1:], atol=2e-3, rtol=0)
    m.draw({}, z_T=m.noise(1, 5))
    assert etas == [1.0, 1.0, 0.0]


def test_interpolation_begins_and_ends_with_the_two_pictures(m, pictures):
    a, b = pictures[:1], pictures[1:2]
    ends = paper.interpolation(m, a, b, [0.0, 1.0], same=("sketch",), seed=4)
    told = paper.only(m.decompose(a), "embedding", "palette", "sketch")
    assert_close(ends[:1], m.draw(told, seed=4), atol=2e-3, rtol=0)
    told |= paper.only(m.decompose(b), "embedding", "palette")
    assert_close(ends[1:], m.draw(told, seed=4), atol=2e-3, rtol=0)
    told |= paper.only(m.decompose(a), "palette")                            # which may stay too
    assert_close(paper.interpolation(m, a, b, [1.0], same=("sketch", "palette"), seed=4), m.draw(told, seed=4), atol=2e-3, rtol=0)


@pytest.mark.parametrize("use, own, other", [
    (lambda m, x, y: paper.variations(m, x, ("palette", "depth")), {"palette", "depth"}, set()),
    (lambda m, x, y: paper.colorization(m, x, y), {"intensity"}, {"palette"}),
    (lambda m, x, y: paper.style_transfer(m, x, y), {"sketch", "depth", "instances"}, {"embedding", "palette"}),
    (lambda m, x, y: paper.style_transfer(m, x, y, ("sketch", "palette")), {"sketch", "palette"}, {"embedding"}),
    (lambda m, x, y: paper.translation(m, x, "a sketch"), {"embedding", "sketch", "depth"}, {"sentence", "words"}),
    (lambda m, x, y: paper.pose_transfer(m, x, y), {"embedding", "palette"}, {"instances"}),
    (lambda m, x, y: paper.try_on(m, x, with_hole(x), y), {"masking"}, {"embedding", "palette"})])
def test_each_use_tells_its_conditions_each_from_its_picture(m, pictures, use, own, other, monkeypatch):
    told, predictor = [], paper.Model.predictor
    monkeypatch.setattr(paper.Model, "predictor", lambda self, c_2, *more: told.append(c_2) or predictor(self, c_2, *more))
    x, y = pictures[:1], pictures[1:2]
    assert use(m, x, y)[0].shape == (3, 64, 64)
    c_x, c_y = m.decompose(x), m.decompose(y, captions=["a sketch"])
    assert set(told[-1]) == own | other
    assert all(torch.equal(told[-1][k][:1], c_x[k]) for k in own) and all(torch.equal(told[-1][k][:1], c_y[k]) for k in other)


@pytest.fixture
def whole(model, tmp_path):
    """The model with a prior and an upsampler, small ones with random weights."""
    for part in ("composer", "vae", "unet", "text_encoder", "tokenizer", "maps"):
        (tmp_path / part).symlink_to((model / part).resolve())
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_pretrained(model / "clip")
    text = dict(TEXT, hidden_size=12, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)      # as wide as embeddings
    clip = CLIP(dict(projection_dim=12, text_config=text, vision_config=VISION)).init_weights()
    save_folder(clip, clip.config, tmp_path / "clip", "model.safetensors", torch.float32)
    tokenizer.save(tmp_path / "clip")
    prior = random_weights(Prior(num_attention_heads=2, attention_head_dim=4, num_layers=1, embedding_dim=12, num_embeddings=32))
    save_folder(prior, prior.config, tmp_path / "prior", dtype=torch.float32)
    Schedule.from_config(dict(_class_name="UnCLIPScheduler", prediction_type="sample", clip_sample_range=5.0)).save_pretrained(tmp_path / "prior")
    unet = zero_residuals(UNet(**TINY | dict(in_channels=25, out_channels=12, cross_attention_dim=None, down_block_types=["DownBlock2D"] * 2,
                                             up_block_types=["UpBlock2D"] * 2)))
    save_folder(unet, unet.config | dict(low=64, high=128, std=.1, noise=.2), tmp_path / "upsampler_128", dtype=torch.float32)
    Schedule(prediction_type="sample").save_pretrained(tmp_path / "upsampler_128")
    return tmp_path


def test_the_prior_draws_an_embedding_for_each_picture_which_is_told_beside_the_caption(whole, monkeypatch):
    m, told, predictor = paper.Model(whole, torch.device("cpu"), steps=1), [], paper.Model.predictor
    monkeypatch.setattr(paper.Model, "predictor", lambda self, c_2, *more: told.append(c_2) or predictor(self, c_2, *more))
    captions = ["a red cat", "a dog"]
    plain, imagined = (paper.text_to_image(m, captions, n=2, seed=3, prior=prior) for prior in (False, True))
    assert plain.shape == imagined.shape == (4, 3, 64, 64) and not torch.equal(plain, imagined)
    assert set(told[0]) == {"sentence", "words"} and set(told[1]) == {"sentence", "words", "embedding"}
    e = told[1]["embedding"]
    assert e.shape == (4, 12) and (e[0] - e[1]).abs().max() > 1e-5 < (e[2] - e[3]).abs().max()              # another one each
    assert_close(e[2:3], m.imagine(["a dog"], 3)["embedding"], atol=2e-6, rtol=0)
    assert_close(paper.text_to_image(m, ["a dog"], n=1, seed=4), plain[3:], atol=1e-4, rtol=0)


def test_the_steps_and_the_guidance_of_the_prior_are_options(whole, tmp_path, monkeypatch):
    asked, sample_embedding = [], paper.sample_embedding
    monkeypatch.setattr(paper, "sample_embedding", lambda *given: asked.append(given[4:6]) or sample_embedding(*given))
    how = ["--prior", "--n", "1", "--model", str(whole), "--sampling", "1", "--device", "cpu", "--out", str(tmp_path / "drawn")]
    for verb in (["sample", "--caption", "a dog"], ["compose", "--caption", "a dog"]):
        paper.main([*verb, *how])
        paper.main([*verb, *how, "--prior-steps", "2", "--prior-guidance", "3"])
    assert asked == [(25, 2.0), (2, 3.0)] * 2


def test_pictures_are_made_larger_by_the_upsampler_beside_the_composer(whole, tmp_path):
    how = ["sample", "--caption", "a red cat", "--n", "2", "--model", str(whole), "--sampling", "1", "--device", "cpu"]
    for out, more in (("small", []), ("large", ["--size", "128"]), ("told", ["--prior"])):
        paper.main([*how, "--out", str(tmp_path / out), *more])
    small, large, told = (read_tensors(tmp_path / out / "samples.safetensors")["images"].float() / 255 for out in ("small", "large", "told"))
    assert large.shape == (2, 3, 128, 128) and (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean() < .05
    assert not torch.equal(told, small)
    with pytest.raises(SystemExit):
        paper.main([*how, "--size", "256", "--out", str(tmp_path / "none")])


@pytest.mark.parametrize("name, more, n", [
    ("variation", ["--names", "palette", "depth"], 2), ("interpolation", [], 2), ("reconfiguration", ["--names", "depth"], 1), ("colorization", [], 2),
    ("region-edit", ["--caption", "a red cat", "--hole", "0", "0", "1", ".5"], 2), ("style-transfer", [], 2), ("translation", ["--caption", "a sketch"], 1),
    ("pose-transfer", [], 1), ("try-on", [], 2)])
def test_each_use_can_be_had_from_the_command_line(model, pictures, tmp_path, name, more, n):
    for i in range(paper.USES[name][0]):
        images.save(tmp_path / f"{i}.png", pictures[i])
    given = [str(tmp_path / f"{i}.png") for i in range(paper.USES[name][0])]
    more += ["--n", "2"] * (n == 2)                                           # the others draw one
    paper.main(["use", name, *given, *more, "--model", str(model), "--sampling", "1", "--device", "cpu", "--out", str(tmp_path)])
    drawn = read_tensors(tmp_path / "samples.safetensors")["images"]
    assert drawn.shape == (n, 3, 64, 64) and (tmp_path / "samples.png").is_file()
    if name == "region-edit":
        assert_close(drawn[0, :, :, 32:].float() / 255, pictures[0][:, :, 32:], atol=.005, rtol=0)


@pytest.mark.parametrize("argv", [["use", "region-edit", "{0}", "--caption", "a red cat"], ["use", "try-on", "{0}", "{1}"], ["compose", "--masking", "{0}"]])
def test_a_hole_may_be_given_as_a_picture(model, pictures, tmp_path, argv):
    for i in range(2):
        images.save(tmp_path / f"{i}.png", pictures[i])
    images.save(tmp_path / "mask.png", 1 - with_hole(pictures[:1], 0, .25, .5, 1)[0].expand(3, -1, -1))
    argv = [word.format(tmp_path / "0.png", tmp_path / "1.png") for word in argv]
    drawn = []
    for hole in (["--hole", "0", ".25", ".5", "1"], ["--mask", str(tmp_path / "mask.png")], []):
        paper.main([*argv, *hole, "--n", "1", "--model", str(model), "--sampling", "1", "--device", "cpu", "--out", str(tmp_path)])
        drawn.append(read_tensors(tmp_path / "samples.safetensors")["images"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_what_is_suppressed_is_in_c_1_alone_and_what_is_in_both_in_both(model, pictures, tmp_path, monkeypatch):
    sets, predictor = [], paper.Model.predictor
    monkeypatch.setattr(paper.Model, "predictor", lambda self, c_2, c_1, *more: sets.append((set(c_2), set(c_1))) or predictor(self, c_2, c_1, *more))
    images.save(tmp_path / "0.png", pictures[0])
    told = [word for name in ("depth", "palette", "embedding") for word in (f"--{name}", str(tmp_path / "0.png"))]
    paper.main(["compose", *told, "--both", "depth", "--suppress", "palette", "--n", "2", "--model", str(model), "--sampling", "1", "--device", "cpu", "--out", str(tmp_path)])
    assert sets == [({"depth", "embedding"}, {"depth", "palette"})]


def test_agreement_is_perfect_with_the_picture_itself(m, pictures):
    c = m.decompose(pictures)
    same, other = (agreement(c, m.decompose(x)) for x in (pictures, pictures.roll(1, 0)))
    assert same["embedding cosine"] == pytest.approx(1) and same["sketch F1"] == pytest.approx(1)
    assert same["palette distance"] == same["depth error"] == same["intensity error"] == 0 < other["intensity error"] and same["instances mIoU"] == pytest.approx(1)
    assert other["sketch F1"] < .9 and other["palette distance"] > .05


def test_parts_of_different_models_are_refused(base, model, tmp_path):
    for part in ("composer", "clip", "vae", "unet", "text_encoder", "maps"):
        (tmp_path / part).symlink_to((model / part).resolve())
    shutil.copytree(base / "tokenizer", tmp_path / "tokenizer")
    tokenizer = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 16}))
    with pytest.raises(ValueError, match="not of one model"):
        paper.Model(tmp_path, torch.device("cpu"))


# the script ------------------------------------------------------------------------------------------------------

def test_every_verb_writes_what_it_says(model, pictures, tmp_path, capsys):
    how = ["--model", str(model), "--device", "cpu"]
    for i in range(3):
        images.save(tmp_path / f"{i}.png", pictures[i])
    paper.main([*how, "--sampling", "1", "--out", str(tmp_path / "demo")])
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert (tmp_path / "demo" / "figure.png").is_file() and {"sketch F1, told", "palette distance, not told", "seconds", "device", "steps"} <= set(metrics)
    paper.main(["decompose", *how, "--images", str(tmp_path / "0.png"), "--out", str(tmp_path / "apart")])
    paper.main(["sample", "--caption", "a red cat", "a dog", "--n", "2", *how, "--sampling", "1", "--out", str(tmp_path / "sample")])
    assert (tmp_path / "apart" / "decomposition.png").is_file()
    assert read_tensors(tmp_path / "sample" / "samples.safetensors")["images"].shape == (4, 3, 64, 64)
    paper.main(["compose", *how, "--depth", str(tmp_path / "0.png"), "--palette", str(tmp_path / "1.png"), "--masking", str(tmp_path / "2.png"),
                "--hole", "0", "0", "1", ".5", "--caption", "a red cat", "--both", "depth", "--n", "2", "--sampling", "1", "--out", str(tmp_path / "made")])
    assert read_tensors(tmp_path / "made" / "samples.safetensors")["images"].shape == (2, 3, 64, 64)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("argv, says", [
    (["--model", "/nowhere"], "no folder /nowhere"), (["--model", "{base}"], "has no composer yet"), (["train", "both"], "invalid choice"),
    (["train", "all", "--batch", "0"], "--batch is 0"), (["train", "all", "--ema", "2"], "--ema is 2"), (["--device", "abacus"], "abacus"),
    (["train", "all", "--init", "{base}", "--out", "{model}", "--pictures", str(N), "--seed", "3"], "run `train embedding` first"), (["sample"], "--caption"),
    (["train", "embedding", "--out", "{base}", "--images", "/nowhere"], "no folder /nowhere"), (["compose", "--model", "{model}"], "nothing to compose from"),
    (["compose", "--model", "{model}", "--depth", "/nowhere.png"], "no picture at /nowhere.png"),
    (["compose", "--model", "{model}", "--masking", "{base}/x.png", "--hole", "0", "1", "1", "0"], "the hole is 0.0 1.0 1.0 0.0"),
    (["compose", "--model", "{model}", "--caption", "a", "--both", "depth"], "--both depth: there is no such condition"),
    (["compose", "--model", "{model}", "--caption", "a", "--suppress", "depth"], "--suppress depth: there is no such condition"),
    (["compose", "--model", "{model}", "--caption", "a", "--suppress", "caption"], "nothing to compose from"),
    (["compose", "--model", "{model}", "--caption", "a", "--hole", "0", "0", "1", ".5"], "say what --masking leaves out"),
    (["compose", "--model", "{model}", "--masking", "{base}/x.png", "--mask", "{base}/x.png", "--hole", "0", "0", "1", "1"], "not allowed with"),
    (["use", "try-on", "{base}/x.png", "{base}/x.png", "--model", "{model}", "--mask", "{base}/small.png"], "a mask must have the size of its picture"),
    (["sample", "--model", "{model}", "--caption", "a", "--prior", "--prior-steps", "0"], "--prior-steps is 0"),
    (["use", "variation", "{base}/x.png", "--names", "caption"], "invalid choice: 'caption'"), (["use", "variation", "{base}/x.png", "--caption", "a"], "--caption means nothing"),
    (["use", "interpolation", "{base}/x.png", "{base}/x.png", "--names", "palette", "embedding"], "leaves nothing of the second picture"),
    (["use", "style-transfer", "{base}/x.png", "{base}/x.png", "--names", "palette", "embedding"], "leaves nothing of the second picture"),
    (["use", "reconfiguration", "{base}/x.png", "{base}/x.png", "--n", "2"], "--n means nothing for reconfiguration; expected --names"),
    (["use", "translation", "{base}/x.png", "--caption", "a", "--n", "2"], "--n means nothing for translation; expected --caption"),
    (["use", "pose-transfer", "{base}/x.png", "{base}/x.png", "--n", "2"], "--n means nothing for pose-transfer; expected none of its kind"),
    (["use", "colorization", "{base}/x.png", "{base}/x.png", "--hole", "0", "0", "1", "1"], "--hole means nothing for colorization; expected --n"),
    (["compose", "--model", "{model}", "--depth", "{base}/x.png", "--prior"], "--prior draws the embedding of the --caption"),
    (["sample", "--model", "{model}", "--caption", "a", "--prior"], "has no prior"), (["sample", "--model", "{model}", "--caption", "a", "--size", "128"],
                                                                                 "no upsampler to 128 pixels"),
    (["use", "translation", "{base}/x.png", "--model", "{model}"], "translation needs a --caption"), (["use", "flying", "a.png"], "invalid choice"),
    (["use", "try-on", "{base}/x.png", "--model", "{model}"], "try-on takes 2 pictures, got 1"),
    (["eval", "--model", "{model}", "--table", "drop"], "say how long")])
def test_bad_input_is_one_sentence_and_status_2(base, model, tmp_path, argv, says, capsys):
    images.save(base / "x.png", torch.rand(3, 64, 64))
    images.save(base / "small.png", torch.rand(3, 32, 32))
    argv = [a.format(base=base, model=model) for a in argv]
    with pytest.raises(SystemExit) as stop:
        paper.main([*argv, *([] if "--out" in argv else ["--out", str(tmp_path)])])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and "Traceback" not in error


# tables ----------------------------------------------------------------------------------------------------------

def test_every_table_runs_and_says_what_it_measured(model, tmp_path, monkeypatch):
    from tables import composer as tables
    monkeypatch.setattr(tables, "TABLES", {k: v for k, v in tables.TABLES.items() if k not in ("text", "drop")})     # no whole model here
    how = ["--model", str(model), "--device", "cpu", "--sampling", "1", "--pictures", "3", "--out", str(tmp_path)]
    paper.main(["eval", *how, "--repeats", "1"])
    made = json.loads((tmp_path / "table.json").read_text())
    assert set(made) == set(tables.TABLES) and (tmp_path / "table.md").read_text().count("##") == 6
    assert [row[""] for row in made["reconstruction"]["rows"]] == ["nothing", "caption", "+ embedding", "+ palette", "+ depth", "+ sketch", "all"]
    around = made["region"]["rows"][0]
    assert float(around["PSNR around, put together"]) == 100 > float(around["PSNR around, as drawn"])
    assert {row[""] for row in made["swap"]["rows"]} == {"embedding cosine", "palette distance", "sketch F1", "instances mIoU", "depth error"}
    with pytest.raises(SystemExit):
        paper.main(["eval", *how, "--table", "moon"])


def test_every_drop_rule_trains_for_the_same_steps_and_once(base, model, tmp_path, monkeypatch):
    from tables import composer as tables
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "store").symlink_to(base / "store")
    rules, drawn_subset = [], paper.drawn_subset
    monkeypatch.setattr(paper, "drawn_subset", lambda *given: rules.append(given[-1]) or drawn_subset(*given))
    monkeypatch.setattr(paper, "RULES", {k: paper.RULES[k] for k in ("paper", "never")})                # for time's sake
    how = ["eval", "--table", "drop", "--steps", "2", "--w", "1", "--model", str(model), "--device", "cpu", "--sampling", "1", "--pictures", "3", "--repeats", "1",
           "--drawn", str(N), "--batch", "4", "--seed", "3", "--out", str(tmp_path)]
    paper.main(how)
    assert rules == ["paper"] * 2 + ["never"] * 2
    rows = json.loads((tmp_path / "table.json").read_text())["drop"]["rows"]
    assert {row[""] for row in rows} == {f"{rule}, {what}" for rule in paper.RULES for what in ("alone, w 1", "all together, w 1", "nothing")}
    assert {"sketch F1", "depth error", "Frechet distance"} <= set(rows[-1])
    monkeypatch.setattr(tables.Bench, "over_seeds", lambda self, of_seed: {"": {}})
    paper.main(how)
    assert len(rules) == 4                                                    # nothing is trained twice
    weights = [read_folder(tmp_path / "drop" / f"composer_{rule}") for rule in paper.RULES]
    assert any(not torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_the_tables_have_pictures_that_the_demonstration_has_not(model):
    from tables import composer as tables
    args = paper.arguments(["eval", "--model", str(model), "--repeats", "5", "--sampling", "1"])
    args.device = torch.device("cpu")
    assert paper.arguments([]).seed + 100 not in tables.Bench(args).seeds


def test_what_the_tables_read_off_renders_is_right_of_them_and_wrong_of_others():
    from tables import composer as tables
    batch = toybox.sample(12, 3, "object")
    new, before, after = tables.recolored(batch.scenes, 1)
    right, wrong = (tables.read_right(batch.images, scenes) for scenes in (batch.scenes, new))
    assert right["member"].float().mean() > .8 and right["background"].float().mean() > .8 and torch.equal(right["member"], wrong["member"])
    assert right["colour"].float().mean() > .8 and wrong["colour"].float().mean() < .2 and all(a != b for a, b in zip(before, after))
    known = tables.around(batch.instances > 0)
    assert ((1 - known[:, 0])[batch.instances > 0] == 1).all() and .1 < known.mean() < .9


def test_the_shipped_composer_draws_what_a_sketch_shows():
    m = paper.Model("toybox", torch.device("cpu"), steps=8)
    x = toybox.sample(6, 5, "object").images
    sketch = paper.only(m.decompose(x), "sketch")
    told, not_told = (agreement(sketch, m.decompose(pictures)) for pictures in (m.draw(sketch, seed=1), m.draw({}, n=6, seed=1)))
    assert told["sketch F1"] > 1.5 * not_told["sketch F1"]
