"""The results of a batch as one COCO file, as `pycocotools` loads it.

An expression is a category, a picture an image, what an expression points at an annotation with a compressed run-length
encoding. An empty mask, such as that of no target, has no annotation; its expression is a category all the same.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby

from sspsam.batch.records import Line
from sspsam.postprocessing import rle_decode


def coco_file(lines: Iterable[Line]) -> Iterator[bytes]:
    """The file, piece by piece, so that it never lies in memory as a whole.

    Args:
        lines: of `results.jsonl`, iterated over once.
    """
    categories: dict[str, int] = {}
    images: list[bytes] = []
    yield b'{"info": {"description": "written by sspsam batch"},\n"annotations": ['
    number = 0
    for image_id, (image, answers) in enumerate(groupby(lines, key=lambda line: line["image"]), 1):
        size: dict[str, int] = {}
        for line in answers:
            category = categories.setdefault(line["text"], len(categories) + 1)
            size = {"width": line["width"], "height": line["height"]}
            if line["mask_box"] is not None:
                number += 1
                yield _json(_annotation(number, image_id, category, line), first=number == 1)
        images.append(json.dumps({"id": image_id, "file_name": image, **size}).encode())
    yield b'\n],\n"images": [\n' + b",\n".join(images) + b'\n],\n"categories": [\n'
    yield b",\n".join(json.dumps({"id": n, "name": text}).encode() for text, n in categories.items())
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


def _json(value: Line, first: bool) -> bytes:
    return (b"\n" if first else b",\n") + json.dumps(value).encode()
