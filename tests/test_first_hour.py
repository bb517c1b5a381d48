"""Likely mistakes of a first hour: each gives one line that names the way out."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sspsam
from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.batch import run_batch
from sspsam.evaluation.run import run_evaluation
from sspsam.finetuning.job import FinetuneJob
from sspsam.images import load_image
from sspsam.segmentation import draw, to_coco
from sspsam.shapes import draw_scene
from tests.support.command import run_command

PIXELS = draw_scene(3, (60, 90)).pixels
TENSOR = torch.from_numpy(PIXELS.copy())


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


DATA_URL = "data:image/png;base64," + base64.b64encode(png()).decode()


class Video:
    """Reads frames as `cv2.VideoCapture` does."""

    def read(self) -> tuple[bool, np.ndarray]:
        return True, PIXELS


class Upload:
    """Is read as a file of FastAPI is."""

    async def read(self) -> bytes:
        return b""


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def result(predictor: SSPSAMPredictor) -> Segmentation:
    return predictor.predict("the largest shape", image=PIXELS)


def one_line(call: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    message = str(caught.value)
    assert message == message.strip()
    assert "\n" not in message
    assert len(message) < 1000
    return message


# name of a mistake, what is passed as image, and words that the message must contain
IMAGES: list[tuple[str, Any, str]] = [
    ("None, as of cv2.imread", None, r"cv2\.imread"),
    ("floats from 0 to 1", PIXELS / 255, r"\(array \* 255\)\.round\(\)\.astype\('uint8'\)"),
    ("floats from 0 to 255", PIXELS.astype(np.float32), r"from 0 to 255: array\.astype\('uint8'\)"),
    ("whole numbers of 64 bits", PIXELS.astype(np.int64), r"from 0 to 255: array\.astype\('uint8'\)"),
    ("channels first", PIXELS.transpose(2, 0, 1), r"array\.transpose\(1, 2, 0\)"),
    ("a batch of one", PIXELS[None], r"array\[0\].*predict_batch"),
    ("rows as lists", PIXELS.tolist(), r"numpy\.array\(image, dtype=numpy\.uint8\)"),
    ("a list of images", [PIXELS, PIXELS], r"predict_batch\(images, texts\)"),
    ("a tensor (3, h, w)", TENSOR.permute(2, 0, 1), r"tensor\.permute\(1, 2, 0\)\.cpu\(\)\.numpy\(\)$"),
    ("a tensor (h, w, 3)", TENSOR, r"pass tensor\.cpu\(\)\.numpy\(\)$"),
    ("a tensor of floats", TENSOR.permute(2, 0, 1) / 255, r"\.mul\(255\)\.round\(\)\.byte\(\).*from 0 to 1"),
    ("a batch of tensors", TENSOR.permute(2, 0, 1)[None], r"tensor\[0\]"),
    ("a missing file", "photo.pgn", r"no such image file: photo\.pgn"),
    ("a folder", "FOLDER", r"is a folder; pass the path of one image"),
    ("a URL", "https://example.com/a.jpg", r"is a URL, not a file: download or decode it first and pass its bytes"),
    ("a data: URL", DATA_URL, r"is a data: URL.*base64\.b64decode\(url\.partition\(','\)\[2\]\)"),
    ("a data: URL in bytes", DATA_URL.encode(), r"is a data: URL.*base64\.b64decode"),
    ("base64", DATA_URL.partition(",")[2], r"base64\.b64decode\(text\)"),
    ("base64 in bytes", DATA_URL.partition(",")[2].encode(), r"base64\.b64decode\(text\)"),
    ("a text file", io.StringIO("x"), r"open\(path, 'rb'\)"),
    ("a video", Video(), r"pass the frame.*COLOR_BGR2RGB"),
    ("an upload of a web server", Upload(), r"await file\.read\(\)"),
    ("an empty path", "", r"path of the image is empty"),
]


@pytest.mark.parametrize(("image", "words"), [mistake[1:] for mistake in IMAGES], ids=[name for name, *_ in IMAGES])
def test_a_wrong_image_is_named_with_the_conversion(predictor, tmp_path, image, words) -> None:
    image = tmp_path if isinstance(image, str) and image == "FOLDER" else image
    assert re.search(words, one_line(lambda: predictor.predict("x", image=image)))


CALLS: list[tuple[str, Callable[[SSPSAMPredictor], object], str]] = [
    ("image without a name", lambda p: p.predict("x", PIXELS), r"predict\(texts, image=image\)"),
    ("image and text swapped", lambda p: p.predict(PIXELS, "x"), r"predict\(texts, image=image\)"),
    ("no text", lambda p: p.predict("", image=PIXELS), r"describe the target in words"),
    ("None as text", lambda p: p.predict(None, image=PIXELS), r"a string or a list of strings, not NoneType"),
    ("an option of another library", lambda p: p.predict("x", image=PIXELS, threshold=0.3), r"mean 'mask_threshold'"),
    ("points", lambda p: p.predict("x", image=PIXELS, point_coords=[]), r"no option 'point_coords'; options are"),
    ("percent", lambda p: p.predict("x", image=PIXELS, mask_threshold=50), r"probability between 0 and 1.*not 50"),
    ("True for logits", lambda p: p.predict("x", image=PIXELS, return_logits=True), r'"low_res" or "full", not True'),
    ("an array as embedding", lambda p: p.predict("x", embedding=PIXELS), r"ImageEmbedding from encode\(\)"),
    ("both", lambda p: p.predict("x", image=PIXELS, embedding=p.encode(PIXELS)), r"an image or an embedding, not both"),
    ("None for the texts of a batch", lambda p: p.predict_batch([PIXELS], None), r"must be a list of .* not NoneType"),
    ("one text for a batch", lambda p: p.predict_batch([PIXELS], "x"), r"must be a list of expressions"),
    ("one image for a batch", lambda p: p.predict_batch(PIXELS, ["x"]), r"for one image use predict\(\)"),
    ("one path for a batch", lambda p: p.predict_batch("a.png", ["x"]), r"for one image use predict\(\)"),
    (
        "texts of one image that are None",
        lambda p: list(p.predict_batch([PIXELS, PIXELS], [["a"], None])),
        r"^image 1: expressions must be a string or a list",
    ),
    (
        "an empty text of one image",
        lambda p: list(p.predict_batch([PIXELS, PIXELS], [["a"], ["a", ""]])),
        r"^image 1: texts\[1\]: the expression '' is empty",
    ),
    ("'no' for a truth value", lambda p: p.predict("x", image=PIXELS, explain="no"), r"explain must be True or False"),
    ("a number as cache", lambda _: SSPSAMPredictor.from_pretrained("shapes", embedding_cache=3), r"a path, not int"),
    ("a number as revision", lambda _: SSPSAMPredictor.from_pretrained("shapes", revision=5), r"revision must be a"),
    (
        "'yes' for offline",
        lambda _: SSPSAMPredictor.from_pretrained("shapes", local_files_only="yes"),
        r"local_files_only must be True or False",
    ),
    (
        "'no' for compile",
        lambda _: SSPSAMPredictor.from_pretrained("shapes", compile="no"),
        r"compile must be True or False, not 'no'",
    ),
    (
        "'no' for errors in the place of answers",
        lambda p: p.predict_batch([PIXELS], ["x"], return_errors="no"),
        r"return_errors must be True or False",
    ),
    ("'no' for a shared checkpoint", lambda p: p.save_pretrained("unwritten", shared="no"), r"shared must be True or"),
    ("'no' for a private repository", lambda p: p.push_to_hub("a/b", private="no"), r"private must be True or False"),
    (
        "'no' for a box",
        lambda p: p.predict("x", image=PIXELS).overlay(draw_box="no"),
        r"draw_box must be True or False",
    ),
    (
        "'no' for instances",
        lambda p: to_coco({"a.png": p.predict(["x"], image=PIXELS)}, instances="no"),
        r"instances must be True or False",
    ),
    (
        "'no' for polygons",
        lambda p: to_coco({"a.png": p.predict(["x"], image=PIXELS)}, polygons="no"),
        r"polygons must be True or False",
    ),
    (
        "'no' for overwriting an evaluation",
        lambda p: run_evaluation(None, predictor=p, overwrite="no"),
        r"overwrite must be True or False",
    ),
    (
        "'no' for overwriting a checkpoint",
        lambda _: FinetuneJob(None, None, None, overwrite="no"),
        r"overwrite must be True or False",
    ),
    ("'no' for outlines", lambda p: draw(PIXELS, p.predict(["x"], image=PIXELS), outlines="no"), r"outlines must be"),
    (
        "'no' for a dark figure",
        lambda p: p.predict("x", image=PIXELS, explain=True).explanation.figure(dark="no"),
        r"dark must be True or False",
    ),
    ("'x' for verify", lambda _: SSPSAMPredictor.from_pretrained("shapes", verify="x"), r"verify must be True or"),
    (
        "True for a calibration",
        lambda _: SSPSAMPredictor.from_pretrained("shapes", calibration=True),
        r"calibration must .*not bool",
    ),
    (
        "no folder",
        lambda p: run_batch(None, "out", "x", predictor=p),
        r"the input must be a path, or an iterable of paths, not NoneType",
    ),
    ("a name as predictor", lambda _: run_batch("in", "out", "x", predictor="shapes"), r"predictor must be an SSPSAMP"),
    (
        "a dict of options",
        lambda p: run_batch("in", "out", "x", predictor=p, options={}),
        r"options must be BatchOptions\(\.\.\.\), not dict",
    ),
    ("a number as texts", lambda p: run_batch("in", "out", 5, predictor=p), r"texts must be a string or a list"),
    ("half()", lambda p: p.half(), r"from_pretrained\(name, dtype='float16'\)"),
    ("cuda()", lambda p: p.cuda(), r"use to\('cuda'\)"),
    ("eval()", lambda p: p.eval(), r"always in evaluation mode"),
    (
        "a name without from_pretrained",
        lambda p: SSPSAMPredictor("shapes"),
        r"SSPSAMPredictor\.from_pretrained\('shapes'",
    ),
    ("no name", lambda p: SSPSAMPredictor.from_pretrained(), r"'ssp-sam-224-grefcoco' is recommended"),
    ("a typo", lambda p: SSPSAMPredictor.from_pretrained("sspsam-224-grefcoco"), r"mean ssp-sam-224-grefcoco"),
    ("a typo of the bundled model", lambda p: SSPSAMPredictor.from_pretrained("shape"), r"mean shapes"),
    ("a missing folder", lambda p: SSPSAMPredictor.from_pretrained("./weights"), r"sspsam convert CHECKPOINT\.pth"),
    ("gpu", lambda p: p.to("gpu"), r"device='cuda'"),
    ("fp16", lambda p: SSPSAMPredictor.from_pretrained("shapes", dtype="fp16"), r"float32, float16, bfloat16"),
    ("another class", lambda p: sspsam.Predictor, r"public names are .*SSPSAMPredictor"),
]


@pytest.mark.parametrize(("call", "words"), [mistake[1:] for mistake in CALLS], ids=[name for name, *_ in CALLS])
def test_a_wrong_call_is_named_with_the_right_one(predictor, call, words) -> None:
    assert re.search(words, one_line(lambda: list(call(predictor))))


def test_predict_before_set_image_names_the_missing_step(tiny_model: Path) -> None:
    fresh = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    assert re.search(r"call set_image\(image\) first", one_line(lambda: fresh.predict("x")))


RESULTS: list[tuple[str, Callable[[Segmentation, Path], object], str]] = [
    ("JPEG for a mask", lambda r, folder: r.save(folder / "m.jpg"), r"must end in \.png"),
    ("a missing folder", lambda r, folder: r.save(folder / "no" / "m.png"), r"create the folder .*no first"),
    ("an unknown colour", lambda r, _: r.overlay(color="redd"), r"from 0 to 255.*'redd'"),
    ("a colour of floats", lambda r, _: r.overlay(color=(1.0, 0, 0)), r"from 0 to 255"),
    ("opacity in percent", lambda r, _: r.overlay(opacity=50), r"from 0 to 1, not 50"),
    ("another image", lambda r, _: r.overlay(PIXELS[:30]), r"the image has 90 x 30 pixels, the mask 90 x 60"),
    ("results without names", lambda r, _: to_coco([r]), r"\{'photo\.jpg': results\}"),
]


@pytest.mark.parametrize(("call", "words"), [mistake[1:] for mistake in RESULTS], ids=[name for name, *_ in RESULTS])
def test_a_wrong_use_of_a_result_is_named_with_the_right_one(result, tmp_path, call, words) -> None:
    assert re.search(words, one_line(lambda: call(result, tmp_path)))


def test_an_image_in_the_place_of_an_embedding_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert "not an embedding" in one_line(lambda: ImageEmbedding.load(tmp_path / "a.png"))


COMMANDS = [
    ("PHOTO -t x", r"use sspsam segment .*a\.png"),
    ("FOLDER -t x", r"use sspsam batch"),
    ("segment PHOTO mug --model shapes", r"Missing option '-t'"),
    ("segment -t x --model shapes", r"Missing argument 'IMAGE\.\.\.'"),
    ("segment PHOTO -t x", r"missing option --model.*ssp-sam-224-grefcoco"),
    ("segment FOLDER -t x --model shapes", r"use sspsam batch"),
    ("segment none.png -t x --model shapes", r"no such image file: none\.png"),
    ("segment https://example.com/a.jpg -t x --model shapes", r"is a URL.*download or decode the image first"),
    ("segment PHOTO -t x --model shapes --format overlay", r"-o DIR"),
    ("segment PHOTO -t x --model shapes -o mask.png", r"give the folder for the files"),
    ("segment PHOTO -t x --model shapes --format tiff -o out", r"--format.*'mask', 'overlay', 'cutout'"),
    ("segment PHOTO -t x --model shapes --device gpu", r"--device cuda"),
    ("segment PHOTO -t x --model shapes --label a --label b", r"one --label for each -t"),
    ("batch FOLDER --model shapes -t x", r"Missing argument 'OUTPUT'"),
    ("batch FOLDER FOLDER -t x --model shapes", r"choose another folder for the masks"),
    ("batch FOLDER out --model shapes", r"give -t TEXT or --prompts FILE"),
    ("batch none out -t x --model shapes", r"no such folder, list or image: none"),
    ("batch none out -t x --model shapes --glob *.png", r"no such folder, list or image: none"),
    ("batch PHOTO out -t x --model shapes --glob *.png", r"--glob.* selects files of a folder"),
    ("cache --delete shapes", r"bundled with sspsam"),
]


@pytest.mark.parametrize(("words", "answer"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_a_wrong_command_is_one_line_that_names_the_right_one(tmp_path, monkeypatch, words, answer) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "photos" / "a.png"):
        path.write_bytes(png())
    places = {"PHOTO": tmp_path / "a.png", "FOLDER": tmp_path / "photos"}
    done = run_command(*(places.get(word, word) for word in words.split()))
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    lines = [line for line in lines if "images failed" not in line]
    assert done.exit_code in (1, 2)
    assert len(lines) == 1
    assert re.search(answer, lines[0]), lines


def test_the_order_of_channels_which_no_array_shows_is_in_the_docstring_and_the_readme() -> None:
    for text in (SSPSAMPredictor.encode.__doc__, (Path(__file__).parents[1] / "README.md").read_text()):
        assert "cv2.COLOR_BGR2RGB" in str(text)


def test_what_is_no_mistake_works(predictor: SSPSAMPredictor, result: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    written = io.BytesIO()
    Image.fromarray(PIXELS).save(written, "PNG")  # the buffer is at its end
    with path.open("rb") as file:
        for image in (path, str(path), png(), written, file, Image.open(path), PIXELS, PIXELS[..., ::-1][..., ::-1]):
            for _ in range(2):  # a file can be read again
                assert np.array_equal(load_image(image), PIXELS)
        for [found] in predictor.predict_batch([written, file], ["the largest shape"]):
            assert np.array_equal(found.mask, result.mask)
