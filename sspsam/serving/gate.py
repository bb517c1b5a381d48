"""The outermost layer of the application: access, errors, access log, and metrics of requests."""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sspsam.errors import RefusalError
from sspsam.serving.answers import json_response
from sspsam.serving.body_watch import BodyWatch
from sspsam.serving.metrics import Metrics
from sspsam.serving.refusals import error_content, internal_refusal
from sspsam.utils.paths import shown

OPEN_PATHS: Final = ("/healthz", "/readyz")
CLIENT_CLOSED: Final = 499  # status in log and metrics of a request whose client is gone, as of nginx
_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)
# an id has at least 22 characters; found in the path alone, since a request that is refused has no route
_IMAGE_ID: Final = re.compile(r"([^/]{6})[^/]{16,}")

logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: the application inside.
        token: that requests must bear; None: none.
        metrics: of requests.
        log: receives one line for each request.
        is_draining: returns whether the server stops, so that clients must not reuse their connections.
        on_cancel: called for each request that is given up because the server stops.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        metrics: Metrics,
        log: Callable[[str], None],
        is_draining: Callable[[], bool],
        on_cancel: Callable[[], None],
    ) -> None:
        self._app, self._metrics, self._log = app, metrics, log
        self._is_draining, self._on_cancel = is_draining, on_cancel
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = BodyWatch(scope, receive)
        response = _Response(send, body, self._is_draining)
        start = time.perf_counter()
        try:
            self._require_token(scope)
            await self._app(scope, body.receive, response.send)
        except ClientDisconnect:
            response.status = response.status or CLIENT_CLOSED
        except asyncio.CancelledError:
            self._on_cancel()
            raise
        except RefusalError as refusal:
            await _refuse(refusal, scope, body, response)
        except Exception:
            logger.exception("internal error while answering %s %s", scope["method"], _logged_path(scope))
            if response.status:
                raise  # the response has begun: only a broken connection tells the client
            await _refuse(internal_refusal(), scope, body, response)
        finally:
            self._note(scope, response, time.perf_counter() - start)

    def _require_token(self, scope: Scope) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._token is None or path in OPEN_PATHS:
            return
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        # headers are decoded as latin-1; both sides are bytes, since compare_digest takes no other text than ASCII
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            message = "send the server's token: Authorization: Bearer TOKEN"
            raise RefusalError(message, status=401, kind="Unauthorized", headers={"WWW-Authenticate": "Bearer"})

    def _note(self, scope: Scope, response: "_Response", seconds: float) -> None:
        status = response.status or CLIENT_CLOSED
        self._metrics.observe_request(_route(scope), scope["method"], status, seconds)
        client = scope.get("client") or ("-",)
        self._log(
            f"{client[0]} {shown(scope['method'])} {_logged_path(scope)} {status} {response.size} B "
            f"{1000 * seconds:.1f} ms"
        )


class _Response:
    """Record of the response to a client; adds headers to it.

    Args:
        send: of the server.
        body: of the request; where it has not ended, the connection is closed after the response.
        is_draining: see `Gate`.
    """

    def __init__(self, send: Send, body: BodyWatch, is_draining: Callable[[], bool]) -> None:
        self._send, self._body, self._is_draining = send, body, is_draining
        self.status = 0
        self.size = 0  # bytes of the body

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = [*message.get("headers", []), *_SECURITY_HEADERS]
            if self._is_draining() or not self._body.has_ended:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


def _route(scope: Scope) -> str:
    """Return the template of a request's path, so that clients cannot invent values of a metric."""
    return getattr(scope.get("route"), "path", "other")


def _logged_path(scope: Scope) -> str:
    """Return the path for the log, with the beginning of each long part: whoever knows a whole id may use it."""
    return shown(_IMAGE_ID.sub(r"\1...", scope["path"]))


async def _refuse(refusal: RefusalError, scope: Scope, body: BodyWatch, response: _Response) -> None:
    if refusal.status != 408:  # that client does not send
        await body.discard()
    answer = json_response(error_content(refusal), refusal.status, refusal.headers)
    await answer(scope, body.receive, response.send)
