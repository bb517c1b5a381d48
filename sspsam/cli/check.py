"""`sspsam check`: the self-test of a machine, for trust in a device and for reports of bugs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sspsam.cli.options import ModelOptions, check_texts, model_options, required_model
from sspsam.cli.output import complain, failing_cleanly, print_row
from sspsam.cli.paths import ImagePath

if TYPE_CHECKING:
    from sspsam.evaluation.self_test import CheckReport, ImageQuestions, ModelCheck


@click.command()
@model_options
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Precision (default: float16 on a CUDA GPU, else float32).",
)
@click.option("--image", type=ImagePath(), metavar="FILE", help="Image to ask --model about, instead of drawn scenes.")
@click.option("-t", "--text", "texts", multiple=True, help="Expression about --image; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    model_options: ModelOptions, dtype: str | None, image: Path | None, texts: tuple[str, ...], as_json: bool
) -> None:
    """Test this machine: are the answers of its device those of float32 on a CPU?

    The bundled model answers about drawn scenes, and its answers are compared with stored ones. With --model that
    checkpoint is also compared with its own answers in float32 on the CPU, which takes minutes for a published one.
    Differences, times, memory and versions are printed. The exit status is 1 if a difference is beyond tolerance: in
    float32, 0.001 of logits and scores and 0.1 pixels of boxes; in half precision, 0.1 % of the mask pixels; and in
    both, any changed no-target answer.
    """
    if (image is None) != (not texts):
        raise click.UsageError("--image and -t go together: give an image and at least one expression about it")
    if image is not None and model_options.model is None:
        raise click.UsageError("--image is for a checkpoint: name it with --model")
    check_texts(texts)
    if model_options.model is not None:
        required_model(model_options)
    with failing_cleanly():
        report = _report(model_options, dtype, image, list(texts))
        for note in report.notes:
            complain(note)
        if as_json:
            print_row(json.dumps(report.to_dict()))
        else:
            for line in _lines(report):
                print_row(line)
    if not report.ok:
        sys.exit(1)


def _report(options: ModelOptions, dtype: str | None, image: Path | None, texts: list[str]) -> "CheckReport":
    from sspsam import hub

    if options.model is not None:
        hub.check_name(required_model(options))  # an unknown name is answered before PyTorch is imported
    from sspsam.evaluation.self_test import Checkpoint, run_self_test

    checkpoint = None
    if options.model is not None:
        checkpoint = Checkpoint(required_model(options), options.revision, options.cache_dir)
    questions = [] if image is None else [_questions(image, texts)]
    return run_self_test(options.device, dtype, checkpoint, questions)


def _questions(image: Path, texts: list[str]) -> "ImageQuestions":
    from sspsam.evaluation.self_test import ImageQuestions
    from sspsam.images.loading import load_image, pillow_pixel_limit

    with pillow_pixel_limit():
        return ImageQuestions(load_image(image), texts)


def _lines(report: "CheckReport") -> list[str]:
    """Return the report as aligned lines; the last one is the verdict."""
    hardware = f" ({report.device_name})" if report.device_name else ""
    lines = [f"device {report.device}{hardware}, precision {report.dtype}", ""]
    checks = [check for check in (report.bundled, report.checkpoint) if check is not None]
    for check in checks:
        lines += [*_aligned(_rows(check, report.device)), ""]
    known = [(name, str(value)) for name, value in report.versions.items() if value is not None]
    return [*lines, *_aligned(known), "", "ok" if report.ok else "not ok: " + "; ".join(report.problems)]


def _rows(check: "ModelCheck", device: str) -> list[tuple[str, str]]:
    differences, times = check.differences, check.milliseconds
    memory = "unknown" if check.memory_bytes is None else f"{check.memory_bytes / 1e6:,.0f} MB"
    return [
        ("model", check.model),
        ("compared with", check.reference),
        ("largest difference of logits", f"{differences.max_logit_difference:.2g}"),
        ("largest difference of scores", f"{differences.max_score_difference:.2g}"),
        ("largest difference of boxes", f"{differences.max_box_difference:.2g} pixels"),
        ("mask pixels changed", f"{differences.mask_pixels_changed:,} of {differences.mask_pixels:,}"),
        ("no-target answers changed", f"{differences.no_target_changed} of {differences.questions}"),
        ("a new image", f"{times['new_image']:.1f} ms"),
        ("a further expression", f"{times['further_expression']:.1f} ms"),
        ("peak memory of the process" if device == "cpu" else "memory on the device", memory),
    ]


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
