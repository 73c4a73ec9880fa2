"""Captions in plain English. A caption says some of what is in the picture, never something that is not.

Words are left out at random, so that every prompt from "a person" to a full description has been seen, and a neutral
caption covers both good and bad drawings. Eye size and brow slant have no words at all.
"""
import re

from .scenes import MEMBERS, PLAIN_GROUNDS, SPOKEN

NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}
GROUND_WORDS = {"garden": "in a garden", "beach": "at the beach", "room": "in a room", "snow": "in the snow", "night": "at night"}
MEMBER = re.compile(rf"\b({'|'.join(member for member, category in MEMBERS.items() if category in SPOKEN)})\b")
ARTICLE = re.compile(r"\ban? (\w)")
WEATHER_WORDS = {"sunny": "on a sunny day", "cloudy": "on a cloudy day", "rainy": "in the rain", "snowy": "in heavy snow"}


def caption(scene, rng, keep=0.7):
    """One caption of `scene`; each attribute is mentioned with probability about `keep`."""
    said = lambda p=keep: rng.random() < p
    body = {"portrait": _person, "object": _object, "pair": _pair, "landscape": _landscape, "hand": _hand}[scene.kind](scene, said)
    if scene.kind != "landscape" and said():
        body += f" {ground_words(scene.background)}"
    if scene.distortion:
        return f"a distorted drawing of {body}" if said(.5) else f"a drawing of {body}"
    if scene.style != "photo":
        return f"a {scene.style} of {body}" if said(.85) else f"a picture of {body}"
    if scene.kind == "object" and said(.1):
        return f"a clean drawing of {body}" if said(.5) else f"a drawing of {body}"
    return f"{'a photo of ' if said(.35) else 'a picture of ' if said(.15) else ''}{body}"


def full_caption(scene):
    """The caption of `scene` that says all there are words for, and nothing about what is missing."""
    return caption(scene, SaysAll())


def by_category(caption):
    """The caption with the category in place of every member that has one: "a red cat next to an apple" -> "a red pet next to a fruit"."""
    words = MEMBER.sub(lambda found: MEMBERS[found[0]], caption)
    return ARTICLE.sub(lambda found: f"{'an' if found[1] in 'aeiou' else 'a'} {found[1]}", words)


class SaysAll:
    """In place of a random generator: whatever is said at least three times in ten is said, what is rarer is not."""
    def random(self):
        return .3


def ground_words(name):
    return f"on a {name} background" if name in PLAIN_GROUNDS else GROUND_WORDS[name]


def age_word(age):
    """The word for an age in [0, 1]: four words for the two ends, none in the middle."""
    return "very young" if age < .12 else "young" if age < .35 else "very old" if age > .88 else "old" if age > .65 else ""


def smile_word(smile):
    return "smiling" if smile > .45 else "sad" if smile < -.35 else ""


def hair_words(p):
    length = "short " if p.hair_length < .25 else "long " if p.hair_length > .65 else ""
    return f"{length}{p.hair} hair"


def with_article(words):
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(items):
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _person(scene, said):
    """ "an old person with short gray hair and glasses, smiling" or, as a list, "a person, old, short gray hair" """
    p = scene.portrait
    age = age_word(p.age) if said(.75) else ""
    has = [hair_words(p)] if said(.6) else []
    has += ["glasses"] if p.glasses and said(.8) else []
    has += ["a beard"] if p.beard and said(.8) else []
    has += [f"{p.skin} skin"] if said(.4) else []
    mood = [smile_word(p.smile)] if smile_word(p.smile) and said(.7) else []
    if said(.15):
        return ", ".join(["a person"] + ([age] if age else []) + has + mood)
    missing = [w for w, there in (("glasses", p.glasses), ("a beard", p.beard)) if not there and said(.15)]
    text = with_article(f"{age} person" if age else "person")
    text += f" with {_listed(has)}" if has else ""
    text += f" without {missing[0]}" if missing else ""
    return text + (f", {mood[0]}" if mood else "")


def _noun(thing, said):
    """ "a large striped red cat", or only the category: "a red pet" """
    category = MEMBERS.get(thing.member, thing.member)                      # what no word names is its category
    name = category if category != "thing" and said(.1) else thing.member
    words = ["large"] if thing.scale > .8 and said(.5) else ["small"] if .5 < thing.scale < .66 and said(.5) else []
    words += [thing.paint.pattern] if thing.paint.pattern != "plain" and said(.85) else []
    words += [thing.color] if said(.85) else []
    return with_article(" ".join(words + [name]))


def _object(scene, said):
    return _noun(scene.things[0], said)


def _pair(scene, said):
    a, b = scene.things
    return f"{_noun(a, said)} {'in' if b.member == 'pot' and a.x == b.x else 'next to'} {_noun(b, said)}"


def _landscape(scene, said):
    place = {"hills": "green hills", "sea": "a boat on the sea", "desert": "a desert", "city": "a city"}.get(scene.place, scene.place)
    return f"{place} {WEATHER_WORDS[scene.weather]}" if said(.85) else place


def _hand(scene, said):
    return f"a hand with {NUMBERS[scene.fingers]} fingers" if said(.5) else "a hand"
