"""uvicorn's HTTP/1.1 connections with limits of their own: time for headers, number, and time to close.

This file alone depends on the inside of `uvicorn.protocols.http.h11_impl`; the tests of slow clients watch over it.
"""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS: Final = 10.0  # in which the headers of a request must arrive
MAX_CONNECTIONS: Final = 512
MAX_HEADER_BYTES: Final = 32 * 1024
_CLOSING_SECONDS: Final = 10.0  # in which a client must read the end of a response
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"


class BoundedConnection(H11Protocol):
    """A connection whose client must send its headers, and read its response, in time."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._header_timer: asyncio.TimerHandle | None = None

    @property
    def awaits_request(self) -> bool:
        """Return whether the client has not finished the headers of its first request, or of a begun further one."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            return False
        return self.cycle is None or bool(self.conn.trailing_data[0])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_BUSY)
            transport.close()
        else:
            self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._start_header_timer()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            self._abort_later()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._end_slow_headers)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_slow_headers(self) -> None:
        self._header_timer = None
        self.transport.close()

    def _abort_later(self) -> None:
        """End a connection whose client does not read; a closed one has nothing left to abort."""
        self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)
