"""Requests that wait: full queues, deadlines, clients that go away, and questions that are answered together."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from sspsam.errors import CheckpointError, TextError
from sspsam.serving.app import create_app
from sspsam.serving.options import ServeOptions
from tests.support.asgi import ASGIClient
from tests.support.serving import GatedPredictor, RunningServer, image_file, json_question, running, wait_until

IMAGE = image_file()


def post_image(client: httpx.Client) -> str:
    return f"/v1/images/{client.post('/v1/images', files={'image': IMAGE}).json()['id']}/segment"


class Questions:
    """Questions that are asked at once by threads."""

    def __init__(self, server: RunningServer, path: str) -> None:
        self.server, self.path = server, path
        self.pool = ThreadPoolExecutor(32)

    def ask(self, *expressions: str, **options: object) -> "httpx.Response":
        def post() -> httpx.Response:
            with self.server.client() as client:
                return client.post(self.path, json={"expressions": expressions, "options": options})

        return self.pool.submit(post)  # type: ignore[return-value]


def waiting(server: RunningServer) -> int:
    return server.app.service.admission.count


def test_a_full_queue_is_answered_with_503_and_when_to_come_again(gated: GatedPredictor) -> None:
    with running(gated, ServeOptions(queue_length=3)) as server, server.client() as client:
        questions = Questions(server, post_image(client))
        accepted = [questions.ask(f"number {number}") for number in range(3)]
        wait_until(lambda: waiting(server) == 3)
        for request in (client.post(questions.path, json={"expressions": ["a"]}), client.post("/v1/images")):
            assert request.status_code == 503
            assert request.json()["error"]["type"] == "QueueFull"
            assert 1 <= int(request.headers["retry-after"]) <= 60
        assert client.get("/readyz").status_code == 200
        gated.gate.set()
        assert [future.result().status_code for future in accepted] == [200] * 3
        assert waiting(server) == 0


def test_a_request_whose_deadline_passes_is_not_computed(gated: GatedPredictor) -> None:
    with running(gated, ServeOptions(deadline=1, micro_batch=1)) as server, server.client() as client:
        questions = Questions(server, post_image(client))
        computed = questions.ask("started in time")
        wait_until(lambda: gated.questions)
        start = time.monotonic()
        late = client.post(questions.path, json={"expressions": ["too late"]})
        assert 0.9 < time.monotonic() - start < 20
        assert late.status_code == 503
        assert late.json()["error"]["type"] == "DeadlineExceeded"
        assert "was not computed" in late.json()["error"]["message"]
        gated.gate.set()
        assert computed.result().status_code == 200  # the deadline is for waiting
        assert client.post(questions.path, json={"expressions": ["next"]}).status_code == 200
        assert gated.questions == [["started in time"], ["next"]]


def test_the_deadline_counts_for_images_too(gated: GatedPredictor) -> None:
    with running(gated, ServeOptions(deadline=1)) as server, server.client() as client:
        computed = Questions(server, post_image(client)).ask("started in time")
        wait_until(lambda: gated.questions)
        before = gated.encoded
        assert client.post("/v1/segment", json=json_question(IMAGE, "a")).json()["error"]["type"] == "DeadlineExceeded"
        gated.gate.set()
        assert computed.result().status_code == 200
        assert gated.encoded == before


def test_a_client_that_goes_away_is_not_computed(gated: GatedPredictor) -> None:
    with running(gated, ServeOptions(micro_batch=1)) as server, server.client() as client:
        questions = Questions(server, post_image(client))
        first = questions.ask("first")
        wait_until(lambda: gated.questions)
        body = json.dumps({"expressions": ["of a client that goes away"]}).encode()
        with server.connect() as connection:
            head = f"POST {questions.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: waiting(server) == 2)
        wait_until(lambda: waiting(server) == 1)
        gated.gate.set()
        assert first.result().status_code == 200
        assert client.post(questions.path, json={"expressions": ["next"]}).status_code == 200
        assert gated.questions == [["first"], ["next"]]
        assert any(" 499 " in line for line in server.lines)


def test_a_long_question_ends_early_when_its_client_goes_away(gated: GatedPredictor) -> None:
    with running(gated) as server, server.client() as client:
        path = post_image(client)
        body = json.dumps({"expressions": [f"number {number}" for number in range(32)]}).encode()
        with server.connect() as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: gated.questions)
        wait_until(lambda: waiting(server) == 0)
        gated.gate.set()
        assert client.post(path, json={"expressions": ["next"]}).status_code == 200
        assert gated.questions == [["number 0", "number 1"], ["next"]]


def test_questions_about_one_image_are_answered_together_where_their_options_agree(gated: GatedPredictor) -> None:
    with running(gated, ServeOptions(micro_batch=4)) as server, server.client() as client:
        one, other = Questions(server, post_image(client)), Questions(server, post_image(client))
        futures = [one.ask("first")]
        wait_until(lambda: gated.questions)
        for count, (questions, text, options) in enumerate(
            [
                (one, "a", {}),
                (other, "of the other image", {}),
                (one, "bb", {"explain": True}),
                (one, "ccc", {}),
                (one, "dddd", {}),
                (one, "eeeee", {}),
                (one, "ffffff", {}),
            ],
            2,
        ):
            futures.append(questions.ask(text, **options))
            wait_until(lambda count=count: waiting(server) == count)
        gated.gate.set()
        results = [future.result().json()["results"][0] for future in futures]
    assert [result["score"] for result in results] == [len(result["text"]) for result in results]
    assert [result["text"] for result in results] == [
        "first",
        "a",
        "of the other image",
        "bb",
        "ccc",
        "dddd",
        "eeeee",
        "ffffff",
    ]
    # a pass of a CPU has two expressions
    assert gated.questions == [
        ["first"],
        ["a", "ccc"],
        ["dddd", "eeeee"],
        ["of the other image"],
        ["bb"],
        ["ffffff"],
    ]


def test_an_error_reaches_only_the_request_that_causes_it(
    gated: GatedPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = gated.predict

    def predict(texts: list[str], **options: object) -> object:
        if "bad" in texts:
            raise TextError("the expression is bad")
        return answer(texts, **options)

    monkeypatch.setattr(gated, "predict", predict)
    with running(gated, ServeOptions(micro_batch=8)) as server, server.client() as client:
        questions = Questions(server, post_image(client))
        first = questions.ask("first")
        wait_until(lambda: gated.questions)
        futures = [questions.ask(text) for text in ("good", "bad", "fine")]
        wait_until(lambda: waiting(server) == 4)
        gated.gate.set()
        assert [future.result().status_code for future in (first, *futures)] == [200, 200, 422, 200]
        assert futures[1].result().json() == {"error": {"type": "TextError", "message": "the expression is bad"}}


def test_the_thread_of_the_model_survives_every_error(gated: GatedPredictor) -> None:
    gated.gate.set()
    with running(gated) as server, server.client() as client:
        path = post_image(client)
        for error, status in ((MemoryError(), 503), (KeyboardInterrupt(), 500), (SystemExit(), 500)):
            gated.error = error
            assert client.post(path, json={"expressions": ["a"]}).status_code == status
        gated.error = None
        assert client.post(path, json={"expressions": ["a"]}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_model_that_cannot_be_loaded_is_reported_without_a_time_to_try_again() -> None:
    def load() -> GatedPredictor:
        raise CheckpointError("secret of the inside")

    app = create_app(load)
    app.service.engine.start()
    wait_until(lambda: app.service.engine.failure is not None)
    client = ASGIClient(app)
    for path in ("/healthz", "/readyz", "/v1/model"):
        assert client("GET", path) == 503
        assert json.loads(client.content) == {
            "error": {
                "type": "ModelFailed",
                "message": "the model could not be loaded: correct the cause and restart the server",
            }
        }
        assert b"retry-after" not in client.headers
    app.service.close()


def test_requests_before_the_model_is_loaded_are_told_to_come_again(gated: GatedPredictor) -> None:
    loaded = threading.Event()
    statuses: list[int] = []

    def load() -> GatedPredictor:
        assert loaded.wait(30)
        return gated

    def ask(server: RunningServer) -> None:
        with server.client() as client:
            statuses.append(client.get("/healthz").status_code)
            for path in ("/readyz", "/v1/model"):
                response = client.get(path)
                statuses.append(response.status_code)
                assert response.headers["retry-after"]
            statuses.append(client.post("/v1/segment", json=json_question(IMAGE, "a")).status_code)

    def look(server: RunningServer) -> None:
        wait_until(lambda: server.port)
        ask(server)
        loaded.set()

    with running(load, on_start=look) as server, server.client() as client:
        assert statuses == [200, 503, 503, 503]
        assert client.get("/readyz").status_code == 200
