"""The form that all code of the project has: docstrings, sizes of files and functions, and no hidden writes."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import sspsam

ROOT = Path(__file__).parents[1]
FOLDERS = [Path(sspsam.__file__).parent, ROOT / "training", ROOT / "benchmarks"]
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))

MOST_LINES_OF_A_FILE = 400
MEDIAN_LINES_OF_A_FUNCTION = 10  # the median is below
QUESTION = re.compile(r"(What|Who|How|Where|Whether|Which)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the syntax trees of all files, with the name of its file."""
    for path in FILES:
        name = next(str(path.relative_to(folder.parent)) for folder in FOLDERS if path.is_relative_to(folder))
        for node in ast.walk(ast.parse(path.read_text())):
            yield name, node


def place(name: str, node: ast.AST) -> str:
    return f"{name}:{getattr(node, 'lineno', 1)}"


def test_all_folders_are_looked_at() -> None:
    assert all(any(path.is_relative_to(folder) for path in FILES) for folder in FOLDERS)


def test_every_module_has_a_docstring() -> None:
    assert [name for name, node in nodes() if isinstance(node, ast.Module) and not ast.get_docstring(node)] == []


def test_no_docstring_begins_with_a_question_word() -> None:
    documented = [(name, node, ast.get_docstring(node)) for name, node in nodes() if isinstance(node, Documented)]
    assert [place(name, node) for name, node, text in documented if text and QUESTION.match(text)] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_are_read_at_a_sitting(folder: Path) -> None:
    lengths = {str(path.relative_to(folder)): len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FILE} == {}


def test_half_of_the_functions_are_shorter_than_ten_lines() -> None:
    functions = [node for _, node in nodes() if isinstance(node, Function)]
    assert statistics.median(node.end_lineno - node.lineno + 1 for node in functions) < MEDIAN_LINES_OF_A_FUNCTION


def test_no_frozen_dataclass_is_written() -> None:
    assert [place(name, node) for name, node in nodes() if is_attribute(node, "object.__setattr__")] == []


def test_no_object_is_given_another_class() -> None:
    assert [
        place(name, node)
        for name, node in nodes()
        if isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store)
    ] == []


def is_attribute(node: ast.AST, dotted_name: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == dotted_name
