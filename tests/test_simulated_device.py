"""Prediction on an accelerator, MPS or CUDA, without the hardware.

`tests.support.device_mode` simulates it: all numbers are computed by the CPU, all decisions are made as on the device.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.errors import OutOfMemoryError, SSPSAMWarning
from sspsam.models import (
    SSPSAM,
    ExpressionFeatures,
    ImageFeatures,
    Prediction,
    PreparedImage,
    image_encoder,
    norms,
    patch_weights,
)
from sspsam.models.precision import network_on_device
from sspsam.segmentation import summary, transfer
from sspsam.segmentation.postprocessing import box_of_mask, logits_on_image
from sspsam.shapes import draw_scene
from tests.support.calibrations import calibration_with
from tests.support.device_mode import Record, operators_without_mps, simulated_device
from tests.support.own_kernels import NormKernels, PatchKernels, SummaryKernels

TEXTS = ["the red circle", "every shape", "the largest thing on the left"]
IN_WINDOWS = {"windows", "total before windows", "windows of the total"}
NORMS_OF_ENCODERS = {"norm", "total", "norm of the total", "quick gelu"} | IN_WINDOWS
Accelerator = tuple[str, Record]
PIXELS = draw_scene(3, (192, 256)).pixels


def bundled(dtype: str = "float32") -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained("shapes", device="cpu", dtype=dtype)


@pytest.fixture
def mps() -> Iterator[Record]:
    """Everything inside the test happens with a simulated MPS device that lacks the operators that MPS lacks."""
    with simulated_device("mps", operators_without_mps().__contains__) as record:
        yield record


@pytest.fixture(params=["mps", "cuda"])
def accelerator(request: pytest.FixtureRequest) -> Iterator[Accelerator]:
    """The kind of a simulated device, and what happens there."""
    if request.param == "cuda" and torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    with simulated_device(request.param) as record:
        yield request.param, record


def check_answers(results: list[Segmentation], expected: list[Segmentation], allowed: float) -> None:
    """Compare the answers of an accelerator with those of the CPU."""
    for result, answer in zip(results, expected, strict=True):
        assert result.low_res_logits is not None
        assert answer.low_res_logits is not None
        assert np.abs(result.low_res_logits - answer.low_res_logits).max() < allowed
        assert (result.mask != answer.mask).mean() < 1e-3
        assert result.no_target == answer.no_target


@pytest.fixture
def predictor() -> SSPSAMPredictor:
    """The bundled model on the CPU, loaded before the simulation begins."""
    return bundled()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mps_gives_the_masks_of_the_cpu_without_float64_and_operators_that_it_lacks(dtype: str) -> None:
    predictor = bundled(dtype)
    expected = predictor.predict(TEXTS, image=PIXELS, return_logits="low_res", explain=True)
    with simulated_device("mps", operators_without_mps().__contains__) as record:
        results = predictor.to("mps").predict(TEXTS, image=PIXELS, return_logits="low_res", explain=True)
        assert predictor.device.type == "mps"
    assert sum(record.operators.values()) > 500
    # other batches and bands than on a CPU change the last bits, and roundings in half precision
    check_answers(results, expected, 1e-3 if dtype == "float32" else 2.0)


def test_features_and_the_probability_of_presence_are_those_of_the_cpu(predictor: SSPSAMPredictor) -> None:
    predictor = SSPSAMPredictor.from_pretrained(
        "shapes", device="cpu", calibration=calibration_with(predictor.fingerprint, -1.0, max_logit=0.3, components=0.2)
    )
    texts = [*TEXTS, "a dog"]
    expected = predictor.predict(texts, image=PIXELS, return_features=True, presence_threshold=0.5)
    with simulated_device("mps", operators_without_mps().__contains__):
        results = predictor.to("mps").predict(texts, image=PIXELS, return_features=True, presence_threshold=0.5)
    assert {answer.no_target for answer in expected} == {False, True}
    for result, answer in zip(results, expected, strict=True):
        assert result.features == pytest.approx(answer.features, rel=1e-3, abs=1e-3)
        assert result.presence == pytest.approx(answer.presence, abs=1e-3)
        assert (result.no_target, result.mask_box) == (answer.no_target, answer.mask_box)


def test_all_options_and_many_images_work_on_an_accelerator(
    predictor: SSPSAMPredictor, mps: Record, tmp_path: Path
) -> None:
    predictor.to("mps")
    [[full]] = predictor.predict_batch([PIXELS], ["every shape"], return_logits="full", mask_threshold=0.7)
    assert full.logits is not None
    assert full.logits.shape == full.mask.shape == PIXELS.shape[:2]
    predictor.encode(PIXELS).save(tmp_path / "embedding.safetensors")
    embedding = ImageEmbedding.load(tmp_path / "embedding.safetensors")
    assert predictor.predict("every shape", embedding=embedding).mask.any()
    predictor.save_pretrained(tmp_path / "model")
    assert predictor.to("cpu").predict("every shape", image=PIXELS).mask.any()


def test_cuda_in_float32_without_graphs_gives_the_masks_of_the_cpu(
    predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setenv("SSPSAM_CUDA_GRAPHS", "0")  # graphs need the driver
    expected = predictor.predict(TEXTS, image=PIXELS, return_logits="low_res")
    with simulated_device("cuda"):
        results = predictor.to("cuda").predict(TEXTS, image=PIXELS, return_logits="low_res")
    check_answers(results, expected, 1e-3)


def test_the_network_never_waits_for_the_device_and_copies_nothing(
    predictor: SSPSAMPredictor, accelerator: Accelerator
) -> None:
    kind, record = accelerator
    sizes = predictor.config.architecture
    model = network_on_device(predictor._model, torch.device(kind), torch.float32)  # the original has no public name
    images = [torch.zeros(1, 3, side, side, device=kind) for side in (sizes.clip.image_size, sizes.sam.image_size)]
    token_ids = torch.ones(3, sizes.clip.context_length, dtype=torch.int64, device=kind)
    record.clear()
    with torch.no_grad():
        [features] = model.encode_image(*images)
        prepared = model.prepare(ImageFeatures(*features))
        prediction = model.segment(prepared, model.encode_text(token_ids))
    assert prediction.low_res.device.type == kind
    assert record.waits() == {}
    assert record.copies_to_host == record.copies_to_device == []


def test_the_host_waits_as_often_for_eight_expressions_as_for_two(predictor: SSPSAMPredictor, mps: Record) -> None:
    predictor.to("mps")
    embedding = predictor.encode(PIXELS)
    waits = []
    for count in (2, 8):
        texts = [f"shape number {number}" for number in range(count)]
        predictor.predict(texts, embedding=embedding)  # whatever is prepared once
        mps.clear()
        predictor.predict([f"{text}, please" for text in texts], embedding=embedding)
        waits.append(len(mps.copies_to_host) + sum(mps.waits().values()))
    assert waits[0] == waits[1] <= 4


def test_the_simulated_device_refuses_what_a_real_one_refuses(mps: Record) -> None:
    x = torch.ones(2, 2, device="mps")
    with pytest.raises(TypeError, match="float64"):
        x.double()
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to("mps")
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(2, 2)
    with pytest.raises(NotImplementedError, match="heaviside"):
        torch.heaviside(x, x)  # MPS lacks it


def test_the_simulated_device_records_every_wait_and_every_copy_to_the_host(mps: Record) -> None:
    x = torch.arange(6.0, device="mps")
    assert mps.waits() == {}
    assert (x.sum().item(), int(x[2]), bool(x[1] > 0)) == (15.0, 2, True)
    assert mps.waits()["aten._local_scalar_dense.default"] >= 2
    x[x > 2], x.nonzero()
    assert mps.waits()["aten.nonzero.default"] >= 2
    mps.clear()
    y = torch.empty(6)
    y.copy_(x * 2)
    assert (x + 1).cpu().tolist() == [1, 2, 3, 4, 5, 6]
    assert y.tolist() == [0, 2, 4, 6, 8, 10]
    assert mps.copies_to_host == [24, 24]
    mps.clear()
    x.new_zeros(3)[:2].copy_(torch.ones(2))
    assert x[torch.tensor([1, 5])].tolist() == [1, 5]
    assert torch.tensor([1.5, 2.5], device="mps").to(x).sum().item() == 4
    assert mps.copies_to_device == [8, 16, 8]


def test_threads_that_start_inside_the_simulation_use_the_device_too(mps: Record) -> None:
    with ThreadPoolExecutor(1) as pool:
        x = pool.submit(torch.ones, 3, device="mps").result()
        assert pool.submit(x.sum().item).result() == 3
    assert x.device.type == "mps"
    assert mps.waits() == {"aten._local_scalar_dense.default": 1}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Everything inside the test happens with a simulated CUDA device, without graphs, which need the driver."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setenv("SSPSAM_CUDA_GRAPHS", "0")
    with simulated_device("cuda") as record:
        yield record


def test_cuda_in_float16_has_the_whole_network_in_half_precision_and_the_masks_of_the_cpu(
    predictor: SSPSAMPredictor, cuda: Record
) -> None:
    expected = predictor.predict(TEXTS, image=PIXELS, return_logits="low_res")
    half = SSPSAMPredictor(predictor._model, predictor.config, device="cuda", dtype="float16")
    check_answers(half.predict(TEXTS, image=PIXELS, return_logits="low_res"), expected, 2.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cuda_with_the_kernels_of_this_package_has_the_masks_of_the_cpu(
    predictor: SSPSAMPredictor, cuda: Record, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """PyTorch computes the results of the kernels, in their dtypes."""
    expected = predictor.predict(TEXTS, image=PIXELS, return_logits="low_res", explain=True, return_features=True)
    norm, patch, numbers = NormKernels(), PatchKernels(), SummaryKernels()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(norms, "norm_kernels_on", lambda device, dtype: norm)
    monkeypatch.setattr(patch_weights, "patch_kernels_on", lambda device, dtype: patch)
    monkeypatch.setattr(summary, "summary_kernel_on", lambda device: numbers)
    monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda width, dtype, device: device.type == "cuda")
    on_gpu = SSPSAMPredictor(predictor._model, predictor.config, device="cuda", dtype=dtype)
    results = on_gpu.predict(TEXTS, image=PIXELS, return_logits="low_res", explain=True, return_features=True)
    check_answers(results, expected, 1e-3 if dtype == "float32" else 2.0)
    for result, answer in zip(results, expected, strict=True):
        assert np.abs(result.explanation.similarity - answer.explanation.similarity).max() < 2e-2
        assert np.abs(result.explanation.verification - answer.explanation.verification).max() < 2e-2
        assert result.features == pytest.approx(answer.features, rel=2e-2, abs=5e-2)
    # the encoders of an image are narrow in both, words and masks in float16 only
    in_words = {"gelu"} | {f"{name}{of}" for name in ("wide", "narrow", "positioned") for of in ("", " of the update")}
    of_norms = {"float16": in_words | NORMS_OF_ENCODERS, "bfloat16": NORMS_OF_ENCODERS, "float32": set()}
    assert set(norm.results) == of_norms[dtype]
    of_patches = {"similarity", "weighted with relu", "verification", "gated"}
    assert set(patch.results) == (of_patches if dtype == "float16" else set())
    assert numbers.results["0"] == 1


def test_an_answer_that_overflows_in_half_precision_is_computed_again_in_float32(
    predictor: SSPSAMPredictor, cuda: Record
) -> None:
    with torch.no_grad():
        last = predictor._model.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1]
        last.weight *= 1e4
        last.bias *= 1e4
    expected = predictor.predict(TEXTS, image=PIXELS, return_logits="low_res")
    half = SSPSAMPredictor(predictor._model, predictor.config, device="cuda", dtype="float16")
    with pytest.warns(SSPSAMWarning, match="float16 overflowed for an expression: it is answered again in float32"):
        results = half.predict(TEXTS, image=PIXELS, return_logits="low_res")
    for result, answer in zip(results, expected, strict=True):
        assert np.isfinite(result.low_res_logits).all()
        assert result.no_target == answer.no_target
        assert (result.mask != answer.mask).mean() < 1e-3


def test_masks_that_are_fetched_in_parts_are_the_same(
    predictor: SSPSAMPredictor, mps: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.to("mps")
    embedding = predictor.encode(PIXELS)
    texts = [f"{size} {thing}" for size in ("the small", "the large") for thing in ("circle", "star", "square")]
    expected = predictor.predict(texts, embedding=embedding)
    monkeypatch.setattr(transfer, "_MASK_BYTES", 2 * PIXELS[..., 0].size)
    monkeypatch.setattr(transfer, "_LOGITS_BYTES", 1)
    begin_part, rows = transfer._begin_part, []  # that memory is bounded is seen nowhere else

    def counted(binarization: transfer.Binarization, with_foreground: bool, low_res: Tensor, *others: Tensor) -> object:
        rows.append(len(low_res))
        return begin_part(binarization, with_foreground, low_res, *others)

    def of_one(low_res: Tensor, *others: object) -> Tensor:
        assert len(low_res) == 1
        return logits_on_image(low_res, *others)

    monkeypatch.setattr(transfer, "_begin_part", counted)
    monkeypatch.setattr(transfer, "logits_on_image", of_one)
    for result, answer in zip(predictor.predict(texts, embedding=embedding), expected, strict=True):
        assert np.array_equal(result.mask, answer.mask)
        assert result.mask_box == answer.mask_box == box_of_mask(answer.mask)
        assert (result.score, result.foreground_pixels) == (answer.score, answer.foreground_pixels)
    assert rows == [2, 2, 2]


def test_a_list_for_which_memory_does_not_suffice_is_answered_in_halves(
    predictor: SSPSAMPredictor, mps: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.to("mps")
    texts = [*TEXTS, "the blue star", "nothing"]
    expected = predictor.predict(texts, image=PIXELS, return_logits="low_res")
    segment, counts = SSPSAM.segment, []

    def short_of_memory(self: SSPSAM, image: PreparedImage, expressions: ExpressionFeatures) -> Prediction:
        counts.append(len(expressions.padding))
        if counts[-1] > 1:
            raise torch.OutOfMemoryError("MPS backend out of memory")
        return segment(self, image, expressions)

    monkeypatch.setattr(SSPSAM, "segment", short_of_memory)
    with pytest.warns(SSPSAMWarning, match="1 at a time"):
        results = predictor.predict(texts, image=PIXELS, return_logits="low_res")
    assert counts == [5, 2, 1, 1, 1, 1, 1]
    check_answers(results, expected, 1e-3)


def test_a_single_expression_for_which_memory_does_not_suffice_is_an_error(
    predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(*_: object) -> Prediction:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SSPSAM, "segment", short_of_memory)
    with pytest.raises(OutOfMemoryError):
        predictor.predict(TEXTS[:1], image=PIXELS)
