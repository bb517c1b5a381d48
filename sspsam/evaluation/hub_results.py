"""`.eval_results/*.yaml`, the files from which the Hugging Face Hub reads results of models.

The format is described in https://huggingface.co/docs/hub/eval-results and
https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sspsam.utils.files import make_directory, replace_file

FOLDER: Final = ".eval_results"


@dataclass(frozen=True)
class HubTask:
    """A data set on the Hub with the measure that its card defines.

    Args:
        dataset_id: on the Hub.
        task_id: task of the data set's `eval.yaml`.
        split: that the measure is about.
        protocol: in which `metric` is the measure of the card.
        metric: key of `metrics.json`.
    """

    dataset_id: str
    task_id: str
    split: str
    protocol: str
    metric: str


# only data sets whose own card defines a measure that this package computes
HUB_TASKS: Final[Mapping[str, HubTask]] = MappingProxyType(
    {"refcoco-m": HubTask("moondream/refcoco-m", "default", "validation", "standard", "mIoU")}
)


def write_eval_results(metrics: Mapping[str, Any], output: Path, today: date) -> Path | None:
    """Write the result of a whole split for the repository of the model on the Hub.

    Args:
        metrics: the content of `metrics.json`.
        output: folder of the evaluation, in which `.eval_results` is made.
        today: date of the evaluation; a file that differs only in it is left as it is.

    Returns:
        The path of the file; None where the data set has no measure on the Hub, or the run is not about it.
    """
    task = HUB_TASKS.get(metrics["dataset"])
    if task is None or metrics["limit"] is not None or metrics.get(task.metric) is None:
        return None
    if (metrics["split"], metrics["protocol"]) != (task.split, task.protocol):
        return None
    path = eval_results_path(output, metrics["dataset"])
    text = _entry(task, metrics, today)
    try:
        if _undated(path.read_text("utf-8")) == _undated(text):
            return path
    except (OSError, UnicodeDecodeError):
        pass
    make_directory(path.parent)
    replace_file(path, text.encode())
    return path


def eval_results_path(output: Path, dataset: str) -> Path:
    """Return the path of the file of a data set in the folder of an evaluation."""
    return output / FOLDER / f"{dataset}.yaml"


def _entry(task: HubTask, metrics: Mapping[str, Any], today: date) -> str:
    """Return the YAML of one result; texts in the quotes of JSON are YAML as well."""
    notes = (
        f"{task.metric} in percent over {metrics['n']} expressions of {task.split}; sspsam "
        f"{metrics['versions']['sspsam']}, protocol {task.protocol}"
    )
    return (
        f"- dataset:\n    id: {task.dataset_id}\n    task_id: {task.task_id}\n"
        f"  value: {100 * metrics[task.metric]:.4f}\n  date: {json.dumps(today.isoformat())}\n"
        f"  notes: {json.dumps(notes)}\n"
    )


def _undated(text: str) -> str:
    return re.sub(r"(?m)^  date: .*$", "", text)
