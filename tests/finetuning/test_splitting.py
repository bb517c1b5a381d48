"""The lines that train and those that are held out."""

import shutil
from pathlib import Path

from sspsam.finetuning.splitting import split_by_image
from tests.support.finetuning import checked, with_lines, write_lines


def test_copies_of_an_image_are_on_the_same_side_of_the_split(tmp_path: Path) -> None:
    path = write_lines(tmp_path, images=8)
    for number in range(8):
        shutil.copy(tmp_path / f"{number}.png", tmp_path / f"copy-{number}.png")
        with_lines(path, {"image": f"copy-{number}.png", "text": "a lamp", "mask": None})
    train, held_out = split_by_image(checked(path).lines, 0.3, 0)
    assert {line.image for line in train}.isdisjoint({line.image for line in held_out})
    assert len(held_out) == 9
    assert len(train) == 15


def test_the_split_depends_on_the_seed_and_is_stable(tmp_path: Path) -> None:
    lines = checked(write_lines(tmp_path, images=12)).lines
    first, again, other = (split_by_image(lines, 0.25, seed)[1] for seed in (0, 0, 1))
    assert [line.where for line in first] == [line.where for line in again]
    assert [line.where for line in first] != [line.where for line in other]
