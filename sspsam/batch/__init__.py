"""Many pictures at once: folders, lists and tables, in a way that loses nothing.

summary = run_batch("photos", "out", ["the mug", "a cat"], predictor=predictor)
"""

from sspsam.batch.job import run_batch
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.records import Shard

__all__ = ["BatchOptions", "BatchSummary", "Shard", "run_batch"]
