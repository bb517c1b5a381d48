"""Names of output files: readable, valid and distinct."""

import os
import unicodedata
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from sspsam.batch.naming import output_stems

PATHS = st.lists(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=90), min_size=1, max_size=3
    ).map("/".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(PATHS)
def test_names_never_collide_and_are_valid_on_every_file_system(images: list[str]) -> None:
    images = list(dict.fromkeys(os.path.normpath(image) for image in images if image.strip("./")))
    stems = output_stems(images)
    folded = {unicodedata.normalize("NFKC", stem.casefold()) for stem in stems}
    assert len(folded) == len(images)
    for stem in stems:
        parts = PurePosixPath(stem).parts
        assert not PurePosixPath(stem).is_absolute()
        assert ".." not in parts
        assert all(len(os.fsencode(f"{part}-100.overlay.png")) <= 255 for part in parts)
        assert not any(character in part for part in parts for character in '<>:"|?*\\\n')


def test_valid_names_are_kept() -> None:
    assert output_stems(["a.jpg", "a.png", "sub/a.jpg", "Ünï cödé (1).jpg"]) == [
        *("a.jpg", "a.png", "sub/a.jpg", "Ünï cödé (1).jpg")
    ]
    first, second = output_stems(["A.jpg", "a.jpg"])
    assert first.startswith("A.jpg~")
    assert second.startswith("a.jpg~")
    assert output_stems(["../x.jpg"])[0].startswith("_/x.jpg~")
    [composed, decomposed] = output_stems(["é.jpg", "e\u0301.jpg"])
    assert composed[-12:] != decomposed[-12:]
