"""Options of a batch, and the summary that it returns."""

import numbers
import operator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, get_args

from sspsam.batch.records import Shard
from sspsam.images.loading import DEFAULT_MAX_PIXELS
from sspsam.utils.arguments import real_number, true_or_false, whole_number
from sspsam.utils.paths import shown, shown_repr

Format = Literal["mask", "overlay", "cutout", "json", "polygons", "rle", "coco", "yolo", "parquet"]
_WHOLE_NUMBERS: Final = {
    "batch_size": 1,
    "workers": 1,
    "max_errors": 0,
    "max_pixels": 1,
    "no_target_pixels": 0,
    "min_area": 1,
}
_NUMBERS: Final = (*_WHOLE_NUMBERS, "mask_threshold", "presence_threshold")
FORMATS: Final[tuple[Format, ...]] = get_args(Format)


@dataclass(frozen=True)
class BatchOptions:
    """Options of a batch. A run is resumed only if the options that change the answers are the same.

    Args:
        formats: `"mask"`, an 8-bit PNG of 0 and 255 for each image and expression; `"overlay"`, the image with the
            mask tinted; `"cutout"`, the target on a transparent background; `"json"`, `Segmentation.to_dict()`;
            `"polygons"`, outlines as JSON; `"coco"`, one COCO file at the end; `"yolo"`, a folder of YOLO labels at the
            end; `"parquet"`, the results as one Parquet file at the end (extra `[ray]`); `"rle"`, no file:
            `results.jsonl` holds every mask anyway.
        instances: whether each 8-connected part of a mask is an annotation of its own in `"coco"`, as it always is in
            `"yolo"`.
        min_area: smallest area in pixels of such a part; smaller ones are left out.
        coco_polygons: polygons in the COCO file instead of run-length encodings (extra `[coco]`).
        glob: pattern for the files of a folder; `*` matches `/` too. None: files with the suffix or the first bytes
            of an image.
        shard: number of this run, if the batch is split into independent runs.
        overwrite: remove the files of an earlier run in the same folder, and start again.
        retry_errors: retry the images that failed in earlier runs.
        max_errors: stop when more images than this have failed, earlier runs included; None: never.
        batch_size, workers: as in `SSPSAMPredictor.predict_batch`.
        mask_threshold, no_target_pixels, presence_threshold, max_pixels: as in `SSPSAMPredictor.predict`.

    Raises:
        ValueError: an option is out of range or of a wrong type; the message names the option.
    """

    formats: tuple[Format, ...] = ("mask",)
    instances: bool = False
    min_area: int = 1
    coco_polygons: bool = False
    glob: str | None = None
    shard: Shard = field(default_factory=Shard)
    overwrite: bool = False
    retry_errors: bool = False
    max_errors: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    mask_threshold: float | None = None
    no_target_pixels: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    presence_threshold: float | None = None

    def __post_init__(self) -> None:
        names = _format_names(self.formats)
        unknown = [name for name in names if name not in FORMATS]
        if unknown or not names:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, not {shown(unknown or 'none')}")
        for name, least in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if value is not None or name in ("max_pixels", "min_area"):
                whole_number(name, value, least)
        for name in ("overwrite", "retry_errors", "instances", "coco_polygons"):
            true_or_false(name, getattr(self, name))
        if self.glob is not None and not (isinstance(self.glob, str) and self.glob):
            raise ValueError(f"glob must be None or a pattern such as '*.jpg', not {shown_repr(self.glob)}")
        if not isinstance(self.shard, Shard):
            raise ValueError(f"shard must be a Shard, such as Shard(2, 8), not {shown_repr(self.shard)}")
        if self.mask_threshold is not None:
            _check_probability("mask_threshold", self.mask_threshold)
        if self.presence_threshold is not None:
            real_number("presence_threshold", self.presence_threshold, 0, 1)

    def plain(self) -> Self:
        """Return the same options, with a tuple of formats and without numbers of NumPy, for JSON."""
        given = {name: value for name in _NUMBERS if (value := getattr(self, name)) is not None}
        plain_numbers: dict[str, Any] = {
            name: operator.index(value) if name in _WHOLE_NUMBERS else float(value) for name, value in given.items()
        }
        return replace(self, formats=_format_names(self.formats), shard=self.shard.plain(), **plain_numbers)


def _format_names(formats: object) -> tuple[Any, ...]:
    return tuple(formats) if isinstance(formats, tuple | list) else (formats,)


def _check_probability(name: str, value: object) -> None:
    if not (isinstance(value, numbers.Real) and 0.0 < float(value) < 1.0):  # NaN and bools neither
        raise ValueError(f"{name} must be a number between 0 and 1, not {shown_repr(value)}")


@dataclass(frozen=True)
class BatchSummary:
    """Counts of a batch.

    Args:
        pictures: images of this run, without the images of other shards.
        done: images answered by this call.
        earlier: images answered by earlier calls, which this call resumed.
        failed: images that failed, in this call or in earlier ones.
        expressions: answers of this call.
        no_target: answers of this call that are "no target".
        passed_over: files of the folder that are not images.
        skipped_outputs: output folders of earlier batches below the folder, whose files are not part of the input.
    """

    pictures: int
    done: int
    earlier: int
    failed: int
    expressions: int
    no_target: int
    passed_over: int
    skipped_outputs: int = 0

    def __str__(self) -> str:
        counts = [f"{self.done + self.earlier} of {self.pictures} images done"]
        counts += [f"{self.earlier} of them in earlier runs"] if self.earlier else []
        counts += [f"{self.failed} failed"] if self.failed else []
        counts += [f"{self.expressions} expressions answered, {self.no_target} of them with no target"]
        counts += [f"{self.passed_over} other files skipped"] if self.passed_over else []
        folders = "output folder" if self.skipped_outputs == 1 else "output folders"
        counts += [f"{self.skipped_outputs} {folders} of other batches skipped"] if self.skipped_outputs else []
        return ", ".join(counts)
