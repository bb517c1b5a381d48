"""Limits of bytes, pixels, time, and numbers; slow and hostile clients."""

import io
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.errors import ConfigError
from sspsam.serving import body_watch, connections
from sspsam.serving.options import ServeOptions
from tests.support.images import bomb, eps
from tests.support.serving import (
    GatedPredictor,
    image_file,
    json_question,
    one_response,
    received,
    running,
    wait_until,
)

IMAGE = image_file()
JSON_HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(predictor: SSPSAMPredictor) -> None:
    limit = 1 << 20
    with running(predictor, ServeOptions(max_bytes=limit)) as server, server.client() as client:
        chunks = (bytes(100_000) for _ in range(15))
        for content in (bytes(limit + 1), chunks, bytes(8 * limit)):
            response = client.post("/v1/segment", content=content, headers={"Content-Type": "application/json"})
            assert response.status_code == 413
            assert "more than 1,048,576 bytes" in response.json()["error"]["message"]
        assert server.app.service.bodies.used == 0
        assert client.get("/readyz").status_code == 200
        # a client that waits for consent gets the refusal instead, and need not send its body
        answer = server.exchange(JSON_HEAD + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413")


def test_all_bodies_together_are_limited(predictor: SSPSAMPredictor) -> None:
    options = ServeOptions(max_bytes=200_000, body_memory=200_000)
    with running(predictor, options) as server, server.client() as client, server.connect() as slow:
        slow.sendall(JSON_HEAD + b"Content-Length: 190000\r\n\r\n" + bytes(150_000))
        wait_until(lambda: server.app.service.bodies.used == 150_000)
        response = client.post("/v1/segment", content=bytes(100_000), headers={"Content-Type": "application/json"})
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "Busy"
        assert response.headers["retry-after"]
        slow.close()
        wait_until(lambda: server.app.service.bodies.used == 0)


def test_a_slow_body_is_given_up(predictor: SSPSAMPredictor) -> None:
    with running(predictor, ServeOptions(body_seconds=0.3)) as server, server.connect() as connection:
        connection.sendall(JSON_HEAD + b"Content-Length: 1000\r\n\r\n")
        start = time.monotonic()
        connection.sendall(b"{")
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.3 s" in answer
        assert time.monotonic() - start < 20


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(body_watch, "_LINGER_SECONDS", 0.3)


@pytest.mark.usefixtures("short_times")
def test_slow_headers_end_the_connection_also_after_a_first_request(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server:
        for first in (b"", b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"):
            with server.connect() as connection:
                if first:
                    connection.sendall(first)
                    assert one_response(connection).startswith(b"HTTP/1.1 200")
                start = time.monotonic()
                connection.sendall(b"GET /readyz HTTP/1.1\r\n")
                for _ in range(2):
                    time.sleep(0.1)
                    connection.sendall(b"A: b\r\n")  # every byte would have started a timer of idleness again
                received(connection)
                assert 0.25 < time.monotonic() - start < 20
        with server.connect() as silent:
            assert received(silent) == b""


@pytest.mark.usefixtures("short_times")
def test_a_refused_client_cannot_go_on_sending(predictor: SSPSAMPredictor) -> None:
    with running(predictor, ServeOptions(token="t")) as server:
        answer = server.exchange(JSON_HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(10))
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


def test_connections_are_limited_in_number(predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    with running(predictor) as server, server.connect(), server.connect():
        answer = server.exchange(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in answer


def test_huge_headers_are_refused(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server:
        answer = server.exchange(b"GET /healthz HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 200_000 + b"\r\n\r\n")
        assert answer[:12] in (b"HTTP/1.1 400", b"")  # the client may be cut off before it reads
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


WRITTEN = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # also by Pillow without AVIF


def icon() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "ICO")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (
            bomb(20_000, 20_000),
            413,
            "the image has 400,000,000 pixels, more than the server's limit of 50,000,000. Reduce the image.",
        ),
        (bomb(60_000, 60_000), 413, "3,600,000,000 pixels, more than the server's limit of 50,000,000. Reduce"),
        (bomb(8_000, 8_000), 413, "8000 x 8000"),
        (bomb(50, 50), 422, "damaged"),
        (b"", 422, "is empty (0 bytes)"),
        (b"a text that was renamed to .jpg", 422, "in no format that the server reads"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "in no format that the server reads"),
        (IMAGE[:300], 422, "damaged"),
        (IMAGE[:9] + bytes(90), 422, "damaged: it begins like PNG"),
        (IMAGE.replace(b"\r\n", b"\n"), 422, "damaged: it begins like PNG"),  # as a transfer of text would
        *((image_file(kind=kind)[:16] + bytes(90), 422, "is damaged") for kind in WRITTEN),
        (zlib.compress(IMAGE), 422, "in no format that the server reads"),
        (eps(), 422, "in no format that the server reads"),  # Pillow would start Ghostscript
        (icon(), 422, "in no format that the server reads"),
        (b"#!MICROSOFT", 422, "in no format that the server reads"),
    ],
)
def test_images_that_cannot_be_used_are_refused_before_the_queue(
    gated: GatedPredictor, data: bytes, status: int, message: str
) -> None:
    with running(gated) as server, server.client() as client:
        response = client.post("/v1/images", files={"image": ("photo.jpg", data, "image/jpeg")})
        assert response.status_code == status, response.text
        assert message in response.json()["error"]["message"]
        assert "max_pixels" not in response.text
    assert gated.encoded == 0


def test_decoded_images_that_wait_are_limited_in_pixels(gated: GatedPredictor) -> None:
    large = image_file(1, (200, 200))
    with running(gated, ServeOptions(deadline=1, max_pixels=40_000)) as server, server.client() as client:
        path = f"/v1/images/{client.post('/v1/images', files={'image': IMAGE}).json()['id']}/segment"
        pool = ThreadPoolExecutor(4)
        first = pool.submit(client.post, path, json={"expressions": ["first"]})
        wait_until(lambda: gated.questions)
        futures = [pool.submit(client.post, "/v1/images", files={"image": large}) for _ in range(3)]
        # two of the largest size fit; all three wait for the model in vain
        assert [future.result().json()["error"]["type"] for future in futures] == ["DeadlineExceeded"] * 3
        gated.gate.set()
        assert first.result().status_code == 200
        wait_until(lambda: server.app.service.admission.count == 0)
        assert client.post("/v1/images", files={"image": large}).status_code == 201


def test_a_compressed_body_is_refused(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server, server.client() as client:
        response = client.post(
            "/v1/segment",
            content=zlib.compress(bytes(10_000_000)),
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
        assert response.status_code == 415
        assert "must not be compressed" in response.json()["error"]["message"]


def test_pipelined_requests_are_answered_in_order(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server:
        first = b"GET /v1/model HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = server.exchange(first * 3 + b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"200", b"404"]


def test_nothing_of_a_client_that_breaks_off_its_upload_remains(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server:
        with server.connect() as connection:
            connection.sendall(JSON_HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(300_000))
            wait_until(lambda: server.app.service.bodies.used == 300_000)
        wait_until(lambda: server.app.service.bodies.used == 0)
        with server.client() as client:
            assert client.post("/v1/segment", json=json_question(IMAGE, "a")).status_code == 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_bytes": 0}, "max_bytes must be a whole number, 1 or more, not 0"),
        ({"queue_length": True}, "queue_length"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"deadline": 0}, "deadline must be a number of seconds above 0"),
        ({"image_expiry": float("inf")}, "image_expiry"),
        ({"max_bytes": 1 << 40}, "is less than max_bytes"),
        ({"root_path": "sspsam"}, "must look like '/sspsam'"),
        ({"replica": "a/b"}, "replica"),
        ({"token": ""}, "the token must be printable"),
        ({"token": "two words"}, "the token must be printable"),
    ],
)
def test_options_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        ServeOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    [
        "foo",
        "",
        "null",
        "a.b",
        "//a.b",
        "http://",
        "http://a.b/",
        "http://a.b/path",
        "http://a.b?x",
        "http://a.b#x",
        "http://*.a.b",
        "http://user@a.b",
        "http://a.b:",
        "http://a.b:0",
        "http://a.b:65536",
        "http://a.b:80",
        "https://a.b:443",
        "HTTP://a.b",
        "http://A.b",
        "http://a.b ",
        "http://a.b\n",
        "http://[::1",
        7,
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: object) -> None:
    with pytest.raises(ConfigError, match="cors_origins must be"):
        ServeOptions(cors_origins=("https://good.test", origin))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cors_origins must be a tuple"):
        ServeOptions(cors_origins="https://good.test")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "http://a.b",
        "https://a.b:80",
        "http://localhost:3000",
        "http://[::1]:8000",
        "https://xn--bcher-kva.example",
        "chrome-extension://abcdef",
    ],
)
def test_origins_as_browsers_send_them_are_taken(origin: str) -> None:
    assert ServeOptions(cors_origins=(origin,)).cors_origins == (origin,)
