"""Commands about checkpoints: which there are, having them here, converting, checking, deleting."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sspsam.cli.output import complain, failing_cleanly

if TYPE_CHECKING:
    from sspsam.checkpoints.hub_options import HubOptions

_revision = click.option("--revision", help="Branch, tag or commit on the Hub.")
_cache_dir = click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Instead of the usual cache (HF_HOME)."
)


def _options(revision: str | None, cache_dir: Path | None) -> "HubOptions":
    from sspsam.checkpoints.hub_options import HubOptions

    return HubOptions(revision, cache_dir)


@click.command()
@click.option("--remote", is_flag=True, help="Ask the Hub which there are.")
@_cache_dir
def models(remote: bool, cache_dir: Path | None) -> None:
    """List the bundled model and the published checkpoints: name, whether it is here, size, licence, what for.

    "bundled" came with sspsam, "ready" is fetched and converted, "downloaded" is fetched. Without --remote the
    published names are those that are expected; known for certain is ssp-sam-224-grefcoco.
    """
    with failing_cleanly():
        from sspsam.checkpoints import listing

        entries = [listing.bundled(), *listing.published(_options(None, cache_dir), remote=remote)]
    for entry in entries:
        row = (entry.name, entry.state, _size(entry.gigabytes), entry.license, entry.purpose)
        click.echo("\t".join(row))


def _size(gigabytes: float) -> str:
    if not gigabytes:
        return "-"
    return f"{gigabytes} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"


@click.command()
@click.argument("name")
@_revision
@_cache_dir
def download(name: str, revision: str | None, cache_dir: Path | None) -> None:
    """Fetch the checkpoint NAME, convert it if need be, and print its directory."""
    with failing_cleanly():
        from sspsam import hub
        from sspsam.checkpoints.format import load_checkpoint

        found = hub.resolve(name, _options(revision, cache_dir), refresh=True)
        with hub.repair_command_in_errors(found):
            load_checkpoint(found.path)
    if found.bundled:
        complain(f"{name} is already there: it comes with sspsam, and nothing is fetched")
    click.echo(f"{found.path}\t{found.origin}")


@click.command()
@click.argument("name")
@_revision
@_cache_dir
def verify(name: str, revision: str | None, cache_dir: Path | None) -> None:
    """Check the checkpoint NAME that is here: its structure and the SHA-256 of its weights."""
    with failing_cleanly():
        from sspsam.checkpoints import listing

        config = listing.verify(name, _options(revision, cache_dir))
    click.echo(f"{name}\tgood\t{config.weights_sha256}")


@click.command()
@click.option("--delete", "name", required=True, metavar="NAME", help="Delete what was fetched and converted of NAME.")
@_revision
@_cache_dir
def cache(name: str, revision: str | None, cache_dir: Path | None) -> None:
    """Look after the cache."""
    with failing_cleanly():
        from sspsam.checkpoints import listing

        deleted = listing.delete(name, _options(revision, cache_dir))
    for path in deleted:
        click.echo(f"deleted\t{path}")
    if not deleted:
        complain(f"nothing of {name} is in the cache")
        sys.exit(1)


@click.command()
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
@click.option("--push", metavar="REPOSITORY", help="Then upload it to the Hub, with a model card: owner/name.")
@click.option("--private", is_flag=True, help="Make the repository of --push private.")
def convert(
    checkpoint: Path,
    out_dir: Path,
    dtype: str,
    source: str | None,
    licence: str | None,
    push: str | None,
    private: bool,
) -> None:
    """Convert an authors' checkpoint to safetensors; nothing in it is run."""
    with failing_cleanly():
        import logging

        from sspsam.checkpoints.convert import convert_checkpoint

        logging.basicConfig(format="sspsam: %(message)s")  # on standard error; this process is the command's own
        logging.getLogger("sspsam").setLevel(logging.INFO)
        config = convert_checkpoint(checkpoint, out_dir, dtype=dtype, source=source, license=licence)
        click.echo(f"{out_dir}\t{config.fingerprint}")
        if push:
            from sspsam.checkpoints.publish import push_checkpoint

            click.echo(f"{push}\t{push_checkpoint(out_dir, push, private=private)}")
