"""How a batch is run, and what became of it."""

from dataclasses import dataclass, field
from typing import Final, Literal

from sspsam.batch.records import Shard
from sspsam.images.loading import DEFAULT_MAX_PIXELS

Format = Literal["mask", "overlay", "rle", "coco", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("mask", "overlay", "rle", "coco", "parquet")


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; what of it changes the answers is compared when a run is resumed.

    Args:
        formats: `"mask"`, an 8-bit PNG of 0 and 255 for each picture and expression; `"overlay"`, the picture with the
            mask tinted; `"coco"`, one COCO file at the end; `"parquet"`, the results as one Parquet file at the end
            (extra `[ray]`); `"rle"`, no file: `results.jsonl` holds every mask anyway.
        glob: which files of a folder; `*` stands for `/` too. None: those that are pictures by name or beginning.
        shard: which of several independent runs this is.
        overwrite: remove what an earlier run in the same folder wrote, and begin anew.
        retry_errors: try again the pictures that failed in earlier runs.
        max_errors: stop after more than so many pictures that cannot be done, earlier runs included; None: never.
        batch_size, workers: as in `SSPSAMPredictor.predict_batch`.
        mask_threshold, no_target_pixels, max_pixels: as in `SSPSAMPredictor.predict`.
    """

    formats: tuple[Format, ...] = ("mask",)
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

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats are some of {', '.join(FORMATS)}, not {unknown or 'none'}")
        for name, least in (("batch_size", 1), ("workers", 1), ("max_errors", 0), ("max_pixels", 1)):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
                raise ValueError(f"{name} is a whole number, {least} or more, not {count!r}")


@dataclass(frozen=True)
class BatchSummary:
    """What became of a batch.

    Args:
        pictures: of this run, all shards' parts left out.
        done: by this call.
        earlier: done by earlier calls that this one went on with.
        failed: pictures that could not be done, by whichever call.
        expressions: answered by this call.
        no_target: how many of those answers are that there is no target.
        passed_over: files of the folder that are no pictures.
    """

    pictures: int
    done: int
    earlier: int
    failed: int
    expressions: int
    no_target: int
    passed_over: int

    def __str__(self) -> str:
        parts = [f"{self.done + self.earlier} of {self.pictures} pictures done"]
        parts += [f"{self.earlier} of them earlier"] if self.earlier else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.expressions} expressions answered, {self.no_target} of them with no target"]
        parts += [f"{self.passed_over} other files passed over"] if self.passed_over else []
        return ", ".join(parts)
