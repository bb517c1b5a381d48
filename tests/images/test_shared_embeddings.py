"""Embeddings and cache entries of models with the same image encoders, and never of others."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sspsam import ImageEmbedding, SSPSAMPredictor, errors
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import IMAGE_ENCODERS
from tests.support.sharing import EncodedImages, answers, load

BEFORE = Path(__file__).parents[1] / "data" / "embeddings_before_sharing"  # written with `tiny_model`


@pytest.mark.slow
def test_the_fingerprint_covers_the_encoders_and_the_preprocessing_of_images_and_nothing_else(
    tiny_model: Path, second_head: Path, other_encoders: Path, tmp_path: Path
) -> None:
    first = load(tiny_model)
    assert load(second_head).encoder_fingerprint == first.encoder_fingerprint
    assert load(second_head).fingerprint != first.fingerprint
    assert load(other_encoders).encoder_fingerprint != first.encoder_fingerprint
    model, config = load_checkpoint(tiny_model)
    for part, entry, value, is_same in (
        ("preprocessing", "sam_mean", (1.0, 2.0, 3.0), False),
        ("preprocessing", "clip_std", (1.0, 2.0, 3.0), False),
        ("preprocessing", "text_template", "a photo of {}", True),
        ("postprocessing", "no_target_pixels", 7, True),
    ):
        changed = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{entry: value})})
        fingerprint = SSPSAMPredictor(model, changed, device="cpu").encoder_fingerprint
        assert (fingerprint == first.encoder_fingerprint) is is_same, entry


def test_the_digest_is_that_of_the_file_of_the_encoders_alone(tiny_model: Path, tmp_path: Path) -> None:
    from hashlib import sha256

    from safetensors.torch import save

    tensors = load_file(tiny_model / "model.safetensors")
    alone = {name: tensor for name, tensor in tensors.items() if name.startswith(IMAGE_ENCODERS)}
    [content] = [save({name: alone[name] for name in sorted(alone)}, {"format": "pt"})]
    assert load(tiny_model)._pipeline.encoders.tensors_sha256 == sha256(content).hexdigest()


@pytest.mark.slow
def test_the_precision_of_the_computation_is_not_part_of_it_but_that_of_the_weights_is(
    tiny_model: Path, tmp_path: Path
) -> None:
    exact = load(tiny_model)
    assert load(tiny_model, dtype="bfloat16").encoder_fingerprint == exact.encoder_fingerprint
    exact.save_pretrained(tmp_path / "half", dtype="float16")
    half = load(tmp_path / "half")
    assert half.encoder_fingerprint != exact.encoder_fingerprint
    half.save_pretrained(tmp_path / "widened")  # the same values in float32
    assert load(tmp_path / "widened").encoder_fingerprint == half.encoder_fingerprint


@pytest.mark.slow
def test_it_is_computed_once_for_each_state_of_a_file(
    tiny_model: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    from sspsam.checkpoints import reload

    real = reload.canonical_sha256
    monkeypatch.setattr(reload, "canonical_sha256", lambda *args: computed.append(1) or real(*args))
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    fingerprint = load(copy).encoder_fingerprint
    assert (load(copy).encoder_fingerprint, len(computed)) == (fingerprint, 1)
    load(copy).save_pretrained(tmp_path / "saved")  # recorded when it is written
    assert (load(tmp_path / "saved").encoder_fingerprint, len(computed)) == (fingerprint, 1)


@pytest.mark.slow
def test_a_checkpoint_that_is_replaced_after_it_was_loaded_does_not_give_its_fingerprint_away(
    tiny_model: Path, other_encoders: Path, tmp_path: Path, home: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    predictor = load(copy)
    load(other_encoders).save_pretrained(copy)  # records the fingerprint of the new file
    assert predictor.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert load(copy).encoder_fingerprint == load(other_encoders).encoder_fingerprint


def test_two_checkpoints_with_the_same_encoders_answer_about_one_embedding(
    tiny_model: Path, second_head: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    expected = [answers(load(directory), image=image) for directory in (tiny_model, second_head)]
    assert expected[0] != expected[1]
    first, with_other_head = load(tiny_model), load(second_head)
    encoded.count = 0
    embedding = first.encode(image)
    embedding.save(tmp_path / "image.safetensors")
    for each in (embedding, ImageEmbedding.load(tmp_path / "image.safetensors"), pickle.loads(pickle.dumps(embedding))):
        assert [answers(first, embedding=each), answers(with_other_head, embedding=each)] == expected
    assert encoded.count == 1


def test_an_embedding_of_encoders_that_differ_in_one_bit_is_refused_with_the_reason(
    tiny_model: Path, other_encoders: Path, image: np.ndarray
) -> None:
    with pytest.raises(errors.EmbeddingError, match=r"image encoders are others.*encode the image with this model"):
        load(other_encoders).predict("the mug", embedding=load(tiny_model).encode(image))


@pytest.mark.slow
def test_a_model_in_memory_shares_embeddings_with_the_checkpoint_that_it_was_trained_from(
    tiny_model: Path, image: np.ndarray
) -> None:
    model, config = load_checkpoint(tiny_model)
    with torch.no_grad():
        model.ssp.fusion.weight.mul_(1.5)
    trained = SSPSAMPredictor(model, config, device="cpu")
    trained.predict("the mug", embedding=load(tiny_model).encode(image))
    with torch.no_grad():
        model.sam.image_encoder.neck[0].weight.mul_(1.5)
    with pytest.raises(errors.EmbeddingError, match="image encoders are others"):
        SSPSAMPredictor(model, config, device="cpu").predict("the mug", embedding=load(tiny_model).encode(image))


def test_embeddings_of_earlier_versions_are_accepted_where_they_were(tiny_model: Path, second_head: Path) -> None:
    stored = ImageEmbedding.load(BEFORE / "embedding.safetensors")
    pickled = pickle.loads((BEFORE / "embedding.pickle").read_bytes())
    expected = answers(load(tiny_model), embedding=pickled)
    assert answers(load(tiny_model), embedding=stored) == expected
    for embedding in (stored, pickled):
        with pytest.raises(errors.EmbeddingError, match="earlier version of sspsam"):
            load(second_head).predict("the mug", embedding=embedding)


def test_one_cache_entry_serves_both_and_no_others(
    tiny_model: Path, second_head: Path, other_encoders: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    expected = answers(load(second_head), image=image)
    encoded.count = 0
    load(tiny_model, embedding_cache=tmp_path).encode(image)
    assert answers(load(second_head, embedding_cache=tmp_path), image=image) == expected
    assert (encoded.count, len(list(tmp_path.glob("*/*")))) == (1, 1)
    load(other_encoders, embedding_cache=tmp_path).encode(image)
    load(second_head, embedding_cache=tmp_path, dtype="bfloat16").encode(image)
    assert (encoded.count, len(list(tmp_path.glob("*/*")))) == (3, 3)


@pytest.mark.slow
def test_entries_of_earlier_versions_are_hits_of_the_model_that_made_them_alone(
    tiny_model: Path, second_head: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(BEFORE / "cache", tmp_path / "cache"))
    load(tiny_model, embedding_cache=cache).encode(image)
    assert (encoded.count, len(list(cache.glob("*/*")))) == (0, 1)
    load(second_head, embedding_cache=cache).encode(image)
    assert (encoded.count, len(list(cache.glob("*/*")))) == (1, 2)


@pytest.mark.slow
def test_a_checkpoint_cannot_write_entries_for_encoders_that_it_only_claims_to_have(
    tiny_model: Path, other_encoders: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    """A hostile checkpoint names the encoders of another, holds its own, and is loaded without any verification."""
    honest = load(tiny_model)
    expected = honest.encode(image)
    honest.save_pretrained(tmp_path / "small", shared=True)
    claim = json.loads((tmp_path / "small" / "config.json").read_text())
    for hostile_claim in (claim, {**claim, "format_version": 1}):
        hostile = Path(shutil.copytree(other_encoders, tmp_path / f"hostile-{hostile_claim['format_version']}"))
        if hostile_claim["format_version"] == 1:
            del hostile_claim["encoders"]
        (hostile / "config.json").write_text(json.dumps(hostile_claim))
        shutil.copy(hostile / "model.safetensors", hostile / "encoders.safetensors")
        try:
            predictor = load(hostile, verify=False, embedding_cache=tmp_path / "cache")
        except errors.CheckpointError:
            continue  # the weights do not fit the claim
        assert predictor.fingerprint == honest.fingerprint  # which nobody verified
        assert predictor.encoder_fingerprint == load(other_encoders).encoder_fingerprint
        predictor.encode(image)
    found = load(tiny_model, embedding_cache=tmp_path / "cache").encode(image)
    assert torch.equal(found.sam_embedding, expected.sam_embedding)
