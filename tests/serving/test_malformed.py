"""Generated requests of every wrong kind: each is refused or answered, none makes the server fail."""

import base64
import json
import random
from typing import Any, Final

import httpx
import pytest

from tests.support.serving import RunningServer, image_file

IMAGE = image_file()
PATHS: Final = ("/v1/segment", "/v1/images", "/v1/images/unknown/segment")
VALUES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1.5, 1e308, 10**30, float("nan"), float("-inf"), "", " ", "a", "\ud83d", "\x00", "🔴" * 40,
    "a" * 3000, [], [[]], ["a"], ["a", None], [""], {}, {"a": {}}, {"mask_threshold": "1"}, {"mask_threshold": 0.5},
    {"explain": None},
    "../../etc/passwd", "http://127.0.0.1/", "data:image/png;base64,AAAA", base64.b64encode(IMAGE).decode(),
)  # fmt: skip
KINDS: Final = (
    "application/json", "application/json; charset=utf-16", "multipart/form-data", "multipart/form-data; boundary=",
    "multipart/form-data; boundary=x", 'multipart/form-data; boundary="x y "', "multipart/mixed; boundary=x",
    "text/plain",
    "application/x-www-form-urlencoded", "", "multipart/form-data; boundary=" + "x" * 300, "a/b; " + ";" * 500,
)  # fmt: skip
HEADERS: Final = (
    {}, {"Accept": "image/png"}, {"Accept": ";;q=x,,"}, {"Accept": "image/png;q=9"}, {"Authorization": "Bearer x"},
    {"Content-Encoding": "gzip"}, {"Accept": "*/*;q=0"}, {"Origin": "null"},
    {"Host": "a b"},
)  # fmt: skip


def random_json(random: random.Random) -> bytes:
    names = random.choices(("image", "expressions", "options", "", "__proto__", "Image"), k=random.randrange(5))
    content = {name: random.choice(VALUES) for name in names}
    return json.dumps(content).encode()


def random_form(random: random.Random) -> bytes:
    boundary = random.choice((b"x", b"x", b"x", b"y", b"x y "))
    parts = b""
    for _ in range(random.randrange(6)):
        name = random.choice((b"image", b"expressions", b"options", b"", b'a"b', b"\xff", b"image\r\nA: b"))
        kind = random.choice((b"form-data", b"form-data", b"attachment", b""))
        file_name = random.choice((b"", b'; filename="../../etc/passwd"', b"; filename*=utf-8''%00", b'; filename="'))
        data = random.choice((IMAGE, IMAGE[:100], b"", b"the star", b"{}", b"\r\n--x", b"\xff\xfe", b"{" * 3000))
        parts += b"--" + boundary + b"\r\nContent-Disposition: " + kind + b'; name="' + name + b'"' + file_name
        parts += (
            random.choice((b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b"\r\nContent-Type: \x00\r\n\r\n"))
            + data
            + b"\r\n"
        )
    return parts + random.choice((b"--x--\r\n", b"--x--", b"", b"--x"))


def damaged(random: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(random.choice((0, 0, 1, 3, 20))):
        if changed:
            position = random.randrange(len(changed))
            changed[position : position + random.randrange(3)] = random.randbytes(random.randrange(3))
    return bytes(changed)


def ask(client: httpx.Client, seed: int) -> httpx.Response:
    generator = random.Random(seed)
    make = generator.choice((random_json, random_form))
    kind = generator.choice(KINDS[:1] if make is random_json else KINDS[4:5]) if generator.random() < 0.7 else None
    headers = {**generator.choice(HEADERS), "Content-Type": kind if kind is not None else generator.choice(KINDS)}
    body = damaged(generator, make(generator)) if generator.random() < 0.95 else generator.randbytes(200)
    return client.request(
        generator.choice(("POST",) * 9 + ("PUT",)), generator.choice(PATHS), content=body, headers=headers
    )


def check(server: RunningServer, client: httpx.Client, seeds: range) -> None:
    statuses: dict[int, int] = {}
    for seed in seeds:
        response = ask(client, seed)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (seed, response.text)
        if response.status_code >= 400 and response.headers["content-type"] == "application/json":
            error = response.json()["error"]
            assert error["message"].isprintable(), (seed, error)
            assert len(error["message"]) < 1000, (seed, error)
            assert "Traceback" not in response.text
    assert len(statuses) >= 5, statuses
    service = server.app.service
    assert client.get("/readyz").status_code == 200
    assert service.admission.count == service.bodies.used == 0


def test_a_hundred_malformed_requests_are_refused(server: RunningServer, client: httpx.Client) -> None:
    check(server, client, range(100))


@pytest.mark.nightly
def test_a_thousand_malformed_requests_are_refused(server: RunningServer, client: httpx.Client) -> None:
    check(server, client, range(1000, 2000))


@pytest.mark.nightly
def test_every_answer_is_as_the_openapi_document_says(server: RunningServer) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = schemathesis.checks
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers_as_described(case: Any) -> None:
            case.call_and_validate(
                checks=[
                    checks.not_a_server_error,
                    checks.status_code_conformance,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                ]
            )

        answers_as_described()
