"""Fixtures that the tests of exports share."""

from typing import Any

import pytest

from tests.support.answers import answer
from tests.support.masks import Mask, drawn_masks, odd_masks


@pytest.fixture(scope="module", params=[20, pytest.param(200, marks=pytest.mark.slow)])
def masks(request: pytest.FixtureRequest) -> dict[str, Mask]:
    """Drawn masks and 50 odd masks, by names of images."""
    drawn = {f"drawn/{number}.jpg": mask for number, mask in enumerate(drawn_masks()[: request.param])}
    return {**drawn, **{f"odd/{name}.png": mask for name, mask in odd_masks().items()}}


@pytest.fixture(scope="module")
def images(masks: dict[str, Mask]) -> dict[str, Any]:
    return {name: answer(mask) for name, mask in masks.items()}
