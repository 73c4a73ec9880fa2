"""Properties of toybox: the pictures, and the truth that comes with them."""
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from minidiff import toybox
from minidiff.toybox import furniture, instruments, pets, plants, things, world
from minidiff.toybox.canvas import PART_ID, PARTS, Canvas, Paint
from minidiff.toybox.captions import caption, full_caption, ground_words
from minidiff.toybox.hands import draw_hand
from minidiff.toybox.individuals import HELD_OUT
from minidiff.toybox.people import Portrait, draw_portrait
from minidiff.toybox.render import draw_object, render
from minidiff.toybox.scenes import (CATEGORIES, COLORS, DRAW, KINDS, MEMBERS, NEW, PATTERNS, PLAIN_GROUNDS, STYLES, UNSEEN, Thing,
                                    random_portrait, random_scene)
from minidiff.toybox.store import kind_shares, prepare
from minidiff.toybox.things import ORNAMENTS, draw_ornament
from minidiff.toybox.world import CLASSES, NUMBERS

PLANS = {"pet": (pets.PET_PLAN, pets), "fruit": (plants.FRUIT_PLAN, plants), "plant": (plants.PLANT_PLAN, plants),
         "piece of furniture": (furniture.FURNITURE_PLAN, furniture),
         "instrument": (instruments.INSTRUMENT_PLAN, instruments), "thing": (things.THING_PLAN, things)}
HAS = {  # the attributes that every picture of a kind has, besides kind, style and distorted
    "portrait": "background hair skin glasses beard age smile eye_size brow_slant hair_length".split(),
    "object": "background member color pattern size".split(),
    "pair": "background member color member2 color2".split(),
    "landscape": "place weather".split(),
    "hand": "background fingers".split()}

COLORFUL = "hair skin color color2".split()         # and a plain background: a sketch, which is grey, does not show them


@pytest.fixture(scope="module")
def batch():
    """Twelve pictures of every kind."""
    scenes = [world.scene(3, i, kind) for kind in KINDS for i in range(12)]
    return world.draw([s for s, _ in scenes], [c for _, c in scenes])


@pytest.fixture(scope="module")
def described():
    """[(caption, attributes, scene)] of 400 scenes of any kind and of 100 of every kind, not drawn.

    Attributes are names, or None where absent; those of a sketch include the colours that its scene has.
    """
    pairs = [world.scene(4, i) for i in range(400)] + [world.scene(5, i, kind) for kind in KINDS for i in range(100)]
    codes = toybox.attributes_of([replace(s, style="photo") for s, _ in pairs])
    name = lambda k, i: CLASSES[k][codes[k][i]] if codes[k][i] >= 0 else None
    truth = [{k: name(k, i) for k in CLASSES} | {k: float(codes[k][i]) for k in NUMBERS} for i in range(len(pairs))]
    return [(text, row | {"style": s.style}, s) for (s, text), row in zip(pairs, truth)]


def grown(mask, pixels=2):
    """A mask (H, W) and everything at most `pixels` away from it."""
    return torch.nn.functional.max_pool2d(torch.as_tensor(mask)[None].float(), 2 * pixels + 1, 1, pixels)[0].numpy() > 0


def parts_of(canvas, *names):
    return np.isin(canvas.part, [PART_ID[n] for n in names])


# ------------------------------------------------------------------------------------------------ batches

@pytest.mark.parametrize("kind", [None, "pair"])
def test_a_picture_does_not_depend_on_how_many_are_drawn(kind):
    few, many = toybox.sample(2, seed=1, kind=kind), toybox.sample(5, seed=1, kind=kind)
    for name in ("images", "instances", "parts", "depth"):
        assert_close(getattr(few, name), getattr(many, name)[:2], atol=0, rtol=0)
    assert few.captions == many.captions[:2] and few.scenes == many.scenes[:2]
    assert_close(few.attributes, {k: v[:2] for k, v in many.attributes.items()}, atol=0, rtol=0, equal_nan=True)
    assert toybox.scene(1, 1, kind) == (many.scenes[1], many.captions[1])
    assert not torch.equal(many.images[0], many.images[1])
    assert not torch.equal(few.images, toybox.sample(2, seed=2, kind=kind).images)


@pytest.mark.parametrize("size", [64, 128])
def test_shapes_types_and_ranges_are_as_documented(size):
    b = toybox.sample(3, seed=0, size=size)
    assert b.images.shape == (3, 3, size, size) and b.images.dtype == torch.float32
    assert b.instances.shape == b.parts.shape == (3, size, size) and b.instances.dtype == b.parts.dtype == torch.uint8
    assert b.depth.shape == (3, 1, size, size) and b.depth.dtype == torch.float32
    assert len(b.captions) == len(b.scenes) == 3 and all(isinstance(c, str) and c for c in b.captions)
    assert b.attributes.keys() == {*CLASSES, *NUMBERS}
    assert all(v.shape == (3,) and v.dtype == (torch.int64 if k in CLASSES else torch.float32) for k, v in b.attributes.items())


def test_pictures_lie_in_0_1_and_use_it(batch):
    assert batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.images.std(dim=(1, 2, 3)).min() > 0.02             # nothing is blank


def test_a_scene_is_the_same_picture_at_every_size():
    shrunk = lambda x, k: x.reshape(64, k, 64, k, -1).mean((1, 3))
    for kind, i in product(KINDS, range(3)):
        scene = replace(world.scene(6, i, kind)[0], style=STYLES[i])        # a photo, a watercolor and a sketch
        small, limit = render(scene, 64), .03 if scene.distortion or i else .008     # pictures of other scenes: .08 and more
        for k in (2, 4):
            large = render(scene, 64 * k)
            assert abs(shrunk(large.rgb, k) - small.rgb).mean() < limit, (kind, i, k)
            assert (large.instance[k // 2::k, k // 2::k] == small.instance).mean() > 0.95


def test_drawing_a_scene_again_gives_the_same_pixels(batch):
    for i in range(0, len(batch.scenes), 7):
        again = render(batch.scenes[i])
        assert np.array_equal(again.rgb, batch.images[i].permute(1, 2, 0)) and np.array_equal(again.part, batch.parts[i])


# ------------------------------------------------------------------------------------------------ masks and depth

def test_instances_parts_and_depth_agree(batch):
    background, depth = batch.parts == PART_ID["background"], batch.depth[:, 0]
    assert background[batch.instances == 0].all()
    assert batch.parts.min() > PART_ID["none"] and batch.parts.max() < len(PARTS)
    assert depth.min() >= 0 and depth.max() <= 1
    for i, scene in enumerate(batch.scenes):
        there = batch.instances[i] > 0
        assert set(batch.instances[i].unique().tolist()) == set(range(3 if scene.kind == "pair" else 2))
        if scene.kind != "landscape":                               # there, mountains are instance 1 of the background
            assert not background[i][there].any()
            assert depth[i][there].max() <= depth[i][~there].min()  # an object is in front of what surrounds it


def test_two_objects_side_by_side_are_numbered_from_the_left():
    for i in range(20):
        scene, _ = world.scene(9, i, "pair")
        left, right = (np.nonzero(render(scene, 32).instance == k)[1].mean() for k in (1, 2))
        assert left < right or scene.things[0].x == scene.things[1].x       # a plant in a pot


def test_the_part_mask_shows_what_the_attributes_say(batch):
    seen = lambda i, part: bool((batch.parts[i] == PART_ID[part]).sum() >= 3)
    for i, scene in enumerate(batch.scenes):
        if scene.kind == "portrait":
            assert seen(i, "glasses") == scene.portrait.glasses and seen(i, "beard") == scene.portrait.beard
            assert seen(i, "skin") and seen(i, "eyes") and seen(i, "hair") and seen(i, "mouth")
        assert seen(i, "fingers") == (scene.kind == "hand")


# ------------------------------------------------------------------------------------------------ attributes

def test_attributes_have_a_valid_code_where_there_is_one_and_none_elsewhere(batch):
    for i, scene in enumerate(batch.scenes):
        for k, v in batch.attributes.items():
            present = k in ("kind", "style", "distorted") or k in HAS[scene.kind]
            if scene.style == "sketch" and (k in COLORFUL or k == "background" and scene.background in PLAIN_GROUNDS):
                present = False
            if k in CLASSES:
                assert (0 <= v[i] < len(CLASSES[k])) if present else v[i] == -1, (scene.kind, k)
            else:
                assert v[i].isfinite() == present, (scene.kind, k)


def test_attributes_are_those_of_the_scene(described):
    for _, row, s in described:
        assert row["kind"] == s.kind and row["distorted"] == ("yes" if s.distortion else "no")
        assert row["background"] == (s.background if s.kind != "landscape" else None)
        if s.portrait:
            assert (row["hair"], row["skin"]) == (s.portrait.hair, s.portrait.skin)
            assert (row["glasses"], row["beard"]) == tuple("yes" if b else "no" for b in (s.portrait.glasses, s.portrait.beard))
            assert_close(*([get(k) for k in ("age", "smile", "eye_size", "brow_slant", "hair_length")]
                           for get in (row.get, lambda k: getattr(s.portrait, k))))
        assert [row["member"], row["member2"]][:len(s.things)] == [t.member for t in s.things]
        assert [row["color"], row["color2"]][:len(s.things)] == [t.color for t in s.things]
        assert row["fingers"] == (str(s.fingers) if s.kind == "hand" else None)
        assert (row["place"], row["weather"]) == (s.place, s.weather)


def test_the_style_of_a_scene_is_an_attribute_too(batch):
    assert [STYLES[i] for i in batch.attributes["style"]] == [s.style for s in batch.scenes]


def test_the_order_of_the_classes_is_the_one_that_the_shipped_meter_has_learnt():
    assert " ".join(MEMBERS) == ("cat dog rabbit parrot fish turtle apple banana pear grapes strawberry pineapple tulip sunflower "
                                 "cactus palm tree mushroom chair table bed lamp sofa cabinet guitar piano drum trumpet harp "
                                 "xylophone house mug vase pot moon")
    assert " ".join(COLORS) == "red yellow green blue purple brown white black" and tuple(KINDS) == CLASSES["kind"]


def test_the_kinds_of_pictures_can_have_other_shares():
    rng = np.random.default_rng(0)
    kinds = [random_scene(rng, {"hand": 3, "pair": 1}).kind for _ in range(400)]
    assert set(kinds) == {"hand", "pair"} and 270 < kinds.count("hand") < 330
    with pytest.raises(ValueError, match="nobody"):
        random_scene(rng, {"nobody": 1.0})


def test_new_things_are_drawn_on_request_only_and_named_by_their_category():
    assert NEW not in KINDS and all(t.member in MEMBERS for i in range(300) for t in world.scene(9, i)[0].things)
    b = toybox.sample(60, 9, NEW, size=16)
    things = [s.things[0] for s in b.scenes]
    assert {t.member for t in things} == {*CATEGORIES} - {"thing"} and {s.kind for s in b.scenes} == {"object"}
    assert set(b.attributes["member"].tolist()) == {-1} and {s.style for s in b.scenes} == {*STYLES}
    for caption_, thing in zip(b.captions, things):
        (_, pattern, color, noun), = NOUN.findall(caption_)
        assert noun == thing.member and color in ("", thing.color) and pattern in ("", thing.paint.pattern)
    assert kind_shares("new=.1,pair=.9") == {NEW: .1, "pair": .9}
    shares = [random_scene(np.random.default_rng(i), {NEW: 1, "hand": 1}).kind for i in range(200)]
    assert 70 < shares.count("object") < 130


def test_glasses_beards_and_gray_hair_go_with_age_only_when_correlated():
    def differences(correlated):
        rng = np.random.default_rng(0)
        people = [random_scene(rng, "portrait", correlated).portrait for _ in range(600)]
        old = np.array([p.age > .5 for p in people])
        signs = np.array([(p.glasses, p.beard, p.hair == "gray") for p in people])
        return signs[old].mean(0) - signs[~old].mean(0)
    assert (differences(True) > .13).all()
    assert (abs(differences(False)) < .1).all()


# ------------------------------------------------------------------------------------------------ captions

NOUN = re.compile(rf"\ban? (?:(large|small) )?(?:(striped|dotted|checked) )?(?:({'|'.join(COLORS)}) )?"
                  rf"({'|'.join([*CATEGORIES, *MEMBERS])})\b")
GROUND = {"in a garden": "garden", "at the beach": "beach", "in a room": "room", "in the snow": "snow", "at night": "night"}
WEATHER = {"sunny day": "sunny", "cloudy day": "cloudy", "in the rain": "rainy", "in heavy snow": "snowy"}
PLACE = {"mountains": "mountains", "green hills": "hills", "a boat on the sea": "sea", "a desert": "desert", "a city": "city"}
VOCABULARY = set(" ".join([*COLORS, *PATTERNS, *CATEGORIES, *MEMBERS, *CLASSES["hair"], *CLASSES["skin"], *CLASSES["background"],
                           *GROUND, *WEATHER, *PLACE, *STYLES, "a an and of on next to with without background picture drawing",
                           "clean distorted large small person very young old short long hair glasses beard skin smiling sad",
                           "hand fingers three four five six seven"]).split())


def claims_about_a_person(text):
    """[(what is claimed, a function of the truth that says whether it is so)]."""
    person = text.split(" on a ")[0]
    for very, word in re.findall(r"(very )?\b(young|old)\b", person):
        low, high = {"young": (0, .35), "old": (.65, 1), "very young": (0, .12), "very old": (.88, 1)}[very + word]
        yield very + word, lambda t, low=low, high=high: low <= t["age"] <= high
    for length, hair in re.findall(r"(?:(short|long) )?(\w+) hair", person):
        yield f"{hair} hair", lambda t, hair=hair: t["hair"] == hair
        yield f"{length} hair", lambda t, n=length: not n or (t["hair_length"] < .4 if n == "short" else t["hair_length"] > .6)
    for skin in re.findall(r"(\w+) skin", person):
        yield f"{skin} skin", lambda t: t["skin"] == skin
    for word in ("glasses", "beard"):
        if word in person:
            there = "no" if re.search(rf"without (a )?{word}", person) else "yes"
            yield word, lambda t, word=word, there=there: t[word] == there
    if "smiling" in person:
        yield "smiling", lambda t: t["smile"] > .3
    if re.search(r"\bsad\b", person):
        yield "sad", lambda t: t["smile"] < -.3


def claims(text, kind):
    """[(what is claimed, a function of the truth that says whether it is so)]."""
    for style in ("watercolor", "sketch", "photo"):
        if style in text:
            yield style, lambda t, style=style: t["style"] == style
    for word, answer in (("distorted", "yes"), ("clean", "no"), ("photo", "no")):
        if word in text:
            yield word, lambda t, answer=answer: t["distorted"] == answer
    for name in re.findall(r"on a (\w+) background", text):
        yield f"{name} background", lambda t: t["background"] == name
    for words, name in () if kind == "landscape" else GROUND.items():
        if words in text:
            yield words, lambda t, name=name: t["background"] == name
    for table, key in ((WEATHER, "weather"), (PLACE, "place")):
        for words, name in table.items():
            if words in text:
                yield words, lambda t, name=name, key=key: t[key] == name
    for word in re.findall(r"hand with (\w+) fingers", text):
        yield f"{word} fingers", lambda t: t["fingers"] == str(["three", "four", "five", "six", "seven"].index(word) + 3)
    if "person" in text:
        yield from claims_about_a_person(text)


def test_captions_never_say_what_is_not_there(described):
    said = set()
    for text, truth, scene in described:
        for claim, holds in claims(text, scene.kind):
            assert holds(truth), (claim, text, truth)
            said.add(claim)
        nouns = [] if scene.kind in ("portrait", "landscape", "hand") else NOUN.findall(text)
        assert len(nouns) == len(scene.things), text
        for (size, pattern, color, noun), thing in zip(nouns, scene.things):
            assert noun in (thing.member, MEMBERS[thing.member]), text
            assert color in ("", thing.color) and pattern in ("", thing.paint.pattern), text
            assert not size or (thing.scale > .7 if size == "large" else thing.scale < .7), text
            said |= {size, pattern, color, noun}
    # the test has read every kind of word, so none of the checks above was idle
    assert said >= {*COLORS, *MEMBERS, *GROUND, *WEATHER, *PLACE, "photo", "watercolor", "sketch", "distorted", "clean", "young",
                    "very old", "gray hair", "long hair", "dark skin", "glasses", "beard", "smiling", "sad", "large", "small",
                    "dotted", "three fingers", "gray background"}


def test_captions_use_only_words_that_the_test_above_understands(described):
    assert {w for text, _, _ in described for w in re.findall(r"\w+", text)} <= VOCABULARY


def test_eye_size_and_brow_slant_are_never_captioned(described):
    for _, _, scene in described:
        if scene.portrait:
            p = scene.portrait
            other = replace(scene, portrait=replace(p, eye_size=1 - p.eye_size, brow_slant=-p.brow_slant))
            one, same = (caption(s, np.random.default_rng(0)) for s in (scene, other))
            assert one == same


# ------------------------------------------------------------------------------------------------ what is never drawn

def test_unseen_combinations_and_held_out_individuals_are_never_drawn():
    rng = np.random.default_rng(0)
    drawn = [t for _ in range(700) for t in random_scene(rng, "pair").things]
    combinations = {(t.color, t.member) for t in drawn}
    assert len(UNSEEN) == 8 and all(c in COLORS and m in MEMBERS for c, m in UNSEEN)
    assert not combinations & UNSEEN and len(combinations) > .95 * (len(COLORS) * len(MEMBERS) - len(UNSEEN))
    for t in drawn:
        known = CATEGORIES[MEMBERS[t.member]][0][t.member]
        assert t.params.keys() == known.keys()
        assert all(t.params[k] == 0 if v == 0 else .6 < t.params[k] / v < 1.7 for k, v in known.items())


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_held_out_individual_has_what_none_of_its_kind_has(name):
    b = toybox.held_out(name, 3, size=32)
    thing = b.scenes[0].things[0]
    assert all(re.match(rf"a {name} (in|on|at) ", c) for c in b.captions)
    assert (b.attributes["color"] == -1).all()
    assert b.attributes["member"].eq(-1).all() == (name == "moongate")
    assert (b.instances > 0).float().mean() > .04
    if name != "moongate":
        known = CATEGORIES[MEMBERS[thing.member]][0][thing.member]
        assert any(thing.params[k] > 0 == known[k] for k in known)
        assert min(abs(np.subtract(thing.paint.rgb, rgb)).max() for rgb in COLORS.values()) > .04      # no training colour
    assert not torch.equal(b.images[0], b.images[1])


def test_held_out_pictures_are_clean_photos():
    assert {(s.style, s.distortion) for s in toybox.held_out("cat", 40, size=16).scenes} == {("photo", 0)}


@pytest.mark.parametrize("word", ["cat", "pot", "person"])
def test_ordinary_members_of_a_class_are_clean_photos_with_plain_and_full_captions(word):
    b = toybox.of_class(word, 12, 3, size=32)
    assert b.images.shape == (12, 3, 32, 32) and {(s.style, s.distortion) for s in b.scenes} == {("photo", 0)}
    said = {word, MEMBERS.get(word)} if word != "pot" else {"pot"}
    assert all(said & set(re.findall(r"\w+", c)) for c in b.captions) and len(set(b.captions[1::2])) > 4
    assert b.captions[::2] == [f"a {word} {ground_words(s.background)}" for s in b.scenes[::2]]
    if word == "person":
        assert all(s.portrait and not s.things for s in b.scenes)
    else:
        assert all([t.member for t in s.things] == [word] and (s.things[0].color, word) not in UNSEEN for s in b.scenes)
    again, longer = toybox.of_class(word, 12, 3, size=32), toybox.of_class(word, 12, 4, size=32)
    assert torch.equal(b.images, again.images) and b.captions == again.captions and not torch.equal(b.images, longer.images)


@pytest.mark.parametrize("category", CATEGORIES)
def test_new_members_lie_between_the_known_ones_and_near_none(category):
    b = toybox.new_members(category, 30, 3, size=32)
    sizes = np.array([list(p.values()) for p in CATEGORIES[category][0].values()])
    new = np.array([list(s.things[0].params.values()) for s in b.scenes])
    away = np.sqrt((((new[:, None] - sizes) / sizes.std(0).clip(1e-3)) ** 2).mean(2)).min(1)
    assert away.min() > .5                                                                     # .6, before each size is jittered
    assert (new <= sizes.max(0) + .4 * abs(sizes.max(0)) + 1e-6).all() and (new >= sizes.min(0) - .4 * abs(sizes.min(0)) - 1e-6).all()
    assert list(b.scenes[0].things[0].params) == list(next(iter(CATEGORIES[category][0].values())))
    assert {(s.style, s.distortion, s.things[0].member) for s in b.scenes} == {("photo", 0, category)}
    assert all(f" {category} " in c and not set(MEMBERS) & set(c.split()) for c in b.captions)
    assert set(b.attributes["member"].tolist()) == {-1} and min(b.attributes["color"]) >= 0
    again = toybox.new_members(category, 2, 3, size=32)
    assert torch.equal(again.images, b.images[:2]) and not torch.equal(again.images, toybox.new_members(category, 2, 4, size=32).images)


# ------------------------------------------------------------------------------------------------ portraits

@pytest.mark.parametrize("change, where", [
    (dict(eye_size=.95), "eyes brows glasses"), (dict(brow_slant=.9), "brows eyes glasses"), (dict(smile=.9), "mouth"),
    (dict(glasses=True), "glasses"), (dict(beard=True), "beard"), (dict(shirt=(.9, .1, .1)), "shirt"),
    (dict(hair="red"), "hair brows beard")])
def test_changing_one_attribute_changes_the_picture_only_there(change, where):
    rng = np.random.default_rng(2)
    for _ in range(5):
        portrait = replace(random_portrait(rng), eye_size=.1, brow_slant=-.8, smile=-.7, glasses=False, hair="black")
        portrait = replace(portrait, beard="beard" not in change)
        scene = replace(world.scene(0, 0, "portrait")[0], style="photo")
        a, b = (render(replace(scene, portrait=p)) for p in (portrait, replace(portrait, **change)))
        changed = abs(a.rgb - b.rgb).max(-1) > .03
        region = grown(parts_of(a, *where.split()) | parts_of(b, *where.split()))
        assert changed.sum() >= 8 and not (changed & ~region).any()


def test_every_attribute_of_a_portrait_shows():
    rng = np.random.default_rng(3)
    ends = dict(age=(0, 1), smile=(-1, 1), eye_size=(0, 1), brow_slant=(-1, 1), hair_length=(0, 1))
    for name, (low, high) in ends.items():
        portrait = random_portrait(rng)
        pictures = []
        for value in (low, (low + high) / 2, high):
            canvas = Canvas(64)
            draw_portrait(canvas, replace(portrait, **{name: value}))
            pictures.append(canvas.rgb)
        step, way = abs(pictures[1] - pictures[0]).sum(), abs(pictures[2] - pictures[0]).sum()
        assert way > step > 2, name                                 # and further is further


# ------------------------------------------------------------------------------------------------ objects

@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_fills_the_frame_in_every_colour_and_pattern(member):
    params, parts = CATEGORIES[MEMBERS[member]][0][member], None
    for color, pattern in product(COLORS, PATTERNS):
        canvas = Canvas(32)
        paint = Paint(COLORS[color], pattern, COLORS["black" if color == "white" else "white"])
        draw_object(canvas, Thing(member, params, color, paint, scale=.75), 1)
        there = canvas.instance == 1
        assert there.mean() > .04 and not there[:, [0, -1]].any() and not there[[0, -1]].any()
        assert np.isfinite(canvas.rgb).all() and canvas.rgb.min() >= 0 and canvas.rgb.max() <= 1
        assert parts is None or np.array_equal(canvas.part, parts), "the paint has changed the shape"
        parts = canvas.part
        if pattern == "plain":
            distance = {c: abs(canvas.rgb[there] - np.array(rgb)).sum(-1) for c, rgb in COLORS.items()}
            nearest = np.argmin(np.stack(list(distance.values())), 0)
            assert (nearest == list(COLORS).index(color)).mean() > .25, "the colour that a caption names is not to be seen"


@pytest.mark.parametrize("category", CATEGORIES)
def test_points_between_the_members_and_beyond_can_be_drawn(category):
    (known, draw), rng = CATEGORIES[category], np.random.default_rng(0)
    for i in range(30):
        a, b = (known[str(m)] for m in rng.choice(list(known), 2, replace=False))
        t = rng.uniform(-.3, 1.3) if i % 3 else .5
        canvas = Canvas(32)
        with canvas.thing(1, .5):
            draw(canvas, {k: float((1 - t) * a[k] + t * b[k]) for k in a}, Paint(COLORS["red"]))
        assert (canvas.instance == 1).mean() > .02 and np.isfinite(canvas.rgb).all()


@pytest.mark.parametrize("category", ["pet", "fruit", "plant"])
def test_any_point_of_a_plan_with_ranges_can_be_drawn_and_stands_on_the_ground(category):
    (plan, _), draw, rng = PLANS[category], CATEGORIES[category][1], np.random.default_rng(0)
    for _ in range(15):
        canvas = Canvas(32)
        with canvas.thing(1, .5):
            draw(canvas, {k: rng.uniform(low, high) for k, (low, high, _) in plan.items()}, Paint(COLORS["blue"]))
        assert canvas.instance[27:31].any() and not canvas.instance[31].any()       # y = 0.95 is row 30.7, boxes are a bit wide
        assert (canvas.instance == 1).mean() > .04 and np.isfinite(canvas.rgb).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_missing_sizes_count_as_zero_and_the_module_explains_every_size(category):
    (known, draw), (plan, module) = CATEGORIES[category], PLANS[category]
    assert all(list(p) == list(plan) for p in known.values())       # jitter draws one number per key, in this order
    assert set(plan) <= set(re.findall(r"\w+", module.__doc__))
    for params in known.values():
        whole, short = Canvas(32), Canvas(32)
        draw(whole, params, Paint(COLORS["red"]))
        draw(short, {k: v for k, v in params.items() if v}, Paint(COLORS["red"]))
        assert np.array_equal(whole.rgb, short.rgb)


@pytest.mark.parametrize("name", ORNAMENTS)
def test_an_ornament_lies_on_the_part_that_carries_it(name):
    thing = Thing("mug", things.THINGS["mug"], "blue", Paint(COLORS["blue"]), ornament=(name, "body", (.9, .8, .1)))
    canvas, bare = Canvas(64), Canvas(64)
    draw_object(canvas, thing, 1)
    draw_object(bare, replace(thing, ornament=None), 1)
    ornament = parts_of(canvas, "ornament")
    assert 20 < ornament.sum() < 600 and parts_of(bare, "body")[ornament].mean() > .95 and not parts_of(bare, "ornament").any()
    assert not ((canvas.rgb != bare.rgb).any(-1) & ~grown(ornament)).any()


def test_hands_have_as_many_fingers_as_asked():
    for fingers in range(3, 8):
        canvas = Canvas(128)
        draw_hand(canvas, fingers, dict(spread=1, length=1, width=1), (.9, .7, .6))
        row = parts_of(canvas, "fingers")[:44].astype(int)          # above the thumb
        assert (np.diff(row, axis=1, prepend=0) == 1).sum(1).max() == fingers - 1


# ------------------------------------------------------------------------------------------------ errors, and a stored number

@pytest.mark.parametrize("call, choices", [
    (lambda: toybox.sample(1, seed=0, kind="portraits"), KINDS), (lambda: toybox.held_out("lion"), HELD_OUT),
    (lambda: toybox.of_class("zebra", 1), (*MEMBERS, "person")),
    (lambda: toybox.new_members("zebra", 1), ("pet", "fruit", "plant", "instrument", "thing")),
    (lambda: Paint((1, 0, 0), "zigzag")(np.zeros((2, 2)), np.zeros((2, 2)), .1), PATTERNS),
    (lambda: draw_ornament(Canvas(32), "moon", 0, 0, .3, (1, 0, 0)), ORNAMENTS)])
def test_an_unknown_name_raises_an_error_that_lists_the_choices(call, choices):
    with pytest.raises(ValueError) as error:
        call()
    assert set(choices) <= set(re.findall(r"\w+", str(error.value)))


BRIGHTNESS = (.6922, .6372, .7997, .8023, .7022, .6856, .6515, .7981, .7903, .7445, .7866, .7833, .8008, .7660, .6969, .8016,
              .6556, .6879, .7429, .7574, .7610, .7730, .6629, .6110, .7697, .6243, .7013, .7798, .7227, .7050, .6078, .6483,
              .6674, .6563, .7535, .6483, .8482, .6897, .6467, .6584, .6383, .9143, .5709, .6535, .7457, .8847)


def test_the_drawings_are_those_that_the_shipped_weights_have_learnt():
    """Mean brightness of each member, eight mugs, a moongate, a portrait, a hand. Who changes a drawing must train again."""
    def mean(draw, *args):
        canvas = Canvas(64)
        draw(canvas, *args)
        return float((canvas.rgb @ np.array([.30, .59, .11])).mean())
    got = [mean(DRAW[m], CATEGORIES[c][0][m], Paint(COLORS["red"])) for m, c in MEMBERS.items()]
    got += [mean(DRAW["mug"], things.THINGS["mug"], Paint(rgb)) for rgb in COLORS.values()]
    got += [mean(DRAW["moongate"], HELD_OUT["moongate"][0], Paint(COLORS["red"])),
            mean(draw_portrait, Portrait(age=.9, glasses=True, beard=True)),
            mean(draw_hand, 5, dict(spread=1, length=1, width=1), (.9, .7, .6))]
    assert_close(torch.tensor(got), torch.tensor(BRIGHTNESS), atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_caption_says_whatever_a_caption_of_the_scene_may_say_of_what_is_there(kind):
    optional = {"a", "an", "and", "with", "of", "picture", "drawing", "clean", *CATEGORIES, *(w for c in CATEGORIES for w in c.split())}
    for i in range(60):
        scene, rng = world.scene(8, i, kind)[0], np.random.default_rng(i)
        full = full_caption(scene)
        said = {w for _ in range(20) for w in caption(scene, rng).replace(",", "").split(" without ")[0].split()}
        assert said - optional <= set(full.replace(",", "").split()) and full == full_caption(scene)
        assert all(thing.member in full and thing.color in full for thing in scene.things if thing.color != "none")


def test_a_store_knows_the_scenes_of_its_pictures(tmp_path):
    store = prepare(tmp_path, 6, 5, workers=1, kinds={"object": .5, "hand": .5})
    index = torch.tensor([4, 0])
    assert_close(world.draw(store.scenes(index)).images, (store.images(index) + 1) / 2, atol=.5 / 255 + 1e-6, rtol=0)
