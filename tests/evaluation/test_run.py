"""Runs of an evaluation: what is encoded, what a resumed run and shards give, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam import SSPSAMPredictor
from sspsam.errors import DatasetMissingError, EvaluationError
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.records import read_records
from sspsam.evaluation.run import Evaluation, run_evaluation
from sspsam.images.encoder import ImageEncoder
from tests.support.datasets import DATASETS
from tests.support.evaluated import write_scenes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def predictor() -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained("shapes", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), scenes=5, questions=2)


def job(data: Path, **others: Any) -> EvaluationJob:
    return EvaluationJob("jsonl", "val", data, **others)


@pytest.fixture(scope="module")
def whole(predictor: SSPSAMPredictor, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_evaluation(job(data), predictor=predictor, output=folder)
    return folder


def predictions(folder: Path, data: Path) -> Path:
    """The truth, shifted by two columns, as predictions."""
    lines = [json.loads(line) for line in (data / "val.jsonl").read_text().splitlines()]
    for line, entry in zip(lines, read_dataset("jsonl", "val", data_root=data), strict=True):
        shifted = np.roll(entry.mask(), 2, axis=1)
        np.save(folder / f"{entry.key}.npy", shifted)
        del line["rle"]
        line["mask"] = f"{entry.key}.npy" if shifted.any() else None
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_records_are_the_predictors_own_answers(predictor: SSPSAMPredictor, data: Path, whole: Path) -> None:
    entries, records = read_dataset("jsonl", "val", data_root=data), read_records(whole / "records.jsonl")
    assert [record.index for record in records] == list(range(len(entries)))
    for entry, record in zip(entries, records, strict=True):
        answer, truth = predictor.predict(entry.text, image=entry.image), entry.mask()
        assert (record.text, record.image, record.no_target) == (entry.text, entry.image.name, not truth.any())
        assert (record.predicted_no_target, record.foreground_pixels) == (answer.no_target, answer.foreground_pixels)
        if not answer.no_target:
            assert record.predicted_area == answer.mask.sum()
            assert record.intersection == (answer.mask & truth).sum()
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["fingerprint"] == predictor.fingerprint
    assert metrics["mIoU"] > 0.5  # the model was trained on such scenes
    assert compute_metrics(records).items() <= metrics.items()


def test_the_expressions_about_an_image_cost_one_encode(
    predictor: SSPSAMPredictor, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = ImageEncoder.encode
    monkeypatch.setattr(
        ImageEncoder, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images)
    )
    evaluation = run_evaluation(job(data), predictor=predictor)
    assert (sum(encoded), len(evaluation.records)) == (5, 10)


@pytest.mark.parametrize(("kept", "torn"), [(0, 1), (3, 40), (8, 0), (9, 1), (10, 0)])
def test_a_killed_run_resumes_to_the_same_bytes(
    predictor: SSPSAMPredictor, data: Path, whole: Path, kept: int, torn: int, tmp_path: Path
) -> None:
    lines = (whole / "records.jsonl").read_bytes().splitlines(keepends=True)
    by_image = sorted(lines, key=lambda line: int(json.loads(line)["image"].removesuffix(".png")))  # order of work
    (tmp_path / "records.jsonl").write_bytes(b"".join(by_image[:kept]) + b"".join(by_image[kept:])[:torn])
    (tmp_path / "evaluation.json").write_bytes((whole / "evaluation.json").read_bytes())
    run_evaluation(job(data), predictor=predictor, output=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_an_interrupted_run_leaves_the_records_of_the_images_before(
    predictor: SSPSAMPredictor, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = predictor.predict_batch

    def interrupted(*arguments: Any, **options: Any) -> Any:
        results = answer(*arguments, **options)
        yield next(results)
        yield next(results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(job(data), predictor=predictor, output=tmp_path)
    assert [record.image for record in read_records(tmp_path / "records.jsonl")] == ["0.png"] * 2 + ["1.png"] * 2
    assert not (tmp_path / "metrics.json").exists()
    run_evaluation(job(data), predictor=predictor, output=tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


def test_a_complete_run_is_not_computed_again_and_other_settings_are_refused(
    predictor: SSPSAMPredictor, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = run_evaluation(job(data), predictor=predictor, output=tmp_path)
    monkeypatch.setattr(ImageEncoder, "encode", None)
    assert run_evaluation(job(data), predictor=predictor, output=tmp_path).metrics == first.metrics
    rela = run_evaluation(job(data, protocol="rela"), predictor=predictor, output=tmp_path).metrics
    assert rela is not None
    assert compute_metrics(first.records, "rela").items() <= rela.items()
    with pytest.raises(EvaluationError, match="limit was None, is 2"):
        run_evaluation(job(data, limit=2), predictor=predictor, output=tmp_path)
    with pytest.raises(EvaluationError, match="grid was image, is frame"):
        run_evaluation(job(data, protocol="official"), predictor=predictor, output=tmp_path)


def test_records_are_not_resumed_with_other_annotations(data: Path, tmp_path: Path) -> None:
    source, output = predictions(tmp_path, data), tmp_path / "new"
    run_evaluation(job(data), predictions=source, output=output)
    lines = [json.loads(line) for line in (data / "val.jsonl").read_text().splitlines()]
    corrected = next(line for line in lines if line["rle"] is not None)
    root = tmp_path / "corrected"
    root.mkdir()
    corrected["rle"] = None
    (root / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = EvaluationJob("jsonl", "val", root, image_root=data)
    with pytest.raises(EvaluationError, match="had other settings: annotations was"):
        run_evaluation(again, predictions=source, output=output)
    settings = json.loads((output / "evaluation.json").read_text())
    del settings["annotations"]  # as earlier versions wrote them
    (output / "evaluation.json").write_text(json.dumps(settings))
    assert len(run_evaluation(job(data), predictions=source, output=output).records) == len(lines)


def test_a_shard_with_other_settings_is_refused_before_it_begins(data: Path, tmp_path: Path) -> None:
    source, output = predictions(tmp_path, data), tmp_path / "shards"
    run_evaluation(job(data, shard=(1, 2)), predictions=source, output=output)
    other = tmp_path / "other.jsonl"
    other.write_text(source.read_text() + "\n")
    with pytest.raises(EvaluationError, match=r"the run of evaluation\.1-of-2\.json had other settings: predictions"):
        run_evaluation(job(data, shard=(2, 2)), predictions=other, output=output)
    merged = run_evaluation(job(data, shard=(2, 2)), predictions=source, output=output)
    assert merged.missing_shards == ()


def test_a_damaged_line_in_the_middle_is_named(
    predictor: SSPSAMPredictor, data: Path, whole: Path, tmp_path: Path
) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    lines[3] = lines[3][:20]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(EvaluationError, match=r"records\.jsonl, line 4.*overwrite=True"):
        run_evaluation(job(data), predictor=predictor, output=tmp_path)
    run_evaluation(job(data), predictor=predictor, output=tmp_path, overwrite=True)
    assert (tmp_path / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()


def test_shards_merge_exactly(data: Path, tmp_path: Path) -> None:
    source = predictions(tmp_path, data)
    single = run_evaluation(job(data), predictions=source, output=tmp_path / "single")
    assert single.metrics is not None
    for number in (2, 3, 1):
        shard = run_evaluation(job(data, shard=(number, 3)), predictions=source, output=tmp_path / "shards")
        assert (shard.metrics is None) == (number != 1)
        assert shard.metrics is not None or "records.1-of-3.jsonl" in shard.missing_shards
    for name in ("records.jsonl", "metrics.json", "metrics.md"):
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "single" / name).read_bytes()
    with pytest.raises(EvaluationError, match="output folder"):
        run_evaluation(job(data, shard=(1, 2)), predictions=source)


def test_a_shard_with_a_damaged_line_is_named_and_one_whose_last_line_is_being_written_is_incomplete(
    data: Path, tmp_path: Path
) -> None:
    source = predictions(tmp_path, data)
    run_evaluation(job(data, shard=(2, 2)), predictions=source, output=tmp_path / "shards")
    path = tmp_path / "shards" / "records.2-of-2.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-3])
    first = run_evaluation(job(data, shard=(1, 2)), predictions=source, output=tmp_path / "shards")
    assert first.missing_shards == ("some records of a shard that still runs",)
    path.write_bytes(b"{damaged}\n" + b"".join(lines[1:]))
    with pytest.raises(EvaluationError, match=r"records\.2-of-2\.jsonl, line 1: damaged"):
        run_evaluation(job(data, shard=(1, 2)), predictions=source, output=tmp_path / "shards")


def test_predictions_keep_their_places_under_a_limit(data: Path, tmp_path: Path) -> None:
    source = predictions(tmp_path, data)
    everything, some = (run_evaluation(job(data, limit=limit), predictions=source) for limit in (None, 5))
    assert some.records == everything.records[:5]
    assert some.metrics is not None
    assert (some.metrics["n"], some.metrics["fingerprint"]) == (5, None)


def test_official_numbers_are_those_of_the_authors(reference: Path, tmp_path: Path) -> None:
    with np.load(reference / "evaluation" / "eval_official.npz") as file:
        names = {"low_res": file["gref_low_res"], "pred_box": file["gref_pred_box"]}
        theirs = json.loads(str(file["metrics_json"]))["gref"]
    np.savez(tmp_path / "answers.npz", clip_size=336, **names)
    metrics = run_evaluation(
        EvaluationJob("grefcoco", "val", DATASETS / "eval_data", protocol="official"),
        predictions=tmp_path / "answers.npz",
    ).metrics
    assert metrics is not None
    assert metrics["gIoU"] == pytest.approx(theirs["G_iou(Mean_iou)"], abs=1e-6)
    assert metrics["Acc@0.65"] == pytest.approx(theirs["Acc@0.65"], abs=1e-6)
    assert metrics["N-acc"] == pytest.approx(theirs["No_target_acc"], abs=1e-6)


def test_the_network_is_evaluated_in_the_frame_of_the_authors(predictor: SSPSAMPredictor, data: Path) -> None:
    evaluation: Evaluation = run_evaluation(job(data, protocol="official"), predictor=predictor)
    assert evaluation.metrics is not None
    assert evaluation.metrics["Pr@0.55"] > 0.5
    assert evaluation.metrics["Acc@0.5"] > 0.4
    assert all(record.foreground_pixels == record.predicted_area for record in evaluation.records)


def test_subsets_of_phrasecut_are_those_of_its_evaluator(reference: Path) -> None:
    folder = reference / "evaluation"
    expected = json.loads((folder / "phrasecut" / "expected.json").read_text())["test"]
    metrics = run_evaluation(
        EvaluationJob("phrasecut", "test", folder, protocol="phrasecut"),
        predictions=folder / "phrasecut" / "predictions",
    ).metrics
    assert metrics is not None
    found = {key.split("/")[1] for key in metrics if key.startswith("subset/")}
    assert "all" in found
    for name in found:
        assert metrics[f"subset/{name}/mIoU"] == pytest.approx(expected["subsets"][name]["mean_mask_iou"], abs=1e-9)


def test_missing_images_are_listed_before_the_work(predictor: SSPSAMPredictor, tmp_path: Path) -> None:
    missing = EvaluationJob("grefcoco", "val", DATASETS / "eval_data")
    with pytest.raises(DatasetMissingError, match=r"images of grefcoco are missing: .*train2014\.zip"):
        run_evaluation(missing, predictor=predictor, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("shard", "is_removed"), [((1, 1), True), ((1, 2), False)])
def test_temporary_files_of_a_killed_run_are_removed_unless_another_shard_may_write_them(
    data: Path, tmp_path: Path, shard: tuple[int, int], is_removed: bool
) -> None:
    source = predictions(tmp_path, data)
    places = [tmp_path / "out", tmp_path / "out" / "worst"]
    places[1].mkdir(parents=True)
    for folder in places:
        (folder / ".sspsam-00.tmp").write_text("incomplete")
    run_evaluation(job(data, shard=shard), predictions=source, output=tmp_path / "out")
    assert [(folder / ".sspsam-00.tmp").exists() for folder in places] == [not is_removed] * 2
