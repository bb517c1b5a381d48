"""Several replicas of the server on a Ray cluster: the application of `sspsam serve`, behind Ray Serve.

serve run examples.serve_ray:deployment                        # with ray[serve], from the folder of the checkout
MODEL=ssp-sam-224-grefcoco REPLICAS=4 GPUS=1 serve run examples.serve_ray:deployment

A replica keeps its images to itself, so clients of several replicas send the image with each question (/v1/segment).
For questions by id, one replica behind each route prefix is the simplest way: its ids begin with its `replica`.
"""

import os

from ray import serve

from sspsam import SSPSAMPredictor
from sspsam.serving.app import create_app
from sspsam.serving.options import ServeOptions

MODEL = os.environ.get("MODEL", "shapes")
REPLICAS = int(os.environ.get("REPLICAS", "2"))
RESOURCES = {"num_cpus": 1, "num_gpus": float(os.environ.get("GPUS", "0"))}


def application():
    options = ServeOptions(token=os.environ.get("SSPSAM_SERVE_TOKEN"), queue_length=64)
    return create_app(lambda: SSPSAMPredictor.from_pretrained(MODEL), options)  # loaded once in each replica


@serve.deployment(num_replicas=REPLICAS, ray_actor_options=RESOURCES, max_ongoing_requests=64)
@serve.ingress(application)
class Server:
    def check_health(self) -> None:  # Ray replaces a replica whose check raises
        pass


deployment = Server.bind()
