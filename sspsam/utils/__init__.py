"""Atomic files, progress bars, batching and strict JSON; nothing here knows about segmentation."""
