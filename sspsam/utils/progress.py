"""Progress bars on standard error for what takes long; none where nobody looks."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_SMALL: Final = 256 << 20  # bytes that are done before anybody wonders


def is_shown() -> bool:
    """Whether progress is shown: on a terminal, unless `HF_HUB_DISABLE_PROGRESS_BARS` is set."""
    disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
    return sys.stderr is not None and sys.stderr.isatty() and not disabled


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar over `total` bytes; gives the function that takes how many more are done."""
    if total < _SMALL or not is_shown():
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1000, leave=False, file=sys.stderr
    ) as bar:
        yield bar.update


@contextmanager
def item_progress(what: str, total: int, done: int, wanted: bool) -> Iterator[Callable[[], object]]:
    """A bar over `total` things, `done` of them done before; gives the function to call for each more.

    Args:
        what: they are called.
        total: of them.
        done: of them, at the beginning.
        wanted: whether to show it where it can be seen.
    """
    if not (wanted and is_shown()):
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit=f" {what}", dynamic_ncols=True, file=sys.stderr) as bar:
        yield bar.update
