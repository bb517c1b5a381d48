"""PBench: expressions of five levels and crowded images, as Parquet files of `tiiuae/PBench` on the Hub.

The columns are those of the card of the data set, https://huggingface.co/datasets/tiiuae/PBench. A row has an image, an
expression, and the masks of all objects that the expression refers to; the target is their union.
"""

import io
from collections.abc import Iterator
from typing import Any

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import checked_identifier, checked_list, checked_object, checked_text, member
from sspsam.evaluation.datasets.entry import Entry, unique_key
from sspsam.evaluation.datasets.image_size import image_file_size
from sspsam.evaluation.datasets.masks import COCOMask, check_segmentation, rle_hull, rle_size
from sspsam.evaluation.datasets.parquet import Row, rows
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.arrays import HeightWidth


def entries(request: Request) -> Iterator[Entry]:
    """Yield one entry for each row, in the order of the files; without masks, it has no target.

    Raises:
        DatasetError: there is no such split, or a row is malformed.
        DatasetMissingError: files are missing.
        MissingExtraError: pyarrow is not installed.
    """
    counts: dict[str, int] = {}
    for row in rows(request, ("expression", "masks", "id")):
        text = member(row.values, "expression", checked_text, row.where)
        if not text.strip():
            raise DatasetError(f"{row.where}: 'expression' is empty")
        row_id = member(row.values, "id", checked_identifier, row.where)
        key = unique_key(str(row_id), counts)
        masks = [
            checked_object(mask, f"{row.where}: mask {index}")
            for index, mask in enumerate(member(row.values, "masks", checked_list, row.where))
        ]
        size = _size(row, masks)
        for index, mask in enumerate(masks):
            check_segmentation(mask, size, f"{row.where}: mask {index}")
        box = rle_hull(masks, size, row.where)
        yield Entry(
            image=request.image_folder / f"{request.split}-{key}",
            image_id=str(row_id),
            size=size,
            text=text,
            no_target=not masks,
            box=box,
            key=key,
            source=COCOMask(tuple(masks), row.where),
            embedded=row.image,
        )


def _size(row: Row, masks: list[dict[str, Any]]) -> HeightWidth:
    """Return height and width of the masks, or those of the image where there are none."""
    if masks:
        return rle_size(masks[0], f"{row.where}: mask 0")
    return image_file_size(io.BytesIO(row.image.read()), row.where, f"{row.where}: the image")
