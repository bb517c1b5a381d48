"""Checks of arguments: numbers and truth values of any type."""

import numpy as np
import pytest

from sspsam.utils.arguments import LARGEST, true_or_false, whole_number


def test_numbers_of_numpy_become_those_of_python() -> None:
    assert whole_number("count", np.int8(3), 1) == 3
    assert type(whole_number("count", np.int64(3), 1)) is int
    assert true_or_false("flag", np.bool_(True)) is True
    assert true_or_false("flag", False) is False


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "1 or more, not 0"), (True, "1 or more, not True"), (2.0, "1 or more"), (LARGEST + 1, f"at most {LARGEST:,}")],
)
def test_numbers_out_of_range_are_named_with_the_limit(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"^count must be a whole number, {words}"):
        whole_number("count", value, 1)


@pytest.mark.parametrize("value", ["no", 0, None, np.array([True, False]).astype(int)])
def test_what_only_counts_as_true_or_false_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="flag must be True or False"):
        true_or_false("flag", value)
