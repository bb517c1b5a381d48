"""Small drawn data sets in the owners' formats, with the answers of the owners' own code."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

DATASETS = Path(__file__).parents[1] / "data" / "datasets"

INSTANCES: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "seven.jpg", "height": 6, "width": 8}],
    "annotations": [
        {"id": 1, "image_id": 7, "bbox": [1, 1, 3, 2], "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "iscrowd": 0},
        {"id": 2, "image_id": 7, "bbox": [5, 2, 2, 3], "segmentation": [[5, 2, 7, 2, 7, 5, 5, 5]], "iscrowd": 0},
        {
            "id": 3,
            "image_id": 7,
            "bbox": [0, 5, 8, 1],
            "segmentation": {"size": [6, 8], "counts": [5, 1] * 8},
            "iscrowd": 1,
        },
    ],
    "categories": [],
}


def ref(ann_id: Any = 1, **others: Any) -> dict[str, Any]:
    """One record of `refs(*.p)`."""
    sentences = [{"sent_id": 11, "sent": "left thing"}, {"sent_id": 12, "sent": "a thing"}]
    return {"ref_id": 5, "image_id": 7, "ann_id": ann_id, "split": "val", "sentences": sentences, **others}


def write_refcoco(root: Path, refs: Any, instances: Any = INSTANCES) -> Path:
    """Write a data set `refcoco` below `root`, and return `root`."""
    (root / "refcoco").mkdir(parents=True, exist_ok=True)
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    return root


def write_grefcoco(root: Path, refs: Any, instances: Any = INSTANCES) -> Path:
    """Write a data set `grefcoco` below `root`, and return `root`."""
    (root / "grefcoco").mkdir(parents=True, exist_ok=True)
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs))
    (root / "grefcoco" / "instances.json").write_text(json.dumps(instances))
    return root


def decoded(size: tuple[int, int], counts: str) -> NDArray[np.bool_]:
    """Decode COCO's compressed run lengths with pycocotools."""
    return np.asarray(coco.decode({"size": list(size), "counts": counts}), np.bool_)
