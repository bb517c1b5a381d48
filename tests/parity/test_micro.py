"""The authors' numbers for a drawn image; these files are part of the repository."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.images.loading import load_image
from sspsam.images.preprocessing import clip_input, geometry_of
from sspsam.segmentation.postprocessing import logits_in_frame

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module", params=["224", "336"])
def micro(request: pytest.FixtureRequest, golden_model: Callable[[str], Path]):
    predictor = SSPSAMPredictor.from_pretrained(golden_model(request.param), device="cpu")
    golden = np.load(DATA / f"micro_{request.param}.npz")
    embedding = predictor.encode(DATA / "micro.png")
    texts = [str(text) for text in golden["expressions"]]
    results = predictor.predict(texts, embedding=embedding, explain=True, return_logits="low_res")
    return predictor, golden, embedding, results


def difference(values: np.ndarray, golden: np.ndarray) -> float:
    return float(np.abs(np.asarray(values).reshape(golden.shape) - golden).max())


def test_clip_input_of_the_drawn_image_is_identical(micro) -> None:
    predictor, golden, _, _ = micro
    pixels = load_image(DATA / "micro.png")
    tensor = clip_input(pixels, geometry_of(pixels, predictor.config), predictor.config)
    assert np.array_equal(tensor[:, ::4, ::4].numpy(), golden["clip_input_every_4"])


def test_sam_embedding_of_the_drawn_image_agrees(micro) -> None:
    _, golden, embedding, _ = micro
    assert isinstance(embedding, ImageEmbedding)
    assert difference(embedding.sam_embedding[::4, ::8, ::8].numpy(), golden["sam_embedding_every_8"]) < 1e-4


def test_results_for_the_drawn_image_agree(micro) -> None:
    _, golden, _, results = micro
    for row, result in enumerate(results):
        assert isinstance(result, Segmentation)
        assert difference(result.explanation.similarity, golden["similarity"][row]) < 1e-4
        assert difference(result.explanation.word_attention, golden["word_attention"][row]) < 1e-4
        assert difference(result.explanation.verification, golden["verify"][row]) < 1e-4
        assert difference(result.low_res_logits[::4, ::4], golden["low_res_every_4"][row]) < 1e-4
        assert abs(result.score - golden["iou_pred"][row, 0]) < 1e-4
        height, width = result.mask.shape
        assert difference(np.array(result.box), golden["box_xyxy"][row]) < 1e-4 * max(height, width)


def test_mask_of_the_drawn_image_agrees_in_the_authors_frame(micro) -> None:
    import torch

    _, golden, _, results = micro
    for row, result in enumerate(results):
        logits = logits_in_frame(torch.from_numpy(result.low_res_logits)[None], 1024, 512)[0].numpy()
        expected = np.unpackbits(golden["mask512"][row], axis=-1).astype(bool)
        assert not ((logits >= 0) != expected)[np.abs(logits) > 1e-4].any()
        assert abs(result.foreground_pixels - int(expected.sum())) <= int((np.abs(logits) <= 1e-4).sum())
