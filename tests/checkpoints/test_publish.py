"""The model card of a published checkpoint, as the Hub reads it."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import sspsam
from sspsam.checkpoints.directory import read_config
from sspsam.checkpoints.names import DATASETS, Source
from sspsam.checkpoints.publish import model_card
from sspsam.config import ModelConfig

SHAPES_CARD = Path(sspsam.__file__).parent / "bundled" / "shapes" / "README.md"


@pytest.fixture
def config(tiny_model: Path) -> ModelConfig:
    return read_config(tiny_model)


def _source(folder: str) -> str:
    return str(Source("wayneicloud/SSP-SAM", "c" * 40, f"output/{folder}/336/checkpoint_best_miou.pth", "d" * 64))


@pytest.mark.parametrize(
    ("source", "datasets"),
    [
        ("wayneicloud/SSP-SAM, grefcoco 224", ["grefcoco"]),
        (_source("grefcoco"), ["grefcoco"]),
        (_source("unc"), ["refcoco"]),
        (_source("unc+"), ["refcocoplus"]),
        (_source("gref"), ["refcocog-google"]),
        (_source("gref_umd"), ["refcocog"]),
        (_source("newdata"), None),
    ],
)
def test_the_header_names_the_authors_checkpoint_and_its_dataset(
    config: ModelConfig, source: str, datasets: list[str] | None
) -> None:
    card = ModelCard(model_card(replace(config, source=source, license="apache-2.0"), "me/mine"))
    assert card.data.base_model == "wayneicloud/SSP-SAM"
    assert card.data.datasets == datasets
    assert card.data.license == "apache-2.0"


@pytest.mark.parametrize("text", ["cc-by: me", "[x", "'q", "#x", "null", "yes", 'a "b" \\', "https://a.org/b: c|d/"])
def test_a_licence_and_a_source_of_any_text_leave_the_card_readable(config: ModelConfig, text: str) -> None:
    text_of_card = model_card(replace(config, license=text, source=text), "me/mine")
    card = ModelCard(text_of_card)
    assert card.data.license == (text if text in ("null", "yes") else "other")
    assert f"| licence of the weights | {text.replace('|', chr(92) + '|')} |" in text_of_card


def test_a_licence_with_an_address_is_linked(config: ModelConfig) -> None:
    card = ModelCard(model_card(replace(config, license="https://a.org/by-nc/4.0/"), "me/mine"))
    assert (card.data.license, card.data.to_dict()["license_link"]) == ("other", "https://a.org/by-nc/4.0/")


def test_the_header_of_every_card_says_what_the_model_is_for(config: ModelConfig) -> None:
    for card in (ModelCard(model_card(config, "me/mine")), ModelCard(SHAPES_CARD.read_text())):
        assert card.data.pipeline_tag == "mask-generation"
        assert card.data.library_name == "sspsam"
        assert card.data.language == ["en"]
        assert "referring-expression-segmentation" in card.data.tags


def test_nothing_is_claimed_about_weights_of_another_origin(config: ModelConfig) -> None:
    for source in ("my own training on refcoco", "someone/SSP-SAM, refcoco", "see wayneicloud/SSP-SAM"):
        card = ModelCard(model_card(replace(config, source=source), "me/mine"))
        assert card.data.base_model is None
        assert card.data.datasets is None


def test_the_names_of_all_datasets_are_valid_on_the_hub(config: ModelConfig) -> None:
    for name in DATASETS:
        card = ModelCard(model_card(replace(config, source=f"wayneicloud/SSP-SAM, {name} 336"), "me/mine"))
        assert len(card.data.datasets) == 1
        assert all(character.isalnum() or character in "-_." for character in card.data.datasets[0])


def test_a_card_advertises_no_package_of_an_index(config: ModelConfig) -> None:
    card = model_card(config, "me/mine")
    assert "pip install sspsam" not in card
    assert "checkout of its source: `pip install .`" in card
