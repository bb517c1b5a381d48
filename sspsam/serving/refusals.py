"""Answers with an error status: the status of every error of the library, and the form of the response."""

from typing import Any, Final

from sspsam.errors import (
    ConfigError,
    ImageError,
    ImageTooLargeError,
    OutOfMemoryError,
    RefusalError,
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


def refusal_of(error: SSPSAMError) -> RefusalError | None:
    """Return the answer to an error of the library; None for a failure of the server."""
    for kind, status in STATUS_OF_ERRORS:
        if isinstance(error, kind):
            message = message_of(error).for_server
            retry_after = 5 if status == 503 else None
            return RefusalError(message, status=status, kind=type(error).__name__, retry_after=retry_after)
    return None


def internal_refusal() -> RefusalError:
    """Return the answer to a failure of the server, which says nothing about its inside."""
    return RefusalError(INTERNAL_MESSAGE, status=500, kind="InternalError")


def error_content(refusal: RefusalError) -> dict[str, Any]:
    """Return the content of the response to a refused request."""
    return {"error": {"type": refusal.kind, "message": str(refusal)}}
