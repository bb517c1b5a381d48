"""The shapes world: exact masks, visible shapes, and targets that an independent parser of the texts confirms."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sspsam.shapes import COLORS, OUTLINES, Question, Scene, Shape, ask, draw_scene

SEEDS = range(60)
REQUEST_WORDS = (
    "please|show|me|can|could|would|you|find|i|mean|where|is|select|like|to|point|at|segment|highlight|mark|for|give|look|"
    "pick|out|thanks|that|are|which|colored|coloured|color|in|this|picture|image|scene|drawing|here|there|on|canvas|see|as|"
    "well|d|just|only|hey|hello|hi|ok|what|about|let|s|get|need|want|locate|identify|outline|cut|kindly|my|we|us|those|"
    "these|thank"
)
SIZES = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large"}
ARTICLES = ("the", "a", "an", "all", "every", "each", "any", "some", "one", "of", "everything", "anything")
SYNONYMS = {"disc": "circle", "disk": "circle", "box": "square", "plus sign": "cross", "boxes": "square"}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def questions(scenes: list[Scene]) -> list[tuple[Scene, Question]]:
    return [(scene, question) for seed, scene in enumerate(scenes) for question in ask(scene, seed, 20)]


def test_the_same_seed_gives_the_same_scene_and_questions() -> None:
    for seed in range(5):
        first, second = draw_scene(seed), draw_scene(seed)
        assert np.array_equal(first.pixels, second.pixels)
        assert [q.text for q in ask(first, 3, 10)] == [q.text for q in ask(second, 3, 10)]
    assert not np.array_equal(draw_scene(1, (200, 200)).pixels, draw_scene(2, (200, 200)).pixels)


def test_scenes_have_the_documented_sizes_and_numbers_of_shapes(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width, channels = scene.pixels.shape
        assert channels == 3
        assert scene.pixels.dtype == np.uint8
        assert min(height, width) >= 160
        assert max(height, width) <= 1024
        assert 1 <= len(scene.shapes) <= 8
    assert max(max(s.pixels.shape[:2]) / min(s.pixels.shape[:2]) for s in scenes) > 1.9
    assert {shape.kind for scene in scenes for shape in scene.shapes} == set(OUTLINES)
    assert {shape.color for scene in scenes for shape in scene.shapes} == set(COLORS)


def test_masks_are_disjoint_and_have_the_right_size_and_place(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert np.sum([shape.mask for shape in scene.shapes], axis=0).max() == 1
        for shape in scene.shapes:
            rows, columns = np.nonzero(shape.mask)
            diameter = shape.diameter * min(scene.pixels.shape[:2])
            assert max(np.ptp(rows), np.ptp(columns)) < 1.3 * diameter + 2
            x, y = shape.center
            assert abs(columns.mean() - x) < 0.3 * diameter + 1
            assert abs(rows.mean() - y) < 0.3 * diameter + 1


def test_a_mask_covers_the_pixels_of_its_colour(scenes: list[Scene]) -> None:
    """Most pixels inside a mask, all but a border line, have nearly the same colour."""
    for scene in scenes:
        for shape in scene.shapes:
            inner = shape.mask & np.roll(shape.mask, 1, 0) & np.roll(shape.mask, -1, 0)
            inner &= np.roll(shape.mask, 1, 1) & np.roll(shape.mask, -1, 1)
            if inner.sum() < 400:  # the border line covers too much of a small shape
                continue
            middle = np.median(scene.pixels[inner], axis=0)
            far = np.linalg.norm(scene.pixels[inner].astype(float) - middle, axis=1) > 40
            assert far.mean() < 0.45


@cache
def scenes_of_one_shape() -> list[Scene]:
    return [scene for seed in range(400) if len((scene := draw_scene(seed, (300, 300))).shapes) == 1]


@pytest.mark.parametrize("kind", sorted(OUTLINES))
def test_the_area_of_every_kind_equals_that_of_its_outline(kind: str) -> None:
    areas = []
    for form in (-1.0, 1.0):
        x, y = OUTLINES[kind](form).T
        areas.append(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)  # the shoelace formula
    checked = 0
    for scene in scenes_of_one_shape():
        for shape in scene.shapes:
            if shape.kind == kind:
                checked += 1
                radius = shape.diameter * 300 / 2
                assert 0.92 * min(areas) - 6 / radius**2 < shape.area / radius**2 < 1.08 * max(areas) + 6 / radius**2
    assert checked


def described(scene: Scene, text: str) -> list[Shape] | None:
    """Shapes that a noun phrase describes, parsed from the text alone; None for other words."""
    words = re.sub(r"[.!?,']", " ", text.lower())
    words = re.sub(rf"\b({REQUEST_WORDS})\b", " ", words)
    for synonym, kind in SYNONYMS.items():
        words = re.sub(rf"\b{synonym}s?\b", kind, words)
    shapes, other_words = list(scene.shapes), []
    for word in words.split():
        single = word[:-2] if word.endswith("sses") else word[:-1] if word.endswith("s") and word != "cross" else word
        if word in COLORS:
            shapes = [shape for shape in shapes if shape.color == word]
        elif single in OUTLINES:
            shapes = [shape for shape in shapes if shape.kind == single]
        elif word in SIZES:
            shapes = [shape for shape in shapes if shape.size == SIZES[word]]
        elif word not in ARTICLES and single not in ("one", "shape", "object", "thing", "item", "figure"):
            other_words.append(word)
    return None if other_words else shapes


def test_the_targets_of_a_description_are_all_matching_shapes(questions: list[tuple[Scene, Question]]) -> None:
    checked = 0
    for scene, question in questions:
        if question.kind.removeprefix("no target: ") not in ("color and shape", "shape", "color", "size"):
            continue
        shapes = described(scene, question.text)
        assert shapes is not None, question.text
        expected = np.zeros(scene.pixels.shape[:2], bool)
        for shape in shapes:
            expected |= shape.mask
        assert np.array_equal(question.mask, expected), question.text
        checked += 1
    assert checked > 200


def single_target(scene: Scene, question: Question) -> Shape:
    [target] = [shape for shape in scene.shapes if (shape.mask & question.mask).any()]
    return target


def test_a_place_refers_to_the_single_extreme_shape(questions: list[tuple[Scene, Question]]) -> None:
    axes = {
        "leftmost|left-most": (0, 1),
        "rightmost|right-most": (0, -1),
        "topmost|highest|uppermost": (1, 1),
        "lowest|bottommost": (1, -1),
    }
    checked = 0
    for scene, question in questions:
        for word, (axis, sign) in axes.items():
            match = re.fullmatch(rf"(?:the )?(?:{word}) (.+)", question.text.lower().rstrip(".!?"))
            if match and described(scene, match[1]):
                assert single_target(scene, question) is min(
                    described(scene, match[1]), key=lambda s: sign * s.center[axis]
                )
                checked += 1
    assert checked > 5


def test_a_superlative_refers_to_the_single_extreme_shape(questions: list[tuple[Scene, Question]]) -> None:
    checked = 0
    for scene, question in questions:
        match = re.fullmatch(r"the (largest|biggest|smallest) (.+)", question.text.lower().rstrip(".!?"))
        if match and described(scene, match[2]):
            choose = min if match[1] == "smallest" else max
            assert single_target(scene, question) is choose(described(scene, match[2]), key=lambda s: s.area)
            checked += 1
    assert checked > 5


def test_relations_compare_centres(questions: list[tuple[Scene, Question]]) -> None:
    checked = 0
    for scene, question in questions:
        match = re.fullmatch(r"(.+?) (?:to the )?left of (.+)", question.text.lower().rstrip(".!?"))
        candidates, landmarks = (described(scene, match[1]), described(scene, match[2])) if match else (None, None)
        if candidates is None or not landmarks:
            continue
        assert len(landmarks) == 1, question.text
        expected = np.zeros(scene.pixels.shape[:2], bool)
        for shape in candidates:
            if shape is not landmarks[0] and shape.center[0] < landmarks[0].center[0]:
                expected |= shape.mask
        assert np.array_equal(question.mask, expected), question.text
        checked += 1
    assert checked > 5


def test_an_expression_with_a_wrong_number_has_no_target(questions: list[tuple[Scene, Question]]) -> None:
    checked = 0
    for scene, question in questions:
        match = re.fullmatch(r"(?:the )?(two|three|four|five) (.+)", question.text.lower().rstrip(".!?"))
        if match and question.kind.endswith("number"):
            count = ["two", "three", "four", "five"].index(match[1]) + 2
            assert question.no_target == (len(described(scene, match[2])) != count), question.text
            checked += 1
    assert checked > 10


def test_every_kind_occurs_with_and_without_a_target(questions: list[tuple[Scene, Question]]) -> None:
    kinds = {question.kind for _, question in questions}
    plain = {"color and shape", "shape", "color", "size", "superlative", "place", "relation", "number", "exclusion"}
    assert plain <= kinds
    assert {f"no target: {kind}" for kind in plain - {"exclusion"}} | {"no target: foreign"} <= kinds
    share = np.mean([question.no_target for _, question in questions])
    assert 0.15 < share < 0.4
    for _, question in questions:
        assert question.no_target == question.kind.startswith("no target")


def test_a_scene_that_is_too_small_or_has_a_negative_number_of_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        draw_scene(0, (31, 400))
    with pytest.raises(ValueError, match="-1"):
        draw_scene(0, shapes=-1)
    assert draw_scene(0, (100, 100), shapes=0).shapes == ()
    assert len(draw_scene(0, (400, 400), shapes=3).shapes) == 3
    assert draw_scene(0, (32, 2000)).pixels.shape == (32, 2000, 3)


def test_an_absent_noun_names_a_colour_if_the_scene_has_every_kind() -> None:
    scene = next(scene for seed in range(100) if len((scene := draw_scene(seed, (96, 96), 8)).shapes) == 8)
    shapes = tuple(replace(shape, kind=kind) for shape, kind in zip(scene.shapes, OUTLINES, strict=True))
    every_kind = replace(scene, shapes=shapes)
    questions = [question for seed in range(40) for question in ask(every_kind, seed, 20)]
    absent = [q for q in questions if q.kind == "no target: shape"]
    assert absent  # with a colour that none of the shapes of that kind has
    assert all(q.parse.noun is not None and not q.parse.noun.among(shapes) for q in absent)


def test_weights_determine_the_frequency_of_each_kind() -> None:
    weights = {"relation": 3.0, "place": 1.0, "number": 0.0}
    questions = [question for seed in range(40) for question in ask(draw_scene(seed), seed, 8, weights)]
    kinds = [question.kind.removeprefix("no target: ") for question in questions]
    assert set(kinds) == {"relation", "place"}
    assert kinds.count("relation") > kinds.count("place")


@pytest.mark.parametrize("weights", [{}, {"place": 0.0}, {"place": -1.0, "shape": 2.0}, {"place": float("nan")}])
def test_weights_that_are_negative_not_finite_or_all_zero_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        ask(draw_scene(1), 1, 3, weights)


def test_an_unknown_kind_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"'shade'.*superlative"):
        ask(draw_scene(1), 1, 3, {"shade": 1.0})
