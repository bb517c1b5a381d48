"""Memory that is returned after a lack of it."""

import pytest
import torch

from sspsam.utils.memory import release_memory


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_memory_is_returned_to_the_gpus_that_there_are(monkeypatch, kind: str) -> None:
    returned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "empty_cache", lambda name=name: returned.append(name))
    release_memory()
    assert returned == [kind]
