"""The expression of a shape of LabelMe or a region of Label Studio: its label, or its description.

Files that sspsam writes list their expressions, and a shape's label and description are both its expression. A person
who corrects such a file changes the label, and may leave a note in the description. Files of other origin may have a
class as the label and the expression as the description.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from sspsam.errors import DatasetError
from sspsam.utils.paths import shown_repr


@dataclass(frozen=True)
class ListedTexts:
    """The expressions that a file lists.

    Args:
        texts: in the order of the groups of shapes, which have the numbers from 1; empty: the file lists none.
    """

    texts: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.texts)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Keep the first of those that differ only by case and white space."""
        return cls(list({same_words(text): text for text in reversed(list(texts))}.values())[::-1])

    def listed(self, text: str) -> str | None:
        """Return the listed expression with the same words; None without one."""
        return next((listed for listed in self.texts if same_words(listed) == same_words(text)), None)

    def of_group(self, number: object) -> str | None:
        """Return the expression of a group of shapes; None without such a group."""
        is_number = isinstance(number, int) and not isinstance(number, bool) and 0 < number <= len(self.texts)
        return self.texts[number - 1] if is_number and isinstance(number, int) else None


@dataclass(frozen=True)
class Named:
    """A shape or a region as its file names it.

    Args:
        label: empty without one.
        description: of LabelMe, or the meta text of Label Studio; empty without one.
        original: the listed expression that it was written for; None: not known.
        place: file and shape, for errors.
    """

    label: str
    description: str
    original: str | None
    place: str

    def expression(self, texts: ListedTexts) -> str:
        """Return the expression.

        Args:
            texts: of the file.

        Raises:
            DatasetError: label and description are two of the listed expressions, and neither of them was changed for
                certain.
        """
        if not texts:
            return self.description if self.description.strip() else self.label
        of_label, of_description = texts.listed(self.label), texts.listed(self.description)
        if not self.label.strip() and of_description is not None:
            return of_description
        unclear = None not in (of_label, of_description) and of_label != of_description
        if unclear and self.original != of_description:
            raise DatasetError(
                f"{self.place} has the label {shown_repr(self.label)} and the description "
                f"{shown_repr(self.description)}, two expressions about this image: make them the same"
            )
        return of_label or self.label

    def was(self, texts: ListedTexts) -> str | None:
        """Return the listed expression that the label replaced by one that is not listed; None without one."""
        return texts.listed(self.description) if texts and texts.listed(self.label) is None else None


def same_words(text: str) -> str:
    """Return an expression without differences of case and white space."""
    return " ".join(text.lower().split())


def renamed(shapes: Iterable[Named], text: str, texts: ListedTexts) -> str:
    """Return the end of a message about a listed expression that no shape has, where the label of one was changed."""
    new = next((shape.label for shape in shapes if shape.was(texts) == text), None)
    if new is None:
        return ""
    return (
        f"; a shape of it has the label {shown_repr(new)} now: if that replaces the expression, take "
        f"{shown_repr(text)} out of 'texts' in this file, and out of the other lines"
    )
