"""The embedding cache: no answer depends on it, foreign entries are never used, and it stays within its limit."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sspsam import EmbeddingCache, SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.errors import SSPSAMWarning
from sspsam.models import SSPSAM
from sspsam.shapes import draw_scene

TEXTS = ["the red circle", "a dog"]


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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        Image.fromarray(draw_scene(seed, (60, 90)).pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def load(tiny_model: Path, cache: EmbeddingCache | Path | None, **options: Any) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=cache, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def answers(predictor: SSPSAMPredictor, images: list[Any]) -> list[dict[str, Any]]:
    return [result.to_dict() for results in predictor.predict_batch(images, TEXTS) for result in results]


def test_a_cache_hit_costs_no_encoder_pass_and_changes_no_answer(tiny_model, images, tmp_path, encoded) -> None:
    without_cache = answers(load(tiny_model, None), images)
    encoded.count = 0
    misses = answers(load(tiny_model, tmp_path), images)
    assert encoded.count == len(images) == len(entries(tmp_path))
    second_predictor = load(tiny_model, tmp_path)  # as in another process
    assert answers(second_predictor, images) == misses == without_cache
    second_predictor.set_image(images[2])
    assert second_predictor.predict(TEXTS)[0].to_dict() == misses[4]
    assert second_predictor.predict(TEXTS[0]).overlay().size == (90, 60)
    assert encoded.count == len(images)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_new_embedding_is_rounded_like_a_stored_one(tiny_model, images, tmp_path, dtype) -> None:
    new = load(tiny_model, EmbeddingCache(tmp_path, dtype=dtype)).encode(images[0])
    stored = load(tiny_model, EmbeddingCache(tmp_path, dtype=dtype)).encode(images[0])
    exact = load(tiny_model, None).encode(images[0])
    assert torch.equal(new.sam_embedding, stored.sam_embedding)
    assert torch.equal(new.clip_features, stored.clip_features)
    assert not torch.equal(new.sam_embedding, exact.sam_embedding)
    assert torch.equal(new.sam_embedding, exact.sam_embedding.to(getattr(torch, dtype)).float())
    [entry] = entries(tmp_path)
    load(tiny_model, EmbeddingCache(tmp_path)).encode(images[0])  # float32 is stored as another entry
    assert len(entries(tmp_path)) == 2
    assert entry.stat().st_size < 0.6 * max(path.stat().st_size for path in entries(tmp_path))


def test_an_entry_is_found_by_content_not_by_file_name(tiny_model, images, tmp_path, encoded) -> None:
    predictor = load(tiny_model, tmp_path / "cache")
    copy = tmp_path / "renamed.png"
    copy.write_bytes(images[0].read_bytes())
    for image in (images[0], copy, copy.read_bytes()):
        predictor.encode(image)
    assert encoded.count == 1
    pixels = np.asarray(Image.open(copy))
    for image in (pixels, Image.fromarray(pixels), pixels.copy()):
        predictor.encode(image)
    assert encoded.count == 2
    copy.write_bytes(images[1].read_bytes())
    predictor.encode(copy)
    assert encoded.count == 3
    predictor.encode(pixels[:, ::-1])
    predictor.encode(pixels.reshape(30, 180, 3))
    assert encoded.count == 5


def damaged_contents(entry: Path, other: Path) -> Iterator[bytes]:
    content = entry.read_bytes()
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1] + bytes([content[-1] ^ 1])
    yield content.replace(b'height\\": \\"60', b'height\\": \\"61')
    yield other.read_bytes()  # an intact embedding of another image
    yield b"something else"


def test_a_damaged_or_foreign_entry_is_a_miss_with_a_warning_and_is_replaced(
    tiny_model, images, tmp_path, encoded
) -> None:
    predictor = load(tiny_model, tmp_path)
    expected = predictor.predict(TEXTS[0], image=images[0]).to_dict()
    [entry] = entries(tmp_path)
    predictor.encode(images[1])
    [other] = set(entries(tmp_path)) - {entry}
    intact = entry.read_bytes()
    for number, content in enumerate(damaged_contents(entry, other)):
        entry.write_bytes(content)
        with pytest.warns(SSPSAMWarning, match="cached embedding is removed and the image is encoded again"):
            assert predictor.predict(TEXTS[0], image=images[0]).to_dict() == expected
        assert entry.read_bytes() == intact
        assert encoded.count == 3 + number


def test_models_and_precisions_share_no_entries_and_unsaved_models_use_none(
    tiny_model, images, tmp_path, encoded
) -> None:
    load(tiny_model, tmp_path).encode(images[0])
    load(tiny_model, tmp_path, dtype="bfloat16").encode(images[0])
    assert encoded.count == 2 == len(entries(tmp_path))
    unsaved = SSPSAMPredictor(*load_checkpoint(tiny_model), device="cpu", embedding_cache=tmp_path)
    unsaved.encode(images[0])
    assert encoded.count == 3
    assert len(entries(tmp_path)) == 2


def test_the_least_recently_used_entries_are_evicted_at_the_limit(tiny_model, images, tmp_path, encoded) -> None:
    load(tiny_model, tmp_path).encode(images[0])
    size = entries(tmp_path)[0].stat().st_size
    (tmp_path / "README").write_text("not an entry")
    predictor = load(tiny_model, EmbeddingCache(tmp_path, max_bytes=int(3.5 * size)))
    for number, image in enumerate([images[1], images[2], images[0], images[3]]):
        predictor.encode(image)
        for path in entries(tmp_path):  # file systems may count time in coarse steps
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 3.5 * size, number
    encoded.count = 0
    for image in (images[0], images[2], images[3]):
        predictor.encode(image)
    assert encoded.count == 0
    predictor.encode(images[1])  # the least recently used one was evicted
    assert encoded.count == 1
    assert (tmp_path / "README").exists()


def test_files_of_others_in_the_folder_are_neither_counted_nor_evicted(tiny_model, images, tmp_path, encoded) -> None:
    (tmp_path / "ab").mkdir()
    (foreign := tmp_path / "ab" / "model.safetensors").write_bytes(bytes(1_000_000))
    os.utime(foreign, ns=(0, 0))  # older than every entry
    predictor = load(tiny_model, EmbeddingCache(tmp_path, max_bytes=100_000))
    for image in (images[0], images[1], images[0], images[1]):
        predictor.encode(image)
    assert encoded.count == 2
    assert foreign.stat().st_size == 1_000_000


def test_a_cache_that_cannot_be_written_gives_one_warning_and_the_same_answers(tiny_model, images, tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(SSPSAMWarning, match="embeddings are not stored in the cache") as warned:
        without_storing = answers(load(tiny_model, tmp_path / "file"), images)
    assert len([warning for warning in warned if "not stored" in str(warning.message)]) == 1
    assert without_storing == answers(load(tiny_model, None), images)
    small = EmbeddingCache(tmp_path / "small", max_bytes=100)
    with pytest.warns(SSPSAMWarning, match="more than max_bytes"):
        load(tiny_model, small).encode(images[0])


def _put_answers(model: Path, cache: Path, images: list[Path], queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(answers(load(model, EmbeddingCache(cache, max_bytes=300_000)), images * 3))


@pytest.mark.slow
def test_processes_share_a_cache(tiny_model, images, tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    workers = [context.Process(target=_put_answers, args=(tiny_model, tmp_path, images, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = (queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert first == second
    assert not list(tmp_path.glob("*/.sspsam-*"))


def test_a_pickled_cache_keeps_its_settings(tmp_path) -> None:
    copy = pickle.loads(pickle.dumps(EmbeddingCache(tmp_path, max_bytes=12345, dtype="float16")))
    assert (copy.directory, copy.max_bytes, copy.dtype) == (tmp_path, 12345, torch.float16)


def test_stale_temporary_files_are_removed_and_recent_ones_are_kept(tiny_model, images, tmp_path) -> None:
    predictor = load(tiny_model, EmbeddingCache(tmp_path, max_bytes=10**9))
    stale, recent = tmp_path / "ab" / ".sspsam-1.tmp", tmp_path / "ab" / ".sspsam-2.tmp"
    stale.parent.mkdir()
    for path in (stale, recent):
        path.write_bytes(b"half")
    os.utime(stale, (0, time.time() - 7200))
    predictor.encode(images[0])
    assert [path.exists() for path in (stale, recent)] == [False, True]
