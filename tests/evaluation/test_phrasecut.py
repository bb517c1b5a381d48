"""PhraseCut's evaluator: every task, subset and cumulative number that the authors' own code gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import EvaluationError
from sspsam.evaluation.metrics import counted_phrasecut
from sspsam.evaluation.phrasecut import Subsets, Words, phrasecut_metrics
from sspsam.evaluation.protocols import image_record, missing_record
from sspsam.evaluation.records import Record, columns_of

# those of the authors' words that the drawn tasks use
WORDS = Words(
    coco=frozenset({"dog", "person"}),
    stuff=("water", "sky"),
    attributes={
        kind: frozenset({word})
        for kind, word in {"color": "white", "shape": "tall", "material": "wooden", "texture": "striped"}.items()
    },
)


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "evaluation" / "phrasecut"


def content(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def evaluated(folder: Path, split: str) -> tuple[list[dict[str, Any]], list[Record], dict[int, list[str]]]:
    """The tasks of a split with their records and subsets."""
    tasks = [task for part in split.split("_") for task in content(folder, f"refer_{part}.json")]
    rules = Subsets.of(content(folder, "name_att_rel_count.json"), content(folder, "image_data_split.json"), WORDS)
    truths, records, subsets = np.load(folder / "gt_masks.npz"), [], {}
    for index, task in enumerate(tasks):
        truth = truths[task["task_id"]]
        path = folder / "predictions" / f"{task['task_id']}.png"
        predicted = np.array(Image.open(path)) > 0 if has_prediction(task, folder) else None
        records.append(missing_record(index, truth) if predicted is None else image_record(index, truth, predicted))
        subsets[index] = rules.of_task(task, truth.mean())
    return tasks, records, subsets


def has_prediction(task: dict[str, Any], folder: Path) -> bool:
    expected = content(folder, "expected.json")
    return any(task["task_id"] in expected[split]["per_task_iou"] for split in expected)


@pytest.mark.parametrize("split", ["test", "val", "miniv", "val_miniv"])
def test_every_task_and_subset_of_the_authors_evaluator_is_reproduced(folder: Path, split: str) -> None:
    expected = content(folder, "expected.json")[split]
    tasks, records, subsets = evaluated(folder, split)
    iou = counted_phrasecut(columns_of(records)).iou
    ours = {task["task_id"]: iou[index] for index, task in enumerate(tasks) if not records[index].missing}
    assert ours == pytest.approx(expected["per_task_iou"], abs=1e-9)
    metrics = phrasecut_metrics(records, subsets)
    assert (metrics["n"], metrics["evaluated"]) == (expected["tasks"], expected["evaluated"])
    assert metrics["mIoU_missing_as_empty"] == pytest.approx(expected["overall_mean_iou_missing_as_empty"])
    assert {key.split("/")[1] for key in metrics if key.startswith("subset/")} == set(expected["subsets"])
    for name, theirs in expected["subsets"].items():
        numbers = {key: metrics[f"subset/{name}/{key}"] for key in ("n", "mIoU", "oIoU")}
        assert numbers == pytest.approx(
            {"n": theirs["count"], "mIoU": theirs["mean_mask_iou"], "oIoU": theirs["cum_mask_iou"]}, abs=1e-9
        )
        for threshold, share in theirs["pred_mask_acc"].items():
            assert metrics[f"subset/{name}/Pr@{threshold}"] == pytest.approx(share)
    assert metrics["mIoU"] == metrics["subset/all/mIoU"]


def task(name: str = "man", attributes: tuple[str, ...] = (), boxes: int = 1) -> dict[str, Any]:
    structure = {"name": name, "attributes": list(attributes), "relation_descriptions": [], "type": "name"}
    return {"image_id": 1, "instance_boxes": [[0, 0, 1, 1]] * boxes, "phrase_structure": structure}


@pytest.mark.parametrize(
    ("rank", "names"),
    [
        (0, {"c20", "c100", "c500"}),
        (19, {"c20", "c100", "c500"}),
        (20, {"c21-100", "c100", "c500"}),
        (100, {"c101-500", "c500"}),
        (499, {"c101-500", "c500"}),
        (500, {"c500+"}),
    ],
)
def test_categories_fall_into_bands_by_their_rank(rank: int, names: set[str]) -> None:
    rules = Subsets({"man": rank}, {}, frozenset())
    assert {name for name in rules.of_task(task(), 0.1) if name.startswith("c")} == names


def test_limits_of_sizes_and_numbers_of_instances() -> None:
    rules = Subsets({}, {"white": 150, "tall": 3}, frozenset({1}))
    sizes = [set(rules.of_task(task(), size)) for size in (0.019, 0.02, 0.2, 0.21)]
    for names, expected in zip(sizes, ("s_small", "s_mid", "s_mid", "s_large"), strict=True):
        assert names & {"s_small", "s_mid", "s_large"} == {expected}
    numbers = {count: [s for s in rules.of_task(task(boxes=count), 0.1) if s[0] == "i"] for count in (1, 2, 4, 5)}
    assert numbers == {1: ["i_single"], 2: ["i_multi"], 4: ["i_multi"], 5: ["i_many"]}
    assert "d_cocotv" in rules.of_task(task(), 0.1)
    assert {"a20", "p_attm"} <= set(rules.of_task(task(attributes=("white", "tall")), 0.1))


def test_thresholds_are_strict_and_two_empty_masks_score_zero() -> None:
    half = Record(0, False, False, 5, 5, 10)
    empty = Record(1, True, True, 0, 0, 0)
    metrics = phrasecut_metrics([half, empty], {0: ["all"], 1: ["all"]})
    assert metrics["Pr@0.5"] == 0
    assert metrics["mIoU"] == 0.25


def test_word_lists_are_read_from_the_authors_file_without_running_it(tmp_path: Path) -> None:
    kinds = ("color", "shape", "material", "texture", "state", "adj", "noun", "loc", "count", "bad")
    lines = ["raise SystemExit", "coco = ['dog']", "stuff_names = ['sky']", *(f"att_{kind} = ['x']" for kind in kinds)]
    path = tmp_path / "subset.py"
    path.write_text("\n".join(lines))
    words = Words.read(path)
    rules = Subsets({}, {}, frozenset(), words)
    assert {"c_coco", "t_obj", "a_color"} <= set(rules.of_task(task("dog", ("x",)), 0.1))
    assert "t_stuff" in rules.of_task(task("skyline"), 0.1)
    path.write_text("coco = ['dog']")
    with pytest.raises(EvaluationError, match="lacks stuff_names, att_color"):
        Words.read(path)
