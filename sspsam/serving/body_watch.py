"""The end of a request's body, and what becomes of a body that is refused; without a web framework."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_LINGER_SECONDS: Final = 2.0  # a client that still sends its body would not see an answer before it has finished


class BodyWatch:
    """ASGI's `receive` of one request, which knows whether the whole body has arrived.

    Args:
        scope: of the request.
        receive: of the server.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope.get("headers", ()))
        self._receive = receive
        self._waits_for_consent = b"expect" in headers
        self.has_ended = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"

    async def receive(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.has_ended = True
        return message

    async def discard(self) -> None:
        """Read and drop the rest of the body for a short time.

        A client that still sends would not see an answer, because its connection would be closed before. A client that
        waits for consent (`Expect: 100-continue`) gets none, and so sends nothing.
        """
        if self._waits_for_consent:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.has_ended:
                    await self.receive()
