"""Latency and throughput of `sspsam serve` against the library itself and against a naive FastAPI application.

    python -m benchmarks.serve                     # the bundled model, three rounds, about three minutes
    python -m benchmarks.serve --quick             # a run that checks that everything works

Both servers run as processes of their own and take turns: for latencies ten questions each, with the library in
between, for throughputs by some seconds, so that whatever else the machine does touches all of them. The first two of
ten are not counted: after an answer PyTorch's threads keep the cores busy for some milliseconds, in whichever process.
The naive application is what one writes in ten lines: a `def` endpoint that takes a form, loads the image and predicts
under one lock; for questions about a known image it keeps embeddings in a dictionary, without any limit. The library's
own time is that of `predict` with a known embedding. Times are medians of a round, and ratios are taken within a round;
the table shows the median of the rounds and their range.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

NAIVE: Final = "naive application"
SERVE: Final = "sspsam serve"
LIBRARY: Final = "library"
NEW_IMAGES: Final = "new images"
TASKS: Final = ("further questions", NEW_IMAGES)
_TURN: Final = 10  # questions
_NOT_COUNTED: Final = 2  # of a turn
_SIZE: Final = (480, 640)
_JSON: Final = {"Content-Type": "application/json"}


class Library:
    """The library itself, with a known embedding."""

    def __init__(self) -> None:
        from sspsam import SSPSAMPredictor
        from sspsam.shapes import draw_scene

        self._predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
        self._embedding = self._predictor.encode(draw_scene(7, _SIZE).pixels)

    def ask(self, text: str) -> None:
        """Answer a question."""
        self._predictor.predict([text], embedding=self._embedding)


def run_naive(port: int) -> None:
    """Run the naive application."""
    import uvicorn
    from fastapi import FastAPI, File, Form, UploadFile

    from sspsam import ImageEmbedding, SSPSAMPredictor

    predictor, lock = SSPSAMPredictor.from_pretrained("shapes", device="cpu"), threading.Lock()
    embeddings: dict[str, ImageEmbedding] = {}
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/images")
    def add(image: UploadFile = File()) -> dict[str, str]:  # noqa: B008  # the way of FastAPI
        with lock:
            name = str(len(embeddings))
            embeddings[name] = predictor.encode(image.file)
            return {"id": name}

    @app.post("/v1/images/{name}/segment")
    def further(name: str, body: dict[str, Any]) -> dict[str, Any]:
        with lock:
            results = predictor.predict(body["expressions"], embedding=embeddings[name])
            return {"results": [result.to_dict() for result in results]}

    @app.post("/v1/segment")
    def segment(image: UploadFile = File(), expressions: list[str] = Form()) -> dict[str, Any]:  # noqa: B008
        with lock:
            results = predictor.predict(expressions, image=image.file)
            return {"results": [result.to_dict() for result in results]}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


@contextlib.contextmanager
def server_process(kind: str) -> Iterator[int]:
    """Run a server in a process; yield its port when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.serve", "--naive", str(port)]
    if kind == SERVE:
        command = [sys.executable, "-m", "sspsam", "serve", "-q", "--device", "cpu", "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        _wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        if process.poll() is not None:
            raise SystemExit("a server ended at once")
        time.sleep(0.1)
    raise SystemExit("a server did not become ready within two minutes")


class Client:
    """A client with one connection that is kept alive.

    Args:
        port: of the server on loopback.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.connect()
        # headers and body are two packets: without this the second waits for the server's acknowledgement
        connected = self._connection.sock
        assert connected is not None
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        """Return the JSON of a successful answer."""
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 400:
            raise SystemExit(f"{path}: status {response.status}: {content[:300]!r}")
        return json.loads(content)

    def add_image(self, seed: int) -> str:
        """Post an image and return the path of questions about it."""
        body, headers = form(image_file(seed), [])
        return f"/v1/images/{self.post('/v1/images', body, headers)['id']}/segment"


def image_file(seed: int) -> bytes:
    """Return the PNG of a drawn scene."""
    from PIL import Image

    from sspsam.shapes import draw_scene

    file = io.BytesIO()
    Image.fromarray(draw_scene(seed, _SIZE).pixels).save(file, "PNG")
    return file.getvalue()


def form(image: bytes, expressions: list[str]) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a form."""
    parts = [b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + image]
    parts += [b'Content-Disposition: form-data; name="expressions"\r\n\r\n' + text.encode() for text in expressions]
    body = b"".join(b"--boundary\r\n" + part + b"\r\n" for part in parts) + b"--boundary--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=boundary"}


class KnownImage:
    """Questions of one client about an image that a server knows.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._client = Client(port)
        self._path = self._client.add_image(7)

    def ask(self, text: str) -> None:
        """Ask a question."""
        self._client.post(self._path, json.dumps({"expressions": [text]}).encode(), _JSON)


def latencies(ports: dict[str, int], count: int) -> dict[str, float]:
    """Return the median seconds of a further question by the library and by each server, which take turns."""
    asked: dict[str, Library | KnownImage] = {LIBRARY: Library(), **{kind: KnownImage(ports[kind]) for kind in ports}}
    times: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(count // (_TURN - _NOT_COUNTED) + 1):
        for name, target in asked.items():
            for number in range(_TURN):
                start = time.perf_counter()
                target.ask(f"the star {turn * _TURN + number}")
                if number >= _NOT_COUNTED:
                    times[name].append(time.perf_counter() - start)
    return {f"{name}, one client": statistics.median(values) for name, values in times.items()}


def throughput(port: int, clients: int, seconds: float, new_images: bool) -> float:
    """Return the requests of several clients that are answered in a second.

    Args:
        port: of the server.
        clients: number of connections.
        seconds: duration.
        new_images: whether each request brings its image; otherwise all ask about one known image.
    """
    path = "/v1/segment" if new_images else Client(port).add_image(7)
    images = [image_file(seed) for seed in range(8)]
    counts = [0] * clients
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        client = Client(port)
        while time.perf_counter() < end:
            text = f"the star {number} {counts[number]}"
            if new_images:
                client.post(path, *form(images[counts[number] % len(images)], [text]))
            else:
                client.post(path, json.dumps({"expressions": [text]}).encode(), _JSON)
            counts[number] += 1

    start = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def measure_round(ports: dict[str, int], count: int, clients: int, seconds: float) -> dict[str, float]:
    """Return all numbers of one round, by name."""
    numbers = latencies(ports, count)
    for task in TASKS:
        for kind, port in ports.items():
            numbers[f"{kind}, {task}"] = throughput(port, clients, seconds, new_images=task == NEW_IMAGES)
    return numbers


def report(rounds: list[dict[str, float]], clients: int) -> str:
    """Return the numbers as a table."""

    def cell(values: list[float], unit: str, digits: int) -> str:
        low, high = min(values), max(values)
        return f"{statistics.median(values):.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"

    def row(title: str, first: str, second: str, scale: float, unit: str) -> str:
        ones, others = ([scale * numbers[name] for numbers in rounds] for name in (first, second))
        ratios = [one / other for one, other in zip(ones, others, strict=True)]
        return f"| {title} | {cell(ones, unit, 1)} | {cell(others, unit, 1)} | {cell(ratios, '', 2)} |"

    return "\n".join(
        [
            f"{len(rounds)} rounds, {os.cpu_count()} CPUs, bundled model, images of {_SIZE[1]} x {_SIZE[0]} pixels",
            "",
            f"| | {SERVE} | compared with | ratio |",
            "|---|---|---|---|",
            row("further question, one client: library", f"{SERVE}, one client", f"{LIBRARY}, one client", 1000, " ms"),
            row(f"further question, one client: {NAIVE}", f"{SERVE}, one client", f"{NAIVE}, one client", 1000, " ms"),
            *(
                row(f"{task} a second, {clients} clients: {NAIVE}", f"{SERVE}, {task}", f"{NAIVE}, {task}", 1, "")
                for task in TASKS
            ),
        ]
    )


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--naive", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.naive:
        run_naive(arguments.naive)
        return
    rounds, count, seconds = (1, 10, 1.0) if arguments.quick else (arguments.rounds, 100, 5.0)
    with server_process(SERVE) as port, server_process(NAIVE) as other_port:
        ports = {SERVE: port, NAIVE: other_port}
        numbers = [measure_round(ports, count, arguments.clients, seconds) for _ in range(rounds)]
    print(report(numbers, arguments.clients))


if __name__ == "__main__":
    main()
