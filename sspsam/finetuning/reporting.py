"""Lines for the user while a training runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sspsam.finetuning.board import Board

Message = Callable[[str], None]


@dataclass(frozen=True)
class Reporter:
    """Shows the lines of the log.

    Args:
        say: shows a line.
        board: gets every line; None: nothing does.
    """

    say: Message
    board: Board | None

    def __call__(self, line: dict[str, Any]) -> None:
        """Show a line of the log."""
        if self.board is not None:
            self.board.write(line)
        if "score" in line:
            self.say(f"step {line['step']:,}: {described({k: v for k, v in line.items() if isinstance(v, dict)})}")
        elif line["step"] % 50 == 0:
            losses = ", ".join(f"{name} {line[name]:.3f}" for name in ("dice", "focal", "l1", "giou"))
            self.say(f"step {line['step']:,} of {line['steps']:,}: loss {line['loss']:.3f} ({losses})")


def described(metrics: dict[str, dict[str, Any]]) -> str:
    """Return the most important numbers of each part in one line."""
    parts = []
    for name, numbers in metrics.items():
        shown_numbers = [f"{key} {numbers[key]:.3f}" for key in ("mIoU", "N-acc") if numbers.get(key) is not None]
        parts.append(f"{name.replace('_', ' ')} {', '.join(shown_numbers)}")
    return "; ".join(parts)
