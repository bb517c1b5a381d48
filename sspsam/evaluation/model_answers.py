"""A predictor's answers about the expressions of a data set -> records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sspsam.errors import EvaluationError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.official import OfficialFrame, official_record
from sspsam.evaluation.protocols import OFFICIAL, image_record
from sspsam.evaluation.records import Record
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.target_rule import is_no_target
from sspsam.utils.paths import shown

# images that a GPU encodes together by default: a resumed run begins at a multiple, so that the batches stay the same
IMAGES_TOGETHER: Final = 4

Group = Sequence[int]
"""Indices of all expressions about one image."""


def model_records(
    predictor: SSPSAMPredictor,
    entries: Sequence[Entry],
    groups: Sequence[Group],
    protocol: str,
    *,
    torchvision_017: bool = False,
) -> Iterator[list[Record]]:
    """Answer the expressions of each image with one encode, while threads load the next images.

    Args:
        predictor: that answers.
        entries: of the split.
        groups: of the images to do, in order.
        protocol: one of `protocols.PROTOCOLS`.
        torchvision_017: see `OfficialFrame`.

    Yields:
        The records of each group.

    Raises:
        EvaluationError: an image has another size than its annotation.
        ImageError, TextError, NumericalError: as `SSPSAMPredictor.predict_batch`.
    """
    results = predictor.predict_batch(
        (entries[group[0]].image_input for group in groups),
        [[entries[index].text for index in group] for group in groups],
        no_target_pixels=0,  # the mask before the no-target rule
        return_logits="low_res" if protocol == OFFICIAL else None,
        return_features=True,
    )
    frame = OfficialFrame.of(predictor.config, torchvision_017)
    threshold = predictor.config.postprocessing.no_target_pixels
    for group, answers in zip(groups, results, strict=True):
        yield [
            replace(
                _record(index, entries[index], answer, frame if protocol == OFFICIAL else None, threshold),
                presence=answer.presence,
                features=_rounded(answer.features),
                fingerprint=predictor.fingerprint,
            )
            for index, answer in zip(group, answers, strict=True)
        ]


def _rounded(features: Mapping[str, float] | None) -> dict[str, float] | None:
    """Round features to the digits that float32 has, for shorter lines."""
    return None if features is None else {name: float(f"{value:.7g}") for name, value in features.items()}


def _record(
    index: int, entry: Entry, answer: Segmentation, frame: OfficialFrame | None, no_target_pixels: int
) -> Record:
    """Return the record of one answer, in the authors' frame if one is given."""
    if answer.mask.shape != entry.size:
        raise EvaluationError(
            f"{shown(entry.image)} has {answer.mask.shape[0]} x {answer.mask.shape[1]} pixels, its annotation "
            f"{entry.size[0]} x {entry.size[1]} (height x width): use the images of the data set"
        )
    if frame is not None:
        assert answer.low_res_logits is not None
        assert answer.box_fractions is not None
        record = official_record(index, entry.mask(), entry.box, answer.low_res_logits, answer.box_fractions, frame)
    else:
        record = image_record(
            index,
            entry.mask(),
            answer.mask,
            no_target=entry.no_target,
            predicted_no_target=is_no_target(answer.foreground_pixels, no_target_pixels),
            truth_box=entry.box,
            predicted_box=answer.box,
        )
        record = replace(record, foreground_pixels=answer.foreground_pixels)
    return replace(record, image=entry.image.name, text=entry.text)
