"""The files of a finished training: checkpoint, report, model card and curves."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sspsam._version import __version__
from sspsam.checkpoints.saving import save_checkpoint
from sspsam.finetuning.card import finetuned_card
from sspsam.finetuning.curves import save_curves
from sspsam.finetuning.job import CARD_NAME, CURVES_NAME, REPORT_NAME, Finetuned
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.splitting import SplitLines
from sspsam.finetuning.start import Start
from sspsam.finetuning.state import LOG_NAME, Progress, read_log
from sspsam.finetuning.training import Evaluation
from sspsam.finetuning.training_data import TrainingData
from sspsam.utils.files import replace_file
from sspsam.utils.paths import shown

_MOST_CHARACTERS: Final = 2000  # of a source


def write_result(
    output: Path,
    start: Start,
    lines: SplitLines,
    data: TrainingData,
    options: FinetuneOptions,
    parts: Sequence[str],
    progress: Progress,
    after: Evaluation,
) -> Finetuned:
    """Write the checkpoint of a network, the report, the model card and the curves.

    Args:
        output: folder.
        start: starting point; its network has the new weights.
        lines: of the user.
        data: that the model was trained on.
        options: every number.
        parts: that learned.
        progress: at the end of the training.
        after: evaluation of the new weights.
    """
    origin = start.checkpoint.origin
    source = f"fine-tuned with sspsam finetune from {shown(origin)}, which is: {start.config.source}"
    config = dataclasses.replace(start.config, source=source[:_MOST_CHARACTERS])
    config = save_checkpoint(output, config, start.model.state_dict())
    report = {
        "sspsam": __version__,
        "start": {"origin": origin, "fingerprint": start.config.fingerprint},
        "fingerprint": config.fingerprint,
        "options": dataclasses.asdict(options) | {"train": list(parts)},
        "lines": _counts(lines, data),
        "held_out_digests": sorted({line.image for line in lines.held_out}),
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 1),
        "before": progress.before,
        "after": after.metrics,
    }
    replace_file(output / REPORT_NAME, (json.dumps(report, indent=2) + "\n").encode())
    replace_file(output / CARD_NAME, finetuned_card(output.name, config, report).encode())
    save_curves(output / CURVES_NAME, read_log(output / LOG_NAME), progress.before)
    return Finetuned(output, config, progress.before, after.metrics, progress.step, progress.best_step or 0)


def _counts(lines: SplitLines, data: TrainingData) -> dict[str, Any]:
    return {
        "train": len(lines.train),
        "train_images": len({line.image for line in lines.train}),
        "held_out": len(lines.held_out),
        "held_out_images": len({line.image for line in lines.held_out}),
        "without_target": sum(line.entry.no_target for line in (*lines.train, *lines.held_out)),
        "left_out": lines.left_out,
        "rehearsal": len(data.old),
        "negative_phrases": 0 if data.negatives is None else len(data.negatives.texts),
    }
