"""The probability of presence, the file of its calibration, and the binding of a calibration to weights."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.errors import CalibrationError, ResultError, StorageError
from sspsam.segmentation.calibration import Calibration, read_calibration, write_calibration
from sspsam.segmentation.features import FEATURES
from sspsam.shapes import ask, draw_scene
from tests.support.calibrations import calibration_with

SCENE = draw_scene(3, (120, 200), 6)
TEXTS = [question.text for question in ask(SCENE, 3, 8)]

WithCalibration = Callable[..., SSPSAMPredictor]


def test_the_probability_is_the_logistic_function_of_the_standardised_features(
    with_calibration: WithCalibration,
) -> None:
    predictor = with_calibration(intercept=0.3, max_logit=0.2, foreground_pixels=-0.1)
    for answer in predictor.predict(TEXTS, image=SCENE.pixels, return_features=True):
        assert answer.features is not None
        logit = 0.3 + 0.2 * answer.features["max_logit"] - 0.1 * np.log(1 + answer.foreground_pixels)
        assert answer.presence == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-12)


def test_values_outside_the_range_of_the_fit_count_as_its_ends() -> None:
    content = json.loads(calibration_with("a" * 64, max_logit=1.0).to_json())
    content["terms"] = [term for term in content["terms"] if term["name"] == "max_logit"]
    content["terms"][0] |= {"lowest": -1, "highest": 2}
    calibration = Calibration.from_json(json.dumps(content), "file")
    features = np.zeros((3, len(FEATURES)))
    features[:, FEATURES.index("max_logit")] = [-50, 0, 50]
    assert calibration.probabilities(features) == pytest.approx([1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2))])


@pytest.mark.parametrize("presence", [0.25, None])
def test_stored_answers_carry_the_probability(presence: float | None, with_calibration: WithCalibration) -> None:
    predictor = with_calibration(intercept=-1.0986122886681098)
    content = predictor.predict(TEXTS[0], image=SCENE.pixels).to_dict()
    assert content["presence"] == pytest.approx(0.25)
    assert Segmentation.from_dict({**content, "presence": presence}).presence == presence
    del content["presence"]
    assert Segmentation.from_dict(content).presence is None
    with pytest.raises(ResultError, match="presence"):
        Segmentation.from_dict({**content, "presence": 1.5})


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    calibration = calibration_with("b" * 64, 0.1, components=-2.5)
    assert write_calibration(calibration, tmp_path) == tmp_path / "calibration.json"
    assert read_calibration(tmp_path / "calibration.json") == calibration


def changed(**entries: Any) -> dict[str, Any]:
    return json.loads(calibration_with("c" * 64).to_json()) | entries


def with_term(**entries: Any) -> dict[str, Any]:
    content = changed()
    content["terms"][2] |= entries
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        (changed(type="other"), "type"),
        (changed(version=2), r"version is 2.*upgrade"),
        (changed(version=True), "version"),
        (changed(fingerprint="abc"), "fingerprint"),
        (changed(fingerprint=3), "fingerprint"),
        (changed(terms=[]), "terms is empty"),
        (changed(terms=[3]), r"terms\[0\]"),
        (changed(extra=1), "extra"),
        (changed(intercept=None), "intercept"),
        (json.dumps(changed()).replace('"intercept": 0.0', '"intercept": NaN'), "intercept"),
        ({key: value for key, value in changed().items() if key != "present"}, "present"),
        (changed(absent=0), "absent"),
        (changed(cross_validation={}), "cross_validation"),
        (with_term(name="beauty"), r"'beauty' is not known"),
        (with_term(name="components"), "twice"),
        (with_term(scale=0.0), "scale of 'mean_logit'"),
        (with_term(coefficient=1e400), "coefficient of 'mean_logit'"),
        (with_term(lowest=2.0, highest=1.0), "lowest of 'mean_logit'"),
        (with_term(mean="0"), r"terms\[2\].mean"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_the_key(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CalibrationError, match=rf"(?s)calibration\.json.*{words}"):
        read_calibration(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration .*none\.json"):
        read_calibration(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match=r"binary\.json.*UTF-8"):
        read_calibration(tmp_path / "binary.json")
    with pytest.raises(CalibrationError, match="regular file"):
        read_calibration(tmp_path)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def fingerprint_of(model: Path) -> str:
    return str(json.loads((model / "config.json").read_text())["fingerprint"])


def test_the_calibration_beside_the_weights_is_loaded_unless_another_choice_is_made(
    model: Path, tmp_path: Path
) -> None:
    beside = calibration_with(fingerprint_of(model), 1.0)
    write_calibration(beside, model)
    other = calibration_with(fingerprint_of(model), 2.0)
    file = write_calibration(other, tmp_path / "other.json")

    def loaded(choice: Any, name: Path = model) -> Calibration | None:
        return SSPSAMPredictor.from_pretrained(name, device="cpu", calibration=choice).calibration

    assert loaded(None) == loaded(None, model / "model.safetensors") == beside
    assert loaded(file) == loaded(str(file)) == loaded(other) == other
    assert loaded(False) is None


def test_a_calibration_of_another_model_is_refused_with_the_way_out(model: Path) -> None:
    path = write_calibration(calibration_with("0" * 64), model)
    with pytest.raises(CalibrationError, match=r"calibration\.json was fitted on another model.*calibration=False"):
        SSPSAMPredictor.from_pretrained(model, device="cpu")
    assert SSPSAMPredictor.from_pretrained(model, device="cpu", calibration=False).calibration is None
    with pytest.raises(CalibrationError, match="another model"):
        SSPSAMPredictor.from_pretrained(model, device="cpu", calibration=read_calibration(path))


def test_a_saved_model_has_its_calibration_bound_to_the_saved_weights(model: Path, tmp_path: Path) -> None:
    write_calibration(calibration_with(fingerprint_of(model), 1.0), model)
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu")
    config = predictor.save_pretrained(tmp_path / "half", dtype="float16")
    assert config.fingerprint != predictor.fingerprint
    saved = SSPSAMPredictor.from_pretrained(tmp_path / "half", device="cpu").calibration
    assert saved == calibration_with(config.fingerprint, 1.0)


def test_a_saved_calibration_is_in_the_home_folder_that_a_tilde_names(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "here" / "~").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    write_calibration(calibration_with(fingerprint_of(model)), model)
    SSPSAMPredictor.from_pretrained(model, device="cpu").save_pretrained("~/saved")
    assert SSPSAMPredictor.from_pretrained("~/saved", device="cpu").calibration is not None
    assert not list((tmp_path / "here" / "~").iterdir())


def test_saving_other_weights_removes_the_calibration_of_the_replaced_ones(model: Path) -> None:
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu")
    path = write_calibration(calibration_with(fingerprint_of(model)), model)
    predictor.save_pretrained(model)
    assert path.exists()  # the same weights
    predictor.save_pretrained(model, dtype="float16")
    assert not path.exists()
    path.write_text("notes of another program")
    with pytest.raises(StorageError, match=r"calibration\.json exists and is not of a checkpoint"):
        predictor.save_pretrained(model)
    assert path.exists()


def test_a_pickled_predictor_keeps_its_calibration(model: Path) -> None:
    calibration = calibration_with(fingerprint_of(model), 0.5)
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", calibration=calibration)
    assert pickle.loads(pickle.dumps(predictor)).calibration == calibration
    assert predictor.to("cpu").calibration == calibration
