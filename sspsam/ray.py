"""`run_batch_on_ray` and `Cluster` under their documented import path; the code is in `sspsam.batch.ray`."""

from sspsam.batch.ray import Cluster, run_batch_on_ray

__all__ = ["Cluster", "run_batch_on_ray"]
