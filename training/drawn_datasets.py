"""Draw data sets in the formats of their owners: `python -m training.drawn_datasets OUT --scenes 200 --renderer own`.

`OUT` gets images, `refcoco/` (expressions with one target), `grefcoco/` (all expressions), and `jsonl/` (all
expressions, with the masks as run lengths, files or polygons: the splits `rle`, `mask` and `polygons`). The only split
of RefCOCO and gRefCOCO is `val`. Then, for example,

    sspsam eval --dataset grefcoco --split val --data-root OUT --model shapes -o results

evaluates the bundled model. With the default seed, the scenes and expressions are those of `training.evaluate`; with
`--hard-negatives`, each expression that names a shape of the scene is followed by one that differs from it in one
attribute and names none.
"""

import argparse
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sspsam.segmentation import mask_to_polygons
from sspsam.segmentation.rle import rle_encode
from sspsam.utils.arrays import Mask
from training.drawn_scenes import DrawnScene, drawn_scenes, hard_negative_scenes
from training.evaluate import HELD_OUT_SEED, RENDERERS, LabelledExpression

SPLIT = "val"
IMAGES = "images"


@dataclass
class DatasetFiles:
    """The content of the annotation files, scene by scene.

    Args:
        images, annotations: of `instances.json`.
        refs, grefs: of RefCOCO and gRefCOCO.
        lines: of the JSON lines, without masks, and the (h, w) masks.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: list[dict[str, Any]] = field(default_factory=list)
    grefs: list[dict[str, Any]] = field(default_factory=list)
    lines: list[tuple[dict[str, Any], Mask]] = field(default_factory=list)

    def add(self, scene: DrawnScene, name: str) -> None:
        """Add a scene whose image has a name."""
        height, width = scene.pixels.shape[:2]
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        first = len(self.annotations) + 1
        self.annotations += [
            _annotation(first + number, image_id, mask) for number, mask in enumerate(scene.object_masks)
        ]
        for expression in scene.expressions:
            targets = [
                first + number for number, mask in enumerate(scene.object_masks) if (mask & expression.mask).any()
            ]
            self.grefs.append(_ref(len(self.grefs) + 1, image_id, targets or [-1], expression, name))
            if len(targets) == 1:
                self.refs.append(_ref(len(self.refs) + 1, image_id, targets[0], expression, name))
            line = {"image": name, "text": expression.text, "id": len(self.grefs), "kind": expression.kind}
            self.lines.append((line, expression.mask))

    def write(self, folder: Path) -> None:
        """Write the annotation files of all data sets."""
        instances = {"images": self.images, "annotations": self.annotations, "categories": [{"id": 1, "name": "shape"}]}
        for dataset in ("refcoco", "grefcoco"):
            (folder / dataset).mkdir(exist_ok=True)
            (folder / dataset / "instances.json").write_text(json.dumps(instances))
        (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(self.refs, protocol=2))
        (folder / "grefcoco" / "grefs(unc).json").write_text(json.dumps(self.grefs))
        (folder / "jsonl" / "masks").mkdir(parents=True, exist_ok=True)
        for number, (_, mask) in enumerate(self.lines, 1):
            if mask.any():
                Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(folder / "jsonl" / _mask_name(number))
        _write_lines(folder, "rle", [rle_encode(mask) if mask.any() else None for _, mask in self.lines], self.lines)
        names = [_mask_name(number) if mask.any() else None for number, (_, mask) in enumerate(self.lines, 1)]
        _write_lines(folder, "mask", names, self.lines)
        _write_lines(folder, "polygons", [_polygons(mask) for _, mask in self.lines], self.lines)


def write_datasets(folder: Path, scenes: Iterable[DrawnScene]) -> int:
    """Write the images and annotations of scenes, and return the number of expressions.

    Args:
        folder: is made; files of an earlier run are replaced.
        scenes: with their expressions.
    """
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    files = DatasetFiles()
    for number, scene in enumerate(scenes, 1):
        name = f"{number:06}.png"
        Image.fromarray(scene.pixels).save(folder / IMAGES / name)
        files.add(scene, name)
    files.write(folder)
    return len(files.lines)


def _annotation(object_id: int, image_id: int, mask: Mask) -> dict[str, Any]:
    """Return an object of `instances.json`; its mask is a list of one run-length encoding, as in RefCLEF."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": object_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "segmentation": [rle_encode(mask)],
    }


def _ref(number: int, image_id: int, targets: Any, expression: LabelledExpression, name: str) -> dict[str, Any]:
    """Return a record of `refs(unc).p` or `grefs(unc).json` with one sentence."""
    text = expression.text
    return {
        "ref_id": number,
        "ann_id": targets,
        "image_id": image_id,
        "category_id": 1,
        "file_name": name,
        "split": SPLIT,
        "sent_ids": [number],
        "sentences": [{"sent_id": number, "sent": text, "raw": text, "tokens": text.split()}],
    }


def _polygons(mask: Mask) -> list[Any] | None:
    return list(mask_to_polygons(mask, tolerance=0)) if mask.any() else None


def _mask_name(number: int) -> str:
    return f"masks/{number:06}.png"


def _write_lines(folder: Path, kind: str, values: Sequence[Any], lines: Sequence[tuple[dict[str, Any], Mask]]) -> None:
    text = "".join(json.dumps({**line, kind: value}) + "\n" for (line, _), value in zip(lines, values, strict=True))
    (folder / "jsonl" / f"{kind}.jsonl").write_text(text)


def main() -> None:
    """Parse the command line and write the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the data sets: the --data-root of sspsam eval")
    parser.add_argument("--renderer", choices=RENDERERS, default=RENDERERS[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--questions", type=int, default=10, help="expressions for each scene")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="not one of the training")
    parser.add_argument("--hard-negatives", action="store_true", help="absent expressions that differ in one attribute")
    arguments = parser.parse_args()
    source = hard_negative_scenes if arguments.hard_negatives else drawn_scenes
    scenes: Iterator[DrawnScene] = source(arguments.renderer, arguments.seed, arguments.scenes, arguments.questions)
    print(f"{arguments.output}: {write_datasets(arguments.output, scenes):,} expressions")


if __name__ == "__main__":
    main()
