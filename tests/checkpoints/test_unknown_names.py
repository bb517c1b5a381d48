"""Misspelt and unknown names of checkpoints, with and without a network."""

import os
import socket
import time

import huggingface_hub
import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, RECOMMENDED
from sspsam.hub import resolve
from tests.support.command import run_command
from tests.support.published import NAME

pytestmark = pytest.mark.usefixtures("in_this_process")

MISSPELT = "ssp-sam-336-refcocco"


def disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    huggingface_hub.close_session()
    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts


@pytest.mark.parametrize("network", ["online", "offline", "unreachable", "server error", "bad token", "no revision"])
def test_a_misspelt_published_name_is_an_unknown_name_with_and_without_a_network(
    hub, authors, options, monkeypatch, network
) -> None:
    if network == "offline":
        options = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    elif network == "unreachable":
        disconnect(monkeypatch)
    elif network == "server error":
        hub.fail("/api/models", 500)
    elif network == "bad token":
        options = HubOptions(cache_dir=options.cache_dir, token="hf_bad")
    elif network == "no revision":
        options = HubOptions(cache_dir=options.cache_dir, revision="v9")
    with pytest.raises(errors.CheckpointNotFoundError, match=f"no checkpoint '{MISSPELT}'") as caught:
        resolve(MISSPELT, options)
    assert type(caught.value) is errors.CheckpointNotFoundError
    expected = NAME if network == "online" else f"{RECOMMENDED}, {NAME}"  # the repository has this one alone
    assert f"Did you mean {expected}" in str(caught.value)
    assert "sspsam download" not in str(caught.value)
    assert ("could not be asked" in str(caught.value)) == (network != "online")


def test_every_command_calls_a_misspelt_name_unknown(hub, options, monkeypatch) -> None:
    disconnect(monkeypatch)
    for command in (["verify", MISSPELT], ["download", MISSPELT], ["cache", "--delete", MISSPELT]):
        done = run_command(*command, "--cache-dir", options.cache_dir)
        assert done.exit_code == 1
        assert f"Did you mean {RECOMMENDED}, {NAME}" in done.stderr
        assert "sspsam download" not in done.stderr


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_unknown_name_says_that_the_configured_repository_was_asked_or_could_not_be_asked(
    hub, authors, options, tiny_model, monkeypatch, by
) -> None:
    hub.add("us/converted", {f"{NAME}/config.json": b"{}"})
    argument = "us/converted" if by == "argument" else None
    if by == "environment":
        monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    with pytest.raises(errors.CheckpointNotFoundError, match=r"us/converted.* was asked first and does not") as caught:
        resolve(MISSPELT, options, repository=argument)
    assert f"Did you mean {NAME}" in str(caught.value)
    disconnect(monkeypatch)
    with pytest.raises(
        errors.CheckpointNotFoundError, match=r"us/converted.* could not be asked.*cannot reach"
    ) as lost:
        resolve(MISSPELT, options, repository=argument)
    assert f"Did you mean {RECOMMENDED}, {NAME}" in str(lost.value)
    assert "sspsam download" not in str(lost.value)


def test_a_name_that_only_a_listing_knows_loads_from_the_hub_and_then_from_the_cache(
    hub, tiny_checkpoint, tiny_model, options
) -> None:
    path = "output/newdata/336/checkpoint_best_miou.pth"
    hub.add(AUTHORS_REPOSITORY, {path: tiny_checkpoint.read_bytes()})
    files = {f"ssp-sam-336-ours/{name}": (tiny_model / name).read_bytes() for name in os.listdir(tiny_model)}
    hub.add("us/converted", files)
    first = resolve("ssp-sam-336-newdata", options)
    ours = resolve("ssp-sam-336-ours", options, repository="us/converted")
    hub.down = True
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    for where in (options, offline):
        assert resolve("ssp-sam-336-newdata", where) == first
        assert resolve("ssp-sam-336-newdata", where, repository="us/converted") == first
        assert resolve("ssp-sam-336-ours", where, repository="us/converted").path == ours.path
    assert listing.delete("ssp-sam-336-newdata", options)


def test_of_the_names_like_a_wrong_one_the_recommended_comes_first() -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="Did you mean ssp-sam-224-grefcoco, ssp-sam-336-grefcoco"):
        SSPSAMPredictor.from_pretrained("ssp-sam-grefcoco")
