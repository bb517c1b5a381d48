"""The public door to checkpoints: from a name to local files, and maintenance of the local files.

`resolve` finds a checkpoint by its name, and downloads and converts it if it is not on the local disk. The
implementation is in `sspsam.checkpoints`. Importing this module imports no PyTorch.
"""

from sspsam.checkpoints.cache_listing import CachedCheckpoint, cached_checkpoints
from sspsam.checkpoints.hub_options import REPOSITORY_VARIABLE, HubOptions
from sspsam.checkpoints.listing import CheckpointEntry, bundled, delete, published, verify
from sspsam.checkpoints.names import BUNDLED
from sspsam.checkpoints.resolve import Resolved, check_name, repair_command_in_errors, resolve

__all__ = [
    "BUNDLED",
    "REPOSITORY_VARIABLE",
    "CachedCheckpoint",
    "CheckpointEntry",
    "HubOptions",
    "Resolved",
    "bundled",
    "cached_checkpoints",
    "check_name",
    "delete",
    "published",
    "repair_command_in_errors",
    "resolve",
    "verify",
]
