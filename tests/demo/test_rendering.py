"""HTML of the results: one overlay for each mask, plain words, and nothing of a visitor unescaped."""

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from sspsam.demo.answering import Answering, ImageAnswers, TimedAnswer
from sspsam.demo.introduction import ModelNote, model_html
from sspsam.demo.overlays import LONGEST_SIDE, Pins, marker, mask_url, most_different, view_size
from sspsam.demo.rendering import answers_view, error_view, explanation_view, highlight_rules, ready_view
from sspsam.errors import TextError

ATTACK = "<img src=x onerror=alert(1)>\"'${alert(2)}{{value}}"


@pytest.fixture
def answers(answering: Answering, png: bytes) -> ImageAnswers:
    return answering.answer("page", png, ["the heart", "the red square", "the purple star"])


def image_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_each_mask_has_an_overlay_and_each_expression_a_card(answers: ImageAnswers) -> None:
    view = answers_view(answers)
    assert view.count('class="demo-overlay"') == 2
    assert view.count('<li class="demo-card demo-found"') == 2
    assert view.count('<li class="demo-card demo-absent"') == 1
    assert "No target" in view
    assert "Nothing in the image fits this expression." in view
    assert len(re.findall(r"<dt>score</dt><dd>\d\.\d\d</dd>", view)) == 3
    assert len(re.findall(r"<dt>time</dt><dd>[\d.]+ m?s</dd>", view)) == 3
    assert re.search(r"decode <b>\d+ ms</b>.*encode <b>[\d.]+ m?s</b>", view)
    assert view.count("of the image</p>") == 2


def test_an_embedding_that_was_there_before_is_called_reused(answers: ImageAnswers) -> None:
    assert "encode <b>reused</b>" in answers_view(dataclasses.replace(answers, reused=True))
    assert "encode <b>reused</b>" in ready_view(answers.image, True)


def test_expressions_and_messages_of_visitors_are_escaped(answers: ImageAnswers) -> None:
    found = dataclasses.replace(answers.answers[0], text=ATTACK)
    found = dataclasses.replace(found, outcome=dataclasses.replace(answers.results[0], text=ATTACK))
    failed = TimedAnswer(ATTACK, TextError(ATTACK), 0.1)
    view = answers_view(dataclasses.replace(answers, answers=(found, failed))) + error_view(TextError(ATTACK))
    assert "<img src=x" not in view
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;" in view
    assert "Not answered" in view


def test_presence_is_shown_where_the_answer_has_one(answers: ImageAnswers) -> None:
    class WithPresence(type(answers.results[0])):  # type: ignore[misc]
        presence = 0.876

    result = answers.results[0]
    values = {
        field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "presence"
    }
    answer = dataclasses.replace(answers.answers[0], outcome=WithPresence(**values))
    answer.outcome.__dict__["presence"] = 0.876
    assert "<dt>presence</dt><dd>0.88</dd>" in answers_view(dataclasses.replace(answers, answers=(answer,)))
    answer.outcome.__dict__["presence"] = None
    assert "presence" not in answers_view(dataclasses.replace(answers, answers=(answer,)))


def test_an_overlay_is_opaque_on_the_outline_tinted_inside_and_clear_far_outside() -> None:
    mask = np.zeros((100, 200), dtype=np.bool_)
    mask[20:60, 50:120] = True
    overlay = np.asarray(image_of(mask_url(mask, (10, 20, 30))))
    assert overlay.shape == (100, 200, 4)
    assert tuple(overlay[40, 80]) == (10, 20, 30, 178)
    assert tuple(overlay[19, 80]) == (10, 20, 30, 255)
    assert overlay[90, 180, 3] == 0
    assert overlay[10, 80, 3] == 0


def test_a_large_image_is_reduced_and_a_mask_of_one_pixel_stays_visible() -> None:
    width, height = view_size(3000, 4000)
    assert (width, height) == (LONGEST_SIDE, LONGEST_SIDE * 3 // 4)
    mask = np.zeros((3000, 4000), dtype=np.bool_)
    mask[1500, 2000] = True
    overlay = np.asarray(image_of(mask_url(mask, (10, 20, 30))))
    assert overlay.shape == (height, width, 4)
    assert (overlay[..., 3] == 255).any()


def test_a_marker_is_inside_its_mask_also_for_a_ring_and_there_is_none_for_an_empty_mask() -> None:
    rows, columns = np.mgrid[0:200, 0:300]
    distance = np.hypot(rows - 100, columns - 150)
    ring = (distance > 50) & (distance < 80)
    x, y = marker(ring) or (0, 0)
    assert ring[int(y * 200), int(x * 300)]
    assert marker(np.zeros((20, 30), dtype=np.bool_)) is None


def test_a_mask_gets_the_colour_that_differs_most_from_the_image_below() -> None:
    pixels = np.full((10, 10, 3), (230, 150, 10), np.uint8)
    mask = np.ones((10, 10), dtype=np.bool_)
    assert most_different([(230, 159, 0), (0, 114, 178)], pixels, mask, (0, 0, 10, 10)) == (0, 114, 178)


def test_the_maps_are_drawn_for_light_and_dark_pages(answering: Answering, png: bytes) -> None:
    view = explanation_view(answering.explained("page", png, "the heart"))
    light, dark = (image_of(url) for url in re.findall(r'src="(data:[^"]*)"', view))
    assert np.asarray(light.convert("L")).mean() > np.asarray(dark.convert("L")).mean() + 50


def test_every_card_can_show_its_mask_alone() -> None:
    assert highlight_rules(12).count(":hover") == 12


def test_the_page_says_what_its_model_knows_and_how_to_name_another() -> None:
    note = model_html(ModelNote("shapes", "bundled", "cpu"))
    assert "drawn shapes only" in note
    assert "sspsam demo --model ssp-sam-224-grefcoco" in note
    other = model_html(ModelNote("<b>owner/name", "owner/name@c0ffee", "cuda:0"))
    assert "&lt;b&gt;owner/name" in other
    assert "drawn shapes" not in other


def test_numbers_of_the_same_mask_stand_beside_each_other(answering: Answering, png: bytes) -> None:
    texts = ["the heart", "the red square", "the heart ", "the  heart", "a heart", "the heart."]
    view = answers_view(answering.answer("page", png, texts))
    pins = re.findall(r'class="demo-pin" data-answer="\d+" style="(left:[^;]+;top:[^;]+);', view)
    assert len(pins) == len(set(pins)) == 6


def test_a_number_near_the_right_edge_is_moved_to_the_left_and_after_four_a_new_row_begins() -> None:
    pins = Pins()
    positions = [pins.position((0.9, 0.1)) for _ in range(5)]
    assert positions[0] == "left:90.00%;top:10.00%"
    assert positions[1] == "left:calc(90.00% - 26px);top:10.00%"
    assert positions[4] == "left:90.00%;top:calc(10.00% + 26px)"
    assert pins.position((0.2, 0.1)) == "left:20.00%;top:10.00%"
