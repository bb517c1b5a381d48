"""Faults of the Hub, the cache and the disk, by accident or by an adversary."""

import json
import os
import shlex
import sys
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import convert_process, converted, hub_cache, listing
from sspsam.checkpoints.download import list_files
from sspsam.checkpoints.hub_options import HubOptions, Listing
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, Source
from sspsam.cli import main
from sspsam.hub import resolve
from tests.support.hub import FakeHub

UNC = "output/unc/336/checkpoint_best_miou.pth"
NAME = "ssp-sam-336-refcoco"


pytestmark = pytest.mark.usefixtures("in_this_process")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.resolve().write_bytes(data)


# tokens


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
    assert HubOptions(token=" hf_x\n").token == "hf_x"
    assert HubOptions(token="").token is False


# the content of the cache is untrusted


@pytest.mark.parametrize(
    "record",
    [
        {"repository": AUTHORS_REPOSITORY, "commit": "/canary", "path": "docs", "sha256": None},
        {"repository": AUTHORS_REPOSITORY, "commit": "..", "path": "x", "sha256": None},
        {"repository": 1, "commit": "a" * 40, "path": "x", "sha256": None},
        {"repository": AUTHORS_REPOSITORY, "commit": 1, "path": "x", "sha256": None},
        {"repository": AUTHORS_REPOSITORY, "commit": "a" * 40, "path": 5, "sha256": None},
        {"repository": "some/other", "commit": "a" * 40, "path": "x", "sha256": None},
        [],
        "deep",
    ],
)
def test_a_note_that_does_not_fit_its_place_is_ignored(hub, authors, options, tmp_path, record) -> None:
    resolve(NAME, options)
    [note] = (options.cache / "sspsam-converted").rglob("names/*.json")
    canary = tmp_path / "canary" / "docs"
    canary.mkdir(parents=True)
    text = "[" * 100_000 if record == "deep" else json.dumps(record).replace("/canary", str(tmp_path / "canary"))
    note.write_text(text)
    assert resolve(NAME, options).path.is_dir()
    note.write_text(text)
    listing.delete(NAME, options)
    assert canary.is_dir()


def test_two_paths_that_look_alike_do_not_share_a_conversion(options) -> None:
    paths = ["a/b.pth", "a--b.pth", "A/b.pth", "a_b.pth", "a" * 3000 + ".pth"]
    places = {str(converted.directory_of(Source("o/n", "a" * 40, path), options)).lower() for path in paths}
    assert len(places) == len(paths)
    assert max(len(Path(place).name) for place in places) < 150


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


def test_a_blob_that_is_itself_a_link_still_has_its_digest(tmp_path: Path) -> None:
    store, blob, pointer = tmp_path / "store", tmp_path / "blobs" / ("a" * 64), tmp_path / "snapshots" / "x.pth"
    for folder in (blob.parent, pointer.parent):
        folder.mkdir()
    store.write_bytes(b"")
    blob.symlink_to(store)
    pointer.symlink_to(Path("..") / "blobs" / ("a" * 64))
    assert hub_cache.digest_of_blob(pointer) == "a" * 64
    assert hub_cache.blob_of(pointer) == blob


# the repair command repairs


@pytest.mark.parametrize("case", ["unpinned", "pinned", "own repository", "lost note"])
def test_the_command_in_the_message_repairs_the_checkpoint(
    hub, authors, own_files, options, tiny_model, monkeypatch, case
) -> None:
    if case == "own repository":
        hub.add("us/converted", {f"{NAME}/{name}": data for name, data in own_files.items()})
        monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    load = {"cache_dir": options.cache_dir, "device": "cpu", "revision": authors if case == "pinned" else None}
    SSPSAMPredictor.from_pretrained(NAME, **load)
    revision = HubOptions(revision=load["revision"], cache_dir=options.cache_dir)
    damage(resolve(NAME, revision).path / "model.safetensors")
    if case == "lost note":
        for note in options.cache.rglob("names/*.json"):
            note.unlink()
    with pytest.raises(errors.DigestMismatchError) as caught:
        SSPSAMPredictor.from_pretrained(NAME, **load)
    command = shlex.split(str(caught.value).rpartition("run: ")[2])
    assert command[:3] == ["sspsam", "cache", "--delete"]
    done = CliRunner().invoke(main, command[1:])
    assert done.exit_code == 0, done.output
    SSPSAMPredictor.from_pretrained(NAME, **load)


def test_commands_name_the_same_cache_and_revision_and_are_quoted() -> None:
    options = HubOptions(revision="v 1", cache_dir=Path("/a b"))
    assert options.command("download", "o/n:x; rm -rf ~") == (
        "sspsam download 'o/n:x; rm -rf ~' --revision 'v 1' --cache-dir '/a b'"
    )


# unreachable


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
    assert resolve(NAME, HubOptions(revision=authors.upper(), cache_dir=options.cache_dir)).path == before.path
    assert not hub.requests


# listings


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


# deleting


def test_deleting_one_revision_keeps_the_other(hub, own_files, options) -> None:
    first = hub.add("owner/name", own_files)
    second = hub.add("owner/name", own_files | {"new": b""})
    pinned = [HubOptions(revision=commit, cache_dir=options.cache_dir) for commit in (first, second)]
    for options_of_commit in pinned:
        resolve("owner/name", options_of_commit)
    assert listing.delete("owner/name", pinned[0])
    hub.down = True
    resolve("owner/name", pinned[1])
    with pytest.raises(errors.HubOfflineError):
        resolve("owner/name", HubOptions(revision=first, cache_dir=options.cache_dir, local_files_only=True))


def test_deleting_keeps_blobs_that_other_files_share(hub, own_files, options) -> None:
    hub.add("owner/name", own_files | {f"sub/{name}": data for name, data in own_files.items()})
    for name in ("owner/name", "owner/name/sub"):
        resolve(name, options)
    assert listing.delete("owner/name", options)
    hub.down = True
    found = resolve("owner/name/sub", HubOptions(cache_dir=options.cache_dir, local_files_only=True))
    assert (found.path / "model.safetensors").is_file()


def test_every_spelling_and_every_older_commit_is_deleted(hub, authors, tiny_checkpoint, options) -> None:
    resolve("ssp-sam-336-unc", options)
    hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes(), "new": b""})
    resolve(NAME, options, refresh=True)
    assert len(list(converted.conversions_of(AUTHORS_REPOSITORY, options))) == 2
    assert listing.delete("ssp-sam-336-UNC", options)
    assert not list(converted.conversions_of(AUTHORS_REPOSITORY, options))
    assert not [path for path in options.cache.rglob("*") if path.suffix in (".pth", ".safetensors")]


# names and paths


@pytest.mark.parametrize("name", ["x" * 300, "o/" + "x" * 300, "x" * 5000, "a\0b", "o/n:" + "x" * 3000 + ".pth"])
def test_impossible_names_are_refused(hub, options, name) -> None:
    for call in (lambda: resolve(name, options), lambda: listing.delete(name, options) or resolve(name, options)):
        with pytest.raises(errors.SSPSAMError):
            call()


def test_a_home_in_the_cache_dir_is_expanded(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HubOptions(cache_dir="~/c").cache == tmp_path / "c"
    assert HubOptions(revision="").revision is None


def test_a_missing_local_file_is_not_requested_from_the_hub(hub, options) -> None:
    for name in ("out/model.pth", "out/model.safetensors"):
        with pytest.raises(errors.CheckpointNotFoundError, match="no such directory"):
            resolve(name, options)
    assert not hub.requests
    with pytest.raises(errors.RepositoryMissingError, match="no directory of that name"):
        resolve("out/ssp-sam", options)


# the process that converts


def test_output_printed_during_a_conversion_is_not_its_answer(hub, authors, options, tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    (tmp_path / "sitecustomize.py").write_text("import os\nprint('hello')\nprint({'kind': 'x'})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # a path that is no string
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert resolve(NAME, options).path.is_dir()


def test_a_killed_conversion_is_not_reported_as_a_bad_file(hub, authors, options, monkeypatch) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(convert_process, "_command", lambda: killed)
    with pytest.raises(errors.CheckpointError, match="exit status -9") as caught:
        resolve(NAME, options)
    assert "--delete" not in str(caught.value)
    assert not list(options.cache.rglob("*.tmp"))


def test_a_full_disk_while_converting_names_another_cache(hub, authors, options, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise errors.NoSpaceError("too little")

    monkeypatch.setattr("sspsam.checkpoints.convert.convert_checkpoint", full)
    with pytest.raises(errors.NoSpaceError, match=r"sspsam download .* --cache-dir /a/larger/disk"):
        resolve(NAME, options)
    assert os.listdir(options.cache)  # the download is kept


# several checkpoints, links and branches


@pytest.fixture
def two(hub: FakeHub, tiny_checkpoint: Path) -> str:
    """The authors' repository with two checkpoints in one folder; returns its commit."""
    last = UNC.replace("best_miou", "last")
    return hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes(), last: tiny_checkpoint.read_bytes()})


def test_another_file_of_the_folder_is_neither_used_nor_deleted_in_place_of_the_best(hub, two, options) -> None:
    pinned = HubOptions(revision=two, cache_dir=options.cache_dir)
    last = resolve(f"{AUTHORS_REPOSITORY}:{UNC.replace('best_miou', 'last')}", pinned)
    best = resolve(NAME, pinned)
    assert UNC in best.origin
    assert best.path != last.path
    assert listing.delete(NAME, options)
    assert last.path.is_dir()
    assert not best.path.exists()


def test_a_file_of_the_users_that_the_cache_links_to_is_never_deleted(hub, own_files, options, tmp_path) -> None:
    hub.add("owner/name", own_files)
    weights = resolve("owner/name", options).path / "model.safetensors"
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(mine)
    assert listing.delete("owner/name", options)
    assert mine.exists()


def test_deleting_a_branch_that_does_not_exist_deletes_nothing(hub, authors, own_files, options) -> None:
    hub.add("owner/name", own_files)
    for name in (NAME, "owner/name"):
        found = resolve(name, options)
        assert listing.delete(name, HubOptions(revision="nothing", cache_dir=options.cache_dir)) == []
        assert listing.delete(name, HubOptions(revision="main", cache_dir=options.cache_dir))
        assert not (found.path / "model.safetensors").exists()


def test_a_download_of_another_process_survives_a_delete(hub, own_files, options) -> None:
    hub.add("owner/name", own_files)
    resolve("owner/name", options)
    partial = options.cache / "models--owner--name" / "blobs" / "x.1234.incomplete"
    partial.write_bytes(b"half")
    assert listing.delete("owner/name", options)
    assert partial.exists()


def test_the_repair_command_works_for_a_repository_given_as_an_argument(hub, own_files, options) -> None:
    hub.add("us/converted", {f"{NAME}/{name}": data for name, data in own_files.items()})
    found = resolve(NAME, options, repository="us/converted")
    assert CliRunner().invoke(main, shlex.split(found.repair)[1:]).exit_code == 0
    assert not (found.path / "model.safetensors").exists()


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


@pytest.mark.parametrize("with_empty_entry", [False, True])
def test_a_file_in_the_current_directory_is_not_run(
    hub, authors, options, tmp_path, monkeypatch, with_empty_entry
) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    (tmp_path / "sspsam").mkdir()
    for name in ("json.py", "subprocess.py", "torch.py", "sspsam/__init__.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    if with_empty_entry:  # as in an interactive interpreter: the current directory
        monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert resolve(NAME, options).path.is_dir()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("path", [["x"], "\ud800", "../x", ""])
def test_a_note_with_an_impossible_path_is_ignored(hub, authors, options, path) -> None:
    resolve(NAME, options)
    [note] = options.cache.rglob("names/*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"path": path}))
    assert resolve(NAME, options).path.is_dir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"path": path}))
    listing.delete(NAME, options)


@pytest.mark.parametrize("name", [NAME, "ssp-sam-336-refcocx"])
@pytest.mark.parametrize("repository", ["a\n\x1b[2Jb/c", "x" * 5000 + "/y", "a/b\n", "../x", "a/b/c", "Ünï/cøde"])
def test_the_name_of_a_repository_is_escaped_and_cut_in_every_message(hub, options, name, repository) -> None:
    for local_files_only, revision in ((True, None), (False, None), (False, "\x1b[2J\n" * 90)):
        choice = HubOptions(revision, options.cache_dir, local_files_only)
        with pytest.raises(errors.SSPSAMError) as caught:
            resolve(name, choice, repository=repository)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1500
