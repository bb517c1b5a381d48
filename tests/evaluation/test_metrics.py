"""Metrics from records: ReLA's own numbers, closed forms, and other libraries' answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from sspsam.errors import EvaluationError
from sspsam.evaluation.metrics import compute_metrics, counted_emptied, counted_rela
from sspsam.evaluation.presence import auroc, expected_calibration_error, matthews_correlation
from sspsam.evaluation.protocols import PROTOCOLS, RELA, STANDARD, image_record, missing_record
from sspsam.evaluation.records import Record, columns_of
from tests.support.evaluation import drawn_entries, mask_of

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(DATA / "evaluation_rela.npz") as file:
        return dict(file)


def rela_records(arrays, data: str, emptied: bool) -> list[Record]:
    records = []
    for index, entry in enumerate(drawn_entries(arrays, data)):
        absent = bool(arrays[f"{data}_pred_no_target"][index])
        mask = mask_of(arrays, f"{data}_pred_rle", index) & ~np.bool_(emptied and absent)
        truth, no_target = entry.mask(), entry.no_target
        records.append(image_record(index, truth, mask, no_target=no_target, predicted_no_target=absent))
    return records


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("data", ["gref", "ref"])
def test_every_number_of_relas_evaluator_is_reproduced(arrays, data: str, emptied: bool) -> None:
    kind = f"{data}_{'emptied' if emptied else 'raw'}"
    records = rela_records(arrays, data, emptied)
    counted = counted_rela(columns_of(records))
    for name, values in zip(("I", "U", "iou"), counted, strict=True):
        assert np.array_equal(values, arrays[f"{kind}_{name}"])
    (theirs,) = json.loads(str(arrays["metrics_json"]))[kind].values()
    expected = {key.replace("_", "-"): value if "acc" in key else value / 100 for key, value in theirs.items()}
    metrics = compute_metrics(records, RELA)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert metrics["mIoU"] is None
    assert metrics["Pr@0.5"] is None


def test_standard_counts_like_rela_with_emptied_masks_from_either_kind_of_mask(arrays) -> None:
    for emptied in (False, True):
        counted = counted_emptied(columns_of(rela_records(arrays, "gref", emptied)))
        assert np.array_equal(counted.union, arrays["gref_emptied_U"])
        assert np.array_equal(counted.intersection, arrays["gref_emptied_I"])


def test_standard_numbers_of_four_expressions_are_those_worked_out_by_hand() -> None:
    records = [
        Record(0, False, False, 6, 8, 8, box_iou=0.5),  # 6 / 10
        Record(1, False, True, 5, 5, 20, box_iou=0.95),  # predicted no-target: 0 / 20
        Record(2, True, True, 0, 30, 0),  # right: 1
        Record(3, True, False, 0, 10, 0),  # wrong: 0 / 10
    ]
    metrics = compute_metrics(records, STANDARD)
    expected = {
        "oIoU": 6 / 30,
        "mIoU": 0.3,
        "Pr@0.5": 0.5,
        "Pr@0.6": 0.5,
        "Pr@0.7": 0.0,
        "gIoU": 1.6 / 4,
        "cIoU": 6 / 40,
        "N-acc": 0.5,
        "T-acc": 0.5,
        "Acc@0.5": 1.0,
        "Acc@0.6": 0.5,
        "presence/MCC": 0.0,
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert (metrics["n"], metrics["n_target"], metrics["n_no_target"]) == (4, 2, 2)


def test_every_protocol_has_the_shared_keys_without_trailing_zeros_and_null_for_what_does_not_apply() -> None:
    shared = set(compute_metrics([], STANDARD))
    for protocol in PROTOCOLS:
        metrics = compute_metrics([], protocol)
        assert shared <= set(metrics)
        assert not [key for key in metrics if "@" in key and key.endswith("0")]
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert compute_metrics([], STANDARD)["mIoU"] is None
    assert compute_metrics([Record(0, False, False, 1, 1, 1)], STANDARD)["N-acc"] is None


def test_records_of_shards_give_the_same_bits_in_any_order() -> None:
    generator = np.random.default_rng(3)
    records = []
    for index in range(300):
        predicted, target = generator.integers(1, 1000, 2).tolist()
        shared = int(generator.integers(0, min(predicted, target) + 1))
        records.append(Record(index, False, False, shared, predicted, target, float(generator.random())))
    for protocol in PROTOCOLS:
        assert compute_metrics(records[1::2] + records[::2], protocol) == compute_metrics(records, protocol)
    with pytest.raises(EvaluationError, match="two records have the index 5"):
        compute_metrics([*records, records[5]])


def test_a_missing_prediction_is_an_error_except_in_phrasecut() -> None:
    missing = missing_record(0, np.ones((2, 2), np.bool_))
    with pytest.raises(EvaluationError, match="1 predictions are missing"):
        compute_metrics([missing], STANDARD)
    assert compute_metrics([missing], "phrasecut")["mIoU"] is None
    with pytest.raises(EvaluationError, match="unknown protocol 'coco'"):
        compute_metrics([], "coco")


def test_masks_of_different_sizes_are_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"entry 3: .*\(2, 3\), the truth \(3, 2\)"):
        image_record(3, np.ones((3, 2), np.bool_), np.ones((2, 3), np.bool_))


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = np.random.default_rng(0)
    present, score = generator.random(200) < 0.4, generator.integers(0, 20, 200).astype(np.float64)
    difference = score[present][:, None] - score[~present][None]
    assert auroc(present, score) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
    assert auroc(np.ones(3, np.bool_), np.arange(3.0)) is None


def test_matthews_correlation_is_that_of_the_confusion_matrix() -> None:
    present = np.repeat([True, True, False, False], [40, 10, 5, 45])
    predicted = np.repeat([True, False, True, False], [40, 10, 5, 45])
    assert matthews_correlation(present, predicted) == pytest.approx((40 * 45 - 5 * 10) / (45 * 55 * 50 * 50) ** 0.5)
    assert matthews_correlation(present, np.ones(100, np.bool_)) == 0
    assert matthews_correlation(np.ones(3, np.bool_), np.ones(3, np.bool_)) is None


def test_calibration_error_is_zero_for_honest_probabilities_and_the_distance_otherwise() -> None:
    present = np.repeat([True, False], [70, 30])
    assert expected_calibration_error(present, np.full(100, 0.7)) == pytest.approx(0)
    assert expected_calibration_error(present, np.full(100, 0.9)) == pytest.approx(0.2)
    assert expected_calibration_error(present, np.where(present, 1.0, 0.0)) == 0
