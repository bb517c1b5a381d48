"""Every error and warning of sspsam, in one small tree.

Each class is also the standard kind it resembles, so `except ValueError` and `except OSError` work as a caller
would expect. A programmer's mistake (a wrong type) stays a plain `TypeError`.
"""

import sys
import warnings


class SSPSAMError(Exception):
    """Root of all errors that sspsam raises on purpose."""


class ImageError(SSPSAMError, ValueError):
    """A picture that cannot be taken: unreadable, truncated, empty, or of a kind that would have to be guessed."""


class ImageTooLargeError(ImageError):
    """A picture with more pixels than `max_pixels`; found from its header, before decoding."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """A path at which there is no picture file."""


class TextError(SSPSAMError, ValueError):
    """An expression that cannot be asked: empty, or far too long."""


class NoImageError(SSPSAMError, RuntimeError):
    """`predict` was called before any picture was set."""


class EmbeddingError(SSPSAMError, ValueError):
    """An `ImageEmbedding` that is damaged or belongs to another model."""


class ConfigError(SSPSAMError, ValueError):
    """A configuration that is malformed, out of range or inconsistent."""


class CheckpointError(SSPSAMError, ValueError):
    """A checkpoint that is damaged, incomplete, or does not fit its configuration."""


class UnsafeCheckpointError(CheckpointError):
    """A pickled checkpoint that names a class or function which has no place in one. Nothing of it was run."""


class DigestMismatchError(CheckpointError):
    """Weights whose SHA-256 is not the one their configuration states."""


class CheckpointNotFoundError(SSPSAMError, FileNotFoundError):
    """A name or path behind which there is no checkpoint."""


class RepositoryMissingError(CheckpointNotFoundError):
    """The Hub has no such repository, or does not show it without the right token."""


class RevisionMissingError(CheckpointNotFoundError):
    """The repository has no such branch, tag or commit."""


class HubFileMissingError(CheckpointNotFoundError):
    """The repository exists, but not the file in it."""


class HubError(SSPSAMError, OSError):
    """The Hugging Face Hub could not be reached, refused, or sent something wrong."""


class HubConnectionError(HubError, ConnectionError):
    """No way to the Hub: no network, no name service, a proxy or a firewall in between."""


class HubOfflineError(HubError):
    """The network was not to be used, and the file is not in the cache."""


class HubAuthenticationError(HubError, PermissionError):
    """The Hub did not accept the token (401)."""


class HubForbiddenError(HubError, PermissionError):
    """The Hub refused access (403)."""


class HubGatedError(HubForbiddenError):
    """The repository is gated: its terms must be accepted first."""


class HubServerError(HubError):
    """The Hub had a fault of its own (5xx), or too many requests (429)."""


class DownloadError(HubError):
    """A download broke off, or what arrived is not what the Hub announced."""


class StorageError(SSPSAMError, OSError):
    """A file could not be written: no permission, or a path of the wrong kind."""


class NoSpaceError(StorageError):
    """The disk is full, or too full for what is to be written."""


class ReadOnlyError(StorageError, PermissionError):
    """A file or folder may not be written."""


class ManifestError(SSPSAMError, ValueError):
    """A list of pictures or expressions that cannot be understood, or in which there is nothing to do."""


class BatchError(SSPSAMError, RuntimeError):
    """A batch that cannot run where it was told to: an earlier one was asked something else, or is still at work."""


class MissingExtraError(SSPSAMError, ImportError):
    """A package is not installed that only some users need; the message names the extra that brings it."""


class DeviceError(SSPSAMError, RuntimeError):
    """A device that does not exist on this computer."""


class OutOfMemoryError(SSPSAMError, MemoryError):
    """Not enough memory, on the device or off it, for a single picture."""


class NumericalError(SSPSAMError, RuntimeError):
    """The model produced numbers that are not finite; never reported as a mask or as no target."""


class SSPSAMWarning(UserWarning):
    """Something was done that the caller may not expect, such as cutting a text; the result is still valid."""


def warn(message: str) -> None:
    """Warn with an `SSPSAMWarning` that points at the line which called into sspsam, however deep this is."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "sspsam":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SSPSAMWarning, stacklevel=level)
