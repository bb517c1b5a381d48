"""Files of one answer, as `sspsam segment` and `sspsam batch` write them: their suffixes and their content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from sspsam.segmentation.result import Segmentation, mask_image, png_bytes

AnswerFormat = Literal["mask", "overlay", "cutout", "json", "polygons"]
# the name of a file is the name of the image, `-`, the number of the expression and one of these
ANSWER_SUFFIXES: Final[Mapping[AnswerFormat, str]] = MappingProxyType(
    {
        "mask": ".png",
        "overlay": ".overlay.png",
        "cutout": ".cutout.png",
        "json": ".json",
        "polygons": ".polygons.json",
    }
)
_POLYGONS_VERSION: Final = 1


@dataclass(frozen=True)
class NamedAnswer:
    """An answer together with the names that files about it contain.

    Args:
        image: name of the image.
        label: category of the target; None: the expression is the category.
        result: the answer.
    """

    image: str
    label: str | None
    result: Segmentation

    @property
    def category(self) -> str:
        """Label of the target, or the expression where there is no label."""
        return self.result.text if self.label is None else self.label


def answer_file(kind: AnswerFormat, answer: NamedAnswer) -> bytes:
    """Return the content of a file about one answer.

    Args:
        kind: `"mask"`, 255 inside and 0 outside; `"overlay"`, the image with the mask tinted; `"cutout"`, the target
            on a transparent background; `"json"`, `Segmentation.to_dict()` with image and label; `"polygons"`, outlines
            in pixels.
        answer: the answer.

    Raises:
        ImageError: an overlay or a cut-out of a result that has no image.
    """
    result = answer.result
    match kind:
        case "mask":
            return png_bytes(mask_image(result.mask))
        case "overlay":
            return png_bytes(result.overlay())
        case "cutout":
            return png_bytes(result.cutout())
        case "json":
            label = {} if answer.label is None else {"label": answer.label}
            return (json.dumps({"image": answer.image, **label, **result.to_dict()}) + "\n").encode()
        case "polygons":
            return (json.dumps(_polygons(answer)) + "\n").encode()


def _polygons(answer: NamedAnswer) -> dict[str, object]:
    """Return the outlines of an answer as JSON values; see `Segmentation.polygons` for their frame."""
    result = answer.result
    return {
        "version": _POLYGONS_VERSION,
        "image": answer.image,
        "text": result.text,
        "label": answer.category,
        "no_target": result.no_target,
        "score": result.score,
        "width": result.mask.shape[1],
        "height": result.mask.shape[0],
        "polygons": result.polygons(),
    }
