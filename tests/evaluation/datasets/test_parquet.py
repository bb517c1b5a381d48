"""Data sets in Parquet files: RefCOCO-M, PBench, and the copies of RefCOCO with wrong masks."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from PIL import Image

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.datasets.places import require_images
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.run import run_evaluation
from sspsam.segmentation.rle import rle_encode

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

RLE = pyarrow.struct([("counts", pyarrow.string()), ("size", pyarrow.list_(pyarrow.int32()))])
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
SAMPLE = pyarrow.struct(
    [
        ("id", pyarrow.int64()),
        ("image_id", pyarrow.int64()),
        ("category", pyarrow.string()),
        ("supercategory", pyarrow.string()),
        ("label", pyarrow.string()),
        ("sentences", pyarrow.list_(pyarrow.string())),
        ("bbox", pyarrow.list_(pyarrow.float32())),
        ("mask", RLE),
    ]
)
REFCOCO_M = pyarrow.schema(
    [
        ("image", IMAGE),
        ("image_id", pyarrow.int64()),
        ("file_name", pyarrow.string()),
        ("samples", pyarrow.list_(SAMPLE)),
    ]
)
PBENCH = pyarrow.schema(
    [
        ("image", IMAGE),
        ("expression", pyarrow.string()),
        ("masks", pyarrow.list_(RLE)),
        ("count", pyarrow.int32()),
        ("id", pyarrow.int64()),
    ]
)
# as of `lmms-lab/RefCOCOg`
FLAT = pyarrow.schema(
    [
        ("question_id", pyarrow.string()),
        ("question", pyarrow.string()),
        ("answer", pyarrow.list_(pyarrow.string())),
        ("segmentation", pyarrow.list_(pyarrow.float32())),
        ("file_name", pyarrow.string()),
    ]
)


def png(seed: int, size: tuple[int, int]) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def square(size: tuple[int, int], top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def write(path: Path, rows: list[dict[str, Any]], schema: pyarrow.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path, row_group_size=2)


def refcoco_m_rows() -> list[dict[str, Any]]:
    rows = []
    for number, size in enumerate([(40, 30), (25, 50), (33, 33)]):
        samples = [
            {
                "id": 10 * number + part,
                "image_id": number,
                "sentences": [f"thing {part}", f"the thing {part}"],
                "bbox": [2.0 + part, 3.0, 8.0, 9.0],
                "mask": rle_encode(square(size, 3 + part, 2, 8)),
            }
            for part in range(2)
        ]
        rows.append(
            {"image": png(number, size), "image_id": number, "file_name": f"COCO_train2014_{number:012}.jpg"}
            | {"samples": samples}
        )
    return rows


def test_refcoco_m_has_an_entry_for_each_sentence_with_its_mask_and_image(tmp_path: Path) -> None:
    rows = refcoco_m_rows()
    write(tmp_path / "refcoco-m/data/validation-00000-of-00002.parquet", rows[:2], REFCOCO_M)
    write(tmp_path / "refcoco-m/data/validation-00001-of-00002.parquet", rows[2:], REFCOCO_M)
    entries = read_dataset("refcoco-m", "validation", data_root=tmp_path)
    assert [entry.text for entry in entries] == ["thing 0", "the thing 0", "thing 1", "the thing 1"] * 3
    assert len({entry.key for entry in entries}) == 12
    assert len({entry.image for entry in entries}) == 3
    last = entries[-1]
    assert (last.image.name, last.image_id, last.no_target) == ("COCO_train2014_000000000002.jpg", "2", False)
    assert last.box == (3, 3, 11, 12)
    assert (last.mask() == square((33, 33), 4, 2, 8)).all()
    assert [entry.image_input for entry in entries[::4]] == [row["image"]["bytes"] for row in rows]
    require_images(entries, "refcoco-m")


def test_pbench_targets_are_unions_and_rows_without_masks_have_none(tmp_path: Path) -> None:
    masks = [square((40, 60), 1, 2, 10), square((40, 60), 20, 40, 15)]
    rows = [
        {"image": png(0, (40, 60)), "expression": "two", "masks": [rle_encode(mask) for mask in masks], "id": 5},
        {"image": png(1, (20, 31)), "expression": "none", "masks": [], "id": 6},
        {"image": png(2, (40, 60)), "expression": "one", "masks": [rle_encode(masks[0])], "id": 5},
    ]
    write(tmp_path / "level_0-00000-of-00001.parquet", [{**row, "count": len(row["masks"])} for row in rows], PBENCH)
    two, none, one = read_dataset("pbench", "level_0", data_root=tmp_path)
    assert (two.mask() == masks[0] | masks[1]).all()
    assert (two.box, two.size, two.no_target) == ((2, 1, 55, 35), (40, 60), False)
    assert (none.box, none.size, none.no_target, none.mask().any()) == (None, (20, 31), True, False)
    assert (one.box, one.key != two.key) == ((2, 1, 12, 11), True)
    with pytest.raises(DatasetError, match=r"no split 'dense' in .*: it has level_0"):
        read_dataset("pbench", "dense", data_root=tmp_path)


def test_embedded_images_are_evaluated_with_one_encode_each(tmp_path: Path) -> None:
    from sspsam import SSPSAMPredictor

    write(tmp_path / "validation-00000-of-00001.parquet", refcoco_m_rows(), REFCOCO_M)
    predictor, output = SSPSAMPredictor.from_pretrained("shapes", device="cpu"), tmp_path / "out"
    job = EvaluationJob("refcoco-m", "validation", tmp_path)
    records = run_evaluation(job, predictor=predictor, output=output, worst=1).records
    assert len(records) == 12
    assert (output / ".eval_results" / "refcoco-m.yaml").is_file()
    assert len(list((output / "worst").glob("*.jpg"))) >= 1
    first = EvaluationJob("refcoco-m", "validation", tmp_path, limit=2)
    run_evaluation(first, predictor=predictor, output=output, overwrite=True)
    assert not (output / ".eval_results" / "refcoco-m.yaml").exists()
    pixels = Image.open(io.BytesIO(refcoco_m_rows()[2]["image"]["bytes"]))
    assert records[-1].foreground_pixels == predictor.predict("the thing 1", image=pixels).foreground_pixels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masks": [{"counts": "PP", "size": [40, 61]}]}, r"row 1: mask 0"),
        ({"masks": [{"counts": None, "size": [40, 60]}]}, r"row 1: mask 0, part 0 must have 'counts'"),
        ({"expression": None}, r"row 1: 'expression' must be a string"),
        ({"expression": "  "}, r"row 1: 'expression' is empty"),
        ({"id": None}, r"row 1: 'id' must be an integer"),
        ({"image": {"bytes": b"no image", "path": None}}, r"row 1: the image cannot be read as an image"),
        ({"image": {"bytes": None, "path": "x.png"}}, r"row 1: 'image' must hold the bytes"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"image": png(0, (40, 60)), "expression": "a", "masks": [], "count": 0, "id": 1}
    write(tmp_path / "dense-00000-of-00001.parquet", [good, good | change], PBENCH)
    with pytest.raises(DatasetError, match=r"dense-00000-of-00001\.parquet: " + words):
        read_dataset("pbench", "dense", data_root=tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"refcoco-m lacks .*hf download --repo-type dataset moondream"):
        read_dataset("refcoco-m", "validation", data_root=tmp_path)
    write(tmp_path / "validation-00001-of-00002.parquet", refcoco_m_rows(), REFCOCO_M)
    with pytest.raises(DatasetMissingError, match=r"lacks validation-00000-of-00002\.parquet"):
        read_dataset("refcoco-m", "validation", data_root=tmp_path)
    (tmp_path / "validation-00000-of-00002.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DatasetError, match=r"00000-of-00002\.parquet cannot be read as Parquet"):
        read_dataset("refcoco-m", "validation", data_root=tmp_path)


def test_texts_that_are_not_utf_8_are_an_error_of_their_file(tmp_path: Path) -> None:
    rows = [{"image": png(0, (8, 9)), "expression": "the red thing", "masks": [], "count": 0, "id": 1}]
    path = tmp_path / "dense-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, PBENCH), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    assert b"the red thing" in content
    path.write_bytes(content.replace(b"the red thing", b"the red \xff\xfe\xff\xff\xff"))
    with pytest.raises(DatasetError, match=r"dense-00000-of-00001\.parquet cannot be read as Parquet: .*utf-8"):
        read_dataset("pbench", "dense", data_root=tmp_path)


def test_no_damaged_byte_of_a_file_is_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "dense-00000-of-00001.parquet"
    mask = rle_encode(square((8, 9), 2, 2, 4))
    row = {"image": png(0, (8, 9)), "expression": "the red thing", "masks": [mask], "count": 1}
    write(path, [row | {"id": number} for number in range(4)], PBENCH)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, len(content), 300).tolist():
        damaged = bytes([content[place] ^ int(random.integers(1, 256))])
        path.write_bytes(content[:place] + damaged + content[place + 1 :])
        with contextlib.suppress(DatasetError):
            for entry in read_dataset("pbench", "dense", data_root=tmp_path):
                entry.mask()


@pytest.mark.parametrize("folder", [".", "data", "refcoco", "RefCOCO/data"])
@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+", "grefcoco", "refcoco-m"])
def test_parquet_files_with_flattened_polygons_are_refused_with_the_reason(
    tmp_path: Path, folder: str, dataset: str
) -> None:
    row = {"question_id": "1", "question": "q", "answer": ["a"], "segmentation": [0, 0, 9, 0, 9, 9], "file_name": "x"}
    root = tmp_path / (folder if dataset == "refcoco-m" else ".")
    write(tmp_path / folder / "val-00000-of-00001.parquet", [row], FLAT)
    with pytest.raises(DatasetError, match="join the parts of an object into one list") as caught:
        read_dataset(dataset, "val", data_root=root)
    assert "val-00000-of-00001.parquet" in str(caught.value)


def test_parquet_files_of_another_data_set_are_named(tmp_path: Path) -> None:
    write(tmp_path / "validation-00000-of-00001.parquet", [], PBENCH)
    with pytest.raises(DatasetError, match="lacks the columns image_id, file_name, samples and has image, expression"):
        read_dataset("refcoco-m", "validation", data_root=tmp_path)
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco/instances.json").write_text(json.dumps({}))
    with pytest.raises(DatasetMissingError, match=r"lacks .*refs\(unc\)\.p"):
        read_dataset("refcoco", "val", data_root=tmp_path)
