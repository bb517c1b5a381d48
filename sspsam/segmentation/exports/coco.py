"""COCO files, which `pycocotools` loads.

A category is a label, or the expression where there is no label. An answer is one annotation, or one for each of its
8-connected parts; an empty mask, such as the mask of a no-target answer, has none, and its category is listed all the
same. `iscrowd` is 0: evaluation and training ignore crowds, and an answer is a target. `area` and `bbox` are those that
`pycocotools` computes from the segmentation.

Polygons lie on the edges of pixels, as COCO's do: `pycocotools` fills the pixels whose centres are inside. Programs
that turn corners into numbers of pixels, such as supervision, and fill the pixels on the outline too, read polygons up
to a pixel too large; run-length encodings they read exactly.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from sspsam.segmentation.exports.answer_files import NamedAnswer
from sspsam.segmentation.exports.images import ImageAnswers, Instances, answers_by_image
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.rle import rle_encode, rle_runs
from sspsam.utils.arguments import true_or_false
from sspsam.utils.arrays import IntBox
from sspsam.utils.installing import missing_extra

_BEGINNING: Final = b'{"info": {"description": "written by sspsam"},\n'
Rle = dict[str, list[int] | str]


@dataclass(frozen=True)
class ShapeOptions:
    """Form of the annotations of masks.

    Args:
        instances: division of a mask into annotations.
        polygons: polygons instead of run-length encodings.
    """

    instances: Instances
    polygons: bool = False


@dataclass(frozen=True)
class CocoAnswer:
    """One answer as a COCO file needs it.

    Args:
        image: file name.
        width, height: of the image.
        number: of the answer among the answers of its image, from 1.
        category: label or expression.
        score: of the answer.
        mask: run-length encoding.
        mask_box: x0, y0, x1, y1; None for an empty mask.
        load: returns the answer itself, for instances and polygons.
    """

    image: str
    width: int
    height: int
    number: int
    category: str
    score: float
    mask: Rle
    mask_box: IntBox | None
    load: Callable[[], Segmentation]

    @classmethod
    def of(cls, number: int, answer: NamedAnswer) -> "CocoAnswer":
        """Return an answer in the form that a COCO file needs."""
        result = answer.result
        height, width = result.mask.shape
        return cls(
            image=answer.image,
            width=width,
            height=height,
            number=number,
            category=answer.category,
            score=result.score,
            mask=rle_encode(result.mask),
            mask_box=result.mask_box,
            load=lambda: result,
        )


@dataclass
class CocoIds:
    """Ids of images, categories and annotations, from 1.

    Args:
        images: id of each image.
        categories: id of each category.
        first_annotations: id of the annotation for the first answer about each image.
        annotations: number of ids that are reserved for annotations.
        first_instance: id of the first annotation if each part of a mask has an annotation.
    """

    images: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    first_annotations: dict[str, int] = field(default_factory=dict)
    annotations: int = 0
    first_instance: int = 1

    def add(self, image: str, categories: Iterable[str]) -> None:
        """Assign ids to an image and the categories of its answers, unless the image already has an id."""
        if image in self.images:
            return
        self.images[image] = len(self.images) + 1
        self.first_annotations[image] = self.annotations + 1
        for category in categories:
            self.categories.setdefault(category, len(self.categories) + 1)
            self.annotations += 1


def to_coco(
    images: ImageAnswers,
    *,
    labels: Mapping[str, str] | None = None,
    instances: bool = False,
    min_area: float = 1,
    polygons: bool = False,
) -> dict[str, Any]:
    """Return a COCO data set; `json.dump` writes it.

    Args:
        images: file name of each image, as it shall stand in the file, and its results.
        labels: category of each expression; None, or no label: the expression.
        instances: whether each 8-connected part of a mask is an annotation of its own.
        min_area: smallest area in pixels of such a part; smaller ones are left out.
        polygons: polygons in pixels, from edge to edge, instead of run-length encodings, which every program reads
            exactly; needs the extra `[coco]`.

    Raises:
        TypeError, ValueError: `images` or `labels` have another form.
        MissingExtraError: pycocotools is not installed.
    """
    options = ShapeOptions(Instances(instances, min_area), true_or_false("polygons", polygons))
    require_coco_tools(options)
    ids = CocoIds()
    answers: list[CocoAnswer] = []
    for name, image_answers in answers_by_image(images, labels):
        ids.add(name, [answer.category for answer in image_answers])
        answers += [CocoAnswer.of(number, answer) for number, answer in enumerate(image_answers, 1)]
    data: dict[str, Any] = json.loads(b"".join(coco_file(answers, ids, options)))
    return data


def coco_file(
    answers: Iterable[CocoAnswer], ids: CocoIds, options: ShapeOptions, beginning: bytes = _BEGINNING
) -> Iterator[bytes]:
    """Yield the content of a COCO file in pieces, so that the whole file is never in memory.

    Args:
        answers: grouped by image; iterated over once.
        ids: of all images and categories; images without an id get one.
        options: how masks become annotations.
        beginning: of the file, up to the annotations.
    """
    images: list[bytes] = []
    categories: dict[str, int] = {}  # of these answers; other shards have others
    instance = ids.first_instance
    separator = b"\n"
    yield beginning + b'"annotations": ['
    for image, group in groupby(answers, key=lambda answer: answer.image):
        image_answers = list(group)
        ids.add(image, [answer.category for answer in image_answers])  # an image that is no longer in the input
        for answer in image_answers:
            category = categories[answer.category] = ids.categories[answer.category]
            first = instance if options.instances.each_part else ids.first_annotations[image] + answer.number - 1
            head = {"image_id": ids.images[image], "category_id": category}
            for number, shape in enumerate(_shapes(answer, options), first):
                yield separator + json.dumps({"id": number, **head, **shape, "score": answer.score}).encode()
                separator = b",\n"
                instance += 1
        size = {"width": image_answers[0].width, "height": image_answers[0].height}
        images.append(json.dumps({"id": ids.images[image], "file_name": image, **size}).encode())
    yield b'\n],\n"images": [\n' + b",\n".join(images) + b'\n],\n"categories": [\n'
    yield b",\n".join(json.dumps({"id": number, "name": name}).encode() for name, number in categories.items())
    yield b"\n]}\n"


def _shapes(answer: CocoAnswer, options: ShapeOptions) -> Iterator[dict[str, Any]]:
    """Yield segmentation, area, box and crowd flag of each annotation of an answer."""
    if answer.mask_box is None:
        return
    if not options.instances.each_part and not options.polygons:
        yield _encoded_shape(answer.mask, answer.mask_box)
        return
    for part in options.instances.of(answer.load()):
        polygons = part.polygons() if options.polygons else []
        if polygons:
            yield _polygon_shape(polygons, answer.height, answer.width)
        elif part.mask_box is not None:  # also a mask that is too small for a polygon
            yield _encoded_shape(rle_encode(part.mask), part.mask_box)


def _encoded_shape(mask: Rle, box: IntBox) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    area = sum(rle_runs(str(mask["counts"]))[1::2])
    return {"segmentation": mask, "area": area, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}


def _polygon_shape(polygons: list[list[float]], height: int, width: int) -> dict[str, Any]:
    tools = _import_coco_tools()
    mask = tools.merge(tools.frPyObjects(polygons, height, width))
    box = [float(value) for value in tools.toBbox(mask)]
    return {"segmentation": polygons, "area": int(tools.area(mask)), "bbox": box, "iscrowd": 0}


def require_coco_tools(options: ShapeOptions) -> None:
    """Check before the work that the package which measures polygons is installed.

    Raises:
        MissingExtraError: it is not; the message names the extra.
    """
    if options.polygons:
        _import_coco_tools()


def _import_coco_tools() -> Any:
    try:
        import pycocotools.mask
    except ImportError as error:
        raise missing_extra("a COCO file with polygons", "pycocotools", "coco", error) from error
    return pycocotools.mask
