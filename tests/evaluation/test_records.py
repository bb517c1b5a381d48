"""Records as JSON lines: nothing is lost, and damage names its line."""

import json
from pathlib import Path

import pytest

from sspsam.errors import EvaluationError
from sspsam.evaluation.records import Record, read_records, write_records

FULL = Record(4, False, True, 3, 10, 7, 1 / 3, 49, 0.1, False, "Bäume.jpg", "the \u2028 tree\n")


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [FULL, Record(5, True, True, 0, 0, 0)]
    write_records(records, tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == records
    assert (tmp_path / "records.jsonl").read_text("utf-8").count("\n") == 2


def test_the_union_follows_from_the_areas() -> None:
    assert FULL.union == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intersection": 8}, "intersection 8 of areas 10 and 7 cannot be"),
        ({"index": -1}, "index -1"),
        ({"no_target": 1}, "no_target is '1', which is no bool"),
        ({"target_area": 7.0}, "target_area is '7.0', which is no int"),
        ({"box_iou": "high"}, "box_iou is 'high', which is no float or NoneType"),
        ({"box_iou": float("nan")}, "box_iou is 'nan', which cannot be"),
        ({"presence": 7.0}, "presence is '7.0', which cannot be"),
        ({"predicted_area": 10**30}, "predicted_area is '1000000000000000000000000000000', which cannot be"),
        ({"features": {"margin": 10**400}}, "the feature 'margin' is '1000"),
    ],
)
def test_an_impossible_record_names_file_line_and_entry(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(FULL.to_json() + "\n" + json.dumps(json.loads(FULL.to_json()) | change) + "\n", "utf-8")
    with pytest.raises(EvaluationError) as caught:
        read_records(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"index": 0', "not valid JSON"),
        ("[]", "a JSON object, not list"),
        ('{"index": 0}', "lacks no_target, "),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(EvaluationError, match=f"line 1: .*{message}"):
        read_records(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(EvaluationError, match=r"records\.jsonl cannot be read: it is not UTF-8 text"):
        read_records(tmp_path / "records.jsonl")
