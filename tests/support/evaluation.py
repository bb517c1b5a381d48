"""Entries of a drawn data set for tests of the evaluation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sspsam.segmentation.rle import rle_decode


@dataclass(frozen=True, eq=False)
class DrawnEntry:
    """An expression with its ground truth, as the readers of data sets give it."""

    image: Path
    text: str
    truth: NDArray[np.bool_]
    box: tuple[float, float, float, float] | None
    no_target: bool
    key: str = ""

    @property
    def size(self) -> tuple[int, int]:
        return self.truth.shape[0], self.truth.shape[1]

    def mask(self) -> NDArray[np.bool_]:
        return self.truth


def mask_of(arrays, name: str, index: int) -> NDArray[np.bool_]:
    """Decode one mask of the reference files; `name` is that of the run lengths."""
    size = arrays[f"{name.partition('_')[0]}_size_hw"][index].tolist()
    return rle_decode({"size": size, "counts": str(arrays[name][index])})


def drawn_entries(arrays, data: str) -> list[DrawnEntry]:
    """Entries of one of the two data sets, `gref` or `ref`, in a reference file."""
    boxes = arrays.get(f"{data}_gt_box_xyxy")
    entries = []
    for index, text in enumerate(arrays[f"{data}_expression"]):
        truth = mask_of(arrays, f"{data}_gt_rle", index)
        box = None if boxes is None or not boxes[index].any() else tuple(boxes[index].tolist())
        absent = bool(arrays[f"{data}_gt_no_target"][index]) if f"{data}_gt_no_target" in arrays else not truth.any()
        image = Path(f"images/{arrays[f'{data}_image_id'][index]}.jpg")
        entries.append(DrawnEntry(image, str(text), truth, box, absent))
    return entries
