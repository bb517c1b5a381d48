"""Environment variables that turn a part of the program off."""

import warnings

import pytest

from sspsam.errors import SSPSAMWarning
from sspsam.utils.switches import switched_on


@pytest.mark.parametrize("value", ["0", " 0 ", "false", "False", "OFF", "no"])
def test_the_usual_spellings_turn_a_switch_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPSAM_TEST", value)
    assert not switched_on("SSPSAM_TEST")


@pytest.mark.parametrize("value", [None, "", " ", "1", "true", "ON", "yes"])
def test_a_switch_is_on_without_a_word(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("SSPSAM_TEST", raising=False)
    else:
        monkeypatch.setenv("SSPSAM_TEST", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert switched_on("SSPSAM_TEST")


@pytest.mark.parametrize("value", ["00", "never", "of"])
def test_any_other_value_is_named_in_a_warning(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSPSAM_TEST", value)
    with pytest.warns(SSPSAMWarning, match=f"SSPSAM_TEST={value} is neither 0 nor 1: it counts as 1"):
        assert switched_on("SSPSAM_TEST")
