"""`sspsam segment`: pictures and words in, lines and files out."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sspsam.cli.output import complain, failing_cleanly
from sspsam.errors import SSPSAMError

if TYPE_CHECKING:
    from sspsam.segmentation.result import Segmentation


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-t", "--text", "texts", multiple=True, required=True, help="What to look for; repeat for more.")
@click.option("--model", help="A published name (sspsam models), a directory, or a Hub repository owner/name.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Instead of the usual cache.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Write files here.")
@click.option("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mask", "overlay", "json"]),
    default="mask",
    show_default=True,
    help="What to write into the output directory.",
)
def segment(
    images: tuple[Path, ...],
    texts: tuple[str, ...],
    model: str | None,
    revision: str | None,
    cache_dir: Path | None,
    output: Path | None,
    device: str | None,
    form: str,
) -> None:
    """Segment each IMAGE by each text; print one line a result.

    A line is tab-separated: image, text, "target" or "no-target", score, box, file. With --format json it is a JSON
    object instead, mask included. Files are named after the picture and the number of the text.
    """
    if model is None:
        from sspsam.checkpoints.names import missing_name_message

        raise click.UsageError(missing_name_message())
    if not all(text.strip() for text in texts):
        raise click.BadParameter("a text is empty; say what to look for", param_hint="-t")
    if form == "overlay" and output is None:
        raise click.UsageError("--format overlay writes pictures: say where with -o DIR")
    with failing_cleanly():
        from sspsam.images.loading import pillow_pixel_limit
        from sspsam.predictor import SSPSAMPredictor
        from sspsam.utils.files import make_directory

        if output is not None:
            make_directory(output)
        predictor = SSPSAMPredictor.from_pretrained(model, revision=revision, device=device, cache_dir=cache_dir)
    failed = 0
    writer = _Writer(output, form)
    for image in images:
        try:
            with pillow_pixel_limit():
                results = predictor.predict(texts, image=image)
            writer.write(image, results)
        except SSPSAMError as error:
            failed += 1
            complain(str(error) if str(image) in str(error) else f"{image}: {error}")
    if failed:
        complain(f"{failed} of {len(images)} pictures failed")
        sys.exit(1)


class _Writer:
    """Prints a line for each result and writes its file."""

    def __init__(self, output: Path | None, form: str) -> None:
        self.output = output
        self.form = form
        self.names: set[str] = set()

    def write(self, image: Path, results: "list[Segmentation]") -> None:
        stem = self._unused_stem(image)
        for number, result in enumerate(results, 1):
            file = self._file(f"{stem}-{number}", result)
            click.echo(self._line(image, result, file))

    def _unused_stem(self, image: Path) -> str:
        """`a.jpg` and `b/a.png` of one run must not overwrite each other; neither on a file system without case."""
        # file systems allow 255 bytes; cut between characters
        short = image.stem.encode(errors="surrogateescape")[:200].decode(errors="ignore")
        stem, number = short, 1
        while stem.casefold() in self.names:
            number += 1
            stem = f"{short}~{number}"
        self.names.add(stem.casefold())
        return stem

    def _file(self, name: str, result: "Segmentation") -> Path | None:
        from sspsam.segmentation.result import png_bytes
        from sspsam.utils.files import replace_file

        if self.output is None:
            return None
        path = self.output / (name + (".json" if self.form == "json" else ".png"))
        if self.form == "mask":
            result.save(path)
        elif self.form == "json":
            replace_file(path, json.dumps(result.to_dict()).encode())
        else:
            replace_file(path, png_bytes(result.overlay()))
        return path

    def _line(self, image: Path, result: "Segmentation", file: Path | None) -> str:
        if self.form == "json":
            about: dict[str, Any] = {"image": str(image), "file": None if file is None else str(file)}
            return json.dumps({**about, **result.to_dict()})
        found = "no-target" if result.no_target else "target"
        box = ",".join(f"{value:.1f}" for value in result.box)
        text = " ".join(result.text.split())
        return "\t".join([str(image), text, found, f"{result.score:.4f}", box, str(file or "-")])
