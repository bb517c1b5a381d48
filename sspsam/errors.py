"""Every error and warning of sspsam, in one small tree.

Each class is also the standard kind it resembles, so `except ValueError` and `except OSError` work as a caller
would expect. A programmer's mistake (a wrong type) stays a plain `TypeError`.
"""


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


class HubError(SSPSAMError, OSError):
    """The Hugging Face Hub could not be reached, or refused."""


class StorageError(SSPSAMError, OSError):
    """A file could not be written: no space left, no permission, or a path of the wrong kind."""


class DeviceError(SSPSAMError, RuntimeError):
    """A device that does not exist on this computer."""


class NumericalError(SSPSAMError, RuntimeError):
    """The model produced numbers that are not finite; never reported as a mask or as no target."""


class SSPSAMWarning(UserWarning):
    """Something was done that the caller may not expect, such as cutting a text; the result is still valid."""
