"""Precision: mixed precision, PyTorch's process-wide settings, and overflow in half precision."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor, devices, errors
from sspsam.devices import default_dtype, ieee_float32, inference_context
from sspsam.models import SSPSAM, ImageFeatures
from sspsam.shapes import draw_scene

TEXTS = ["the red circle", "a star"]


def load(tiny_model: Path, dtype: str | None) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype=dtype)


def test_the_default_is_float32_on_the_cpu_and_mixed_float16_on_a_gpu(tiny_model: Path) -> None:
    assert load(tiny_model, None).dtype is torch.float32
    assert default_dtype(torch.device("cuda", 0)) is torch.float16
    assert default_dtype(torch.device("cpu")) is torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_is_close_to_float32_and_keeps_the_weights_in_float32(tiny_model: Path, dtype: str) -> None:
    pixels = draw_scene(3, (70, 100)).pixels
    exact = load(tiny_model, "float32").predict(TEXTS, image=pixels, return_logits="low_res")
    mixed = load(tiny_model, dtype)
    embedding = mixed.encode(pixels)
    assert embedding.sam_embedding.dtype == embedding.clip_features.dtype == torch.float32
    assert all(parameter.dtype is torch.float32 for parameter in mixed._model.parameters())
    results = mixed.predict(TEXTS, embedding=embedding, return_logits="low_res")
    for result, expected in zip(results, exact, strict=True):
        scale = np.abs(expected.low_res_logits).max()
        difference = np.abs(result.low_res_logits - expected.low_res_logits).max()
        assert 0 < difference < 0.1 * scale


def make_encoders_overflow(monkeypatch: pytest.MonkeyPatch, *, in_float32: bool) -> None:
    """Let the image encoders overflow in mixed precision, and in float32 as well if `in_float32`."""
    encode = SSPSAM.encode_image

    def overflowing(model: SSPSAM, clip: torch.Tensor, sam: torch.Tensor) -> list[ImageFeatures]:
        features = encode(model, clip, sam)
        if not in_float32 and model.sam.image_encoder.patch_embed.proj.weight.dtype is torch.float32:
            return features
        return [ImageFeatures(image.clip, image.sam + torch.inf) for image in features]

    monkeypatch.setattr(SSPSAM, "encode_image", overflowing)


def test_an_image_that_overflows_is_encoded_again_in_float32(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, pixels = load(tiny_model, "bfloat16"), draw_scene(3, (70, 100)).pixels
    make_encoders_overflow(monkeypatch, in_float32=False)
    with pytest.warns(errors.SSPSAMWarning, match="bfloat16 overflowed"):
        embedding = predictor.encode(pixels)
    exact = load(tiny_model, "float32").encode(pixels)
    assert torch.allclose(embedding.sam_embedding, exact.sam_embedding, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sspsam.errors.SSPSAMWarning")
def test_an_overflow_in_float32_is_a_numerical_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_encoders_overflow(monkeypatch, in_float32=True)
    for dtype in ("float32", "bfloat16"):
        predictor = load(tiny_model, dtype)
        with pytest.raises(errors.NumericalError):
            predictor.encode(draw_scene(3, (70, 100)).pixels)


GPU_SETTINGS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
CPU_SETTINGS = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)


def precisions(settings: Iterable[Any]) -> list[str]:
    return [setting.fp32_precision for setting in settings]


@pytest.fixture
def medium_precision() -> Iterator[None]:
    """The application has lowered the precision of its float32 products."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


class RecordedSetting:
    """A precision setting that records every change."""

    def __init__(self, value: str) -> None:
        self._value = value
        self.changes: list[str] = []

    @property
    def fp32_precision(self) -> str:
        return self._value

    @fp32_precision.setter
    def fp32_precision(self, value: str) -> None:
        self.changes.append(value)
        self._value = value


@pytest.mark.parametrize(
    ("value", "changes"),
    [("ieee", []), ("none", []), ("tf32", ["ieee", "tf32"]), ("bf16", ["ieee", "bf16"])],
)
def test_only_a_setting_below_ieee_precision_is_changed_and_restored(value: str, changes: list[str]) -> None:
    setting = RecordedSetting(value)
    float32_settings = devices._Float32Settings([(setting, RecordedSetting("none"))])
    float32_settings.enter()
    assert setting.fp32_precision in ("ieee", "none")
    float32_settings.leave()
    assert setting.changes == changes


def test_ieee_float32_changes_no_setting_of_the_cpu_by_default() -> None:
    before = precisions((*CPU_SETTINGS, *GPU_SETTINGS))
    assert set(before[:3]) <= {"none", "ieee"}
    with ieee_float32(torch.device("cpu")):
        assert precisions((*CPU_SETTINGS, *GPU_SETTINGS)) == before
    assert precisions((*CPU_SETTINGS, *GPU_SETTINGS)) == before


def test_ieee_float32_disables_tf32_on_a_gpu_and_restores_it() -> None:
    before = precisions(GPU_SETTINGS)
    assert before[1:] == ["tf32", "tf32"]  # PyTorch's default, so that this test can fail
    cpu = precisions(CPU_SETTINGS)
    with ieee_float32(torch.device("cuda", 0)):
        assert not {"tf32", "bf16"} & set(precisions(GPU_SETTINGS))
        assert precisions(GPU_SETTINGS)[1:] == ["ieee", "ieee"]
        assert precisions(CPU_SETTINGS) == cpu
    assert precisions(GPU_SETTINGS) == before


def test_the_older_flag_of_cudnn_can_be_read_and_set_during_a_call_and_is_restored() -> None:
    """PyTorch raises an error when the older and the newer settings differ."""
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    before_call = cudnn.flags(enabled=True, allow_tf32=True)
    before_call.__enter__()
    with ieee_float32(torch.device("cuda")):
        assert not cudnn.allow_tf32
        with cudnn.flags(enabled=False, allow_tf32=False):
            assert "tf32" not in precisions(GPU_SETTINGS)
        assert "tf32" not in precisions(GPU_SETTINGS)
        before_call.__exit__(None, None, None)
    assert cudnn.allow_tf32
    assert precisions(GPU_SETTINGS)[1:] == ["tf32", "tf32"]


def test_a_program_without_tf32_keeps_it_off() -> None:
    cudnn = torch.backends.cudnn
    try:
        cudnn.allow_tf32 = False
        before = precisions(GPU_SETTINGS)
        with ieee_float32(torch.device("cuda")):
            assert not cudnn.allow_tf32
        assert not cudnn.allow_tf32
        assert precisions(GPU_SETTINGS) == before
    finally:
        cudnn.allow_tf32 = True


def test_settings_of_a_program_that_contradict_the_older_flag_are_restored() -> None:
    cudnn = torch.backends.cudnn
    try:
        cudnn.rnn.fp32_precision = "ieee"
        with pytest.raises(RuntimeError):
            _ = cudnn.allow_tf32
        with ieee_float32(torch.device("cuda")):
            assert "tf32" not in precisions(GPU_SETTINGS)
        assert precisions(GPU_SETTINGS)[1:] == ["tf32", "ieee"]
    finally:
        cudnn.allow_tf32 = True


@pytest.mark.usefixtures("medium_precision")
def test_a_lower_precision_of_the_application_does_not_apply_to_the_model() -> None:
    gpu, cpu = precisions(GPU_SETTINGS), precisions(CPU_SETTINGS)
    assert cpu[0] == "bf16"
    with inference_context(torch.device("cpu")):
        assert precisions(CPU_SETTINGS) == ["ieee", *cpu[1:]]
        assert precisions(GPU_SETTINGS) == gpu
    assert precisions(CPU_SETTINGS) == cpu
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("medium_precision")
def test_answers_do_not_depend_on_the_applications_precision(tiny_model: Path) -> None:
    predictor, pixels = load(tiny_model, "float32"), draw_scene(3, (70, 100)).pixels
    medium = predictor.predict(TEXTS, image=pixels, return_logits="low_res")
    torch.set_float32_matmul_precision("highest")
    highest = load(tiny_model, "float32").predict(TEXTS, image=pixels, return_logits="low_res")
    for result, expected in zip(medium, highest, strict=True):
        assert np.array_equal(result.low_res_logits, expected.low_res_logits)


def test_the_last_of_several_threads_restores_the_settings() -> None:
    before = precisions(GPU_SETTINGS)
    first, second = ieee_float32(torch.device("cuda")), ieee_float32(torch.device("cuda"))
    with first:
        inside = precisions(GPU_SETTINGS)
        second.__enter__()
    assert precisions(GPU_SETTINGS) == inside != before
    second.__exit__(None, None, None)
    assert precisions(GPU_SETTINGS) == before


def test_a_setting_that_follows_its_parent_still_follows_it_afterwards() -> None:
    backends, before = torch.backends, torch.backends.fp32_precision
    try:
        backends.fp32_precision = "tf32"
        with ieee_float32(torch.device("cuda")), ieee_float32(torch.device("cpu")):
            pass
        backends.fp32_precision = "ieee"
        assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "ieee"
        assert backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        backends.fp32_precision = before
        backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32"  # PyTorch's defaults


@pytest.mark.parametrize(("dtype", "allowed"), [("float16", 0.005), ("bfloat16", 0.05)])
def test_values_whose_squares_overflow_in_half_precision_keep_the_embedding_accurate(
    tiny_model: Path, dtype: str, allowed: float
) -> None:
    pixels = draw_scene(3, (70, 100)).pixels
    embeddings = []
    for precision in ("float32", dtype):
        predictor = load(tiny_model, precision)
        neck = predictor._model.sam.image_encoder.neck
        neck[0].weight.data = neck[0].weight.data * 300  # the norm behind it divides by the same factor
        embeddings.append(predictor.encode(pixels).sam_embedding)
    exact, mixed = embeddings
    assert (mixed - exact).norm() < allowed * exact.norm()


def test_autocast_of_the_application_does_not_apply_to_the_model() -> None:
    with torch.autocast("cpu", torch.bfloat16), inference_context(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_one_thread_and_two_give_the_same_embedding() -> None:
    threads = torch.get_num_threads()
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    embeddings = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            embeddings.append(predictor.encode(draw_scene(3).pixels))
    finally:
        torch.set_num_threads(threads)
    with_one, with_two = embeddings
    assert torch.equal(with_one.clip_features, with_two.clip_features)
    assert torch.equal(with_one.sam_embedding, with_two.sam_embedding)


@pytest.mark.skipif(torch.backends.mps.is_available() or torch.xpu.is_available(), reason="for computers without them")
@pytest.mark.parametrize(
    "device", ["toaster", "mps", "xla", "xpu", "vulkan", "hpu", "opengl", "cuda:99", "cuda:-1", ""]
)
def test_a_device_that_pytorch_refuses_is_one_short_line(device: str) -> None:
    with pytest.raises(errors.DeviceError) as caught:
        devices.checked_device(device)
    message = str(caught.value)
    assert message.startswith(f"device '{device}' cannot be used here: ")
    assert message.endswith("Use device='cpu'.")
    assert len(message) < 200
    assert "\n" not in message
    assert "aten" not in message
    assert "ASSERT" not in message


def test_mkldnn_is_one_line_without_a_warning_of_pytorch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.DeviceError, match="device 'mkldnn' is no device: device='cpu' computes with oneDNN"):
            devices.checked_device("mkldnn")


def test_a_device_that_fails_at_its_first_computation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(errors.DeviceError, match=r"no kernel image is available for execution on the device\. Use"):
        devices.checked_device("cuda")
