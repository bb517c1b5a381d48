"""Answers for the page: the library's own, with their errors in plain words."""

import numpy as np
import pytest

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.demo.answering import Answering, expressions
from sspsam.demo.limits import Limits
from sspsam.errors import ImageError, ImageTooLargeError, TextError
from tests.support.images import bomb, eps


def test_answers_are_those_of_the_library(answering: Answering, predictor: SSPSAMPredictor, png: bytes) -> None:
    answers = answering.answer("page", png, ["the red square", "the purple star"])
    square, star = answers.results
    expected = predictor.predict("the red square", image=png)
    assert np.array_equal(square.mask, expected.mask)
    assert square.score == expected.score
    assert star.no_target
    assert [answer.text for answer in answers.answers] == ["the red square", "the purple star"]
    assert all(answer.seconds > 0 for answer in answers.answers)
    assert answers.image.decode_seconds > 0
    assert answers.image.encode_seconds > 0


def test_a_further_expression_about_the_same_image_does_not_encode_again(
    answering: Answering, png: bytes, other_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = answering.predictor.encode
    monkeypatch.setattr(
        SSPSAMPredictor, "encode", lambda self, image, **limit: encoded.append(1) or encode(image, **limit)
    )
    assert not answering.answer("page", png, ["the heart"]).reused
    assert answering.answer("page", png, ["the red square"]).reused
    assert len(encoded) == 1
    assert not answering.answer("page", other_png, ["the heart"]).reused  # another image in its place
    assert not answering.answer("another page", png, ["the heart"]).reused
    assert len(encoded) == 3
    assert len(answering.sessions) == 2


def test_two_pages_never_get_each_others_images(answering: Answering, png: bytes, other_png: bytes) -> None:
    first, second = answering.answer("one", png, ["the heart"]), answering.answer("two", other_png, ["the heart"])
    again = answering.answer("one", png, ["the heart"])
    assert again.reused
    assert first.results[0].mask.shape == again.results[0].mask.shape == (270, 360)
    assert second.results[0].mask.shape == (200, 320)


def test_the_error_of_one_expression_stands_beside_the_answers_to_the_others(answering: Answering, png: bytes) -> None:
    bad, good = answering.answer("page", png, ["\0\0", "the heart"]).answers
    if isinstance(bad.outcome, Segmentation):
        bad, good = answering.answer("page", png, ["word " * 5_000, "the heart"]).answers
    assert isinstance(bad.outcome, TextError)
    assert isinstance(good.outcome, Segmentation)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty"),
        (b"this is a text\n" * 9, "it holds text"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "the image of 107 bytes is damaged"),
        (eps(), "in no format that this page reads"),
        (b"\xc5\xd0\xd3\xc6" + b"\0" * 99, "in no format that this page reads"),
    ],
    ids=["empty", "text", "damaged", "EPS, for which Pillow would start Ghostscript", "EPS with a preview"],
)
def test_a_file_that_is_no_image_is_an_error_of_the_library(answering: Answering, data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        answering.encode("page", data)
    assert len(answering.sessions) == 0


@pytest.mark.parametrize("side", [6_500, 12_000, 20_000])  # the last one is beyond Pillow's own limit
def test_a_decompression_bomb_is_refused_in_words_that_fit_the_page(answering: Answering, side: int) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        answering.encode("page", bomb(side, side))
    assert f"{side**2 / 1e6:.0f} megapixels" in str(caught.value)
    assert "up to 40 megapixels" in str(caught.value)
    assert "max_pixels" not in str(caught.value)


def test_a_file_with_too_many_bytes_is_refused(predictor: SSPSAMPredictor, png: bytes) -> None:
    with pytest.raises(ImageTooLargeError, match="takes files of up to"):
        Answering(predictor, Limits(max_bytes=len(png) - 1)).encode("page", png)
    assert Answering(predictor, Limits(max_bytes=len(png))).encode("page", png)


def test_lines_become_expressions_without_blank_and_repeated_ones() -> None:
    assert expressions("  the  heart \n\n\tthe star\r\nthe heart\n", Limits()) == ["the heart", "the star"]


@pytest.mark.parametrize(
    ("lines", "limits", "message"),
    [
        (" \n\t\n", Limits(), "type at least one"),
        ("a\nb\nc", Limits(max_expressions=2), "These are 3 expressions; this page takes 2"),
        ("a" * 11, Limits(max_characters=10), "more than 10 characters"),
    ],
)
def test_no_expression_and_too_many_are_refused_with_the_number(lines: str, limits: Limits, message: str) -> None:
    with pytest.raises(TextError, match=message):
        expressions(lines, limits)
