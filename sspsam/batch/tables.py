"""Lists (`.txt`) and tables (CSV or TSV with a header, or JSON lines) of images and expressions."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from sspsam.errors import ManifestError, SSPSAMError, warn
from sspsam.utils.paths import open_regular_file, shown, shown_repr

LIST_SUFFIX: Final = ".txt"
_MAX_BYTES: Final = 1 << 30  # of a list or table, which is read as a whole
_COLUMNS: Final = ("image", "text", "label")
TABLE_SUFFIXES: Final = frozenset((".csv", ".tsv", ".jsonl", ".ndjson"))


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        location: file and line, for errors.
        image: path of the image as written.
        texts: expressions; empty if the row has none.
        labels: category of each expression, or None; empty: no expression has one.
    """

    location: str
    image: str
    texts: tuple[str, ...]
    labels: tuple[str | None, ...] = ()


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, without surrounding white space."""
    return [line for line in (line.strip() for line in _lines(_read_text(path))) if line]


def read_table(path: Path) -> Iterator[TableRow]:
    """Yield the rows of a table.

    Raises:
        ManifestError: the file cannot be read, or a row is malformed; the message names the line.
    """
    return _csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else _json_rows(path)


def _read_text(path: Path) -> str:
    try:
        with open_regular_file(path, ManifestError) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        if isinstance(error, SSPSAMError):
            raise
        raise ManifestError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise ManifestError(f"{shown(path)} is larger than {_MAX_BYTES >> 20} MiB: split it into several files")
    try:
        return content.decode("utf-8-sig")  # not text mode: the csv module needs the original line ends
    except UnicodeDecodeError as error:
        raise ManifestError(f"{shown(path)} is not a text file in UTF-8 ({error})") from error


def _lines(text: str) -> list[str]:
    """Split a text at its line ends; they are CR alone only where no line feed occurs, since a name may contain CR."""
    return text.split("\n" if "\n" in text else "\r")


def _csv_rows(path: Path) -> Iterator[TableRow]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True, delimiter=delimiter)
    try:
        names = list(reader.fieldnames or ())
        if "image" not in names:
            found = f"it is {shown(names)}" if names else "the file is empty"
            raise ManifestError(f"{shown(path)}: the first line has to name the columns, image and text; {found}")
        if repeated := next((name for name in _COLUMNS if names.count(name) > 1), None):
            raise ManifestError(
                f"{shown(path)}: the first line names the column {repeated!r} twice: rename one of them"
            )
        _warn_of_typos(names, f"{shown(path)}: the column")
        for row in reader:
            yield _csv_row(row, f"{shown(path)}, line {reader.line_num}")
    except csv.Error as error:
        line = reader.reader.line_num  # that of `DictReader` is the line of the last row without an error
        raise ManifestError(
            f"{shown(path)}, line {line}: {error}: put a text with the separator, a quote or a line end in double "
            "quotes, and double the quotes in it"
        ) from error


def _csv_row(row: dict[str | Any, str | Any], location: str) -> TableRow:
    if None in row:  # the key under which `csv` collects surplus values
        raise ManifestError(
            f"{location} has more columns than the first line: put a text that contains the separator in double quotes"
        )
    if not row["image"]:
        raise ManifestError(f"{location}: no image")
    text, label = row.get("text"), (row.get("label") or "").strip()
    if label and not text:
        raise ManifestError(f"{location} has the label {shown_repr(label)} and no text to segment: add the text")
    return TableRow(location, row["image"], (text,) if text else (), (label,) if label else ())


def _warn_of_typos(names: Iterable[str], what: str) -> None:
    """Warn of names that are ignored, but nearly those of columns that are missing."""
    missing = [column for column in _COLUMNS if column not in names]
    for name in names:
        if name not in _COLUMNS and (meant := get_close_matches(name.strip().lower(), missing, 1, 0.75)):
            warn(f"{what} {shown_repr(name)} is ignored: {meant[0]!r} is the name that is read")


def _json_rows(path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(_lines(_read_text(path)), 1):
        if line.strip():
            yield _json_row(line, f"{shown(path)}, line {number}", warns=number == 1)


def _json_row(line: str, location: str, warns: bool) -> TableRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{location} is not JSON: {error}") from error
    if warns and isinstance(row, dict):
        _warn_of_typos(row, f"{location}: the key")
    image, text = (row.get("image"), row.get("text", [])) if isinstance(row, dict) else (None, None)
    texts = [text] if isinstance(text, str) else text
    if not isinstance(image, str) or not image or not isinstance(texts, list):
        raise ManifestError(
            f'{location} is not of the form {{"image": path, "text": an expression or a list of expressions}}'
        )
    if not all(isinstance(expression, str) for expression in texts):
        raise ManifestError(f"{location}: an expression must be a string")
    return TableRow(location, image, tuple(texts), _labels(row.get("label"), len(texts), location))


def _labels(value: Any, count: int, location: str) -> tuple[str | None, ...]:
    """Return the labels of a row, one for each expression; empty if the row has none."""
    if value is None or value == "":
        return ()
    labels = [value] if isinstance(value, str) else value
    if not isinstance(labels, list) or len(labels) != count:
        raise ManifestError(f"{location}: label must have one value for each text, {count}, not {shown_repr(value)}")
    if not all(label is None or isinstance(label, str) for label in labels):
        raise ManifestError(f"{location}: a label must be a string")
    return tuple((label or "").strip() or None for label in labels)
