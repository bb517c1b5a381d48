"""Logits -> mask, box and score: `Segmentation`, polygons, drawings, views in a notebook, files for other programs."""

from sspsam.segmentation.drawing import draw
from sspsam.segmentation.exports.coco import to_coco
from sspsam.segmentation.exports.label_studio import to_label_studio
from sspsam.segmentation.exports.labelme import to_labelme
from sspsam.segmentation.exports.supervision import to_supervision
from sspsam.segmentation.exports.yolo import to_yolo
from sspsam.segmentation.notebook import show
from sspsam.segmentation.polygons import mask_to_polygons, polygons_to_mask
from sspsam.segmentation.result import Explanation, Segmentation

__all__ = [
    "Explanation",
    "Segmentation",
    "draw",
    "mask_to_polygons",
    "polygons_to_mask",
    "show",
    "to_coco",
    "to_label_studio",
    "to_labelme",
    "to_supervision",
    "to_yolo",
]
