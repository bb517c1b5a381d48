"""docs/serving.md says what the server does."""

import dataclasses
import re
from pathlib import Path

from sspsam.serving.metrics import Metrics
from sspsam.serving.openapi import OPERATIONS
from sspsam.serving.options import ServeOptions
from sspsam.serving.refusals import STATUS_OF_ERRORS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_every_option_is_there_with_its_default() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows(TEXT) if cells[0].startswith("`--")}
    for field in dataclasses.fields(ServeOptions):
        if field.name == "token":
            continue
        flag = "--cors-origin" if field.name == "cors_origins" else f"--{field.name.replace('_', '-')}"
        value = documented[flag]
        if isinstance(field.default, int | float):
            assert float(value) == field.default, flag
        else:
            assert value.startswith(("none", "2 on a CPU, 64 elsewhere")), flag


def test_every_status_and_every_request_is_there() -> None:
    statuses = {cells[0]: cells[1] for cells in rows(TEXT) if cells[0].isdecimal()}
    documented = {int(status) for status in statuses}
    assert documented == {401, 405, 500}.union(*(operation.statuses for operation in OPERATIONS))
    for kind, status in STATUS_OF_ERRORS:
        assert kind.__name__ in statuses[str(status)]
    for operation in OPERATIONS:
        path = operation.path.replace("image_id", "id")
        assert f"`{operation.method} {path}`" in TEXT or path == "/docs"


def test_every_metric_is_there() -> None:
    text = Metrics(lambda: 0, lambda: 0, lambda: 0, lambda: 0).text().decode()
    names = {name for name in re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE) if not name.endswith("_created")}
    assert names == set(re.findall(r"`(sspsam_\w+)`", TEXT))
