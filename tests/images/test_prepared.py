"""Prepared embeddings: prepared once while their embedding lives, in a bounded cache that threads share."""

import dataclasses
import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import ImageEmbedding, SSPSAMPredictor
from sspsam.config import ModelConfig
from sspsam.identity import PredictorIdentity
from sspsam.images.prepared import CAPACITY, PreparedEmbeddings
from sspsam.images.preprocessing import Geometry, geometry_of
from sspsam.models import SSPSAM, ImageFeatures, PreparedImage

CPU = torch.device("cpu")


class CountedPreparations:
    """The features of every image that a model prepared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.features: list[ImageFeatures] = []
        prepare = SSPSAM.prepare

        def counting(model: SSPSAM, features: ImageFeatures) -> PreparedImage:
            self.features.append(features)
            return prepare(model, features)

        monkeypatch.setattr(SSPSAM, "prepare", counting)

    def __len__(self) -> int:
        return len(self.features)


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> CountedPreparations:
    return CountedPreparations(monkeypatch)


@pytest.fixture
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def embedding(predictor: SSPSAMPredictor, image: np.ndarray) -> ImageEmbedding:
    return predictor.encode(image)


class ModelStub:
    """A model whose `prepare` returns its argument."""

    def prepare(self, features: ImageFeatures) -> ImageFeatures:
        return features


def cache_with_stub(config: ModelConfig, device: torch.device = CPU) -> PreparedEmbeddings:
    identity = PredictorIdentity.of(config, None, device, torch.float32)
    return PreparedEmbeddings(ModelStub(), config, identity)  # type: ignore[arg-type]


def copies(embedding: ImageEmbedding, count: int) -> list[ImageEmbedding]:
    return [dataclasses.replace(embedding) for _ in range(count)]


def test_an_embedding_is_prepared_once_for_any_number_of_calls(predictor, embedding, preparations) -> None:
    for text in ("one", "two", "three"):
        predictor.predict(text, embedding=embedding)
    predictor.predict(["four", "five", "six", "seven"], embedding=embedding)
    assert len(preparations) == 1


def test_an_equal_embedding_that_is_another_object_is_prepared_anew(predictor, embedding, preparations) -> None:
    for same in (embedding, *copies(embedding, 1), embedding):
        predictor.predict("one", embedding=same)
    assert len(preparations) == 2


def test_the_least_recently_used_embedding_is_evicted_beyond_the_capacity(predictor, embedding) -> None:
    cache = cache_with_stub(predictor.config)
    embeddings = copies(embedding, CAPACITY)
    entries = [cache.prepared(copy) for copy in embeddings]
    assert cache.prepared(embeddings[0]) is entries[0]  # all fit; the first is now the most recently used
    newest = dataclasses.replace(embedding)
    newest_entry = cache.prepared(newest)  # evicts the second
    for index in (0, *range(2, CAPACITY)):
        assert cache.prepared(embeddings[index]) is entries[index]
    assert cache.prepared(newest) is newest_entry
    assert cache.prepared(embeddings[1]) is not entries[1]


def test_no_more_entries_than_the_capacity_are_kept(predictor, embedding) -> None:
    cache = cache_with_stub(predictor.config)
    embeddings = copies(embedding, 3 * CAPACITY)
    for copy in embeddings:
        cache.prepared(copy)
    assert len(cache._entries) == CAPACITY  # no public name counts entries, since no caller needs their number


def test_an_entry_is_freed_together_with_its_embedding(predictor, image) -> None:
    embedding = predictor.encode(image)
    predictor.predict("one", embedding=embedding)
    entry = predictor._pipeline._prepared.prepared(embedding)  # the entry itself has no public name
    reference = weakref.ref(entry.features.projected)
    del entry
    gc.collect()
    assert reference() is not None
    del embedding
    gc.collect()
    assert reference() is None


def test_threads_share_the_cache(predictor, embedding) -> None:
    cache = cache_with_stub(predictor.config)
    embeddings = copies(embedding, CAPACITY + 3)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for index in np.random.default_rng(seed).integers(0, len(embeddings), 3000).tolist():
                entry = cache.prepared(embeddings[index])
                assert entry.features.sam is embeddings[index].sam_embedding
                cache.prepared(dataclasses.replace(embedding))  # it dies at once
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(cache._entries) <= CAPACITY


def test_a_moved_predictor_prepares_anew_on_its_device_and_only_there(predictor, embedding, preparations) -> None:
    predictor.predict("one", embedding=embedding)
    predictor.to("cpu")
    predictor.predict("one", embedding=embedding)
    assert len(preparations) == 1
    moved = cache_with_stub(predictor.config, torch.device("meta")).prepared(embedding)
    assert {tensor.device.type for tensor in moved.features} == {"meta"}
    assert embedding.sam_embedding.device == CPU


def test_the_geometry_is_taken_from_the_embedding(predictor, embedding, image) -> None:
    cache = cache_with_stub(predictor.config)
    assert cache.prepared(embedding).geometry is embedding.geometry
    assert embedding.geometry == geometry_of(image, predictor.config)
    other = Geometry.of(60, 90, 24, 64)
    assert cache.prepared(dataclasses.replace(embedding, geometry=other)).geometry is other


def test_the_geometry_of_an_embedding_from_a_file_is_computed(predictor, embedding, tmp_path) -> None:
    embedding.save(tmp_path / "e.safetensors")
    loaded = ImageEmbedding.load(tmp_path / "e.safetensors")
    assert loaded.geometry is None
    assert cache_with_stub(predictor.config).prepared(loaded).geometry == embedding.geometry
    options = {"return_logits": "full", "explain": True, "no_target_pixels": 0}
    new, stored = (predictor.predict("the mug", embedding=source, **options) for source in (embedding, loaded))
    assert np.array_equal(new.logits, stored.logits)
    assert new.to_dict() == stored.to_dict()


def test_to_returns_a_moved_embedding_and_the_embedding_itself_where_it_is_already(predictor, embedding) -> None:
    elsewhere = embedding.to("meta")
    assert elsewhere.clip_features.device.type == elsewhere.sam_embedding.device.type == "meta"
    assert (elsewhere.geometry, elsewhere.fingerprint) == (embedding.geometry, embedding.fingerprint)
    assert embedding.to("cpu") is embedding  # so that it is prepared only once
