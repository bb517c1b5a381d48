"""The results of a batch as a Parquet file (extra `[ray]`, which brings pyarrow)."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO, Final

from sspsam.batch.records import Line
from sspsam.errors import MissingExtraError

_ROWS: Final = 1000  # that are held in memory at a time


def write_parquet(file: BinaryIO, lines: Iterable[Line]) -> None:
    """Write a row for each line, its fields as columns.

    Args:
        file: open for writing.
        lines: of `results.jsonl`, iterated over once.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    text, whole, real = arrow.string(), arrow.int64(), arrow.float64()
    columns = {
        "image": text,
        "number": whole,
        "of": whole,
        "files": arrow.struct([("mask", text), ("overlay", text)]),
        "model": text,
        "fingerprint": text,
        "sspsam": text,
        "version": whole,
        "text": text,
        "no_target": arrow.bool_(),
        "foreground_pixels": whole,
        "score": real,
        "box": arrow.list_(real),
        "mask_box": arrow.list_(whole),
        "height": whole,
        "width": whole,
        "mask": arrow.struct([("size", arrow.list_(whole)), ("counts", text)]),
    }
    schema = arrow.schema(columns)
    rows = iter(lines)
    with parquet.ParquetWriter(file, schema) as writer:
        while part := list(islice(rows, _ROWS)):
            said = [{name: _written(line.get(name)) for name in columns} for line in part]
            writer.write_table(arrow.Table.from_pylist(said, schema=schema))


def _written(value: Any) -> Any:
    """Names of files that are no text in any encoding are written with escapes: Parquet takes UTF-8 alone."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    return value


def require_pyarrow() -> None:
    """Find out before the work begins."""
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"Parquet needs pyarrow, which is not installed ({error}): pip install 'sspsam[ray]'"
        ) from error
    return pyarrow, pyarrow.parquet
