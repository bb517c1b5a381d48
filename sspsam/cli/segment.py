"""`sspsam segment`: images and texts in, lines and files out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sspsam.cli.options import ModelOptions, check_texts, model_options, required_model
from sspsam.cli.output import complain, failing_cleanly, messages_with_name, print_row
from sspsam.cli.paths import ImagePath, UserPath
from sspsam.cli.segment_files import OUTPUT_FORMATS, ResultFiles, require_no_folder
from sspsam.errors import SSPSAMError
from sspsam.utils.paths import printable, shown

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation.result import Segmentation


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=ImagePath())
@click.option("-t", "--text", "texts", multiple=True, required=True, help="Expression to segment; repeatable.")
@model_options
@click.option("-o", "--output", type=UserPath(file_okay=False), help="Folder for the files.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(OUTPUT_FORMATS),
    default="mask",
    show_default=True,
    help="Kind of files to write into the folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files in the folder, but never an image.")
def segment(
    images: tuple[Path, ...],
    texts: tuple[str, ...],
    model_options: ModelOptions,
    output: Path | None,
    output_format: str,
    overwrite: bool,
) -> None:
    """Segment each IMAGE by each text; print one line per result.

    A line is tab-separated: image, text, "target" or "no-target", score, box, file. With --format json it is a JSON
    object instead, mask included. Files are named after the image and the number of the text; an existing file is
    replaced with --overwrite only.
    """
    model = required_model(model_options)
    check_texts(texts)
    if output_format == "overlay" and output is None:
        raise click.UsageError("--format overlay writes images: give a folder for them with -o DIR")
    with failing_cleanly():
        from sspsam.utils.files import make_directory

        if output is not None:
            make_directory(output)
        predictor = _load_predictor(model, model_options)
    failed = _segment_images(predictor, images, texts, ResultFiles(output, output_format, images, overwrite))
    if failed:
        complain(f"{failed} of {len(images)} images failed")
        sys.exit(1)


def _load_predictor(model: str, options: ModelOptions) -> "SSPSAMPredictor":
    from sspsam import hub

    hub.check_name(model)  # an unknown name is answered before PyTorch is imported
    from sspsam.predictor import SSPSAMPredictor

    return SSPSAMPredictor.from_pretrained(
        model, revision=options.revision, device=options.device, cache_dir=options.cache_dir
    )


def _segment_images(
    predictor: "SSPSAMPredictor", images: Sequence[Path], texts: tuple[str, ...], files: ResultFiles
) -> int:
    """Segment images one by one and report those that fail; return the number of failed images."""
    from sspsam.devices import named_out_of_memory

    failed = 0
    for image in images:
        try:
            require_no_folder(image)
            with named_out_of_memory():  # also while a result is drawn and written
                _segment_image(predictor, image, texts, files)
        except SSPSAMError as error:
            failed += 1
            complain(str(error) if shown(image) in printable(str(error)) else f"{shown(image)}: {error}")
    return failed


def _segment_image(predictor: "SSPSAMPredictor", image: Path, texts: tuple[str, ...], files: ResultFiles) -> None:
    """Segment one image, write its files and print its lines."""
    from sspsam.images.loading import pillow_pixel_limit

    paths = files.paths(image, len(texts))  # before the computation, which may take long
    with messages_with_name(image), pillow_pixel_limit():
        results = predictor.predict(texts, image=image)
    files.write(image, paths, results)
    for path, result in zip(paths, results, strict=True):
        print_row(*_fields(image, result, path, files.output_format))


def _fields(image: Path, result: "Segmentation", file: Path | None, output_format: str) -> list[str]:
    if output_format == "json":
        paths: dict[str, Any] = {"image": str(image), "file": None if file is None else str(file)}
        return [json.dumps({**paths, **result.to_dict()})]
    verdict = "no-target" if result.no_target else "target"
    box = ",".join(f"{value:.1f}" for value in result.box)
    text = " ".join(result.text.split())
    return [str(image), text, verdict, f"{result.score:.4f}", box, str(file or "-")]
