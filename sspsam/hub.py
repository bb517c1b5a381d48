"""The only door to weights: a name becomes the directory of a local checkpoint.

`resolve` says which checkpoint a name means, and downloads and converts it where it is not here. Everything behind it
is in `sspsam.checkpoints`.
"""

from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.listing import CheckpointEntry, bundled, delete, published, verify
from sspsam.checkpoints.resolve import REPOSITORY_VARIABLE, Resolved, repair_command_in_errors, resolve

__all__ = [
    "REPOSITORY_VARIABLE",
    "CheckpointEntry",
    "HubOptions",
    "Resolved",
    "bundled",
    "delete",
    "published",
    "repair_command_in_errors",
    "resolve",
    "verify",
]
