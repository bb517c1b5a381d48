"""Answers of the model -> responses, in the form that the client accepts."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import Response

from sspsam.errors import RefusalError
from sspsam.segmentation.result import Segmentation, mask_image, png_bytes
from sspsam.serving.engine import Answered

PNG: Final = "image/png"
JSON: Final = "application/json"
Form = Literal["json", "png"]
EXPOSED_HEADERS: Final = ("Retry-After", "Server-Timing", "SSPSAM-No-Target", "SSPSAM-Score")  # for pages of CORS


@dataclass(frozen=True)
class PNGAnswer:
    """One mask as an 8-bit grey PNG, 255 inside; all zero where there is no target."""

    data: bytes
    no_target: bool
    score: float

    @classmethod
    def of(cls, answer: Segmentation) -> "PNGAnswer":
        """Return the mask of an answer."""
        return cls(png_bytes(mask_image(answer.mask)), answer.no_target, answer.score)


def accepted_form(accept: str, expressions: int) -> Form:
    """Return the form of the response: JSON unless the client prefers PNG.

    Args:
        accept: header of the request; empty: anything.
        expressions: of the request.

    Raises:
        RefusalError: 406, no form is accepted, or only PNG for several expressions.
    """
    json_weight, png_weight = _weight(accept, JSON), _weight(accept, PNG)
    if json_weight >= png_weight and json_weight > 0:
        return "json"
    if png_weight <= 0:
        raise _not_acceptable(f"the server answers with {JSON}, or with {PNG} for one expression")
    if expressions == 1:
        return "png"
    if json_weight > 0:
        return "json"
    raise _not_acceptable(f"{PNG} holds one mask, but there are {expressions} expressions: accept {JSON}")


def _not_acceptable(message: str) -> RefusalError:
    return RefusalError(message, status=406, kind="NotAcceptable")


def _weight(accept: str, media_type: str) -> float:
    """Return the weight of a media type by the most specific range of an Accept header."""
    if not accept.strip():
        return 1.0
    ranges = {media_type: 3, f"{media_type.partition('/')[0]}/*": 2, "*/*": 1}
    best = (0, 0.0)
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name in ranges:
            best = max(best, (ranges[name], _quality(parameters)))
    return best[1]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; NaN, which is no JSON, is an error."""
    data = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(data, status, headers, media_type=JSON)


def segment_response(answered: Answered, form: Form, fingerprint: str) -> Response:
    """Return the response to a question."""
    headers = {
        "Server-Timing": f"queue;dur={1000 * answered.waited:.1f}, model;dur={1000 * answered.computed:.1f}",
        "Vary": "Accept",
    }
    if form == "json":
        return json_response({"results": answered.results, "fingerprint": fingerprint}, headers=headers)
    [answer] = answered.results
    headers |= {"SSPSAM-No-Target": str(answer.no_target).lower(), "SSPSAM-Score": f"{answer.score:.4f}"}
    return Response(answer.data, headers=headers, media_type=PNG)
