"""Tasks of a batch: its images, and the expressions for each image.

Images come from a folder, from a list of paths, or from a table (see `sspsam.batch.tables`). This module alone defines
their order: a folder is sorted by the bytes of the paths, a list or table keeps its own order.
"""

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sspsam.batch.folders import list_files, matches
from sspsam.batch.tables import LIST_SUFFIX, TABLE_SUFFIXES, read_lines, read_table
from sspsam.errors import ManifestError, TextError

ImagePaths = Sequence[str | os.PathLike[str]]
CheckText = Callable[[str], object]


@dataclass(frozen=True)
class Task:
    """One image and its expressions.

    Args:
        image: name of the image in the results: its path relative to the folder, or its path in the list; with `/`.
        path: location of the image.
        texts: expressions, in order.
        problem: reason why the image cannot be read, if it is known already.
    """

    image: str
    path: Path
    texts: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Manifest:
    """All tasks of a batch.

    Args:
        tasks: in order; no image twice.
        passed_over: files of the folder that are not images by name or content.
    """

    tasks: tuple[Task, ...]
    passed_over: int = 0


def build_manifest(
    source: Path | ImagePaths,
    output: Path,
    texts: Sequence[str] | None,
    prompts: Path | None,
    glob: str | None,
    check: CheckText,
) -> Manifest:
    """List the images of a batch and the expressions for each.

    Args:
        source: a folder, an image, a list (`.txt`, one path a line) or table of images, or paths.
        output: skipped if it lies in the folder.
        texts: expressions for every image.
        prompts: a file of expressions: `.txt`, one a line, for every image; a table, each for its own image.
        glob: pattern for the files of a folder; `*` matches `/` too, `**/` also matches no folder, and a pattern
            without `/` is compared with the file name.
        check: raises `TextError` for an expression that cannot be encoded.

    Raises:
        ManifestError: there are no images, or a list or table is malformed.
        TextError: an expression cannot be encoded; the message names the file and line.
    """
    _check_arguments(source, texts, prompts, glob)
    if isinstance(source, Path) and _is_table(source):
        if prompts is not None:
            raise ManifestError(f"{source} is a table of images and expressions already: leave out {prompts}")
        manifest = _tasks_of_table(source, source.parent, texts, check)
    elif prompts is not None and _is_table(prompts):
        manifest = _tasks_of_table(prompts, _image_folder(source, prompts), texts, check)
    else:
        manifest = _tasks_with_common_texts(source, output, texts, prompts, glob, check)
    if not manifest.tasks:
        condition = f" that match {glob!r}" if glob else ""
        raise ManifestError(f"no images{condition} in {source if isinstance(source, Path) else 'the list of paths'}")
    return manifest


def _check_arguments(
    source: Path | ImagePaths, texts: Sequence[str] | None, prompts: Path | None, glob: str | None
) -> None:
    if prompts is not None and texts:
        raise ManifestError(f"expressions were given both one by one and in the file {prompts}: use one of the two")
    if prompts is not None and prompts.suffix.lower() not in (LIST_SUFFIX, *TABLE_SUFFIXES):
        raise ManifestError(
            f"{prompts} is no file of prompts by its name: use {LIST_SUFFIX}, one expression a line, or a table, "
            f"{', '.join(sorted(TABLE_SUFFIXES))}"
        )
    is_folder = isinstance(source, Path) and source.is_dir()
    if glob is not None and not (is_folder and (prompts is None or not _is_table(prompts))):
        raise ManifestError(f"glob ({glob!r}) selects files of a folder, but a list or table names its images")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES


def _image_folder(source: Path | ImagePaths, prompts: Path) -> Path:
    """Return the folder to which the images in a table of prompts are relative."""
    if isinstance(source, Path) and source.is_dir():
        return source
    if isinstance(source, Path) and not source.exists():
        raise ManifestError(f"no such folder: {source}")
    raise ManifestError(f"{prompts} names its own images: give their folder as the input, not a list or an image")


def _tasks_of_table(table: Path, folder: Path, texts: Sequence[str] | None, check: CheckText) -> Manifest:
    tasks = []
    for row in read_table(table):
        if row.texts and texts:
            raise ManifestError(f"{row.location} has its own expressions: leave out the expressions for all images")
        if not row.texts and not texts:
            raise ManifestError(
                f"{row.location} has no expression for {row.image}: add a text, or give expressions for all images"
            )
        row_texts = row.texts or tuple(texts or ())
        _check_texts(row_texts, row.location, check)
        tasks.append(_task(row.image, folder, row_texts))
    return Manifest(_merged(tasks))


def _tasks_with_common_texts(
    source: Path | ImagePaths,
    output: Path,
    texts: Sequence[str] | None,
    prompts: Path | None,
    glob: str | None,
    check: CheckText,
) -> Manifest:
    common_texts = tuple(texts or (read_lines(prompts) if prompts is not None else ()))
    if not common_texts:
        raise ManifestError(
            "no expression to segment: give texts or a file of prompts (command line: -t TEXT or --prompts FILE)"
        )
    _check_texts(common_texts, "texts" if prompts is None else str(prompts), check)
    if not isinstance(source, Path):
        return Manifest(_merged(_task(os.fspath(name), Path(), common_texts) for name in source))
    if source.is_dir():
        return _tasks_of_folder(source, output, common_texts, glob)
    if not source.exists():
        raise ManifestError(f"no such folder, list or image: {source}")
    if source.suffix.lower() == LIST_SUFFIX:
        return Manifest(_merged(_task(name, source.parent, common_texts) for name in read_lines(source)))
    return Manifest((Task(source.name, source, common_texts),))


def _task(name: str, folder: Path, texts: tuple[str, ...]) -> Task:
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ManifestError(f"{name!r} cannot be the path of an image: {error}") from error
    return Task(posixpath.normpath(Path(name).as_posix()), folder / name, texts)


def _merged(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Merge the tasks of each image into one, with all of its expressions, at the place of the first."""
    merged: dict[str, Task] = {}
    for task in tasks:
        known_texts = merged[task.image].texts if task.image in merged else ()
        new_texts = tuple(text for text in task.texts if text not in known_texts) if known_texts else task.texts
        merged[task.image] = Task(task.image, task.path, (*known_texts, *new_texts))
    return tuple(merged.values())


def _tasks_of_folder(folder: Path, output: Path, texts: tuple[str, ...], glob: str | None) -> Manifest:
    tasks: list[Task] = []
    passed_over = 0
    for path, problem in list_files(folder, output):
        image = path.relative_to(folder).as_posix()
        if problem is None and not matches(path, image, glob):
            passed_over += 1
        else:
            tasks.append(Task(image, path, texts, problem))
    return Manifest(tuple(sorted(tasks, key=lambda task: os.fsencode(task.image))), passed_over)


def _check_texts(texts: Sequence[str], location: str, check: CheckText) -> None:
    for text in texts:
        try:
            check(text)
        except TextError as error:
            raise TextError(f"{location}: {error}") from error
