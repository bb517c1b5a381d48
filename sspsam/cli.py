"""The command line. Standard output carries data, standard error the rest.

Exit status: 0 all was done (no target is an answer), 1 something failed, 2 wrong usage.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sspsam import __version__
from sspsam.errors import SSPSAMError

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation import Segmentation


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sspsam")
def main() -> None:
    """Point at things in a picture with words."""


@main.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-t", "--text", "texts", multiple=True, required=True, help="What to look for; repeat for more.")
@click.option("--model", required=True, help="A checkpoint directory, or a Hub repository owner/name.")
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
    images: tuple[Path, ...], texts: tuple[str, ...], model: str, output: Path | None, device: str | None, form: str
) -> None:
    """Segment each IMAGE by each text; print one line a result.

    A line is tab-separated: image, text, "target" or "no-target", score, box, file. With --format json it is a JSON
    object instead, mask included. Files are named after the picture and the number of the text.
    """
    with _failing_cleanly():
        from sspsam.predictor import SSPSAMPredictor

        predictor = SSPSAMPredictor.from_pretrained(model, device=device)
    failed = 0
    writer = _Writer(output, form)
    for image in images:
        try:
            writer.write(image, _ask(predictor, image, texts))
        except SSPSAMError as error:
            failed += 1
            click.echo(f"sspsam: {error}", err=True)
    if failed:
        click.echo(f"sspsam: {failed} of {len(images)} pictures failed", err=True)
        sys.exit(1)


@main.command()
@click.argument("checkpoint", metavar="CHECKPOINT.pth", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the stored weights.",
)
@click.option("--source", help="Where the weights come from, for the record.")
@click.option("--license", "licence", help="Of the weights, for the record.")
def convert(checkpoint: Path, out_dir: Path, dtype: str, source: str | None, licence: str | None) -> None:
    """Convert an authors' checkpoint to safetensors; nothing in it is run."""
    with _failing_cleanly():
        from sspsam.convert import convert_checkpoint

        config = convert_checkpoint(checkpoint, out_dir, dtype=dtype, source=source, license=licence)
    click.echo(f"{out_dir}\t{config.fingerprint}")


def _ask(predictor: "SSPSAMPredictor", image: Path, texts: tuple[str, ...]) -> "list[Segmentation]":
    return predictor.predict(texts, image=image)


class _Writer:
    """Prints a line for each result and writes its file."""

    def __init__(self, output: Path | None, form: str) -> None:
        self.output = output
        self.form = form
        self.names: set[str] = set()

    def write(self, image: Path, results: "list[Segmentation]") -> None:
        from sspsam.storage import make_directory

        if self.output is not None:
            make_directory(self.output)
        stem = self._unused_stem(image)
        for number, result in enumerate(results, 1):
            file = self._file(f"{stem}-{number}", result)
            click.echo(self._line(image, result, file))

    def _unused_stem(self, image: Path) -> str:
        """`a.jpg` and `b/a.png` of one run must not overwrite each other; neither on a file system without case."""
        stem = image.stem[:100]
        number = 1
        while stem.casefold() in self.names:
            number += 1
            stem = f"{image.stem[:100]}~{number}"
        self.names.add(stem.casefold())
        return stem

    def _file(self, name: str, result: "Segmentation") -> Path | None:
        from sspsam.storage import replace_file

        if self.output is None:
            return None
        path = self.output / (name + (".json" if self.form == "json" else ".png"))
        if self.form == "mask":
            result.save(path)
        elif self.form == "json":
            replace_file(path, json.dumps(result.to_dict()).encode())
        else:
            replace_file(path, _png(result))
        return path

    def _line(self, image: Path, result: "Segmentation", file: Path | None) -> str:
        if self.form == "json":
            about: dict[str, Any] = {"image": str(image), "file": None if file is None else str(file)}
            return json.dumps({**about, **result.to_dict()})
        found = "no-target" if result.no_target else "target"
        box = ",".join(f"{value:.1f}" for value in result.box)
        text = " ".join(result.text.split())
        return "\t".join([str(image), text, found, f"{result.score:.4f}", box, str(file or "-")])


def _png(result: "Segmentation") -> bytes:
    import io

    buffer = io.BytesIO()
    result.overlay().save(buffer, "PNG")
    return buffer.getvalue()


class _failing_cleanly:  # noqa: N801  # reads as what it does
    """An error of ours ends the command with its message and status 1, without a traceback."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SSPSAMError):
            click.echo(f"sspsam: {error}", err=True)
            sys.exit(1)
