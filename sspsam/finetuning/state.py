"""Everything that a killed training needs to continue with the same bytes, replaced as a whole.

A step depends on the seed and on its number alone (`sampling.py`), and the network has no dropout: the number of the
step is the state of every random generator and the position in the data.
"""

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import torch
from torch import Tensor

from sspsam.errors import FinetuningError
from sspsam.messages import OVERWRITE, OptionMessage
from sspsam.utils.file_locks import lock_file
from sspsam.utils.files import TEMPORARY_PATTERN, make_directory, replace_file, storage_errors
from sspsam.utils.paths import shown

STATE_NAME: Final = "state.pt"
LOG_NAME: Final = "log.jsonl"
_LOCK_NAME: Final = "lock"
_VERSION: Final = 2


@dataclass
class Progress:
    """Position of a training, and what it has seen so far.

    Args:
        step: number of finished steps.
        steps: of the whole training; None: not decided yet, see `FinetuneOptions.time`.
        micro_batch: examples of one forward pass in this process; halved where memory runs out.
        best_step: step of the best evaluation, 0: the starting weights; None before the first one.
        best_score: of that evaluation.
        highest_score: of the evaluations after the start.
        evaluations_since_best: evaluations after the one with that score.
        seconds: of training, without evaluations.
        evaluation_seconds: of one evaluation, for the time budget.
        log_bytes: length of the log.
        sums: of the losses since the last line of the log.
        before: metrics before the first step, by the name of the part of the data.
    """

    step: int = 0
    steps: int | None = None
    micro_batch: int = 1 << 30
    best_step: int | None = None
    best_score: float = -1.0
    highest_score: float = -1.0
    evaluations_since_best: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    log_bytes: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedState:
    """The content of the state file.

    Args:
        settings: JSON text of everything that the bytes depend on, see `settings.settings_text`.
        progress: see `Progress`.
        weights: of everything that learns.
        optimizer: its state.
        scaler: of mixed float16; empty otherwise.
    """

    settings: str
    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]


class RunFolder:
    """The folder of a training that is not finished: its lock, its state and its best weights.

    Args:
        folder: created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def lock(self) -> None:
        """Lock the folder until the end of the `with` statement, or of this process, and remove incomplete files.

        A killed process leaves them here and in the folder of the checkpoint; they may be as large as the checkpoint.

        Raises:
            FinetuningError: another process trains in it.
        """
        make_directory(self.folder)
        path = self.folder / _LOCK_NAME
        with storage_errors(path):
            self._lock = open(path, "ab", buffering=0)  # noqa: SIM115  # held until this process ends
        try:
            lock_file(self._lock)
        except (BlockingIOError, PermissionError):
            self._lock.close()
            raise FinetuningError(
                f"another process trains in {shown(self.folder.parent)}: wait for it, or choose another output folder"
            ) from None
        except OSError:  # the file system has no locks
            return
        for path in (*self.folder.glob(TEMPORARY_PATTERN), *self.folder.parent.glob(TEMPORARY_PATTERN)):
            with suppress(OSError):
                path.unlink()

    def load(self) -> SavedState | None:
        """Return the state; None before the first one.

        Raises:
            FinetuningError: it is damaged.
        """
        path = self.folder / STATE_NAME
        if not os.path.exists(path):
            return None
        content = _loaded(path)
        if content.get("version") != _VERSION:
            raise FinetuningError(f"{shown(path)} is of another version of sspsam: start again with another folder")
        try:
            return SavedState(
                content["settings"],
                Progress(**content["progress"]),
                content["weights"],
                content["optimizer"],
                content["scaler"],
            )
        except (KeyError, TypeError) as error:
            raise _damaged(path, f"{shown(error)} is missing or of another kind") from error

    def save(self, state: SavedState) -> None:
        """Replace the state."""
        content = {
            "version": _VERSION,
            "settings": state.settings,
            "progress": vars(state.progress),
            "weights": dict(state.weights),
            "optimizer": dict(state.optimizer),
            "scaler": dict(state.scaler),
        }
        replace_file(self.folder / STATE_NAME, _bytes(content))

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the best evaluation; those of earlier ones stay until `remove_older_best`."""
        replace_file(self._best(step), _bytes(dict(weights)))

    def remove_older_best(self, step: int) -> None:
        """Remove all best weights but those of a step, to which the saved state refers."""
        for path in self.folder.glob("best-*.pt"):
            if path != self._best(step):
                with suppress(OSError):
                    path.unlink()

    def load_best(self, step: int) -> dict[str, Tensor]:
        """Return the weights of `save_best`."""
        return _loaded(self._best(step))

    def clear(self) -> None:
        """Remove the state and the best weights."""
        for path in (self.folder / STATE_NAME, *self.folder.glob("best-*.pt")):
            with suppress(OSError):
                path.unlink()

    def remove(self) -> None:
        """Remove the folder with all its files."""
        self.clear()
        with suppress(OSError):
            (self.folder / _LOCK_NAME).unlink()
        self._release()
        with suppress(OSError):
            self.folder.rmdir()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step}.pt"


class Log:
    """`log.jsonl`: one line for every few steps and one for each evaluation.

    Args:
        path: of the file.
        length: bytes to keep of an earlier part of the training; lines after the saved state are written again. Of a
            file that is shorter, all complete lines are kept.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        with storage_errors(path):
            self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115  # closed by `close`
            self._file.seek(0)
            kept = self._file.read(length)
            self._file.truncate(length if len(kept) == length else kept.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with storage_errors(self._path):
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _loaded(path: Path) -> dict[str, Any]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever pickle and zip give
        raise _damaged(path, shown(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__}")
    return content


def _damaged(path: Path, reason: str) -> FinetuningError:
    return FinetuningError(OptionMessage(f"{shown(path)} cannot be read ({reason}): start again with ", OVERWRITE))
