"""A cache with untrusted notes and links: unfit notes are ignored, and repair and deletion touch nothing else."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import converted, hub_cache, listing
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, Source
from sspsam.cli import main
from sspsam.hub import resolve
from tests.support.damage import flip_a_byte
from tests.support.hub import FakeHub
from tests.support.published import NAME, UNC

pytestmark = pytest.mark.usefixtures("in_this_process")


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


@pytest.mark.parametrize("path", [["x"], "\ud800", "../x", ""])
def test_a_note_with_an_impossible_path_is_ignored(hub, authors, options, path) -> None:
    resolve(NAME, options)
    [note] = options.cache.rglob("names/*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"path": path}))
    assert resolve(NAME, options).path.is_dir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"path": path}))
    listing.delete(NAME, options)


def test_two_paths_that_look_alike_do_not_share_a_conversion(options) -> None:
    paths = ["a/b.pth", "a--b.pth", "A/b.pth", "a_b.pth", "a" * 3000 + ".pth"]
    places = {str(converted.directory_of(Source("o/n", "a" * 40, path), options)).lower() for path in paths}
    assert len(places) == len(paths)
    assert max(len(Path(place).name) for place in places) < 150


def test_a_blob_that_is_itself_a_link_still_has_its_digest(tmp_path: Path) -> None:
    store, blob, pointer = tmp_path / "store", tmp_path / "blobs" / ("a" * 64), tmp_path / "snapshots" / "x.pth"
    for folder in (blob.parent, pointer.parent):
        folder.mkdir()
    store.write_bytes(b"")
    blob.symlink_to(store)
    pointer.symlink_to(Path("..") / "blobs" / ("a" * 64))
    assert hub_cache.digest_of_blob(pointer) == "a" * 64
    assert hub_cache.blob_of(pointer) == blob


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
    flip_a_byte(resolve(NAME, revision).path / "model.safetensors")
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


def test_the_repair_command_works_for_a_repository_given_as_an_argument(hub, own_files, options) -> None:
    hub.add("us/converted", {f"{NAME}/{name}": data for name, data in own_files.items()})
    found = resolve(NAME, options, repository="us/converted")
    assert CliRunner().invoke(main, shlex.split(found.repair)[1:]).exit_code == 0
    assert not (found.path / "model.safetensors").exists()


def test_commands_name_the_same_cache_and_revision_and_are_quoted() -> None:
    options = HubOptions(revision="v 1", cache_dir=Path("/a b"))
    assert options.command("download", "o/n:x; rm -rf ~") == (
        "sspsam download 'o/n:x; rm -rf ~' --revision 'v 1' --cache-dir '/a b'"
    )


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
