"""What a batch is to do: which pictures, and which expressions for each.

Pictures come from a folder, from a list of paths, or from a table (CSV or TSV with a header, or JSON lines) of `image`
and `text`. The order is settled here and nowhere else: a folder by the bytes of the paths, a list or table as written.
"""

import csv
import fnmatch
import io
import json
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.errors import ManifestError, TextError

SUFFIXES: Final = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    )
)
TABLES: Final = frozenset((".csv", ".tsv", ".jsonl", ".ndjson"))
_LIST: Final = ".txt"
# how the files of the usual formats begin, for those whose name does not say what they are
_BEGINNINGS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\x00", b"MM\x00*")
# raw photographs begin like a TIFF, and hold a small preview that is not what is meant
_RAW: Final = frozenset(
    (".3fr", ".arw", ".cr2", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
)


@dataclass(frozen=True)
class Task:
    """One picture and what is asked about it.

    Args:
        image: what the picture is called in the results: its path below the folder, or as it was listed; with `/`.
        path: where it is.
        texts: expressions, in order.
        problem: why it cannot be read, if that is known already.
    """

    image: str
    path: Path
    texts: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that is to be done.

    Args:
        tasks: in order; no picture twice.
        passed_over: files of the folder that are no pictures by name or content.
    """

    tasks: tuple[Task, ...]
    passed_over: int = 0


def manifest_of(
    source: Path | Sequence[str | os.PathLike[str]],
    output: Path,
    texts: Sequence[str] | None,
    prompts: Path | None,
    glob: str | None,
    check: Callable[[str], object],
) -> Manifest:
    """Settle what is to be done.

    Args:
        source: a folder, a picture, a list (`.txt`, one path a line) or table of pictures, or paths.
        output: left out of a folder that contains it.
        texts: expressions about every picture.
        prompts: a file of expressions: `.txt`, one a line, for every picture; a table, each for its own picture.
        glob: which files of a folder; `*` stands for `/` too, `**/` for no folder as well, and a pattern without `/` is
            compared with the name.
        check: raises `TextError` for an expression that cannot be asked.

    Raises:
        ManifestError: there is nothing to do, or a list or table cannot be understood.
        TextError: an expression cannot be asked; the file and line are named.
    """
    if prompts is not None and texts:
        raise ManifestError("give expressions one by one or as a file of prompts, not both")
    if prompts is not None and prompts.suffix.lower() not in (_LIST, *TABLES):
        raise ManifestError(f"{prompts} is no file of prompts by its name: {_LIST}, one a line, or {', '.join(TABLES)}")
    if glob is not None and not (isinstance(source, Path) and source.is_dir() and _for_all(prompts)):
        raise ManifestError("glob chooses files of a folder; a list or table names its pictures")
    own_table = isinstance(source, Path) and source.suffix.lower() in TABLES
    table = source if own_table else None if _for_all(prompts) else prompts
    if isinstance(table, Path):
        if own_table and prompts is not None:
            raise ManifestError(f"{source} is a table of pictures and expressions already; leave out {prompts}")
        base = source if isinstance(source, Path) and source.is_dir() else table.parent
        if table is prompts and base is table.parent and source != base:
            raise ManifestError(f"{prompts} says which pictures are asked what; the input is their folder, not a list")
        found = _from_table(table, base, texts, check)
    else:
        everywhere = tuple(texts or (_lines(prompts) if prompts is not None else ()))
        if not everywhere:
            raise ManifestError("no expression: say what to look for, or give a file of prompts")
        _check_texts(everywhere, str(prompts) if prompts is not None else "texts", check)
        found = _pictures(source, output, everywhere, glob)
    if not found.tasks:
        what = f" that match {glob!r}" if glob else ""
        raise ManifestError(f"no pictures{what} in {source if isinstance(source, Path) else 'the list'}")
    return found


def _pictures(
    source: Path | Sequence[str | os.PathLike[str]], output: Path, texts: tuple[str, ...], glob: str | None
) -> Manifest:
    if not isinstance(source, Path):
        return Manifest(_once(_task(os.fspath(name), Path(), texts) for name in source))
    if source.is_dir():
        return _folder(source, output, texts, glob)
    if not source.exists():
        raise ManifestError(f"no such folder, list or picture: {source}")
    if source.suffix.lower() == _LIST:
        return Manifest(_once(_task(name, source.parent, texts) for name in _lines(source)))
    return Manifest((Task(source.name, source, texts),))


def _for_all(prompts: Path | None) -> bool:
    """Whether a file of prompts, if any, says what to ask every picture, rather than each its own."""
    return prompts is None or prompts.suffix.lower() == _LIST


def _task(name: str, base: Path, texts: tuple[str, ...]) -> Task:
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ManifestError(f"{name!r} cannot be the path of a picture: {error}") from error
    return Task(posixpath.normpath(Path(name).as_posix()), base / name, texts)


def _once(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Each picture once, where it is first named, with all that is asked about it."""
    known: dict[str, Task] = {}
    for task in tasks:
        earlier = known.get(task.image)
        texts = task.texts if earlier is None else (*earlier.texts, *(t for t in task.texts if t not in earlier.texts))
        known[task.image] = Task(task.image, task.path, texts)
    return tuple(known.values())


def _folder(folder: Path, output: Path, texts: tuple[str, ...], glob: str | None) -> Manifest:
    tasks: list[Task] = []
    passed_over = 0
    for path, problem in _files(folder, output):
        image = path.relative_to(folder).as_posix()
        if problem is None and not _is_wanted(path, image, glob):
            passed_over += 1
        else:
            tasks.append(Task(image, path, texts, problem))
    return Manifest(tuple(sorted(tasks, key=lambda task: os.fsencode(task.image))), passed_over)


def _files(folder: Path, output: Path) -> Iterator[tuple[Path, str | None]]:
    """All entries below that are no folders, and folders that cannot be read with the reason; links are not entered."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        yield folder, f"cannot read the folder {folder}: {error.strerror or error}"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue  # such as what a desktop keeps beside pictures
        path = folder / entry.name
        try:
            inside = entry.is_dir(follow_symlinks=False)
            led = not inside and entry.is_dir()  # a link to a folder leads out of the tree, or round in it
            ours = inside and output.exists() and path.samefile(output)
        except OSError as error:  # such as a link to itself
            yield path, f"cannot read {path}: {error.strerror or error}"
            continue
        if not inside and not led:
            yield path, None
        elif inside and not ours:
            yield from _files(path, output)


def _is_wanted(path: Path, image: str, glob: str | None) -> bool:
    if glob is not None:
        glob = glob.removeprefix("./")
        matched = image if "/" in glob else path.name
        return any(fnmatch.fnmatchcase(matched, each) for each in (glob, glob.replace("**/", "")))
    ending = path.suffix.lower()
    return ending in SUFFIXES or (ending not in _RAW and _begins_like_a_picture(path))


def _begins_like_a_picture(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for a writer
            return False
        with path.open("rb") as file:
            head = file.read(18)
    except OSError:
        return False
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)  # reserved; two letters are the beginning of many a text
    return head.startswith(_BEGINNINGS) or bitmap or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line for line in (line.strip() for line in _text_of(path).split("\n")) if line]


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # line ends as they are: csv knows them
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not a text file in UTF-8 ({error})") from error


def _from_table(table: Path, base: Path, texts: Sequence[str] | None, check: Callable[[str], object]) -> Manifest:
    rows = _csv_rows(table) if table.suffix.lower() in (".csv", ".tsv") else _json_rows(table)
    tasks = []
    for where, name, own in rows:
        if bool(own) == bool(texts):
            raise ManifestError(
                f"{where} has expressions of its own: leave out those for all pictures"
                if own
                else f"{where} says no expression for {name}: add a text, or give one for all pictures"
            )
        _check_texts(own or tuple(texts or ()), where, check)
        tasks.append(_task(name, base, own or tuple(texts or ())))
    return Manifest(_once(tasks))


def _csv_rows(table: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_text_of(table), newline=""), strict=True, delimiter=delimiter)
    try:
        if "image" not in (reader.fieldnames or ()):
            raise ManifestError(f"{table}: the first line names the columns, image and text; it is {reader.fieldnames}")
        for row in reader:
            if None in row:
                raise ManifestError(
                    f"{table}, line {reader.line_num} has more columns than the first line: put a text that contains "
                    "the separator in double quotes"
                )
            if not row["image"]:
                raise ManifestError(f"{table}, line {reader.line_num}: no image")
            yield f"{table}, line {reader.line_num}", row["image"], (row["text"],) if row.get("text") else ()
    except csv.Error as error:
        raise ManifestError(f"{table}, line {reader.line_num}: {error}") from error


def _json_rows(table: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for number, line in enumerate(_text_of(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where} is not JSON: {error}") from error
        image, text = (row.get("image"), row.get("text", [])) if isinstance(row, dict) else (None, None)
        own = [text] if isinstance(text, str) else text
        if not isinstance(image, str) or not image or not isinstance(own, list):
            raise ManifestError(f'{where}: a line is {{"image": path, "text": one expression or a list of them}}')
        if not all(isinstance(each, str) for each in own):
            raise ManifestError(f"{where}: an expression is a string")
        yield where, image, tuple(own)


def _check_texts(texts: Sequence[str], where: str, check: Callable[[str], object]) -> None:
    for text in texts:
        try:
            check(text)
        except TextError as error:
            raise TextError(f"{where}: {error}") from error
