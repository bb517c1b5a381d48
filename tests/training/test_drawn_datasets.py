"""Drawn data sets in the formats of their owners: every format has the same expressions and masks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.datasets.entry import Entry
from sspsam.shapes import draw_scene
from sspsam.shapes.words import NOUNS, SIZES
from tests.support.command import run_command
from training import card_tables, drawn_datasets
from training.drawn_scenes import drawn_scenes, hard_negative_scenes
from training.evaluate import HELD_OUT_SEED, questions

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module", params=["own", "second"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    renderer: str = request.param
    drawn_datasets.write_datasets(folder, drawn_scenes(renderer, HELD_OUT_SEED, 3, 8))
    return renderer, folder


def entries(folder: Path, dataset: str, split: str) -> list[Entry]:
    return read_dataset(dataset, split, data_root=folder)


def test_every_format_has_the_questions_of_the_evaluation(drawn: tuple[str, Path]) -> None:
    renderer, folder = drawn
    expected = [expression for _, asked in questions(renderer, 3, 8) for expression in asked]
    for dataset, split in (("grefcoco", "val"), ("jsonl", "rle"), ("jsonl", "mask"), ("jsonl", "polygons")):
        found = entries(folder, dataset, split)
        assert [entry.text for entry in found] == [expression.text for expression in expected]
        for entry, expression in zip(found, expected, strict=True):
            assert entry.image.is_file()
            assert entry.no_target == (not expression.mask.any())
            assert (entry.mask() == expression.mask).all()


def test_refcoco_has_the_expressions_with_one_target(drawn: tuple[str, Path]) -> None:
    _, folder = drawn
    every = {(entry.image, entry.text): entry for entry in entries(folder, "grefcoco", "val")}
    single = entries(folder, "refcoco", "val")
    assert 0 < len(single) < len(every)
    for entry in single:
        same = every[entry.image, entry.text]
        assert (entry.mask() == same.mask()).all()
        assert entry.box == same.box


@pytest.mark.parametrize("renderer", ["own", "second"])
def test_a_hard_negative_differs_in_one_word_from_an_expression_with_a_target(renderer: str) -> None:
    pairs = 0
    for scene in hard_negative_scenes(renderer, 5, 6, 8):
        union = np.any(scene.object_masks, axis=0)
        for present, absent in zip(scene.expressions[::2], scene.expressions[1::2], strict=True):
            first, second = present.text.split(), absent.text.split()
            assert present.mask.any()
            assert not (present.mask & ~union).any()
            assert not absent.mask.any()
            assert present.kind == "present"
            if absent.kind != "changed: kind":  # nouns may have several words
                assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
            assert absent.text not in [other.text for other in scene.expressions if other.mask.any()]
            pairs += 1
    assert pairs > 12


def test_a_hard_negative_describes_no_shape_of_the_scene() -> None:
    kinds = {word: kind for kind, words in NOUNS.items() for word in words}
    sizes = {word: size for size, words in SIZES.items() for word in words}
    for number, drawn_scene in enumerate(hard_negative_scenes("own", 11, 10, 10)):
        shapes = draw_scene(np.random.default_rng(11 + number)).shapes
        for expression in drawn_scene.expressions:
            *adjectives, color, noun = expression.text.replace("plus sign", "cross").split()[1:]
            size = sizes[adjectives[0]] if adjectives else None
            matching = [shape for shape in shapes if (shape.color, shape.kind) == (color, kinds[noun])]
            matching = [shape for shape in matching if size in (None, shape.size)]
            assert bool(matching) == (expression.kind == "present")
            assert expression.mask.sum() == sum(shape.area for shape in matching)


@pytest.mark.slow
def test_one_command_draws_and_the_command_of_a_user_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for renderer in ("own", "second"):
        folder = tmp_path / renderer
        arguments = ("--scenes", "2", "--questions", "4", "--renderer", renderer)
        monkeypatch.setattr(sys, "argv", ["drawn_datasets", str(folder), *arguments])
        drawn_datasets.main()
        for dataset, split in (("refcoco", "val"), ("grefcoco", "val"), ("jsonl", "rle")):
            evaluated = run_command(
                *("eval", "--dataset", dataset, "--split", split, "--data-root", folder, "--model", "shapes"),
                *("--device", "cpu", "-o", folder / "results" / dataset, "--worst", 0),
            )
            assert evaluated.exit_code == 0, evaluated.stderr
    assert "own: 8 expressions" in capsys.readouterr().out
    overall, kinds, formats = card_tables.tables(tmp_path).split("\n\n")
    assert overall.splitlines()[2].startswith("| the library's own, seeds that were not used in training | 8 | ")
    assert kinds.splitlines()[0] == "| kind of expression | own: mIoU | N-acc | second: mIoU | N-acc |"
    rows = [line.split(" | ") for line in formats.splitlines()[2:]]
    assert rows[1][2:] == rows[2][2:]  # gRefCOCO and JSONL have the same masks
