"""Add masks to a Ray data set of images, with one model for each actor, and write Parquet (extra `[ray]`).

python examples/ray_data.py FOLDER OUTPUT TEXT [--model NAME] [--actors N] [--gpus-per-actor G]

`sspsam batch --ray` does whole batches with resuming; this is for a step in a data pipeline of your own.
"""

import argparse
from typing import Any

import ray

from sspsam import SSPSAMPredictor


class Segmenter:
    def __init__(self, model: str, text: str) -> None:
        self.predictor, self.text = SSPSAMPredictor.from_pretrained(model), text

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = self.predictor.predict(self.text, image=row["bytes"])
        return {"path": row["path"], **result.to_dict()}  # the mask as COCO run-length encoding


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("text")
    parser.add_argument("--model", default="ssp-sam-224-grefcoco", help="shapes: drawn scenes only")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus-per-actor", type=float, default=0)
    arguments = parser.parse_args()
    images = ray.data.read_binary_files(arguments.folder, include_paths=True, file_extensions=["jpg", "jpeg", "png"])
    resources = {"concurrency": arguments.actors, "num_gpus": arguments.gpus_per_actor}
    model = {"model": arguments.model, "text": arguments.text}
    images.map(Segmenter, fn_constructor_kwargs=model, **resources).write_parquet(arguments.output)
