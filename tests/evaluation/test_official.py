"""The authors' evaluation: integers, boxes and metrics that their own code computed on drawn data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam.config import PUBLISHED, ModelConfig
from sspsam.errors import EvaluationError
from sspsam.evaluation.metrics import compute_metrics, counted_official
from sspsam.evaluation.official import (
    OfficialFrame,
    box_in_image,
    box_iou,
    official_record,
    prediction_in_frame,
    truth_in_frame,
)
from sspsam.evaluation.predictions import score_predictions
from sspsam.evaluation.protocols import OFFICIAL
from sspsam.evaluation.records import Record, columns_of
from tests.support.evaluation import drawn_entries

AUTHORS_NAMES = {
    "mIoU": "G_iou(Mean_iou)",
    "gIoU": "G_iou(Mean_iou)",
    "oIoU": "C_iou(Overal_iou)",
    "cIoU": "C_iou(Overal_iou)",
    "N-acc": "No_target_acc",
    "T-acc": "target_acc",
}


@pytest.fixture(scope="module")
def arrays(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "evaluation" / "eval_official.npz") as file:
        return dict(file)


def predictions_file(arrays, data: str, clip_size: int, folder: Path) -> Path:
    path = folder / "predictions.npz"
    np.savez(path, low_res=arrays[f"{data}_low_res"], pred_box=arrays[f"{data}_pred_box"], clip_size=clip_size)
    return path


def authors_name(key: str) -> str | None:
    """The authors' name of a key of `metrics.json`."""
    name, _, threshold = key.partition("@")
    if threshold:
        return f"{'Mask_Pr' if name == 'Pr' else 'Acc'}@{float(threshold):.2f}"
    return AUTHORS_NAMES.get(key)


@pytest.mark.parametrize(("clip_size", "torchvision_017"), [(336, False), (224, False), (336, True)])
@pytest.mark.parametrize("data", ["gref", "ref"])
def test_every_number_of_the_authors_is_reproduced(
    arrays, data: str, clip_size: int, torchvision_017: bool, tmp_path: Path
) -> None:
    path = predictions_file(arrays, data, clip_size, tmp_path)
    records = list(score_predictions(path, drawn_entries(arrays, data), OFFICIAL, torchvision_017=torchvision_017))
    boxes = arrays[f"{data}_box_iou{'' if clip_size == 336 else '_224'}"]
    assert np.abs(np.array([record.box_iou for record in records]) - boxes).max() < 1e-6
    counted = counted_official(columns_of(records))
    if not torchvision_017:
        for name, values in (("I", counted.intersection), ("U", counted.union), ("iou", counted.iou)):
            assert np.array_equal(values, arrays[f"{data}_{name}"])
        assert [record.target_area for record in records] == arrays[f"{data}_gt_area512"].tolist()
        assert [record.predicted_area for record in records] == arrays[f"{data}_pred_area512"].tolist()
    theirs = json.loads(str(arrays["metrics_json"]))
    expected = theirs[data + ("_torchvision_0.17_and_later" if torchvision_017 else "")]
    expected |= theirs[f"{data}_224_boxes"] if clip_size == 224 else {}
    ours = {authors_name(key): value for key, value in compute_metrics(records, OFFICIAL).items()}
    assert set(expected) <= set(ours)
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert all(ours[name] is None for name in set(AUTHORS_NAMES.values()) - set(expected))


@pytest.mark.parametrize(("torchvision_017", "name"), [(False, "gt512"), (True, "gt512_torchvision017")])
@pytest.mark.parametrize("data", ["gref", "ref"])
def test_every_pixel_of_the_truth_in_the_frame_is_theirs(arrays, data: str, torchvision_017: bool, name: str) -> None:
    frame = OfficialFrame(336, torchvision_017=torchvision_017)
    for entry, packed in zip(drawn_entries(arrays, data), arrays[f"{data}_{name}"], strict=True):
        assert np.array_equal(truth_in_frame(entry.mask(), frame), np.unpackbits(packed, axis=-1) > 0)


def test_the_sigmoid_takes_the_values_just_below_zero_that_theirs_takes(arrays) -> None:
    for value, by_sigmoid, _ in arrays["edge_sigmoid"]:
        low_res = torch.full((256, 256), float(value))
        assert prediction_in_frame(low_res, OfficialFrame(336)).any() == (by_sigmoid > 0)


def test_a_small_target_may_vanish_in_the_frame_and_then_counts_as_no_target() -> None:
    truth = np.zeros((512, 2048), np.bool_)
    truth[:, -1] = True
    nothing = torch.full((256, 256), -1.0)
    record = official_record(0, truth, (2047, 0, 2048, 512), nothing, np.full(4, 0.5), OfficialFrame(336))
    assert record.no_target
    assert record.predicted_no_target


@pytest.mark.parametrize("variant", ["224", "336"])
def test_the_sizes_of_the_published_models_are_those_of_the_authors(variant: str) -> None:
    config = ModelConfig(architecture=PUBLISHED[variant])
    assert OfficialFrame.of(config) == OfficialFrame(int(variant), 1024, 512, torchvision_017=False)


def test_padding_counts() -> None:
    low_res = torch.full((256, 256), -1.0)
    low_res[200:] = 1.0  # below an image that is twice as wide as high
    truth = np.zeros((100, 200), np.bool_)
    truth[:50] = True
    record = official_record(0, truth, (0, 0, 200, 50), low_res, np.full(4, 0.5), OfficialFrame(224))
    assert record.predicted_area > 512 * 100
    assert record.intersection == 0


@pytest.mark.parametrize(("side", "iou"), [(3.0, 1.0), (3.5, 0.0)])
def test_an_absent_box_is_met_by_fewer_than_ten_square_pixels(side: float, iou: float) -> None:
    box = np.array([5, 5, 5 + side, 5 + side], np.float32)
    assert box_iou(np.zeros(4, np.float32), box) == iou


def test_the_size_in_the_square_is_rounded_as_the_authors_round_it() -> None:
    assert 340 * (224 / 1280) < 340 * 224 / 1280 == 59.5  # the authors' product rounds to 59, the exact one to 60
    box = box_in_image(np.array([0.5, 0.5, 1, 0.1], np.float32), 340, 1280, 224)
    assert box[1] == pytest.approx((0.45 * 224 - 82) * 340 / 59, abs=1e-3)


def test_boxes_without_an_area_never_reach_a_threshold() -> None:
    point = np.array([3, 3, 3, 3], np.float32)
    assert box_iou(point, point) == 0
    line = box_in_image(np.array([0.5, 0.5, 1, 1], np.float32), 1, 5000, 224)  # its height rounds to 0
    assert box_iou(np.array([0, 0, 5000, 1], np.float32), line) == 0


def test_fifty_pixels_decide_about_an_absent_target() -> None:
    def iou(pixels: int) -> float:
        return float(counted_official(columns_of([Record(0, True, pixels < 50, 0, pixels, 0)])).iou[0])

    assert [iou(49), iou(50)] == [1, 0]


def test_counts_of_the_authors_divide_by_the_absent_ones_only() -> None:
    exact = [Record(index, False, False, 9, 9, 9, 1.0) for index in range(3)]
    metrics = compute_metrics([*exact, Record(3, True, True, 0, 0, 0, 1.0)], OFFICIAL)
    assert metrics["N-acc"] == 4  # every IoU of exactly 1 is counted, over one absent target
    assert metrics["T-acc"] == 0  # and never as a target that was found


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="entry 7: the logits or the box are not finite"):
        official_record(
            7, np.ones((4, 4), np.bool_), None, np.full((8, 8), np.nan, np.float32), np.ones(4), OfficialFrame(224)
        )
