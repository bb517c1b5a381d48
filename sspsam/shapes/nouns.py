"""Nouns of the shapes world: a kind, a colour and a size, each of them optional, and the noun phrases for them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sspsam.shapes.drawing import COLORS, Rng, Shape
from sspsam.shapes.outlines import OUTLINES
from sspsam.shapes.words import ANY_KIND, COLORED_TEMPLATES, NOUNS, SIZES


@dataclass(frozen=True)
class Noun:
    """A noun with its adjectives.

    Args:
        kind: a name of `OUTLINES`, or None for any kind.
        color: a name of `COLORS`, or None for any colour.
        size: `"small"`, `"large"`, or None for any size.
        word: the word for the kind, such as "disc".
        size_word: the word for the size, such as "tiny"; None without a size.
    """

    kind: str | None
    color: str | None
    size: str | None
    word: str
    size_word: str | None

    def matches(self, shape: Shape) -> bool:
        """Return True if the noun describes a shape."""
        return (
            (self.kind is None or shape.kind == self.kind)
            and (self.color is None or shape.color == self.color)
            and (self.size is None or shape.size == self.size)
        )

    def among(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the shapes that the noun describes."""
        return [shape for shape in shapes if self.matches(shape)]

    def say(self, plural: bool = False) -> str:
        """Return size, colour and noun as words, without an article."""
        noun = plural_of(self.word) if plural else self.word
        return " ".join(word for word in (self.size_word, self.color, noun) if word)


def plural_of(word: str) -> str:
    """Return the plural of a noun."""
    if word.endswith(("s", "x", "sh", "ch")):
        return word + "es"
    return word + "s"


def random_text(rng: Rng, texts: Sequence[str]) -> str:
    """Choose one of several texts."""
    return texts[int(rng.integers(len(texts)))]


def random_shape(rng: Rng, shapes: Sequence[Shape]) -> Shape:
    """Choose one of several shapes."""
    return shapes[int(rng.integers(len(shapes)))]


def new_noun(rng: Rng, kind: str | None, color: str | None = None, size: str | None = None) -> Noun:
    """Return a noun with random synonyms for its kind and its size.

    Args:
        rng: random numbers.
        kind: of the shapes that the noun describes; None: any.
        color, size: the same.
    """
    word = random_text(rng, NOUNS[kind] if kind else ANY_KIND)
    return Noun(kind, color, size, word, random_text(rng, SIZES[size]) if size else None)


def matching_noun(rng: Rng, shape: Shape, kind_optional: bool = True) -> Noun:
    """Return a noun for a shape: its kind, its colour, or both, and sometimes its size.

    Args:
        rng: random numbers.
        shape: the noun describes this shape.
        kind_optional: False: the noun nearly always names the kind.
    """
    choice = rng.random()
    if choice < 0.08:
        return new_noun(rng, shape.kind if choice < 0.06 else None, shape.color if choice > 0.04 else None, shape.size)
    if choice < 0.45:
        return new_noun(rng, shape.kind, shape.color)
    if choice < 0.8 or not kind_optional:
        return new_noun(rng, shape.kind)
    return new_noun(rng, None, shape.color)


def absent_noun(rng: Rng, shapes: Sequence[Shape], *, color: bool, kind: bool, size: bool = False) -> Noun:
    """Return a noun that describes none of the shapes.

    Most of its attributes come from shapes of the scene, which makes the absence harder to notice.

    Args:
        rng: random numbers.
        shapes: all shapes of the scene.
        color: name a colour.
        kind: name a kind.
        size: name a size.
    """
    for _ in range(30):
        noun = new_noun(
            rng,
            (random_shape(rng, shapes).kind if rng.random() < 0.6 else random_text(rng, list(OUTLINES)))
            if kind
            else None,
            (random_shape(rng, shapes).color if rng.random() < 0.6 else random_text(rng, list(COLORS)))
            if color
            else None,
            random_text(rng, ("small", "large")) if size else None,
        )
        if not noun.among(shapes):
            return noun
    present = {(shape.kind, shape.color) for shape in shapes}  # eight shapes cannot use all of the 80 pairs
    absent = [pair for pair in itertools.product(OUTLINES, COLORS) if pair not in present]
    return new_noun(rng, *absent[int(rng.integers(len(absent)))])


def noun_phrase(rng: Rng, noun: Noun, plural_likely: bool) -> str:
    """Return a noun with a random article or quantifier, as a complete expression."""
    if noun.color and not noun.kind and not noun.size and rng.random() < 0.25:
        return random_text(rng, COLORED_TEMPLATES).format(color=noun.color, one=noun.word, ones=plural_of(noun.word))
    if plural_likely and rng.random() < 0.7:
        templates = (
            "all {}",
            "the {}",
            "all the {}",
            "every one of the {}",
            "{}",
            "{}",
            "each of the {}",
            "any {}",
            "some {}",
        )
        return random_text(rng, templates).format(noun.say(plural=True))
    singular = noun.say()
    article = "an" if singular[0] in "aeiou" and not singular.startswith("one") else "a"
    templates = ("the {}", "the {}", "the {}", "{a} {}", "{a} {}", "{}", "{}", "any {}", "every {}")
    return random_text(rng, templates).format(singular, a=article)
