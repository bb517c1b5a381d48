"""Expressions that stay true in a mirrored image and in a crop."""

import pytest

from sspsam.finetuning.view_words import stays_true_cropped, stays_true_mirrored


@pytest.mark.parametrize(
    "text",
    [
        *("the cup on the left", "Leftmost dog", "left-hand drawer", "turn clockwise", "the cup at 3 o'clock"),
        *("the 2nd bottle", "the second bottle", "fourth from the door", "player 10", "the bottle marked 7"),
        *("the letter B", "the B key", 'the sign "stop"', "the \u201cstop\u201d button", "the bottle marked 'sale'"),
        *("the EXIT door", "the bottle labelled acid", "the shirt that says hello", "the man named Bob", "box \u2466"),
    ],
)
def test_expressions_about_sides_and_writing_are_not_mirrored(text: str) -> None:
    assert not stays_true_mirrored(text)


@pytest.mark.parametrize(
    "text",
    [
        *("the largest cup", "two dogs", "the cup next to the plate", "the man in the middle", "the nearby tree"),
        *("the 2nd bottle", "the 3 bottles", "player 10", "the bottle marked 7", "twelve eggs", "a pair of shoes"),
        *("the bigger circle", "the taller man", "the farther car", "the dirtier plate", "the larger of them"),
        *("the further door", "the paler wall", "the man as tall as the door", "the better view", "the fifth wheel"),
        *("another cup", "every cup", "the tree in the background", "the cup in front", "the drier towel"),
    ],
)
def test_expressions_about_places_numbers_and_comparisons_are_not_cropped(text: str) -> None:
    assert not stays_true_cropped(text)


@pytest.mark.parametrize(
    "text",
    [
        *("the red cup", "A woman's bag", "a computer", "the water", "the flower that I like", "a tiger", "the player"),
        *("the man with the hat", "the burger", "a zipper", "the dogs' owner", "the brown crescent"),
    ],
)
def test_plain_descriptions_have_both_views(text: str) -> None:
    assert stays_true_mirrored(text)
    assert stays_true_cropped(text)
