"""The model card of a fine-tuned checkpoint: counts, not names; the starting point; numbers before and after."""

from collections.abc import Mapping
from typing import Any, Final

from sspsam.checkpoints.licenses import license_header
from sspsam.config import ModelConfig
from sspsam.utils.markup import table_cell

_TITLES: Final = {
    "held_out": "held-out lines",
    "known": "what the model knew",
    "foreign": "foreign phrases on held-out images",
}
_METRICS: Final = ("mIoU", "gIoU", "oIoU", "Pr@0.5", "Pr@0.9", "N-acc", "T-acc")
_CARD: Final = """---
{license_header}
library_name: sspsam
pipeline_tag: mask-generation
tags:
- referring-expression-segmentation
---

# {name}

An SSP-SAM checkpoint of the Python library `sspsam`, fine-tuned with `sspsam finetune`. It answers with a mask for the
object in an image that an expression refers to, or with no target.

```python
from sspsam import SSPSAMPredictor

predictor = SSPSAMPredictor.from_pretrained("path/to/{name}")
result = predictor.predict("an expression like those it learned", image="photo.jpg")
```

| | |
|---|---|
| starting point | {origin}, fingerprint `{start}` |
| learned from | {train} lines about {train_images} images |
| held out, never trained on | {held_out} lines about {held_out_images} other images (split by image, seed {seed}) |
| lines without a target | {without_target} |
| lines left out (problems, repetitions) | {left_out} |
| rehearsal | {rehearsal} expressions about what the model knew; {negative_phrases} foreign phrases |
| parts that learned | {parts} |
| steps | {steps} of {batch_size} examples; {kept} |
| licence of the starting point | {license} |
| fingerprint | `{fingerprint}` |

## Numbers before and after

By the metrics of `sspsam eval`, protocol `standard`. Nothing in these parts was trained on, but they chose the step, so
that numbers on further images may be a little lower.

{tables}

It was not measured on anything else.
"""


def finetuned_card(name: str, config: ModelConfig, report: Mapping[str, Any]) -> str:
    """Return the model card.

    Args:
        name: of the checkpoint.
        config: of the checkpoint.
        report: the content of `finetune.json`.
    """
    options = report["options"]
    return _CARD.format(
        name=table_cell(name),
        license=table_cell(config.license if config.license != "unknown" else "other"),
        license_header=license_header(config.license),
        origin=table_cell(report["start"]["origin"]),
        start=report["start"]["fingerprint"],
        seed=options["seed"],
        parts=", ".join(options["train"]),
        batch_size=options["batch_size"],
        steps=report["steps"],
        kept=_kept(report["best_step"]),
        fingerprint=config.fingerprint,
        tables=_table(report["before"], report["after"]),
        **report["lines"],
    )


def _kept(best_step: int) -> str:
    """Return which weights the checkpoint has."""
    if best_step:
        return f"kept is step {best_step}, the best on the held-out parts"
    return (
        "none was better on the held-out parts than the starting point, **whose weights are kept**: lower learning "
        "rates or more lines may help"
    )


def _table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return one table with a row for each part of the data and time."""
    rows = [f"| | expressions | {' | '.join(_METRICS)} |", "|---|---|" + "---|" * len(_METRICS)]
    for part in before:
        for time, numbers in (("before", before[part]), ("after", after[part])):
            values = ("" if numbers.get(name) is None else f"{numbers[name]:.3f}" for name in _METRICS)
            rows.append(f"| {_TITLES.get(part, part)}, {time} | {numbers['n']} | {' | '.join(values)} |")
    return "\n".join(rows)
