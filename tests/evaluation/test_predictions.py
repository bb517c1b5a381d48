"""Predictions of any program: every form of a mask gives the same numbers, and a mistake names its line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import EvaluationError
from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.predictions import read_official, score_predictions
from sspsam.evaluation.protocols import OFFICIAL, PHRASECUT, RELA, STANDARD
from sspsam.segmentation.rle import rle_encode, rle_runs
from tests.support.answers import answer
from tests.support.evaluation import DrawnEntry, drawn_entries, mask_of

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def drawn() -> tuple[list[DrawnEntry], list[np.ndarray], list[bool]]:
    """Entries with predicted masks and no-target answers."""
    with np.load(DATA / "evaluation_rela.npz") as file:
        arrays = dict(file)
    entries = drawn_entries(arrays, "gref")
    masks = [mask_of(arrays, "gref_pred_rle", index) for index in range(len(entries))]
    return entries, masks, arrays["gref_pred_no_target"].tolist()


@pytest.fixture
def entry() -> DrawnEntry:
    truth = np.zeros((4, 6), np.bool_)
    truth[1:3, 2:5] = True
    return DrawnEntry(Path("photos/cup.jpg"), "the cup", truth, (2, 1, 5, 3), False)


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": rle_runs(str(rle_encode(mask)["counts"]))}


def saved(mask: np.ndarray, path: Path) -> str:
    if path.suffix == ".npy":
        np.save(path, mask)
    else:
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path.name


@pytest.mark.parametrize("form", ["rle", "counts", "png", "npy"])
@pytest.mark.parametrize("protocol", [STANDARD, RELA])
def test_every_form_of_a_mask_gives_the_numbers_of_the_masks(drawn, form: str, protocol: str, tmp_path: Path) -> None:
    entries, masks, absent = drawn
    write = {
        "rle": lambda mask, index: rle_encode(mask),
        "counts": lambda mask, index: uncompressed(mask),
        "png": lambda mask, index: saved(mask, tmp_path / f"{index}.png"),
        "npy": lambda mask, index: saved(mask, tmp_path / f"{index}.npy"),
    }[form]
    lines = [
        {"text": entry.text, "mask": write(mask, index), "no_target": no_target}
        for index, (entry, mask, no_target) in enumerate(zip(entries, masks, absent, strict=True))
    ]
    records = list(score_predictions(written(tmp_path, *lines), entries, protocol))
    metrics = compute_metrics(records, protocol)
    assert metrics["gIoU"] == pytest.approx(0.4682984494979855, abs=1e-9)
    assert metrics["cIoU"] == pytest.approx(0.6643529397203937 if protocol == RELA else 0.6645359987492598, abs=1e-9)


def test_stored_answers_of_this_library_are_predictions(entry, tmp_path: Path) -> None:
    result = answer(entry.mask(), text="the cup")
    (record,) = score_predictions(written(tmp_path, result.to_dict()), [entry], STANDARD)
    assert (record.intersection, record.predicted_area, record.target_area) == (6, 6, 6)
    assert record.foreground_pixels == result.foreground_pixels
    assert record.box_iou is not None
    assert (record.image, record.text) == ("cup.jpg", "the cup")


def test_null_means_no_target_and_a_line_without_a_mask_is_missing_only_in_phrasecut(entry, tmp_path: Path) -> None:
    path = written(tmp_path, {"rle": None}, {"image": "elsewhere/cup.jpg"})
    empty, missing = score_predictions(path, [entry, entry], PHRASECUT)
    assert empty.predicted_no_target
    assert (empty.missing, missing.missing) == (False, True)
    with pytest.raises(EvaluationError, match="line 2: a prediction has `rle` or `mask`"):
        list(score_predictions(path, [entry, entry], STANDARD))


def test_a_folder_of_mask_files_may_lack_tasks_of_phrasecut(entry, tmp_path: Path) -> None:
    entries = [replace(entry, key=key) for key in ("1__10", "1__11", "1__12")]
    Image.fromarray(entry.mask()).save(tmp_path / "1__11.png")
    records = list(score_predictions(tmp_path, entries, PHRASECUT))
    assert [record.missing for record in records] == [True, False, True]
    metrics = compute_metrics(records, PHRASECUT)
    assert (metrics["mIoU"], metrics["mIoU_missing_as_empty"]) == (1, pytest.approx(1 / 3))
    with pytest.raises(EvaluationError, match="has no <task_id>"):
        list(score_predictions(tmp_path, entries[:1], PHRASECUT))


def test_chosen_entries_are_scored_alone(entry, tmp_path: Path) -> None:
    path = written(tmp_path, "damaged", {"rle": None}, "", {"rle": rle_encode(entry.mask())})
    records = list(score_predictions(path, [entry] * 3, STANDARD, indices=[2, 1]))
    assert [(record.index, record.predicted_area) for record in records] == [(2, 6), (1, 0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"rle": None, "text": "the mug"}, "about 'the mug', the entry about 'the cup'"),
        ({"rle": None, "image": "photos/mug.jpg"}, "about the image photos/mug.jpg, the entry about cup.jpg"),
        ({"rle": {"size": [6, 4], "counts": "h0"}}, r"has size \[6, 4\], its image \[4, 6\]"),
        ({"rle": {"size": [4, 6], "counts": [20]}}, "do not fill 4 x 6 pixels"),
        ({"rle": {"size": [4, 6], "counts": [-1, 25]}}, "do not fill 4 x 6 pixels"),
        ({"rle": {"size": [4, 6]}}, "run lengths are damaged"),
        ({"rle": 3}, "run lengths, the name of a file or null, not int"),
        ({"mask": "nowhere.png"}, "nowhere.png does not exist"),
        ({"mask": "colour.png"}, "mode RGB; save one channel"),
        ({"mask": "large.png"}, "has 9 x 9 pixels, its image 4 x 6"),
        ({"mask": "damaged.png"}, "damaged.png cannot be read"),
        ({"mask": "nan.npy"}, "nan.npy must hold finite numbers"),
        ({"rle": None, "box": [0, 0, 1]}, "box is "),
        ({"rle": None, "presence": 2}, "presence is 2"),
        ({"rle": None, "no_target": "yes"}, "no_target is 'yes'"),
        ('{"rle": ', "not valid JSON"),
        ([], "a JSON object, not list"),
    ],
)
def test_a_mistake_names_file_and_line(entry, line: Any, message: str, tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "colour.png")
    Image.new("L", (9, 9)).save(tmp_path / "large.png")
    np.save(tmp_path / "nan.npy", np.full((4, 6), np.nan))
    (tmp_path / "damaged.png").write_bytes((tmp_path / "large.png").read_bytes()[:20])
    path = written(tmp_path, {"rle": None}, line)
    with pytest.raises(EvaluationError, match=message) as caught:
        list(score_predictions(path, [entry, entry], STANDARD))
    assert f"{path}, line 2: " in str(caught.value)


def test_another_number_of_predictions_is_an_error(entry, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has 1 predictions, the split 2 expressions"):
        list(score_predictions(written(tmp_path, {"rle": None}), [entry, entry], STANDARD))


def test_protocol_and_kind_of_file_must_fit(entry, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="official needs an"):
        score_predictions(written(tmp_path, {"rle": None}), [entry], OFFICIAL)
    with pytest.raises(EvaluationError, match="every other protocol needs JSON lines"):
        score_predictions(tmp_path / "predictions.npz", [entry], STANDARD)
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        list(score_predictions(tmp_path / "nothing.jsonl", [entry], STANDARD))


def test_official_predictions_that_are_not_finite_name_the_file(entry, tmp_path: Path) -> None:
    logits = np.full((1, 8, 8), np.nan, np.float32)
    np.savez(tmp_path / "p.npz", low_res=logits, pred_box=np.zeros((1, 4), np.float32), clip_size=224)
    with pytest.raises(EvaluationError, match=r"p\.npz: entry 0: the logits or the box are not finite"):
        list(score_predictions(tmp_path / "p.npz", [entry], OFFICIAL))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low_res": np.zeros((2, 8, 9), np.float32)}, "low_res must be"),
        ({"low_res": np.zeros((2, 8, 8), np.int64)}, "both of floats"),
        ({"pred_box": np.zeros((3, 4), np.float32)}, "low_res must be"),
        ({"clip_size": 225}, "clip_size must be 224 or 336, not 225"),
        ({"clip_size": None}, "lacks an array: "),
        ({"low_res": np.array([None])}, "cannot be read as an .npz"),
    ],
)
def test_damaged_official_predictions_are_an_error(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {"low_res": np.zeros((2, 8, 8), np.float16), "pred_box": np.zeros((2, 4), np.float32), "clip_size": 224}
    np.savez(tmp_path / "p.npz", **{name: value for name, value in (arrays | change).items() if value is not None})
    with pytest.raises(EvaluationError, match=message):
        read_official(tmp_path / "p.npz")
