"""`sspsam demo` as a process of its own, and HTTP requests to it."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def demo_process(folder: Path, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `sspsam demo` on a free port; yield its address and the process, which is ended afterwards.

    Args:
        folder: current directory of the process and place of its temporary files; gets `stderr.txt`.
        arguments: further ones.
    """
    import os

    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sspsam", "demo", "--port", "0", "--device", "cpu", *arguments]
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env=environment
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), (folder / "stderr.txt").read_text()
            yield address, process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


class Page:
    """One visitor without a browser.

    Args:
        address: of the page.
        session: key of the open page.
    """

    def __init__(self, address: str, session: str) -> None:
        self.host = address.removeprefix("http://").rstrip("/")
        self.session = session
        self.config = json.loads(self.get("/config")[1])

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request exactly as given; return status and body."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Send a GET request."""
        return self.request("GET", path)

    def post(self, path: str, content: Any) -> tuple[int, bytes]:
        """Send a POST request with a JSON body."""
        return self.request("POST", path, json.dumps(content).encode(), Content_Type="application/json")

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        """Upload a file as the page does."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = head + content + b"\r\n--x--\r\n"
        return self.request("POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")

    def event(self, function: str, data: list[Any]) -> tuple[int, bytes]:
        """Send an event for one of the functions behind the page."""
        number = next(fn["id"] for fn in self.config["dependencies"] if fn["api_name"] == function)
        body = {"data": data, "fn_index": number, "session_hash": self.session, "trigger_id": None}
        return self.post("/gradio_api/queue/join", body)

    def outcome(self, function: str, data: list[Any]) -> dict[str, Any]:
        """Send an event and wait for its outcome."""
        status, content = self.event(function, data)
        assert status == 200, content
        _, stream = self.get(f"/gradio_api/queue/data?session_hash={self.session}")
        messages = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
        return next(message for message in messages if message["msg"] == "process_completed")

    def results(self, image: bytes, expressions: str, name: str = "image.png") -> str:
        """Upload an image, ask for expressions, and return the HTML of the results."""
        status, content = self.upload(name, image)
        assert status == 200, content
        file = {"path": json.loads(content)[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        outcome = self.outcome("find", [file, expressions])
        assert outcome["success"], outcome
        return str(outcome["output"]["data"][0])
