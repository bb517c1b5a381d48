"""Bodies of requests -> checked image bytes, expressions and options."""

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from sspsam.config import check_mask_threshold, check_no_target_pixels
from sspsam.errors import ConfigError, RefusalError
from sspsam.segmentation.answers import PredictOptions
from sspsam.serving.multipart import parse_multipart
from sspsam.serving.options import ServeOptions
from sspsam.utils.paths import kind_name, shown, shown_repr
from sspsam.utils.strict_json import parse_json_object

OPTION_NAMES: Final = ("mask_threshold", "no_target_pixels", "explain")
# more of these bytes than any request has would be parsed to more objects than memory holds; base64 has none of them
_STRUCTURE: Final = (b"[", b"{", b",", b'"')
_FORM: Final = "multipart/form-data"
_JSON: Final = "application/json"


@dataclass(frozen=True)
class Content:
    """The content of a request.

    Args:
        image: bytes of an image file; None where the request has none.
        expressions: in the order of the request.
        options: of `predict`.
    """

    image: bytes | None
    expressions: tuple[str, ...]
    options: PredictOptions


class _Fields(TypedDict, total=False):
    image: Any
    expressions: Any
    options: Any


def parse_content(content_type: str, body: bytes, fields: Collection[str], limits: ServeOptions) -> Content:
    """Parse and check the body of a request.

    Args:
        content_type: of the request.
        body: of the request.
        fields: names that the request must have; `options` may be left out.
        limits: of expressions.

    Raises:
        RefusalError: 400 malformed, 415 of an unknown type, 422 an entry is missing, unknown, of a wrong type, or
            out of range.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _JSON:
        values = _json_fields(body, limits)
    elif kind == _FORM:
        values = _form_fields(content_type, body, limits)
    else:
        message = f"the body must be {_FORM} or {_JSON}, not {shown_repr(kind)}"
        raise RefusalError(message, status=415, kind="ContentType")
    _check_names(values, fields)
    return Content(
        _image(values["image"], is_text=kind == _JSON) if "image" in values else None,
        _expressions(values["expressions"], limits) if "expressions" in values else (),
        _options(values.get("options", {})),
    )


def _check_names(names: Collection[str], fields: Collection[str]) -> None:
    unknown = [name for name in names if name not in fields]
    if unknown:
        raise _invalid(f"there is no entry {shown_repr(unknown[0])}; entries are {', '.join(fields)}")
    missing = [name for name in fields if name not in names and name != "options"]
    if missing:
        raise _invalid(f"the entry {missing[0]!r} is missing")


def _json_fields(body: bytes, limits: ServeOptions) -> _Fields:
    most = 64 + limits.max_expressions * (limits.max_expression_characters + 4)
    if sum(body.count(mark) for mark in _STRUCTURE) > most:
        raise _malformed_json("the body has too many values")
    return _json_object(body, "the body")  # type: ignore[return-value]  # names and types are checked by the caller


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        return parse_json_object(data.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        raise _malformed_json(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from None
    except ConfigError as error:
        raise _malformed_json(str(error)) from None


def _form_fields(content_type: str, body: bytes, limits: ServeOptions) -> _Fields:
    values: dict[str, Any] = {}
    for name, data in parse_multipart(content_type, body, limits.max_expressions + 3):
        if name == "expressions":
            values.setdefault(name, []).append(_text(data))
        elif name in values:
            message = f"the multipart body has the field {shown_repr(name)} twice"
            raise RefusalError(message, status=400, kind="MalformedForm")
        else:
            values[name] = _json_object(data, "the field 'options'") if name == "options" else data
    return values  # type: ignore[return-value]  # names and types are checked by the caller


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"a field 'expressions' is not UTF-8: {error.reason} at byte {error.start}"
        raise RefusalError(message, status=400, kind="MalformedForm") from None


def _image(value: Any, is_text: bool) -> bytes:
    if not is_text:
        return bytes(value)
    if not isinstance(value, str):
        raise _invalid(f"the entry 'image' must be a string with the image file in base64, not {kind_name(value)}")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _invalid(
            f"the entry 'image' is not base64 (it begins {shown(value[:20])!r}): send the bytes of the image file in "
            "base64; paths and URLs are never opened"
        ) from None


def _expressions(values: Any, limits: ServeOptions) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise _invalid(f"the entry 'expressions' must be a list of strings, not {kind_name(values)}")
    if not 1 <= len(values) <= limits.max_expressions:
        raise _invalid(f"a request has 1 to {limits.max_expressions} expressions, not {len(values):,}")
    return tuple(_expression(number, value, limits) for number, value in enumerate(values, 1))


def _expression(number: int, value: Any, limits: ServeOptions) -> str:
    if not isinstance(value, str):
        raise _invalid(f"expression {number} must be a string, not {kind_name(value)}")
    if not value.strip():
        raise _invalid(f"expression {number} is empty; describe the target in words")
    if len(value) > limits.max_expression_characters:
        most = limits.max_expression_characters
        raise _invalid(f"expression {number} has {len(value):,} characters; at most {most:,} are allowed")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(f"expression {number} has half of a surrogate pair, which is no character")
    return value


def _options(values: Any) -> PredictOptions:
    if not isinstance(values, dict):
        raise _invalid(f"the entry 'options' must be an object, not {kind_name(values)}")
    options: PredictOptions = {}
    for name, value in values.items():
        if name not in OPTION_NAMES:
            raise _invalid(f"there is no option {shown_repr(name)}; options are {', '.join(OPTION_NAMES)}")
        if value is not None:
            _check_option(name, value)
            options[name] = value  # type: ignore[literal-required]  # checked two lines above
    return options


def _check_option(name: str, value: Any) -> None:
    try:
        if name == "mask_threshold":
            check_mask_threshold(value)
        elif name == "no_target_pixels":
            check_no_target_pixels(value)
            if value >= 1 << 53:
                raise ConfigError("no_target_pixels is larger than any image")
        elif not isinstance(value, bool):
            raise TypeError(f"explain must be true or false, not {kind_name(value)}")
    except (ConfigError, TypeError, OverflowError) as error:
        raise _invalid(shown(f"option {error}")) from None


def _malformed_json(message: str) -> RefusalError:
    return RefusalError(message, status=400, kind="MalformedJSON")


def _invalid(message: str) -> RefusalError:
    return RefusalError(message, status=422, kind="InvalidRequest")
