"""`SSPSAMPredictor` with a tiny model of random weights."""

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
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM, ExpressionFeatures, ImageFeatures, PreparedImage, kernels


@pytest.fixture
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


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
    predictor.to("cpu")
    assert packed_weights() == {}
    after = predictor.predict(texts, embedding=embedding, return_logits="low_res")
    for result, expected in zip(after, before, strict=True):
        assert np.array_equal(result.low_res_logits, expected.low_res_logits)
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor._model.state_dict().items())


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


def test_encode_and_set_image_refuse_more_than_max_pixels(predictor, image) -> None:
    with pytest.raises(errors.ImageTooLargeError, match="max_pixels"):
        predictor.encode(image, max_pixels=5399)
    assert predictor.set_image(image, max_pixels=5400).width == 90


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


def test_a_configuration_that_does_not_fit_the_model_is_refused() -> None:
    architecture = tiny_architecture()
    other = dataclasses.replace(architecture, ssp=dataclasses.replace(architecture.ssp, prompts=9))
    with pytest.raises(errors.ConfigError, match="another architecture"):
        SSPSAMPredictor(SSPSAM(architecture), ModelConfig(other), device="cpu")
    small = tiny_architecture(vocab_size=1000)
    with pytest.raises(errors.ConfigError, match="49408"):
        SSPSAMPredictor(SSPSAM(small), ModelConfig(small), device="cpu")


def test_only_a_predictor_of_from_pretrained_has_the_fingerprint_of_the_checkpoint(tiny_model: Path) -> None:
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


def test_predict_refuses_an_image_of_more_than_max_pixels(predictor, image) -> None:
    with pytest.raises(errors.ImageTooLargeError):
        predictor.predict("the mug", image=image, max_pixels=5399)
    assert predictor.predict("the mug", image=image, max_pixels=5400).mask.shape == (60, 90)


def test_to_returns_the_predictor_and_keeps_the_image_and_answers(predictor, image) -> None:
    predictor.set_image(image)
    before = predictor.predict("the mug").mask
    assert predictor.to("cpu") is predictor
    assert predictor.device == torch.device("cpu")
    assert np.array_equal(predictor.predict("the mug").mask, before)
    with pytest.raises(errors.DeviceError):
        predictor.to("nowhere")
    assert predictor.device == torch.device("cpu")


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
