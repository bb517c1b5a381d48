"""Arguments of `run_batch_on_ray`; no cluster is needed."""

import inspect
import socket
import sys
import types
from collections.abc import Callable
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


def ray_that_starts_with(init: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    ray = types.ModuleType("ray")
    ray.data, ray.is_initialized, ray.init = types.ModuleType("ray.data"), lambda: False, init
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)


def test_a_cluster_that_cannot_be_reached_is_one_line(tiny_model, images, tmp_path, monkeypatch) -> None:
    def refusing(address: str, **_: object) -> None:
        raise ValueError(f"Invalid address format: {address}\nmore lines")

    ray_that_starts_with(refusing, monkeypatch)
    with pytest.raises(errors.BatchError, match=r"^cannot connect to the cluster foo: Invalid address format: foo$"):
        run_batch_on_ray(images, tmp_path / "out", "x", model=tiny_model, cluster=Cluster("foo"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "ray://localhost:{port}", "no.such.host.invalid:6379", "a:99999"]
)
def test_an_address_where_nothing_listens_is_refused_before_ray_waits(
    tiny_model, images, tmp_path, monkeypatch, address
):
    """Ray tries to connect for many minutes."""
    ray_that_starts_with(lambda **_: pytest.fail("Ray was started"), monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        cluster = Cluster(address.format(port=closed.getsockname()[1]))
    with pytest.raises(errors.BatchError, match=r"^cannot connect to the cluster "):
        run_batch_on_ray(images, tmp_path / "out", "x", model=tiny_model, cluster=cluster)
