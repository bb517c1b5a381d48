"""`SSPSAMPredictor` with a tiny model of random weights."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor, errors
from sspsam.checkpoints.format import load_checkpoint
from sspsam.models import DeviceModel


def test_predict_returns_one_segmentation_for_a_string_and_a_list_in_order_for_a_list(predictor, image) -> None:
    predictor.set_image(image)
    single = predictor.predict("the mug")
    assert isinstance(single, Segmentation)
    texts = ["a cat", "the mug", "a cat", "Something Else entirely", "x", "y"]
    results = predictor.predict(texts)
    assert [result.text for result in results] == texts
    assert np.array_equal(results[1].mask, single.mask)
    assert np.array_equal(results[0].mask, results[2].mask)
    assert predictor.predict(tuple(texts))[3].text == texts[3]
    assert predictor.predict([]) == []


def test_masks_have_the_size_of_the_image_and_boxes_lie_inside_it(predictor) -> None:
    for height, width in [(1, 1), (1, 400), (400, 1), (37, 501), (128, 128), (3, 1200)]:
        result = predictor.predict("a thing", image=np.full((height, width, 3), 90, np.uint8), no_target_pixels=0)
        assert result.mask.shape == (height, width)
        assert result.mask.dtype == np.bool_
        x0, y0, x1, y1 = result.box
        assert 0 <= x0 <= x1 <= width
        assert 0 <= y0 <= y1 <= height


def test_results_do_not_depend_on_the_number_of_expressions_in_a_call(predictor, image) -> None:
    texts = [f"thing number {number}" for number in range(19)]
    embedding = predictor.encode(image)
    results = predictor.predict(texts, embedding=embedding, return_logits="full", explain=True)
    for text, result in zip(texts, results, strict=True):
        single = predictor.predict(text, embedding=embedding, return_logits="full", explain=True)
        assert np.abs(single.logits - result.logits).max() < 1e-5
        assert np.abs(np.array(single.box) - result.box).max() < 1e-3
        assert abs(single.score - result.score) < 1e-5
        assert np.abs(single.explanation.verification - result.explanation.verification).max() < 1e-5


def test_image_and_embedding_arguments_keep_the_image_of_set_image(predictor, image) -> None:
    predictor.set_image(image)
    before = predictor.predict("the mug")
    other = np.ascontiguousarray(image[::-1, :50])
    assert predictor.predict("the mug", image=other).mask.shape == (60, 50)
    assert predictor.predict("the mug", embedding=predictor.encode(other)).mask.shape == (60, 50)
    assert np.array_equal(predictor.predict("the mug").mask, before.mask)
    with pytest.raises(TypeError, match="not both"):
        predictor.predict("the mug", image=other, embedding=predictor.encode(other))


def test_every_kind_of_input_of_an_image_gives_the_same_answer(predictor, image, tmp_path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(image).save(path)
    inputs = [image, Image.fromarray(image), path, str(path), path.read_bytes()]
    answers = [predictor.predict("the mug", image=source, return_logits="low_res").low_res_logits for source in inputs]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_no_target_means_fewer_foreground_pixels_than_the_threshold(predictor, image) -> None:
    never_empty = predictor.predict("the mug", image=image, no_target_pixels=0)
    assert not never_empty.no_target
    count = never_empty.foreground_pixels
    assert count > 0
    at_count = predictor.predict("the mug", image=image, no_target_pixels=count)
    above_count = predictor.predict("the mug", image=image, no_target_pixels=count + 1, return_logits="full")
    assert not at_count.no_target
    assert above_count.no_target
    assert above_count.mask.shape == (60, 90)
    assert not above_count.mask.any()
    assert above_count.mask_box is None
    assert above_count.logits.shape == (60, 90)  # logits are returned for no target too
    assert above_count.box == at_count.box


def test_mask_threshold_is_a_probability_and_does_not_change_the_count(predictor, image) -> None:
    embedding = predictor.encode(image)
    options = {"embedding": embedding, "no_target_pixels": 0}
    middle = predictor.predict("the mug", return_logits="full", **options)
    assert np.array_equal(middle.mask, middle.logits >= 0)
    for probability in (0.1, 0.9):
        result = predictor.predict("the mug", mask_threshold=probability, **options)
        assert np.array_equal(result.mask, 1 / (1 + np.exp(-middle.logits.astype(np.float64))) >= probability)
        assert result.foreground_pixels == middle.foreground_pixels
    for wrong in (0, 1, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match="mask_threshold"):
            predictor.predict("the mug", mask_threshold=wrong, **options)
    with pytest.raises(ValueError, match="no_target_pixels"):
        predictor.predict("the mug", embedding=embedding, no_target_pixels=-1)


def test_logits_and_explanation_are_returned_only_on_request(predictor, image) -> None:
    embedding = predictor.encode(image)
    plain = predictor.predict("the mug", embedding=embedding)
    assert plain.logits is None
    assert plain.low_res_logits is None
    assert plain.explanation is None
    low = predictor.predict("the mug", embedding=embedding, return_logits="low_res")
    assert low.logits is None
    assert low.low_res_logits.shape == (32, 32)
    full = predictor.predict("the mug", embedding=embedding, return_logits="full")
    assert full.low_res_logits is None
    assert full.logits.shape == (60, 90)
    with pytest.raises(ValueError, match="return_logits"):
        predictor.predict("the mug", embedding=embedding, return_logits="some")


def test_an_explanation_gives_the_attention_weight_of_every_word(predictor, image) -> None:
    result = predictor.predict("The woman's unbelievable HAT", image=image, explain=True)
    explanation = result.explanation
    assert explanation.similarity.shape == explanation.verification.shape == (6, 6)
    assert explanation.similarity.min() == 0
    assert explanation.similarity.max() == 1
    assert explanation.word_attention.shape == (77,)
    assert abs(explanation.word_attention.sum() - 1) < 1e-5
    assert [word for word, _ in explanation.words] == ["the", "woman", "'s", "unbelievable", "hat", "."]
    inside = sum(weight for _, weight in explanation.words)
    markers = explanation.word_attention[0] + explanation.word_attention[explanation.word_attention > 0][-1]
    assert abs(inside + markers - 1) < 1e-5


def test_only_a_predictor_of_from_pretrained_has_the_fingerprint_of_the_checkpoint(tiny_model: Path) -> None:
    model, config = load_checkpoint(tiny_model)
    assert SSPSAMPredictor(model, config, device="cpu").fingerprint != config.fingerprint
    assert SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").fingerprint == config.fingerprint


def test_to_returns_the_predictor_and_keeps_the_image_and_answers(predictor, image) -> None:
    predictor.set_image(image)
    before = predictor.predict("the mug").mask
    assert predictor.to("cpu") is predictor
    assert predictor.device == torch.device("cpu")
    assert np.array_equal(predictor.predict("the mug").mask, before)
    with pytest.raises(errors.DeviceError):
        predictor.to("nowhere")
    assert predictor.device == torch.device("cpu")


def test_to_the_same_device_copies_no_weights(tiny_model, image, monkeypatch) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="bfloat16")

    def copied(*_: object, **__: object) -> None:
        raise AssertionError("the weights were copied")

    monkeypatch.setattr(DeviceModel, "of", copied)
    assert predictor.to("cpu").predict("the mug", image=image).mask.shape == image.shape[:2]
    assert predictor.to(torch.device("cpu")) is predictor


def test_save_pretrained_into_its_own_directory_keeps_the_checkpoint(predictor, image, tmp_path) -> None:
    predictor.save_pretrained(tmp_path / "m")
    loaded = SSPSAMPredictor.from_pretrained(tmp_path / "m", device="cpu")
    written = loaded.save_pretrained(tmp_path / "m")
    reloaded = SSPSAMPredictor.from_pretrained(tmp_path / "m", device="cpu", verify=True)
    masks = [source.predict("the mug", image=image).mask for source in (predictor, loaded, reloaded)]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
    assert written.fingerprint == reloaded.fingerprint == predictor.fingerprint
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_float16_weights_on_disk_change_the_logits_little(predictor, image, tmp_path) -> None:
    predictor.save_pretrained(tmp_path / "half", dtype="float16")
    half = SSPSAMPredictor.from_pretrained(tmp_path / "half", device="cpu")
    weights = sum(parameter.numel() for parameter in half._model.parameters())
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 2.1 * weights + 100_000
    exact, rounded = (
        source.predict("the mug", image=image, return_logits="low_res").low_res_logits for source in (predictor, half)
    )
    assert 0 < np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()
    assert half.fingerprint != predictor.fingerprint


def test_from_pretrained_has_the_documented_signature() -> None:
    parameters = inspect.signature(SSPSAMPredictor.from_pretrained).parameters
    assert list(parameters)[:8] == [
        "name_or_path", "revision", "device", "dtype", "cache_dir", "local_files_only", "token", "verify",
    ]  # fmt: skip
    options = [parameter for name, parameter in parameters.items() if name != "name_or_path"]
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_an_embedding_is_frozen_and_holds_a_copy_of_the_image(predictor, image) -> None:
    embedding = predictor.encode(image)
    assert isinstance(embedding, ImageEmbedding)
    assert np.array_equal(embedding.pixels, image)
    image[:] = 0  # a change of the caller's array does not reach the embedding
    assert embedding.pixels.any()
    with pytest.raises(AttributeError):
        embedding.height = 3
    with pytest.raises(ValueError, match="read-only"):
        embedding.pixels[:] = 0


def test_a_result_says_which_words_were_not_read(predictor, image) -> None:
    predictor.set_image(image)
    with pytest.warns(errors.SSPSAMWarning, match="not read"):
        long, short = predictor.predict(["the mug " * 60 + "on the green table", "the mug"])
    assert long.text_truncated is not None
    assert long.text_truncated.endswith("on the green table")
    assert long.to_dict()["text_truncated"] == long.text_truncated
    assert short.text_truncated is None
    words = (long.text_truncated.split(), long.text.split())
    assert words[0] == words[1][-len(words[0]) :]


def test_predictor_and_embedding_say_what_they_are(tiny_model: Path, image) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="bfloat16")
    description = repr(predictor)
    for part in ("SSPSAMPredictor(", str(tiny_model)[-20:], "CLIP 48 and SAM 128 pixels", "bfloat16 on cpu"):
        assert part in description
    description = repr(predictor.encode(image))
    for part in ("90 x 60 pixels", predictor.encoder_fingerprint[:12], "MB of torch.float32 on cpu"):
        assert part in description
