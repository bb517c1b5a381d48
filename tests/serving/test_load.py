"""Many clients at once, and many requests: right answers, and memory that does not grow."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psutil
import pytest

from sspsam import SSPSAMPredictor
from sspsam.serving.options import ServeOptions
from tests.support.serving import RunningServer, answers_of, image_file, running, wait_until

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("star", "circle", "heart", "square")


def ask_for(server: RunningServer, predictor: SSPSAMPredictor, clients: int, seconds: float) -> int:
    """Let clients ask about images of their own, by id and with the image, and compare every answer."""
    counts, wrong = [0] * clients, []
    expected: list[tuple[bytes, list[str], list[dict[str, object]]]] = []
    for number in range(clients):
        texts = [f"the {COLORS[number % 4]} {shape}" for shape in SHAPES]
        image = image_file(number, (40 + number, 90))
        # one by one, as the clients ask: in a list, the last bits differ
        expected.append((image, texts, [answers_of(predictor, image, text)[0] for text in texts]))

    def ask(number: int) -> None:
        image, texts, answers = expected[number]
        generator = random.Random(number)
        with server.client() as client:
            name = client.post("/v1/images", files={"image": image}).json()["id"]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                chosen = generator.randrange(4)
                if generator.random() < 0.8:
                    response = client.post(f"/v1/images/{name}/segment", json={"expressions": [texts[chosen]]})
                else:
                    response = client.post("/v1/segment", files={"image": image}, data={"expressions": texts[chosen]})
                counts[number] += 1
                if response.status_code != 200 or response.json()["results"] != [answers[chosen]]:
                    wrong.append(response.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(counts) >= 1
    return sum(counts)


def test_six_clients_at_once_get_their_own_right_answers(server: RunningServer, predictor: SSPSAMPredictor) -> None:
    assert ask_for(server, predictor, clients=6, seconds=0.5) >= 6


def test_questions_of_many_clients_about_one_image_are_not_mixed_up(
    server: RunningServer, predictor: SSPSAMPredictor
) -> None:
    image = image_file()
    texts = [f"the {color} {shape}" for color in COLORS for shape in SHAPES]
    expected = {text: answers_of(predictor, image, text)[0] for text in texts}
    before = server.app.service.metrics.text()
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        name = client.post("/v1/images", files={"image": image}).json()["id"]
        ask = partial(client.post, f"/v1/images/{name}/segment")
        answers = list(pool.map(lambda text: ask(json={"expressions": [text]}).json()["results"][0], 2 * texts))
    for text, answer in zip(2 * texts, answers, strict=True):
        assert answer["text"] == text
        # answered in pairs, so that the last bits differ
        assert answer["score"] == pytest.approx(expected[text]["score"], abs=1e-4)
        assert answer["box"] == pytest.approx(expected[text]["box"], abs=1e-2)
    wait_until(lambda: pairs(server.app.service.metrics.text()) > pairs(before))


def pairs(metrics: bytes) -> float:
    """Number of batches of more than one request."""
    values = {
        line.split()[0]: float(line.split()[1])
        for line in metrics.decode().splitlines()
        if line.startswith("sspsam_batch_requests")
    }
    return values["sspsam_batch_requests_count"] - values['sspsam_batch_requests_bucket{le="1.0"}']


@pytest.mark.nightly
def test_fifty_clients_for_a_minute_get_their_own_right_answers(predictor: SSPSAMPredictor) -> None:
    with running(predictor) as server:
        count = ask_for(server, predictor, clients=50, seconds=60)
    print(f"{count} requests of 50 clients in 60 s")


def ask_many(client: httpx.Client, count: int) -> None:
    """Ask with images, ids, and mistakes, all of them different."""
    for number in range(count):
        image = image_file(number % 50, (50 + number % 13, 70))
        if number % 3 == 0:
            name = client.post("/v1/images", files={"image": image}).json()["id"]
            response = client.post(f"/v1/images/{name}/segment", json={"expressions": [f"star {number}"]})
        elif number % 3 == 1:
            response = client.post("/v1/segment", files={"image": image}, data={"expressions": [f"heart {number}"]})
        else:
            response = client.post(
                "/v1/segment", content=b"{" * (number * 40), headers={"Content-Type": "application/json"}
            )
        assert response.status_code == (200 if number % 3 < 2 else 400)


def memory_growth(predictor: SSPSAMPredictor, warm_up: int, count: int) -> int:
    """Bytes by which the memory of the process grows over requests, after some others."""
    with running(predictor, ServeOptions(max_images=8)) as server, server.client() as client:
        ask_many(client, warm_up)
        before = psutil.Process().memory_info().rss
        ask_many(client, count)
        return int(psutil.Process().memory_info().rss - before)


def test_memory_is_flat_over_some_requests(predictor: SSPSAMPredictor) -> None:
    assert memory_growth(predictor, 12, 24) < 30e6


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_five_thousand_requests(predictor: SSPSAMPredictor) -> None:
    growth = memory_growth(predictor, 500, 5000)
    print(f"memory grew by {growth / 1e6:.1f} MB over 5,000 requests")
    assert growth < 20e6
