"""The authors' numbers on photographs, module by module and through the public API (needs the reference folder)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.authors_checkpoint import authors_state, small_architecture
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.authors_layout import read_architecture
from sspsam.checkpoints.format import load_checkpoint
from sspsam.images.loading import load_image
from sspsam.images.preprocessing import clip_input, geometry_of, sam_input
from sspsam.models import Prediction
from sspsam.segmentation.postprocessing import box_on_image, logits_in_frame
from sspsam.text.tokenizer import Tokenizer

TOLERANCE = 1e-4
GOLDEN = [(variant, photograph) for variant in ("224", "336") for photograph in ("truck", "dog")]


class Case:
    """One golden file, and the output of our modules for the same inputs."""

    def __init__(self, reference: Path, directory: Path, variant: str, photograph: str) -> None:
        self.golden: dict[str, Any] = dict(np.load(reference / f"golden_{variant}_{photograph}.npz"))
        self.path = reference / "images" / f"{photograph}.jpg"
        self.texts = [str(text) for text in self.golden["expressions"]]
        model, self.config = load_checkpoint(directory)
        pixels = load_image(self.path)
        self.geometry = geometry_of(pixels, self.config)
        self.clip_input = clip_input(pixels, self.geometry, self.config)
        self.sam_input = sam_input(pixels, self.geometry, self.config)
        tokenizer = Tokenizer(self.config.architecture.clip.context_length, self.config.preprocessing.text_template)
        self.token_ids = np.stack([tokenizer(text) for text in self.texts])
        with torch.no_grad():
            self.image = model.encode_image(self.clip_input[None], self.sam_input[None])[0]
            self.prediction: Prediction = model.segment(
                model.prepare(self.image), model.encode_text(torch.from_numpy(self.token_ids))
            )

    def difference(self, values: torch.Tensor | np.ndarray, name: str) -> float:
        golden = self.golden[name]
        return float(np.abs(np.asarray(values).reshape(golden.shape) - golden).max())


@pytest.fixture(scope="module", params=GOLDEN, ids=["-".join(pair) for pair in GOLDEN])
def case(request: pytest.FixtureRequest, reference: Path, golden_model: Callable[[str], Path]) -> Case:
    variant, photograph = request.param
    return Case(reference, golden_model(variant), variant, photograph)


def test_inputs_are_identical(case: Case) -> None:
    assert np.array_equal(case.token_ids, case.golden["token_ids"])
    assert np.array_equal(case.clip_input.numpy(), case.golden["clip_input"])
    assert np.array_equal(case.sam_input[:, ::16, ::16].numpy(), case.golden["sam_input_every_16"])


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("similarity", "similarity"),
        ("word_attention", "word_attention"),
        ("verification", "verify"),
        ("prompts", "prompts"),
        ("box", "box_norm"),
        ("low_res", "low_res"),
        ("iou", "iou_pred"),
    ],
)
def test_every_stage_agrees(case: Case, field: str, name: str) -> None:
    assert case.difference(getattr(case.prediction, field), name) < TOLERANCE


def test_sam_embedding_agrees(case: Case) -> None:
    assert case.difference(case.image.sam[:, ::4, ::4], "sam_embedding_every_4") < TOLERANCE


def test_box_agrees_on_the_photograph(case: Case) -> None:
    size = case.config.architecture.clip.image_size
    boxes = np.array([box_on_image(box, case.geometry, size) for box in case.prediction.box.double().numpy()])
    assert case.difference(boxes, "box_xyxy") < TOLERANCE * max(case.geometry.height, case.geometry.width)


def test_mask_agrees_in_the_authors_frame(case: Case) -> None:
    logits = logits_in_frame(case.prediction.low_res, 1024, 512).numpy()
    assert case.difference(logits[:, ::4, ::4], "logits512_every_4") < TOLERANCE
    expected = np.unpackbits(case.golden["mask512"], axis=-1).astype(bool)
    assert not ((logits >= 0) != expected)[np.abs(logits) > 1e-4].any()


def test_public_api_agrees_with_a_list_and_one_by_one(case: Case, golden_model: Callable[[str], Path]) -> None:
    variant = str(case.config.architecture.clip.image_size)
    predictor = SSPSAMPredictor.from_pretrained(golden_model(variant), device="cpu")
    embedding = predictor.set_image(case.path)
    together = predictor.predict(case.texts, explain=True, return_logits="low_res")
    alone = [predictor.predict(text, embedding=embedding, explain=True, return_logits="low_res") for text in case.texts]
    for results in (together, alone):
        for row, result in enumerate(results):
            golden = {name: values[row] for name, values in case.golden.items() if len(values) == len(case.texts)}
            assert result.text == case.texts[row]
            assert result.mask.shape == (case.geometry.height, case.geometry.width)
            assert np.abs(result.low_res_logits - golden["low_res"]).max() < TOLERANCE
            assert abs(result.score - golden["iou_pred"][0]) < TOLERANCE
            assert np.abs(result.explanation.similarity - golden["similarity"]).max() < TOLERANCE
            assert np.abs(result.explanation.word_attention - golden["word_attention"]).max() < TOLERANCE
            assert np.abs(result.explanation.verification.ravel() - golden["verify"]).max() < TOLERANCE
            assert np.abs(np.array(result.box) - golden["box_xyxy"]).max() < TOLERANCE * max(result.mask.shape)
            expected = int(np.unpackbits(golden["mask512"]).sum())
            assert abs(result.foreground_pixels - expected) <= 5  # pixels whose logit is 0 within rounding


def test_token_ids_of_difficult_texts_are_identical(reference: Path) -> None:
    tokenizer = Tokenizer(77, "{}.")
    for entry in json.loads((reference / "tokens.json").read_text()):
        assert tokenizer(entry["text"]).tolist() == entry["ids"], entry["text"]


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("variant", ["224", "336"])
def test_architecture_is_read_off_the_published_layouts(reference: Path, variant: str, size: str) -> None:
    from sspsam.config import PUBLISHED

    layout = json.loads((reference / f"layout_{variant}_{size}.json").read_text())
    shapes = {name: tuple(entry["shape"]) for name, entry in layout["tensors"].items()}
    expected = PUBLISHED[variant] if size == "full" else small_architecture(variant)
    assert read_architecture(shapes) == expected


@pytest.mark.parametrize("variant", ["224", "336"])
def test_test_checkpoints_have_the_authors_layout(reference: Path, variant: str) -> None:
    layout = json.loads((reference / f"layout_{variant}_small.json").read_text())
    state = authors_state(small_architecture(variant))
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        name: entry["shape"] for name, entry in layout["tensors"].items()
    }
