"""The bounds of the store of images: number, bytes, and age."""

import pytest
import torch

from sspsam import ImageEmbedding
from sspsam.errors import RefusalError
from sspsam.serving.options import ServeOptions
from sspsam.serving.store import ImageStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def embedding(size: int = 10) -> ImageEmbedding:
    return ImageEmbedding(torch.zeros(size, 5), torch.zeros(size, 5), 4, 3, "f")


def store(clock: Clock | None = None, **options: object) -> ImageStore:
    return ImageStore(ServeOptions(**options), clock or Clock())  # type: ignore[arg-type]


def is_there(images: ImageStore, name: str) -> bool:
    try:
        return images.get(name) is not None
    except RefusalError as error:
        return error.status != 404


def test_the_least_recently_used_image_makes_place() -> None:
    images = store(max_images=2)
    first, second = images.add(embedding()), images.add(embedding())
    assert is_there(images, first)
    third = images.add(embedding())
    assert [is_there(images, name) for name in (first, second, third)] == [True, False, True]


def test_bytes_are_bounded_and_counted() -> None:
    one = store()
    one.add(embedding())
    images = store(max_image_memory=2 * one.size + 1)
    names = [images.add(embedding()) for _ in range(5)]
    assert [is_there(images, name) for name in names] == [False, False, False, True, True]
    assert images.size == 2 * one.size
    with pytest.raises(RefusalError, match="more than the server keeps"):
        images.add(embedding(100))
    for name in names[3:]:
        images.remove(name)
    assert images.size == len(images) == 0


def test_an_image_expires_after_its_last_use() -> None:
    clock = Clock()
    images = store(clock, image_expiry=10)
    used, unused = images.add(embedding()), images.add(embedding())
    clock.now = 9
    assert is_there(images, used)
    clock.now = 11
    assert [is_there(images, name) for name in (used, unused)] == [True, False]
    clock.now = 22
    images.remove_expired()
    assert images.size == len(images) == 0


def test_ids_are_different_and_begin_with_the_replica() -> None:
    images = store(replica="r2.", max_images=1000)
    names = {images.add(embedding(1)) for _ in range(500)}
    assert len(names) == 500
    assert all(name.startswith("r2.") and len(name) >= 25 for name in names)
