"""Answers as `supervision.Detections` (extra `[supervision]`), for its annotators, trackers and metrics."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sspsam.segmentation.exports.images import answers_by_image
from sspsam.segmentation.result import Segmentation
from sspsam.utils.installing import missing_extra

if TYPE_CHECKING:
    import supervision


def to_supervision(
    results: Segmentation | Sequence[Segmentation], *, labels: Mapping[str, str] | None = None
) -> "supervision.Detections":
    """Return the answers about one image as detections.

    Args:
        results: about one image.
        labels: category of each expression; None, or no label: the expression.

    Returns:
        A row for each answer with a target: `xyxy`, tight box around the mask; `mask`; `confidence`, the score, which
        is SAM's prediction of the IoU and no probability; `class_id`, index of the category among the categories of all
        answers, in their order; `data["class_name"]`, the category.

    Raises:
        MissingExtraError: supervision is not installed.
        ValueError: there are no results, or they belong to images of different sizes.
    """
    tools = _import_supervision()
    [(_, answers)] = answers_by_image({"the image": results}, labels)
    categories: dict[str, int] = {}
    for answer in answers:
        categories.setdefault(answer.category, len(categories))
    found = [answer for answer in answers if answer.result.mask_box is not None]
    masks = [answer.result.mask for answer in found]
    return tools.Detections(
        xyxy=np.array([answer.result.mask_box for answer in found], dtype=np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else np.zeros((0, *answers[0].result.mask.shape), dtype=np.bool_),
        confidence=np.array([answer.result.score for answer in found], dtype=np.float32),
        class_id=np.array([categories[answer.category] for answer in found], dtype=np.int64),
        data={"class_name": np.array([answer.category for answer in found], dtype=str)},
    )


def _import_supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise missing_extra("to_supervision", "supervision", "supervision", error) from error
    return supervision
