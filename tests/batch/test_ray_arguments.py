"""Arguments of `run_batch_on_ray`; no cluster is needed."""

import inspect
import sys
import types
from typing import Any, get_type_hints

import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.batch.ray import Cluster, PretrainedOptions, run_batch_on_ray


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


def test_pretrained_options_are_the_arguments_of_from_pretrained() -> None:
    parameters = inspect.signature(SSPSAMPredictor.from_pretrained).parameters
    assert set(PretrainedOptions.__annotations__) == set(parameters) - {"name_or_path", "device"}
    hints = get_type_hints(SSPSAMPredictor.from_pretrained)
    for name, hint in get_type_hints(PretrainedOptions).items():
        assert hint == hints[name], name
    assert not PretrainedOptions.__required_keys__


@pytest.mark.parametrize(("name", "named"), [("revison", "'revison'.*revision"), ("device", "'device'.*Cluster")])
def test_arguments_that_do_not_exist_raise_before_anything_is_started(tmp_path, name, named) -> None:
    wrong: dict[str, Any] = {name: "main"}
    with pytest.raises(TypeError, match=named):
        run_batch_on_ray(tmp_path / "photos", tmp_path / "out", "x", model="shapes", **wrong)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_error_names_the_extra(tmp_path) -> None:
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[ray\]"):
        run_batch_on_ray(tmp_path / "photos", tmp_path / "out", "x", model="shapes")


def test_a_cluster_that_cannot_be_reached_is_one_line(tiny_model, images, tmp_path, monkeypatch) -> None:
    def refusing(address: str, **_: object) -> None:
        raise ValueError(f"Invalid address format: {address}\nmore lines")

    ray = types.ModuleType("ray")
    ray.data, ray.is_initialized, ray.init = types.ModuleType("ray.data"), lambda: False, refusing
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    with pytest.raises(errors.BatchError, match=r"^cannot connect to the cluster foo: Invalid address format: foo$"):
        run_batch_on_ray(images, tmp_path / "out", "x", model=tiny_model, cluster=Cluster("foo"))
