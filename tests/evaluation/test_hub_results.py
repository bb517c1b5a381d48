"""`.eval_results/*.yaml` as the Hub reads it."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from sspsam.evaluation.hub_results import write_eval_results


def metrics(**changes: Any) -> dict[str, Any]:
    usual = {"dataset": "refcoco-m", "split": "validation", "protocol": "standard", "limit": None, "mIoU": 0.61234567}
    return {**usual, "n": 5598, "versions": {"sspsam": "1.0"}, **changes}


def test_the_entry_has_the_documented_keys(tmp_path: Path) -> None:
    path = write_eval_results(metrics(), tmp_path, date(2026, 1, 2))
    assert path == tmp_path / ".eval_results" / "refcoco-m.yaml"
    (entry,) = yaml.safe_load(path.read_text())
    assert entry["dataset"] == {"id": "moondream/refcoco-m", "task_id": "default"}
    assert entry["value"] == pytest.approx(61.2346, abs=1e-4)
    assert entry["date"] == "2026-01-02"
    assert "5598 expressions" in entry["notes"]
    assert entry.keys() == {"dataset", "value", "date", "notes"}


def test_the_library_of_the_hub_parses_it(tmp_path: Path) -> None:
    parse = pytest.importorskip("huggingface_hub", minversion="1.3").parse_eval_result_entries
    path = write_eval_results(metrics(), tmp_path, date(2026, 1, 2))
    assert path is not None
    (entry,) = parse(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.date) == ("moondream/refcoco-m", "default", "2026-01-02")


def test_the_date_of_an_unchanged_result_stays(tmp_path: Path) -> None:
    path = write_eval_results(metrics(), tmp_path, date(2026, 1, 2))
    assert path is not None
    first = path.read_bytes()
    write_eval_results(metrics(), tmp_path, date(2026, 3, 4))
    assert path.read_bytes() == first
    write_eval_results(metrics(mIoU=0.7), tmp_path, date(2026, 3, 4))
    assert b"2026-03-04" in path.read_bytes()


@pytest.mark.parametrize(
    "changes", [{"dataset": "jsonl"}, {"dataset": "pbench"}, {"limit": 5}, {"protocol": "official"}, {"mIoU": None}]
)
def test_other_runs_claim_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert write_eval_results(metrics(**changes), tmp_path, date(2026, 1, 2)) is None
    assert not list(tmp_path.iterdir())
