"""`convert_checkpoint` under its documented import path; the code is in `sspsam.checkpoints.convert`."""

from sspsam.checkpoints.convert import convert_checkpoint

__all__ = ["convert_checkpoint"]
