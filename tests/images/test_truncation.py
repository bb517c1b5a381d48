"""Pillow's process-wide permission to fill up truncated files."""

import pytest
from PIL import ImageFile

from sspsam.images.truncation import TRUNCATED_FILES


@pytest.mark.parametrize("given", [False, True])
def test_the_permission_returns_after_the_last_of_several_decoders(monkeypatch, given: bool) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", given)
    first, second = TRUNCATED_FILES.withdrawn(), TRUNCATED_FILES.withdrawn()
    first.__enter__()
    second.__enter__()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    first.__exit__(None, None, None)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # the second one still decodes
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is given


def test_a_permission_that_the_program_gives_meanwhile_is_withdrawn_from_the_next_decoder(monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with TRUNCATED_FILES.withdrawn():
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        with TRUNCATED_FILES.withdrawn():
            assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert ImageFile.LOAD_TRUNCATED_IMAGES
