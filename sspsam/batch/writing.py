"""What a batch writes: a picture's files first, each complete and renamed into its place, then its lines, in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.batch.ledger import Ledger
from sspsam.batch.manifest import Task
from sspsam.batch.options import Format
from sspsam.batch.records import Line
from sspsam.errors import BatchError, SSPSAMError, StorageError
from sspsam.segmentation.result import Segmentation, mask_image, png_bytes
from sspsam.utils.files import make_directory, replace_file

_ENDINGS: Final[dict[Format, str]] = {"mask": ".png", "overlay": ".overlay.png"}
_WRITERS: Final = 2
_UNWRITTEN: Final = 8  # pictures that may wait to be written while the model goes on,
_UNWRITTEN_BYTES: Final = 256 << 20  # or so much of their masks

Outcome = list[Segmentation] | SSPSAMError


@dataclass(frozen=True)
class PictureWriter:
    """Writes the files of pictures below a folder; threads and processes may do so side by side.

    Args:
        output: the folder.
        temporary: folder on the same file system for what is not complete.
        formats: which files.
        made_by: is said in every line.
    """

    output: Path
    temporary: Path
    formats: tuple[Format, ...]
    made_by: Mapping[str, str]

    def __call__(self, task: Task, stem: str, outcome: Outcome) -> list[Line]:
        """Write a picture's files.

        Args:
            task: what was asked.
            stem: what the names of the files begin with.
            outcome: what came of it.

        Returns:
            The lines to record, for a picture that failed the one for `errors.jsonl`.

        Raises:
            StorageError: a file cannot be written.
        """
        if isinstance(outcome, SSPSAMError):
            return [{"image": task.image, "error": type(outcome).__name__, "message": str(outcome)}]
        lines = []
        for number, result in enumerate(outcome, 1):
            names = {form: f"{stem}-{number}{end}" for form, end in _ENDINGS.items() if form in self.formats}
            for form, name in names.items():
                self._place(name, png_bytes(mask_image(result.mask) if form == "mask" else result.overlay()))
            about = {"image": task.image, "number": number, "of": len(outcome), "files": names}
            lines.append({**about, **self.made_by, **result.to_dict()})
        return lines

    def _place(self, name: str, data: bytes) -> None:
        path = self.output / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.output)):
            raise StorageError(f"{path} leads out of {self.output} by a link: remove the link")
        make_directory(path.parent)
        replace_file(path, data, within=self.temporary)


class Recorder:
    """Writes lines, and counts.

    Args:
        ledger: gets them.
        max_errors: stop after more pictures that failed; None: never.
        failures: pictures that failed before.
        advance: is called for every picture.
    """

    def __init__(self, ledger: Ledger, max_errors: int | None, failures: int, advance: Callable[[], object]) -> None:
        self.ledger, self.max_errors, self.failures, self.advance = ledger, max_errors, failures, advance
        self.pictures = self.expressions = self.no_target = 0

    def record(self, lines: list[Line]) -> None:
        """Write the lines of a picture whose files are written.

        Raises:
            BatchError: too many pictures failed.
        """
        if "error" in lines[0]:
            self.ledger.errors.append(lines)
            self.failures += 1
            if self.max_errors is not None and self.failures > self.max_errors:
                raise BatchError(
                    f"stopped at {lines[0]['image']}, for more than {self.max_errors} pictures failed: "
                    f"{lines[0]['message']}"
                )
        else:
            self.ledger.results.append(lines)
            self.pictures += 1
            self.expressions += len(lines)
            self.no_target += sum(line["no_target"] for line in lines)
        self.advance()


def written(outcomes: Iterable[tuple[Task, str, Outcome]], write: PictureWriter) -> Iterator[list[Line]]:
    """Have the files of pictures written by threads, beside whoever makes the outcomes; their lines, in order.

    Args:
        outcomes: tasks, stems of their files, and what came of them.
        write: writes.
    """
    waiting: deque[tuple[Future[list[Line]], int]] = deque()
    held = 0
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="sspsam-write") as pool:
        try:
            for task, stem, outcome in outcomes:
                size = 0 if isinstance(outcome, SSPSAMError) else sum(each.mask.nbytes for each in outcome)
                waiting.append((pool.submit(write, task, stem, outcome), size))
                held += size
                del outcome  # what is written is not kept until the next comes
                while waiting and (len(waiting) > _UNWRITTEN or held > _UNWRITTEN_BYTES or waiting[0][0].done()):
                    future, size = waiting.popleft()
                    held -= size
                    yield future.result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()
