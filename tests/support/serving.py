"""Servers in threads of the test process, and clients for them."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.serving.app import ServingApp, create_app
from sspsam.serving.options import ServeOptions
from sspsam.serving.server import GracefulServer, Stopping, bound_socket
from sspsam.shapes import draw_scene


@dataclass
class RunningServer:
    """A server on loopback, its application, and the lines of its access log."""

    port: int
    app: ServingApp
    lines: list[str]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=60, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def exchange(self, request: bytes) -> bytes:
        """Send bytes, and return everything that the server sends until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Return everything that comes until the connection is closed."""
    answer = b""
    try:
        while data := connection.recv(65536):
            answer += data
    except ConnectionResetError:
        pass
    return answer


def one_response(connection: socket.socket) -> bytes:
    """Return one whole response; the connection stays open."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head = answer.partition(b"\r\n\r\n")[0]
    [length] = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(answer) < len(head) + 4 + length:
        answer += connection.recv(65536)
    return answer


class _WatchedServer(GracefulServer):
    on_shutdown: Callable[[], None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_shutdown is not None:
            self.on_shutdown()
        await super().shutdown(sockets)


@contextmanager
def running(
    predictor: Any,
    options: ServeOptions | None = None,
    on_start: Callable[[RunningServer], None] | None = None,
    on_shutdown: Callable[[], None] | None = None,
) -> Iterator[RunningServer]:
    """Run a server until the end of the block.

    `on_start` is called before its model is ready, and `on_shutdown` in its event loop before it closes its port.
    """
    lines: list[str] = []
    app = create_app(predictor if callable(predictor) else lambda: predictor, options, log=lines.append)
    listener = bound_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = _WatchedServer(app, Stopping(drain_seconds=0, stop_seconds=10))
    server.on_shutdown = on_shutdown
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    running_server = RunningServer(port, app, lines)
    try:
        if on_start is not None:
            on_start(running_server)
        wait_until(lambda: app.service.is_ready or app.service.engine.failure is not None)
        yield running_server
    finally:
        server.handle_exit(15, None)
        thread.join(30)
        assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 30) -> None:
    """Wait for a condition, and fail after some time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


@dataclass
class GatedPredictor:
    """A stand-in for a predictor that answers when it is let; every answer is the expression's length in its score."""

    gate: threading.Event = field(default_factory=threading.Event)
    questions: list[list[str]] = field(default_factory=list)
    encoded: int = 0
    error: BaseException | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    fingerprint: str = "f" * 64
    origin: str = "memory"

    def encode(self, image: np.ndarray, *, max_pixels: int) -> ImageEmbedding:
        self.encoded += 1
        height, width = image.shape[:2]
        return ImageEmbedding(torch.zeros(4, 2), torch.zeros(2, 4, 4), height, width, self.fingerprint, image)

    def predict(self, texts: Any, *, image: Any = None, embedding: Any = None, **options: Any) -> Any:
        if isinstance(texts, str):  # of the warm-up
            return None
        self.questions.append(list(texts))
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        mask = np.zeros((embedding.height, embedding.width), bool)
        return [Segmentation(text, mask, True, 0, float(len(text)), (0.0, 0.0, 1.0, 1.0), None) for text in texts]


def image_file(seed: int = 7, size: tuple[int, int] = (60, 90), kind: str = "PNG") -> bytes:
    """Return the file of a drawn scene."""
    file = io.BytesIO()
    Image.fromarray(draw_scene(seed, size).pixels).save(file, kind)
    return file.getvalue()


def json_question(image: bytes, *expressions: str, **options: Any) -> dict[str, Any]:
    """Return the JSON of a question about an image."""
    return {"image": base64.b64encode(image).decode(), "expressions": list(expressions), "options": options}


def answers_of(predictor: SSPSAMPredictor, image: bytes, *expressions: str, **options: Any) -> list[dict[str, Any]]:
    """Return the library's own answers."""
    return [answer.to_dict() for answer in predictor.predict(list(expressions), image=image, **options)]
