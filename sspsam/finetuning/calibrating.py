"""Calibration of the new checkpoint on the held-out lines, so that its answers have a presence."""

from collections.abc import Sequence
from pathlib import Path

from sspsam.evaluation.datasets.entry import Entry


def calibrate_if_possible(checkpoint: Path, held_out: Sequence[Entry]) -> str:
    """Calibrate a checkpoint on lines that did not train, and return a message.

    Args:
        checkpoint: directory of the new checkpoint.
        held_out: entries of the held-out lines.
    """
    return ""
