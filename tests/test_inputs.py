"""Inputs that the caller owns: images that change between two reads, None in the place of data, and lack of memory."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor, errors
from sspsam.images import load_image
from sspsam.models import SSPSAM

pytestmark = pytest.mark.filterwarnings("ignore:.*frames.*:sspsam.errors.SSPSAMWarning")
GREYS = [10, 40, 69, 100, 130, 160, 200, 250]


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def embedding(predictor: SSPSAMPredictor) -> ImageEmbedding:
    return predictor.encode(solid(10))


def solid(grey: int) -> np.ndarray:
    return np.full((30, 40, 3), grey, np.uint8)


def seen_by(predictor: SSPSAMPredictor, images: object) -> list[object]:
    """The grey level of each image as the predictor saw it, or the error in its place."""
    outcomes = predictor.predict_batch(images, ["a"], workers=3, return_errors=True)  # type: ignore[call-overload]
    return [each if isinstance(each, Exception) else int(each[0].pixels[0, 0, 0]) for each in outcomes]


def animation() -> Image.Image:
    buffer = io.BytesIO()
    images = [Image.fromarray(solid(grey)) for grey in GREYS]
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:])
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_frames_of_one_animation_are_taken_as_they_are_drawn(predictor: SSPSAMPredictor) -> None:
    assert seen_by(predictor, ImageSequence.Iterator(animation())) == GREYS


@pytest.mark.parametrize("kind", ["array", "view", "bytearray", "memoryview", "image"])
def test_a_generator_may_fill_one_buffer_again_and_again(predictor: SSPSAMPredictor, kind: str) -> None:
    def images() -> Iterator[object]:
        buffer = solid(0)
        canvas = Image.new("RGB", (40, 30))
        file = io.BytesIO()
        Image.fromarray(buffer).save(file, "BMP")
        encoded = bytearray(file.getvalue())
        header = len(encoded) - buffer.nbytes
        for grey in GREYS:
            buffer[:] = grey
            canvas.paste((grey, grey, grey), (0, 0, 40, 30))
            encoded[header:] = bytes([grey]) * buffer.nbytes
            yield {
                "array": buffer,
                "view": buffer[:, ::-1],
                "bytearray": encoded,
                "memoryview": memoryview(encoded),
                "image": canvas,
            }[kind]
        buffer[:] = 0
        encoded[header:] = bytes(buffer.nbytes)
        canvas.paste((0, 0, 0), (0, 0, 40, 30))

    assert seen_by(predictor, images()) == GREYS


def test_one_lazy_image_may_stand_in_several_places(predictor: SSPSAMPredictor) -> None:
    buffer = io.BytesIO()
    Image.fromarray(solid(77)).save(buffer, "PNG")
    image = Image.open(io.BytesIO(buffer.getvalue()))
    assert seen_by(predictor, [image] * 6) == [77] * 6


def test_none_after_set_image_is_an_error_and_not_an_answer_about_the_earlier_image(predictor: SSPSAMPredictor) -> None:
    predictor.set_image(solid(10))
    with pytest.raises(errors.ImageTypeError, match="image is None"):
        predictor.predict("a", image=None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="embedding"):
        predictor.predict("a", embedding=None)  # type: ignore[call-overload]
    for method in (predictor.encode, predictor.set_image):
        with pytest.raises(TypeError, match="image is None"):
            method(None)  # type: ignore[arg-type]
    with pytest.raises(errors.NoImageError):  # a failed set_image leaves no image
        predictor.predict("a")


@pytest.mark.parametrize(
    "bad",
    [None, 3, 2.5, object(), np.array(None), {}, solid(1).astype(float)],
    ids=["None", "int", "float", "object", "array of None", "dict", "array of floats"],
)
def test_a_bad_item_of_any_type_gives_an_error_in_its_place(predictor: SSPSAMPredictor, bad: object) -> None:
    first, error, last = seen_by(predictor, [solid(10), bad, solid(40)])
    assert (first, last) == (10, 40)
    assert isinstance(error, errors.ImageError)
    with pytest.raises(errors.ImageError):
        list(predictor.predict_batch([solid(10), bad], ["a"]))  # type: ignore[list-item]


@pytest.mark.parametrize("step", ["encode_image", "segment", "encode_text"])
def test_a_lack_of_memory_is_the_same_error_on_every_path(
    predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SSPSAM, step, fail)
    for call in (
        lambda: predictor.predict(f"a {step}", image=solid(10)),
        lambda: list(predictor.predict_batch([solid(10)], [f"a {step}"])),
    ):
        with pytest.raises(errors.OutOfMemoryError, match="not enough memory"):
            call()


@pytest.mark.parametrize("count", [np.int64(2), np.uint8(1)])
def test_whole_numbers_of_numpy_are_whole_numbers(predictor: SSPSAMPredictor, count: int) -> None:
    assert len(list(predictor.predict_batch([solid(10)] * 3, ["a"], batch_size=count, workers=count))) == 3


@pytest.mark.parametrize("name", ["batch_size", "workers", "max_pixels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, float("nan")])
def test_a_wrong_number_is_named_before_anything_is_read(predictor: SSPSAMPredictor, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        predictor.predict_batch(["missing.jpg"], ["a"], **{name: value})  # type: ignore[call-overload]


def test_an_embedding_file_that_claims_a_huge_image_is_refused(predictor: SSPSAMPredictor, tmp_path: Path) -> None:
    import dataclasses

    embedding = predictor.encode(solid(10))
    dataclasses.replace(embedding, height=40_000, width=40_000).save(tmp_path / "huge.safetensors")
    with pytest.raises(errors.EmbeddingError, match="max_pixels"):
        type(embedding).load(tmp_path / "huge.safetensors")
    with pytest.raises(ValueError, match="max_pixels"):
        type(embedding).load(tmp_path / "huge.safetensors", max_pixels=float("nan"))  # type: ignore[arg-type]
    large = type(embedding).load(tmp_path / "huge.safetensors", max_pixels=2_000_000_000)
    assert (large.height, large.width) == (40_000, 40_000)


@pytest.mark.parametrize("bad", [None, 5, [None], [3.5], {"a"}], ids=str)
def test_bad_texts_of_one_image_give_an_error_in_its_place(predictor: SSPSAMPredictor, bad: object) -> None:
    outcomes = list(predictor.predict_batch([solid(1)] * 3, [["x"], bad, ["x"]], return_errors=True))  # type: ignore
    assert [isinstance(outcome, errors.TextTypeError) for outcome in outcomes] == [False, True, False]
    assert isinstance(outcomes[1], TypeError)


def test_buffers_that_are_strided_or_released_are_read_or_named(tiny_model: Path, tmp_path: Path) -> None:
    cached = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=tmp_path)
    file = io.BytesIO()
    Image.fromarray(solid(9)).save(file, "PNG")
    doubled = np.repeat(np.frombuffer(file.getvalue(), np.uint8), 2)
    assert cached.encode(memoryview(doubled)[::2]).height == 30  # type: ignore[arg-type]
    (released := memoryview(b"abc")).release()
    [outcome] = cached.predict_batch([released], ["x"], return_errors=True)  # type: ignore[list-item]
    assert isinstance(outcome, errors.ImageError)


@pytest.mark.parametrize("option", ["return_logits", "x" * 100_000])
def test_long_values_of_options_are_cut_in_messages(predictor: SSPSAMPredictor, option: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        predictor.predict("a", image=solid(1), **{option: "y" * 100_000})  # type: ignore[call-overload]
    assert len(str(caught.value)) < 1000


class OddPath:
    """A path whose conversion to a name returns a value of a wrong type, or raises."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __fspath__(self) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    "value", [5, None, RuntimeError("a\nb"), "a\0b", "\ud800", "x" * 5000], ids=lambda v: repr(v)[:9]
)
def test_an_odd_path_gives_an_error_in_its_place(predictor: SSPSAMPredictor, value: object) -> None:
    outcomes = seen_by(predictor, [solid(1), OddPath(value), value, solid(2)])
    assert outcomes[::3] == [1, 2]
    assert all(isinstance(outcome, errors.ImageError) for outcome in outcomes[1:3])
    assert all(len(str(outcome).splitlines()) == 1 and len(str(outcome)) < 400 for outcome in outcomes[1:3])


def test_a_string_in_the_place_of_a_list_of_texts_is_an_error_of_its_image(predictor: SSPSAMPredictor) -> None:
    outcomes = list(predictor.predict_batch([solid(1)] * 3, [["x"], "x", ["x"]], return_errors=True))  # type: ignore
    assert [isinstance(outcome, errors.TextTypeError) for outcome in outcomes] == [False, True, False]
    with pytest.raises(TypeError, match="image 1 must be a list"):
        list(predictor.predict_batch([solid(1)] * 2, [["x"], "x"]))


def test_a_subclass_of_arrays_that_cannot_be_copied_is_an_error_of_its_image(predictor: SSPSAMPredictor) -> None:
    class Uncopied(np.ndarray):
        def copy(self, *_: object) -> "Uncopied":  # type: ignore[override]
            raise RuntimeError

    assert [isinstance(outcome, errors.ImageError) for outcome in seen_by(predictor, [solid(1).view(Uncopied)])] == [
        True
    ]


def test_the_name_of_a_class_is_escaped_in_messages(predictor: SSPSAMPredictor) -> None:
    odd = type("a\n\x1b[2Jb" * 100, (), {})()
    for call in (
        lambda: predictor.encode(odd),
        lambda: predictor.predict("a", embedding=odd),
        lambda: predictor.predict(odd, image=solid(1)),
        lambda: predictor.predict([odd], image=solid(1)),
        lambda: predictor.predict("a", image=solid(1), mask_threshold=odd),
        lambda: SSPSAMPredictor.from_pretrained(odd),
        lambda: SSPSAMPredictor.from_pretrained("shapes", device=odd),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("PIL.Image.Image.paste", "result.overlay()"),
        ("PIL.Image.open", "result.overlay(file)"),
        ("PIL.Image.Image.save", "result.save(folder / 'a.png')"),
        ("sspsam.segmentation.result.rle_encode", "result.to_dict()"),
        ("sspsam.images.embedding.save", "embedding.save(folder / 'a')"),
        ("sspsam.images.embedding._digest", "type(embedding).load(saved)"),
        ("sspsam.checkpoints.format.load_file", "type(predictor).from_pretrained(model)"),
        ("sspsam.predictor.DeviceModel.of", "type(predictor).from_pretrained(model)"),
        ("sspsam.checkpoints.saving._write_safetensors", "predictor.save_pretrained(folder / 'm')"),
        ("PIL.Image.open", "load_image(file)"),
        ("sspsam.images.loading._from_array", "load_image(array)"),
        ("sspsam.text.tokenizer._check_length", "predictor.predict('a', embedding=embedding)"),
    ],
)
def test_lack_of_memory_is_named_wherever_it_occurs(
    predictor: SSPSAMPredictor,
    embedding: ImageEmbedding,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    call: str,
) -> None:
    embedding.save(tmp_path / "saved")
    Image.fromarray(solid(10)).save(tmp_path / "a.bmp")
    scope = {
        "predictor": predictor,
        "embedding": embedding,
        "result": Segmentation("a", solid(10)[..., 0] > 0, False, 1, 0.5, (0, 0, 9, 9), None, pixels=solid(10)),
        "folder": tmp_path,
        "saved": tmp_path / "saved",
        "file": tmp_path / "a.bmp",
        "model": tiny_model,
        "array": solid(10),
        "load_image": load_image,
    }

    def fail(*_: object, **__: object) -> object:
        raise MemoryError

    monkeypatch.setattr(function, fail)
    with pytest.raises(errors.OutOfMemoryError, match=r"not enough memory to .*: MemoryError"):
        eval(call, scope)
    monkeypatch.undo()


def test_a_file_is_neither_written_through_a_link_nor_in_the_place_of_a_folder(
    predictor: SSPSAMPredictor, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(solid(10)).save(photo)
    before = photo.read_bytes()
    embedding = predictor.encode(photo)
    result = predictor.predict("a", embedding=embedding)
    (tmp_path / "l.png").symlink_to(photo)
    for save in (result.save, embedding.save):
        with pytest.raises(errors.StorageError, match="link"):
            save(tmp_path / "l.png")
        for name in ("new.png/", "new.png/."):
            with pytest.raises(errors.StorageError, match="folder"):
                save(f"{tmp_path}/{name}")
    assert photo.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.png", "photo.png"]
