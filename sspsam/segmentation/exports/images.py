"""Answers about several images, as all exports take them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sspsam.segmentation.exports.answer_files import NamedAnswer
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.runs import component_masks
from sspsam.utils.arguments import real_number, true_or_false
from sspsam.utils.paths import shown, shown_repr

ImageAnswers = Mapping[str, Segmentation | Sequence[Segmentation]]


@dataclass(frozen=True)
class Instances:
    """Division of a mask into the masks of annotations.

    Args:
        each_part: whether each 8-connected part of a mask is an instance; otherwise the whole mask is one.
        min_area: smallest area in pixels of a part that is an instance; smaller parts are left out.
    """

    each_part: bool = False
    min_area: float = 1

    def __post_init__(self) -> None:
        true_or_false("instances", self.each_part)
        real_number("min_area", self.min_area, 0)

    def of(self, result: Segmentation) -> Iterator[Segmentation]:
        """Yield the instances of an answer, one at a time, since each has a mask of the image's size."""
        if result.mask_box is None:
            return
        if not self.each_part:
            yield result
            return
        for mask, box in component_masks(result.mask, self.min_area):
            yield dataclasses.replace(result, mask=mask, mask_box=box)


def answers_by_image(
    images: ImageAnswers, labels: Mapping[str, str] | None = None
) -> Iterator[tuple[str, list[NamedAnswer]]]:
    """Yield each image with its answers; see `to_coco` for the arguments.

    Raises:
        TypeError: `images` is not a mapping from file names to results; the message shows the form.
            The same for `labels`.
        ValueError: an image has no results, or results of different sizes; or a label is empty.
    """
    if not isinstance(images, Mapping):
        raise TypeError(
            "give the results of each image under its file name, such as {'photo.jpg': results}, not "
            f"{type(images).__name__}"
        )
    if labels is not None and not isinstance(labels, Mapping):
        raise TypeError(
            f"labels must give the label of each expression, such as {{'the mug': 'mug'}}, not {type(labels).__name__}"
        )
    for text, label in (labels or {}).items():
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"the label of {shown_repr(text)} must be a name such as 'mug', not {shown_repr(label)}")
    for name, results in images.items():
        yield str(name), _answers(str(name), results, labels or {})


def _answers(name: str, results: Segmentation | Sequence[Segmentation], labels: Mapping[str, str]) -> list[NamedAnswer]:
    listed = list(results) if isinstance(results, Iterable) else [results]
    if not all(isinstance(result, Segmentation) for result in listed):
        raise TypeError(f"the results of {shown(name)} must be a Segmentation or a list of them")
    if not listed:
        raise ValueError(f"{shown(name)} has no results, so that its size is not known: leave the image out")
    if len({result.mask.shape for result in listed}) > 1:
        raise ValueError(f"the results of {shown(name)} have masks of different sizes: give each image its own name")
    return [NamedAnswer(name, labels.get(result.text), result) for result in listed]
