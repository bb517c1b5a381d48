"""Parsing of names, which looks nothing up."""

import re

import pytest

from sspsam.checkpoints.names import (
    DATASETS,
    RECOMMENDED,
    Published,
    Repository,
    RepositoryFile,
    find_published,
    missing_name_message,
    name_of_file,
    parse_name,
    published_names,
    unknown_name_message,
)
from sspsam.errors import CheckpointNotFoundError

USUAL = {"refcoco", "refcoco+", "refcocog", "referit", "grefcoco"}
AUTHORS_FOLDERS = {
    "refcoco": "unc",
    "refcoco+": "unc+",
    "refcocog": "gref_umd",
    "refcocog-google": "gref",
    "referit": "referit",
    "grefcoco": "grefcoco",
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
    with pytest.raises(CheckpointNotFoundError, match="Did you mean ssp-sam-224-grefcoco, ssp-sam-336-refcoco"):
        parse_name("sspsam-336-refcoco")
    with pytest.raises(CheckpointNotFoundError, match="ssp-sam-224-grefcoco"):
        parse_name("  ")
    assert all(name in missing_name_message() for name in published_names())
    assert "photographs" in missing_name_message()


@pytest.mark.parametrize("published", [None, ["ssp-sam-336-refcoco", "ssp-sam-224-grefcoco", "ssp-sam-224-refcoco"]])
@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("ssp-sam-336-refcocco", "ssp-sam-336-refcoco"),
        ("ssp-sam-224-refcoc", "ssp-sam-224-refcoco"),
        ("sspsam-224-grefcoco", "ssp-sam-224-refcoco"),
        ("SSP-SAM-224-gRefCOCOO", "ssp-sam-224-refcoco"),
    ],
)
def test_of_the_names_like_a_misspelt_one_the_recommended_comes_first_and_then_the_nearest(
    name: str, second: str, published: list[str] | None
) -> None:
    message = unknown_name_message(name, published)
    found = re.search(r"Did you mean ([^?]+)\?", message)
    assert found, message
    names = found[1].split(", ")
    assert names[0] == RECOMMENDED
    assert second in names[1:]
    assert len(names) == len(set(names)) <= 3


def test_a_recommended_name_that_a_repository_does_not_have_is_not_offered() -> None:
    message = unknown_name_message("ssp-sam-336-refcocco", ["ssp-sam-336-refcoco"])
    assert "Did you mean ssp-sam-336-refcoco?" in message
    assert RECOMMENDED not in message


@pytest.mark.parametrize("name", ["ssp-sam-224-phrasecut", "ssp-sam-336-phrase_cut", "SSP-SAM-336-PhraseCut"])
def test_a_model_for_phrases_is_not_published_and_the_error_says_what_to_use(name: str) -> None:
    assert not any("phrase" in name for name in published_names())
    assert "phrase" not in missing_name_message()
    parsed = parse_name(name)
    assert isinstance(parsed, Published)
    assert not parsed.is_expected
    for published in (None, [RECOMMENDED], []):
        message = unknown_name_message(name, published)
        assert "The authors train no checkpoint on PhraseCut. For phrases, use ssp-sam-224-grefcoco" in message


def test_a_phrase_cut_folder_of_a_repository_would_still_be_found() -> None:
    path = "output/phrase_cut/336/checkpoint_best_miou.pth"
    assert find_published(Published("336", "phrasecut"), [path]) == path
