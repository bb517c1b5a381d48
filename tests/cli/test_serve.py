"""`sspsam serve`: its options, its messages, and its end."""

import dataclasses
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.cli.serve import LimitOptions
from sspsam.models.device_model import expressions_per_pass
from sspsam.serving.options import TOKEN_VARIABLE, ServeOptions
from tests.support.command import run_command
from tests.support.serving import answers_of, image_file

IMAGE = image_file()


def test_every_field_of_the_options_is_a_flag_with_the_same_default() -> None:
    fields = {field.name for field in dataclasses.fields(ServeOptions)}
    assert {field.name for field in dataclasses.fields(LimitOptions)} == fields - {"token"}
    text = " ".join(run_command("serve", "--help").stdout.split())
    for name in fields - {"token", "cors_origins"}:
        assert f"--{name.replace('_', '-')}" in text
    assert "--cors-origin " in text
    assert "[default: 33554432" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--model", "shape"), 1, "shapes"),
        (("--port", "70000"), 2, "--port"),
        (("--deadline", "0"), 2, "--deadline"),
        (("--host", "no.such.host.invalid", "--port", "0"), 1, "cannot listen on no.such.host.invalid"),
        (("--root-path", "sspsam"), 1, "must look like '/sspsam'"),
        (("--max-bytes", "999999999999"), 1, "--max-bytes"),
        (("--cors-origin", "foo"), 1, "--cors-origin must be '*' or look like 'https://page.example'"),
        (("--cors-origin", "*", "--cors-origin", "http://a.b/"), 1, "not 'http://a.b/'"),
    ],
)
def test_wrong_options_end_in_one_line(arguments: tuple[str, ...], status: int, message: str) -> None:
    result = run_command("serve", *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_command("serve", "--port", port)
    assert result.exit_code == 1
    reason = "Address already in use. Choose another one with --port"
    assert result.stderr == f"sspsam: cannot listen on 127.0.0.1, port {port}: {reason}\n"


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    result = run_command("serve", "--port", "0", "--model", tmp_path)
    assert result.exit_code == 1
    assert "config.json" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_empty_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    result = run_command("serve", "--port", "0")
    assert result.exit_code == 1
    assert f"{TOKEN_VARIABLE} must be printable" in result.stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run_command("serve", "--port", "0")
    assert result.exit_code == 1
    assert "install sspsam[serve]" in result.stderr


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `sspsam serve` in a process; yield it and its address when it is ready."""
    command = [sys.executable, "-m", "sspsam", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split(" at ")[1].split()[0]
        with httpx.Client(base_url=url, trust_env=False) as client:
            end = time.monotonic() + 120
            while client.get("/readyz").status_code != 200:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


class Load:
    """Clients that ask one question after another until the server refuses their connection."""

    def __init__(self, url: str, clients: int, expected: list[dict[str, Any]]) -> None:
        self.url, self.expected = url, expected
        self.answered = 0
        self.lost: list[BaseException | str] = []
        self.threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self, keeps_alive: bool) -> None:
        headers = {} if keeps_alive else {"Connection": "close"}
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60, headers=headers) as client:
            for _ in range(10_000):
                try:
                    response = client.post("/v1/segment", files={"image": IMAGE}, data={"expressions": ["the star"]})
                except httpx.ConnectError:
                    return  # the server has stopped listening: this request was not accepted
                except BaseException as error:
                    self.lost.append(error)
                    return
                if response.status_code != 200 or response.json()["results"] != self.expected:
                    self.lost.append(response.text)
                self.answered += 1

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(tiny_model: Path) -> None:
    expected = answers_of(SSPSAMPredictor.from_pretrained(tiny_model, device="cpu"), IMAGE, "the star")
    with serving("--model", tiny_model, "--device", "cpu") as (process, url):
        load = Load(url, 12, expected)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or io.StringIO()))
        reader.start()
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        load.join()
        reader.join()
    assert load.lost == []
    assert load.answered >= 12
    assert "sspsam: stopped; all accepted requests were answered\n" in lines
    assert sum("POST /v1/segment 200" in line for line in lines) == load.answered


@pytest.mark.slow
def test_a_second_of_patience_is_said_and_kept(tiny_model: Path) -> None:
    with serving("--model", tiny_model, "--device", "cpu", "--drain-seconds", 0, "--stop-seconds", 1) as (process, url):
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 100\r\n\r\n{")  # never finished
            time.sleep(0.5)
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert time.monotonic() - start < 15
        assert process.stderr is not None
        assert "1 requests were not answered within --stop-seconds 1" in process.stderr.read()


@pytest.mark.slow
def test_readiness_ends_before_the_server_does_and_ctrl_c_is_an_interruption(tiny_model: Path) -> None:
    with serving("--model", tiny_model, "--device", "cpu", "--drain-seconds", 3) as (process, url):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            assert client.get("/readyz").status_code == 503
            response = client.post("/v1/segment", files={"image": IMAGE}, data={"expressions": ["the star"]})
            assert response.status_code == 200
            assert response.headers["connection"] == "close"
        assert process.wait(30) == 0
    with serving("--model", tiny_model, "--device", "cpu", SSPSAM_SERVE_TOKEN="t") as (process, url):
        assert httpx.get(f"{url}/v1/model", trust_env=False).status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_the_default_of_micro_batch_in_the_help_is_that_of_the_library() -> None:
    cpu, gpu = (expressions_per_pass(torch.device(kind)) for kind in ("cpu", "cuda"))
    help_text = " ".join(run_command("serve", "--help").stdout.split())
    assert f"[default: {cpu} on a CPU, else {gpu}]" in help_text
