"""Progress bars on standard error for long operations; none where standard error is not a terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_MIN_BYTES: Final = 256 << 20  # smaller totals finish before a bar would help


def is_shown() -> bool:
    """Return whether bars are shown: on a terminal, unless `HF_HUB_DISABLE_PROGRESS_BARS` is set."""
    disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
    return sys.stderr is not None and sys.stderr.isatty() and not disabled


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar over `total` bytes; yield the function to call with the number of bytes that are newly done."""
    if total < _MIN_BYTES or not is_shown():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total, desc=description, unit="B", unit_scale=True, unit_divisor=1000, leave=False, file=sys.stderr
    ) as bar:
        yield bar.update


@contextmanager
def item_progress(unit: str, total: int, initial: int, enabled: bool) -> Iterator[Callable[[], object]]:
    """Show a bar over `total` items; yield the function to call for each item that is newly done.

    Args:
        unit: name of the items, in the plural.
        total: number of items.
        initial: number of items that were done before.
        enabled: whether to show the bar, if standard error is a terminal.
    """
    if not (enabled and is_shown()):
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=initial, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr) as bar:
        yield bar.update
