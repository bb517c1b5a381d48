"""Data sets of the Hugging Face Hub as Parquet files (extra `[eval]`): files of a split, rows, and images in them."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.installing import missing_extra
from sspsam.utils.paths import first_line, shown

_FILE: Final = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")  # of the library `datasets`
_FLAT_COLUMNS: Final = frozenset({"question", "answer", "segmentation"})  # of the copies of `lmms-lab`
FLAT_POLYGONS: Final = "they join the parts of an object into one list of numbers"


@dataclass
class ImageColumn:
    """The column `image` of the files of a split, of which one group of rows is kept in memory."""

    _group: tuple[Path, int] | None = field(default=None, repr=False)
    _values: list[Any] = field(default_factory=list, repr=False)

    def read(self, path: Path, group: int, row: int, where: str) -> bytes:
        """Return the bytes of an image file.

        Args:
            path: of the Parquet file.
            group: number of the group of rows.
            row: in the group.
            where: file and row, for errors.

        Raises:
            DatasetError: the row has none, or the file cannot be read.
        """
        if self._group != (path, group):
            self._values = [values["image"] for values in _row_group(path, group, ["image"])]
            self._group = path, group
        value = self._values[row] if row < len(self._values) else None
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            raise DatasetError(f"{where}: 'image' must hold the bytes of an image file")
        return content


@dataclass(frozen=True)
class EmbeddedImage:
    """An image inside a Parquet file.

    Args:
        column: of all files of the split.
        path: of the file.
        group, row: position in the file.
        where: file and row, for errors.
    """

    column: ImageColumn
    path: Path
    group: int
    row: int
    where: str

    def read(self) -> bytes:
        """Return the bytes of the image file."""
        return self.column.read(self.path, self.group, self.row, self.where)


@dataclass(frozen=True)
class Row:
    """A row of a split.

    Args:
        values: by column, without the image.
        image: of the row.
        where: file and row, for errors.
    """

    values: dict[str, Any]
    image: EmbeddedImage
    where: str


def rows(request: Request, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a split, without their images.

    Args:
        request: the data set and its split.
        columns: besides `image`; all must be there.

    Raises:
        DatasetMissingError: there are no files, or some of the split are missing.
        DatasetError: there is no such split, or the files have other columns.
        MissingExtraError: pyarrow is not installed.
    """
    images = ImageColumn()
    for path in _split_files(request):
        number = 0
        require_columns(path, (*columns, "image"))
        for group in range(_opened(path).num_row_groups):
            for row, values in enumerate(_row_group(path, group, columns)):
                where = f"{shown(path)}: row {number}"
                yield Row(values, EmbeddedImage(images, path, group, row, where), where)
                number += 1


def require_columns(path: Path, columns: Collection[str]) -> None:
    """Raise an error if a file lacks columns.

    Raises:
        DatasetError: it does; or it is one of the copies with flattened polygons.
    """
    names = _opened(path).schema_arrow.names
    missing = [name for name in columns if name not in names]
    if missing:
        reason = f", whose masks are wrong: {FLAT_POLYGONS}" if has_flat_polygons(path) else ""
        raise DatasetError(
            f"{shown(path)} lacks the columns {', '.join(missing)} and has {shown(', '.join(names))}: it is of another "
            f"data set{reason}"
        )


def has_flat_polygons(path: Path) -> bool:
    """Return whether a Parquet file is of a copy of RefCOCO whose masks are one list of numbers for each object."""
    arrow = import_pyarrow()[0]
    schema = _opened(path).schema_arrow
    if not frozenset(schema.names) >= _FLAT_COLUMNS:
        return False
    kind = schema.field("segmentation").type
    return bool(
        (arrow.types.is_list(kind) or arrow.types.is_large_list(kind)) and arrow.types.is_floating(kind.value_type)
    )


def flattened_copy(folders: Sequence[Path]) -> Path | None:
    """Return a Parquet file with flattened polygons in one of the folders or in `data` below them, if there is one."""
    for folder in (below for above in folders for below in (above, above / "data")):
        paths = sorted(folder.glob("*.parquet"))
        if paths and has_flat_polygons(paths[0]):
            return paths[0]
    return None


def import_pyarrow() -> tuple[Any, Any]:
    """Import `pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("a data set in Parquet files", "pyarrow", "eval", error) from error
    return pyarrow, pyarrow.parquet


def _split_files(request: Request) -> list[Path]:
    """Return the files of a split in their order, from the first usual folder that has Parquet files."""
    folders = [request.data_root / folder for folder in request.place.folders]
    found = next((paths for folder in folders if (paths := sorted(folder.glob("*.parquet")))), [])
    matches = [(path, match) for path in found if (match := _FILE.fullmatch(path.name))]
    if not matches:
        if found:
            require_columns(found[0], ("image",))
        raise DatasetMissingError(
            f"{request.dataset} lacks {shown(folders[0])}{os.sep}{request.split}-00000-of-....parquet: get "
            f"{request.place.source}, and put its Parquet files there, or give another data root"
        )
    chosen = {
        int(match["number"]): (path, int(match["count"])) for path, match in matches if match["split"] == request.split
    }
    if not chosen:
        names = ", ".join(dict.fromkeys(match["split"] for _, match in matches))
        raise DatasetError(
            f"{request.dataset} has no split {request.split!r} in {shown(found[0].parent)}: it has {names}"
        )
    count = next(iter(chosen.values()))[1]
    missing = [f"{request.split}-{number:05}-of-{count:05}.parquet" for number in range(count) if number not in chosen]
    if missing:
        raise DatasetMissingError(
            f"{shown(found[0].parent)} lacks {', '.join(missing[:5])}: get all files of {request.place.source}"
        )
    return [chosen[number][0] for number in sorted(chosen)]


def _opened(path: Path) -> Any:
    _, parquet = import_pyarrow()
    with _naming(path):
        file = parquet.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018, a damaged file fails here
    return file


def _row_group(path: Path, group: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a group, each with some columns."""
    file = _opened(path)
    with _naming(path):
        rows: list[dict[str, Any]] = file.read_row_group(group, columns=list(columns)).to_pylist()
        return rows


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise a `DatasetError` that names the file where it cannot be read; its texts may not be UTF-8."""
    arrow, _ = import_pyarrow()
    try:
        yield
    except (OSError, ValueError, IndexError, KeyError, arrow.ArrowException) as error:
        raise DatasetError(f"{shown(path)} cannot be read as Parquet: {shown(first_line(error))}") from error
