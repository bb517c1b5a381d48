"""Segment a folder of images into masks and a COCO file, and list the images without a target and those that failed.

python examples/folder.py FOLDER OUTPUT TEXT ... [--model NAME]

The same command resumes an interrupted run. `sspsam batch` does the same on the command line.
"""

import argparse
import json
from pathlib import Path

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.batch import BatchOptions, run_batch

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("output", type=Path)
parser.add_argument("texts", nargs="+", metavar="TEXT")
parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
arguments = parser.parse_args()

predictor = SSPSAMPredictor.from_pretrained(arguments.model)
options = BatchOptions(formats=("mask", "coco"))
run_batch(arguments.folder, arguments.output, arguments.texts, predictor=predictor, options=options, progress=True)

for line in (arguments.output / "results.jsonl").read_text().splitlines():
    record = json.loads(line)
    result = Segmentation.from_dict(record)
    share = result.mask.mean()
    print(f"{record['image']}: {result.text}: {'nothing' if result.no_target else f'{share:.1%} of the image'}")
errors = arguments.output / "errors.jsonl"
for line in errors.read_text().splitlines() if errors.exists() else []:
    print("failed:", json.loads(line)["image"], json.loads(line)["message"])
