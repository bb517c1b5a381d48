"""Checked lines of `results.jsonl`, for files that are made from all results."""

import json
from collections.abc import Iterator
from typing import Any

from sspsam.batch.records import JsonLinesFile, Line
from sspsam.errors import BatchError, ResultError
from sspsam.messages import OVERWRITE, OptionMessage, message_of
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.rle import rle_runs
from sspsam.utils.paths import shown


def result_lines(results: JsonLinesFile, max_pixels: int) -> Iterator[Line]:
    """Yield the lines of `results.jsonl`; a line cannot claim a mask that is larger than the images of the batch.

    Args:
        results: the file.
        max_pixels: largest width times height of an image.

    Raises:
        BatchError: a line is damaged or claims too much; the message names the line.
    """
    for number, content in enumerate(results.lines(), 1):
        try:
            line = json.loads(content)
            _require_result(line, max_pixels)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
            reason = str(error) if type(error) is ValueError else "it is not a result"
            raise BatchError(
                OptionMessage(
                    f"line {number} of {shown(results.path)} is damaged ({shown(reason)}): repair the line, or start "
                    "again with ",
                    OVERWRITE,
                )
            ) from error
        yield line


def category_of(line: Line) -> str:
    """Return the label of a line, or its expression where it has no label."""
    return str(line.get("label") or line["text"])


def result_of(line: Line) -> Segmentation:
    """Return the answer that a line records, without pixels.

    Args:
        line: from `result_lines`, so that the size of its mask is possible.

    Raises:
        BatchError: the line is damaged.
    """
    try:
        return Segmentation.from_dict(line, max_pixels=line["height"] * line["width"])
    except ResultError as error:
        raise BatchError(
            OptionMessage(
                f"the line of {shown(line['image'])} and expression {line['number']} in the results is damaged: ",
                message_of(error),
                ". Repair the line, or start again with ",
                OVERWRITE,
            )
        ) from error


def _require_result(line: Any, max_pixels: int) -> None:
    """Raise a `ValueError` or another exception unless a line is a result of a possible size."""
    height, width = line["height"], line["width"]
    if not (_is_size(height) and _is_size(width) and height * width <= max_pixels):
        raise ValueError(f"it claims {height} x {width} pixels, and at most {max_pixels:,} are possible")
    runs = rle_runs(line["mask"]["counts"])
    if line["mask"]["size"] != [height, width] or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError("its mask has another size than its image")
    if not all(isinstance(line[key], str) for key in ("image", "text")) or not _is_size(line["number"]):
        raise ValueError("it is not a result")
    if not isinstance(line.get("label"), str | None):
        raise ValueError("its label is no text")
    if line["mask_box"] is not None and not (len(line["mask_box"]) == 4 and all(map(_is_whole, line["mask_box"]))):
        raise ValueError("its mask_box is not a box")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value > 0
