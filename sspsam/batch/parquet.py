"""Results of a batch as a Parquet file (extra `[ray]`, which installs pyarrow)."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO, Final

from sspsam.batch.records import Line
from sspsam.errors import BatchError
from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES
from sspsam.utils.installing import missing_extra
from sspsam.utils.paths import shown

_ROWS_IN_MEMORY: Final = 1000


def write_parquet(file: BinaryIO, lines: Iterable[Line]) -> None:
    """Write one row for each line of results, with the line's entries as columns.

    Args:
        file: open for writing.
        lines: of `results.jsonl`; iterated over once.

    Raises:
        MissingExtraError: pyarrow is not installed.
        BatchError: a line does not fit the columns.
    """
    arrow, parquet = _import_pyarrow()
    schema = _schema(arrow)
    remaining = iter(lines)
    with parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(remaining, _ROWS_IN_MEMORY)):
            rows = [{name: _with_valid_utf8(line.get(name)) for name in schema.names} for line in chunk]
            try:
                table = arrow.Table.from_pylist(rows, schema=schema)
            except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise BatchError(f"a line of the results has a value of a wrong type: {shown(error)}") from error
            writer.write_table(table)


def require_pyarrow() -> None:
    """Raise a `MissingExtraError` if pyarrow is not installed, so that a run fails before it computes anything."""
    _import_pyarrow()


def _schema(arrow: Any) -> Any:
    text, integer, real = arrow.string(), arrow.int64(), arrow.float64()
    columns = {
        "image": text,
        "number": integer,
        "of": integer,
        "files": arrow.struct([(kind, text) for kind in ANSWER_SUFFIXES]),
        "model": text,
        "fingerprint": text,
        "sspsam": text,
        "version": integer,
        "text": text,
        "label": text,
        "no_target": arrow.bool_(),
        "foreground_pixels": integer,
        "score": real,
        "box": arrow.list_(real),
        "mask_box": arrow.list_(integer),
        "height": integer,
        "width": integer,
        "mask": arrow.struct([("size", arrow.list_(integer)), ("counts", text)]),
        "text_truncated": text,
        "presence": real,
    }
    return arrow.schema(columns)


def _with_valid_utf8(value: Any) -> Any:
    """Escape undecodable bytes of file names in a value, because Parquet accepts valid UTF-8 only."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _with_valid_utf8(entry) for key, entry in value.items()}
    return value


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("Parquet", "pyarrow", "ray", error) from error
    return pyarrow, pyarrow.parquet
