"""Answers with an error status: the class `RefusalError`, and the status of every error of the library."""

import math
from typing import Any, Final

from sspsam.errors import (
    ConfigError,
    ImageError,
    ImageTooLargeError,
    OutOfMemoryError,
    SSPSAMError,
    TextError,
)
from sspsam.messages import message_of

INTERNAL_MESSAGE: Final = "the server failed; its log names the reason"

# the first class that an error belongs to; errors of other classes are failures of the server, status 500
STATUS_OF_ERRORS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ImageTooLargeError, 413),
    (ImageError, 422),
    (TextError, 422),
    (ConfigError, 422),
    (OutOfMemoryError, 503),
)


class RefusalError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        kind: short name of the error for programs, such as `"QueueFull"`.
        message: for people.
        retry_after: seconds after which the client may try again.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    @property
    def content(self) -> dict[str, Any]:
        """Content of the response."""
        return {"error": {"type": self.kind, "message": self.message}}


def refusal_of(error: SSPSAMError) -> RefusalError | None:
    """Return the answer to an error of the library; None for a failure of the server."""
    for kind, status in STATUS_OF_ERRORS:
        if isinstance(error, kind):
            message = message_of(error).for_server
            return RefusalError(status, type(error).__name__, message, retry_after=5 if status == 503 else None)
    return None


def internal_refusal() -> RefusalError:
    """Return the answer to a failure of the server, which says nothing about its inside."""
    return RefusalError(500, "InternalError", INTERNAL_MESSAGE)
