"""Checkpoints with the same image encoders: one encode, one cache entry, one file and one memory; never with others."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sspsam import EmbeddingCache, ImageEmbedding, SSPSAMPredictor, errors
from sspsam.checkpoints.encoders import encoder_store
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.config import IMAGE_ENCODERS, ModelConfig
from sspsam.hub import cached_checkpoints, delete, resolve, verify
from sspsam.models import SSPSAM
from tests.support.command import run_command
from tests.support.hub import FakeHub

BEFORE = Path(__file__).parent / "data" / "embeddings_before_sharing"  # written by version 0.3 with `tiny_model`
TENSOR = "sam.image_encoder.neck.0.weight"
Change = Callable[[dict[str, torch.Tensor]], None]


class EncodedImages:
    """The number of images that went through the image encoders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        encode = SSPSAM.encode_image

        def counting(model: SSPSAM, clip_input: torch.Tensor, sam_input: torch.Tensor) -> Any:
            self.count += len(clip_input)
            return encode(model, clip_input, sam_input)

        monkeypatch.setattr(SSPSAM, "encode_image", counting)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> EncodedImages:
    return EncodedImages(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and records of its own."""
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def changed_copy(source: Path, directory: Path, change: Change) -> Path:
    """Write a checkpoint with some tensors changed."""
    model, config = load_checkpoint(source)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    save_checkpoint(directory, config, state)
    return directory


def other_head(state: dict[str, torch.Tensor]) -> None:
    state["ssp.fusion.weight"] *= 1.5
    state["clip.text.token_embedding.weight"] *= 0.5


def one_bit(state: dict[str, torch.Tensor]) -> None:
    state[TENSOR].view(torch.int32).view(-1)[3] ^= 1


@pytest.fixture(scope="module")
def second(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the image encoders of the tiny one, and another head."""
    return changed_copy(tiny_model, tmp_path_factory.mktemp("second"), other_head)


@pytest.fixture(scope="module")
def other(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that differs from the tiny one in one bit of one weight of an image encoder."""
    return changed_copy(tiny_model, tmp_path_factory.mktemp("other"), one_bit)


def load(directory: Path, **options: Any) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(directory, device="cpu", **options)


def answers(predictor: SSPSAMPredictor, **source: Any) -> list[bytes]:
    results = predictor.predict(["the mug", "a cat"], return_logits="low_res", **source)
    return [result.logits.tobytes() for result in results]


# --- the fingerprint ---


def test_the_fingerprint_covers_the_encoders_and_the_preprocessing_of_images_and_nothing_else(
    tiny_model: Path, second: Path, other: Path, tmp_path: Path
) -> None:
    first = load(tiny_model)
    assert load(second).encoder_fingerprint == first.encoder_fingerprint
    assert load(second).fingerprint != first.fingerprint
    assert load(other).encoder_fingerprint != first.encoder_fingerprint
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


def test_a_checkpoint_that_is_replaced_after_it_was_loaded_does_not_give_its_fingerprint_away(
    tiny_model: Path, other: Path, tmp_path: Path, home: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    predictor = load(copy)
    load(other).save_pretrained(copy)  # records the fingerprint of the new file
    assert predictor.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert load(copy).encoder_fingerprint == load(other).encoder_fingerprint


# --- embeddings ---


def test_two_checkpoints_with_the_same_encoders_answer_about_one_embedding(
    tiny_model: Path, second: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    expected = [answers(load(directory), image=image) for directory in (tiny_model, second)]
    assert expected[0] != expected[1]
    first, with_other_head = load(tiny_model), load(second)
    encoded.count = 0
    embedding = first.encode(image)
    embedding.save(tmp_path / "image.safetensors")
    for each in (embedding, ImageEmbedding.load(tmp_path / "image.safetensors"), pickle.loads(pickle.dumps(embedding))):
        assert [answers(first, embedding=each), answers(with_other_head, embedding=each)] == expected
    assert encoded.count == 1


def test_an_embedding_of_encoders_that_differ_in_one_bit_is_refused_with_the_reason(
    tiny_model: Path, other: Path, image: np.ndarray
) -> None:
    with pytest.raises(errors.EmbeddingError, match=r"image encoders are others.*encode the image with this model"):
        load(other).predict("the mug", embedding=load(tiny_model).encode(image))


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


def test_embeddings_of_earlier_versions_are_accepted_where_they_were(tiny_model: Path, second: Path) -> None:
    stored = ImageEmbedding.load(BEFORE / "embedding.safetensors")
    pickled = pickle.loads((BEFORE / "embedding.pickle").read_bytes())
    expected = answers(load(tiny_model), embedding=pickled)
    assert answers(load(tiny_model), embedding=stored) == expected
    for embedding in (stored, pickled):
        with pytest.raises(errors.EmbeddingError, match="earlier version of sspsam"):
            load(second).predict("the mug", embedding=embedding)


# --- the cache ---


def test_one_cache_entry_serves_both_and_no_others(
    tiny_model: Path, second: Path, other: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    expected = answers(load(second), image=image)
    encoded.count = 0
    load(tiny_model, embedding_cache=tmp_path).encode(image)
    assert answers(load(second, embedding_cache=tmp_path), image=image) == expected
    assert (encoded.count, len(list(tmp_path.glob("*/*")))) == (1, 1)
    load(other, embedding_cache=tmp_path).encode(image)
    load(second, embedding_cache=tmp_path, dtype="bfloat16").encode(image)
    assert (encoded.count, len(list(tmp_path.glob("*/*")))) == (3, 3)


def test_entries_of_earlier_versions_are_hits_of_the_model_that_made_them_alone(
    tiny_model: Path, second: Path, image: np.ndarray, encoded: EncodedImages, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(BEFORE / "cache", tmp_path / "cache"))
    load(tiny_model, embedding_cache=cache).encode(image)
    assert (encoded.count, len(list(cache.glob("*/*")))) == (0, 1)
    load(second, embedding_cache=cache).encode(image)
    assert (encoded.count, len(list(cache.glob("*/*")))) == (1, 2)


def test_a_checkpoint_cannot_write_entries_for_encoders_that_it_only_claims_to_have(
    tiny_model: Path, other: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    """A hostile checkpoint names the encoders of another, holds its own, and is loaded without any verification."""
    honest = load(tiny_model)
    expected = honest.encode(image)
    honest.save_pretrained(tmp_path / "small", shared=True)
    claim = json.loads((tmp_path / "small" / "config.json").read_text())
    for hostile_claim in (claim, {**claim, "format_version": 1}):
        hostile = Path(shutil.copytree(other, tmp_path / f"hostile-{hostile_claim['format_version']}"))
        if hostile_claim["format_version"] == 1:
            del hostile_claim["encoders"]
        (hostile / "config.json").write_text(json.dumps(hostile_claim))
        shutil.copy(hostile / "model.safetensors", hostile / "encoders.safetensors")
        try:
            predictor = load(hostile, verify=False, embedding_cache=tmp_path / "cache")
        except errors.CheckpointError:
            continue  # the weights do not fit the claim
        assert predictor.fingerprint == honest.fingerprint  # which nobody verified
        assert predictor.encoder_fingerprint == load(other).encoder_fingerprint
        predictor.encode(image)
    found = load(tiny_model, embedding_cache=tmp_path / "cache").encode(image)
    assert torch.equal(found.sam_embedding, expected.sam_embedding)


# --- checkpoints that name their encoders ---


def test_a_shared_checkpoint_is_small_has_the_same_fingerprint_and_gives_the_same_answers(
    tiny_model: Path, second: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    written = [
        load(directory).save_pretrained(tmp_path / name, shared=True)
        for directory, name in ((tiny_model, "a"), (second, "b"))
    ]
    store = encoder_store(HubOptions())
    [encoders] = store.glob("*.safetensors")
    for config, directory, name in zip(written, (tiny_model, second), ("a", "b"), strict=True):
        assert not any(tensor.startswith(IMAGE_ENCODERS) for tensor in load_file(tmp_path / name / "model.safetensors"))
        assert encoders.stem == config.encoders.sha256
        complete = load(directory)
        shared = load(tmp_path / name)
        assert shared.fingerprint == complete.fingerprint == config.fingerprint
        assert shared.encoder_fingerprint == complete.encoder_fingerprint
        assert answers(shared, image=image) == answers(complete, image=image)
    assert verify(str(tmp_path / "a"), HubOptions()).fingerprint == written[0].fingerprint
    load(tmp_path / "a").save_pretrained(tmp_path / "complete")
    assert (tmp_path / "complete" / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "complete" / "config.json").read_text())["format_version"] == 1


def test_half_precision_of_a_shared_checkpoint_leaves_the_encoders_as_they_are(
    tiny_model: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    load(tiny_model).save_pretrained(tmp_path / "half", dtype="float16", shared=True)
    half = load(tmp_path / "half")
    assert half.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert load_file(tmp_path / "half" / "model.safetensors")["ssp.fusion.weight"].dtype is torch.float16
    half.predict("the mug", embedding=load(tiny_model).encode(image))


def test_missing_encoders_are_named_with_what_to_get_and_found_beside_in_the_store_or_in_a_checkpoint(
    tiny_model: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    small = tmp_path / "small"
    digest = load(tiny_model).save_pretrained(small, shared=True).encoders.sha256
    expected = answers(load(tiny_model), image=image)
    store = encoder_store(HubOptions())
    store.rename(tmp_path / "away")
    with pytest.raises(errors.EncodersMissingError, match=rf"{digest}.*pseudo-random weights of the tests.*copy"):
        load(small)
    shutil.copy(tmp_path / "away" / f"{digest}.safetensors", small / "encoders.safetensors")
    assert answers(load(small), image=image) == expected
    (small / "encoders.safetensors").unlink()
    shutil.copytree(tmp_path / "away", encoder_store(HubOptions(cache_dir=tmp_path / "other cache")))
    assert answers(load(small, cache_dir=tmp_path / "other cache"), image=image) == expected
    # a complete checkpoint in the cache of huggingface_hub
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model, snapshot)
    assert answers(load(small), image=image) == expected


def test_wrong_encoders_are_never_loaded(tiny_model: Path, other: Path, tmp_path: Path, home: Path) -> None:
    small = tmp_path / "small"
    digest = load(tiny_model).save_pretrained(small, shared=True).encoders.sha256
    load(other).save_pretrained(tmp_path / "other", shared=True)
    store = encoder_store(HubOptions())
    [wrong] = [path for path in store.glob("*.safetensors") if path.stem != digest]
    content = wrong.read_bytes()
    for place in (store / f"{digest}.safetensors", small / "encoders.safetensors"):
        place.write_bytes(content)
    for verification in (None, True, False):
        with pytest.raises(errors.EncodersMissingError, match="holds other encoders"):
            load(small, verify=verification)
    place.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.EncodersMissingError, match="cannot be used|other encoders"):
        load(small)
    load(tiny_model).save_pretrained(tmp_path / "again", shared=True)  # repairs the store
    load(small)


def test_a_head_of_another_checkpoint_is_refused(tiny_model: Path, second: Path, tmp_path: Path, home: Path) -> None:
    load(tiny_model).save_pretrained(tmp_path / "a", shared=True)
    load(second).save_pretrained(tmp_path / "b", shared=True)
    load(tmp_path / "a")  # recorded as verified
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(errors.DigestMismatchError):
        load(tmp_path / "a")


def test_damaged_encoder_entries_of_a_configuration_are_refused(tiny_model: Path) -> None:
    content = json.loads((tiny_model / "config.json").read_text())
    config = ModelConfig.from_json(json.dumps(content))
    for changes in (
        {"format_version": 2},
        {"format_version": 2, "encoders": {"sha256": "x" * 64, "origin": ""}},
        {"format_version": 2, "encoders": {"sha256": "0" * 64}},
        {"encoders": {"sha256": "0" * 64, "origin": ""}},
        {"format_version": 3},
    ):
        with pytest.raises(errors.ConfigError):
            ModelConfig.from_json(json.dumps({**content, **changes}))
    named = {**content, "format_version": 2, "encoders": {"sha256": "0" * 64, "origin": "somewhere"}}
    shared = ModelConfig.from_json(json.dumps(named))
    assert shared.fingerprint == config.fingerprint
    assert ModelConfig.from_json(shared.to_json()) == shared


def test_the_command_convert_writes_a_shared_checkpoint(tiny_checkpoint: Path, tmp_path: Path, home: Path) -> None:
    done = run_command("convert", "--shared", tiny_checkpoint, tmp_path / "small")
    assert done.exit_code == 0, done.stderr
    assert load(tmp_path / "small").config.encoders is not None
    done = run_command("convert", "--shared", "--push", "me/mine", tiny_checkpoint, tmp_path / "pushed")
    assert done.exit_code == 2
    assert "--shared" in done.stderr


# --- the local store ---


@pytest.fixture
def two_published(
    hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> HubOptions:
    """A cache with two converted checkpoints that have the same encoders."""
    from sspsam.checkpoints import convert_process

    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)
    content = torch.load(tiny_checkpoint, weights_only=False)
    name = next(name for name in content["model"] if "box" in name or "prompt" in name)
    content["model"][name] = content["model"][name] * 1.5
    torch.save(content, tmp_path / "second.pth")
    files = {
        "output/unc/336/checkpoint_best_miou.pth": tiny_checkpoint.read_bytes(),
        "output/unc+/336/checkpoint_best_miou.pth": (tmp_path / "second.pth").read_bytes(),
    }
    hub.add(AUTHORS_REPOSITORY, files)
    options = HubOptions(cache_dir=tmp_path / "cache")
    for published in ("ssp-sam-336-refcoco", "ssp-sam-336-refcoco+"):
        resolve(published, options)
    return options


def test_the_store_keeps_shared_tensors_once_and_as_long_as_they_are_needed(
    two_published: HubOptions, tiny_model: Path, image: np.ndarray, tmp_path: Path
) -> None:
    store = encoder_store(two_published)
    [encoders] = store.glob("*.safetensors")
    ready = {entry.name: entry for entry in cached_checkpoints(two_published) if entry.state == "ready"}
    complete = (tiny_model / "model.safetensors").stat().st_size
    for entry in ready.values():
        assert entry.size + encoders.stat().st_size == pytest.approx(complete, rel=0.02)
    first, second = (load(name, cache_dir=two_published.cache) for name in ready)
    assert first.encoder_fingerprint == second.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert first.fingerprint != second.fingerprint
    assert answers(first, image=image) == answers(load(tiny_model), image=image)
    shared = cached_checkpoints(two_published)[-1]
    assert (shared.state, shared.size) == ("shared", encoders.stat().st_size)
    with pytest.raises(errors.StorageError, match="2 checkpoints need"):
        delete(shared.name, two_published)
    delete("ssp-sam-336-refcoco", two_published)
    assert encoders.exists()
    delete("ssp-sam-336-refcoco+", two_published)
    assert not encoders.exists()


def test_a_conversion_whose_encoders_were_lost_is_converted_again(two_published: HubOptions) -> None:
    [encoders] = encoder_store(two_published).glob("*.safetensors")
    encoders.unlink()
    load(resolve("ssp-sam-336-refcoco", two_published).path)
    assert encoders.exists()


def test_encoders_are_kept_for_a_shared_checkpoint_elsewhere(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    load(tiny_model).save_pretrained(tmp_path / "small", shared=True)
    [entry] = cached_checkpoints(HubOptions())
    with pytest.raises(errors.StorageError, match="small"):
        delete(entry.name, HubOptions())
    shutil.rmtree(tmp_path / "small")
    assert delete(entry.name, HubOptions())
    assert cached_checkpoints(HubOptions()) == []


# --- memory ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_weights_shares_the_memory_of_the_encoders_and_costs_no_encode(
    tiny_model: Path, second: Path, image: np.ndarray, encoded: EncodedImages, dtype: str
) -> None:
    expected = answers(load(second, dtype=dtype), image=image)
    encoded.count = 0
    first = load(tiny_model, dtype=dtype)
    first.set_image(image)
    before = answers(first)
    both = [first, first.with_weights(second)]
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
    assert both[1].fingerprint == load(second).fingerprint


def test_with_weights_refuses_other_encoders_and_names_the_difference(
    tiny_model: Path, other: Path, tmp_path: Path
) -> None:
    predictor = load(tiny_model)
    with pytest.raises(
        errors.EncodersDifferError, match=rf"1 of the \d+ tensors .*{TENSOR}.*from_pretrained\('{other}'"
    ):
        predictor.with_weights(other)
    model, config = load_checkpoint(tiny_model)
    changed = dataclasses.replace(config.preprocessing, sam_mean=(1.0, 2.0, 3.0))
    save_checkpoint(tmp_path, dataclasses.replace(config, preprocessing=changed), model.state_dict())
    with pytest.raises(errors.EncodersDifferError, match=r"preprocessing.sam_mean is \(1.0, 2.0, 3.0\)"):
        predictor.with_weights(tmp_path)
    predictor.with_weights(tiny_model)  # and the predictor still works


def test_predictors_that_share_encoders_are_independent_otherwise(
    tiny_model: Path, second: Path, image: np.ndarray, tmp_path: Path
) -> None:
    first = load(tiny_model, embedding_cache=EmbeddingCache(tmp_path))
    other_head = first.with_weights(second)
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


def test_a_model_in_memory_takes_other_weights_too(tiny_model: Path, second: Path, image: np.ndarray) -> None:
    in_memory = SSPSAMPredictor(*load_checkpoint(tiny_model), device="cpu")
    embedding = in_memory.encode(image)
    assert answers(in_memory.with_weights(second), embedding=embedding) == answers(load(second), embedding=embedding)
