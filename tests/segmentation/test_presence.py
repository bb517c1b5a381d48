"""Features of answers, the probability of presence, its files, and the no-target rule that it decides."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sspsam
from sspsam import Segmentation, SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import CalibrationError, ConfigError, ResultError
from sspsam.models import SSPSAM
from sspsam.segmentation.features import FEATURES
from sspsam.segmentation.presence import Calibration, read_calibration, write_calibration
from sspsam.shapes import ask, draw_scene
from tests.support.calibrations import calibration_with

SCENE = draw_scene(3, (120, 200), 6)
TEXTS = [question.text for question in ask(SCENE, 3, 8)]


@pytest.fixture(scope="module")
def loaded() -> tuple[SSPSAM, ModelConfig]:
    return load_checkpoint(Path(sspsam.__file__).parent / "bundled" / "shapes")


@pytest.fixture(scope="module")
def plain(loaded: tuple[SSPSAM, ModelConfig]) -> SSPSAMPredictor:
    return SSPSAMPredictor(*loaded, device="cpu")


WithCalibration = Callable[..., SSPSAMPredictor]


@pytest.fixture(scope="module")
def with_calibration(loaded: tuple[SSPSAM, ModelConfig]) -> WithCalibration:
    """Return a predictor of the same weights with a calibration of some coefficients."""

    def make(intercept: float = 0.0, **terms: float) -> SSPSAMPredictor:
        calibration = calibration_with(loaded[1].fingerprint, intercept, **terms)
        return SSPSAMPredictor(*loaded, device="cpu", calibration=calibration)

    return make


def flood_count(mask: NDArray[np.bool_]) -> int:
    """Number of 8-connected components, by flood fill."""
    left, count = set(zip(*np.nonzero(mask), strict=True)), 0
    while left:
        stack, count = [left.pop()], count + 1
        while stack:
            y, x = stack.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
    return count


def test_features_are_what_their_names_say(plain: SSPSAMPredictor) -> None:
    answers = plain.predict(TEXTS, image=SCENE.pixels, return_features=True, return_logits="low_res", explain=True)
    assert {answer.no_target for answer in answers} == {False, True}
    for answer in answers:
        assert answer.features is not None
        assert answer.low_res_logits is not None
        assert answer.explanation is not None
        logits, maps = answer.low_res_logits.astype(np.float64), answer.explanation
        inside = logits >= 0
        mean = logits[inside].mean() if inside.any() else logits.max()
        expected = {
            "foreground_pixels": answer.foreground_pixels,
            "max_logit": logits.max(),
            "mean_logit": mean,
            "margin": mean - logits[~inside].mean(),
            "similarity_peak": maps.similarity.max(),
            "similarity_spread": maps.similarity.astype(np.float64).std(),
            "verification_peak": maps.verification.max(),
            "verification_spread": maps.verification.astype(np.float64).std(),
            "predicted_iou": answer.score,
            "components": flood_count(inside),
        }
        assert list(answer.features) == list(FEATURES)
        for name, value in expected.items():
            assert answer.features[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_the_agreement_of_the_boxes_is_their_iou_on_the_image(plain: SSPSAMPredictor) -> None:
    answers = plain.predict(TEXTS, image=SCENE.pixels, return_features=True, no_target_pixels=0)
    for answer in answers:
        assert answer.features is not None
        if answer.mask_box is None:
            assert answer.features["box_agreement"] == 0
            continue
        (a, b, c, d), (e, f, g, h) = answer.box, answer.mask_box
        shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
        iou = shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)
        # the box of the mask is taken at the low resolution: its edges may be off by half a pixel of 1.6
        assert answer.features["box_agreement"] == pytest.approx(iou, abs=0.12)


def test_features_are_not_returned_unless_they_are_wanted(plain: SSPSAMPredictor) -> None:
    answer = plain.predict(TEXTS[0], image=SCENE.pixels)
    assert (answer.features, answer.presence) == (None, None)


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


def test_masks_scores_and_the_default_rule_do_not_depend_on_a_calibration(
    plain: SSPSAMPredictor, with_calibration: WithCalibration
) -> None:
    calibrated = with_calibration(max_logit=1.0)
    results = [
        predictor.predict(TEXTS, image=SCENE.pixels, return_logits="low_res") for predictor in (plain, calibrated)
    ]
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.low_res_logits, other.low_res_logits)  # type: ignore[arg-type]
        assert (one.score, one.box, one.no_target) == (other.score, other.box, other.no_target)


def test_with_a_threshold_the_probability_and_an_empty_mask_decide(with_calibration: WithCalibration) -> None:
    predictor = with_calibration(max_logit=0.3)
    embedding = predictor.encode(SCENE.pixels)
    whole = predictor.predict(TEXTS, embedding=embedding, no_target_pixels=0)
    threshold = sorted(answer.presence or 0 for answer in whole)[len(TEXTS) // 2]
    for limit in (0.0, threshold, 1.0):
        answers = predictor.predict(TEXTS, embedding=embedding, presence_threshold=limit)
        for answer, other in zip(answers, whole, strict=True):
            assert answer.presence == other.presence
            assert answer.presence is not None
            has_target = answer.presence >= limit and other.mask.any()
            assert answer.no_target == (not has_target)
            assert np.array_equal(answer.mask, other.mask if has_target else np.zeros_like(other.mask))
            assert (answer.mask_box is None) == answer.no_target


def test_a_probable_target_keeps_a_mask_that_the_rule_about_pixels_would_empty(
    with_calibration: WithCalibration,
) -> None:
    predictor = with_calibration(intercept=5.0)
    answers = predictor.predict(TEXTS, image=SCENE.pixels, presence_threshold=0.5, mask_threshold=1e-6)
    small = [answer for answer in answers if answer.foreground_pixels < 50 and answer.mask.any()]
    assert small
    assert not any(answer.no_target for answer in small)


def test_a_threshold_without_a_calibration_names_the_way_out(plain: SSPSAMPredictor) -> None:
    with pytest.raises(ConfigError, match=r"sspsam calibrate.*calibration=FILE"):
        plain.predict("a star", image=SCENE.pixels, presence_threshold=0.5)
    with pytest.raises(ConfigError, match="calibration"):
        plain.predict_batch([SCENE.pixels], ["a star"], presence_threshold=0.5)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "half", True])
def test_a_threshold_that_is_no_probability_is_refused(value: Any, with_calibration: WithCalibration) -> None:
    with pytest.raises(ConfigError, match="presence_threshold"):
        with_calibration().predict("a star", image=SCENE.pixels, presence_threshold=value)


def test_two_rules_at_once_are_refused(with_calibration: WithCalibration) -> None:
    with pytest.raises(ConfigError, match="no_target_pixels and presence_threshold"):
        with_calibration().predict("a star", image=SCENE.pixels, presence_threshold=0.5, no_target_pixels=10)


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
    predictor.save_pretrained(model)
    assert path.exists()


def test_a_pickled_predictor_keeps_its_calibration(model: Path) -> None:
    calibration = calibration_with(fingerprint_of(model), 0.5)
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", calibration=calibration)
    assert pickle.loads(pickle.dumps(predictor)).calibration == calibration
    assert predictor.to("cpu").calibration == calibration


@pytest.mark.cuda
def test_features_of_a_recorded_gpu_graph_are_those_of_the_cpu(with_calibration: WithCalibration) -> None:
    predictor = with_calibration(-1.0, max_logit=0.3, components=0.2)
    expected = predictor.predict(TEXTS, image=SCENE.pixels, return_features=True)
    predictor.to("cuda")
    for _ in range(2):  # recorded, replayed
        results = predictor.predict(TEXTS, image=SCENE.pixels, return_features=True)
        for result, answer in zip(results, expected, strict=True):
            assert result.features == pytest.approx(answer.features, rel=1e-3, abs=1e-3)
            assert result.presence == pytest.approx(answer.presence, abs=1e-3)
