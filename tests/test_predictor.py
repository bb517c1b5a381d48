"""The predictor, with a tiny model of random weights."""

import dataclasses
import inspect
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor, errors
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM, kernels


@pytest.fixture
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


def test_predict_answers_a_string_with_one_segmentation_and_a_list_in_order(predictor, picture) -> None:
    predictor.set_image(picture)
    one = predictor.predict("the mug")
    assert isinstance(one, Segmentation)
    texts = ["a cat", "the mug", "a cat", "Something Else entirely", "x", "y"]
    many = predictor.predict(texts)
    assert [result.text for result in many] == texts
    assert np.array_equal(many[1].mask, one.mask)
    assert np.array_equal(many[0].mask, many[2].mask)
    assert predictor.predict(tuple(texts))[3].text == texts[3]
    assert predictor.predict([]) == []


def test_masks_are_at_the_size_of_the_picture(predictor) -> None:
    for height, width in [(1, 1), (1, 400), (400, 1), (37, 501), (128, 128), (3, 1200)]:
        result = predictor.predict("a thing", image=np.full((height, width, 3), 90, np.uint8), no_target_pixels=0)
        assert result.mask.shape == (height, width)
        assert result.mask.dtype == np.bool_
        x0, y0, x1, y1 = result.box
        assert 0 <= x0 <= x1 <= width
        assert 0 <= y0 <= y1 <= height


def test_results_do_not_depend_on_how_many_go_together(predictor, picture) -> None:
    texts = [f"thing number {number}" for number in range(19)]
    embedding = predictor.encode(picture)
    together = predictor.predict(texts, embedding=embedding, return_logits="full", explain=True)
    for text, result in zip(texts, together, strict=True):
        alone = predictor.predict(text, embedding=embedding, return_logits="full", explain=True)
        assert np.abs(alone.logits - result.logits).max() < 1e-5
        assert np.abs(np.array(alone.box) - result.box).max() < 1e-3
        assert abs(alone.score - result.score) < 1e-5
        assert np.abs(alone.explanation.verification - result.explanation.verification).max() < 1e-5


def test_what_is_the_pictures_is_computed_once(predictor, picture, monkeypatch) -> None:
    model, prepared = predictor._model, []
    prepare = type(model).prepare
    monkeypatch.setattr(model, "prepare", lambda image: prepared.append(image) or prepare(model, image))
    embedding = predictor.encode(picture)
    for text in ("one", "two", "three"):
        predictor.predict(text, embedding=embedding)
    assert len(prepared) == 1
    assert embedding.to("cpu") is embedding
    assert embedding.to("meta").prepared is None  # it belongs to the device


@pytest.mark.skipif(kernels.onednn_packing() is None, reason="PyTorch has no oneDNN here")
def test_weights_are_packed_for_expressions_alone_and_only_until_the_model_moves(predictor, picture) -> None:
    def packed_weights() -> dict[str, torch.Tensor]:
        layers = {name: getattr(layer, "packed_weight", None) for name, layer in predictor._model.named_modules()}
        return {
            name: weight.packed for name, weight in layers.items() if weight is not None and weight.packed is not None
        }

    embedding = predictor.encode(picture)
    assert not packed_weights()
    first = predictor.predict(["a thing", "two things"], embedding=embedding, return_logits="low_res")
    packed = packed_weights()
    assert "clip.text.transformer.resblocks.0.attn" in packed
    assert not [name for name in packed if "image_encoder" in name or "clip.visual" in name]
    assert all(weight.is_mkldnn for weight in packed.values())
    state = {name: tensor.clone() for name, tensor in predictor._model.state_dict().items()}
    predictor.to("cpu")
    assert not packed_weights()
    again = predictor.predict(["a thing", "two things"], embedding=embedding, return_logits="low_res")
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor._model.state_dict().items())


def test_predict_before_set_image_names_the_missing_step(predictor) -> None:
    with pytest.raises(errors.NoImageError, match="set_image"):
        predictor.predict("the mug")


def test_failed_set_image_leaves_no_earlier_picture(predictor, picture, tmp_path) -> None:
    predictor.set_image(picture)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(errors.ImageError, match=r"bad\.png"):
        predictor.set_image(tmp_path / "bad.png")
    with pytest.raises(errors.NoImageError):
        predictor.predict("the mug")


def test_image_and_embedding_arguments_leave_the_remembered_picture(predictor, picture) -> None:
    predictor.set_image(picture)
    before = predictor.predict("the mug")
    other = np.ascontiguousarray(picture[::-1, :50])
    assert predictor.predict("the mug", image=other).mask.shape == (60, 50)
    assert predictor.predict("the mug", embedding=predictor.encode(other)).mask.shape == (60, 50)
    assert np.array_equal(predictor.predict("the mug").mask, before.mask)
    with pytest.raises(TypeError, match="not both"):
        predictor.predict("the mug", image=other, embedding=predictor.encode(other))


def test_every_form_of_one_picture_gives_the_same_answer(predictor, picture, tmp_path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(picture).save(path)
    forms = [picture, Image.fromarray(picture), path, str(path), path.read_bytes()]
    answers = [predictor.predict("the mug", image=form, return_logits="low_res").low_res_logits for form in forms]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_too_many_pixels_are_refused(predictor, picture) -> None:
    with pytest.raises(errors.ImageTooLargeError, match="max_pixels"):
        predictor.encode(picture, max_pixels=5399)
    assert predictor.set_image(picture, max_pixels=5400).width == 90


def test_no_target_is_judged_by_pixels_in_the_authors_frame(predictor, picture) -> None:
    found = predictor.predict("the mug", image=picture, no_target_pixels=0)
    assert not found.no_target
    count = found.foreground_pixels
    assert count > 0
    at = predictor.predict("the mug", image=picture, no_target_pixels=count)
    above = predictor.predict("the mug", image=picture, no_target_pixels=count + 1, return_logits="full")
    assert not at.no_target
    assert above.no_target
    assert above.mask.shape == (60, 90)
    assert not above.mask.any()
    assert above.mask_box is None
    assert above.logits.shape == (60, 90)  # the numbers are there all the same
    assert above.box == at.box


def test_mask_threshold_is_a_probability_and_does_not_touch_the_count(predictor, picture) -> None:
    embedding = predictor.encode(picture)
    ask = {"embedding": embedding, "no_target_pixels": 0}
    middle = predictor.predict("the mug", return_logits="full", **ask)
    assert np.array_equal(middle.mask, middle.logits >= 0)
    for probability in (0.1, 0.9):
        result = predictor.predict("the mug", mask_threshold=probability, **ask)
        assert np.array_equal(result.mask, 1 / (1 + np.exp(-middle.logits.astype(np.float64))) >= probability)
        assert result.foreground_pixels == middle.foreground_pixels
    for wrong in (0, 1, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match="mask_threshold"):
            predictor.predict("the mug", mask_threshold=wrong, **ask)
    with pytest.raises(ValueError, match="no_target_pixels"):
        predictor.predict("the mug", embedding=embedding, no_target_pixels=-1)


def test_logits_and_explanation_come_only_when_asked_for(predictor, picture) -> None:
    embedding = predictor.encode(picture)
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


def test_explanation_says_which_words_weighed_how_much(predictor, picture) -> None:
    result = predictor.predict("The woman's unbelievable HAT", image=picture, explain=True)
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
def test_wrong_texts_are_refused_by_name_before_anything_is_computed(predictor, texts, error, message) -> None:
    with pytest.raises(error, match=message):
        predictor.predict(texts)  # no picture is set: the text is looked at first


def test_embedding_of_another_model_is_refused(predictor, picture) -> None:
    torch.manual_seed(0)
    config = ModelConfig(tiny_architecture())
    first, second = (SSPSAMPredictor(SSPSAM(config.architecture), config, device="cpu") for _ in range(2))
    with pytest.raises(errors.EmbeddingError, match="another model"):
        predictor.predict("the mug", embedding=first.encode(picture))
    with pytest.raises(errors.EmbeddingError):  # two models that were never saved are not the same model
        second.predict("the mug", embedding=first.encode(picture))
    own = predictor.encode(picture)
    with pytest.raises(errors.EmbeddingError, match="shapes"):
        predictor.predict("the mug", embedding=dataclasses.replace(own, sam_embedding=own.sam_embedding[:, 1:]))
    with pytest.raises(TypeError, match="ImageEmbedding"):
        predictor.predict("the mug", embedding=picture)


def test_warnings_point_at_the_line_of_the_caller(predictor, picture, tmp_path) -> None:
    frames = [Image.fromarray(picture), Image.fromarray(picture[::-1].copy())]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    asked = (
        lambda: predictor.set_image(tmp_path / "two.gif"),
        lambda: predictor.encode(Image.open(tmp_path / "two.gif")),
        lambda: predictor.predict("a cat", image=(tmp_path / "two.gif").read_bytes()),
        lambda: predictor.predict(["word " * 90], image=picture),
    )
    for ask in asked:
        with pytest.warns(errors.SSPSAMWarning) as caught:
            ask()
        assert {warning.filename for warning in caught} == {__file__}


def test_threads_share_a_predictor(predictor, picture) -> None:
    pictures = [np.ascontiguousarray(np.roll(picture, 9 * turn, axis=1)) for turn in range(4)]
    texts = ["the mug", "a red star", "everything"]
    expected = [[r.mask for r in predictor.predict(texts, image=each)] for each in pictures]
    predictor._reader.forget()
    answers: dict[int, list[np.ndarray]] = {}

    def work(index: int) -> None:
        for _ in range(3):
            embedding = predictor.encode(pictures[index])
            answers[index] = [result.mask for result in predictor.predict(texts, embedding=embedding)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, masks in enumerate(expected):
        assert all(np.array_equal(a, b) for a, b in zip(masks, answers[index], strict=True))


def test_words_are_read_once_and_pictures_are_not_read_again(predictor, picture, monkeypatch) -> None:
    read: list[int] = []
    seen: list[int] = []
    encode_text, encode_image = predictor._model.encode_text, predictor._model.encode_image
    monkeypatch.setattr(predictor._model, "encode_text", lambda ids: read.append(len(ids)) or encode_text(ids))
    monkeypatch.setattr(predictor._model, "encode_image", lambda *x: seen.append(1) or encode_image(*x))
    predictor.set_image(picture)
    predictor.predict(["the mug", "a cat", "the mug"])
    predictor.predict("The MUG ")
    predictor.set_image(picture[::-1])
    predictor.predict(["a cat", "a dog"])
    assert read == [1, 1, 1]  # on a CPU each alone, and each once
    assert len(seen) == 2


def test_numbers_that_are_not_finite_are_an_error_and_never_no_target(predictor, picture) -> None:
    embedding = predictor.encode(picture)
    with torch.no_grad():
        predictor._model.sam.mask_decoder.output_upscaling[3].bias.fill_(float("nan"))
    with pytest.raises(errors.NumericalError, match="the mug"):
        predictor.predict("the mug", embedding=embedding)
    with torch.no_grad():
        predictor._model.sam.image_encoder.pos_embed.fill_(float("inf"))
    with pytest.raises(errors.NumericalError, match="picture"):
        predictor.encode(picture)


def test_an_unknown_device_or_dtype_is_named(tiny_model: Path) -> None:
    for device in ("toaster", "cuda:99", "meta", "cpu:x"):
        with pytest.raises(errors.DeviceError, match=device):
            SSPSAMPredictor.from_pretrained(tiny_model, device=device)
    for dtype in ("int8", torch.float64, 3):
        with pytest.raises(ValueError, match="dtype"):
            SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype=dtype)


def test_mixed_precision_stays_near_full_precision_and_keeps_weights_whole(tiny_model: Path, picture) -> None:
    full = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").encode(picture)
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="bfloat16")
    mixed = predictor.encode(picture)
    assert mixed.sam_embedding.dtype == torch.float32
    difference = (mixed.sam_embedding - full.sam_embedding).norm() / full.sam_embedding.norm()
    assert 0 < difference < 0.1
    assert {p.dtype for p in predictor._model.parameters()} == {torch.float32}


def test_an_applications_own_autocast_and_grad_mode_do_not_reach_in(predictor, picture) -> None:
    expected = predictor.predict("the mug", image=picture, return_logits="low_res").low_res_logits
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        inside = predictor.predict("the mug", image=picture, return_logits="low_res").low_res_logits
    assert np.array_equal(inside, expected)
    assert not predictor.encode(picture).sam_embedding.requires_grad


def test_an_applications_default_device_does_not_reach_in(tiny_model: Path, picture) -> None:
    expected = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").predict("the mug", image=picture)
    with torch.device("meta"):
        predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
        inside = predictor.predict("the mug", image=picture)
    assert np.array_equal(inside.mask, expected.mask)
    assert inside.score == expected.score


def test_a_model_and_a_configuration_that_do_not_fit_are_refused(picture) -> None:
    architecture = tiny_architecture()
    other = dataclasses.replace(architecture, ssp=dataclasses.replace(architecture.ssp, prompts=9))
    with pytest.raises(errors.ConfigError, match="another architecture"):
        SSPSAMPredictor(SSPSAM(architecture), ModelConfig(other), device="cpu")
    few = tiny_architecture(vocab_size=1000)
    with pytest.raises(errors.ConfigError, match="49408"):
        SSPSAMPredictor(SSPSAM(few), ModelConfig(few), device="cpu")


def test_only_weights_that_were_just_read_carry_the_fingerprint(tiny_model: Path) -> None:
    from sspsam.checkpoints.format import load_checkpoint

    model, config = load_checkpoint(tiny_model)
    assert SSPSAMPredictor(model, config, device="cpu").fingerprint != config.fingerprint
    assert SSPSAMPredictor.from_pretrained(tiny_model, device="cpu").fingerprint == config.fingerprint


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
def test_options_of_the_wrong_type_are_named(predictor, picture, options) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        predictor.predict("the mug", image=picture, **options)
    predictor.predict("the mug", image=picture, no_target_pixels=np.int64(3), mask_threshold=np.float32(0.4))


def test_a_picture_given_to_predict_may_be_large_if_that_is_said(predictor, picture) -> None:
    with pytest.raises(errors.ImageTooLargeError):
        predictor.predict("the mug", image=picture, max_pixels=5399)
    assert predictor.predict("the mug", image=picture, max_pixels=5400).mask.shape == (60, 90)


def test_to_moves_and_returns_the_predictor(predictor, picture) -> None:
    predictor.set_image(picture)
    before = predictor.predict("the mug").mask
    assert predictor.to("cpu") is predictor
    assert predictor.device == torch.device("cpu")
    assert np.array_equal(predictor.predict("the mug").mask, before)
    with pytest.raises(errors.DeviceError):
        predictor.to("nowhere")
    assert predictor.device == torch.device("cpu")


def test_save_pretrained_onto_its_own_directory_keeps_everything(predictor, picture, tmp_path) -> None:
    predictor.save_pretrained(tmp_path / "m")
    mapped = SSPSAMPredictor.from_pretrained(tmp_path / "m", device="cpu")
    written = mapped.save_pretrained(tmp_path / "m")
    again = SSPSAMPredictor.from_pretrained(tmp_path / "m", device="cpu", verify=True)
    masks = [each.predict("the mug", image=picture).mask for each in (predictor, mapped, again)]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
    assert written.fingerprint == again.fingerprint == predictor.fingerprint
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_float16_weights_on_disk_change_the_masks_little(predictor, picture, tmp_path) -> None:
    predictor.save_pretrained(tmp_path / "half", dtype="float16")
    half = SSPSAMPredictor.from_pretrained(tmp_path / "half", device="cpu")
    sizes = [(d / "model.safetensors").stat().st_size for d in (tmp_path / "half",)]
    assert sizes[0] < 2.1 * sum(p.numel() for p in half._model.parameters()) + 100_000
    a, b = (p.predict("the mug", image=picture, return_logits="low_res").low_res_logits for p in (predictor, half))
    assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a).max()
    assert half.fingerprint != predictor.fingerprint


def test_the_signature_of_from_pretrained_is_the_promised_one() -> None:
    parameters = inspect.signature(SSPSAMPredictor.from_pretrained).parameters
    assert list(parameters)[:8] == [
        "name_or_path", "revision", "device", "dtype", "cache_dir", "local_files_only", "token", "verify",
    ]  # fmt: skip
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "name_or_path")


def test_an_embedding_is_frozen_and_knows_its_picture(predictor, picture) -> None:
    embedding = predictor.encode(picture)
    assert isinstance(embedding, ImageEmbedding)
    assert np.array_equal(embedding.pixels, picture)
    picture[:] = 0  # the caller's array is the caller's
    assert embedding.pixels.any()
    with pytest.raises(AttributeError):
        embedding.height = 3
    with pytest.raises(ValueError, match="read-only"):
        embedding.pixels[:] = 0
