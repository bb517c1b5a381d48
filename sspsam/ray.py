"""Documented import path of `run_batch_on_ray` and `Cluster`; the code is in `sspsam.batch.ray`."""

from sspsam.batch.ray import Cluster, run_batch_on_ray

__all__ = ["Cluster", "run_batch_on_ray"]
