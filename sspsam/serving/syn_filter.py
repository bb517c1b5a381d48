"""A filter of the Linux kernel that lets a listening socket accept no further connections without being closed."""

import ctypes
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # of Linux; Python has no name for it
# classic BPF on the TCP header: drop a segment that begins a connection (SYN without ACK), keep all others
_PROGRAM: Final = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: the next line; else the one after it
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


def refuse_new_connections(listener: socket.socket) -> None:
    """Let the kernel ignore requests for new connections; those that have begun are finished and can be accepted.

    A client that is ignored asks again after a second, and finds the port closed then. Where the system has no such
    filter, nothing changes.

    Args:
        listener: socket that listens, on TCP.
    """
    if sys.platform != "linux":
        return
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in _PROGRAM)
    memory = ctypes.create_string_buffer(instructions)
    program = struct.pack("HP", len(_PROGRAM), ctypes.addressof(memory))
    with suppress(OSError):  # a sandbox without filters
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
