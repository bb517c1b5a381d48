"""Interrupted and repeated runs: nothing is lost or doubled, and no foreign file is changed."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sspsam import __version__, batch, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from tests.support.batches import TEXTS, draw, lines, tree
from tests.support.command import run_command


class Crash(BaseException):
    """Simulated death of the process, after which nothing more reaches the disk."""


class CrashingDisk:
    """Allows a number of writes, flushes and renames, interrupts the next in the middle, and refuses all later ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        for module, name in (
            (os, "write"),
            (os, "fsync"),
            (os, "replace"),
            (os, "unlink"),
            (os, "mkdir"),
            (os, "rmdir"),
        ):
            monkeypatch.setattr(module, name, self.wrapped(getattr(module, name)))
        monkeypatch.setattr(shutil, "rmtree", self.wrapped(shutil.rmtree))

    def wrapped(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if self.left == -1 and work.__name__ == "write":
                    work(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Crash
            return work(*arguments, **named)

        limited.__name__ = work.__name__
        return limited


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_run_resumed_after_a_crash_at_any_operation_writes_the_same_bytes(predictor, photos, tmp_path, step) -> None:
    options = BatchOptions(formats=("mask", "coco"))
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor, options=options)
    whole = tree(tmp_path / "whole")
    for allowed in count(0, step):
        out = tmp_path / f"crashed-{allowed}"
        with pytest.MonkeyPatch.context() as patch:
            CrashingDisk(patch, allowed)
            try:
                run_batch(photos, out, TEXTS, predictor=predictor, options=options)
                break
            except Crash:
                pass
        run_batch(photos, out, TEXTS, predictor=predictor, options=options)
        assert tree(out) == whole, f"after {allowed} operations"
    assert allowed > 60


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_crash_while_overwriting_leaves_no_files_of_the_earlier_run(predictor, photos, tmp_path, step) -> None:
    options = BatchOptions(formats=("mask", "overlay", "coco"))
    run_batch(photos, tmp_path / "whole", "the star", predictor=predictor)
    whole = tree(tmp_path / "whole")
    overwriting = BatchOptions(overwrite=True)
    for allowed in count(0, step):
        out = tmp_path / f"crashed-{allowed}"
        run_batch(photos, out, TEXTS, predictor=predictor, options=options)
        if allowed % 2:  # an image whose files were written, but not its lines
            results = out / "results.jsonl"
            results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:-2]))
        with pytest.MonkeyPatch.context() as patch:
            CrashingDisk(patch, 3 * allowed)
            try:
                run_batch(photos, out, "the star", predictor=predictor, options=overwriting)
                break
            except Crash:
                pass
        with suppress(errors.BatchError):  # refused or resumed, but never mixed
            run_batch(photos, out, "the star", predictor=predictor)
            assert tree(out) == whole
        run_batch(photos, out, "the star", predictor=predictor, options=overwriting)
        assert tree(out) == whole, f"after {3 * allowed} operations"
    assert allowed > 15


# job.json as sspsam 0.1.0 wrote it before its code was reorganised; half-finished batches with such files must resume
JOB_FILE = """\
{
 "batch_size": 1,
 "fingerprint": "FINGERPRINT",
 "formats": [
  "mask",
  "overlay"
 ],
 "glob": null,
 "input": null,
 "mask_threshold": 0.5,
 "max_pixels": 100000000,
 "model": "ORIGIN",
 "no_target_pixels": 50,
 "pictures": null,
 "precision": "float32 on cpu",
 "rounded_to": "float32",
 "shard": 1,
 "shards": 1,
 "sspsam": "VERSION",
 "texts": [
  "the red circle",
  "a dog"
 ],
 "version": 1
}
"""
RESULT_KEYS = [
    *("image", "number", "of", "files", "model", "fingerprint", "sspsam", "version", "text", "no_target"),
    *("foreground_pixels", "score", "box", "mask_box", "height", "width", "mask", "explanation"),
    "text_truncated",
    "presence",
]


def test_job_and_lines_keep_the_form_in_which_half_finished_batches_exist(predictor, photos, tmp_path) -> None:
    images = [photos / name for name in ("a.jpg", "bad.jpg", "b.png")]
    options = BatchOptions(formats=("mask", "overlay", "coco"))
    run_batch(images, tmp_path / "whole", TEXTS, predictor=predictor, options=options)
    assert [list(line) for line in lines(tmp_path / "whole" / "results.jsonl")] == [RESULT_KEYS] * 4
    assert [list(line) for line in lines(tmp_path / "whole" / "errors.jsonl")] == [["image", "error", "message"]]
    values = {"FINGERPRINT": predictor.fingerprint, "ORIGIN": predictor.origin, "VERSION": __version__}
    job_file = JOB_FILE
    for name, value in values.items():
        job_file = job_file.replace(name, value)
    assert (tmp_path / "whole" / "job.json").read_text() == job_file

    half = tmp_path / "half"
    half.mkdir()
    (half / "job.json").write_text(job_file)
    first_lines = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)[:2]
    (half / "results.jsonl").write_bytes(b"".join(first_lines))
    (half / "errors.jsonl").touch()
    summary = run_batch(images, half, TEXTS, predictor=predictor, options=options)
    assert (summary.earlier, summary.done, summary.failed) == (1, 1, 1)
    for name in ("job.json", "results.jsonl", "errors.jsonl", "coco.json"):
        assert (half / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_full_disk_stops_the_run_and_the_same_call_resumes_it(predictor, photos, tmp_path, monkeypatch) -> None:
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor)
    calls = count()
    real = os.fsync

    def full(descriptor: int) -> None:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.NoSpaceError, match="No space left"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    monkeypatch.undo()
    assert not any(path.name.startswith(".sspsam") for path in (tmp_path / "out").rglob("*"))
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_torn_last_line_is_dropped_and_a_damaged_line_in_the_middle_is_named(predictor, photos, tmp_path) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    whole, results = tree(tmp_path / "out"), tmp_path / "out" / "results.jsonl"
    content = results.read_bytes()
    for cut in (1, 200, len(content.splitlines()[-1]) + 1, len(content) - 5):
        results.write_bytes(content[:-cut])
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
        assert tree(tmp_path / "out") == whole
    results.write_bytes(content.replace(b'"b.png"', b'"b.pn', 1))
    with pytest.raises(errors.BatchError, match=r"line 3 of .*results.jsonl is damaged"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(overwrite=True))
    assert tree(tmp_path / "out") == whole


def test_other_options_are_refused_and_named_without_overwrite(predictor, photos, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(photos, out, [*TEXTS, "the star"], predictor=predictor)
    for texts, options, named in (
        (["the blue circle"], BatchOptions(), "texts was"),
        ([*TEXTS, "the star"], BatchOptions(formats=("overlay",)), "formats was"),
        ([*TEXTS, "the star"], BatchOptions(formats=("mask", "overlay")), "formats was"),
        ([*TEXTS, "the star"], BatchOptions(no_target_pixels=3), "no_target_pixels was 50, is 3"),
    ):
        with pytest.raises(errors.BatchError, match=named):
            run_batch(photos, out, texts, predictor=predictor, options=options)
    run_batch(photos, out, "the star", predictor=predictor, options=BatchOptions(overwrite=True))
    run_batch(photos, tmp_path / "other", "the star", predictor=predictor)
    assert tree(out) == tree(tmp_path / "other")


def test_second_run_is_refused_while_the_first_holds_the_lock(predictor, photos, tmp_path) -> None:
    job = {"version": 1, "sspsam": "0", "texts": "locked by a test"}
    with (
        batch.ledger.open_ledger(tmp_path / "out", Shard(), job, overwrite=False),
        pytest.raises(errors.BatchError, match="another run is writing to"),
    ):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    with batch.ledger.open_ledger(tmp_path / "out", Shard(), job, overwrite=False):
        pass  # the lock is released


def test_folder_with_foreign_files_is_not_changed(predictor, photos, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("my thesis")
    with pytest.raises(errors.BatchError, match=r"not empty and holds no batch \('thesis.tex'"):
        run_batch(photos, tmp_path / "mine", TEXTS, predictor=predictor)
    with pytest.raises(errors.ManifestError, match="is the input"):
        run_batch(photos, photos, TEXTS, predictor=predictor)
    for name, content in (("results.jsonl", "{}\n"), ("coco.json", "{}"), ("jobs.json", "{}"), ("job.json", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(errors.BatchError, match=f"holds no batch \\('{name}'"):
            run_batch(photos, tmp_path / name, TEXTS, predictor=predictor)
        assert tree(tmp_path / name) == {name: content.encode()}
    assert tree(tmp_path / "mine") == {"thesis.tex": b"my thesis"}


def command(photos: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "sspsam", "batch", str(photos), str(out), "--model", "shapes", "--device", "cpu"]
    return [*words, "-t", "the red circle", "-t", "all stars", "--format", "mask", "--format", "overlay"]


def run_and_kill(words: list[str], out: Path, chance: Random, lines_at: int, inside: bool) -> bool:
    """Kill a run after a number of lines, or while it writes a file after that; return whether it was cut short."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    results = out / "results.jsonl"
    try:
        while process.poll() is None:
            written = results.read_bytes().count(b"\n") if results.exists() else 0
            if written >= lines_at and (not inside or any(out.glob(".sspsam-tmp/*"))):
                time.sleep(0 if inside else chance.uniform(0, 0.02))
                break
            time.sleep(0.0005)
    finally:
        process.kill()
    return process.wait() != 0


def kill_and_resume(photos: Path, tmp_path: Path, kills: int) -> Iterator[bool]:
    whole = tmp_path / "whole"
    assert run_command(*command(photos, whole)[3:]).exit_code == 0
    expected = tree(whole)
    total = expected["results.jsonl"].count(b"\n")  # type: ignore[union-attr]
    chance = Random(7)
    for number in range(kills):
        out = tmp_path / "killed"
        shutil.rmtree(out, ignore_errors=True)
        was_cut = run_and_kill(command(photos, out), out, chance, chance.randrange(total), inside=number % 4 == 0)
        assert run_command(*command(photos, out)[3:]).exit_code == 0
        assert tree(out) == expected
        yield was_cut


KILLS_AND_IMAGES = [
    (2, 20),
    pytest.param(10, 60, marks=pytest.mark.slow),
    pytest.param(300, 60, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]),
]


@pytest.mark.parametrize(("kills", "images"), KILLS_AND_IMAGES)
def test_run_killed_anywhere_and_resumed_writes_the_same_bytes(tmp_path, kills, images) -> None:
    for seed in range(images):
        draw(tmp_path / "photos" / f"{seed % 7}" / f"{seed}.png", seed, (160, 200))
    cuts = list(kill_and_resume(tmp_path / "photos", tmp_path, kills))
    assert sum(cuts) >= 0.8 * kills
