"""The encoded images of open pages: bounded, and never those of another page."""

import threading

import numpy as np
import torch

from sspsam.demo.limits import Limits
from sspsam.demo.sessions import EncodedImage, SessionStore
from sspsam.images.embedding import ImageEmbedding


def encoded(digest: str = "a") -> EncodedImage:
    """An image of 400 bytes of tensors and 300 bytes of pixels."""
    pixels = np.zeros((10, 10, 3), np.uint8)
    embedding = ImageEmbedding(torch.zeros(50), torch.zeros(50), 10, 10, "f" * 64, pixels)
    return EncodedImage(digest, embedding, 0.1, 0.2)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_image_is_found_by_its_own_page_and_its_own_content_only() -> None:
    store, image = SessionStore(Limits()), encoded("a")
    store.put("one", image)
    assert store.get("one", "a") is image
    assert store.get("one", "b") is None
    assert store.get("two", "a") is None


def test_a_page_keeps_its_latest_image_only_and_none_after_it_is_closed() -> None:
    store = SessionStore(Limits())
    store.put("one", encoded("a"))
    store.put("one", encoded("b"))
    assert len(store) == 1
    assert store.get("one", "a") is None
    store.drop("one")
    store.drop("one")
    assert len(store) == 0


def test_beyond_the_number_of_pages_the_one_that_was_used_least_recently_goes() -> None:
    store = SessionStore(Limits(max_sessions=2))
    store.put("one", encoded())
    store.put("two", encoded())
    assert store.get("one", "a")
    store.put("three", encoded())
    assert store.get("two", "a") is None
    assert store.get("one", "a")
    assert store.get("three", "a")


def test_beyond_the_number_of_bytes_images_go_and_one_that_is_too_large_alone_is_not_kept() -> None:
    assert encoded().nbytes == 700
    store = SessionStore(Limits(max_session_bytes=1500))
    for name in ("one", "two", "three"):
        store.put(name, encoded())
    assert len(store) == 2
    small = SessionStore(Limits(max_session_bytes=699))
    small.put("one", encoded())
    assert len(small) == 0


def test_an_image_that_nobody_uses_is_released_after_a_while() -> None:
    clock = Clock()
    store = SessionStore(Limits(session_seconds=100), clock)
    store.put("one", encoded())
    clock.now = 90
    assert store.get("one", "a")
    clock.now = 180
    assert store.get("one", "a")
    clock.now = 281
    assert len(store) == 0


def test_many_threads_at_once_get_their_own_images() -> None:
    store, wrong = SessionStore(Limits(max_sessions=4)), []

    def use(name: str) -> None:
        for _ in range(200):
            store.put(name, encoded(name))
            found = store.get(name, name)
            if found is not None and found.digest != name:
                wrong.append(name)

    threads = [threading.Thread(target=use, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store) <= 4
