"""Every error and warning of sspsam, in one small tree.

Each class is also the standard kind that it resembles, so that `except ValueError` and `except OSError` work as a
caller expects. An argument of a wrong type raises a plain `TypeError`. A message that names options is a
`sspsam.messages.OptionMessage`, which has the words of every front end.
"""

import math
import pickle
import sys
import warnings
from collections.abc import Mapping
from typing import Final, Self

from sspsam.messages import OptionMessage, Wording, joined

MAX_MESSAGE_CHARACTERS: Final = 4000


class SSPSAMError(Exception):
    """Root of all errors that sspsam raises on purpose. A longer message than 4,000 characters is cut in its middle."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_shortened(value) if isinstance(value, str) else value for value in arguments))

    def with_message(self, *parts: str | Wording) -> Self:
        """Return an error of the same class with the same data and another message.

        Args:
            parts: of the message, such as a prefix and `message_of(error)`.
        """
        error = type(self)(OptionMessage(*parts))
        error.__dict__.update(self.__dict__)
        return error


class ImageError(SSPSAMError, ValueError):
    """An image that cannot be used: unreadable, truncated, empty, or of a kind whose meaning would be a guess."""


class ImageTooLargeError(ImageError):
    """An image with more pixels than `max_pixels`; found in the file's header, before decoding.

    Args:
        arguments: the message.
        pixels: width times height of the image; None: unknown.
    """

    def __init__(self, *arguments: object, pixels: int | None = None) -> None:
        super().__init__(*arguments)
        self.pixels = pixels


class ImageNotFoundError(ImageError, FileNotFoundError):
    """A path without an image file."""


class ImageTypeError(ImageError, TypeError):
    """An object that is no image, such as None in the place of a file that could not be read."""


class TextError(SSPSAMError, ValueError):
    """An expression that cannot be encoded: empty or far too long."""


class TextTypeError(TextError, TypeError):
    """An expression that is no string, or expressions that are no list of strings."""


class NoImageError(SSPSAMError, RuntimeError):
    """`predict` was called before any image was set."""


class EmbeddingError(SSPSAMError, ValueError):
    """An `ImageEmbedding` that is damaged or belongs to other image encoders."""


class ResultError(SSPSAMError, ValueError):
    """A stored answer that is damaged or of an unknown version."""


class NoTargetError(SSPSAMError, ValueError):
    """An operation that needs a target, such as a crop, on an answer without one."""


class ConfigError(SSPSAMError, ValueError):
    """A configuration that is malformed, out of range or inconsistent."""


class CheckpointError(SSPSAMError, ValueError):
    """A checkpoint that is damaged, incomplete, or does not fit its configuration."""


class UnsafeCheckpointError(CheckpointError):
    """A pickled checkpoint that names a class or function which no checkpoint needs. Nothing in the file was run."""


class CalibrationError(CheckpointError):
    """A calibration of presence that is missing, malformed, or bound to another model."""


class DigestMismatchError(CheckpointError):
    """Weights whose SHA-256 differs from the one in their configuration."""


class EncodersDifferError(CheckpointError):
    """Weights whose image encoders are not those of the predictor that they are to share."""


class EncodersMissingError(CheckpointError, FileNotFoundError):
    """A checkpoint that names its image encoders, which are not on this computer."""


class CheckpointNotFoundError(SSPSAMError, FileNotFoundError):
    """A name or path without a checkpoint."""


class RepositoryMissingError(CheckpointNotFoundError):
    """The Hub has no such repository, or hides it from this token."""


class RevisionMissingError(CheckpointNotFoundError):
    """The repository has no such branch, tag or commit."""


class HubFileMissingError(CheckpointNotFoundError):
    """The repository exists, but the file does not."""


class HubError(SSPSAMError, OSError):
    """The Hugging Face Hub could not be reached, refused the request, or sent a malformed answer."""


class HubConnectionError(HubError, ConnectionError):
    """No connection to the Hub: no network, no name resolution, or a proxy or firewall in between."""


class HubOfflineError(HubError):
    """Network access is disabled, and the file is not in the cache."""


class HubAuthenticationError(HubError, PermissionError):
    """The Hub did not accept the token (401)."""


class HubForbiddenError(HubError, PermissionError):
    """The Hub refused access (403)."""


class HubGatedError(HubForbiddenError):
    """The repository is gated: its terms must be accepted first."""


class HubServerError(HubError):
    """The Hub failed internally (5xx) or limited the request rate (429)."""


class DownloadError(HubError):
    """A download broke off, or the received file is not the one that the Hub announced."""


class StorageError(SSPSAMError, OSError):
    """A file that cannot be written, or a font or cached file that cannot be read: no permission, or a wrong kind."""


class NoSpaceError(StorageError):
    """The disk is full, or has too little space for the data."""


class ReadOnlyError(StorageError, PermissionError):
    """A file or folder is read-only."""


class ManifestError(SSPSAMError, ValueError):
    """A list of images or expressions that is malformed or leaves nothing to do."""


class ManifestTypeError(ManifestError, TypeError):
    """An entry in a list of images that is no path."""


class EvaluationError(SSPSAMError, ValueError):
    """Predictions, records or annotations that cannot be evaluated: damaged, impossible, or of other entries."""


class DatasetError(SSPSAMError, ValueError):
    """Annotations of a data set that are malformed, or a data set, split or entry that does not exist."""


class DatasetMissingError(DatasetError, FileNotFoundError):
    """Files of a data set that are not there; the message lists them, their source and their place."""


class FinetuningError(SSPSAMError, ValueError):
    """A fine-tuning that cannot start: lines with problems, too little data, or an output folder that is in use."""


class LinesError(FinetuningError):
    """Lines with problems, of which nothing was learned.

    Args:
        message: number of the problems, and what to do.
        problems: one message for each line.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(joined("\n  ", (message, *problems)))
        self.message, self.problems = OptionMessage(message), problems


class UnsafePickleError(DatasetError):
    """A pickle of annotations that names a class or function. Nothing in the file was run."""


class BatchError(SSPSAMError, RuntimeError):
    """A batch that cannot run in its output folder: an earlier run had other settings, or a run is still active."""


class MissingExtraError(SSPSAMError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class DeviceError(SSPSAMError, RuntimeError):
    """A device that is missing, or on which a computation cannot be compiled or fails."""


class PortError(SSPSAMError, OSError):
    """An address that a server cannot listen on: another program has it, this user may not, or it does not exist."""


class RefusalError(SSPSAMError, RuntimeError):
    """A request over HTTP that a server answers with an error.

    Args:
        message: for people.
        status: of HTTP.
        kind: short name of the error for programs, such as `"QueueFull"`.
        retry_after: seconds after which the client may try again.
        headers: of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        kind: str = "InternalError",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))


class DeadlineExceededError(SSPSAMError, TimeoutError):
    """A request that waited for the model for too long, and was not computed."""


class ForkedProcessError(SSPSAMError, RuntimeError):
    """A computation in a forked process whose parent had computed before: PyTorch's thread pool would hang."""


class UnsavedModelError(SSPSAMError, pickle.PicklingError):
    """A predictor that cannot be pickled because its model does not come from a checkpoint."""


class OutOfMemoryError(SSPSAMError, MemoryError):
    """Not enough memory, on the device or on the host, for a single image."""


class NumericalError(SSPSAMError, RuntimeError):
    """The model computed values that are not finite; they are never reported as a mask or as no target."""


class SSPSAMWarning(UserWarning):
    """The library changed or dropped part of an input, such as a text that is too long; the result is still valid."""


def _shortened(message: str) -> str:
    """Return a long message without its middle, in the words of each front end."""
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    if isinstance(message, OptionMessage):
        return OptionMessage(Wording(_ends(str(message)), _ends(message.for_command), _ends(message.for_server)))
    return _ends(message)


def _ends(text: str) -> str:
    half = MAX_MESSAGE_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]} [... {left_out:,} characters ...] {text[-half:]}"


def warn(message: str) -> None:
    """Emit an `SSPSAMWarning` that points at the line which called into sspsam, at any depth of the call stack."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "sspsam":
        frame, level = frame.f_back, level + 1
    warnings.warn(_shortened(message), SSPSAMWarning, stacklevel=level)
