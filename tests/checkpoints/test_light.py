"""Commands that look after checkpoints answer without importing PyTorch, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.checkpoints.resolve import resolve
from sspsam.hub import HubOptions, check_name
from tests.support.hub import FakeHub
from tests.support.published import NAME, UNC

HEAVY = ("torch", "torchvision", "open_clip", "segment_anything", "PIL")

_RUN = f"""
import json, sys
from sspsam.cli import main
try:
    main(sys.argv[1:], prog_name="sspsam")
    status = 0
except SystemExit as error:
    status = error.code
print()
print(json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def run(*arguments: object) -> tuple[int, str]:
    """Run a command; returns its exit status and output, and fails if it imported anything heavy."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    output, _, answer = done.stdout.rstrip("\n").rpartition("\n")
    status, heavy = json.loads(answer)
    assert heavy == [], f"sspsam {arguments} imported {heavy}"
    return status, output + done.stderr


@pytest.fixture
def cache(hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A cache with a published checkpoint that is ready."""
    hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes()})
    resolve(NAME, HubOptions(cache_dir=tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_published_checkpoint_is_listed_downloaded_verified_and_deleted(cache: Path) -> None:
    where = ("--cache-dir", cache)
    assert f"{NAME}\tready" in run("models", *where)[1]
    assert f"{NAME}\tready" in run("models", "--remote", *where)[1]
    status, output = run("download", NAME, *where)
    assert (status, UNC in output) == (0, True)
    status, output = run("verify", NAME, *where)
    assert (status, f"{NAME}\tgood\t" in output) == (0, True)
    status, output = run("cache", "--delete", NAME, *where)
    assert (status, output.count("deleted\t") >= 2) == (0, True)
    assert run("cache", "--delete", NAME, *where)[0] == 1
    assert run("verify", NAME, *where)[0] == 1


def test_the_bundled_model_is_listed_downloaded_and_verified() -> None:
    assert "shapes\tbundled" in run("models")[1]
    assert run("download", "shapes")[0] == 0
    assert run("verify", "shapes")[0] == 0
    assert run("cache", "--delete", "shapes")[0] == 1


def test_a_repository_is_downloaded_and_verified(hub: FakeHub, tiny_model: Path, tmp_path: Path) -> None:
    hub.add("owner/name", {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")})
    for command in ("download", "verify"):
        status, output = run(command, "owner/name", "--cache-dir", tmp_path)
        assert status == 0, output


def test_a_damaged_checkpoint_is_found(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    assert run("verify", tmp_path)[0] == 0
    text = (tmp_path / "model.safetensors").read_bytes().replace(b"ssp.fusion.bias", b"ssp.fusion.bits", 1)
    (tmp_path / "model.safetensors").write_bytes(text)
    status, output = run("verify", tmp_path)
    assert status == 1
    assert "1 missing (ssp.fusion.bias); 1 unexpected (ssp.fusion.bits)" in output


@pytest.mark.parametrize("command", [("download",), ("verify",), ("cache", "--delete")])
def test_an_unknown_name_is_answered(command: tuple[str, ...]) -> None:
    status, output = run(*command, "ssp-sam-336refcoco")
    assert (status, "Did you mean ssp-sam-224-grefcoco, ssp-sam-336-refcoco" in output) == (1, True)


@pytest.mark.parametrize(
    "command",
    [("segment", "x.png", "-t", "a cat"), ("batch", ".", "out", "-t", "a cat"), ("eval", "--dataset", "jsonl")],
)
def test_commands_that_compute_answer_an_unknown_name_before_they_load_anything(command: tuple[str, ...]) -> None:
    more = ("--data-root", ".", "--split", "val") if command[0] == "eval" else ()
    status, output = run(*command, *more, "--model", "ssp-sam-336refcoco")
    assert (status, "Did you mean ssp-sam-224-grefcoco, ssp-sam-336-refcoco" in output) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "--other"),
        ("download",),
        ("download", "a", "b"),
        ("verify",),
        ("cache", "--revision", "main"),
        ("cache", "--delete"),
        ("convert", "a.pth"),
        ("convert", "a.pth", "out", "--dtype", "int8"),
        ("segment", "x.png", "-t", "a cat"),
        ("nothing",),
    ],
    ids=" ".join,
)
def test_a_usage_error_is_answered(arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_help_is_answered() -> None:
    for command in ((), ("models",), ("download",), ("verify",), ("cache",), ("convert",)):
        assert run(*command, "--help")[0] == 0


def test_a_name_is_checked_as_resolve_does_and_without_a_network(hub: FakeHub, tiny_model: Path) -> None:
    for name in ("shapes", NAME, "owner/name", "owner/name:c.pth", tiny_model, str(tiny_model)):
        check_name(name)
    for name in (None, "", "nonsense", Path("shapes"), tiny_model.with_suffix(".pth")):
        with pytest.raises(FileNotFoundError) as caught:
            check_name(name)
        with pytest.raises(type(caught.value)) as expected:
            resolve(name)
        assert str(caught.value) == str(expected.value)
    assert not hub.requests
