"""Logits -> mask, box and score: `Segmentation`, run-length encoding, overlays."""

from sspsam.segmentation.result import Explanation, Segmentation

__all__ = ["Explanation", "Segmentation"]
