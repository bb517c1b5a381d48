"""Names that find checkpoints."""

import shutil
from pathlib import Path

import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.hub import resolve


def test_a_directory_and_the_weights_in_it_name_the_same_checkpoint(tiny_model: Path) -> None:
    assert resolve(tiny_model) == resolve(str(tiny_model)) == resolve(tiny_model / "model.safetensors") == tiny_model


def test_an_authors_file_is_answered_with_the_command_that_converts_it(tiny_checkpoint: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="sspsam convert"):
        SSPSAMPredictor.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("name", ["nothing", "./nothing", "~/nothing", "a/b/c", "", "a/", "/a", "..\\x/y"])
def test_what_is_no_checkpoint_is_refused_without_a_network(name: str, monkeypatch) -> None:
    monkeypatch.setattr("sspsam.hub._download", lambda *a: pytest.fail("asked the Hub"))
    with pytest.raises(errors.CheckpointNotFoundError):
        resolve(name or "nothing")


def test_the_bundled_model_is_not_there_yet_and_says_so() -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="shapes"):
        resolve("shapes")


@pytest.mark.parametrize("name", [None, 3, b"bytes"])
def test_a_name_of_the_wrong_type_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError):
        resolve(name)


def test_a_repository_in_the_cache_is_found_without_a_network(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    # the layout of huggingface_hub's cache
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    found = resolve("owner/name", cache_dir=tmp_path, local_files_only=True)
    assert found == repository / "snapshots" / commit
    with pytest.raises(errors.HubError, match=r"owner/other.*hf download owner/other"):
        resolve("owner/other", cache_dir=tmp_path, local_files_only=True)
