"""Parsing of names, which looks nothing up."""

import pytest

from sspsam.checkpoints.names import (
    DATASETS,
    Published,
    Repository,
    RepositoryFile,
    find_published,
    missing_name_message,
    name_of_file,
    parse_name,
    published_names,
)
from sspsam.errors import CheckpointNotFoundError

USUAL = {"refcoco", "refcoco+", "refcocog", "referit", "grefcoco", "phrasecut"}
AUTHORS_FOLDERS = {
    "refcoco": "unc",
    "refcoco+": "unc+",
    "refcocog": "gref_umd",
    "refcocog-google": "gref",
    "referit": "referit",
    "grefcoco": "grefcoco",
    "phrasecut": "phrase_cut",
}


def listing(folders: dict[str, str]) -> list[str]:
    return ["README.md", "pretrained_checkpoints/CS/CS-ViT-B-16.pt"] + [
        f"output/{folder}/{variant}/checkpoint_best_miou.pth"
        for folder in folders.values()
        for variant in ("224", "336")
    ]


@pytest.mark.parametrize(
    "folders", [AUTHORS_FOLDERS, {name: name for name in USUAL}, {name: name.upper() for name in USUAL}]
)
def test_every_published_name_is_found_by_the_authors_folders_and_by_the_usual_ones(folders: dict[str, str]) -> None:
    files = listing(folders)
    for name, folder in folders.items():
        for variant in ("224", "336"):
            found = find_published(Published(variant, name), files)
            assert found == f"output/{folder}/{variant}/checkpoint_best_miou.pth"
            assert name_of_file(found) == f"ssp-sam-{variant}-{name}"


def test_names_that_begin_alike_are_not_mistaken_for_each_other() -> None:
    for name, folder in AUTHORS_FOLDERS.items():
        files = listing({other: other_folder for other, other_folder in AUTHORS_FOLDERS.items() if other != name})
        assert find_published(Published("336", name), files) is None, folder


def test_the_best_checkpoint_of_a_folder_is_preferred() -> None:
    folder = "output/unc/336"
    files = [f"{folder}/{name}.pth" for name in ("checkpoint0079", "checkpoint", "checkpoint_best_acc")]
    assert find_published(Published("336", "refcoco"), files) == f"{folder}/checkpoint_best_acc.pth"
    assert find_published(Published("336", "refcoco"), [*files, f"{folder}/checkpoint_best_miou.pth"]).endswith(
        "miou.pth"
    )
    assert find_published(Published("336", "refcoco"), [f"{folder}/log.txt"]) is None


def test_a_published_name_is_parsed_in_every_spelling_of_its_dataset() -> None:
    for dataset, known in DATASETS.items():
        for spelling in (dataset, *known.folders):
            assert parse_name(f"ssp-sam-336-{spelling}") == Published("336", dataset)
    assert parse_name("SSP-SAM-224-RefCOCO+") == Published("224", "refcoco+")
    assert parse_name("ssp-sam-224-newdata") == Published("224", "newdata")


def test_repositories_folders_and_files_are_told_apart() -> None:
    assert parse_name("owner/name") == Repository("owner/name")
    assert parse_name("owner/name/a/b") == Repository("owner/name", "a/b")
    assert parse_name("owner/name:output/unc+/336/c.pth") == RepositoryFile("owner/name", "output/unc+/336/c.pth")


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "owner/",
        "/name",
        "a//b",
        "../b",
        "./b",
        "~/b",
        "a\\b",
        "owner/name:",
        "o/n:../x.pth",
        "o/n:/x",
        "a b/c",
    ],
)
def test_a_name_of_no_known_form_is_refused(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="sspsam"):
        parse_name(name)


def test_the_error_for_a_wrong_name_lists_the_nearest_and_for_a_missing_name_all() -> None:
    with pytest.raises(CheckpointNotFoundError, match="Did you mean ssp-sam-336-refcoco"):
        parse_name("sspsam-336-refcoco")
    with pytest.raises(CheckpointNotFoundError, match="ssp-sam-224-grefcoco"):
        parse_name("  ")
    assert all(name in missing_name_message() for name in published_names())
    assert "photographs" in missing_name_message()
