"""Logits -> mask, box and score: `Segmentation`, polygons, run-length encoding, drawings, and views in a notebook."""

from sspsam.segmentation.drawing import draw
from sspsam.segmentation.notebook import show
from sspsam.segmentation.polygons import mask_to_polygons, polygons_to_mask
from sspsam.segmentation.result import Explanation, Segmentation

__all__ = ["Explanation", "Segmentation", "draw", "mask_to_polygons", "polygons_to_mask", "show"]
