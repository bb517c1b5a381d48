"""`sspsam segment`: images and texts in, lines and files out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sspsam.cli.options import ModelOptions, check_texts, model_options, required_model
from sspsam.cli.output import complain, failing_cleanly, print_row
from sspsam.errors import SSPSAMError

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation.result import Segmentation


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-t", "--text", "texts", multiple=True, required=True, help="Expression to segment; repeatable.")
@model_options
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["mask", "overlay", "json"]),
    default="mask",
    show_default=True,
    help="Kind of files to write into the folder.",
)
def segment(
    images: tuple[Path, ...],
    texts: tuple[str, ...],
    model_options: ModelOptions,
    output: Path | None,
    output_format: str,
) -> None:
    """Segment each IMAGE by each text; print one line a result.

    A line is tab-separated: image, text, "target" or "no-target", score, box, file. With --format json it is a JSON
    object instead, mask included. Files are named after the image and the number of the text.
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
    failed = _segment_images(predictor, images, texts, _ResultWriter(output, output_format))
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
    predictor: "SSPSAMPredictor", images: Sequence[Path], texts: tuple[str, ...], writer: "_ResultWriter"
) -> int:
    """Segment images one by one and report those that fail; return the number of failed images."""
    from sspsam.images.loading import pillow_pixel_limit

    failed = 0
    for image in images:
        try:
            with pillow_pixel_limit():
                results = predictor.predict(texts, image=image)
            writer.write(image, results)
        except SSPSAMError as error:
            failed += 1
            complain(str(error) if str(image) in str(error) else f"{image}: {error}")
    return failed


class _ResultWriter:
    """Prints a line for each result and writes its file.

    Args:
        output: folder for the files; None: lines only.
        output_format: "mask", "overlay" or "json".
    """

    def __init__(self, output: Path | None, output_format: str) -> None:
        self.output = output
        self.output_format = output_format
        self.used_stems: set[str] = set()  # case-folded

    def write(self, image: Path, results: "Sequence[Segmentation]") -> None:
        stem = self._unused_stem(image)
        for number, result in enumerate(results, 1):
            file = self._write_file(f"{stem}-{number}", result)
            print_row(*self._fields(image, result, file))

    def _unused_stem(self, image: Path) -> str:
        """Return a stem that no other image of this run has, so that `a.jpg` and `b/A.png` do not overwrite each other.

        Stems are compared without case, because some file systems ignore case.
        """
        # file systems allow 255 bytes; cut between characters
        short = image.stem.encode(errors="surrogateescape")[:200].decode(errors="ignore")
        stem, number = short, 1
        while stem.casefold() in self.used_stems:
            number += 1
            stem = f"{short}~{number}"
        self.used_stems.add(stem.casefold())
        return stem

    def _write_file(self, name: str, result: "Segmentation") -> Path | None:
        from sspsam.segmentation.result import png_bytes
        from sspsam.utils.files import replace_file

        if self.output is None:
            return None
        path = self.output / (name + (".json" if self.output_format == "json" else ".png"))
        if self.output_format == "mask":
            result.save(path)
        elif self.output_format == "json":
            replace_file(path, json.dumps(result.to_dict()).encode())
        else:
            replace_file(path, png_bytes(result.overlay()))
        return path

    def _fields(self, image: Path, result: "Segmentation", file: Path | None) -> list[str]:
        if self.output_format == "json":
            paths: dict[str, Any] = {"image": str(image), "file": None if file is None else str(file)}
            return [json.dumps({**paths, **result.to_dict()})]
        verdict = "no-target" if result.no_target else "target"
        box = ",".join(f"{value:.1f}" for value in result.box)
        text = " ".join(result.text.split())
        return [str(image), text, verdict, f"{result.score:.4f}", box, str(file or "-")]
