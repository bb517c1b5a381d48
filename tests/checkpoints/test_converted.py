"""The layout on disk of the store of converted checkpoints, which files of earlier versions have."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from sspsam import errors
from sspsam.checkpoints import digests, listing
from sspsam.checkpoints.format import load_checkpoint
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.checkpoints.resolve import resolve
from sspsam.hub import HubOptions
from tests.support.published import UNC

COMMIT, SHA256 = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
# name, repository, path in it, folder of the repository, folder of the conversion, note; as version 0.1.0 names them
STORED = [
    (
        "ssp-sam-336-refcoco",
        AUTHORS_REPOSITORY,
        UNC,
        "wayneicloud--SSP-SAM",
        "output_unc_336_checkpoint_best_miou.pth-a31e0bf97657",
        "ssp-sam-336-refcoco@main-13fac01fcccb.json",
    ),
    (
        "owner/name:a/c.pth",
        "owner/name",
        "a/c.pth",
        "owner--name",
        "a_c.pth-055364fd0d03",
        "owner_name_a_c.pth@main-eaebd65e42aa.json",
    ),
]


@pytest.mark.parametrize(("name", "repository", "path", "folder", "conversion", "note"), STORED)
def test_conversions_and_notes_of_earlier_versions_are_found(
    name: str, repository: str, path: str, folder: str, conversion: str, note: str, tiny_model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sspsam-converted" / folder
    directory = root / COMMIT / conversion
    shutil.copytree(tiny_model, directory)
    source = {"repository": repository, "commit": COMMIT, "path": path, "sha256": SHA256}
    (directory / "source.json").write_text(json.dumps(source, indent=2))
    (root / "names").mkdir()
    (root / "names" / note).write_text(json.dumps(source))
    options = HubOptions(cache_dir=tmp_path, local_files_only=True)
    resolved = resolve(name, options)
    assert resolved.path == directory
    assert resolved.origin == f"{repository}@{COMMIT}:{path}, SHA-256 {SHA256}"
    assert listing.delete(name, options) == [directory, root / "names" / note]
    with pytest.raises(errors.HubOfflineError):
        resolve(name, options)


def test_a_record_of_a_verified_file_of_an_earlier_version_is_used(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_model / "model.safetensors"
    status = weights.stat()
    record = {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }
    folder = tmp_path / "verified"
    folder.mkdir()
    (folder / f"{hashlib.sha256(str(weights.resolve()).encode()).hexdigest()}.json").write_text(json.dumps(record))
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path))
    monkeypatch.setattr(digests, "sha256_of", lambda path: pytest.fail("hashed again"))
    load_checkpoint(tiny_model)
