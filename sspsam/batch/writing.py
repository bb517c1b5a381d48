"""Writes what a batch has finished: by threads beside the model, recorded in order.

A picture's files come first, each beside its place and renamed, then its lines; lines come in the order of the
manifest, whichever files are ready first.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from sspsam.batch.ledger import Ledger, Line
from sspsam.batch.manifest import Task
from sspsam.batch.options import BatchOptions, Format
from sspsam.errors import BatchError, SSPSAMError, StorageError
from sspsam.segmentation import Segmentation, mask_picture, png_bytes
from sspsam.storage import make_directory, replace_file

_ENDINGS: Final[dict[Format, str]] = {"mask": ".png", "overlay": ".overlay.png"}
_WRITERS: Final = 2
_UNWRITTEN: Final = 8  # pictures that may wait to be written while the model goes on


class Writing:
    """Writes pictures' files and lines; a context manager.

    Args:
        ledger: gets the lines.
        stems: what the files of each picture begin with.
        made_by: is said in every line.
        options: which files.
        advance: is called for every picture.
    """

    def __init__(
        self,
        ledger: Ledger,
        stems: Mapping[str, str],
        made_by: Line,
        options: BatchOptions,
        advance: Callable[[], object],
    ) -> None:
        self.ledger, self.stems, self.made_by, self.advance = ledger, stems, made_by, advance
        self.forms = [form for form in _ENDINGS if form in options.formats]
        self.max_errors = options.max_errors
        self.root = Path(os.path.realpath(ledger.output))
        self.pictures = self.expressions = self.no_target = self.failures = 0
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="sspsam-write")
        self._waiting: deque[tuple[Task, Future[list[Line]]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, task: Task, outcome: list[Segmentation] | SSPSAMError) -> None:
        """Have a picture's files written, and the lines of those that are."""
        self._waiting.append((task, self._pool.submit(self._write, task, outcome)))
        while self._waiting and (len(self._waiting) > _UNWRITTEN or self._waiting[0][1].done()):
            self._record()

    def finish(self) -> None:
        """Wait for the rest."""
        while self._waiting:
            self._record()

    def _record(self) -> None:
        task, future = self._waiting.popleft()
        lines = future.result()
        if "error" in lines[0]:
            self.ledger.errors.append(lines)
            self.failures += 1
            if self.max_errors is not None and self.failures > self.max_errors:
                raise BatchError(
                    f"stopped at {task.image}, for more than {self.max_errors} pictures failed: {lines[0]['message']}"
                )
        else:
            self.ledger.results.append(lines)
            self.pictures += 1
            self.expressions += len(lines)
            self.no_target += sum(line["no_target"] for line in lines)
        self.advance()

    def _write(self, task: Task, outcome: list[Segmentation] | SSPSAMError) -> list[Line]:
        """Write a picture's files; returns its lines."""
        if isinstance(outcome, SSPSAMError):
            return [{"image": task.image, "error": type(outcome).__name__, "message": str(outcome)}]
        lines = []
        for number, result in enumerate(outcome, 1):
            names = {form: f"{self.stems[task.image]}-{number}{_ENDINGS[form]}" for form in self.forms}
            for form, name in names.items():
                self._place(name, png_bytes(mask_picture(result.mask) if form == "mask" else result.overlay()))
            about = {"image": task.image, "number": number, "of": len(outcome), "files": names}
            lines.append({**about, **self.made_by, **result.to_dict()})
        return lines

    def _place(self, name: str, data: bytes) -> None:
        """Write a file below the output folder, and nowhere else."""
        path = self.ledger.output / name
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise StorageError(f"{path} leads out of {self.ledger.output} by a link: remove the link")
        make_directory(path.parent)
        replace_file(path, data, within=self.ledger.temporary)
