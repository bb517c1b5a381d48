"""The predictor against the definition on stock modules, with other weights, images and texts than the golden files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.authors_checkpoint import authors_state, small_architecture, tiny_architecture, write_checkpoint
from benchmarks.authors_way import AuthorsWay
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.config import Architecture
from sspsam.images.loading import load_image
from sspsam.shapes import draw_scene

TEXTS = ["The red star!", "everything except the two rings, please", "naïve façade 🐶", "x", "word " * 90]


def small_with(**clip: int) -> Architecture:
    import dataclasses

    small = small_architecture("224")
    return dataclasses.replace(small, clip=dataclasses.replace(small.clip, **clip))


CASES = {
    "224, seed 7": (lambda: small_architecture("224"), 7, True),
    "336, seed 8": (lambda: small_architecture("336"), 8, True),
    "saved before a forward pass": (lambda: small_architecture("224"), 9, False),
    "other patches and layers": (lambda: small_with(image_size=240, patch_size=20, vision_layers=7), 10, True),
    "tiny": (lambda: tiny_architecture(vision_mlp_width=512, text_mlp_width=256), 11, True),
}


@pytest.mark.filterwarnings("ignore::sspsam.errors.SSPSAMWarning")
@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if "seed" in c else c for c in CASES])
def test_every_number_agrees_with_the_definition(case: str, tmp_path: Path) -> None:
    make, seed, after_surgery = CASES[case]
    architecture = make()
    state = authors_state(architecture, seed, after_surgery)
    convert_checkpoint(write_checkpoint(tmp_path / "c.pth", state), tmp_path / "own")
    predictor = SSPSAMPredictor.from_pretrained(tmp_path / "own", device="cpu")
    assert predictor.config.architecture == architecture
    definition = AuthorsWay(state, architecture.clip.surgery_layers)
    texts = TEXTS if case == "tiny" else TEXTS[seed % 3 : seed % 3 + 2]  # the definition is slow
    for image in images(seed)[: len(texts) // 2]:
        embedding = predictor.encode(image)
        results = predictor.predict(texts, embedding=embedding, explain=True, return_logits="low_res")
        for text, result in zip(texts, results, strict=True):
            assert_close(result, definition(image, text), max(image.size))


def images(seed: int) -> list[Image.Image]:
    scene = Image.fromarray(draw_scene(seed, (180, 311)).pixels)
    noise = np.random.default_rng(seed).integers(0, 256, (233, 97, 3), dtype=np.uint8)
    return [scene, Image.fromarray(noise)]


def assert_close(result, expected, longest_side: int) -> None:
    def close(actual: np.ndarray, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
        assert np.abs(np.asarray(actual).ravel() - expected.numpy().ravel()).max() < tolerance

    close(result.explanation.similarity, expected.similarity)
    close(result.explanation.word_attention, expected.word_attention)
    close(result.explanation.verification, expected.verify)
    close(result.low_res_logits, expected.low_res)
    close(result.score, expected.iou_pred)
    close(result.box, expected.box_xyxy, 1e-4 * longest_side)
    certain = expected.logits512.abs() > 1e-4
    least = int((expected.logits512[certain] >= 0).sum())
    assert least <= result.foreground_pixels <= least + int((~certain).sum())


@pytest.mark.parametrize("variant", ["224", "336"])
def test_the_definition_reproduces_the_golden_files(variant: str, reference: Path) -> None:
    state = authors_state(small_architecture(variant))
    golden = np.load(reference / f"golden_{variant}_dog.npz")
    image = Image.fromarray(load_image(reference / "images" / "dog.jpg"))
    definition = AuthorsWay(state)
    for row, text in enumerate(golden["expressions"][:2]):
        answer = definition(image, str(text))
        assert np.array_equal(answer.clip_input.numpy(), golden["clip_input"])
        for name in ("similarity", "word_attention", "verify", "prompts", "box_norm", "low_res", "iou_pred"):
            assert np.abs(getattr(answer, name).numpy() - golden[name][row]).max() < 1e-4, name
        assert np.abs(answer.box_xyxy.numpy() - golden["box_xyxy"][row]).max() < 1e-4 * max(image.size)
