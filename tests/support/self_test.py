"""A self-test that takes less time."""

import dataclasses

import pytest

from sspsam.config import ModelConfig
from sspsam.evaluation import self_test
from sspsam.evaluation.stored_answers import StoredAnswers


def shorten_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask about the first scene only, four questions, and time everything once."""
    stored = self_test.stored_answers

    def first_scene(config: ModelConfig) -> StoredAnswers:
        content = stored(config)
        return dataclasses.replace(content, scenes=content.scenes[:1], resized_digest="of other images")

    monkeypatch.setattr(self_test, "stored_answers", first_scene)
    monkeypatch.setattr(self_test, "_TIMED_SECONDS", 1e-9)
