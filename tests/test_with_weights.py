"""`with_weights`: predictors that share the memory of their image encoders."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sspsam import EmbeddingCache, SSPSAMPredictor, errors
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.config import IMAGE_ENCODERS
from tests.support.sharing import TENSOR, EncodedImages, answers, load


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_with_weights_shares_the_memory_of_the_encoders_and_costs_no_encode(
    tiny_model: Path, second_head: Path, image: np.ndarray, encoded: EncodedImages, dtype: str
) -> None:
    expected = answers(load(second_head, dtype=dtype), image=image)
    encoded.count = 0
    first = load(tiny_model, dtype=dtype)
    first.set_image(image)
    before = answers(first)
    both = [first, first.with_weights(second_head)]
    for level in ("_original", "_network"):
        networks = [getattr(predictor._pipeline.model, level) for predictor in both]
        weights, others = (dict(network.named_parameters()) for network in networks)
        for name in weights:
            is_shared = weights[name].data_ptr() == others[name].data_ptr()
            assert is_shared is name.startswith(IMAGE_ENCODERS), name
    assert answers(both[1]) == expected
    assert answers(both[0]) == before
    assert encoded.count == 1
    assert both[1].dtype == both[0].dtype
    assert both[1].encoder_fingerprint == both[0].encoder_fingerprint
    assert answers(both[1].with_weights(tiny_model)) == before  # and back
    assert answers(both[1], image=image[::-1].copy()) != expected
    assert both[1].fingerprint == load(second_head).fingerprint


def test_with_weights_refuses_other_encoders_and_names_the_difference(
    tiny_model: Path, other_encoders: Path, tmp_path: Path
) -> None:
    predictor = load(tiny_model)
    with pytest.raises(errors.EncodersDifferError, match=rf"1 of the \d+ tensors .*{TENSOR}.*from_pretrained\("):
        predictor.with_weights(other_encoders)
    model, config = load_checkpoint(tiny_model)
    changed = dataclasses.replace(config.preprocessing, sam_mean=(1.0, 2.0, 3.0))
    save_checkpoint(tmp_path, dataclasses.replace(config, preprocessing=changed), model.state_dict())
    with pytest.raises(errors.EncodersDifferError, match=r"preprocessing.sam_mean is \(1.0, 2.0, 3.0\)"):
        predictor.with_weights(tmp_path)
    predictor.with_weights(tiny_model)  # and the predictor still works


@pytest.mark.slow
def test_predictors_that_share_encoders_are_independent_otherwise(
    tiny_model: Path, second_head: Path, image: np.ndarray, tmp_path: Path
) -> None:
    first = load(tiny_model, embedding_cache=EmbeddingCache(tmp_path))
    other_head = first.with_weights(second_head)
    assert other_head.embedding_cache is first.embedding_cache
    with pytest.raises(errors.NoImageError):
        other_head.predict("the mug")
    other_head.set_image(image)
    with pytest.raises(errors.NoImageError):
        first.predict("the mug")
    again = pickle.loads(pickle.dumps(other_head))
    assert (again.fingerprint, answers(again)) == (other_head.fingerprint, answers(other_head))
    expected = [answers(first, image=image), answers(other_head, image=image)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [(predictor, pool.submit(answers, predictor, image=image)) for predictor in (first, other_head) * 8]
        for predictor, job in jobs:
            assert job.result() == expected[predictor is other_head]
    other_head.to("cpu")
    assert answers(other_head, image=image) == expected[1]


@pytest.mark.slow
def test_a_model_in_memory_takes_other_weights_too(tiny_model: Path, second_head: Path, image: np.ndarray) -> None:
    in_memory = SSPSAMPredictor(*load_checkpoint(tiny_model), device="cpu")
    embedding = in_memory.encode(image)
    assert answers(in_memory.with_weights(second_head), embedding=embedding) == answers(
        load(second_head), embedding=embedding
    )


def test_compiled_blocks_are_shared_too(tiny_model: Path, second_head: Path) -> None:
    first = load(tiny_model, compile=True)
    second = first.with_weights(second_head)
    # the answers of modules that are compiled twice are the same, too
    networks = [predictor._pipeline.model._network for predictor in (first, second)]
    assert networks[0].sam.image_encoder is networks[1].sam.image_encoder
    assert networks[0].clip.visual is networks[1].clip.visual
    assert networks[0].ssp is not networks[1].ssp


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_with_weights_shares_the_memory_of_a_gpu(
    tiny_model: Path, second_head: Path, image: np.ndarray, encoded: EncodedImages, dtype: str
) -> None:
    first = SSPSAMPredictor.from_pretrained(tiny_model, device="cuda", dtype=dtype)
    embedding = first.encode(image)
    second = first.with_weights(second_head)
    # shared memory cannot be seen from outside
    weights, others = (dict(predictor._pipeline.model._network.named_parameters()) for predictor in (first, second))
    for name in weights:
        assert (weights[name].data_ptr() == others[name].data_ptr()) is name.startswith(IMAGE_ENCODERS), name
    alone = SSPSAMPredictor.from_pretrained(second_head, device="cuda", dtype=dtype)
    assert answers(second, embedding=embedding) == answers(alone, embedding=embedding)
