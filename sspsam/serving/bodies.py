"""Bodies of requests: read within limits of bytes and time."""

import asyncio

from fastapi import Request

from sspsam.errors import RefusalError
from sspsam.serving.budgets import BodyShare
from sspsam.serving.options import ServeOptions


async def read_body(request: Request, options: ServeOptions, share: BodyShare) -> bytes:
    """Return the body of a request.

    Args:
        request: whose body was not read yet.
        options: limits.
        share: counts the bytes.

    Raises:
        RefusalError: 413 too many bytes, 415 compressed, 408 too slow, 503 the server holds too many bodies.
        ClientDisconnect: the client is gone.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = f"bodies must not be compressed; Content-Encoding is {encoding[:40]!r}"
        raise RefusalError(message, status=415, kind="ContentEncoding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > options.max_bytes):
        raise _too_large(options)
    try:
        async with asyncio.timeout(options.body_seconds):
            return await _read(request, options, share)
    except TimeoutError:
        message = f"the body did not arrive within {options.body_seconds:g} s"
        raise RefusalError(message, status=408, kind="BodyTooSlow") from None


async def _read(request: Request, options: ServeOptions, share: BodyShare) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        share.add(len(chunk))
        body += chunk
        if len(body) > options.max_bytes:
            raise _too_large(options)
    return bytes(body)


def _too_large(options: ServeOptions) -> RefusalError:
    message = f"the body has more than {options.max_bytes:,} bytes, which is the server's limit"
    return RefusalError(message, status=413, kind="BodyTooLarge")
