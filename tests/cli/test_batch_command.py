"""`sspsam batch`: options, wrong usage, exit statuses and messages."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import sspsam.batch
import sspsam.batch.ray
from sspsam.batch import BatchOptions, BatchSummary, Shard
from sspsam.batch.options import FORMATS
from sspsam.batch.ray import Cluster
from sspsam.batch.tables import TABLE_SUFFIXES
from sspsam.images.cache import EmbeddingCache
from tests.support.batches import draw
from tests.support.command import run_command

# arguments after the name of the command, and words that the message must contain: the flags as they are typed
WRONG_USAGE = [
    (["batch", "photos", "out", "-t", "x"], ["--model", "ssp-sam-224-grefcoco"]),
    (["batch", "photos", "out", "--model", "shapes"], ["-t", "--prompts"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "-t", " "], ["-t", "empty"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--prompts", "p.txt"], ["-t", "--prompts"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--shard", "3/2"], ["--shard", "3/2", "2/8"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--shard", "1"], ["--shard", "2/8"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--format", "tiff"], ["--format", "tiff", "overlay"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--mask-threshold", "1"], ["--mask-threshold", "1.0"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--max-errors", "-1"], ["--max-errors", "-1"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--ray-gpus", "1"], ["--ray-gpus", "--ray"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--ray-cpus", "0", "--ray"], ["--ray-cpus"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--cache-limit", "1"], ["--cache-limit", "--cache"]),
    (["batch", "photos", "out", "--model", "shapes", "-t", "x", "--device", "cpu", "--ray"], ["--device", "--ray"]),
    (["batch", "photos"], ["OUTPUT"]),
    (["segment", "a.jpg", "--model", "shapes"], ["-t"]),
    (["segment", "a.jpg", "-t", "x"], ["--model", "ssp-sam-224-grefcoco"]),
    (["segment", "a.jpg", "-t", "", "--model", "shapes"], ["-t", "empty"]),
    (["segment", "a.jpg", "-t", "x", "--model", "shapes", "--format", "overlay"], ["--format overlay", "-o"]),
    (["segment", "-t", "x", "--model", "shapes"], ["IMAGE"]),
    (["batch", "a", "b", "-t", "x", "--model", "shapes", "--glob", ""], ["--glob is empty"]),
    *(
        (["batch", "a", "b", "-t", "x", "--model", "shapes", flag, "9" * 20], [flag, "larger than"])
        for flag in ("--max-errors", "--batch-size", "--workers", "--no-target-pixels", "--max-pixels")
    ),
    (["segment", "data:image/png;base64,AAAA", "-t", "x", "--model", "shapes"], ["is a URL, not a file"]),
]


def test_wrong_usage_is_answered_without_torch_and_names_the_flags(tmp_path) -> None:
    code = f"""
        import json, sys
        from tests.support.command import run_command
        results = [run_command(*arguments) for arguments, _ in {WRONG_USAGE!r}]
        assert "torch" not in sys.modules
        print(json.dumps([[result.exit_code, result.stderr] for result in results]))
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{textwrap.dedent(code)}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (arguments, words), (status, message) in zip(WRONG_USAGE, json.loads(done.stdout), strict=True):
        assert status == 2, arguments
        assert all(word in message.rpartition("Error:")[2] for word in words), (arguments, message)
    assert not list(tmp_path.iterdir())


def test_command_knows_every_format_and_every_kind_of_table(tmp_path) -> None:
    message = run_command("batch", "photos", tmp_path / "out", "--format", "none").stderr
    assert message.rpartition("not one of ")[2].strip() == ", ".join(repr(name) for name in FORMATS) + "."
    for suffix in TABLE_SUFFIXES:  # a table needs no -t: it is read, and found to be missing
        done = run_command("batch", tmp_path / f"none{suffix}", tmp_path / "out", "--model", "shapes")
        assert (done.exit_code, "No such file" in done.stderr) == (1, True), done.stderr


SUMMARY = BatchSummary(pictures=0, done=0, earlier=0, failed=0, expressions=0, no_target=0, passed_over=0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Calls of `run_batch` and `run_batch_on_ray`, which are replaced by functions that do nothing."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def recorded(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> BatchSummary:
            calls.append((name, {"arguments": arguments, **named}))
            return SUMMARY

        return call

    monkeypatch.setattr(sspsam.batch, "run_batch", recorded("run_batch"))
    monkeypatch.setattr(sspsam.batch.ray, "run_batch_on_ray", recorded("run_batch_on_ray"))
    return calls


def test_defaults_of_the_command_are_those_of_the_library(calls, tiny_model, tmp_path) -> None:
    done = run_command("batch", "photos", tmp_path / "out", "--model", tiny_model, "-t", "the mug", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    [(name, call)] = calls
    assert (name, call["arguments"]) == ("run_batch", (Path("photos"), tmp_path / "out", ("the mug",)))
    assert (call["options"], call["prompts"], call["progress"]) == (BatchOptions(), None, True)
    assert call["predictor"].embedding_cache is None


def test_options_of_the_command_reach_the_library(calls, tiny_model, tmp_path) -> None:
    flags = {
        "--glob": "*.jpg",
        "--max-errors": 3,
        "--shard": "2/8",
        "--batch-size": 5,
        "--workers": 6,
        "--mask-threshold": 0.25,
        "--no-target-pixels": 7,
        "--min-area": 9,
        "--max-pixels": 8000,
        "--dtype": "bfloat16",
        "--cache": tmp_path / "cache",
        "--cache-limit": 1.5,
        "--cache-dtype": "float16",
        "--prompts": "p.txt",
        "--device": "cpu",
    }
    words = [word for flag in flags.items() for word in flag]
    formats = ["--format", "coco", "--format", "mask"]
    done = run_command(
        *(
            "batch",
            "photos",
            tmp_path / "out",
            "--model",
            tiny_model,
            "--overwrite",
            "--retry-errors",
            "--instances",
            "--coco-polygons",
        ),
        *words,
        *formats,
    )
    assert done.exit_code == 0, done.stderr
    [(name, call)] = calls
    assert (name, call["prompts"]) == ("run_batch", Path("p.txt"))
    assert call["options"] == BatchOptions(
        formats=("coco", "mask"),
        instances=True,
        min_area=9,
        coco_polygons=True,
        glob="*.jpg",
        shard=Shard(2, 8),
        overwrite=True,
        retry_errors=True,
        max_errors=3,
        batch_size=5,
        workers=6,
        mask_threshold=0.25,
        no_target_pixels=7,
        max_pixels=8000,
    )
    cache = call["predictor"].embedding_cache
    assert (cache.directory, cache.max_bytes, str(cache.dtype)) == (tmp_path / "cache", 1_500_000_000, "torch.float16")
    assert str(call["predictor"].dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("flags", "cluster"),
    [
        (["--ray"], Cluster()),
        (["--ray=auto", "--ray-actors", "3"], Cluster("auto", 3)),
        (["--ray", "--ray-cpus", "0.5", "--ray-gpus", "2"], Cluster(None, None, 0.5, 2.0)),
    ],
)
def test_ray_options_reach_the_library(calls, tmp_path, flags, cluster) -> None:
    model = ["--model", "shapes", "--revision", "main", "--cache-dir", tmp_path / "hub", "--cache", tmp_path / "cache"]
    done = run_command("batch", "photos", tmp_path / "out", "-t", "x", *model, *flags, "--fail-fast")
    assert done.exit_code == 0, done.stderr
    [(name, call)] = calls
    assert (name, call["model"], call["cluster"]) == ("run_batch_on_ray", "shapes", cluster)
    assert call["options"] == BatchOptions(max_errors=0)
    assert (call["revision"], call["cache_dir"], call["dtype"]) == ("main", tmp_path / "hub", None)
    assert isinstance(call["embedding_cache"], EmbeddingCache)


@pytest.mark.parametrize("flags", [["--device", "cpu"], ["--ray"]])
def test_labels_reach_the_library(calls, tiny_model, tmp_path, flags) -> None:
    words = ["batch", "photos", tmp_path / "out", "-t", "x", "-t", "y", "--model", tiny_model, *flags]
    for labels in ([], ["--label", "a", "--label", "b"]):
        assert run_command(*words, *labels).exit_code == 0
    assert [call["labels"] for _, call in calls] == [None, ("a", "b")]


def test_failed_images_make_the_exit_status_one_and_their_file_is_named(tiny_model, tmp_path) -> None:
    draw(tmp_path / "photos" / "a.png", 1)
    words = ["batch", tmp_path / "photos", tmp_path / "out", "--model", tiny_model, "-t", "x", "--device", "cpu"]
    done = run_command(*words)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1 of 1 images done" in done.stderr
    (tmp_path / "photos" / "bad.jpg").write_text("no image")
    done = run_command(*words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "1 of 2 images done, 1 of them in earlier runs, 1 failed" in done.stderr
    assert str(tmp_path / "out" / "errors.jsonl") in done.stderr
    done = run_command(*words, "--no-target-pixels", "3")
    assert done.exit_code == 1
    assert "--no-target-pixels was 50, is 3" in done.stderr
    assert "--overwrite" in done.stderr


def test_interrupted_command_says_how_to_resume(tiny_model, tmp_path, monkeypatch) -> None:
    def interrupted(*arguments: Any, **named: Any) -> BatchSummary:
        raise KeyboardInterrupt

    monkeypatch.setattr(sspsam.batch, "run_batch", interrupted)
    words = ["batch", "photos", tmp_path / "out", "--model", tiny_model, "-t", "x", "--device", "cpu"]
    done = run_command(*words)
    assert (done.exit_code, "the same command resumes" in done.stderr) == (130, True)
    done = run_command(*words, "--overwrite")
    assert (done.exit_code, "the same command without --overwrite resumes" in done.stderr) == (130, True)
