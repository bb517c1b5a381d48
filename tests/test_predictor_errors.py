"""Errors and warnings of `SSPSAMPredictor`: what they name, and that nothing is computed before them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam import SSPSAMPredictor, errors
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM


def test_predict_before_set_image_names_the_missing_step(predictor) -> None:
    with pytest.raises(errors.NoImageError, match="set_image"):
        predictor.predict("the mug")


def test_no_image_is_set_after_set_image_fails(predictor, image, tmp_path) -> None:
    predictor.set_image(image)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(errors.ImageError, match=r"bad\.png"):
        predictor.set_image(tmp_path / "bad.png")
    with pytest.raises(errors.NoImageError):
        predictor.predict("the mug")


def test_encode_and_set_image_refuse_more_than_max_pixels(predictor, image) -> None:
    with pytest.raises(errors.ImageTooLargeError, match="max_pixels"):
        predictor.encode(image, max_pixels=5399)
    assert predictor.set_image(image, max_pixels=5400).width == 90


def test_predict_refuses_an_image_of_more_than_max_pixels(predictor, image) -> None:
    with pytest.raises(errors.ImageTooLargeError):
        predictor.predict("the mug", image=image, max_pixels=5399)
    assert predictor.predict("the mug", image=image, max_pixels=5400).mask.shape == (60, 90)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("", errors.TextError, "empty"),
        ("  \n\t ", errors.TextError, "empty"),
        ("word " * 200_000, errors.TextError, "1,000,000 characters"),
        (["fine", ""], errors.TextError, r"texts\[1\]"),
        (["fine", 7], TypeError, r"texts\[1\].*int"),
        (7, TypeError, "int"),
        (None, TypeError, "NoneType"),
        (b"bytes", TypeError, "bytes"),
        ({"a": "b"}, TypeError, "dict"),
    ],
)
def test_invalid_texts_are_refused_before_anything_is_computed(predictor, texts, error, message) -> None:
    with pytest.raises(error, match=message):
        predictor.predict(texts)  # no image is set: the texts are checked first


def test_an_embedding_of_another_model_is_refused(predictor, image) -> None:
    torch.manual_seed(0)
    config = ModelConfig(tiny_architecture())
    first, second = (SSPSAMPredictor(SSPSAM(config.architecture), config, device="cpu") for _ in range(2))
    with pytest.raises(errors.EmbeddingError, match="another model"):
        predictor.predict("the mug", embedding=first.encode(image))
    with pytest.raises(errors.EmbeddingError):  # two models that were made in memory have no common identity
        second.predict("the mug", embedding=first.encode(image))
    embedding = predictor.encode(image)
    with pytest.raises(errors.EmbeddingError, match="shapes"):
        predictor.predict(
            "the mug", embedding=dataclasses.replace(embedding, sam_embedding=embedding.sam_embedding[:, 1:])
        )
    with pytest.raises(TypeError, match="ImageEmbedding"):
        predictor.predict("the mug", embedding=image)


def test_values_that_are_not_finite_are_a_numerical_error_and_never_no_target(predictor, image) -> None:
    embedding = predictor.encode(image)
    with torch.no_grad():
        predictor._model.sam.mask_decoder.output_upscaling[3].bias.fill_(float("nan"))
    with pytest.raises(errors.NumericalError, match="the mug"):
        predictor.predict("the mug", embedding=embedding)
    with torch.no_grad():
        predictor._model.sam.image_encoder.pos_embed.fill_(float("inf"))
    with pytest.raises(errors.NumericalError, match="features of the image"):
        predictor.encode(image)


def test_an_error_for_an_unknown_device_or_dtype_names_it(tiny_model: Path) -> None:
    for device in ("toaster", "cuda:99", "meta", "cpu:x"):
        with pytest.raises(errors.DeviceError, match=device):
            SSPSAMPredictor.from_pretrained(tiny_model, device=device)
    for dtype in ("int8", torch.float64, 3):
        with pytest.raises(ValueError, match="dtype"):
            SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype=dtype)


def test_a_configuration_that_does_not_fit_the_model_is_refused() -> None:
    architecture = tiny_architecture()
    other = dataclasses.replace(architecture, ssp=dataclasses.replace(architecture.ssp, prompts=9))
    with pytest.raises(errors.ConfigError, match="another architecture"):
        SSPSAMPredictor(SSPSAM(architecture), ModelConfig(other), device="cpu")
    small = tiny_architecture(vocab_size=1000)
    with pytest.raises(errors.ConfigError, match="49408"):
        SSPSAMPredictor(SSPSAM(small), ModelConfig(small), device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"no_target_pixels": 1.5},
        {"no_target_pixels": True},
        {"no_target_pixels": "50"},
        {"no_target_pixels": float("nan")},
        {"mask_threshold": "0.5"},
        {"mask_threshold": True},
        {"mask_threshold": np.array([0.1, 0.2])},
    ],
)
def test_an_error_for_an_option_of_a_wrong_type_names_the_option(predictor, image, options) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        predictor.predict("the mug", image=image, **options)
    predictor.predict("the mug", image=image, no_target_pixels=np.int64(3), mask_threshold=np.float32(0.4))


def test_an_error_for_a_misspelt_option_suggests_the_right_name(predictor, image) -> None:
    with pytest.raises(TypeError, match=r"no option 'mask_treshold'.*did you mean 'mask_threshold'\?"):
        predictor.predict("the mug", image=image, mask_treshold=0.5)
    with pytest.raises(TypeError, match=r"no option 'explan'.*did you mean 'explain'\?"):
        predictor.predict_batch([image], ["the mug"], explan=True)


def test_an_error_for_an_unknown_option_lists_the_options(predictor, image) -> None:
    for call in (
        lambda: predictor.predict("the mug", image=image, colour="red"),
        lambda: predictor.predict_batch([image], ["the mug"], colour="red"),
    ):
        with pytest.raises(TypeError, match="no option 'colour'") as caught:
            call()
        for name in ("mask_threshold", "no_target_pixels", "return_logits", "explain", "max_pixels"):
            assert name in str(caught.value)


def test_warnings_point_at_the_callers_line(predictor, image, tmp_path) -> None:
    frames = [Image.fromarray(image), Image.fromarray(image[::-1].copy())]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    calls = (
        lambda: predictor.set_image(tmp_path / "two.gif"),
        lambda: predictor.encode(Image.open(tmp_path / "two.gif")),
        lambda: predictor.predict("a cat", image=(tmp_path / "two.gif").read_bytes()),
        lambda: predictor.predict(["word " * 90], image=image),
    )
    for call in calls:
        with pytest.warns(errors.SSPSAMWarning) as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}
