"""A fine-tuning as a user describes it, and its result."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

from sspsam.checkpoints.directory import CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.saving import check_destination
from sspsam.config import CALIBRATION_NAME, ModelConfig
from sspsam.errors import FinetuningError, StorageError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.masks import MaskFile
from sspsam.finetuning.corrected_images import WORST_FOLDER
from sspsam.finetuning.lines import DataSource
from sspsam.finetuning.start import StartOptions
from sspsam.finetuning.state import LOG_NAME, STATE_NAME
from sspsam.messages import OVERWRITE, OptionMessage
from sspsam.utils.arguments import true_or_false
from sspsam.utils.paths import shown, user_path

RUN_FOLDER: Final = "unfinished"  # in the output folder, while the training runs
REPORT_NAME: Final = "finetune.json"
CURVES_NAME: Final = "curves.png"
CARD_NAME: Final = "README.md"
_REPLACED: Final = (
    REPORT_NAME,
    CURVES_NAME,
    CARD_NAME,
    LOG_NAME,
    CALIBRATION_NAME,
    WORST_FOLDER,
)


@dataclass(frozen=True)
class FinetuneJob:
    """Data, starting point and output of a fine-tuning.

    Args:
        data: lines to learn from.
        start: checkpoint to start from.
        output: folder of the new checkpoint.
        held_out: lines that never train; None: a part of the images of `data`.
        rehearsal: lines about what the model knows; None: drawn scenes where the model knows drawn shapes, else none.
        negatives: phrases that refer to nothing in any image; None: foreign things where the model knows drawn shapes.
        skip_problems: whether to leave out lines with problems instead of refusing the data.
        overwrite: whether to replace a finished checkpoint, or the state of another training, in `output`.
        worst: number of the worst lines to show in `output/worst`, which is replaced as a whole; 0: none.
    """

    data: DataSource
    start: StartOptions
    output: Path
    held_out: DataSource | None = None
    rehearsal: DataSource | None = None
    negatives: Sequence[str] | None = None
    skip_problems: bool = False
    overwrite: bool = False
    worst: int = 0

    def __post_init__(self) -> None:
        for name in ("skip_problems", "overwrite"):
            true_or_false(name, getattr(self, name))

    def expanded(self) -> Self:
        """Return the job with `~` expanded in its paths."""
        return replace(
            self,
            data=self.data.expanded(),
            held_out=None if self.held_out is None else self.held_out.expanded(),
            rehearsal=None if self.rehearsal is None else self.rehearsal.expanded(),
            output=user_path(self.output, "the output folder", StorageError),
        )


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning.

    Args:
        directory: of the checkpoint.
        config: of the checkpoint.
        before, after: metrics of each part of the data that never trained.
        steps: of the whole training.
        best_step: step of the weights that were kept; 0: no step made the model better, and the weights are those of
            the starting point.
    """

    directory: Path
    config: ModelConfig
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    steps: int
    best_step: int


def check_output(job: FinetuneJob) -> None:
    """Refuse to replace files that the user did not give up, and those that the training reads.

    Raises:
        FinetuningError: the folder holds a finished checkpoint or other files under the names of the result, and
            `overwrite` is False; or lines lie under these names.
        StorageError: the folder holds files of another origin under a checkpoint's names.
    """
    check_destination(job.output)
    _require_kept(job, (path for data in (job.data, job.held_out, job.rehearsal) if data for path in data.paths))
    if job.overwrite:
        return
    finished = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if os.path.exists(job.output / name)]
    if finished and not os.path.exists(job.output / RUN_FOLDER / STATE_NAME):
        raise FinetuningError(
            OptionMessage(
                f"{shown(job.output)} holds a checkpoint already: choose another folder, or replace it with ", OVERWRITE
            )
        )
    others = [name for name in _REPLACED if os.path.lexists(job.output / name)]
    if others and not os.path.isdir(job.output / RUN_FOLDER):
        raise FinetuningError(
            OptionMessage(
                f"{shown(job.output)} holds {', '.join(others)}, which the result would replace: choose another "
                "folder, or replace them with ",
                OVERWRITE,
            )
        )


def check_inputs(job: FinetuneJob, entries: Collection[Entry]) -> None:
    """Refuse images and masks that the result would replace: corrected files elsewhere may refer to the worst lines.

    Raises:
        FinetuningError: an image or a mask lies under a name of the result.
    """
    masks = (entry.source.path for entry in entries if isinstance(entry.source, MaskFile))
    _require_kept(job, dict.fromkeys(chain((entry.image for entry in entries), masks)))


def _require_kept(job: FinetuneJob, paths: Iterable[Path]) -> None:
    """Refuse inputs that the result would replace, such as corrected files in the folder of the worst lines."""
    replaced = [Path(os.path.realpath(job.output / name)) for name in _REPLACED]
    for path in paths:
        if any(Path(os.path.realpath(path)).is_relative_to(name) for name in replaced):
            raise FinetuningError(
                f"{shown(path)} is in the output folder and would be replaced by the result: choose another output "
                "folder"
            )
