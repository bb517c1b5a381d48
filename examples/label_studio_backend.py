"""A machine-learning backend of Label Studio that proposes polygons for the labels of a project.

    pip install git+https://github.com/HumanSignal/label-studio-ml-backend  # 2.0; the package index has 1.0 only
    LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY=... python examples/label_studio_backend.py

The labelling interface has an `Image` and `PolygonLabels`; the names of the labels are the expressions.
"""

import os
from typing import Any

from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

from sspsam import SSPSAMPredictor
from sspsam.segmentation import to_label_studio

predictor = SSPSAMPredictor.from_pretrained(os.environ.get("SSPSAM_MODEL", "ssp-sam-224-grefcoco"))
VERSION = f"sspsam {predictor.fingerprint[:12]}"


class Backend(LabelStudioMLBase):
    def setup(self) -> None:
        self.set("model_version", VERSION)

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **options: Any) -> list[dict[str, Any]]:
        from_name, to_name, value = self.get_first_tag_occurence("PolygonLabels", "Image")
        texts = list(self.parsed_label_config[from_name]["labels"])
        names = {"from_name": from_name, "to_name": to_name, "model_version": VERSION}
        predictions = []
        for task in tasks:
            path = self.get_local_path(task["data"][value], task_id=task.get("id"))
            [proposal] = to_label_studio({path: predictor.predict(texts, image=path)}, **names)
            predictions += proposal["predictions"]
        return predictions


if __name__ == "__main__":
    init_app(model_class=Backend).run(host="127.0.0.1", port=9090)
