"""The lines that a model is most wrong about or least sure of, as overlays and as files to correct by hand.

A line of the training that the model still gets wrong is often annotated wrongly. The files hold the annotations, not
the answers: what is right needs no work.
"""

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sspsam.evaluation.datasets.entry import Entry
from sspsam.finetuning.checks import CheckedLine
from sspsam.finetuning.corrections import DIGEST, FILE, FOLDER, TEXTS
from sspsam.finetuning.validation import CertainAnswer, Validator
from sspsam.images.loading import Pixels, load_image
from sspsam.segmentation.drawing import draw
from sspsam.segmentation.exports.label_studio import to_label_studio
from sspsam.segmentation.exports.labelme import to_labelme
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.segmentation.result import Segmentation
from sspsam.utils.arrays import Mask
from sspsam.utils.files import make_directory, replace_file, storage_errors
from sspsam.utils.paths import shown

LABELME: Final = "labelme"
LABEL_STUDIO: Final = "label-studio.json"
_MOST_LINES: Final = 5000  # that are answered to find the worst
_LONGEST_NAME: Final = 250  # bytes, so that the suffix .json has room
_HEADER: Final = 22  # pixels above the two halves of an overlay


@dataclass(frozen=True, eq=False)
class BadLine:
    """A line and the answer to it.

    Args:
        line: with its annotation.
        trains: whether the line was learned from.
        iou: of the answer and the annotation; of two empty masks 1.
        answer: of the model.
    """

    line: CheckedLine
    trains: bool
    iou: float
    answer: CertainAnswer

    @property
    def goodness(self) -> float:
        """Smaller of the IoU and the certainty."""
        return min(self.iou, self.answer.certainty)


def worst_lines(
    train: Sequence[CheckedLine], held_out: Sequence[CheckedLine], validator: Validator, count: int
) -> list[BadLine]:
    """Answer lines and return the worst of them, the worst first.

    Args:
        train: lines that were learned from; of more than 5,000 lines the first are answered.
        held_out: lines that were not.
        validator: with the model.
        count: of the lines to return.
    """
    by_image: dict[str, list[tuple[CheckedLine, bool]]] = {}
    lines = [*((line, False) for line in held_out), *((line, True) for line in train)]
    for line, trains in lines[:_MOST_LINES]:
        by_image.setdefault(line.image, []).append((line, trains))
    bad = []
    for image, group in by_image.items():
        answers = validator.certain_answers(image, [line.entry for line, _ in group])
        for (line, trains), answer in zip(group, answers, strict=True):
            bad.append(BadLine(line, trains, _iou(line.entry, answer), answer))
    return sorted(bad, key=lambda line: line.goodness)[:count]


def remove_worst(folder: Path) -> None:
    """Remove what `write_worst` wrote for an earlier checkpoint."""
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)


def write_worst(folder: Path, lines: Sequence[BadLine]) -> None:
    """Write `worst.jsonl`, overlays, files for LabelMe with their images, and tasks for Label Studio.

    Args:
        folder: replaced if it exists.
        lines: from `worst_lines`.
    """
    remove_worst(folder)
    make_directory(folder / LABELME)
    names: dict[str, str] = {}
    annotations: dict[str, list[Segmentation]] = {}
    listed = []
    for number, bad in enumerate(lines, 1):
        entry = bad.line.entry
        pixels = load_image(entry.image_input)
        if bad.line.image not in names:
            name = names[bad.line.image] = _name_of_copy(len(names) + 1, entry.image.name)
            _copy_image(entry, folder / LABELME / name)
        annotation = _segmentation(entry.text, entry.mask(), pixels)
        annotations.setdefault(names[bad.line.image], []).append(annotation)
        replace_file(folder / f"{number:03d}.png", _overlay(annotation, bad, pixels))
        listed.append(json.dumps(_listed(number, bad)))
    replace_file(folder / "worst.jsonl", "".join(f"{line}\n" for line in listed).encode())
    _write_labelme(folder / LABELME, annotations)
    tasks = _tasks(annotations, folder, {name: image for image, name in names.items()})
    replace_file(folder / LABEL_STUDIO, (json.dumps(tasks, indent=1) + "\n").encode())


def _name_of_copy(number: int, name: str) -> str:
    """Return a number with the name of an image, or with its suffix alone where the name is too long."""
    if Path(name).suffix.lower() == ".json":  # the name of LabelMe's file for the copy
        return f"{number:03d}-image"
    numbered = f"{number:03d}-{name}"
    return numbered if len(os.fsencode(numbered)) <= _LONGEST_NAME else f"{number:03d}{Path(name).suffix[:20]}"


def _copy_image(entry: Entry, path: Path) -> None:
    if entry.embedded is not None:
        replace_file(path, entry.embedded.read())
        return
    with storage_errors(path):
        shutil.copyfile(entry.image, path)


def _write_labelme(folder: Path, annotations: dict[str, list[Segmentation]]) -> None:
    for name, content in to_labelme(annotations).items():
        image = next(image for image in annotations if Path(image).with_suffix(".json").name == name)
        # a flag says that an expression refers to nothing
        content["flags"] = {result.text: result.no_target for result in annotations[image]}
        content[TEXTS] = list(content["flags"])
        replace_file(folder / name, (json.dumps(content, indent=1) + "\n").encode())


def _tasks(annotations: dict[str, list[Segmentation]], folder: Path, digests: dict[str, str]) -> list[dict[str, Any]]:
    """Return tasks of Label Studio for images that are served from the folder of LabelMe.

    Args:
        annotations: by the name of the image.
        folder: of the worst lines.
        digests: SHA-256 of each image file, by its name.
    """
    urls = {
        f"/data/local-files/?d={LABELME}/{quote(os.fsencode(name))}": results for name, results in annotations.items()
    }
    tasks = to_label_studio(urls, model_version="annotation")
    for task, (name, results) in zip(tasks, annotations.items(), strict=True):
        written = {FILE: f"{LABELME}/{name}", FOLDER: os.path.abspath(folder), DIGEST: digests[name]}
        task["data"] |= written | {TEXTS: [result.text for result in results]}
    return tasks


def _listed(number: int, bad: BadLine) -> dict[str, Any]:
    return {
        "number": number,
        "line": bad.line.where,
        "image": str(bad.line.entry.image),
        "text": bad.line.entry.text,
        "iou": round(bad.iou, 4),
        "certainty": round(bad.answer.certainty, 4),
        "no_target": bad.line.entry.no_target,
        "predicted_no_target": bad.answer.no_target,
        "trains": bad.trains,
    }


def _segmentation(text: str, mask: Mask, pixels: Pixels) -> Segmentation:
    """Return a mask as an answer, for drawing and exports."""
    box = box_of_mask(mask)
    return Segmentation(text, mask, box is None, int(mask.sum()), 1.0, box or (0, 0, 0, 0), box, pixels=pixels)


def _overlay(annotation: Segmentation, bad: BadLine, pixels: Pixels) -> bytes:
    """Draw the annotation and the answer side by side; PNG."""
    mask = np.zeros_like(bad.answer.mask) if bad.answer.no_target else bad.answer.mask
    answer = _segmentation(annotation.text, mask, pixels)
    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (2 * width + 4, height + _HEADER), "white")
    text, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    titles = (
        f"annotation ({shown(bad.line.where)})",
        f"answer, IoU {bad.iou:.2f}, certainty {bad.answer.certainty:.2f}",
    )
    for x, title, result in ((0, titles[0], annotation), (width + 4, titles[1], answer)):
        canvas.paste(draw(pixels, result), (x, _HEADER))
        text.text((x + 3, 3), _fitting(title, font, text, width - 6), fill=(30, 30, 30), font=font)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _fitting(title: str, font: Any, draw: ImageDraw.ImageDraw, width: int) -> str:
    """Cut the beginning of a title until it fits into so many pixels."""
    if draw.textlength(title, font=font) <= width:
        return title
    while title and draw.textlength("..." + title, font=font) > width:
        title = title[1:]
    return "..." + title


def _iou(entry: Entry, answer: CertainAnswer) -> float:
    """IoU as in GRES: 1 where neither has a target, 0 where one of them has none."""
    if entry.no_target or answer.no_target:
        return float(entry.no_target and answer.no_target)
    truth = entry.mask()
    return float((truth & answer.mask).sum() / max(1, int((truth | answer.mask).sum())))
