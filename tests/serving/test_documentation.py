"""docs/serving.md says what the server does."""

import ast
import dataclasses
import re
from pathlib import Path

from sspsam import serving
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
    documented = {int(status) for status, _ in documented_kinds()}
    assert documented == {401, 405, 500}.union(*(operation.statuses for operation in OPERATIONS))
    for operation in OPERATIONS:
        path = operation.path.replace("image_id", "id")
        assert f"`{operation.method} {path}`" in TEXT or path == "/docs"


def documented_kinds() -> set[tuple[str, str]]:
    """Status and kind of every error that the page lists."""
    return {
        (cells[0], kind) for cells in rows(TEXT) if cells[0].isdecimal() for kind in re.findall(r"`(\w+)`", cells[1])
    }


def raised_kinds() -> set[tuple[str, str]]:
    """Status and kind of every error in the code of the server."""
    found = {(str(status), kind.__name__) for kind, status in STATUS_OF_ERRORS}
    for path in Path(serving.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RefusalError":
                values = {keyword.arg: keyword.value for keyword in node.keywords}
                status, kind = values["status"], values["kind"]
                if isinstance(status, ast.Constant) and isinstance(kind, ast.Constant):
                    found.add((str(status.value), str(kind.value)))
    return found


def test_every_kind_of_error_is_there_with_its_status_and_no_other() -> None:
    of_routes = {("404", "NotFound"), ("405", "MethodNotAllowed")}  # answers to paths and methods that do not exist
    assert len(raised_kinds()) > 15
    assert documented_kinds() == raised_kinds() | of_routes


def test_every_metric_is_there() -> None:
    text = Metrics(lambda: 0, lambda: 0, lambda: 0, lambda: 0).text().decode()
    names = {name for name in re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE) if not name.endswith("_created")}
    assert names == set(re.findall(r"`(sspsam_\w+)`", TEXT))
