"""Embeddings on disk."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sspsam import ImageEmbedding, SSPSAMPredictor
from sspsam.errors import EmbeddingError, ImageError, StorageError


@pytest.fixture
def saved(tiny_model: Path, picture: np.ndarray, tmp_path: Path) -> tuple[SSPSAMPredictor, ImageEmbedding, Path]:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    embedding = predictor.encode(picture)
    embedding.save(tmp_path / "picture.safetensors")
    return predictor, embedding, tmp_path / "picture.safetensors"


def test_a_loaded_embedding_gives_the_same_answers(saved) -> None:
    predictor, embedding, path = saved
    loaded = ImageEmbedding.load(path)
    fresh, stored = (predictor.predict("the mug", embedding=each, return_logits="full") for each in (embedding, loaded))
    assert np.array_equal(fresh.logits, stored.logits)
    assert fresh.box == stored.box
    assert loaded.pixels is None
    with pytest.raises(ImageError, match="overlay\\(image\\)"):
        stored.overlay()


def test_only_the_primary_tensors_are_stored(saved) -> None:
    _, embedding, path = saved
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == ["clip_features", "sam_embedding"]
    numbers = embedding.clip_features.numel() + embedding.sam_embedding.numel()
    assert path.stat().st_size < 4 * numbers + 2000


def test_every_flipped_byte_is_refused(saved) -> None:
    _, _, path = saved
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, 700, 60).tolist(), *rng.integers(0, len(good), 40).tolist()]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        try:
            loaded = ImageEmbedding.load(path)
        except EmbeddingError:
            continue
        else:  # a change that JSON does not see, such as another kind of white space
            path.write_bytes(good)
            same = ImageEmbedding.load(path)
            assert torch.equal(loaded.sam_embedding, same.sam_embedding)
            assert (loaded.height, loaded.width, loaded.fingerprint) == (same.height, same.width, same.fingerprint)


def test_every_truncation_is_refused(saved) -> None:
    _, _, path = saved
    good = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(EmbeddingError):
            ImageEmbedding.load(path)


def test_a_newer_version_and_foreign_files_are_refused_with_the_reason(saved, tmp_path: Path) -> None:
    _, embedding, _ = saved
    tensors = {"clip_features": embedding.clip_features, "sam_embedding": embedding.sam_embedding}
    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    with pytest.raises(EmbeddingError, match="not an embedding"):
        ImageEmbedding.load(foreign)
    save_file(tensors, foreign, {"sspsam_embedding": json.dumps({"version": "2"})})
    with pytest.raises(EmbeddingError, match="version '2'"):
        ImageEmbedding.load(foreign)
    with pytest.raises(EmbeddingError, match="no such"):
        ImageEmbedding.load(tmp_path / "none")


@pytest.mark.parametrize(
    "about", [{"height": "0"}, {"height": "60.9"}, {"height": "1" * 4000}, {"height": None}, {"width": "999999999"}]
)
def test_sizes_that_cannot_be_are_refused_even_with_a_right_digest(saved, tmp_path: Path, about) -> None:
    _, embedding, path = saved
    write_again(embedding, path, about)
    with pytest.raises(EmbeddingError, match=str(path)):
        ImageEmbedding.load(path)


def test_tensors_of_another_precision_are_refused_even_with_a_right_digest(saved) -> None:
    _, embedding, path = saved
    double = dataclasses.replace(embedding, clip_features=embedding.clip_features.double())
    write_again(double, path, {})
    with pytest.raises(EmbeddingError, match="float32"):
        ImageEmbedding.load(path)


def write_again(embedding: ImageEmbedding, path: Path, changes: dict[str, object]) -> None:
    from sspsam.images.embedding import _digest

    about = {"version": "1", "height": "60", "width": "90", "fingerprint": embedding.fingerprint} | changes
    tensors = {"clip_features": embedding.clip_features, "sam_embedding": embedding.sam_embedding}
    about["sha256"] = _digest(about, tensors)
    save_file(tensors, path, {"sspsam_embedding": json.dumps(about, sort_keys=True)})


def test_saving_into_a_missing_folder_is_an_error_of_ours(saved, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        saved[1].save(tmp_path / "nowhere" / "e.safetensors")


def test_a_copy_on_another_device_is_kept_and_what_can_be_made_again_is_not_pickled(saved) -> None:
    predictor, embedding, _ = saved
    elsewhere = embedding.to("meta")
    assert elsewhere.clip_features.device.type == "meta"
    assert embedding.to("meta") is elsewhere  # so that it is prepared there once
    assert embedding.to("cpu") is embedding
    result = predictor.predict("the red circle", embedding=embedding)
    assert embedding.prepared is not None
    read = pickle.loads(pickle.dumps(embedding))
    assert read.prepared is read.moved is None
    assert torch.equal(read.sam_embedding, embedding.sam_embedding)
    assert predictor.predict("the red circle", embedding=read).score == result.score
