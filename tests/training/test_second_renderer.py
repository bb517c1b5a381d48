"""The second renderer draws what it says and means what the words say, by another reading of the words."""

import math
import re
from collections import Counter
from functools import cache
from itertools import chain, islice
from random import Random

import numpy as np
import pytest

from training.second_renderer import ASKERS, OUTLINES, Asked, Scene, Thing, Undecided, draw_scene, scenes_and_questions

REFERENCE_COLORS = {
    "red": (215, 25, 25),
    "green": (30, 165, 50),
    "blue": (25, 65, 220),
    "yellow": (245, 220, 25),
    "purple": (115, 45, 160),
    "orange": (250, 120, 15),
    "white": (250, 250, 250),
    "black": (14, 14, 14),
    "pink": (250, 140, 190),
    "cyan": (40, 225, 240),
}
SHAPES = {"disc": "circle", "disk": "circle", "box": "square", "plus sign": "cross"}
SHAPES |= {shape: shape for shape in ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")}
ANYTHING = ("shape", "object", "thing", "one")
NUMBERS = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"]


@cache
def scenes() -> list[Scene]:
    return [draw_scene(Random(f"test {i}")) for i in range(60)]


def fitting(phrase: str, things: list[Thing]) -> list[Thing]:
    """The things that a noun phrase fits; none where it names what this world does not have."""
    words = re.sub(r"^(all the|all|the|an|a) ", "", phrase).strip()
    for size, name in [("small", "small"), ("large", "large"), ("big", "large")]:
        if words.startswith(f"{size} "):
            words, things = words.removeprefix(f"{size} "), [thing for thing in things if thing.size == name]
    for color in REFERENCE_COLORS:
        if words.startswith(f"{color} "):
            words, things = words.removeprefix(f"{color} "), [thing for thing in things if thing.color == color]
    singular = words if words == "cross" else re.sub(r"(?<=ss)es$|(?<=x)es$|s$", "", words)
    return things if singular in ANYTHING else [thing for thing in things if thing.shape == SHAPES.get(singular)]


def understood(text: str, scene: Scene) -> list[Thing]:
    """What an undressed expression means in the scene."""
    things, (height, width) = list(scene.things), scene.owner.shape
    if text.startswith("everything") and " except" not in text and " but" not in text:
        return things
    if parts := re.fullmatch(r"(.+?) (?:except for|except|but) (the .+)", text):
        inside = things if parts[1] == "everything" else fitting(parts[1], things)
        return [thing for thing in inside if thing not in fitting(parts[2], inside)]
    if parts := re.fullmatch(r"(.+?) (?:to the )?(left of|right of|above|below|next to) (the .+)", text):
        anchors, candidates = fitting(parts[3], things), fitting(parts[1], things)
        if not (anchors and candidates):
            return []
        (anchor,) = anchors
        if parts[2] == "next to":
            others = [thing for thing in things if thing is not anchor]
            nearest = min(others, key=lambda t: math.hypot(t.x - anchor.x, t.y - anchor.y))
            return [nearest] if nearest in candidates else []
        holds = {
            "left of": lambda t: t.x < anchor.x,
            "right of": lambda t: t.x > anchor.x,
            "above": lambda t: t.y < anchor.y,
            "below": lambda t: t.y > anchor.y,
        }[parts[2]]
        return [thing for thing in candidates if holds(thing)]
    if parts := re.fullmatch(rf"(?:the )?({'|'.join(NUMBERS[2:])}) (.+)", text):
        meant = fitting(parts[2], things)
        return meant if len(meant) == NUMBERS.index(parts[1]) else []
    extremes = {
        "smallest": lambda t: t.area,
        "largest": lambda t: -t.area,
        "biggest": lambda t: -t.area,
        "leftmost": lambda t: t.x,
        "rightmost": lambda t: -t.x,
        "topmost": lambda t: t.y,
        "lowest": lambda t: -t.y,
    }
    if parts := re.fullmatch(rf"(?:the )?({'|'.join(extremes)}) (.+)", text):
        return sorted(fitting(parts[2], things), key=extremes[parts[1]])[:1]
    if parts := re.fullmatch(
        r"(.+) (?:in|on|at) the (?:(top|bottom|middle)|(?:(top|bottom) )?(left|right))(?: corner)?", text
    ):
        down = {"top": lambda t: t.y, "bottom": lambda t: height - t.y}.get(parts[2] or parts[3] or "")
        across = {"left": lambda t: t.x, "right": lambda t: width - t.x}.get(parts[4] or "")
        if parts[2] == "middle":
            down, across = lambda t: abs(t.y - height / 2), lambda t: abs(t.x - width / 2)
        far = [f for f in (down, across) if f is not None]
        return sorted(fitting(parts[1], things), key=lambda t: math.hypot(*(f(t) for f in far)))[:1]
    return fitting(text, things)


def questions(kind: str, empty: bool) -> list[tuple[Scene, str, list[Thing]]]:
    found = []
    for index, scene in enumerate(scenes()):
        chance = Random(f"{kind} {index}")
        for _ in range(10):
            try:
                text, meant = ASKERS[kind](scene, chance, empty)
            except Undecided:
                continue
            if bool(meant) != empty:
                found.append((scene, text, meant))
    return found


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return list(
        chain.from_iterable(questions for _, questions in scenes_and_questions(seed=3, count=120, questions=10))
    )


def test_the_same_seed_draws_and_asks_the_same() -> None:
    once, again = list(scenes_and_questions(7, 3, 6)), list(islice(scenes_and_questions(7, 30, 6), 3))
    for (image, asked), (same_image, same_asked) in zip(once, again, strict=True):
        np.testing.assert_array_equal(image, same_image)
        assert [(a.text, a.kind) for a in asked] == [(a.text, a.kind) for a in same_asked]
        assert all((a.mask == b.mask).all() for a, b in zip(asked, same_asked, strict=True))
    other, _ = next(scenes_and_questions(8, 1, 6))
    assert other.shape != once[0][0].shape or (other != once[0][0]).any()


def test_pictures_and_masks_have_the_promised_form() -> None:
    for image, asked in scenes_and_questions(11, 20, 5):
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert 160 <= min(image.shape[:2]) <= max(image.shape[:2]) <= 1024
        assert len({a.text for a in asked}) == len(asked) == 5
        assert all(a.mask.dtype == bool and a.mask.shape == image.shape[:2] for a in asked)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi),
        ("square", 2),
        ("triangle", 3 * math.sqrt(3) / 4),
        ("star", 10 * 0.42 * math.sin(math.pi / 5) / 2),
        ("cross", 2 * (2 * 0.94) * (2 * 0.31) - (2 * 0.31) ** 2),
        ("ring", math.pi * (1 - 0.58**2)),
        ("diamond", 2 * 0.68),
        ("heart", None),
    ],
)
def test_an_outline_has_the_area_of_its_closed_form_and_lies_in_the_unit_circle(shape: str, area: float | None) -> None:
    y, x = np.mgrid[-1.25:1.25:1000j, -1.25:1.25:1000j]
    inside = OUTLINES[shape](x, y) < 0
    assert np.hypot(x, y)[inside].max() <= 1.03
    measured = inside.mean() * 2.5**2
    assert 1.5 < measured < 2.2 if area is None else measured == pytest.approx(area, rel=0.01)
    np.testing.assert_array_equal(inside, inside[:, ::-1])


def test_every_thing_is_seen_in_its_colour_and_apart_from_the_background() -> None:
    for scene in scenes():
        assert 1 <= len(scene.things) <= 8
        assert max(scene.owner.ravel()) == len(scene.things)
        background = np.median(scene.image[scene.owner == 0], axis=0)
        for index, thing in enumerate(scene.things, start=1):
            rows, columns = np.nonzero(scene.owner == index)
            assert thing.area == len(rows) > 0.15 * thing.radius**2
            assert (thing.x, thing.y) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))
            color = np.median(scene.image[rows, columns], axis=0)
            nearest = min(REFERENCE_COLORS, key=lambda name: math.dist(REFERENCE_COLORS[name], color))
            assert nearest == thing.color, (color, thing)
            assert math.dist(color, background) > 30


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", ASKERS)
def test_another_reading_of_the_words_means_the_same(kind: str, empty: bool) -> None:
    found = questions(kind, empty)
    assert (len(found) > 60) != (kind == "foreign" and not empty)
    for scene, text, meant in found:
        assert set(understood(text, scene)) == set(meant), text
        assert scene.mask(meant).sum() == sum(thing.area for thing in meant)


def test_superlatives_and_places_are_clear_to_an_eye() -> None:
    for scene, text, (best,) in questions("superlative", empty=False):
        rivals = [t for t in fitting(re.sub(r"^(the )?\w+ ", "", text), list(scene.things)) if t != best]
        assert all(max(t.area, best.area) >= 1.149 * min(t.area, best.area) for t in rivals), text
    for scene, text, (best,) in questions("place", empty=False):
        height, width = scene.owner.shape
        if "corner" in text:
            assert ("left" in text) == (best.x < width / 2)
            assert ("top" in text) == (best.y < height / 2)


def test_all_kinds_are_asked_with_and_without_a_target(asked: list[Asked]) -> None:
    kinds, empty = Counter(a.kind for a in asked), Counter(a.kind for a in asked if a.no_target)
    assert set(kinds) == set(empty) == set(ASKERS)
    assert min(kinds.values()) > len(asked) / 20
    assert empty["foreign"] == kinds["foreign"]
    assert all(0.08 < empty[kind] / kinds[kind] < 0.4 for kind in kinds if kind != "foreign")
    wrong = [
        a.text for a in asked if a.kind == "number" and a.no_target and re.search("|".join(NUMBERS[2:]), a.text.lower())
    ]
    assert len(wrong) > empty["number"] / 2
    assert 0.25 < empty.total() / len(asked) < 0.33


def test_words_come_dressed_in_several_ways(asked: list[Asked]) -> None:
    texts = [a.text for a in asked]
    for sign in (
        r"\.$",
        r"!$",
        r"\?$",
        "please",
        "^[A-Z][a-z]",
        "^[^a-z]+$",
        "^the ",
        "^an? ",
        "^all ",
        "plus sign",
        "dis[ck]",
    ):
        assert any(re.search(sign, text) for text in texts), sign
    assert not any(re.search(r"  |\ba [aeiou](?!ne)|\ban [^aeiou]|\{", text) for text in texts)
