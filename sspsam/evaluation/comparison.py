"""Differences between answers and reference answers, and the tolerances of the self-test."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.segmentation.result import Segmentation

FLOAT32_LOGITS: Final = 1e-3  # largest difference of low-resolution logits in float32
FLOAT32_SCORE: Final = 1e-3  # largest difference of scores in float32
FLOAT32_BOX: Final = 0.1  # largest difference of box coordinates in float32, pixels
HALF_PIXELS: Final = 1e-3  # share of all mask pixels that may change in float16 and bfloat16


@dataclass(frozen=True, eq=False)
class ReferenceAnswer:
    """The answer to one expression that other answers are compared with.

    Args:
        low_res_logits: (M, M) float32.
        mask: (h, w) bool, at the size of the image.
        no_target: whether the expression refers to nothing in the image.
        score: SAM's predicted IoU.
        box: x0, y0, x1, y1 of the box head in pixels of the upright image.
    """

    low_res_logits: NDArray[np.float32]
    mask: NDArray[np.bool_]
    no_target: bool
    score: float
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, result: Segmentation) -> Self:
        """Take the answer from a result of `predict(..., return_logits="low_res")`."""
        return cls(_logits(result), result.mask, result.no_target, result.score, result.box)


@dataclass(frozen=True)
class Differences:
    """Largest differences between answers and references, over all questions.

    Args:
        max_logit_difference: of the low-resolution logits.
        max_score_difference: of SAM's predicted IoU.
        max_box_difference: of the coordinates of the box head, pixels.
        mask_pixels_changed: pixels at which the masks differ, at the size of the image.
        mask_pixels: pixels of all masks, foreground and background.
        no_target_changed: questions of which only one of the two answers is a no-target answer.
        questions: number of questions.
    """

    max_logit_difference: float = 0.0
    max_score_difference: float = 0.0
    max_box_difference: float = 0.0
    mask_pixels_changed: int = 0
    mask_pixels: int = 0
    no_target_changed: int = 0
    questions: int = 0

    @classmethod
    def between(cls, results: Sequence[Segmentation], references: Sequence[ReferenceAnswer]) -> Self:
        """Compare results of `predict(..., return_logits="low_res")` with the references in the same order."""
        pairs = list(zip(results, references, strict=True))
        return cls(
            _maximum(_largest(_logits(result), reference.low_res_logits) for result, reference in pairs),
            _maximum(abs(result.score - reference.score) for result, reference in pairs),
            _maximum(_largest(np.array(result.box), np.array(reference.box)) for result, reference in pairs),
            sum(int((result.mask != reference.mask).sum()) for result, reference in pairs),
            sum(reference.mask.size for _, reference in pairs),
            sum(result.no_target != reference.no_target for result, reference in pairs),
            len(pairs),
        )

    def __add__(self, other: "Differences") -> "Differences":
        """Join the differences of two sets of questions."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        joined: dict[str, Any] = {
            name: (_maximum if name.startswith("max_") else sum)((ours[name], theirs[name])) for name in ours
        }
        return Differences(**joined)

    def beyond_tolerance(self, dtype: torch.dtype) -> list[str]:
        """Return a clause for each difference that is larger than `dtype`, the precision of the answers, allows."""
        found = []
        if dtype is torch.float32:
            for name, value, limit in (
                ("logits", self.max_logit_difference, FLOAT32_LOGITS),
                ("scores", self.max_score_difference, FLOAT32_SCORE),
                ("boxes", self.max_box_difference, FLOAT32_BOX),
            ):
                if not value <= limit:
                    found.append(f"{name} differ by {value:.2g}, more than {limit:g}")
        elif self.mask_pixels_changed > HALF_PIXELS * self.mask_pixels:
            share = self.mask_pixels_changed / self.mask_pixels
            found.append(f"{share:.2%} of the mask pixels changed, more than {HALF_PIXELS:.1%}")
        if self.no_target_changed:
            found.append(f"{self.no_target_changed} of {self.questions} no-target answers changed")
        return found


def _maximum(values: Iterable[float]) -> float:
    """Return the largest value, 0 if there is none; NaN if one is NaN, which Python's `max` would lose."""
    return float(np.max(list(values), initial=0.0))


def _logits(result: Segmentation) -> NDArray[np.float32]:
    if result.low_res_logits is None:
        raise ValueError('the result has no logits: call predict with return_logits="low_res"')
    return result.low_res_logits


def _largest(values: NDArray[np.floating], references: NDArray[np.floating]) -> float:
    return float(np.abs(values.astype(np.float64) - references).max())
