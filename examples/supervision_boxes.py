"""Answers as `supervision.Detections`: masks, boxes and labels drawn by supervision (extra `[supervision]`).

python examples/supervision_boxes.py IMAGE OUT.png TEXT ... [--model NAME]
"""

import argparse

import numpy as np
import supervision as sv
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.segmentation import to_supervision

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("target")
parser.add_argument("texts", nargs="+", metavar="TEXT")
parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
arguments = parser.parse_args()

results = SSPSAMPredictor.from_pretrained(arguments.model).predict(arguments.texts, image=arguments.image)
detections = to_supervision(results)  # an answer without a target gives no row
scene = np.ascontiguousarray(results[0].pixels[..., ::-1])  # the upright image; supervision draws in BGR
for annotator in (sv.MaskAnnotator(), sv.BoxAnnotator(), sv.LabelAnnotator()):
    scene = annotator.annotate(scene, detections)
Image.fromarray(scene[..., ::-1]).save(arguments.target)
for name, box in zip(detections.data["class_name"], detections.xyxy, strict=True):
    print(name, box.tolist(), sep="\t")
