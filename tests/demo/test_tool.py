"""The tool for assistants, without a server."""

import base64

import numpy as np
import pytest

from sspsam import Segmentation
from sspsam.demo.answering import Answering
from sspsam.demo.tool import tool_answer
from sspsam.errors import TextError


def test_each_expression_has_an_object_in_order_and_duplicates_are_computed_once(
    answering: Answering, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    predict = answering.predictor.predict

    def counted(text: str, **options: object) -> object:
        computed.append(text)
        return predict(text, **options)  # type: ignore[call-overload]  # the arguments of the tool

    monkeypatch.setattr(answering.predictor, "predict", counted)
    texts = ["the heart", "the purple star", "the heart", " the  heart"]
    answer = tool_answer(answering, base64.b64encode(png).decode(), texts)
    assert [each["text"] for each in answer.answers] == texts
    assert [each["no_target"] for each in answer.answers] == [False, True, False, False]
    assert computed == ["the heart", "the purple star", " the  heart"]
    masks = [Segmentation.from_dict(each).mask for each in answer.answers]
    assert np.array_equal(masks[0], predict("the heart", image=png).mask)
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "the star", " "], "Expression 1 is empty"),
        (["the star", "\n\t"], "Expression 2 is empty"),
        ([], "There is no expression"),
        (["the star"] * 13, "13 expressions"),
        (["word " * 1000], "4,000 characters"),
    ],
)
def test_lists_that_cannot_be_answered_are_refused(answering: Answering, texts: list[str], message: str) -> None:
    with pytest.raises(TextError, match=message):
        tool_answer(answering, "", texts)
