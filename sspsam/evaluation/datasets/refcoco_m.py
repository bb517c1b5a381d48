"""RefCOCO-M: RefCOCO's validation split with new masks, as Parquet files of `moondream/refcoco-m` on the Hub.

The columns are those of the card of the data set, https://huggingface.co/datasets/moondream/refcoco-m.
"""

from collections.abc import Iterator
from typing import Any

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    checked_box,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
)
from sspsam.evaluation.datasets.entry import Entry, unique_key
from sspsam.evaluation.datasets.masks import COCOMask, check_segmentation, rle_size
from sspsam.evaluation.datasets.parquet import Row, rows
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.arrays import HeightWidth


def entries(request: Request) -> Iterator[Entry]:
    """Yield one entry for each sentence of each sample, in the order of the files.

    Raises:
        DatasetError: there is no such split, or a row is malformed.
        DatasetMissingError: files are missing.
        MissingExtraError: pyarrow is not installed.
    """
    counts: dict[str, int] = {}
    for row in rows(request, ("image_id", "file_name", "samples")):
        samples = [
            checked_object(sample, f"{row.where}: sample {index}")
            for index, sample in enumerate(member(row.values, "samples", checked_list, row.where))
        ]
        if not samples:
            continue
        size = rle_size(samples[0].get("mask"), f"{row.where}: sample 0: 'mask'")
        for index, sample in enumerate(samples):
            yield from _sample_entries(request, row, sample, size, f"{row.where}: sample {index}", counts)


def _sample_entries(
    request: Request, row: Row, sample: dict[str, Any], size: HeightWidth, where: str, counts: dict[str, int]
) -> Iterator[Entry]:
    sample_id = member(sample, "id", checked_identifier, where)
    mask = member(sample, "mask", checked_object, where)
    check_segmentation(mask, size, f"{where}: 'mask'")
    x, y, width, height = member(sample, "bbox", checked_box, where)
    name = member(row.values, "file_name", checked_text, row.where)
    for number, sentence in enumerate(member(sample, "sentences", checked_list, where)):
        text = checked_text(sentence, f"{where}: sentence {number}")
        if not text.strip():
            raise DatasetError(f"{where}: sentence {number} is empty")
        yield Entry(
            image=request.image_folder / name,
            image_id=str(member(row.values, "image_id", checked_identifier, row.where)),
            size=size,
            text=text,
            no_target=False,
            box=(x, y, x + width, y + height),
            key=unique_key(f"{sample_id}/{number}", counts),
            source=COCOMask((mask,), where),
            embedded=row.image,
        )
