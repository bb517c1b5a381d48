"""The log as scalars of TensorBoard, where it is installed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "tensorboard"


class Board:
    """Writes lines of the log for TensorBoard; does nothing where it is not installed.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder))

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a line of the log."""
        if self._writer is not None:
            for name, value in _scalars(line):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line with their paths."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "steps"):
            yield prefix + name, float(value)
