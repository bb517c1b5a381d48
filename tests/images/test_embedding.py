"""`ImageEmbedding` in a file and in a pickle."""

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
from sspsam.images.embedding import pack_embedding


@pytest.fixture
def saved(tiny_model: Path, image: np.ndarray, tmp_path: Path) -> tuple[SSPSAMPredictor, ImageEmbedding, Path]:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    embedding = predictor.encode(image)
    embedding.save(tmp_path / "image.safetensors")
    return predictor, embedding, tmp_path / "image.safetensors"


def test_a_loaded_embedding_gives_the_same_answers_and_has_no_pixels(saved) -> None:
    predictor, embedding, path = saved
    loaded = ImageEmbedding.load(path)
    new, stored = (
        predictor.predict("the mug", embedding=source, return_logits="full") for source in (embedding, loaded)
    )
    assert np.array_equal(new.logits, stored.logits)
    assert new.box == stored.box
    assert loaded.pixels is None
    with pytest.raises(ImageError, match="overlay\\(image\\)"):
        stored.overlay()


def test_a_file_holds_only_the_features(saved) -> None:
    _, embedding, path = saved
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == ["clip_features", "sam_embedding"]
    values = embedding.clip_features.numel() + embedding.sam_embedding.numel()
    assert path.stat().st_size < 4 * values + 2000


def test_a_flipped_bit_is_refused_or_changes_nothing(saved) -> None:
    _, _, path = saved
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    positions = [*range(8), *rng.integers(8, 700, 60).tolist(), *rng.integers(0, len(content), 40).tolist()]
    for position in positions:
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        try:
            loaded = ImageEmbedding.load(path)
        except EmbeddingError:
            continue
        else:  # a change without a meaning in JSON, such as another kind of white space
            path.write_bytes(content)
            original = ImageEmbedding.load(path)
            assert torch.equal(loaded.sam_embedding, original.sam_embedding)
            assert (loaded.height, loaded.width, loaded.fingerprint) == (
                original.height,
                original.width,
                original.fingerprint,
            )


def test_a_truncated_file_is_refused(saved) -> None:
    _, _, path = saved
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(EmbeddingError):
            ImageEmbedding.load(path)


def test_newer_versions_foreign_files_and_missing_files_are_refused_with_the_reason(saved, tmp_path: Path) -> None:
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
    "changes", [{"height": "0"}, {"height": "60.9"}, {"height": "1" * 4000}, {"height": None}, {"width": "999999999"}]
)
def test_impossible_sizes_are_refused_even_with_a_matching_digest(saved, changes) -> None:
    _, embedding, path = saved
    write_with_digest(embedding, path, changes)
    with pytest.raises(EmbeddingError, match=str(path)):
        ImageEmbedding.load(path)


def test_tensors_of_another_dtype_are_refused_even_with_a_matching_digest(saved) -> None:
    _, embedding, path = saved
    double = dataclasses.replace(embedding, clip_features=embedding.clip_features.double())
    write_with_digest(double, path, {})
    with pytest.raises(EmbeddingError, match="float32"):
        ImageEmbedding.load(path)


def write_with_digest(embedding: ImageEmbedding, path: Path, changes: dict[str, object]) -> None:
    metadata = {"height": "60", "width": "90", "fingerprint": embedding.fingerprint} | changes
    path.write_bytes(pack_embedding(embedding.clip_features, embedding.sam_embedding, metadata))


def test_saving_into_a_missing_folder_is_a_storage_error(saved, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        saved[1].save(tmp_path / "nowhere" / "e.safetensors")


def test_an_embedding_survives_pickle_with_its_pixels_and_geometry(saved) -> None:
    predictor, embedding, _ = saved
    result = predictor.predict("the red circle", embedding=embedding)
    plain = len(pickle.dumps(predictor.encode(embedding.pixels)))
    assert len(pickle.dumps(embedding)) < plain + 100  # an embedding that was used takes no more space
    copy = pickle.loads(pickle.dumps(embedding))
    assert torch.equal(copy.sam_embedding, embedding.sam_embedding)
    assert np.array_equal(copy.pixels, embedding.pixels)
    assert copy.geometry == embedding.geometry
    assert predictor.predict("the red circle", embedding=copy).to_dict() == result.to_dict()
