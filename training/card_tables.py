"""Print the tables of the bundled model's card from evaluations: `python -m training.card_tables DIR`.

`DIR/own` and `DIR/second` hold the data sets of `training.drawn_datasets`, and `DIR/<renderer>/results/<dataset>` the
output of `sspsam eval` for `refcoco`, `grefcoco` and `jsonl` (split `rle`). The first two tables are from gRefCOCO.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sspsam.evaluation.records import Record, read_records
from training.evaluate import RENDERERS

FORMATS: Final = ("refcoco", "grefcoco", "jsonl")
_NUMBERS: Final = ("mIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "N-acc", "T-acc")
_FORMAT_NUMBERS: Final = ("oIoU", "mIoU", "gIoU", "cIoU", "N-acc", "T-acc")
_RENDERER_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "own": "the library's own, seeds that were not used in training",
        "second": "the second renderer, which shares no code with it",
    }
)


def tables(folder: Path) -> str:
    """Return the tables as Markdown.

    Args:
        folder: see the module.
    """
    metrics = {(name, kind): _metrics(folder / name / "results" / kind) for name in RENDERERS for kind in FORMATS}
    overall = [[_RENDERER_NAMES[name], *_row(metrics[name, "grefcoco"], _NUMBERS)] for name in RENDERERS]
    formats = [[name, kind, *_row(values, _FORMAT_NUMBERS)] for (name, kind), values in metrics.items()]
    kinds = {name: _kinds(folder / name) for name in RENDERERS}
    rows = [
        [kind, *(cell for name in RENDERERS for cell in kinds[name].get(kind, ("", "")))]
        for kind in sorted(set().union(*kinds.values()))
    ]
    return "\n\n".join(
        [
            _table(["renderer", "expressions", *_NUMBERS], overall),
            _table(["kind of expression", *(cell for name in RENDERERS for cell in (f"{name}: mIoU", "N-acc"))], rows),
            _table(["renderer", "format", "expressions", *_FORMAT_NUMBERS], formats),
        ]
    )


def _metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def _row(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    numbers = ("" if metrics[name] is None else f"{metrics[name]:.3f}" for name in names)
    return [str(metrics["n"]), *numbers]


def _kinds(folder: Path) -> dict[str, tuple[str, str]]:
    """Return mIoU and N-acc of each kind of expression."""
    kinds = [json.loads(line)["kind"] for line in (folder / "jsonl" / "rle.jsonl").read_text().splitlines()]
    records: dict[str, list[Record]] = {}
    for record in read_records(folder / "results" / "grefcoco" / "records.jsonl"):
        records.setdefault(kinds[record.index], []).append(record)
    return {
        kind: (
            _mean([_iou(record) for record in group if not record.no_target]),
            _mean([float(record.predicted_no_target) for record in group if record.no_target]),
        )
        for kind, group in records.items()
    }


def _iou(record: Record) -> float:
    return 0.0 if record.predicted_no_target or not record.union else record.intersection / record.union


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(tables(parser.parse_args().folder))


if __name__ == "__main__":
    main()
