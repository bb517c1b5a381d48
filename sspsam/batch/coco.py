"""The results of a batch as one COCO file, as `pycocotools` loads it.

An expression is a category, a picture an image, what an expression points at an annotation with a compressed run-length
encoding. An empty mask, such as that of no target, has no annotation; its expression is a category all the same.
Numbers come from the manifest, so that those of one shard's file are not in another's, and the lists can be joined.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import groupby

from sspsam.batch.manifest import Task
from sspsam.batch.records import Line
from sspsam.segmentation.rle import rle_decode


@dataclass
class Numbers:
    """The ids of images, categories and annotations.

    Args:
        tasks: all that is to be done, other shards' tasks among it.
    """

    tasks: InitVar[Sequence[Task]]
    images: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)  # annotation of each image
    annotations: int = 0

    def __post_init__(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.add(task.image, task.texts)

    def add(self, image: str, texts: Iterable[str]) -> None:
        """Number an image and what is asked about it, unless it has its number."""
        if image in self.images:
            return
        self.images[image] = len(self.images) + 1
        self.first[image] = self.annotations + 1
        for text in texts:
            self.categories.setdefault(text, len(self.categories) + 1)
            self.annotations += 1


def coco_file(lines: Iterable[Line], tasks: Sequence[Task]) -> Iterator[bytes]:
    """The file, piece by piece, so that it never lies in memory as a whole.

    Args:
        lines: of `results.jsonl`, iterated over once.
        tasks: all that is to be done, other shards' tasks among it.
    """
    numbers = Numbers(tasks)
    images: list[bytes] = []
    asked: dict[str, int] = {}
    begun = False
    yield b'{"info": {"description": "written by sspsam batch"},\n"annotations": ['
    for image, group in groupby(lines, key=lambda line: str(line["image"])):
        answers = list(group)
        numbers.add(image, [line["text"] for line in answers])  # one that is no more in the input
        for line in answers:
            category = asked[line["text"]] = numbers.categories[line["text"]]
            if line["mask_box"] is not None:
                yield b",\n" if begun else b"\n"
                begun = True
                number = numbers.first[image] + line["number"] - 1
                yield json.dumps(_annotation(number, numbers.images[image], category, line)).encode()
        size = {"width": answers[0]["width"], "height": answers[0]["height"]}
        images.append(json.dumps({"id": numbers.images[image], "file_name": image, **size}).encode())
    yield b'\n],\n"images": [\n' + b",\n".join(images) + b'\n],\n"categories": [\n'
    yield b",\n".join(json.dumps({"id": n, "name": text}).encode() for text, n in asked.items())
    yield b"\n]}\n"


def _annotation(number: int, image: int, category: int, line: Line) -> Line:
    x0, y0, x1, y1 = line["mask_box"]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": line["mask"],
        "area": int(rle_decode(line["mask"]).sum()),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": line["score"],
    }
