"""Segmentation of many images: folders, lists and tables to masks and records, resumable after a crash.

summary = run_batch("photos", "out", ["the mug", "a cat"], predictor=predictor)
"""

from sspsam.batch.job import run_batch
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.records import Shard

__all__ = ["BatchOptions", "BatchSummary", "Shard", "run_batch"]
