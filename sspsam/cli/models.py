"""Commands about checkpoints: list, download, verify, delete, convert. All but `convert` work without PyTorch."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sspsam.cli.options import cache_dir_option, revision_option
from sspsam.cli.output import complain, failing_cleanly, log_to_standard_error, print_row
from sspsam.cli.paths import UserPath
from sspsam.cli.verbosity import inform, is_quiet, is_verbose

if TYPE_CHECKING:
    from sspsam.checkpoints.hub_options import HubOptions


def _options(revision: str | None, cache_dir: Path | None) -> "HubOptions":
    from sspsam.checkpoints.hub_options import HubOptions

    return HubOptions.of(revision, cache_dir)


@click.command()
@click.option("--remote", is_flag=True, help="Ask the Hub which checkpoints are published.")
@cache_dir_option
def models(remote: bool, cache_dir: Path | None) -> None:
    """List the bundled model and the published checkpoints: name, state, size, licence, purpose.

    The state is "bundled" (part of sspsam), "ready" (downloaded and converted), "downloaded", or "-". Without --remote
    the published names are those that are expected; only ssp-sam-224-grefcoco is known to exist.
    """
    with failing_cleanly():
        from sspsam import hub

        entries = [hub.bundled(), *hub.published(_options(None, cache_dir), remote=remote)]
        for entry in entries:
            print_row(entry.name, entry.state, _size(entry.gigabytes), entry.license, entry.purpose)


def _size(gigabytes: float) -> str:
    if not gigabytes:
        return "-"
    return f"{gigabytes} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"


@click.command()
@click.argument("name")
@revision_option
@cache_dir_option
def download(name: str, revision: str | None, cache_dir: Path | None) -> None:
    """Download the checkpoint NAME, convert it if necessary, check it, and print its directory and origin."""
    with failing_cleanly():
        from sspsam import hub
        from sspsam.checkpoints.directory import check_checkpoint
        from sspsam.checkpoints.encoder_search import encoder_files

        resolved = hub.resolve(name, _options(revision, cache_dir), refresh=True)
        with hub.repair_command_in_errors(resolved):
            check_checkpoint(resolved.path, encoder_files=encoder_files(_options(None, cache_dir)))
        if resolved.bundled:
            inform(f"{name} is already there: it is bundled with sspsam, and nothing is downloaded")
        print_row(resolved.path, resolved.origin)


@click.command()
@click.argument("name")
@revision_option
@cache_dir_option
def verify(name: str, revision: str | None, cache_dir: Path | None) -> None:
    """Check the local checkpoint NAME: its structure and the SHA-256 of its weights."""
    with failing_cleanly():
        from sspsam import hub

        config = hub.verify(name, _options(revision, cache_dir))
        print_row(name, "good", config.weights_sha256)


@click.command()
@click.option("--delete", "name", metavar="NAME", help="Delete the cached files of checkpoint NAME.")
@revision_option
@cache_dir_option
def cache(name: str | None, revision: str | None, cache_dir: Path | None) -> None:
    """List the cached checkpoints: name, state, size, days since the last use, path; or delete one.

    The state is "ready" (loads without a network), "downloaded" (an authors' file, which a conversion reads), or
    "shared" (image encoders that ready checkpoints need).
    """
    if name is None:
        if revision is not None:
            raise click.UsageError("--revision has no effect without --delete NAME: add it, or leave out --revision")
        _list_cache(cache_dir)
        return
    with failing_cleanly():
        from sspsam import hub

        deleted = hub.delete(name, _options(revision, cache_dir))
        for path in deleted:
            print_row("deleted", path)
    if not deleted:
        complain(f"nothing of {name} is in the cache")
        sys.exit(1)


def _list_cache(cache_dir: Path | None) -> None:
    with failing_cleanly():
        from sspsam import hub

        options = _options(None, cache_dir)
        checkpoints = hub.cached_checkpoints(options)
        for checkpoint in checkpoints:
            days = max(0.0, time.time() - checkpoint.last_used) / 86_400
            size = f"{checkpoint.size / 1e9:.1f} GB" if checkpoint.size >= 1e9 else f"{checkpoint.size / 1e6:.0f} MB"
            print_row(checkpoint.name, checkpoint.state, size, f"{days:.0f} days", checkpoint.path)
    total = sum(checkpoint.size for checkpoint in checkpoints) / 1e9
    count = sum(checkpoint.state != "shared" for checkpoint in checkpoints)
    inform(f"{count} cached checkpoints, {total:.1f} GB, in {options.cache}; --delete NAME deletes one")


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT.pth", type=UserPath())
@click.argument("out_dir", type=UserPath(file_okay=False))
@click.option(
    "--clip",
    metavar="FILE",
    type=UserPath(),
    help="The authors' CS-*.pt, for a checkpoint that was saved without CLIP.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Dtype of the stored weights.",
)
@click.option("--source", help="Origin of the weights, recorded in config.json.")
@click.option("--license", "license_name", help="Licence of the weights, recorded in config.json.")
@click.option(
    "--shared",
    is_flag=True,
    help="Write a small checkpoint that names its image encoders; the local store keeps them once.",
)
@click.option("--push", metavar="REPOSITORY", help="Upload the result to this Hub repository, owner/name.")
@click.option("--private", is_flag=True, help="Make the repository of --push private.")
def convert(
    checkpoint: Path,
    out_dir: Path,
    clip: Path | None,
    dtype: str,
    source: str | None,
    license_name: str | None,
    shared: bool,
    push: str | None,
    private: bool,
) -> None:
    """Convert an authors' checkpoint to safetensors; nothing in it is run."""
    if shared and push:
        raise click.UsageError(
            "--push uploads a complete checkpoint, --shared writes a part of one: leave out one of both"
        )
    with failing_cleanly():
        from sspsam.checkpoints.convert import convert_checkpoint
        from sspsam.checkpoints.encoders import encoder_store

        if not is_quiet() and not is_verbose():  # -v has done this already
            log_to_standard_error()
        config = convert_checkpoint(
            checkpoint,
            out_dir,
            clip=clip,
            dtype=dtype,
            source=source,
            license=license_name,
            encoder_store=encoder_store(_options(None, None)) if shared else None,
        )
        print_row(out_dir, config.fingerprint)
        if push:
            from sspsam.checkpoints.publish import push_checkpoint

            print_row(push, push_checkpoint(out_dir, push, private=private))
