"""Multipart bodies -> parts: names and bytes. File names are never looked at."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sspsam.errors import RefusalError

_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")  # RFC 2046
_PLAIN: Final = (b"7bit", b"8bit", b"binary")  # encodings that change nothing
_CHUNK: Final = 1 << 16  # bytes between two looks at the limits: the parser itself reads headers of any length
_MAX_HEADERS: Final = 8  # of a part
_MAX_HEADER_BYTES: Final = 4096  # of a part's names and values together


@dataclass
class _Part:
    data: bytearray = field(default_factory=bytearray)
    headers: list[tuple[bytearray, bytearray]] = field(default_factory=list)
    size: int = 0  # bytes of the headers


class _Parts:
    """Callbacks of the parser."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts: list[_Part] = []
        self.is_complete = False

    def callbacks(self) -> Any:  # of a type that only some releases of the parser name
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._add_data,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._most:
            raise malformed(f"it has more than {self._most} parts")
        self.parts.append(_Part())

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += memoryview(data)[start:end]

    def _begin_header(self) -> None:
        headers = self.parts[-1].headers
        if len(headers) >= _MAX_HEADERS:
            raise malformed(f"a part has more than {_MAX_HEADERS} headers")
        headers.append((bytearray(), bytearray()))

    def _add_header(self, position: int, data: bytes) -> None:
        part = self.parts[-1]
        part.size += len(data)
        if part.size > _MAX_HEADER_BYTES:
            raise malformed(f"a part has more than {_MAX_HEADER_BYTES:,} bytes of headers")
        part.headers[-1][position].extend(data)

    def _end(self) -> None:
        self.is_complete = True


def parse_multipart(content_type: str, body: bytes, most_parts: int) -> list[tuple[str, bytes]]:
    """Return the name and the bytes of each part of a form.

    Args:
        content_type: of the request, with the boundary.
        body: of the request.
        most_parts: number of parts that is not malformed.

    Raises:
        RefusalError: 400, the body is malformed.
    """
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary) or boundary.endswith(b" "):
        raise malformed("its Content-Type has no valid boundary")
    if not body.startswith((b"--" + boundary, b"\r\n--" + boundary)):
        raise malformed("it does not begin with its boundary")
    parts = _Parts(most_parts)
    parser = MultipartParser(boundary, parts.callbacks())
    try:
        for start in range(0, len(body), _CHUNK):
            parser.write(body[start : start + _CHUNK])
            if parts.is_complete:
                break
    except FormParserError as error:
        raise malformed(f"{error}") from None
    if not parts.is_complete:
        raise malformed("it ends before its last boundary")
    return [(_name(part), bytes(part.data)) for part in parts.parts]


def _name(part: _Part) -> str:
    """Return the name of a part's field."""
    values = [bytes(value) for name, value in part.headers if name.lower() == b"content-disposition"]
    encodings = [bytes(value) for name, value in part.headers if name.lower() == b"content-transfer-encoding"]
    if any(encoding.strip().lower() not in _PLAIN for encoding in encodings):
        raise malformed("a part has a Content-Transfer-Encoding; send its bytes as they are")
    if len(values) != 1:
        raise malformed("a part has no Content-Disposition, or several")
    kind, parameters = parse_options_header(values[0])
    if kind != b"form-data" or b"name" not in parameters:
        raise malformed("a part is no form-data with a name")
    return parameters[b"name"].decode("utf-8", "replace")


def malformed(reason: str) -> RefusalError:
    """Return the answer to a malformed form."""
    return RefusalError(f"the multipart body is malformed: {reason}", status=400, kind="MalformedForm")
