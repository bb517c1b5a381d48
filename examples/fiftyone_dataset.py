"""Look through the answers about a folder of images in the FiftyOne app (`pip install fiftyone`).

python examples/fiftyone_dataset.py FOLDER TEXT ... [--model NAME] [--no-app]
"""

import argparse

import fiftyone as fo

from sspsam import Segmentation, SSPSAMPredictor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder")
parser.add_argument("texts", nargs="+", metavar="TEXT")
parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
parser.add_argument("--no-app", action="store_true")
arguments = parser.parse_args()


def detection(result: Segmentation) -> fo.Detection:
    height, width = result.mask.shape
    x0, y0, x1, y1 = result.mask_box
    box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
    return fo.Detection(label=result.text, bounding_box=box, mask=result.mask[y0:y1, x0:x1], score=result.score)


predictor = SSPSAMPredictor.from_pretrained(arguments.model)
dataset = fo.Dataset.from_images_dir(arguments.folder)
answers = predictor.predict_batch(dataset.values("filepath"), arguments.texts)
for sample, results in zip(dataset, answers, strict=True):
    found = [detection(result) for result in results if result.mask_box is not None]
    sample["sspsam"] = fo.Detections(detections=found)
    sample["absent"] = [result.text for result in results if result.no_target]
    sample.save()
print(dataset.count("sspsam.detections"), "masks in", len(dataset), "images")
if not arguments.no_app:
    fo.launch_app(dataset).wait()
