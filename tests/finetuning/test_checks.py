"""Every problem of the lines is found before a step is taken."""

import json
from pathlib import Path

import pytest

from sspsam.errors import DatasetError, DatasetMissingError, FinetuningError, SSPSAMWarning
from tests.support.finetuning import checked, with_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SQUARE = [[5, 5, 25, 5, 25, 25, 5, 25]]


def test_all_problems_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    with_lines(
        path,
        "{not json",
        {"image": "broken.png", "text": "a", "rle": {"size": [48, 64], "counts": [0, 48 * 64]}},
        {"image": "gone.png", "text": "a", "polygons": SQUARE},
        {"image": "1.png", "text": "outside", "polygons": [[100, 100, 140, 100, 140, 140]]},
        {"image": "1.png", "text": "empty", "rle": {"size": [48, 64], "counts": [48 * 64]}},
        {"image": "1.png", "text": "the bright  SQUARE", "polygons": [[0, 40, 8, 40, 8, 48, 0, 48]]},
        {"image": "2.png", "text": "word " * 5000, "polygons": SQUARE},
    )
    data = checked(path)
    assert len(data.lines) == 12
    with pytest.raises(FinetuningError) as error:
        data.require_no_problems()
    message = str(error.value)
    assert message.startswith("7 lines have problems")
    for number, words in enumerate(
        ("not valid JSON", "broken.png", "gone.png", "outside of the image", "mask is empty", "has another mask in"), 13
    ):
        assert any(f"line {number}" in line and words in line for line in message.splitlines()), (
            number,
            words,
            message,
        )
    assert "--skip-problems" in message


def test_lines_that_contradict_themselves_and_folders_instead_of_images_are_problems(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    row = {"mask": None, "rle": None}  # of a table with a column for each kind
    path = with_lines(
        write_lines(tmp_path),
        {"image": "1.png", "text": "a", "polygons": SQUARE, "mask": None},
        {"image": "folder", "text": "a", "mask": None},
        {"image": "2.png", "text": "a", "polygons": SQUARE, **row},
    )
    contradiction, folder = checked(path).problems
    assert "line 13 has a mask, but 'mask' is null" in contradiction
    assert folder.endswith("folder, which is a folder, not an image")


def test_an_expression_that_is_too_long_is_named_once_with_its_line(tmp_path: Path) -> None:
    path = with_lines(tmp_path / "lines.jsonl", {"image": "1.png", "text": "a cup " * 40, "mask": None})
    write_lines(tmp_path / "images")
    (tmp_path / "images" / "1.png").rename(tmp_path / "1.png")
    with pytest.warns(SSPSAMWarning) as caught:
        assert len(checked(path).lines) == 1
    [warning] = [str(warning.message) for warning in caught if "not read" in str(warning.message)]
    assert warning.startswith(f"{path}, line 1: the expression that begins 'a cup a cup")


def test_replaced_lines_are_counted(tmp_path: Path) -> None:
    path, again = write_lines(tmp_path), tmp_path / "again.jsonl"
    assert checked(path).remarks == ()
    lines = path.read_text().splitlines()
    again.write_text("\n".join(lines[:3]) + '\n{"image": "1.png", "text": "a zebra", "mask": null}\n')
    data = checked(path, again)
    assert len(data.lines) == 13
    [remark] = data.remarks
    assert remark.startswith("3 lines of earlier files are replaced by those of later files")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"there is no file or folder .*linez\.jsonl$"):
        checked(tmp_path / "linez.jsonl")


def test_a_line_that_is_not_utf_8_is_named_and_hides_no_other_problem(tmp_path: Path) -> None:
    path = write_lines(tmp_path)
    with path.open("ab") as file:
        file.write('{"image": "3.png", "text": "das Männchen", "mask": null}\n'.encode("latin-1") + b"{\n")
    problems = checked(path).problems
    assert len(problems) == 2
    assert problems[0].endswith("lines.jsonl, line 13 is not UTF-8 text: save the file as UTF-8")
    assert "line 14 is not valid JSON" in problems[1]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\n\xff\n\xfe\n", '{"image": "a"}\n{}\n'.encode("utf-16")])
def test_a_file_that_is_no_text_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lines.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"lines\.jsonl is not UTF-8 text: a file of JSON lines is expected"):
        checked(tmp_path / "lines.jsonl")


def test_a_box_that_is_not_that_of_the_mask_is_a_problem(tmp_path: Path) -> None:
    path = write_lines(tmp_path)
    polygon = {"image": "3.png", "polygons": [[10, 10, 20, 10, 20, 20, 10, 20]]}
    boxes = {"fits": [9.5, 10, 20.5, 21], "elsewhere": [0, 0, 5, 5], "small": [10, 10, 13, 13], "empty": [9, 9, 9, 9]}
    boxes["as COCO"] = [10, 10, 3, 3]
    with_lines(path, *({**polygon, "text": name, "box": box} for name, box in boxes.items()))
    with_lines(path, {"image": "3.png", "text": "a hair", "polygons": [[10.4, 10, 10.6, 10, 10.6, 20, 10.4, 20]]})
    data = checked(path)
    assert len(data.lines) == 14
    *others, as_coco = data.problems
    assert "'box' must be x0, y0, x1, y1, not [10, 10, 3, 3]" in as_coco
    for problem, box in zip(others, ("0, 0, 5, 5", "10, 10, 13, 13", "9, 9, 9, 9"), strict=True):
        assert f"box {box} of 64 x 48 pixels is not that of the mask, 10, 10, 2" in problem


def test_repeated_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path)
    path.write_text(path.read_text() + path.read_text())
    data = checked(path)
    assert (len(data.lines), data.duplicates, data.problems) == (12, 12, [])


def test_a_line_of_a_later_file_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a")
    correction = tmp_path / "a" / "corrected.jsonl"
    correction.write_text(
        json.dumps({"image": "3.png", "text": "The bright square", "polygons": [[0, 0, 9, 0, 9, 9]]}) + "\n"
    )
    data = checked(path, correction)
    assert not data.problems
    [line] = [line for line in data.lines if line.entry.image.name == "3.png" and "square" in line.entry.text]
    assert line.entry.box == (0, 0, 9, 9)


def test_too_little_data_is_said_or_refused(tmp_path: Path) -> None:
    assert any("hardly worth it" in note for note in checked(write_lines(tmp_path / "few")).notes())
    with pytest.raises(FinetuningError, match="3 images are too few"):
        checked(write_lines(tmp_path / "fewer", images=3)).notes()
