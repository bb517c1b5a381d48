"""Files of a batch that claim too much, are damaged, or are no regular files, and a lack of memory."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from sspsam import errors
from sspsam.batch import BatchOptions, run_batch
from tests.support.batches import TEXT, lines, needs_links


@pytest.mark.parametrize(
    "claim",
    [
        {"height": 1 << 16, "width": 1 << 15, "mask": {"size": [1 << 16, 1 << 15], "counts": "PPPPPP2"}},
        {"mask": {"size": [1 << 16, 1 << 15], "counts": "PPPPPP2"}},
        {"mask": {"size": [60, 90], "counts": "oooooooooooo1"}},
        {"mask": {"size": [60, 90], "counts": "oo"}},
        {"mask": None},
        {"mask_box": [1, 2]},
        {"height": None},
        {"text": 5},
    ],
)
@pytest.mark.parametrize("kind", ["coco", "parquet"])
def test_a_line_that_claims_a_huge_mask_is_named_and_nothing_is_allocated(
    predictor, images, tmp_path, claim, kind
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install '.[ray]' to test Parquet")
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    first, second = lines(out / "results.jsonl")
    forged = [first, {**second, "mask_box": [0, 0, 9, 9], **claim}]
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in forged))
    with pytest.raises(errors.BatchError, match=r"line 2 of .*results.jsonl is damaged"):
        run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(formats=("mask", kind)))
    assert not list(out.glob("coco*")) + list(out.glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["job.json", "results.jsonl", "list.txt", "table.csv", "table.jsonl"])
def test_a_file_of_two_gigabytes_is_refused_before_it_fills_the_memory(predictor, images, tmp_path, name) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    huge = out / name if name.startswith(("job", "results")) else images / name
    os.truncate(huge, 2 << 30) if huge.exists() else huge.touch()
    os.truncate(huge, 2 << 30)
    source = images if huge.parent == out else huge
    with pytest.raises((errors.BatchError, errors.ManifestError), match=f"{name}.*(larger than|damaged)"):
        run_batch(source, out, TEXT, predictor=predictor)


def test_deep_json_is_damaged_and_no_traceback(predictor, images, tmp_path) -> None:
    deep = "[" * 200_000
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    (tmp_path / "out" / "job.json").write_text(deep)
    with pytest.raises(errors.BatchError, match=r"no batch|job.json is damaged"):
        run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    (images / "t.jsonl").write_text(deep)
    with pytest.raises(errors.ManifestError, match=r"t.jsonl, line 1 is not JSON"):
        run_batch(images / "t.jsonl", tmp_path / "other", TEXT, predictor=predictor)


@needs_links
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize(
    "name",
    ["job.json", "results.jsonl", "errors.jsonl", "coco.json", "list.txt", "table.csv", "t.jsonl", "prompts.txt"],
)
def test_what_is_no_regular_file_is_named_and_never_waited_for(
    predictor, images, tmp_path, name, kind, monkeypatch
) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    monkeypatch.chdir(out if (out / name).exists() or name == "coco.json" else tmp_path)
    path = Path(name)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(name)
    else:
        path.symlink_to("/dev/zero")
    is_input = path.suffix in (".txt", ".csv") or name == "t.jsonl"
    source = path.absolute() if is_input and name != "prompts.txt" else images
    prompts = path.absolute() if name == "prompts.txt" else None
    if kind == "folder" and name == "list.txt":
        return  # a folder is a valid input, whatever its name
    options = BatchOptions(formats=("mask", "coco") if name == "coco.json" else ("mask",))
    kinds = (errors.ManifestError,) if is_input else (errors.BatchError, errors.StorageError)
    with pytest.raises(kinds, match=name):
        run_batch(source, out, None if prompts else TEXT, predictor=predictor, prompts=prompts, options=options)


@needs_links
def test_a_pipe_called_job_in_a_subfolder_of_the_input_is_not_waited_for(predictor, images, tmp_path) -> None:
    os.mkfifo(images / "sub" / "job.json")
    assert run_batch(images, tmp_path / "out", TEXT, predictor=predictor).pictures == 2


def test_a_value_of_a_wrong_type_in_a_line_is_an_error_of_the_batch(predictor, images, tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="pip install '.[ray]' to test Parquet")
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    first, second = lines(out / "results.jsonl")
    (out / "results.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(second | {"score": "x"}) + "\n")
    with pytest.raises(errors.BatchError, match="wrong type"):
        run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(formats=("mask", "parquet")))


@pytest.mark.parametrize("depth", [300, 900, 960, 980, 990])
def test_a_deep_value_in_a_job_file_is_an_error_of_the_batch(predictor, images, tmp_path, depth) -> None:
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    path = tmp_path / "out" / "job.json"
    job = path.read_text().replace('"glob": null', f'"glob": {"[" * depth}{"]" * depth}')
    path.write_text(job)
    with pytest.raises(errors.BatchError):
        run_batch(images, tmp_path / "out", TEXT, predictor=predictor)


def test_an_expression_or_a_row_of_a_megabyte_makes_a_short_message(predictor, images, tmp_path) -> None:
    long = "x" * 1_000_000
    for name, content in (
        ("p.txt", long),
        ("p.csv", f"image,text\na.png,{long}\n"),
        ("c.csv", f"{long},text\na.png,x\n"),
        ("p.jsonl", json.dumps({"image": "a.png", "text": long})),
        ("q.jsonl", "{" + long),
        ("r.jsonl", json.dumps({"image": long})),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises((errors.ManifestError, errors.TextError)) as raised:
            run_batch(images, tmp_path / "out", predictor=predictor, prompts=tmp_path / name)
        assert len(str(raised.value)) < 1000, name


def test_a_lack_of_memory_while_an_image_is_written_is_an_error_of_this_image_alone(
    predictor, photos, tmp_path, monkeypatch
) -> None:
    from sspsam.segmentation import rle

    encode = rle.rle_encode
    calls = iter(range(1000))

    def failing_once(mask: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return encode(mask)

    monkeypatch.setattr("sspsam.segmentation.result.rle_encode", failing_once)
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert (summary.done, summary.failed) == (3, 2)
    errors_by_class = sorted(line["error"] for line in lines(tmp_path / "out" / "errors.jsonl"))
    assert errors_by_class == ["ImageError", "OutOfMemoryError"]
