"""Nouns of the shapes world: a colour, a kind and a size, each or none of them, and how they are said."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sspsam.shapes.drawing import COLORS, OUTLINES, Rng, Shape
from sspsam.shapes.words import ANY, COLORED, NOUNS, SIZES


@dataclass(frozen=True)
class Noun:
    """A colour, a kind and a size, each or none of them; and the word for it."""

    kind: str | None
    color: str | None
    size: str | None
    word: str
    size_word: str | None

    def matches(self, shape: Shape) -> bool:
        """Whether it can be said of a shape."""
        return (
            (self.kind is None or shape.kind == self.kind)
            and (self.color is None or shape.color == self.color)
            and (self.size is None or shape.size == self.size)
        )

    def among(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes of which it can be said."""
        return [shape for shape in shapes if self.matches(shape)]

    def say(self, plural: bool = False) -> str:
        """Its words, without an article."""
        noun = plural_of(self.word) if plural else self.word
        return " ".join(word for word in (self.size_word, self.color, noun) if word)


def plural_of(word: str) -> str:
    """A noun in the plural."""
    if word.endswith(("s", "x", "sh", "ch")):
        return word + "es"
    return word + "s"


def pick(rng: Rng, items: Sequence[str]) -> str:
    """One of several texts."""
    return items[int(rng.integers(len(items)))]


def one_of(rng: Rng, shapes: Sequence[Shape]) -> Shape:
    """One of several shapes."""
    return shapes[int(rng.integers(len(shapes)))]


def new_noun(rng: Rng, kind: str | None, color: str | None = None, size: str | None = None) -> Noun:
    """A noun with any of its words."""
    word = pick(rng, NOUNS[kind] if kind else ANY)
    return Noun(kind, color, size, word, pick(rng, SIZES[size]) if size else None)


def noun_of(rng: Rng, shape: Shape, any_too: bool = True) -> Noun:
    """A noun that matches a shape: its kind, its colour, or both, now and then its size."""
    choice = rng.random()
    if choice < 0.08:
        return new_noun(rng, shape.kind if choice < 0.06 else None, shape.color if choice > 0.04 else None, shape.size)
    if choice < 0.45:
        return new_noun(rng, shape.kind, shape.color)
    if choice < 0.8 or not any_too:
        return new_noun(rng, shape.kind)
    return new_noun(rng, None, shape.color)


def wrong_noun(rng: Rng, shapes: Sequence[Shape], *, color: bool, kind: bool, size: bool = False) -> Noun:
    """A noun of which there is none, made of what there is where that is possible: the hard ones."""
    for _ in range(30):
        noun = new_noun(
            rng,
            (one_of(rng, shapes).kind if rng.random() < 0.6 else pick(rng, list(OUTLINES))) if kind else None,
            (one_of(rng, shapes).color if rng.random() < 0.6 else pick(rng, list(COLORS))) if color else None,
            pick(rng, ("small", "large")) if size else None,
        )
        if not noun.among(shapes):
            return noun
    there = {(shape.kind, shape.color) for shape in shapes}  # of 80: some are always left
    absent = [pair for pair in itertools.product(OUTLINES, COLORS) if pair not in there]
    return new_noun(rng, *absent[int(rng.integers(len(absent)))])


def definite(rng: Rng, noun: Noun, many: bool) -> str:
    """A noun as it stands alone, with one of the articles and quantifiers."""
    if noun.color and not noun.kind and not noun.size and rng.random() < 0.25:
        return pick(rng, COLORED).format(color=noun.color, one=noun.word, ones=plural_of(noun.word))
    if many and rng.random() < 0.7:
        ways = (
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
        return pick(rng, ways).format(noun.say(plural=True))
    singular = noun.say()
    article = "an" if singular[0] in "aeiou" and not singular.startswith("one") else "a"
    return pick(rng, ("the {}", "the {}", "the {}", "{a} {}", "{a} {}", "{}", "{}", "any {}", "every {}")).format(
        singular, a=article
    )
