"""Options of a batch: wrong values are refused by name, and NumPy's numbers are numbers."""

from typing import Any

import numpy as np
import pytest

from sspsam.batch import BatchOptions, Shard, run_batch
from sspsam.batch.ray import Cluster
from tests.support.batches import TEXT, tree


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_pixels", value) for value in (None, 0, True, 1.5, float("nan"), "9")),
        *(("batch_size", value) for value in (0, 2.0, "2", True)),
        *(("workers", value) for value in (0, 1.5)),
        *(("max_errors", value) for value in (-1, 0.5, False)),
        *(("no_target_pixels", value) for value in (-1, 0.5, True, "50")),
        *(("mask_threshold", value) for value in (0, 1, float("nan"), float("inf"), "0.5", True)),
        *(("formats", value) for value in (None, "tiff", ("mask", 3), 5, ())),
        *(("glob", value) for value in ("", 3, b"*.png")),
        *(("overwrite", value) for value in (None, "no", 1)),
        *(("retry_errors", value) for value in (None, "no")),
        *(("shard", value) for value in (None, "1/2", (1, 2))),
    ],
)
def test_wrong_options_are_refused_by_name_when_they_are_made(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        BatchOptions(**{name: value})


@pytest.mark.parametrize("values", [{"actors": 0}, {"actors": 1.5}, {"cpus": 0}, {"cpus": float("nan")}, {"gpus": -1}])
def test_wrong_sizes_of_a_cluster_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Cluster(**values)


def test_numbers_of_numpy_are_numbers(predictor, images, tmp_path) -> None:
    numbers: dict[str, Any] = {"batch_size": 2, "workers": 1, "max_errors": 3, "max_pixels": 10**6}
    numbers |= {"no_target_pixels": 50}
    run_batch(
        images, tmp_path / "plain", TEXT, predictor=predictor, options=BatchOptions(mask_threshold=0.5, **numbers)
    )
    options = BatchOptions(
        mask_threshold=np.float64(0.5),  # type: ignore[arg-type]  # on purpose, as below
        formats=["mask"],  # type: ignore[arg-type]
        shard=Shard(np.int64(1), np.int64(1)),  # type: ignore[arg-type]
        **{name: np.int64(value) for name, value in numbers.items()},
    )
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor, options=options)
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
