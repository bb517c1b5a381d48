"""Batches that resume, or run as shards, with another name of the same model."""

import shutil
from pathlib import Path

import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from tests.support.batches import TEXTS, lines, tree


def test_a_moved_checkpoint_resumes_and_the_result_has_the_same_bytes(
    tiny_model, photos, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "m")
    run_batch(photos, "whole", TEXTS, predictor=SSPSAMPredictor.from_pretrained("m", device="cpu"))
    run_batch(photos, "out", TEXTS, predictor=SSPSAMPredictor.from_pretrained("m", device="cpu"))
    for number, name in enumerate(("./m", str(tmp_path / "m"), "moved")):
        if name == "moved":
            shutil.move("m", "moved")
        results = Path("out/results.jsonl")
        results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[: 2 * number]))
        other = SSPSAMPredictor.from_pretrained(name, device="cpu")
        summary = run_batch(photos, "out", TEXTS, predictor=other)
        assert summary.earlier == number
        assert tree(Path("out")) == tree(Path("whole"))


def test_shards_with_other_names_of_one_model_agree_and_another_model_is_refused(tiny_model, photos, tmp_path) -> None:
    first = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    shutil.copytree(tiny_model, tmp_path / "copy")
    second = SSPSAMPredictor.from_pretrained(tmp_path / "copy", device="cpu")
    out = tmp_path / "out"
    for number, predictor in ((1, first), (2, second)):
        run_batch(photos, out, TEXTS, predictor=predictor, options=BatchOptions(shard=Shard(number, 2)))
    named = {line["model"] for number in (1, 2) for line in lines(out / f"results.{number}-of-2.jsonl")}
    assert named == {first.origin}
    bundled = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    with pytest.raises(errors.BatchError, match="fingerprint was"):
        run_batch(photos, out, TEXTS, predictor=bundled, options=BatchOptions(shard=Shard(2, 2)))
