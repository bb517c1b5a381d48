"""Tasks of a batch: its images, and the expressions for each image.

Images come from a folder, from a list of paths, or from a table (see `sspsam.batch.tables`). This module alone defines
their order: a folder is sorted by the bytes of the paths, a list or table keeps its own order.
"""

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sspsam.batch.folders import is_output_folder, list_files, matches, output_folder_with
from sspsam.batch.tables import LIST_SUFFIX, TABLE_SUFFIXES, read_lines, read_table
from sspsam.errors import ManifestError, ManifestTypeError, TextError
from sspsam.messages import OptionMessage, argument, message_of
from sspsam.utils.file_status import identity, is_folder, status_of
from sspsam.utils.paths import kind_name, shown, shown_repr, user_path

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
        labels: category of each expression, or None; empty: no expression has one.
    """

    image: str
    path: Path
    texts: tuple[str, ...]
    problem: str | None = None
    labels: tuple[str | None, ...] = ()

    @property
    def label_of_each(self) -> tuple[str | None, ...]:
        """Category of each expression; None: the expression is the category."""
        return self.labels or (None,) * len(self.texts)

    @property
    def categories(self) -> tuple[str, ...]:
        """Label of each expression, or the expression where there is no label."""
        return tuple(label or text for text, label in zip(self.texts, self.label_of_each, strict=True))


@dataclass(frozen=True)
class Manifest:
    """All tasks of a batch.

    Args:
        tasks: in order; no image twice.
        passed_over: files of the folder that are not images by name or content.
        skipped_outputs: output folders of earlier batches below the folder, whose files are not listed.
    """

    tasks: tuple[Task, ...]
    passed_over: int = 0
    skipped_outputs: int = 0


def build_manifest(
    source: Path | ImagePaths,
    excluded: Sequence[Path],
    texts: Sequence[str] | None,
    prompts: Path | None,
    glob: str | None,
    check: CheckText,
    labels: Sequence[str] | None = None,
) -> Manifest:
    """List the images of a batch and the expressions for each.

    Args:
        source: a folder, an image, a list (`.txt`, one path a line) or table of images, or paths.
        excluded: folders that are skipped if they lie in the folder.
        texts: expressions for every image.
        prompts: a file of expressions: `.txt`, one per line, for every image; a table, each for its own image.
        glob: pattern for the files of a folder; `*` matches `/` too, `**/` also matches no folder, and a pattern
            without `/` is compared with the file name.
        check: raises `TextError` for an expression that cannot be encoded.
        labels: category of each of `texts`; None: none. A table has a column for them.

    Raises:
        ManifestError: there are no images, or a list or table is malformed.
        TextError: an expression cannot be encoded; the message names the file and line.
    """
    _check_arguments(source, texts, prompts, glob)
    if isinstance(source, Path) and _is_table(source):
        if prompts is not None:
            raise ManifestError(
                f"{shown(source)} is a table of images and expressions already: leave out {shown(prompts)}"
            )
        manifest = _tasks_of_table(source, source.parent, texts, check)
    elif prompts is not None and _is_table(prompts):
        manifest = _tasks_of_table(prompts, _image_folder(source, prompts), texts, check)
    else:
        manifest = _tasks_with_common_texts(source, excluded, texts, prompts, glob, check)
    if labels:
        manifest = _with_labels(manifest, texts or (), labels)
    if not manifest.tasks:
        condition = f" that match {shown_repr(glob)}" if glob else ""
        place = shown(source) if isinstance(source, Path) else "the list of paths"
        raise ManifestError(f"no images{condition} in {place}")
    return manifest


def _with_labels(manifest: Manifest, texts: Sequence[str], labels: Sequence[str]) -> Manifest:
    """Return the manifest with the labels of the expressions for all images."""
    if len(labels) != len(texts):
        raise ManifestError(
            f"there are {len(labels)} labels for {len(texts)} expressions: give one label for each expression, or a "
            "table with the columns image, text and label"
        )
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise ManifestError(f"a label must be a name such as 'mug', not {shown_repr(label)}")
    return replace(manifest, tasks=tuple(replace(task, labels=tuple(labels)) for task in manifest.tasks))


def _check_arguments(
    source: Path | ImagePaths, texts: Sequence[str] | None, prompts: Path | None, glob: str | None
) -> None:
    if prompts is not None and texts:
        raise ManifestError(
            f"expressions were given both one by one and in the file {shown(prompts)}: use one of the two"
        )
    if prompts is not None and prompts.suffix.lower() not in (LIST_SUFFIX, *TABLE_SUFFIXES):
        raise ManifestError(
            f"{shown(prompts)} is no file of prompts by its name: use {LIST_SUFFIX}, one expression a line, or a "
            f"table, {', '.join(sorted(TABLE_SUFFIXES))}"
        )
    if glob is None or (isinstance(source, Path) and not os.path.exists(source)):  # which has an error of its own
        return
    source_is_folder = isinstance(source, Path) and is_folder(source, ManifestError)
    if not (source_is_folder and (prompts is None or not _is_table(prompts))):
        kind = shown(source) if isinstance(source, Path) and not source_is_folder else "a list or table of images"
        raise ManifestError(
            OptionMessage(
                argument(f"glob={shown_repr(glob)}", "--glob"),
                f" selects files of a folder, and {kind} is none: leave it out",
            )
        )


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES


def _image_folder(source: Path | ImagePaths, prompts: Path) -> Path:
    """Return the folder to which the images in a table of prompts are relative."""
    if isinstance(source, Path) and is_folder(source, ManifestError):
        return source
    if isinstance(source, Path) and status_of(source, ManifestError) is None:
        raise ManifestError(f"no such folder: {shown(source)}")
    raise ManifestError(
        f"{shown(prompts)} names its own images: give their folder as the input, not a list or an image"
    )


def _tasks_of_table(table: Path, folder: Path, texts: Sequence[str] | None, check: CheckText) -> Manifest:
    tasks = []
    for row in read_table(table):
        if row.texts and texts:
            raise ManifestError(
                OptionMessage(
                    f"{row.location} has its own expressions: leave out ",
                    argument("the expressions for all images", "-t"),
                )
            )
        if not row.texts and not texts:
            raise ManifestError(
                f"{row.location} has no expression for {shown(row.image)}: add a text, or give expressions for "
                "all images"
            )
        row_texts = row.texts or tuple(texts or ())
        _check_texts(row_texts, row.location, check)
        tasks.append(replace(_task(row.image, folder, row_texts, row.location), labels=row.labels))
    return Manifest(_merged(tasks))


def _tasks_with_common_texts(
    source: Path | ImagePaths,
    excluded: Sequence[Path],
    texts: Sequence[str] | None,
    prompts: Path | None,
    glob: str | None,
    check: CheckText,
) -> Manifest:
    common_texts = tuple(texts or (read_lines(prompts) if prompts is not None else ()))
    if not common_texts:
        raise ManifestError(
            OptionMessage(
                "no expression to segment: give ",
                argument("texts or a file of prompts", "-t TEXT or --prompts FILE"),
            )
        )
    _check_texts(common_texts, "texts" if prompts is None else shown(prompts), check)
    if not isinstance(source, Path):
        numbered = enumerate(source, 1)
        return Manifest(
            _merged(_task(name, Path(), common_texts, f"place {number} of the list") for number, name in numbered)
        )
    if is_folder(source, ManifestError):
        return _tasks_of_folder(source, excluded, common_texts, glob)
    if status_of(source, ManifestError) is None:
        raise ManifestError(f"no such folder, list or image: {shown(source)}")
    if source.suffix.lower() == LIST_SUFFIX:
        names = read_lines(source)
        return Manifest(_merged(_task(name, source.parent, common_texts, shown(source)) for name in names))
    return Manifest((Task(source.name, source, common_texts),))


def _task(path: str | os.PathLike[str], folder: Path, texts: tuple[str, ...], location: str) -> Task:
    """Return the task of one entry; a name that no file can have is a problem of this image alone.

    Raises:
        ManifestError: the entry is empty.
        ManifestTypeError: the entry is no path.
    """
    name = _name_of(path, location)
    role = f"an image in {location}"
    try:
        checked = user_path(name, role, ManifestError)
    except ManifestError as error:
        if not name.strip():
            raise
        return Task(posixpath.normpath(Path(name).as_posix()), folder / name, texts, str(error))
    return Task(posixpath.normpath(checked.as_posix()), folder / checked, texts)


def _name_of(path: str | os.PathLike[str], location: str) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        raise ManifestTypeError(f"the image in {location} must be a path, not {kind_name(path)}")
    try:
        return os.fsdecode(path)
    except Exception as error:  # of a class of the caller
        raise ManifestTypeError(
            f"the image in {location}, a {kind_name(path)}, is a path without a name: {shown(error)}"
        ) from error


def _merged(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Merge the tasks of each image into one, with all of its expressions, at the place of the first."""
    merged: dict[str, Task] = {}
    for task in tasks:
        merged[task.image] = _joined(merged[task.image], task) if task.image in merged else task
    return tuple(merged.values())


def _joined(known: Task, task: Task) -> Task:
    """Return a task with the expressions of two tasks of one image; an expression with two labels is two answers."""
    pairs = set(zip(known.texts, known.label_of_each, strict=True))
    new = [
        (text, label)
        for text, label in zip(task.texts, task.label_of_each, strict=True)
        if (text, label) not in pairs and (label or text not in known.texts)
    ]
    texts = (*known.texts, *(text for text, _ in new))
    labels = (*known.label_of_each, *(label for _, label in new))
    return replace(known, texts=texts, labels=labels if any(labels) else ())


def _tasks_of_folder(folder: Path, excluded: Sequence[Path], texts: tuple[str, ...], glob: str | None) -> Manifest:
    output = None
    if glob is None:
        output = folder if is_output_folder(folder) else output_folder_with(folder)
    if output is not None:
        place = "is the output folder" if output is folder else f"belongs to {shown(output)}, the output folder"
        raise ManifestError(
            OptionMessage(
                f"{shown(folder)} {place} of a batch, and its masks are not images to segment: give the folder of the "
                "images, or select files with ",
                argument("glob='*.cutout.png'", "--glob '*.cutout.png'"),
            )
        )
    tasks: list[Task] = []
    passed_over = skipped_outputs = 0
    for file in list_files(folder, _identities(excluded)):
        image = file.path.relative_to(folder).as_posix()
        if file.is_output:
            skipped_outputs += 1
        elif file.problem is None and not matches(file.path, image, glob):
            passed_over += 1
        else:
            tasks.append(Task(image, file.path, texts, file.problem))
    return Manifest(tuple(sorted(tasks, key=lambda task: os.fsencode(task.image))), passed_over, skipped_outputs)


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    """Return the identities of the folders that exist and can be looked up."""
    identities = set()
    for folder in folders:
        with suppress(ManifestError):  # whoever writes to the folder reports it
            if (status := status_of(folder, ManifestError)) is not None:
                identities.add(identity(status))
    return identities


def _check_texts(texts: Sequence[str], location: str, check: CheckText) -> None:
    for text in texts:
        try:
            check(text)
        except TextError as error:
            raise TextError(OptionMessage(f"{location}: ", message_of(error))) from error
