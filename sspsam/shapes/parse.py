"""How an expression of the shapes world is built."""

from dataclasses import dataclass
from typing import Final

from sspsam.shapes.nouns import Noun

OPERATIONS: Final = (
    *("all", "exactly", "except", "foreign", "largest", "smallest"),
    *("leftmost", "rightmost", "topmost", "lowest", "middle"),
    *("top left", "top right", "bottom left", "bottom right"),
    *("left of", "right of", "above", "below", "next to"),
)


@dataclass(frozen=True)
class Parse:
    """How an expression is built.

    Args:
        operation: what it does with the things that its noun fits, one of `OPERATIONS`.
        noun: what it asks for; None where that is of the wide world.
        landmark: what it mentions beside that, as that from which a relation is seen or that which is left out.
        number: how many it speaks of, where it says so.
    """

    operation: str
    noun: Noun | None
    landmark: Noun | None = None
    number: int | None = None
