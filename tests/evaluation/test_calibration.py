"""The fit of calibrations, against another optimiser and on data whose probabilities are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sspsam.errors import EvaluationError
from sspsam.evaluation.calibration import LabelledFeatures, fit_calibration, labelled_features
from sspsam.evaluation.presence import expected_calibration_error
from sspsam.evaluation.records import Record, read_records, write_records
from sspsam.segmentation.calibration import Calibration
from sspsam.segmentation.features import FEATURES
from tests.support.calibrations import synthetic_records

MODEL = "a" * 64
RECORDS = synthetic_records(600, MODEL)


def fitted(records: list[Record]) -> Calibration:
    return fit_calibration(labelled_features(records, MODEL), MODEL)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fitted(RECORDS)


def test_the_fit_is_that_of_another_optimiser(calibration: Calibration) -> None:
    data = labelled_features(RECORDS, MODEL)
    names = [term.name for term in calibration.terms]
    assert set(FEATURES) - set(names) == {"similarity_peak"}  # constant
    columns = data.features[:, [FEATURES.index(name) for name in names]]
    for place, name in enumerate(names):
        if name in ("foreground_pixels", "components"):
            columns[:, place] = np.log(1 + columns[:, place])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    x, y = torch.from_numpy(columns), torch.from_numpy(data.present.astype(float))
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, intercept], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + intercept, y, reduction="sum")
        value = entropy + calibration.cross_validation.regularization / 2 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert [term.coefficient for term in calibration.terms] == pytest.approx(weights.tolist(), abs=1e-5)
    assert calibration.intercept == pytest.approx(intercept.item(), abs=1e-5)
    expected = torch.sigmoid(x @ weights + intercept).detach().numpy()
    assert calibration.probabilities(data.features) == pytest.approx(expected, abs=1e-5)


def test_the_probabilities_are_those_that_the_truth_was_drawn_from(calibration: Calibration) -> None:
    unseen = labelled_features(synthetic_records(4000, MODEL, seed=1), MODEL)
    probability = calibration.probabilities(unseen.features)
    true = 1 / (1 + np.exp(-2 * unseen.features[:, FEATURES.index("max_logit")] - 0.5))
    assert np.abs(probability - true).mean() < 0.05
    assert expected_calibration_error(unseen.present, probability) < 0.05
    assert abs(calibration.cross_validation.auroc - 0.9) < 0.06
    assert abs(calibration.cross_validation.count_auroc - 0.5) < 0.06  # the count says nothing here


def test_the_order_of_the_records_and_of_the_files_changes_nothing(calibration: Calibration) -> None:
    shuffled = [RECORDS[place] for place in np.random.default_rng(5).permutation(len(RECORDS))]
    assert fitted(shuffled) == calibration


def test_all_expressions_about_an_image_are_held_out_together() -> None:
    # the truth is a property of the image that one feature repeats: a fit that has seen the image knows it
    rng, rows = np.random.default_rng(0), []
    for image in range(60):
        rows += [(image, rng.normal(), image % 2 == 0)] * 4
    features = np.zeros((len(rows), len(FEATURES)))
    features[:, 1] = [value for _, value, _ in rows]
    groups, present = np.array([image for image, _, _ in rows]), np.array([truth for _, _, truth in rows])
    quality = fit_calibration(LabelledFeatures(features, present, groups), MODEL).cross_validation
    assert quality.log_loss > 0.65  # no better than chance, ln 2 = 0.69
    assert quality.folds == 5


@pytest.mark.parametrize("absent", [True, False])
def test_fewer_than_fifty_of_a_kind_are_refused(absent: bool) -> None:
    kept = [record for record in RECORDS if record.no_target != absent]
    kept += [record for record in RECORDS if record.no_target == absent][:49]
    with pytest.raises(EvaluationError, match=r"49 .*at least 50 of each kind"):
        fitted(kept)
    fitted([*kept, next(record for record in RECORDS if record.no_target == absent and record not in kept)])


def test_records_of_another_model_are_refused() -> None:
    with pytest.raises(EvaluationError, match="another model"):
        labelled_features([replace(RECORDS[0], fingerprint="b" * 64)], MODEL)


def test_records_without_features_or_with_some_missing_are_refused() -> None:
    with pytest.raises(EvaluationError, match="no features"):
        labelled_features([replace(RECORDS[0], features=None)], MODEL)
    features = {name: value for name, value in (RECORDS[0].features or {}).items() if name != "margin"}
    with pytest.raises(EvaluationError, match="lacks the features margin"):
        labelled_features([replace(RECORDS[0], features=features)], MODEL)


def test_a_file_that_is_given_twice_is_noticed() -> None:
    with pytest.raises(EvaluationError, match="occurs twice"):
        labelled_features([*RECORDS, RECORDS[3]], MODEL)


def test_a_feature_that_is_not_finite_is_refused_with_its_line(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(RECORDS[:3], path)
    assert read_records(path) == RECORDS[:3]
    value = str(RECORDS[1].features["margin"])  # type: ignore[index]
    for damage in ("NaN", "null", '"1"', "true"):
        path.write_text("".join(record.to_json() + "\n" for record in RECORDS[:3]).replace(value, damage))
        with pytest.raises(EvaluationError, match=r"records\.jsonl, line 2.*'margin'"):
            read_records(path)
    data = labelled_features(RECORDS, MODEL)
    data.features[0, 0] = np.nan
    with pytest.raises(EvaluationError, match="not finite"):
        fit_calibration(data, MODEL)


def test_records_that_say_nothing_about_presence_are_refused() -> None:
    with pytest.raises(EvaluationError, match="all records are about one image"):
        fitted([replace(record, image="a.png") for record in RECORDS])
    with pytest.raises(EvaluationError, match="every feature is the same in all records"):
        fitted([replace(record, features=dict.fromkeys(FEATURES, 1.0)) for record in RECORDS])
    features = {**RECORDS[0].features, "components": -1}  # type: ignore[dict-item]
    with pytest.raises(EvaluationError, match="has a negative count components"):
        fitted([replace(RECORDS[0], features=features), *RECORDS[1:]])


def test_separable_records_give_finite_coefficients() -> None:
    records = [
        replace(record, no_target=record.features["max_logit"] < 0)  # type: ignore[index]
        for record in RECORDS
    ]
    calibration = fitted(records)
    assert calibration.cross_validation.auroc > 0.999
    assert all(abs(term.coefficient) < 1e3 for term in calibration.terms)
