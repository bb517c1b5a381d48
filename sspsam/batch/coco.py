"""Results of a batch as one COCO file, which `pycocotools` loads.

An expression is a category, and a mask is an annotation with a compressed run-length encoding. An empty mask, such as
the mask of a no-target answer, has no annotation; its expression is a category all the same. The ids come from the
manifest of the whole batch, so that the ids of different shards differ and their lists can be concatenated.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import groupby

from sspsam.batch.manifest import Task
from sspsam.batch.records import Line
from sspsam.batch.summary_files import COCO_BEGINNING
from sspsam.segmentation.rle import rle_runs


@dataclass
class CocoIds:
    """Ids of images, categories and annotations, from 1.

    Args:
        tasks: all tasks of the batch, other shards' tasks included.
        images: id of each image.
        categories: id of each expression.
        first_annotations: id of the annotation for the first expression of each image.
        annotations: number of ids that are reserved for annotations.
    """

    tasks: InitVar[Sequence[Task]]
    images: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    first_annotations: dict[str, int] = field(default_factory=dict)
    annotations: int = 0

    def __post_init__(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.add(task.image, task.texts)

    def add(self, image: str, texts: Iterable[str]) -> None:
        """Assign ids to an image and its expressions, unless the image already has an id."""
        if image in self.images:
            return
        self.images[image] = len(self.images) + 1
        self.first_annotations[image] = self.annotations + 1
        for text in texts:
            self.categories.setdefault(text, len(self.categories) + 1)
            self.annotations += 1


def coco_file(lines: Iterable[Line], tasks: Sequence[Task]) -> Iterator[bytes]:
    """Yield the content of a COCO file in pieces, so that the whole file is never in memory.

    Args:
        lines: of `results.jsonl`; iterated over once.
        tasks: all tasks of the batch, other shards' tasks included.
    """
    ids = CocoIds(tasks)
    images: list[bytes] = []
    categories: dict[str, int] = {}  # the expressions of these lines; other shards have others
    separator = b"\n"
    yield COCO_BEGINNING + b'"annotations": ['
    for image, group in groupby(lines, key=lambda line: str(line["image"])):
        image_lines = list(group)
        ids.add(image, [line["text"] for line in image_lines])  # an image that is no longer in the input
        for line in image_lines:
            category = categories[line["text"]] = ids.categories[line["text"]]
            if line["mask_box"] is not None:
                annotation = ids.first_annotations[image] + line["number"] - 1
                yield separator + json.dumps(_annotation(annotation, ids.images[image], category, line)).encode()
                separator = b",\n"
        size = {"width": image_lines[0]["width"], "height": image_lines[0]["height"]}
        images.append(json.dumps({"id": ids.images[image], "file_name": image, **size}).encode())
    yield b'\n],\n"images": [\n' + b",\n".join(images) + b'\n],\n"categories": [\n'
    yield b",\n".join(json.dumps({"id": number, "name": text}).encode() for text, number in categories.items())
    yield b"\n]}\n"


def _annotation(number: int, image: int, category: int, line: Line) -> Line:
    x0, y0, x1, y1 = line["mask_box"]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": line["mask"],
        "area": sum(rle_runs(line["mask"]["counts"])[1::2]),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": line["score"],
    }
