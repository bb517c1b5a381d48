"""A batch in several independent runs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspsam import errors
from sspsam.batch import BatchOptions, Shard, run_batch
from tests.support.batches import TEXTS, draw, lines, tree


@pytest.mark.parametrize("batch_size", [1, 2])
def test_concatenated_results_of_shards_equal_those_of_one_run(predictor, photos, tmp_path, batch_size) -> None:
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor, options=BatchOptions(batch_size=batch_size))
    parts = [Shard(number, 3) for number in (1, 2, 3)]
    for shard in parts:
        run_batch(
            photos,
            tmp_path / "parts",
            TEXTS,
            predictor=predictor,
            options=BatchOptions(shard=shard, batch_size=batch_size),
        )
    for name in ("results", "errors"):
        joined = b"".join((tmp_path / "parts" / shard.name(name, ".jsonl")).read_bytes() for shard in parts)
        assert joined == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()
    masks = {path: content for path, content in tree(tmp_path / "whole").items() if path.endswith(".png")}
    assert masks.items() <= tree(tmp_path / "parts").items()


def test_shards_with_different_options_do_not_share_a_folder(predictor, photos, tmp_path) -> None:
    def part(number: int, texts: list[str] = TEXTS, **options: Any) -> None:
        options = BatchOptions(shard=Shard(number, 2), **options)
        run_batch(photos, tmp_path / "out", texts, predictor=predictor, options=options)

    part(1)
    with pytest.raises(errors.BatchError, match=r"job.1-of-2.json had other inputs or options: texts was"):
        part(2, ["the star"])
    with pytest.raises(errors.BatchError, match="shards was 2, is 1"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    draw(photos / "0.png", 7)
    with pytest.raises(errors.BatchError, match="pictures was"):  # the second half of other images
        part(2)
    (photos / "0.png").unlink()
    assert {path.name for path in (tmp_path / "out").glob("job*")} == {"job.1-of-2.json"}
    part(2)
    before = tree(tmp_path / "out")
    with pytest.raises(errors.BatchError, match="batch of 2 shards: choose another folder"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(overwrite=True))
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    part(2, ["the star"], overwrite=True)
    part(1, ["the star"], overwrite=True)
    images = [line["image"] for n in (1, 2) for line in lines(tmp_path / "out" / f"results.{n}-of-2.jsonl")]
    assert images == ["a.jpg", "b.png", "sub/a.jpg", "sub/deeper/c.png"]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 7))
def test_every_image_is_in_exactly_one_shard(length: int, shards: int, unit: int) -> None:
    parts = [Shard(number, shards).part(length, unit) for number in range(1, shards + 1)]
    assert [index for part in parts for index in part] == list(range(length))
    assert all(part.start % unit == 0 for part in parts if part)
    assert [Shard(number, shards).part(length, 1) for number in range(1, shards + 1)] == [
        Shard(number, shards).part(length, 4) for number in range(1, shards + 1)
    ]  # so that CPUs and GPUs can process shards of the same batch


def test_concatenated_coco_files_of_shards_equal_that_of_one_run(predictor, photos, tmp_path) -> None:
    for seed in range(6):
        draw(photos / f"more{seed}.png", seed)
    prompts = photos / "prompts.jsonl"
    names = [*(f"more{seed}.png" for seed in range(6)), "bad.jpg", "a.jpg", "b.png"]
    prompts.write_text(
        "\n".join(json.dumps({"image": n, "text": [*TEXTS, f"{n} itself"][: k % 3 + 1]}) for k, n in enumerate(names))
    )
    for shard in (Shard(), Shard(1, 2), Shard(2, 2)):
        options = BatchOptions(formats=("coco",), shard=shard, no_target_pixels=0)
        run_batch(photos, tmp_path / f"out{shard.count}", predictor=predictor, prompts=prompts, options=options)
    whole, first, second = (
        json.loads((tmp_path / f"out{shard.count}" / shard.name("coco", ".json")).read_text())
        for shard in (Shard(), Shard(1, 2), Shard(2, 2))
    )
    for key in ("images", "annotations"):
        assert first[key]
        assert second[key]
        assert first[key] + second[key] == whole[key]
    assert {c["id"]: c["name"] for c in first["categories"] + second["categories"]} == {
        c["id"]: c["name"] for c in whole["categories"]
    }
