"""The self-test of a device, on the CPU and on a simulated accelerator."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor, errors
from sspsam.evaluation import self_test
from sspsam.evaluation.environment import device_name, memory_bytes, versions
from sspsam.evaluation.self_test import Checkpoint, ImageQuestions, run_self_test
from sspsam.models import SSPSAM, ExpressionFeatures, Prediction, PreparedImage
from sspsam.models.trials import TriedKernels
from tests.support.device_mode import simulated_device
from tests.support.self_test import shorten_self_test


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test asks four questions about one scene."""
    shorten_self_test(monkeypatch)


def shift_logits(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    segment = SSPSAM.segment

    def shifted(model: SSPSAM, image: PreparedImage, expressions: ExpressionFeatures) -> Prediction:
        prediction = segment(model, image, expressions)
        return prediction._replace(low_res=prediction.low_res + shift)

    monkeypatch.setattr(SSPSAM, "segment", shifted)


@pytest.mark.slow
def test_the_cpu_passes_its_own_test() -> None:
    report = run_self_test("cpu")
    assert report.ok
    assert report.bundled is not None
    assert report.bundled.differences.questions == 40
    assert report.bundled.differences.max_logit_difference < 1e-3
    assert set(report.bundled.milliseconds) == {"new_image", "further_expression"}
    assert min(report.bundled.milliseconds.values()) > 0
    assert report.notes == []
    assert report.to_dict()["checkpoint"] is None


def test_a_wrong_answer_is_measured_and_is_a_problem(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shift_logits(monkeypatch, 0.01)
    report = run_self_test("cpu", "float32")
    assert not report.ok
    assert report.bundled is not None
    assert report.bundled.differences.max_logit_difference == pytest.approx(0.01, abs=1e-3)
    assert report.problems == ["shapes: logits differ by 0.01, more than 0.001"]


def test_a_difference_that_is_no_number_is_null_in_json(short: None) -> None:
    report = run_self_test("cpu", "float32")
    assert report.bundled is not None
    wrong = dataclasses.replace(report.bundled.differences, max_logit_difference=float("nan"))
    values = dataclasses.replace(report.bundled, differences=wrong).to_dict()
    assert values["max_logit_difference"] is None
    assert values == report.bundled.to_dict() | {"max_logit_difference": None}
    json.dumps(values, allow_nan=False)


def test_images_that_pillow_resizes_differently_are_noted(short: None) -> None:
    [note] = run_self_test("cpu", "bfloat16").notes
    assert "Pillow" in note


class Bundled:
    """The bundled predictor, on the CPU whatever device is asked for."""

    @staticmethod
    def from_pretrained(name: str, **options: object) -> SSPSAMPredictor:
        return SSPSAMPredictor.from_pretrained(name, device="cpu")


def test_kernels_that_do_not_work_on_a_gpu_are_noted(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = "norms in float16: PyTorch's operators on cuda:0, the kernel does not work there"
    monkeypatch.setattr(self_test, "failed_trials", lambda device, kernels: [failed])
    monkeypatch.setattr(self_test, "checked_device", torch.device)
    monkeypatch.setattr(self_test, "device_name", str)
    monkeypatch.setattr(self_test, "_check", lambda *_: None)
    monkeypatch.setattr(self_test, "SSPSAMPredictor", Bundled)
    assert run_self_test("cuda", "float16").notes[-1] == failed
    assert failed not in run_self_test("cpu", "float32").notes


def test_all_kernels_of_the_package_can_be_named_where_they_fail() -> None:
    names = [name for name in sys.modules if name.startswith("sspsam.")]
    values = [value for name in names for value in vars(sys.modules[name]).values()]
    assert {kernels for kernels in values if isinstance(kernels, TriedKernels)} == set(self_test.KERNELS)


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_its_own_float32_answers(
    short: None, tiny_model: Path, image: np.ndarray
) -> None:
    questions = [ImageQuestions(image, ["the mug", "a cat"])]
    report = run_self_test("cpu", "bfloat16", Checkpoint(str(tiny_model)), questions)
    assert report.checkpoint is not None
    assert report.checkpoint.model == str(tiny_model)
    assert report.checkpoint.differences.questions == 2
    assert report.checkpoint.differences.mask_pixels == 2 * 60 * 90
    assert report.checkpoint.differences.max_logit_difference > 0
    exact = run_self_test("cpu", "float32", Checkpoint(str(tiny_model)))
    assert exact.checkpoint is not None
    assert exact.checkpoint.differences.questions == 4  # the drawn scenes
    assert exact.checkpoint.differences.max_logit_difference == 0


@pytest.mark.slow
def test_an_accelerator_that_computes_rightly_passes(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 123)
    with simulated_device("mps"):
        report = run_self_test("mps")
    assert report.ok, report.problems
    assert (report.device, report.dtype) == ("mps", "float32")
    assert report.bundled is not None
    assert report.bundled.memory_bytes == 123


def test_an_operator_that_the_device_lacks_ends_the_test_with_one_line_and_the_versions() -> None:
    with simulated_device("mps", lambda name: "native_layer_norm" in name):
        report = run_self_test("mps")
    assert not report.ok
    assert report.error is not None
    assert "device 'mps' failed: The operator 'aten.native_layer_norm.default'" in report.error
    assert "\n" not in report.error
    numbers = report.to_dict()
    assert numbers["max_logit_difference"] is numbers["milliseconds"] is None
    assert numbers["versions"]["torch"] == torch.__version__


def test_an_unknown_checkpoint_is_an_error_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "stored_answers", None)
    with pytest.raises(errors.CheckpointNotFoundError):
        run_self_test("cpu", checkpoint=Checkpoint(str(tmp_path / "none")))


def test_the_versions_name_everything_that_a_report_of_a_bug_needs() -> None:
    found = versions()
    names = "sspsam Python torch CUDA cuDNN torchvision open_clip segment_anything numpy Pillow safetensors"
    for name in [*names.split(), "CUDA driver", "ROCm", "huggingface_hub", "platform", "CPU", "GPU", "threads"]:
        assert name in found
    assert "unknown" not in found.values()
    assert found["numpy"] == np.__version__
    assert device_name(torch.device("cpu")) == found["CPU"]
    assert (memory_bytes(torch.device("cpu")) or 1 << 30) > 100_000_000
