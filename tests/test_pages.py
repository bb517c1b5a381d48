"""The documentation is complete: links, files, options and public names, and the pages that Sphinx builds."""

import importlib
import inspect
import operator
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import sspsam
from sspsam import errors
from sspsam.cli import main
from sspsam.segmentation.answers import PredictOptions
from tests.support.pages import (
    CARD,
    OTHER_TEXTS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    commands,
    links,
    place_of,
    words,
)

TEXTS = PAGES | OTHER_TEXTS | {CARD: place_of(CARD).read_text()}
# of programs other than sspsam that the pages name
OTHER_OPTIONS = {
    "--corrupted",
    "--first-seed",
    "--repeat",
    "--processes",
    "--start",
    "--time",
    "--size",
    "--quick",
    "--stages",
    "--renderer",
    "--hard-negatives",
}
PUBLIC_MODULES = [
    "sspsam",
    *(f"sspsam.{name}" for name in ("segmentation", "images", "batch", "ray", "convert", "hub")),
]
PUBLIC_MODULES += ["sspsam.shapes", "sspsam.models"]


def options(command: str) -> set[str]:
    return {option for parameter in main.commands[command].params for option in parameter.opts} | {"--help", "-h"}


ALL_OPTIONS = {option for command in main.commands for option in options(command)} | {"--version"}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    for link in links(TEXTS[name]):
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        assert place_of(target).exists(), f"{name}: {link}"
        if anchor:
            assert anchor in set(anchors(place_of(target).read_text())), f"{name}: {link}"


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    for word in words(TEXTS[name]):
        if re.fullmatch(r"(sspsam|tests|docs|examples|benchmarks|training|\.ci)/[\w./-]*", word):
            assert place_of(word).exists(), f"{name}: {word}"


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])
def test_every_option_in_the_text_exists(name: str) -> None:
    for word in words(TEXTS[name]):
        if word.startswith("sspsam "):
            check_options(word)
        elif word.startswith("--"):
            assert word.partition(" ")[0].partition("=")[0] in ALL_OPTIONS | OTHER_OPTIONS, f"{name}: {word}"


def check_options(command: str) -> None:
    """Fail unless a command line of sspsam names a command and options that exist."""
    _, name, *rest = shlex.split(command.partition(" < ")[0], comments=True)
    if name.startswith("-"):
        assert name in ALL_OPTIONS, command
        return
    assert name in main.commands, command
    for word in rest:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in options(name), f"{word} in {command}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_options_that_exist(page: str) -> None:
    for command in commands(page):
        if command.startswith("sspsam "):
            check_options(command)


def test_every_module_that_is_run_has_the_options_that_are_named() -> None:
    found = [line for page in PAGES for line in commands(page) if line.startswith("python -m ")]
    found += [word for text in TEXTS.values() for word in words(text) if word.startswith("python -m ")]
    modules = set()
    for command in found:
        _, _, module, *rest = shlex.split(command)
        if module.partition(".")[0] in {"benchmarks", "training"}:
            modules.add(module)
            path = ROOT / module.replace(".", "/")
            source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
            for word in rest:
                assert not word.startswith("--") or f'"{word}"' in source, command
    assert {"benchmarks", "benchmarks.gpu", "training.train", "training.evaluate"} <= modules


def test_the_figures_of_the_readme_about_speed_are_those_of_the_page_about_speed() -> None:
    speed = PAGES["README.md"].partition("## Speed")[2].partition("\n## ")[0]
    figures = re.findall(r"\d+\.\d+|\d{2,}(?= ms)", speed)
    assert len(figures) >= 18
    assert [figure for figure in figures if figure not in PAGES["docs/speed.md"]] == []


def test_every_image_of_the_documentation_is_shown() -> None:
    text = "".join(TEXTS.values())
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if f"images/{path.name}" not in text] == []


def test_every_page_of_the_guides_has_one_title() -> None:
    for name, text in PAGES.items():
        outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", outside, flags=re.MULTILINE)) == 1, name


def parameters(function: Any) -> Iterator[str]:
    """Names of the parameters of a public function as a caller writes them."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from PredictOptions.__annotations__
        elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
            yield name


def test_the_table_of_the_reference_has_every_parameter() -> None:
    table = re.findall(r"^\| (`.*`) \|", PAGES["docs/reference/index.md"], flags=re.MULTILINE)
    calls = [match for row in table for match in re.findall(r"`([\w.]+)\(([^)]+)\)`", row)]
    assert len(calls) >= 10
    for name, arguments in calls:
        path = re.sub(r"^(predictor)?\.", "SSPSAMPredictor.", name).removeprefix("sspsam.")
        expected = list(parameters(operator.attrgetter(path)(sspsam)))
        named = [each for each in arguments.split(", ") if each != "*"]
        if named[-1] == "...":
            named, expected = named[:-1], expected[: len(named) - 1]  # the others are those of a row above
        assert sorted(named) == sorted(expected), name


class Page(HTMLParser):
    """Ids of a built page, links of its text, and everything that a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if "src" in values:
            self.loaded.append(values["src"])
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(values["href"])


def built_pages(source: Path) -> Path:
    """The documentation as HTML, built with warnings as errors from a copy in which the package is the tested one."""
    for folder in ("docs", "examples"):
        shutil.copytree(ROOT / folder, source / folder)
    for path in [*ROOT.glob("*.md"), ROOT / "NOTICE"]:
        shutil.copy(path, source)
    (source / "sspsam").symlink_to(place_of("sspsam"))
    out = source / "html"
    assert "python -m sphinx -W -n docs build/docs\n" in OTHER_TEXTS["CONTRIBUTING.md"]
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-d", str(source / "doctrees"), "docs", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_built_pages_are_whole_and_load_nothing_from_other_hosts(tmp_path: Path) -> None:
    built = built_pages(tmp_path)
    check_links(built)
    check_loaded_files(built)
    check_public_names(built)


def check_links(built: Path) -> None:
    pages = {path: Page(path) for path in built.rglob("*.html")}
    assert len(pages) > len(PAGES)
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


def check_loaded_files(built: Path) -> None:
    for path in built.rglob("*.html"):
        for link in Page(path).loaded:
            assert not urlsplit(link).netloc, f"{path.name}: {link}"
            assert (path.parent / urlsplit(link).path).exists(), f"{path.name}: {link}"
    for path in built.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path.name


def check_public_names(built: Path) -> None:
    ids = {name for path in (built / "reference").rglob("*.html") for name in Page(path).ids}
    for module in PUBLIC_MODULES:
        names = set(importlib.import_module(module).__all__) - {"__version__"}
        assert {name for name in names if not {f"{module}.{name}", f"sspsam.{name}"} & ids} == set(), module
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert {name for name in classes if f"sspsam.errors.{name}" not in ids} == set()
    assert {f"sspsam-{name}" for name in main.commands} <= ids


def test_every_block_has_a_language_that_the_tests_know() -> None:
    known = {
        "python",
        "bash",
        "console",
        "text",
        "json",
        "math",
        "bibtex",
        "yaml",
        "toml",
        "dockerfile",
        "http",
        "nginx",
    }
    for page in PAGES:
        for block in blocks(page):
            assert block.language in known or block.language.startswith("{"), f"{page}: {block.language}"
