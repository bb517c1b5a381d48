"""The no-target rules: the authors' rule about foreground pixels, and the probability of presence of a calibration."""

from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sspsam.images.preprocessing import Geometry
from sspsam.segmentation.calibration import Calibration
from sspsam.segmentation.features import answer_features


@overload
def is_no_target(foreground_pixels: int, limit: int) -> bool: ...
@overload
def is_no_target(foreground_pixels: NDArray[np.float32], limit: int) -> NDArray[np.bool_]: ...
def is_no_target(foreground_pixels: int | NDArray[np.float32], limit: int) -> bool | NDArray[np.bool_]:
    """Apply the authors' rule: fewer foreground pixels than the limit mean no target.

    Args:
        foreground_pixels: pixels with a probability of at least 0.5 in the authors' frame; a number or an array.
        limit: `no_target_pixels` of the model or of a call.
    """
    return foreground_pixels < limit


class Decisions(NamedTuple):
    """The no-target decisions about E expressions, and the numbers behind them.

    Args:
        has_target: (E,) bool, before a look at the masks.
        needs_mask: whether an expression whose mask is empty has no target either.
        features: (E, F), see `features.FEATURES`; None if they were not computed.
        presence: (E,) probabilities; None without a calibration.
    """

    has_target: NDArray[np.bool_]
    needs_mask: bool
    features: NDArray[np.float64] | None
    presence: NDArray[np.float64] | None

    def no_target(self, row: int, *, mask_is_empty: bool) -> bool:
        """Return whether one expression has no target.

        Args:
            row: of the expression.
            mask_is_empty: whether no pixel of the image reaches `mask_threshold`.
        """
        return not self.has_target[row] or (self.needs_mask and mask_is_empty)


@dataclass(frozen=True)
class TargetRule:
    """The no-target rule of one call of `predict`.

    Args:
        no_target_pixels: fewer foreground pixels in the authors' frame mean no target.
        presence_threshold: instead, a smaller probability of presence, or an empty mask, means no target; None: the
            rule about pixels.
        with_features: whether features are wanted without a calibration, too.
        calibration: of the model, if there is one.
    """

    no_target_pixels: int
    presence_threshold: float | None
    with_features: bool
    calibration: Calibration | None

    @property
    def needs_features(self) -> bool:
        """True if features are computed."""
        return self.with_features or self.calibration is not None

    def decide(
        self,
        table: NDArray[np.float32],
        foreground: NDArray[np.bool_] | None,
        *,
        geometry: Geometry,
        sam_size: int,
        clip_size: int,
    ) -> Decisions:
        """Decide about E expressions.

        Args:
            table: (E, any), the summary of the answers; see `summary.summarize`.
            foreground: (E, M, M) bool, the low-resolution foreground; None: no features are computed.
            geometry: of the image.
            sam_size: side of SAM's square, pixels.
            clip_size: side of CLIP's square, pixels.
        """
        features, presence = None, None
        if foreground is not None:
            features = answer_features(table, foreground, geometry, sam_size, clip_size)
        if features is not None and self.calibration is not None:
            presence = self.calibration.probabilities(features)
        if self.presence_threshold is None or presence is None:
            return Decisions(~is_no_target(table[:, 1], self.no_target_pixels), False, features, presence)
        return Decisions(presence >= self.presence_threshold, True, features, presence)
