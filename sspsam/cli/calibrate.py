"""`sspsam calibrate`: records of an evaluation -> the probability that an expression has a target."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sspsam.cli.options import ModelOptions, cache_dir_option, required_model, revision_option
from sspsam.cli.output import failing_cleanly, print_row
from sspsam.cli.paths import UserPath

if TYPE_CHECKING:
    from sspsam.segmentation.calibration import Calibration


@click.command()
@click.argument("records", nargs=-1, required=True, metavar="RECORDS...", type=UserPath(dir_okay=False))
@click.option("--model", help="The model whose records they are: published name, directory, or Hub repository.")
@revision_option
@cache_dir_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=UserPath(),
    help="File to write, or the folder of the checkpoint, where calibration.json is loaded with it.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def calibrate(
    records: tuple[Path, ...],
    model: str | None,
    revision: str | None,
    cache_dir: Path | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Fit the probability of presence on the RECORDS of sspsam eval, and write it as a calibration.

    RECORDS are files records.jsonl, or those of shards, with at least 50 expressions with a target and 50 without one.
    Standard output has, tab-separated, the numbers of both kinds, and the AUROC and the calibration error on held-out
    parts of the records; then the AUROC of the number of foreground pixels.
    """
    name = required_model(ModelOptions(model, revision, cache_dir, None))
    with failing_cleanly():
        calibration = _fit(records, name, revision, cache_dir)
        _write(calibration, output, overwrite)
    quality = calibration.cross_validation
    print_row("present", calibration.present)
    print_row("absent", calibration.absent)
    print_row("AUROC", f"{quality.auroc:.4f}")
    print_row("ECE", f"{quality.ece:.4f}")
    print_row("AUROC of the pixel count", f"{quality.count_auroc:.4f}")


def _fit(paths: tuple[Path, ...], model: str, revision: str | None, cache_dir: Path | None) -> "Calibration":
    from sspsam import hub

    hub.check_name(model)  # an unknown name is answered before PyTorch is imported
    from sspsam.checkpoints.directory import read_config
    from sspsam.evaluation.calibration import fit_calibration, labelled_features
    from sspsam.evaluation.records import read_records

    resolved = hub.resolve(model, hub.HubOptions.of(revision, cache_dir))
    folder = resolved.path if os.path.isdir(resolved.path) else resolved.path.parent
    fingerprint = read_config(folder).fingerprint
    records = [record for path in paths for record in read_records(path)]
    return fit_calibration(labelled_features(records, fingerprint), fingerprint)


def _write(calibration: "Calibration", output: Path, overwrite: bool) -> None:
    from sspsam.config import CALIBRATION_NAME
    from sspsam.errors import StorageError
    from sspsam.segmentation.calibration import write_calibration
    from sspsam.utils.paths import shown

    target = output / CALIBRATION_NAME if os.path.isdir(output) else output
    if os.path.lexists(target) and not overwrite:
        raise StorageError(f"{shown(target)} exists: add --overwrite to replace it, or choose another file")
    other = _fingerprint_in(target.parent) if target.name == CALIBRATION_NAME else None
    if other not in (None, calibration.fingerprint):  # the checkpoint could not be loaded with it
        raise StorageError(
            f"{shown(target.parent)} holds another model (fingerprint {str(other)[:20]}..., the given model has "
            f"{calibration.fingerprint[:20]}...): choose another file, or name that model with --model"
        )
    write_calibration(calibration, target)


def _fingerprint_in(folder: Path) -> str | None:
    """Return the fingerprint of the checkpoint in a folder; None if there is none."""
    from sspsam.checkpoints.directory import read_config
    from sspsam.errors import SSPSAMError

    try:
        return read_config(folder).fingerprint
    except SSPSAMError:
        return None
