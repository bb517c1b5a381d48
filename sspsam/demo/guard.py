"""The gate in front of the page: an ASGI application that lets only the page's own requests through.

Gradio's server has many more routes than the page needs, some of which fetch URLs or store what a client sends. The
gate answers 404 to all routes that the page does not use, 403 to other hosts' pages (also by DNS rebinding), 413 to
bodies that are too large and 408 to bodies that do not arrive, and refuses files outside of the page's folder.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sspsam.demo.limits import Limits
from sspsam.demo.storage import require_room
from sspsam.demo.uploads import path_inside
from sspsam.errors import NoSpaceError, RefusalError
from sspsam.serving.body_watch import BodyWatch, Message, Receive, Scope

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_API: Final = "/gradio_api"
_FILE: Final = f"{_API}/file="
_UPLOAD: Final = f"{_API}/upload"
_JOIN: Final = f"{_API}/queue/join"
TOOL_PATH: Final = "/mcp"
_READ: Final = ("/", "/config", "/theme.css", f"{_API}/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
_READ_BELOW: Final = ("/assets/", "/static/", f"{_API}/heartbeat/")
_STREAMS: Final = (f"{_API}/queue/data", f"{_API}/upload_progress")
_WRITE: Final = (_UPLOAD, _JOIN, f"{_API}/cancel", f"{_API}/reset")
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost", "::1")
_JSON_BYTES: Final = 256 << 10
_MULTIPART_BYTES: Final = 64 << 10  # of headers around an uploaded file
_PLAIN_PATH: Final = re.compile(r"(/[\w@+-][\w.@+-]{0,200}){1,8}")  # no folder begins with a dot
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True)
class Guard:
    """The gate in front of an application.

    Args:
        app: the application of the page.
        folder: of uploaded files and files for download, resolved.
        limits: of bodies.
        events: numbers of the page's functions.
        tool: application of the tool, if it is offered.
    """

    app: App
    folder: Path
    limits: Limits
    events: Container[int] = range(0)
    tool: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        watch = BodyWatch(scope, receive)
        response = _Response(send, watch)
        try:
            if scope["type"] != "http":
                raise RefusalError("Not found.", status=404, kind="NotFound")
            self._check_host(scope)
            self._check_route(scope)
            body = _Body(watch.receive, response, self._most_bytes(scope["path"]), self.limits.body_seconds)
            body.check_announced_length(scope)
            if scope["path"] == _UPLOAD:
                await self._require_room()
            if scope["path"] == _JOIN:
                content = checked_event(await body.read_all(), self.folder, self.events)
                scope = {**scope, "headers": _with_length(scope["headers"], len(content))}
                await self.app(scope, _replayed(content, watch.receive), response.send)
            else:
                app = self.tool if self.tool is not None and scope["path"] == TOOL_PATH else self.app
                await app(scope, body.receive, response.send)
        except RefusalError as refusal:
            await response.refuse(refusal)
        except Exception:
            if not response.refused:  # after a refusal the application sees a client that left
                raise

    def _check_host(self, scope: Scope) -> None:
        """Refuse requests for other hosts, and requests by pages of other hosts."""
        headers = dict(scope["headers"])
        if _host(b"//" + headers.get(b"host", b"")) not in _LOCAL_HOSTS:
            raise RefusalError("This page answers on 127.0.0.1 and localhost only.", status=403, kind="Forbidden")
        origin = headers.get(b"origin")
        if origin is not None and _host(origin) not in _LOCAL_HOSTS:
            raise RefusalError("Requests by pages of other hosts are refused.", status=403, kind="Forbidden")

    def _check_route(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        if self.tool is not None and path == TOOL_PATH:
            return
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                if path_inside(path.removeprefix(_FILE), self.folder) is None:
                    raise RefusalError("File not allowed.", status=403, kind="Forbidden")
                return
            if path in (*_READ, *_STREAMS) or (path.startswith(_READ_BELOW) and _PLAIN_PATH.fullmatch(path)):
                return
        elif method == "POST" and path in _WRITE:
            return
        raise RefusalError("Not found.", status=404, kind="NotFound")

    async def _require_room(self) -> None:
        """Refuse an upload while the folder is full."""
        try:
            await asyncio.to_thread(require_room, self.folder, self.limits)
        except NoSpaceError as error:
            raise RefusalError(str(error), status=503, kind="FolderFull") from error

    def _most_bytes(self, path: str) -> int:
        if path == _UPLOAD:
            return self.limits.max_bytes + _MULTIPART_BYTES
        if path == TOOL_PATH:
            return self.limits.max_tool_bytes
        return _JSON_BYTES


@dataclass
class _Response:
    """The response to one request, by the application or by the gate."""

    client: Send
    body: BodyWatch
    started: bool = False
    refused: bool = False

    async def send(self, message: Message) -> None:
        """Send a message of the application, with the headers of every response."""
        if self.refused:
            return
        if message["type"] == "http.response.start":
            self.started = True
            if message["status"] >= 400:  # perhaps before the application has read the body
                await self.body.discard()
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await self.client(message)

    async def refuse(self, refusal: RefusalError) -> None:
        """Answer in the application's place, unless its answer has begun."""
        if self.started or self.refused:
            return
        self.refused = True
        if refusal.status != 408:  # that client does not send
            await self.body.discard()
        content = json.dumps({"detail": str(refusal)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),  # a body may be unread
            *_HEADERS,
        ]
        await self.client({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.client({"type": "http.response.body", "body": content})


@dataclass
class _Body:
    """The body of one request, counted while it arrives."""

    client: Receive
    response: _Response
    most_bytes: int
    seconds: float
    _count: int = field(default=0, init=False)
    _complete: bool = field(default=False, init=False)

    def check_announced_length(self, scope: Scope) -> None:
        """Refuse a body by its header, before it arrives."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.most_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next part for the application; a refusal ends the request there too."""
        try:
            return await self._next_part()
        except RefusalError as refusal:
            await self.response.refuse(refusal)
            return {"type": "http.disconnect"}

    async def read_all(self) -> bytes:
        """Return the whole body."""
        parts: list[bytes] = []
        while not self._complete:
            message = await self._next_part()
            if message["type"] == "http.disconnect":
                raise _malformed("The request broke off.")
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def _next_part(self) -> Message:
        if self._complete:
            return await self.client()  # waits until the client leaves
        try:
            message = await asyncio.wait_for(self.client(), self.seconds)
        except TimeoutError:
            raise RefusalError("The request did not arrive in time.", status=408, kind="BodyTooSlow") from None
        self._count += len(message.get("body", b""))
        if self._count > self.most_bytes:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> RefusalError:
        message = f"The request is larger than the limit of {self.most_bytes / 2**20:.1f} MiB."
        return RefusalError(message, status=413, kind="BodyTooLarge")


def checked_event(content: bytes, folder: Path, events: Container[int]) -> bytes:
    """Return an event of the page in which every file is one in the page's folder, and no URL is left.

    Raises:
        RefusalError: no such event.
    """
    try:
        event = json.loads(content)
    except (ValueError, RecursionError):
        raise _malformed("The request is no JSON.") from None
    well_formed = (
        isinstance(event, dict)
        and isinstance(event.get("data"), list)
        and type(event.get("fn_index")) is int
        and event["fn_index"] in events
        and isinstance(event.get("session_hash"), str)
        and _SESSION.fullmatch(event["session_hash"])
    )
    if not well_formed:
        raise _malformed("The request is no event of this page.")
    known = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
    checked = {name: event[name] for name in known if name in event}
    checked["data"] = [_checked_value(value, folder) for value in event["data"]]
    return json.dumps(checked).encode()


def _checked_value(value: object, folder: Path) -> object:
    """Return a value of an event; a file is reduced to its path and name."""
    if isinstance(value, list):
        return [_checked_value(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" not in value and "url" not in value:
        return {name: _checked_value(item, folder) for name, item in value.items()}
    if path_inside(value.get("path"), folder) is None:
        raise _malformed("An image must be uploaded; paths and URLs are not opened.")
    return {"path": value["path"], "orig_name": str(value.get("orig_name") or ""), "meta": {"_type": "gradio.FileData"}}


def _malformed(message: str) -> RefusalError:
    return RefusalError(message, status=400, kind="MalformedRequest")


def _host(url: bytes) -> str | None:
    """Return the host of a URL, without its port."""
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:
        return None


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]


def _replayed(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then waits for the client."""
    parts: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> Message:
        return parts.pop() if parts else await receive()

    return replay
