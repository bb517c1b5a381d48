"""`sspsam segment`: images and texts in, lines and files out."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sspsam.cli.formats import ANSWER_FORMATS, check_labels, format_option, label_option
from sspsam.cli.loading import load_predictor, pretrained_options
from sspsam.cli.options import (
    CalibrationOptions,
    ModelOptions,
    calibration_options,
    check_texts,
    dtype_option,
    max_pixels_option,
    model_options,
    presence_threshold_option,
    required_model,
)
from sspsam.cli.output import complain, failing_cleanly, messages_with_name, print_row, words_of
from sspsam.cli.paths import STANDARD_INPUT, ImagePath, UserPath
from sspsam.cli.segment_files import ResultFiles, require_no_folder
from sspsam.cli.verbosity import detail
from sspsam.errors import ImageError, SSPSAMError
from sspsam.utils.paths import printable, shown

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation.exports.answer_files import AnswerFormat, NamedAnswer

_MAX_STANDARD_INPUT: Final = 1 << 30  # bytes
_FILE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".json", ".tif", ".tiff", ".bmp")
_FORMATS_WITHOUT_FOLDER: Final = ("mask", "json")


@dataclass(frozen=True)
class _SegmentRequest:
    """Expressions for every image, their labels, and options of the answers.

    Args:
        texts: expressions.
        labels: category of each expression; empty: none.
        max_pixels: largest width times height of an image; None: the library's limit.
        presence_threshold: of `predict`.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    max_pixels: int | None
    presence_threshold: float | None

    @property
    def label_of_each(self) -> tuple[str | None, ...]:
        return self.labels or (None,) * len(self.texts)


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=ImagePath())
@click.option("-t", "--text", "texts", multiple=True, required=True, help="Expression to segment; repeatable.")
@label_option
@model_options
@calibration_options
@dtype_option
@presence_threshold_option
@click.option("-o", "--output", type=UserPath(file_okay=False), help="Folder for the files.")
@format_option(ANSWER_FORMATS, "Files to write into the folder; repeatable, or a list with commas.")
@max_pixels_option
@click.option("--overwrite", is_flag=True, help="Replace existing files in the folder, but never an image.")
def segment(
    images: tuple[Path, ...],
    texts: tuple[str, ...],
    labels: tuple[str, ...],
    model_options: ModelOptions,
    calibration_options: CalibrationOptions,
    dtype: str | None,
    presence_threshold: float | None,
    output: Path | None,
    formats: "tuple[AnswerFormat, ...]",
    max_pixels: int | None,
    overwrite: bool,
) -> None:
    """Segment each IMAGE by each text; print one line per result. The IMAGE "-" is read from standard input.

    A line is tab-separated: image, text, "target" or "no-target", score, box, and a file for each format. With --format
    json it is a JSON object instead, mask included. Files are named after the image and the number of the text, such as
    a.jpg-1.png; an existing file is replaced with --overwrite only.
    """
    model = required_model(model_options)
    pretrained = pretrained_options(model_options, dtype=dtype, calibration=calibration_options.choice)
    check_texts(texts)
    check_labels(labels, texts)
    if output is None and (file_formats := [name for name in formats if name not in _FORMATS_WITHOUT_FOLDER]):
        raise click.UsageError(f"--format {file_formats[0]} writes files: give a folder for them with -o DIR")
    if output is not None and output.suffix.lower() in _FILE_SUFFIXES and not os.path.isdir(output):
        raise click.UsageError(f"-o {shown(output)} looks like a file: give the folder for the files, such as -o masks")
    if images.count(STANDARD_INPUT) > 1:
        raise click.UsageError("- is given twice, but standard input can be read only once")
    with failing_cleanly():
        from sspsam.utils.files import make_directory

        if output is not None:
            make_directory(output)
        predictor = load_predictor(model, model_options.device, pretrained)
        from sspsam.segmentation.answers import AnswerSettings

        AnswerSettings.of(
            predictor.config,
            {"presence_threshold": presence_threshold},
            calibrated=predictor.calibration is not None,
        )
        files = ResultFiles(output, formats, images, overwrite)
    failed = _segment_images(predictor, images, _SegmentRequest(texts, labels, max_pixels, presence_threshold), files)
    if failed:
        complain(f"{failed} of {len(images)} images failed")
        sys.exit(1)


def _segment_images(
    predictor: "SSPSAMPredictor", images: Sequence[Path], request: _SegmentRequest, files: ResultFiles
) -> int:
    """Segment images one by one and report those that fail; return the number of failed images."""
    from sspsam.devices import named_out_of_memory

    failed = 0
    for index, image in enumerate(images):
        name = "standard input" if image == STANDARD_INPUT else shown(image)
        try:
            with named_out_of_memory():  # also while a result is drawn and written
                _segment_image(predictor, index, image, request, files)
        except SSPSAMError as error:
            failed += 1
            message = words_of(error)
            complain(message if name in printable(message) else f"{name}: {message}")
    return failed


def _segment_image(
    predictor: "SSPSAMPredictor", index: int, image: Path, request: _SegmentRequest, files: ResultFiles
) -> None:
    """Segment one image, write its files and print its lines."""
    from sspsam.images.loading import DEFAULT_MAX_PIXELS, pillow_pixel_limit
    from sspsam.segmentation.exports.answer_files import NamedAnswer

    require_no_folder(image)
    paths = files.paths(index, len(request.texts))  # before the computation, which may take long
    start = time.perf_counter()
    limit = request.max_pixels or DEFAULT_MAX_PIXELS
    with messages_with_name(image), pillow_pixel_limit(limit):
        source = _standard_input() if image == STANDARD_INPUT else image
        results = predictor.predict(
            request.texts, image=source, max_pixels=limit, presence_threshold=request.presence_threshold
        )
    height, width = results[0].mask.shape
    detail(f"{shown(image)}: {width} x {height} pixels, {len(results)} texts, {time.perf_counter() - start:.2f} s")
    answers = [
        NamedAnswer(str(image), label, result) for label, result in zip(request.label_of_each, results, strict=True)
    ]
    files.write(paths, answers)
    for answer, answer_paths in zip(answers, paths, strict=True):
        print_row(*_fields(answer, answer_paths, files.formats))


def _standard_input() -> bytes:
    """Return all bytes of standard input.

    Raises:
        ImageError: it is a terminal, is too long, or cannot be read.
    """
    if sys.stdin is None:
        raise ImageError("cannot read standard input: it is closed")
    stream = sys.stdin.buffer
    if stream.isatty():
        raise ImageError("- reads an image from standard input, which is a terminal: pipe an image into the command")
    try:
        data = stream.read(_MAX_STANDARD_INPUT + 1)
    except OSError as error:
        raise ImageError(f"cannot read standard input: {error.strerror or error}") from error
    if len(data) > _MAX_STANDARD_INPUT:
        raise ImageError(f"standard input has more than {_MAX_STANDARD_INPUT >> 20} MiB, and no image has")
    return data


def _fields(answer: "NamedAnswer", paths: "dict[AnswerFormat, Path]", formats: "Sequence[AnswerFormat]") -> list[str]:
    result = answer.result
    if "json" in formats:
        head: dict[str, Any] = {"image": answer.image, "files": {kind: str(path) for kind, path in paths.items()}}
        label = {} if answer.label is None else {"label": answer.label}
        return [json.dumps({**head, **label, **result.to_dict()})]
    verdict = "no-target" if result.no_target else "target"
    box = ",".join(f"{value:.1f}" for value in result.box)
    text = " ".join(result.text.split())
    files = [str(paths.get(kind, "-")) for kind in formats]
    return [answer.image, text, verdict, f"{result.score:.4f}", box, *files]
