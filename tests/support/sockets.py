"""Connections to a listening socket."""

import asyncio
import socket


def sends_at_once(listener: socket.socket) -> bool:
    """Return True if a connection that asyncio accepts has Nagle's algorithm off; the socket is closed."""
    return asyncio.run(_sends_at_once(listener))


async def _sends_at_once(listener: socket.socket) -> bool:
    options: asyncio.Queue[int] = asyncio.Queue()

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        options.put_nowait(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    server = await asyncio.start_server(accepted, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        option = await asyncio.wait_for(options.get(), 10)
        writer.close()
    return bool(option)
