"""Requests and their answers: those of the library, or one clear error."""

import base64
import io
import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.errors import SSPSAMError
from sspsam.serving.openapi import OPERATIONS
from sspsam.serving.options import ServeOptions
from sspsam.serving.refusals import STATUS_OF_ERRORS, refusal_of
from tests.support.serving import (
    GatedPredictor,
    RunningServer,
    answers_of,
    image_file,
    json_question,
    running,
    wait_until,
)

IMAGE = image_file()
TEXTS = ("the star", "der größte Kreis 🔴", "the\x00 odd one")


def error_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "message"}
    return error["message"]


def test_a_form_and_json_get_the_answers_of_the_library(client: httpx.Client, predictor: SSPSAMPredictor) -> None:
    expected = answers_of(predictor, IMAGE, *TEXTS)
    form = client.post("/v1/segment", files={"image": IMAGE}, data={"expressions": TEXTS})
    text = client.post("/v1/segment", json=json_question(IMAGE, *TEXTS))
    for response in (form, text):
        assert response.status_code == 200, response.text
        assert response.json() == {"results": expected, "fingerprint": predictor.fingerprint}
    assert Segmentation.from_dict(text.json()["results"][0]).mask.shape == (60, 90)
    assert re.fullmatch(r"queue;dur=[\d.]+, model;dur=[\d.]+", text.headers["server-timing"])


def test_options_are_those_of_predict(client: httpx.Client, predictor: SSPSAMPredictor) -> None:
    options: dict[str, Any] = {"mask_threshold": 0.3, "no_target_pixels": 0, "explain": True}
    expected = answers_of(predictor, IMAGE, "the star", **options)
    text = client.post("/v1/segment", json=json_question(IMAGE, "the star", **options))
    form = client.post(
        "/v1/segment", files={"image": IMAGE}, data={"expressions": "the star", "options": json.dumps(options)}
    )
    assert text.json()["results"] == form.json()["results"] == expected
    assert expected[0]["explanation"]["words"]
    assert expected != answers_of(predictor, IMAGE, "the star")


def test_an_image_that_was_posted_is_asked_about_by_its_id(client: httpx.Client, predictor: SSPSAMPredictor) -> None:
    created = client.post("/v1/images", files={"image": ("../../etc/passwd", IMAGE)})
    assert created.status_code == 201
    assert created.json() | {"id": ""} == {"id": "", "width": 90, "height": 60, "expires_in": 900.0}
    path = f"/v1/images/{created.json()['id']}"
    assert len(created.json()["id"]) >= 22
    for _ in range(2):
        answer = client.post(f"{path}/segment", json={"expressions": TEXTS})
        assert answer.json()["results"] == answers_of(predictor, IMAGE, *TEXTS)
    form = client.post(f"{path}/segment", files=[("expressions", (None, text)) for text in TEXTS])
    assert form.json() == answer.json()
    assert client.delete(path).status_code == 204
    assert "Post the image again" in error_of(client.post(f"{path}/segment", json={"expressions": TEXTS}), 404)
    error_of(client.delete(path), 404)


def test_one_mask_comes_as_png_where_png_is_preferred(client: httpx.Client, predictor: SSPSAMPredictor) -> None:
    expected = predictor.predict("the star", image=IMAGE)
    question = json_question(IMAGE, "the star")
    response = client.post("/v1/segment", json=question, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(response.content))) > 0, expected.mask)
    assert response.headers["sspsam-no-target"] == str(expected.no_target).lower()
    for accept in (
        "*/*",
        "application/json",
        "image/png;q=0.5, application/json",
        "text/html, */*;q=0.1",
        "application/*",
    ):
        response = client.post("/v1/segment", json=question, headers={"Accept": accept})
        assert response.headers["content-type"] == "application/json"


def test_what_is_not_acceptable_is_refused_before_it_is_computed(gated: GatedPredictor) -> None:
    with running(gated) as server, server.client() as client:
        several = client.post("/v1/segment", json=json_question(IMAGE, "a", "b"), headers={"Accept": "image/png"})
        other = client.post("/v1/segment", json=json_question(IMAGE, "a"), headers={"Accept": "text/html"})
    assert "one mask, but there are 2 expressions" in error_of(several, 406)
    assert "application/json" in error_of(other, 406)
    assert gated.encoded == 0


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"expressions": ["a"]}, 422, "'image' is missing"),
        ({"image": "", "expressions": ["a"]}, 422, "empty (0 bytes)"),
        ({"image": 7, "expressions": ["a"]}, 422, "base64, not int"),
        ({"image": "/etc/passwd", "expressions": ["a"]}, 422, "paths and URLs are never opened"),
        ({"image": "file:///etc/passwd", "expressions": ["a"]}, 422, "paths and URLs are never opened"),
        ({"image": "http://127.0.0.1:1/a.png", "expressions": ["a"]}, 422, "paths and URLs are never opened"),
        ({"image": "aGVsbG8=", "expressions": ["a"]}, 422, "in no format that the server reads"),
        ({"image": "✓", "expressions": ["a"]}, 422, "not base64"),
        ({"expressions": "a"}, 422, "a list of strings, not str"),
        ({"expressions": []}, 422, "1 to 32 expressions, not 0"),
        ({"expressions": ["a"] * 33}, 422, "1 to 32 expressions, not 33"),
        ({"expressions": ["a", 1]}, 422, "expression 2 must be a string, not int"),
        ({"expressions": [["a"]]}, 422, "must be a string, not list"),
        ({"expressions": ["a", " \t"]}, 422, "expression 2 is empty"),
        ({"expressions": ["a" * 1001]}, 422, "1,001 characters"),
        ({"expressions": ["\ud800"]}, 422, "half of a surrogate pair"),
        ({"options": []}, 422, "an object, not list"),
        ({"options": {"max_pixels": 1}}, 422, "no option 'max_pixels'"),
        ({"options": {"explain": 1}}, 422, "true or false, not int"),
        ({"options": {"mask_threshold": 1}}, 422, "between 0 and 1"),
        ({"options": {"mask_threshold": float("nan")}}, 422, "between 0 and 1"),
        ({"options": {"mask_threshold": 10**400}}, 422, "option"),
        ({"options": {"no_target_pixels": -1}}, 422, "0 or more"),
        ({"options": {"no_target_pixels": 1.5}}, 422, "whole number"),
        ({"extra": 1}, 422, "no entry 'extra'"),
    ],
)
def test_every_wrong_entry_is_named(client: httpx.Client, content: dict[str, Any], status: int, message: str) -> None:
    base = {} if content == {"expressions": ["a"]} else json_question(IMAGE, "the star")
    response = client.post(
        "/v1/segment", content=json.dumps({**base, **content}), headers={"Content-Type": "application/json"}
    )
    assert message in error_of(response, status)


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"{", "application/json", 400, "not valid JSON"),
        (b"\xff", "application/json", 400, "not UTF-8"),
        (b"[]", "application/json", 400, "JSON object"),
        (b'{"image": "", "image": ""}', "application/json", 400, "duplicate"),
        (b"[" * 20_000, "application/json", 400, "JSON"),
        (b'{"expressions": ' + b"1" * 5_000 + b"}", "application/json", 400, "a number with too many digits"),
        (b'{"expressions": [' + b"[]," * 20_000 + b"0]}", "application/json", 400, "too many values"),
        (b"{}", "text/plain", 415, "application/json, not 'text/plain'"),
        (b"{}", "", 415, "multipart/form-data or application/json"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "application/json"),
        (b"", "multipart/form-data", 400, "no valid boundary"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "malformed"),
        (b"--y--\r\n", "multipart/form-data; boundary=x", 400, "malformed"),
    ],
)
def test_malformed_bodies_are_refused(client: httpx.Client, body: bytes, kind: str, status: int, message: str) -> None:
    response = client.post("/v1/segment", content=body, headers={"Content-Type": kind})
    assert message in error_of(response, status)


def part(headers: str, data: bytes = b"the star") -> bytes:
    return b"--x\r\n" + headers.encode() + b"\r\n\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part("A: b")], "no Content-Disposition"),
        ([part('Content-Disposition: attachment; name="image"')], "no form-data"),
        ([part('Content-Disposition: form-data; name="image"')] * 2, "'image' twice"),
        ([part('Content-Disposition: form-data; name="image"')] * 36, "more than 35 parts"),
        ([part('Content-Disposition: form-data; name="expressions"', b"\xff")], "not UTF-8"),
        ([part('Content-Disposition: form-data; name="options"', b"nothing")], "'options' is not valid JSON"),
        ([part("\r\n".join(f"A{number}: b" for number in range(9)))], "eader"),
        ([part("A: " + "b" * 5000)], "eader"),
        ([part('Content-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name="image"')], "Transfer"),
    ],
)
def test_malformed_parts_are_refused(client: httpx.Client, parts: list[bytes], message: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/segment", content=b"".join(parts) + b"--x--\r\n", headers=headers)
    assert message in error_of(response, 400)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/v1/model"])
def test_head_is_answered_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_unknown_paths_and_methods_have_the_same_form_of_error(client: httpx.Client) -> None:
    assert "no page '/nothing'" in error_of(client.get("/nothing"), 404)
    assert "GET is not allowed" in error_of(client.get("/v1/segment"), 405)
    for path in (
        "/v1/images/../../etc/passwd/segment",
        "/v1/images/%2e%2e%2fetc%2fpasswd/segment",
        "/v1/images/x/segment",
    ):
        error_of(client.post(path, json={"expressions": ["a"]}), 404)


def test_every_error_of_the_library_has_a_status_and_its_own_message() -> None:
    def subclasses(kind: type[SSPSAMError]) -> set[type[SSPSAMError]]:
        return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))

    for kind, status in STATUS_OF_ERRORS:
        for child in subclasses(kind):
            refusal = refusal_of(child("the reason"))
            assert refusal is not None
            assert str(refusal) == "the reason"
            assert refusal.kind == child.__name__
            assert refusal.status == next(known for base, known in STATUS_OF_ERRORS if issubclass(child, base))
            assert (refusal.headers.get("Retry-After") is not None) == (status == 503)


def test_a_failure_of_the_server_says_nothing_about_its_inside(
    gated: GatedPredictor, caplog: pytest.LogCaptureFixture
) -> None:
    gated.error = RuntimeError("secret of the inside")
    gated.gate.set()
    with running(gated) as server, server.client() as client:
        answers = [client.post("/v1/segment", json=json_question(IMAGE, "a")) for _ in range(3)]
        for answer in answers:
            assert answer.json() == {
                "error": {"type": "InternalError", "message": "the server failed; its log names the reason"}
            }
            assert answer.status_code == 500
        assert error_of(client.get("/healthz"), 503).startswith("the last 3 computations failed: restart")
        error_of(client.get("/readyz"), 503)
    assert "secret of the inside" in caplog.text


def test_the_token_is_needed_everywhere_but_for_health(predictor: SSPSAMPredictor) -> None:
    with running(predictor, ServeOptions(token="s3cret", cors_origins=("https://page.test",))) as server:
        with server.client() as client:
            for operation in OPERATIONS:
                response = client.request(operation.method, operation.path.replace("{image_id}", "x"))
                assert (response.status_code == 200) == (operation.name in ("healthz", "readyz")), operation
                if response.status_code != 200:
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert "Authorization: Bearer" in error_of(response, 401)
            for wrong in ("Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "Bearer \u00e9"):
                assert client.get("/v1/model", headers={"Authorization": wrong.encode("latin-1")}).status_code == 401
            good = {"Authorization": "Bearer s3cret"}
            assert client.get("/v1/model", headers=good).status_code == 200
            assert client.post("/v1/segment", json=json_question(IMAGE, "a"), headers=good).status_code == 200
            assert "securitySchemes" in client.get("/openapi.json", headers=good).json()["components"]
            preflight = client.options(
                "/v1/segment",
                headers={
                    "Origin": "https://page.test",
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization",
                },
            )
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == "https://page.test"
            other = client.get("/v1/model", headers={"Origin": "https://other.test"})
            assert "access-control-allow-origin" not in other.headers
        assert "s3cret" not in "".join(server.lines) + repr(server.app.service.options)


def test_no_page_of_another_origin_may_read_answers_by_default(client: httpx.Client) -> None:
    assert "access-control-allow-origin" not in client.get("/readyz", headers={"Origin": "https://page.test"}).headers


def test_a_root_path_is_stripped_by_the_proxy_or_not(predictor: SSPSAMPredictor) -> None:
    with running(predictor, ServeOptions(root_path="/sspsam", token="t")) as server, server.client() as client:
        assert client.get("/sspsam/readyz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/sspsam/v1/model").status_code == client.get("/v1/model").status_code == 401
        document = client.get("/openapi.json", headers={"Authorization": "Bearer t"}).json()
        assert document["servers"] == [{"url": "/sspsam"}]


def test_the_pages_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(re.findall(r'(?:href|src)="([^"]*)"', page.text)) == {"openapi.json"}
    assert not re.search(r"https?://", page.text)
    for operation in OPERATIONS:
        assert operation.path in page.text


def test_the_document_has_the_routes_of_the_application(server: RunningServer, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = {
        (method, route.path)
        for route in server.app.routes
        for method in (getattr(route, "methods", None) or ())
        if method not in ("HEAD", "OPTIONS") and route.path != "/openapi.json"
    }
    assert described == routes


def test_the_model_is_described_without_a_path_of_the_server(client: httpx.Client, predictor: SSPSAMPredictor) -> None:
    description = client.get("/v1/model").json()
    assert description["fingerprint"] == predictor.fingerprint
    assert description["origin"] == "local"
    assert description["limits"]["max_expressions"] == 32
    assert predictor.origin not in client.get("/v1/model").text


def test_metrics_have_no_value_that_a_client_invents(client: httpx.Client) -> None:
    client.get("/invented/path")
    client.request("INVENTED", "/readyz")
    client.post("/v1/images/invented-id/segment")
    text = client.get("/metrics").text
    assert "invented" not in text.lower()
    assert 'sspsam_requests_total{method="POST",route="/v1/images/{image_id}/segment",status="404"}' in text
    for name in ("sspsam_queue_length", "sspsam_batch_requests_bucket", "sspsam_store_bytes", "sspsam_body_bytes"):
        assert f"\n{name}" in text
    assert "\nsspsam_body_bytes 0.0\n" in text


def test_the_access_log_has_one_printable_line_for_each_request(server: RunningServer, client: httpx.Client) -> None:
    created = client.post("/v1/images", json={"image": base64.b64encode(IMAGE).decode()}).json()["id"]
    client.post(f"/v1/images/{created}/segment", json={"expressions": ["a"]})
    client.get("/two%0alines%1b[31m")

    def logged() -> list[str]:
        return [line for line in server.lines if created[:6] in line or "two" in line]

    wait_until(lambda: len(logged()) == 2)  # a line is written after its response
    lines = logged()
    assert all(line.isprintable() for line in lines)
    assert re.fullmatch(r"127\.0\.0\.1 POST /v1/images/.{6}\.\.\./segment 200 \d+ B [\d.]+ ms", lines[0])
    assert created not in lines[0]
