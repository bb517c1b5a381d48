"""Metrics as a Markdown table."""

from collections.abc import Mapping
from typing import Any, Final

from sspsam.utils.paths import shown

TABLE_NAME: Final = "metrics.md"
_NO_NUMBERS: Final = frozenset({"limit", "torchvision_017", "versions"})


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return a table of the numbers that apply, without those of subsets; shares are fractions.

    Args:
        metrics: the content of `metrics.json`.
    """
    split = " ".join(shown(metrics[name]) for name in ("dataset", "split_by", "split") if metrics[name])
    title = f"{split}, protocol {metrics['protocol']}"
    rows = [
        f"| {name} | {value if isinstance(value, int) else format(value, '.4f')} |"
        for name, value in metrics.items()
        if isinstance(value, int | float) and name not in _NO_NUMBERS and not name.startswith("subset/")
    ]
    return "\n".join([f"| {title} | |", "|---|---|", *rows])
