"""The same as the page, as a tool for assistants (Model Context Protocol over HTTP)."""

import base64
import inspect
import io
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from sspsam._version import __version__
from sspsam.demo.answering import Answering, TimedAnswer, listed_expressions
from sspsam.demo.sessions import EncodedImage
from sspsam.demo.uploads import base64_image
from sspsam.errors import SSPSAMError, TextError
from sspsam.segmentation.drawing import draw
from sspsam.segmentation.result import Segmentation

_LONGEST_SIDE: Final = 1024  # of the drawing, pixels
_DESCRIPTION: Final = (
    "Find the regions of an image that English expressions refer to. Returns JSON with one object for each expression, "
    "in order: text, no_target (true if the image shows no such thing), score, mask_box (x0, y0, x1, y1 in pixels) and "
    "mask (COCO run-length encoding); and a drawing of all masks over the image."
)
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "image_base64": {
            "type": "string",
            "description": "The content of an image file (PNG, JPEG, WebP) in base64. Paths and URLs are refused.",
        },
        "texts": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "Expressions such as 'the red circle left of the star'; none may be blank.",
        },
    },
    "required": ["image_base64", "texts"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Tool:
    """The tool as an ASGI application.

    Args:
        app: answers the requests.
        running: context in which it does.
    """

    app: Callable[..., Awaitable[None]]
    running: Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class ToolAnswer:
    """The answer of the tool.

    Args:
        answers: plain values, one object for each expression, in order.
        drawing: JPEG file of the image with all masks.
    """

    answers: list[dict[str, Any]]
    drawing: bytes


def tool_answer(answering: Answering, image_base64: str, texts: list[str]) -> ToolAnswer:
    """Answer expressions about an image in base64, which no session keeps; each is computed once and answered in place.

    Raises:
        ImageError, TextError: the image or the expressions cannot be used.
    """
    checked = listed_expressions(texts, answering.limits)
    image = answering.encode_once(base64_image(image_base64, answering.limits))
    answers = {answer.text: answer for answer in answering.answers_about(image, tuple(dict.fromkeys(checked)))}
    return ToolAnswer([_plain_answer(answers[text]) for text in checked], _drawing(image, tuple(answers.values())))


def _plain_answer(answer: TimedAnswer) -> dict[str, Any]:
    if isinstance(answer.outcome, Segmentation):
        return answer.outcome.to_dict()
    return {"text": answer.text, "error": str(answer.outcome)}


def _drawing(image: EncodedImage, answers: tuple[TimedAnswer, ...]) -> bytes:
    pixels = image.embedding.pixels
    if pixels is None:
        return b""
    drawing = draw(pixels, [answer.outcome for answer in answers if isinstance(answer.outcome, Segmentation)])
    drawing.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    drawing.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def build_tool(answering: Answering) -> Tool:
    """Return the tool `segment`; one request computes at a time, and the number of waiting ones is bounded."""
    import anyio
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    server: Any = Server("sspsam", version=__version__)
    limiter = anyio.CapacityLimiter(1)

    @server.list_tools()  # type: ignore[untyped-decorator]
    async def list_tools() -> list[Any]:
        return [types.Tool(name="segment", description=_DESCRIPTION, inputSchema=_SCHEMA)]

    @server.call_tool()  # type: ignore[untyped-decorator]  # checks the arguments by the schema; errors become answers
    async def call_tool(name: str, arguments: MutableMapping[str, Any]) -> list[Any]:
        if name != "segment":
            raise TextError(f"There is no tool {name[:100]!r}; the only one is 'segment'.")
        if limiter.statistics().tasks_waiting >= answering.limits.queue_length:
            raise SSPSAMError("Too many requests are waiting: try again later.")
        image, texts = arguments["image_base64"], arguments["texts"]
        answer = await anyio.to_thread.run_sync(tool_answer, answering, image, texts, limiter=limiter)
        drawing = base64.b64encode(answer.drawing).decode()
        return [
            types.TextContent(type="text", text=json.dumps(answer.answers)),
            types.ImageContent(type="image", data=drawing, mimeType="image/jpeg"),
        ]

    # newer releases have a limit of their own, which is smaller than an image may be
    has_limit = "max_request_body_size" in inspect.signature(StreamableHTTPSessionManager).parameters
    limit: dict[str, Any] = {"max_request_body_size": answering.limits.max_tool_bytes} if has_limit else {}
    manager = StreamableHTTPSessionManager(app=server, stateless=True, json_response=True, **limit)
    return Tool(manager.handle_request, manager.run)
