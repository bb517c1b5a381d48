"""Expressions that stay true in a mirrored image and in a crop.

The rules are about English words. An expression that a rule doubts is not used, since a wrong example costs more than a
missing one: "the lighter" may be a thing, and "player 10" may be written on a shirt.
"""

import re
from typing import Final

_COUNTED: Final = """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand dozen couple pair half quarter zero
"""
_ORDERED: Final = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
    last final next previous
"""
# words that a mirrored image contradicts: sides, turns, the order in a row, and writing
_MIRRORED: Final = """
    left right leftmost rightmost lefthand righthand leftward leftwards rightward rightwards west east western eastern
    clockwise counterclockwise anticlockwise start end clock oclock
    letter letters lettering word words text number numbers numbered numeral numerals digit digits say says saying said
    read reads written write writes writing reading logo label labels labeled labelled sign signs mark marked marking
    printed print inscribed inscription caption captioned named name names called title titled titles spelled spelling
    spells initial initials brand branded slogan engraved stamped tagged
"""
# words about the whole image or about other things in it, which a crop may lack
_CROPPED: Final = """
    left right leftmost rightmost top bottom upper lower middle center centre central corner edge side sides up down
    above below under underneath over beneath beside between behind front rear back background foreground near nearby
    nearest close far afar away against beyond opposite adjacent outside inside around among amongst amid across ahead
    along start end west east north south western eastern northern southern clock oclock
    only alone single sole other others another else except but besides than as more less fewer same different similar
    both several few many most least all every each any either neither much no none
    better worse further farther elder lesser inner outer latter former
"""
# with the ending -er, comparatives; that many nouns have the ending too forbids to go by it alone
_ADJECTIVES: Final = """
    big large great huge small little tiny tall short long wide broad narrow thick thin fat slim skinny heavy light high
    low deep shallow near far close old young new early late dark bright pale dim dull shiny glossy clear cloudy clean
    dirty dusty muddy messy tidy neat full empty fast quick slow hot cold warm cool wet dry damp hard soft firm rough
    smooth sharp blunt strong weak tough rich poor loud quiet calm flat steep straight curvy round square plump chubby
    stout lean bulky tight loose dense sparse fresh ripe stale sweet sour bitter happy sad angry pretty ugly cute fancy
    plain simple fine coarse hairy furry fluffy fuzzy curly wavy bald red blue green yellow white black brown grey gray
    pink purple orange golden rusty sandy rocky leafy grassy spicy salty tasty creamy crispy busy lazy sleepy friendly
    lovely nice safe free
"""
_SUPERLATIVE: Final = re.compile(r"\w{2,}(est|most)")
_QUOTED: Final = re.compile(r"[\"\u201c\u201d\u201e\u00ab\u00bb`]|(?<!\w)['\u2018\u2019].*\w['\u2019](?!\w)")
_CAPITALS: Final = re.compile(r"\b(?!(?:A|I)\b)[A-Z]+\b")  # "B", "EXIT"


def stays_true_mirrored(text: str) -> bool:
    """Return whether an expression says nothing about left and right, turns, the order in a row, or writing."""
    words = set(_words(text))
    doubtful = set(_words(_MIRRORED)) | set(_words(_ORDERED))
    return not (words & doubtful or _has_digit(text) or _QUOTED.search(text) or _CAPITALS.search(text))


def stays_true_cropped(text: str) -> bool:
    """Return whether an expression says nothing about places, numbers, comparisons or other things in the image."""
    words = _words(text)
    doubtful = {word for part in (_CROPPED, _COUNTED, _ORDERED) for word in _words(part)}
    return not (doubtful & set(words) or _has_digit(text) or any(_compares(word) for word in words))


def _has_digit(text: str) -> bool:
    return any(character.isnumeric() for character in text)


def _compares(word: str) -> bool:
    """Return whether a word is a superlative or the comparative of a common adjective."""
    if _SUPERLATIVE.fullmatch(word):
        return True
    if not word.endswith("er"):
        return False
    stem = word[:-2]
    stems = {stem, stem + "e", stem[:-1] + "y" if stem.endswith("i") else stem}  # taller, larger, dirtier
    if stem[-1:] == stem[-2:-1]:  # bigger
        stems.add(stem[:-1])
    return not stems.isdisjoint(_words(_ADJECTIVES))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("o'clock", "oclock"))
