"""Requests to an ASGI application without a server."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class ASGIClient:
    """Sends one request at a time; `headers` and `content` are those of the latest response.

    `unread` is the number of parts of the request's body that were not read when the response began.

    Args:
        app: the application.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.headers: dict[bytes, bytes] = {}
        self.content = b""
        self.unread = 0

    def __call__(
        self,
        method: str,
        path: str,
        *parts: bytes,
        host: str = "127.0.0.1:7860",
        kind: str = "http",
        stalls: bool = False,
        **headers: str,
    ) -> int:
        """Send a request, its body in parts; return the status.

        Args:
            method, path: of the request.
            parts: of the body.
            host: header.
            kind: type of the scope.
            stalls: whether the body never arrives.
            headers: with underscores for hyphens.
        """
        sent: list[Message] = []
        waiting = list(parts or (b"",))

        async def receive() -> Message:
            if stalls or not waiting:
                await asyncio.sleep(60)
            body = waiting.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.unread = len(waiting)
            sent.append(message)

        named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope: Message = {
            "type": kind,
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "server": ("127.0.0.1", 7860),
            "client": ("127.0.0.1", 50_000),
        }
        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]  # a coroutine in fact
        (start,) = (message for message in sent if message["type"] == "http.response.start")
        self.headers = dict(start["headers"])
        self.content = b"".join(message.get("body", b"") for message in sent if message is not start)
        return int(start["status"])
