"""The stored answers of the bundled model: they are its answers, compact, and read with care."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints.bundled import BUNDLED_DIRECTORY
from sspsam.checkpoints.format import read_config
from sspsam.evaluation.comparison import Differences, ReferenceAnswer
from sspsam.evaluation.stored_answers import (
    ANSWERS_NAME,
    ReferenceScene,
    digest_of_resized_images,
    load_answers,
    save_answers,
)
from sspsam.shapes import draw_scene

PATH = BUNDLED_DIRECTORY / ANSWERS_NAME
CONFIG = read_config(BUNDLED_DIRECTORY)
REMAKE = "python -m training.answers makes the file again"


def test_the_stored_answers_are_those_of_the_bundled_model() -> None:
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu", dtype="float32")
    found = Differences()
    for scene in load_answers(PATH, CONFIG).scenes:
        results = predictor.predict(scene.texts, image=scene.pixels, return_logits="low_res")
        found += Differences.between(results, scene.answers)
    # other processors and numbers of threads change logits by up to 3e-4; rounding by 6e-5
    assert found.max_logit_difference < 5e-4, REMAKE
    assert found.max_box_difference < 0.02
    assert found.mask_pixels_changed <= 5
    assert found.no_target_changed == 0


def test_the_stored_questions_have_several_shapes_of_images_and_no_target_answers() -> None:
    scenes = load_answers(PATH, CONFIG).scenes
    assert len(scenes) >= 8
    assert len({scene.pixels.shape for scene in scenes}) >= 8
    answers = [answer for scene in scenes for answer in scene.answers]
    assert len(answers) >= 40
    assert 5 <= sum(answer.no_target for answer in answers) <= len(answers) / 2
    assert all(answer.mask.any() != answer.no_target for answer in answers)


def test_every_version_of_pillow_resizes_the_stored_images_to_the_same_pixels() -> None:
    stored = load_answers(PATH, CONFIG)
    assert digest_of_resized_images([scene.pixels for scene in stored.scenes], CONFIG) == stored.resized_digest


def test_the_file_is_small() -> None:
    assert PATH.stat().st_size < 2_000_000  # 40 answers of 128 x 128 logits; the wheel stays below 25 MB


def some_answers() -> list[ReferenceScene]:
    rng = np.random.default_rng(1)
    logits = rng.normal(-20, 30, (2, 64, 64)).astype(np.float32)
    pixels = draw_scene(5, (40, 60)).pixels
    masks = rng.random((2, 40, 60)) < 0.3
    answers = [
        ReferenceAnswer(*values)
        for values in zip(logits, masks, (False, True), (0.25, 1 / 3), ((0.1, 2, 3, 4), (5, 6, 7, 8)), strict=True)
    ]
    return [ReferenceScene(pixels, ["a star", "an “é”"], answers)]


def test_a_written_file_is_read_with_logits_rounded_by_little_and_all_else_unchanged(tmp_path: Path) -> None:
    [written] = some_answers()
    save_answers(tmp_path / "answers.safetensors", [written], CONFIG, {"Pillow": "11.0.0"})
    stored = load_answers(tmp_path / "answers.safetensors", CONFIG)
    [read] = stored.scenes
    assert stored.made_with == {"Pillow": "11.0.0"}
    assert read.texts == written.texts
    assert np.array_equal(read.pixels, written.pixels)
    for ours, theirs in zip(read.answers, written.answers, strict=True):
        assert np.abs(ours.low_res_logits - theirs.low_res_logits).max() <= 7e-5
        assert np.array_equal(ours.mask, theirs.mask)
        assert (ours.no_target, ours.score, ours.box) == (theirs.no_target, theirs.score, theirs.box)


def test_answers_of_other_weights_are_refused_and_the_message_says_how_to_make_them(
    tmp_path: Path, tiny_model: Path
) -> None:
    save_answers(tmp_path / "answers.safetensors", some_answers(), CONFIG, {})
    with pytest.raises(errors.CheckpointError, match=r"another model.*training\.answers"):
        load_answers(tmp_path / "answers.safetensors", read_config(tiny_model))


@pytest.mark.parametrize("damage", ["missing", "cut", "no metadata", "logits", "image", "version"])
def test_a_damaged_file_is_one_named_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "answers.safetensors"
    save_answers(path, some_answers(), CONFIG, {})
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no metadata":
        save_file(tensors, path)
    elif damage == "version":
        content = json.loads(metadata["sspsam_answers"])
        save_file(tensors, path, {"sspsam_answers": json.dumps({**content, "version": 99})})
    else:
        tensors[f"{damage}.0"][:40] = 0
        save_file(tensors, path, metadata)
    with pytest.raises(errors.CheckpointError, match=r"answers\.safetensors.*damaged.*Reinstall"):
        load_answers(path, CONFIG)


def test_another_way_of_resizing_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [draw_scene(1, (40, 60)).pixels]
    before = digest_of_resized_images(images, CONFIG)
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, Image.Resampling.NEAREST))
    assert digest_of_resized_images(images, CONFIG) != before


def test_the_stored_file_is_part_of_a_copied_model(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED_DIRECTORY, tmp_path / "model")
    assert SSPSAMPredictor.from_pretrained(tmp_path / "model", device="cpu").fingerprint == CONFIG.fingerprint
    assert load_answers(tmp_path / "model" / ANSWERS_NAME, CONFIG).scenes
