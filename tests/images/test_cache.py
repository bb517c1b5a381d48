"""The embedding cache: no answer depends on it, nothing foreign is answered from, and it stays within its limit."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sspsam import EmbeddingCache, SSPSAMPredictor
from sspsam.errors import SSPSAMWarning
from sspsam.models import SSPSAM
from sspsam.shapes import draw_scene

TEXTS = ["the red circle", "a dog"]


class Counted:
    """How many pictures went through the encoders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        encode = SSPSAM.encode_image

        def counting(model: SSPSAM, clip_input: torch.Tensor, sam_input: torch.Tensor) -> Any:
            self.pictures += len(clip_input)
            return encode(model, clip_input, sam_input)

        monkeypatch.setattr(SSPSAM, "encode_image", counting)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(6):
        Image.fromarray(draw_scene(seed, (60, 90)).pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def load(tiny_model: Path, cache: EmbeddingCache | Path | None, **options: Any) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=cache, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def answers(predictor: SSPSAMPredictor, images: list[Any]) -> list[dict[str, Any]]:
    return [result.to_dict() for results in predictor.predict_batch(images, TEXTS) for result in results]


def test_the_second_question_costs_no_encoder_pass(tiny_model, pictures, tmp_path, encoded) -> None:
    without = answers(load(tiny_model, None), pictures)
    encoded.pictures = 0
    first = answers(load(tiny_model, tmp_path), pictures)
    assert encoded.pictures == len(pictures) == len(entries(tmp_path))
    again = load(tiny_model, tmp_path)  # as in another process
    assert answers(again, pictures) == first == without
    again.set_image(pictures[2])
    assert again.predict(TEXTS)[0].to_dict() == first[4]
    assert again.predict(TEXTS[0]).overlay().size == (90, 60)
    assert encoded.pictures == len(pictures)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_fresh_embedding_is_rounded_like_a_stored_one(tiny_model, pictures, tmp_path, dtype) -> None:
    fresh = load(tiny_model, EmbeddingCache(tmp_path, dtype=dtype)).encode(pictures[0])
    stored = load(tiny_model, EmbeddingCache(tmp_path, dtype=dtype)).encode(pictures[0])
    exact = load(tiny_model, None).encode(pictures[0])
    assert torch.equal(fresh.sam_embedding, stored.sam_embedding)
    assert torch.equal(fresh.clip_features, stored.clip_features)
    assert not torch.equal(fresh.sam_embedding, exact.sam_embedding)
    assert torch.equal(fresh.sam_embedding, exact.sam_embedding.to(getattr(torch, dtype)).float())
    [entry] = entries(tmp_path)
    load(tiny_model, EmbeddingCache(tmp_path)).encode(pictures[0])  # float32 asks for another entry
    assert len(entries(tmp_path)) == 2
    assert entry.stat().st_size < 0.6 * max(path.stat().st_size for path in entries(tmp_path))


def test_an_entry_is_found_by_content_not_by_name(tiny_model, pictures, tmp_path, encoded) -> None:
    predictor = load(tiny_model, tmp_path / "cache")
    copy = tmp_path / "renamed.png"
    copy.write_bytes(pictures[0].read_bytes())
    for image in (pictures[0], copy, copy.read_bytes()):
        predictor.encode(image)
    assert encoded.pictures == 1
    pixels = np.asarray(Image.open(copy))
    for image in (pixels, Image.fromarray(pixels), pixels.copy()):
        predictor.encode(image)
    assert encoded.pictures == 2
    copy.write_bytes(pictures[1].read_bytes())
    predictor.encode(copy)
    assert encoded.pictures == 3
    predictor.encode(pixels[:, ::-1])
    predictor.encode(pixels.reshape(30, 180, 3))
    assert encoded.pictures == 5


def damaged(entry: Path, other: Path) -> Iterator[bytes]:
    content = entry.read_bytes()
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1] + bytes([content[-1] ^ 1])
    yield content.replace(b'height\\": \\"60', b'height\\": \\"61')
    yield other.read_bytes()  # a good embedding, of another picture
    yield b"something else"


def test_a_damaged_or_foreign_entry_is_a_miss_that_is_warned_of_and_replaced(
    tiny_model, pictures, tmp_path, encoded
) -> None:
    predictor = load(tiny_model, tmp_path)
    right = predictor.predict(TEXTS[0], image=pictures[0]).to_dict()
    [entry] = entries(tmp_path)
    predictor.encode(pictures[1])
    [other] = set(entries(tmp_path)) - {entry}
    whole = entry.read_bytes()
    for number, content in enumerate(damaged(entry, other)):
        entry.write_bytes(content)
        with pytest.warns(SSPSAMWarning, match="removed and made again"):
            assert predictor.predict(TEXTS[0], image=pictures[0]).to_dict() == right
        assert entry.read_bytes() == whole
        assert encoded.pictures == 3 + number


def test_models_precisions_and_unsaved_models_do_not_share(tiny_model, pictures, tmp_path, encoded) -> None:
    predictor = load(tiny_model, tmp_path)
    predictor.encode(pictures[0])
    load(tiny_model, tmp_path, dtype="bfloat16").encode(pictures[0])
    assert encoded.pictures == 2 == len(entries(tmp_path))
    unsaved = SSPSAMPredictor(predictor._model, predictor.config, device="cpu", embedding_cache=tmp_path)
    unsaved.encode(pictures[0])
    assert encoded.pictures == 3
    assert len(entries(tmp_path)) == 2


def test_the_least_recently_used_go_when_the_limit_is_reached(tiny_model, pictures, tmp_path, encoded) -> None:
    load(tiny_model, tmp_path).encode(pictures[0])
    size = entries(tmp_path)[0].stat().st_size
    (tmp_path / "README").write_text("not an entry")
    predictor = load(tiny_model, EmbeddingCache(tmp_path, max_bytes=int(3.5 * size)))
    for number, image in enumerate([pictures[1], pictures[2], pictures[0], pictures[3]]):
        predictor.encode(image)
        for path in entries(tmp_path):  # file systems may count time in coarse steps
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 3.5 * size, number
    encoded.pictures = 0
    for image in (pictures[0], pictures[2], pictures[3]):
        predictor.encode(image)
    assert encoded.pictures == 0
    predictor.encode(pictures[1])  # it had not been used for longest
    assert encoded.pictures == 1
    assert (tmp_path / "README").exists()


def test_a_cache_that_cannot_be_written_costs_time_but_no_answer(tiny_model, pictures, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(SSPSAMWarning, match="embeddings are not kept") as warned:
        found = answers(load(tiny_model, tmp_path / "file"), pictures)
    assert len([one for one in warned if "not kept" in str(one.message)]) == 1
    assert found == answers(load(tiny_model, None), pictures)
    small = EmbeddingCache(tmp_path / "small", max_bytes=100)
    with pytest.warns(SSPSAMWarning, match="more than max_bytes"):
        load(tiny_model, small).encode(pictures[0])


def _ask(model: Path, cache: Path, images: list[Path], queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(answers(load(model, EmbeddingCache(cache, max_bytes=300_000)), images * 3))


@pytest.mark.slow
def test_processes_share_it(tiny_model, pictures, tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    workers = [context.Process(target=_ask, args=(tiny_model, tmp_path, pictures, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert found[0] == found[1]
    assert not list(tmp_path.glob("*/.sspsam-*"))


def test_what_a_crash_left_is_removed_once_it_is_nobody_s(tiny_model, pictures, tmp_path) -> None:
    predictor = load(tiny_model, EmbeddingCache(tmp_path, max_bytes=10**9))
    left = [tmp_path / "ab" / ".sspsam-1.tmp", tmp_path / "ab" / ".sspsam-2.tmp"]
    left[0].parent.mkdir()
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[0], (0, time.time() - 7200))
    predictor.encode(pictures[0])
    assert [path.exists() for path in left] == [False, True]
