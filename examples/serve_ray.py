"""Several replicas of the server on a Ray cluster: the application of `sspsam serve`, behind Ray Serve.

serve run examples.serve_ray:deployment                  # with ray[serve], in the folder of the checkout
MODEL=ssp-sam-224-grefcoco REPLICAS=4 GPUS=1 serve run examples.serve_ray:deployment

A replica keeps its images to itself, and their ids begin with its name: clients send the image with each question
(/v1/segment), or a proxy in front sends questions by id to the replica of that name.
"""

import os

from ray import serve

from sspsam import SSPSAMPredictor
from sspsam.serving.app import ServingApp, create_app
from sspsam.serving.options import ServeOptions

MODEL = os.environ.get("MODEL", "shapes")
REPLICAS = int(os.environ.get("REPLICAS", "2"))
RESOURCES = {"num_cpus": 1, "num_gpus": float(os.environ.get("GPUS", "0"))}


def application() -> ServingApp:
    """Load the model; Ray calls this once in each replica, and sends requests to it afterwards."""
    name = serve.get_replica_context().replica_id.unique_id
    options = ServeOptions(token=os.environ.get("SSPSAM_SERVE_TOKEN"), replica=f"{name}.")
    return create_app(SSPSAMPredictor.from_pretrained(MODEL), options)


@serve.deployment(num_replicas=REPLICAS, ray_actor_options=RESOURCES, max_ongoing_requests=64)
@serve.ingress(application)
class Server:
    pass


deployment = Server.bind()
