"""Metrics as a Markdown table."""

from collections.abc import Mapping
from typing import Any, Final

from sspsam.utils.paths import shown

_NOT_NUMBERS: Final = frozenset(
    {"dataset", "split", "split_by", "protocol", "limit", "model", "fingerprint", "dtype", "device", "versions"}
)


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return a title and a table of the numbers that apply; shares are fractions.

    Args:
        metrics: the content of `metrics.json`.
    """
    split = " ".join(shown(metrics[name]) for name in ("dataset", "split_by", "split") if metrics[name])
    title = f"{split}, protocol {metrics['protocol']}"
    rows = [
        f"| {name} | {value if isinstance(value, int) else format(value, '.4f')} |"
        for name, value in metrics.items()
        if name not in _NOT_NUMBERS and value is not None
    ]
    return "\n".join([f"| {title} | |", "|---|---|", *rows])
