"""The structure of an expression of the shapes world."""

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
    """The structure of an expression.

    Args:
        operation: selects targets among the shapes that the noun describes; one of `OPERATIONS`.
        noun: describes the candidates; None if the expression names an object that the shapes world lacks.
        landmark: the second noun: the reference of a relation, or the shapes that an exclusion leaves out.
        number: the number of shapes that the expression names, if it names one.
    """

    operation: str
    noun: Noun | None
    landmark: Noun | None = None
    number: int | None = None
