"""Unusable tokens, settings and names, and a Hub that fails or lies."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import convert_process, converted, listing
from sspsam.checkpoints.download import list_files
from sspsam.checkpoints.hub_options import HubOptions, Listing
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import resolve
from tests.support.hub import FakeHub
from tests.support.published import NAME, UNC

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.mark.parametrize("token", ["hf_secret x", "hf_secret\r\nX: y", "hf_secret\u00e9"])
def test_an_impossible_token_is_refused_and_never_repeated(hub: FakeHub, tmp_path: Path, token: str) -> None:
    with pytest.raises(errors.HubAuthenticationError, match="hf auth login") as caught:
        SSPSAMPredictor.from_pretrained("owner/name", token=token, cache_dir=tmp_path, device="cpu")
    assert "secret" not in str(caught.value)
    assert not hub.requests


def test_an_impossible_token_of_the_environment_is_not_repeated_either(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\u00e9")
    with pytest.raises(errors.SSPSAMError) as caught:
        resolve("owner/name", HubOptions(cache_dir=tmp_path))
    assert "secret" not in str(caught.value)


def test_white_space_around_a_token_and_an_empty_one_do_no_harm() -> None:
    assert HubOptions.of(token=" hf_x\n").token == "hf_x"
    assert HubOptions.of(token="").token is False


def test_a_hub_that_names_a_path_for_a_commit_is_refused(hub, authors, options, tmp_path, monkeypatch) -> None:
    real = huggingface_hub.HfApi.model_info

    def evil(self, *arguments, **options):
        info = real(self, *arguments, **options)
        info.sha = str(tmp_path / "evil")
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", evil)
    with pytest.raises(errors.HubError, match="no commit"):
        resolve(NAME, options)
    assert not (tmp_path / "evil").exists()


def test_a_failing_converted_repository_does_not_hide_a_local_checkpoint(hub, authors, options, monkeypatch) -> None:
    before = resolve(NAME, options)
    monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    hub.down = True
    assert resolve(NAME, HubOptions(cache_dir=options.cache_dir, local_files_only=True)) == before
    fresh = HubOptions(cache_dir=options.cache_dir / "fresh", local_files_only=True)
    with pytest.raises(errors.HubOfflineError, match="SSPSAM_REPOSITORY"):
        resolve(NAME, fresh)


def test_a_cache_is_no_listing_of_the_repository(hub, tiny_checkpoint, options) -> None:
    other = "output/unc/336/checkpoint0079.pth"
    hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes(), other: b"older"})
    huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, other, cache_dir=options.cache_dir)
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    for name in (NAME, "ssp-sam-224-grefcoco", f"{AUTHORS_REPOSITORY}:{UNC}"):
        with pytest.raises(errors.HubOfflineError):
            resolve(name, offline)
    assert UNC in resolve(NAME, options).origin


def test_a_file_downloaded_before_a_kill_is_converted_without_a_network(hub, authors, options, monkeypatch) -> None:
    monkeypatch.setattr(converted, "convert_in_subprocess", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        resolve(NAME, options)
    monkeypatch.undo()
    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)
    assert {e.name: e.state for e in listing.published(options)}[NAME] == "downloaded"
    hub.down = True
    assert resolve(NAME, HubOptions(cache_dir=options.cache_dir, local_files_only=True)).path.is_dir()


def test_both_files_are_of_one_commit_whatever_is_pushed_meanwhile(hub, own_files, options) -> None:
    first = hub.add("owner/name", own_files)

    def push_after_the_configuration() -> None:
        if any("model.safetensors" in path for path in hub.paths()) and len(hub.repos["owner/name"].commits) == 1:
            hub.add("owner/name", {"config.json": b"other", "model.safetensors": b"other"})

    hub.delay = push_after_the_configuration
    found = resolve("owner/name", options)
    assert len(hub.repos["owner/name"].commits) == 2
    assert found.origin == f"owner/name@{first}"
    assert (found.path / "model.safetensors").read_bytes() == own_files["model.safetensors"]


def test_a_converted_commit_is_never_requested(hub, authors, options) -> None:
    before = resolve(NAME, options)
    for path in (options.cache / "models--wayneicloud--SSP-SAM").rglob("*.pth"):
        path.unlink()
    hub.reset()
    assert resolve(NAME, HubOptions.of(revision=authors.upper(), cache_dir=options.cache_dir)).path == before.path
    assert not hub.requests


def test_without_digests_in_the_listing_those_of_the_download_are_checked(hub, authors, options, monkeypatch) -> None:
    def list_without_digests(*arguments):
        listing = list_files(*arguments)
        return Listing(listing.commit, dict.fromkeys(listing.files))

    monkeypatch.setattr("sspsam.checkpoints.resolve.list_files", list_without_digests)
    hub.fail("/cdn/", lambda body: (body[:-5] + b"wrong", len(body)))
    with pytest.raises(errors.DigestMismatchError):
        resolve(NAME, options)


def test_an_odd_folder_does_not_spoil_the_table(hub, tiny_checkpoint, options) -> None:
    hub.add(
        AUTHORS_REPOSITORY,
        {
            UNC: tiny_checkpoint.read_bytes(),
            "output/evil\n\x1b[31m/224/x.pth": b"",
            "../up/224/x.pth": b"",
            "top.pth": b"",
        },
    )
    assert [entry.name for entry in listing.published(options, remote=True)] == ["ssp-sam-224-up", NAME]
    with pytest.raises(errors.CheckpointNotFoundError) as caught:
        resolve("ssp-sam-224-referit", options)
    assert str(caught.value).isprintable()
    assert "top.pth" in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "o/" + "x" * 300, "x" * 5000, "a\0b", "o/n:" + "x" * 3000 + ".pth"])
def test_impossible_names_are_refused(hub, options, name) -> None:
    for call in (lambda: resolve(name, options), lambda: listing.delete(name, options) or resolve(name, options)):
        with pytest.raises(errors.SSPSAMError):
            call()


def test_a_home_in_the_cache_dir_is_expanded(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HubOptions.of(cache_dir="~/c").cache == tmp_path / "c"
    assert HubOptions.of(revision="").revision is None


def test_a_missing_local_file_is_not_requested_from_the_hub(hub, options) -> None:
    for name in ("out/model.pth", "out/model.safetensors"):
        with pytest.raises(errors.CheckpointNotFoundError, match="no such directory"):
            resolve(name, options)
    assert not hub.requests
    with pytest.raises(errors.RepositoryMissingError, match="no directory of that name"):
        resolve("out/ssp-sam", options)


def test_a_converted_pinned_name_sends_no_request_even_with_a_converted_repository(hub, authors, options) -> None:
    pinned = HubOptions(revision=authors, cache_dir=options.cache_dir)
    before = resolve(NAME, pinned)
    hub.requests.clear()
    assert resolve(NAME, pinned, repository="us/converted") == before
    assert not hub.requests


def test_refreshing_a_converted_name_works_without_a_network(hub, authors, options) -> None:
    before = resolve(NAME, options)
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    assert resolve(NAME, offline, refresh=True).path == before.path


def test_a_cache_that_became_read_only_serves_the_older_commit(hub, own_files, options, monkeypatch) -> None:
    hub.add("owner/name", own_files)
    before = resolve("owner/name", options)
    hub.add("owner/name", own_files | {"new": b""})

    def read_only(path: object, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(os, "makedirs", read_only)
    assert resolve("owner/name", options) == before


@pytest.mark.parametrize("name", [NAME, "ssp-sam-336-refcocx"])
@pytest.mark.parametrize("repository", ["a\n\x1b[2Jb/c", "x" * 5000 + "/y", "a/b\n", "../x", "a/b/c", "Ünï/cøde"])
def test_the_name_of_a_repository_is_escaped_and_cut_in_every_message(hub, options, name, repository) -> None:
    for local_files_only, revision in ((True, None), (False, None), (False, "\x1b[2J\n" * 90)):
        choice = HubOptions.of(revision, options.cache_dir, local_files_only)
        with pytest.raises(errors.SSPSAMError) as caught:
            resolve(name, choice, repository=repository)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("content", [None, b"", b"garbage"], ids=["missing", "empty", "garbage"])
def test_a_dead_certificate_file_is_named(hub, authors, options, tmp_path, monkeypatch, content) -> None:
    path = tmp_path / "certificates.pem"
    if content is not None:
        path.write_bytes(content)
    huggingface_hub.close_session()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for name in (NAME, "owner/name"):
        with pytest.raises(
            errors.HubConnectionError, match=r"SSL_CERT_FILE names .*certificates\.pem.*sspsam download"
        ):
            resolve(name, options)
    monkeypatch.undo()


@pytest.mark.parametrize("variable", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_a_malformed_timeout_is_one_line_that_names_the_variable(tiny_model, image, tmp_path, variable) -> None:
    Image.fromarray(image).save(tmp_path / "x.png")
    image = str(tmp_path / "x.png")
    commands = [
        ["models"],
        ["download", NAME],
        ["verify", NAME],
        ["cache", "--delete", NAME],
        ["segment", image, "-t", "a cat", "--model", str(tiny_model)],
        ["batch", str(tmp_path), str(tmp_path / "out"), "-t", "a cat", "--model", str(tiny_model)],
    ]
    if variable == "HF_HUB_ETAG_TIMEOUT":
        del commands[1:]
    programs = [f"from sspsam.cli import main; main({command})" for command in commands]
    programs.append(
        "import sspsam, sspsam.errors\n"
        f"try: sspsam.SSPSAMPredictor.from_pretrained({str(tiny_model)!r})\n"
        "except sspsam.errors.HubError as error: print(error, file=sys.stderr); sys.exit(1)"
    )
    for program in programs:
        environment = os.environ | {variable: "1m"}
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 1, program
        assert variable in done.stderr, program
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_the_storage_server_refuses_is_not_a_missing_repository(
    hub, authors, own_files, options, status
) -> None:
    hub.add("owner/name", own_files)
    hub.fail("/cdn/", status)
    for name in ("owner/name", NAME):
        with pytest.raises(errors.DownloadError, match=rf"localhost.*refused.*\({status}\).*sspsam download {name}"):
            resolve(name, options)
