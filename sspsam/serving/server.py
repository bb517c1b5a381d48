"""The process of the server: it listens, and stops without losing an accepted request."""

import asyncio
import errno
import os
import signal
import socket
import time
from dataclasses import dataclass
from types import FrameType
from typing import Final

import uvicorn

from sspsam.errors import PortError
from sspsam.serving.app import ServingApp
from sspsam.serving.connections import MAX_HEADER_BYTES, BoundedConnection
from sspsam.serving.syn_filter import refuse_new_connections

_BACKLOG: Final = 512
_KEEP_ALIVE_SECONDS: Final = 30
_HANDSHAKE_SECONDS: Final = 0.05  # in which connections that have begun are made and accepted before the port is closed
_LAST_REQUEST_SECONDS: Final = 0.5  # in which a connection that was made must send its first request at the end
_LOOK_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Stopping:
    """Times of the shutdown.

    Args:
        drain_seconds: for which the server still accepts requests after SIGTERM, while `/readyz` says no and every
            response ends its connection: a load balancer needs some seconds to notice.
        stop_seconds: after which requests that are still being answered are given up.
    """

    drain_seconds: float = 1.0
    stop_seconds: float = 60.0


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 is any free one.

    It names its protocol: only then does asyncio turn Nagle's algorithm off for the connections, with which each
    response would wait 40 ms for an acknowledgement.

    Raises:
        PortError: the address does not exist or is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())
    except (OSError, UnicodeError) as error:
        hint = ". Choose another one with --port" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise PortError(f"cannot listen on {host}, port {port}: {_reason(error)}{hint}") from error


def _reason(error: OSError | UnicodeError) -> str:
    """Return the text of the system, without the address that `create_server` adds."""
    if isinstance(error, UnicodeError | socket.gaierror) or error.errno is None:
        return str(getattr(error, "strerror", None) or error)
    return os.strerror(error.errno)


def run_server(app: ServingApp, listener: socket.socket, stopping: Stopping) -> int | None:
    """Serve until a signal comes, and return the signal.

    Args:
        app: from `create_app`.
        listener: from `bound_socket`; it is closed.
        stopping: times of the shutdown.

    Raises:
        SSPSAMError: the model could not be loaded.
    """
    server = GracefulServer(app, stopping)
    server.run(sockets=[listener])
    failure = app.service.engine.failure
    if failure is not None:
        raise failure
    return server.stopped_by


class GracefulServer(uvicorn.Server):
    """uvicorn's server with a time of draining between a signal and the end of listening.

    Args:
        app: from `create_app`.
        stopping: times of the shutdown.
    """

    def __init__(self, app: ServingApp, stopping: Stopping) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedConnection,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(stopping.stop_seconds)),
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            )
        )
        self._service, self._drain_seconds = app.service, stopping.drain_seconds
        self._drained_at: float | None = None
        self.stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends the server at once."""
        if self.stopped_by is not None:
            self.force_exit = self.should_exit = True
            return
        self.stopped_by = sig
        self._service.is_draining = True
        self._drained_at = time.monotonic() + (self._drain_seconds if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop listening; uvicorn calls it ten times a second."""
        if self._service.engine.failure is not None:
            return True
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and end when everything that was accepted is answered.

        uvicorn alone would close the port over connections that the kernel has made and the loop has not accepted, and
        would close connections whose request the kernel has received and the loop has not read: all these clients
        would see a reset.
        """
        for listener in sockets or []:
            refuse_new_connections(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)  # the loop accepts and reads meanwhile
        for server in self.servers:
            server.close()
        end = time.monotonic() + _LAST_REQUEST_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)  # connections that were accepted last are read for the first time
        while self._awaits_requests() and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(_LOOK_SECONDS)
        await super().shutdown(sockets)

    def _awaits_requests(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(each, BoundedConnection) and each.awaits_request for each in connections)
