"""The computation of `SSPSAMPredictor`: each part once, and the same in threads and under PyTorch's settings."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.models import SSPSAM, ExpressionFeatures, ImageFeatures, PreparedImage, kernels


def test_everything_that_depends_on_the_image_alone_is_computed_once(predictor, image, monkeypatch) -> None:
    features: list[ImageFeatures] = []
    prepare = SSPSAM.prepare

    def counting(model: SSPSAM, image: ImageFeatures) -> PreparedImage:
        features.append(image)
        return prepare(model, image)

    monkeypatch.setattr(SSPSAM, "prepare", counting)
    predictor.set_image(image)
    for text in ("one", "two", "three"):
        predictor.predict(text)
    assert len(features) == 1


def test_every_text_and_every_image_is_encoded_once(predictor, image, monkeypatch) -> None:
    text_batches: list[int] = []
    image_batches: list[int] = []
    encode_text, encode_image = SSPSAM.encode_text, SSPSAM.encode_image

    def counting_texts(model: SSPSAM, token_ids: torch.Tensor) -> ExpressionFeatures:
        text_batches.append(len(token_ids))
        return encode_text(model, token_ids)

    def counting_images(model: SSPSAM, *inputs: torch.Tensor) -> list[ImageFeatures]:
        image_batches.append(len(inputs[0]))
        return encode_image(model, *inputs)

    monkeypatch.setattr(SSPSAM, "encode_text", counting_texts)
    monkeypatch.setattr(SSPSAM, "encode_image", counting_images)
    predictor.set_image(image)
    predictor.predict(["the mug", "a cat", "the mug"])
    predictor.predict("The MUG ")
    predictor.set_image(image[::-1])
    predictor.predict(["a cat", "a dog"])
    assert text_batches == [1, 1, 1]  # on a CPU one text at a time
    assert image_batches == [1, 1]


def test_weights_are_packed_for_texts_only_until_the_model_moves(predictor, image) -> None:
    if kernels.onednn_packing() is None:
        pytest.skip("this PyTorch cannot pack weights for oneDNN")

    def packed_weights() -> dict[str, torch.Tensor]:
        """Return the packed weights by the names of their layers; they have no public name above the model."""
        return {
            name: value.packed
            for name, module in predictor._model.named_modules()
            for value in vars(module).values()
            if isinstance(value, kernels.PackedWeight) and value.packed is not None
        }

    embedding = predictor.encode(image)
    assert packed_weights() == {}
    texts = ["a thing", "two things"]
    before = predictor.predict(texts, embedding=embedding, return_logits="low_res")
    packed = packed_weights()
    assert "clip.text.transformer.resblocks.0.attn" in packed
    assert not [name for name in packed if "image_encoder" in name or "clip.visual" in name]
    assert all(weight.is_mkldnn for weight in packed.values())
    state = {name: tensor.clone() for name, tensor in predictor._model.state_dict().items()}
    SSPSAMPredictor(predictor._model, predictor.config, device="cpu", dtype="bfloat16")  # copies the model
    assert packed_weights() == {}
    after = predictor.predict(texts, embedding=embedding, return_logits="low_res")
    for result, expected in zip(after, before, strict=True):
        assert np.array_equal(result.low_res_logits, expected.low_res_logits)
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor._model.state_dict().items())


def test_threads_share_a_predictor(tiny_model: Path, predictor, image) -> None:
    images = [np.ascontiguousarray(np.roll(image, 9 * shift, axis=1)) for shift in range(4)]
    texts = ["the mug", "a red star", "everything"]
    single_threaded = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")  # shares no cache with `predictor`
    expected = [[result.mask for result in single_threaded.predict(texts, image=rolled)] for rolled in images]
    answers: dict[int, list[np.ndarray]] = {}

    def work(index: int) -> None:
        for _ in range(3):
            embedding = predictor.encode(images[index])
            answers[index] = [result.mask for result in predictor.predict(texts, embedding=embedding)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, masks in enumerate(expected):
        assert all(np.array_equal(*pair) for pair in zip(masks, answers[index], strict=True))


def test_embeddings_of_mixed_precision_are_float32_and_close_to_those_of_float32(tiny_model: Path, image) -> None:
    full = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").encode(image)
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="bfloat16")
    mixed = predictor.encode(image)
    assert mixed.sam_embedding.dtype == torch.float32
    difference = (mixed.sam_embedding - full.sam_embedding).norm() / full.sam_embedding.norm()
    assert 0 < difference < 0.1
    assert {parameter.dtype for parameter in predictor._model.parameters()} == {torch.float32}


def test_autocast_and_inference_mode_of_the_application_change_no_answer(predictor, image) -> None:
    expected = predictor.predict("the mug", image=image, return_logits="low_res").low_res_logits
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        inside = predictor.predict("the mug", image=image, return_logits="low_res").low_res_logits
    assert np.array_equal(inside, expected)
    assert not predictor.encode(image).sam_embedding.requires_grad


def test_the_default_device_of_the_application_changes_no_answer(tiny_model: Path, image) -> None:
    expected = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").predict("the mug", image=image)
    with torch.device("meta"):
        predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
        inside = predictor.predict("the mug", image=image)
    assert np.array_equal(inside.mask, expected.mask)
    assert inside.score == expected.score
