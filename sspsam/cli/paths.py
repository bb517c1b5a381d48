"""Types of command line values: paths as a user types them, and numbers."""

import math
import os
import re
from pathlib import Path
from typing import Any, Final

import click

from sspsam.errors import SSPSAMError
from sspsam.utils.arguments import LARGEST
from sspsam.utils.paths import shown, user_path

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://|data:[^,]*,", re.IGNORECASE)
STANDARD_INPUT: Final = Path("-")  # as an image; a file of this name is typed ./-


class UserPath(click.Path):
    """A path with `~` expanded, which a shell does not do in `--cache='~/emb'`; an empty path is wrong usage.

    Args:
        file_okay: whether the path may be an existing file.
        dir_okay: whether the path may be an existing folder.
    """

    def __init__(self, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a `Path`."""
        name = "this argument" if param is None else param.get_error_hint(ctx)
        try:
            path = user_path(value, name, SSPSAMError)
        except SSPSAMError as error:
            self.fail(str(error), param, ctx)
        return super().convert(path, param, ctx)


class ImagePath(UserPath):
    """The path of an image, or `-`. Only an empty path is wrong usage; other bad paths fail as images, one by one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a `Path`; `STANDARD_INPUT` for `-`."""
        if not os.fspath(value).strip():
            self.fail("the path of an image is empty: give the name of a file", param, ctx)
        if isinstance(value, str) and _URL.match(value):  # a path would lose one of its slashes
            self.fail(f"{shown(value)} is a URL, not a file: download or decode the image first", param, ctx)
        if value != "-" and Path(value) == STANDARD_INPUT:  # ./-
            return Path(value).absolute()
        return Path(os.path.expanduser(value))


class WholeRange(click.IntRange):
    """A range of whole numbers up to the largest that the library counts with."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as an `int`."""
        number = super().convert(value, param, ctx)
        if number > LARGEST:
            self.fail(f"{shown(value)} is larger than {LARGEST}", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which compares as inside every range, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a `float`."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{shown(value)} is not a finite number", param, ctx)
        return number
