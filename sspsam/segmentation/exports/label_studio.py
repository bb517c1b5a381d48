"""Tasks of Label Studio with predictions, which annotators accept or correct."""

from collections.abc import Mapping
from typing import Any

from sspsam._version import __version__
from sspsam.segmentation.exports.answer_files import NamedAnswer
from sspsam.segmentation.exports.images import ImageAnswers, answers_by_image


def to_label_studio(
    images: ImageAnswers,
    *,
    labels: Mapping[str, str] | None = None,
    from_name: str = "label",
    to_name: str = "image",
    model_version: str = f"sspsam {__version__}",
) -> list[dict[str, Any]]:
    """Return tasks with predictions for Label Studio; `json.dump` writes the file to import.

    The project needs a labelling interface such as
    `<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image"/></View>`, with a `Label` for
    each label. Each 8-connected part of a mask is a polygon on the edges of pixels, as Label Studio draws it.

    Args:
        images: URL of each image as Label Studio shall load it, such as `/data/local-files/?d=photos/a.jpg`, and its
            results.
        labels: label of each expression; None, or no label: the expression.
        from_name: name of `PolygonLabels` in the labelling interface.
        to_name: name of `Image` in the labelling interface, and of its value.
        model_version: shown beside the predictions.

    Raises:
        TypeError, ValueError: `images` or `labels` have another form.
    """
    names = {"from_name": from_name, "to_name": to_name}
    tasks = []
    for url, answers in answers_by_image(images, labels):
        regions = [
            {"id": f"{number}-{part}", **names, **_region(polygon, answer)}
            for number, answer in enumerate(answers, 1)
            for part, polygon in enumerate(answer.result.polygons(), 1)
        ]
        predictions = [{"model_version": model_version, "result": regions}]
        tasks.append({"data": {to_name: url}, "predictions": predictions})
    return tasks


def _region(polygon: list[float], answer: NamedAnswer) -> dict[str, Any]:
    """Return a polygon, in percent of width and height, with its label and score."""
    height, width = answer.result.mask.shape
    points = [[100 * x / width, 100 * y / height] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
    return {
        "type": "polygonlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,  # the polygons belong to the upright image, which Label Studio shows
        "value": {"points": points, "closed": True, "polygonlabels": [answer.category]},
        "score": answer.result.score,
        "meta": {"text": [answer.result.text]},
    }
