"""Files and lines of a batch, images that fail, and options."""

import gc
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sspsam import SSPSAMPredictor, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from sspsam.batch.writing import Recorder
from sspsam.images.preprocessing import preprocess_image
from sspsam.models import SSPSAM
from tests.support.batches import TEXTS, draw, lines, tree
from tests.support.images import write_bad_images


def test_output_mirrors_the_input_and_equals_predict(predictor, photos, tmp_path) -> None:
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    results = lines(tmp_path / "out" / "results.jsonl")
    images = ["a.jpg", "b.png", "sub/a.jpg", "sub/deeper/c.png"]
    assert [(line["image"], line["text"]) for line in results] == [(image, text) for image in images for text in TEXTS]
    for line in results:
        alone = predictor.predict(TEXTS, image=photos / line["image"])[line["number"] - 1]
        assert line == line | alone.to_dict()
        assert line["files"] == {"mask": f"{line['image']}-{line['number']}.png"}
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["files"]["mask"])) == 255, alone.mask)
        assert (line["of"], line["fingerprint"]) == (2, predictor.fingerprint)
    [failed] = lines(tmp_path / "out" / "errors.jsonl")
    assert (failed["image"], failed["error"]) == ("bad.jpg", "ImageError")
    with pytest.raises(errors.ImageError) as raised:
        predictor.encode(photos / "bad.jpg")
    assert failed["message"] == str(raised.value)
    counted = (summary.pictures, summary.done, summary.earlier, summary.failed, summary.expressions)
    assert counted == (5, 4, 0, 1, 8)
    assert summary.passed_over == 1
    files = {path for path, content in tree(tmp_path / "out").items() if content is not None}
    assert files == {"job.json", "results.jsonl", "errors.jsonl", *(line["files"]["mask"] for line in results)}


def test_second_run_with_the_same_arguments_does_nothing(predictor, photos, tmp_path, monkeypatch) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    before = tree(tmp_path / "out")
    monkeypatch.setattr(SSPSAM, "encode_image", lambda *_: pytest.fail("an image was encoded again"))
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert (summary.done, summary.earlier, summary.failed) == (0, 4, 1)
    assert tree(tmp_path / "out") == before


def test_links_neither_form_cycles_in_the_input_nor_lead_out_of_the_output(predictor, photos, tmp_path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "linked.png").symlink_to(photos / "b.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert {line["image"] for line in lines(tmp_path / "out" / "results.jsonl")} == {
        *("a.jpg", "b.png", "linked.png", "sub/a.jpg", "sub/deeper/c.png")
    }
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == {"bad.jpg", "gone.png"}
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "trap"
    elsewhere.mkdir()
    run_batch(photos, out, TEXTS, predictor=predictor)
    for name in ("results.jsonl", "errors.jsonl"):
        (out / name).write_text("")
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(elsewhere)
    with pytest.raises(errors.StorageError, match="leads out of"):
        run_batch(photos, out, TEXTS, predictor=predictor)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"formats": ()},
        {"formats": ("tiff",)},
        {"batch_size": 0},
        {"workers": -1},
        {"max_errors": -1},
        {"max_pixels": 0},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        BatchOptions(**options)
    with pytest.raises(ValueError, match="no run 3 of 2"):
        Shard(3, 2)


def test_run_stops_when_too_many_images_fail(predictor, photos, tmp_path) -> None:
    (photos / "aa.jpg").write_bytes(b"")
    with pytest.raises(errors.BatchError, match=r"stopped at aa.jpg.*empty"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_errors=0))
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["aa.jpg"]
    with pytest.raises(
        errors.BatchError, match=r"1 images failed in earlier runs.*errors.jsonl.*retry_errors.*--retry-errors"
    ):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_errors=0))
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    draw(photos / "aa.jpg", 5)
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(retry_errors=True))
    assert (summary.done, summary.earlier, summary.failed) == (1, 4, 1)
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["bad.jpg"]


def test_coco_file_equals_the_masks(predictor, photos, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(
        photos, out, TEXTS, predictor=predictor, options=BatchOptions(formats=("mask", "coco"), no_target_pixels=0)
    )
    coco = COCO(out / "coco.json")
    found = 0
    assert len(coco.anns) == len({annotation["id"] for annotation in coco.dataset["annotations"]})
    for line in lines(out / "results.jsonl"):
        [image] = [number for number, about in coco.imgs.items() if about["file_name"] == line["image"]]
        [category] = [number for number, about in coco.cats.items() if about["name"] == line["text"]]
        mask = np.asarray(Image.open(out / line["files"]["mask"])) == 255
        ids = coco.getAnnIds(imgIds=[image], catIds=[category])
        assert len(ids) == int(mask.any())
        for annotation in coco.loadAnns(ids):
            found += 1
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
    assert found
    assert COCO(out / "coco.json").loadRes(
        [{k: a[k] for k in ("image_id", "category_id", "segmentation", "score")} for a in coco.anns.values()]
    )


def test_parquet_file_has_the_lines_as_rows(predictor, photos, tmp_path, monkeypatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install '.[ray]' to test Parquet")
    draw(photos / os.fsdecode(b"not-\xff-text.png"), 9)
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(formats=("parquet",)))
    rows = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    results = lines(tmp_path / "out" / "results.jsonl")
    assert len(rows) == len(results) == 10
    for row, line in zip(rows, results, strict=True):
        assert {name: row[name] for name in ("text", "number", "no_target", "box", "mask_box", "mask")} == {
            name: line[name] for name in ("text", "number", "no_target", "box", "mask_box", "mask")
        }
    assert [row["image"] for row in rows if "not" in row["image"]] == ["not-\\udcff-text.png"] * 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[ray\]"):
        run_batch(photos, tmp_path / "no", TEXTS, predictor=predictor, options=BatchOptions(formats=("parquet",)))
    assert not (tmp_path / "no").exists()


def test_image_that_exhausts_the_memory_does_not_affect_other_images(predictor, photos, tmp_path, monkeypatch) -> None:
    seen, encode = count(), SSPSAM.encode_image

    def encode_image(model: SSPSAM, *inputs: Any) -> Any:
        if next(seen) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return encode(model, *inputs)

    def read(image: Path, *options: Any) -> Any:
        if image.name == "c.png":
            raise MemoryError
        return preprocess_image(image, *options)

    monkeypatch.setattr(SSPSAM, "encode_image", encode_image)
    monkeypatch.setattr("sspsam.images.encoder.preprocess_image", read)
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert (summary.done, summary.failed) == (2, 3)
    failed = {line["image"]: line["error"] for line in lines(tmp_path / "out" / "errors.jsonl")}
    assert failed == {"b.png": "OutOfMemoryError", "bad.jpg": "ImageError", "sub/deeper/c.png": "OutOfMemoryError"}


def test_unexpected_exceptions_are_raised_unchanged(predictor, photos, tmp_path, monkeypatch) -> None:
    def broken(*inputs: Any) -> Any:
        raise ValueError("sizes do not match")

    monkeypatch.setattr(SSPSAM, "encode_image", broken)
    with pytest.raises(ValueError, match=r"^sizes do not match$"):
        run_batch(photos, tmp_path / "out", "the star", predictor=predictor)


def test_combined_formats_can_be_added_by_a_later_run(predictor, photos, tmp_path) -> None:
    both = BatchOptions(formats=("mask", "coco"))
    run_batch(photos, tmp_path / "once", TEXTS, predictor=predictor, options=both)
    run_batch(photos, tmp_path / "later", TEXTS, predictor=predictor)
    assert run_batch(photos, tmp_path / "later", TEXTS, predictor=predictor, options=both).done == 0
    assert tree(tmp_path / "later") == tree(tmp_path / "once")


def test_answers_do_not_depend_on_the_content_of_the_cache(tiny_model, photos, tmp_path) -> None:
    options = BatchOptions(batch_size=3)
    results = []
    for known in ([], ["a.jpg"], ["b.png", "sub/a.jpg"]):
        cache = tmp_path / f"cache{len(known)}"
        cached = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=cache)
        for name in known:
            cached.encode(photos / name)
        run_batch(photos, tmp_path / f"out{len(known)}", TEXTS, predictor=cached, options=options)
        results.append(tree(tmp_path / f"out{len(known)}"))
    assert results[0] == results[1] == results[2]


def test_unreadable_images_of_every_kind_are_recorded_and_the_others_answered(predictor, tmp_path) -> None:
    folder = tmp_path / "photos"
    good, bad = write_bad_images(folder)
    for seed in range(20):
        draw(folder / f"{seed}.png", seed)
    summary = run_batch(
        folder, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_pixels=1_000_000)
    )
    results = lines(tmp_path / "out" / "results.jsonl")
    assert {line["image"] for line in results} == {f"{seed}.png" for seed in range(20)} | good
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == bad
    assert (summary.done, summary.failed) == (20 + len(good), len(bad))
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, after garbage collection."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_over_two_thousand_images(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "photos"
    good, bad = write_bad_images(folder / "odd")
    for seed in range(2000):
        draw(folder / f"{seed % 40}" / f"{seed}.png", seed, (48, 64))
    for seed, name in enumerate(("a.jpg", "b.png", "c.webp", "d.tif", "e.gif")):
        (folder / f"{seed}" / f"bad-{name}").write_bytes((b"", b"no image", bytes(90), b"GIF8", b"\x89PNG")[seed])
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    memory: list[int] = []
    unmeasured_record = Recorder.record

    def measured_record(self: Recorder, lines: Any) -> None:
        unmeasured_record(self, lines)
        if self.images % 200 == 0:
            memory.append(resident_bytes())

    monkeypatch.setattr(Recorder, "record", measured_record)
    options = BatchOptions(formats=("mask", "overlay", "coco"), max_pixels=1_000_000)
    summary = run_batch(folder, tmp_path / "out", TEXTS, predictor=predictor, options=options)
    assert (summary.done, summary.failed) == (2000 + len(good), 5 + len(bad))
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == {
        *(f"odd/{name}" for name in bad),
        *("0/bad-a.jpg", "1/bad-b.png", "2/bad-c.webp", "3/bad-d.tif", "4/bad-e.gif"),
    }
    print("resident bytes after each 200 images:", memory)
    assert memory[-1] - memory[1] < 20 << 20
