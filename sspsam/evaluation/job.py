"""An evaluation as a user describes it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sspsam.errors import DatasetError, EvaluationError
from sspsam.evaluation.protocols import PROTOCOLS, STANDARD
from sspsam.utils.paths import user_path


@dataclass(frozen=True)
class EvaluationJob:
    """Part of a data set, and how it is evaluated.

    Args:
        dataset, split, split_by, data_root, image_root, limit: see `read_dataset`.
        protocol: one of `protocols.PROTOCOLS`.
        torchvision_017: see `OfficialFrame`.
        phrasecut_words: see `TaskSubsets.read`.
        shard: number of this run, from 1, and number of runs.
    """

    dataset: str
    split: str
    data_root: Path
    split_by: str | None = None
    image_root: Path | None = None
    limit: int | None = None
    protocol: str = STANDARD
    torchvision_017: bool = False
    phrasecut_words: Path | None = None
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise EvaluationError(f"unknown protocol {self.protocol!r}; there are {', '.join(PROTOCOLS)}")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"there is no run {self.shard[0]} of {self.shard[1]}; runs are numbered from 1")

    def expanded(self) -> Self:
        """Return the job with `~` expanded in its paths."""
        return replace(
            self,
            data_root=user_path(self.data_root, "the data set", DatasetError),
            image_root=path_or_none(self.image_root, "the images"),
            phrasecut_words=path_or_none(self.phrasecut_words, "the lists of words"),
        )

    def file_name(self, stem: str, suffix: str, number: int | None = None) -> str:
        """Return for example `records.jsonl`, or `records.2-of-8.jsonl` of a shard."""
        own, count = self.shard
        return f"{stem}{suffix}" if count == 1 else f"{stem}.{number or own}-of-{count}{suffix}"


def path_or_none(path: Path | None, role: str) -> Path | None:
    """Return a path of the user with `~` expanded, or None."""
    return None if path is None else user_path(path, role, EvaluationError)
