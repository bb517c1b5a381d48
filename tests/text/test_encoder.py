"""The cache of text features on a device with streams."""

from collections.abc import Sequence

import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.text import encoder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each wait for a computation, as the number of its tensors; all new expressions are computed together."""
    noted: list[int] = []

    class ObservedEnd:
        def __init__(self, device: torch.device) -> None:
            assert device.type == "cpu"

        def wait(self, tensors: Sequence[torch.Tensor]) -> None:
            noted.append(len(tensors))

    monkeypatch.setattr(encoder, "Finished", ObservedEnd)
    monkeypatch.setattr(encoder, "_ON_CPU", 64)  # as on a GPU
    return noted


def test_features_from_the_cache_are_read_after_their_computation(tiny_model, image, waits: list[int]) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    embedding = predictor.encode(image)
    predictor.predict(["the mug", "a cat"], embedding=embedding)
    assert waits == []  # all are new, and used as they are
    predictor.predict(["a cat"], embedding=embedding)
    assert waits
    waits.clear()
    predictor.predict(["a dog", "a cat"], embedding=embedding)
    assert len(waits) >= 2  # the new one and the cached one are joined
