"""Precision: what mixed means, what is put back, and what happens where half is too narrow."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor, errors
from sspsam.devices import default_dtype, ieee_float32, inference_context
from sspsam.models import ImageFeatures
from sspsam.shapes import draw_scene

TEXTS = ["the red circle", "a star"]


def load(tiny_model: Path, dtype: str | None) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype=dtype)


def test_the_default_is_float32_on_the_cpu_and_mixed_float16_on_a_gpu(tiny_model: Path) -> None:
    assert load(tiny_model, None).dtype is torch.float32
    assert default_dtype(torch.device("cuda", 0)) is torch.float16
    assert default_dtype(torch.device("cpu")) is torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_stays_near_float32_and_leaves_the_weights_alone(tiny_model: Path, dtype: str) -> None:
    pixels = draw_scene(3, (70, 100)).pixels
    exact = load(tiny_model, "float32").predict(TEXTS, image=pixels, return_logits="low_res")
    mixed = load(tiny_model, dtype)
    embedding = mixed.encode(pixels)
    assert embedding.sam_embedding.dtype == embedding.clip_features.dtype == torch.float32
    assert all(parameter.dtype is torch.float32 for parameter in mixed._model.parameters())
    for ours, theirs in zip(mixed.predict(TEXTS, embedding=embedding, return_logits="low_res"), exact, strict=True):
        scale = np.abs(theirs.low_res_logits).max()
        difference = np.abs(ours.low_res_logits - theirs.low_res_logits).max()
        assert 0 < difference < 0.1 * scale


def _overflowing(predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch, *, always: bool) -> None:
    """From now on the model's image encoders overflow in mixed precision, or always."""
    model = predictor._model
    encode = type(model).encode_image

    def overflow(clip: torch.Tensor, sam: torch.Tensor) -> list[ImageFeatures]:
        features = encode(model, clip, sam)
        if not always and not torch.is_autocast_enabled("cpu"):
            return features
        return [ImageFeatures(each.clip, each.sam + torch.inf) for each in features]

    monkeypatch.setattr(model, "encode_image", overflow)


def test_a_picture_that_overflows_is_encoded_again_in_float32(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, pixels = load(tiny_model, "bfloat16"), draw_scene(3, (70, 100)).pixels
    _overflowing(predictor, monkeypatch, always=False)
    with pytest.warns(errors.SSPSAMWarning, match="bfloat16"):
        embedding = predictor.encode(pixels)
    exact = load(tiny_model, "float32").encode(pixels)
    assert torch.allclose(embedding.sam_embedding, exact.sam_embedding, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sspsam.errors.SSPSAMWarning")
def test_what_overflows_in_float32_too_is_a_named_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in ("float32", "bfloat16"):
        predictor = load(tiny_model, dtype)
        _overflowing(predictor, monkeypatch, always=True)
        with pytest.raises(errors.NumericalError):
            predictor.encode(draw_scene(3, (70, 100)).pixels)


def test_the_settings_for_tf32_are_put_back() -> None:
    gpu = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    places = (*gpu, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    before = [place.fp32_precision for place in places]
    with ieee_float32(torch.device("cuda", 0)):
        assert [place.fp32_precision for place in places] == ["ieee", "ieee", *before[2:]]
    with ieee_float32(torch.device("cpu")):
        assert [place.fp32_precision for place in places] == [*before[:2], "ieee", "ieee"]
    assert [place.fp32_precision for place in places] == before


def test_what_an_application_allows_its_own_products_does_not_reach_in() -> None:
    try:
        torch.set_float32_matmul_precision("medium")
        with inference_context(torch.device("cpu")):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_that_come_and_go_put_the_settings_back_when_the_last_has_gone() -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    one, other = ieee_float32(torch.device("cuda")), ieee_float32(torch.device("cuda"))
    with one:
        other.__enter__()
    assert [place.fp32_precision for place in places] == ["ieee"] * 3
    other.__exit__(None, None, None)
    assert [place.fp32_precision for place in places] == before


def test_settings_that_follow_another_go_on_following_it() -> None:
    everything, before = torch.backends, torch.backends.fp32_precision
    try:
        everything.fp32_precision = "tf32"
        with ieee_float32(torch.device("cuda")), ieee_float32(torch.device("cpu")):
            pass
        everything.fp32_precision = "ieee"
        assert everything.cuda.matmul.fp32_precision == everything.cudnn.conv.fp32_precision == "ieee"
    finally:
        everything.fp32_precision = before
        everything.cudnn.conv.fp32_precision = everything.cudnn.rnn.fp32_precision = "tf32"  # as PyTorch has them


@pytest.mark.parametrize(("dtype", "allowed"), [("float16", 0.005), ("bfloat16", 0.05)])
def test_values_whose_squares_overflow_in_half_do_not_spoil_an_embedding(
    tiny_model: Path, dtype: str, allowed: float
) -> None:
    pixels = draw_scene(3, (70, 100)).pixels
    embeddings = []
    for each in ("float32", dtype):
        predictor = load(tiny_model, each)
        neck = predictor._model.sam.image_encoder.neck
        neck[0].weight.data = neck[0].weight.data * 300  # which the norm behind it takes away again
        embeddings.append(predictor.encode(pixels).sam_embedding)
    exact, mixed = embeddings
    assert (mixed - exact).norm() < allowed * exact.norm()


def test_an_applications_own_autocast_does_not_reach_in() -> None:
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
    one, two = embeddings
    assert torch.equal(one.clip_features, two.clip_features)
    assert torch.equal(one.sam_embedding, two.sam_embedding)
