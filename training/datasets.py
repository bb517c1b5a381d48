"""Datasets of drawn scenes and their expressions, as tensors: inputs of the networks and targets of the losses."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from sspsam.config import ModelConfig
from sspsam.images.preprocessing import Geometry, clip_input, geometry_of, sam_input
from sspsam.shapes import COLORS, OUTLINES, Noun, Question, Scene, Shape, ask, draw_scene
from sspsam.shapes.drawing import random_size
from sspsam.shapes.parse import OPERATIONS
from sspsam.shapes.words import NUMBERS
from training.vocabulary import Vocabulary

SUBPATCH_SIDE = 4  # each patch of CLIP is divided into 4 x 4 parts, whose coverage an auxiliary head predicts
ATTRIBUTES = (*COLORS, *OUTLINES, "small", "large")
_NOUN_CLASSES = ((None, *COLORS), (None, *OUTLINES), (None, "small", "large"))  # colour, kind, size; None: not named
_NOUN_SIZES = tuple(len(names) for names in _NOUN_CLASSES)
# numbers of classes: colour, kind and size of the noun, the same of the landmark, operation, number
PARSE_SIZES = (*_NOUN_SIZES, *_NOUN_SIZES, len(OPERATIONS), len(NUMBERS))


@dataclass(frozen=True)
class SceneExample:
    """One scene with N shapes and E expressions; S is the side of CLIP's square, R that of SAM's square."""

    clip_input: Tensor  # (3, S, S)
    sam_input: Tensor  # (3, side, side)
    image_extent: Tensor  # (2,) height and width of the image in SAM's square, as fractions of it
    masks: Tensor  # (N, R/2, R/2) uint8, coverage of each pixel of SAM's square by each shape, 0 to 255
    patch_coverage: Tensor  # (N, G*G) coverage of each patch of CLIP's square by each shape
    subpatch_coverage: Tensor  # (G*G, 16) coverage of each of the 4 x 4 parts of a patch by all shapes
    attributes: Tensor  # (N, 20) float, 1 for each of `ATTRIBUTES` that a shape has
    boxes: Tensor  # (N, 4) tight box, x0, y0, x1, y1, as fractions of SAM's square
    clip_boxes: Tensor  # (N, 4) the same, as fractions of CLIP's square
    token_ids: Tensor  # (E, L)
    targets: Tensor  # (E, N) bool, the shapes that an expression refers to
    candidates: Tensor  # (E, N) bool, the shapes that its noun describes
    landmarks: Tensor  # (E, N) bool, the shapes that its second noun describes
    partial_matches: Tensor  # (E, N) bool, the shapes that share colour or kind with one of its nouns
    parse: Tensor  # (E, 8) class indices, see `PARSE_SIZES`


@dataclass(frozen=True)
class TextExample:
    """E expressions about one scene, without the scene."""

    token_ids: Tensor  # (E, L)
    parse: Tensor  # (E, 8) class indices, see `PARSE_SIZES`


class TextDataset(Dataset[TextExample]):
    """Expressions about scenes that are drawn small and not shown; element i is reproducible.

    Args:
        seed: determines the expressions, together with the index.
        expressions: largest number per scene.
        vocabulary: of the model in training.
        length: number of scenes.
        weights: relative frequency of each kind of expression, see `sspsam.shapes.ask`.
    """

    def __init__(
        self, seed: int, expressions: int, vocabulary: Vocabulary, length: int, weights: Mapping[str, float]
    ) -> None:
        self.seed, self.expressions, self.vocabulary = seed, expressions, vocabulary
        self.length, self.weights = length, weights

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TextExample:
        rng = np.random.default_rng((self.seed, index))
        scene = draw_scene(rng, (96, 96), int(rng.integers(1, 9)))
        questions = ask(scene, rng, self.expressions, self.weights)
        return TextExample(_token_ids(questions, self.vocabulary), _parse_classes(questions))


class SceneDataset(Dataset[SceneExample]):
    """Scenes and their expressions; element i is reproducible.

    Args:
        config: determines the preprocessing.
        seed: determines the scenes, together with the index.
        expressions: largest number per scene.
        vocabulary: of the model in training; None: scenes with more shapes, and no expressions.
        length: number of scenes.
        weights: relative frequency of each kind of expression, see `sspsam.shapes.ask`.
        sides: range of the longer side of a scene, in pixels.
    """

    def __init__(
        self,
        config: ModelConfig,
        seed: int,
        expressions: int,
        vocabulary: Vocabulary | None,
        length: int,
        weights: Mapping[str, float] | None = None,
        sides: tuple[int, int] = (224, 384),
    ) -> None:
        self.config, self.seed, self.expressions, self.vocabulary = config, seed, expressions, vocabulary
        self.length, self.weights, self.sides = length, weights, sides

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SceneExample:
        rng = np.random.default_rng((self.seed, index))
        while True:
            # without expressions, a scene with more shapes gives more to learn
            size = training_size(rng, self.sides)
            scene = draw_scene(rng, size, None if self.vocabulary else int(rng.integers(5, 9)))
            if scene.shapes:
                return self._example(scene, rng)

    def _example(self, scene: Scene, rng: np.random.Generator) -> SceneExample:
        geometry = geometry_of(scene.pixels, self.config)
        architecture = self.config.architecture
        sam_side, clip_side, grid = architecture.sam.image_size, architecture.clip.image_size, architecture.clip.grid
        masks = np.stack([_sam_mask(shape.mask, geometry, sam_side) for shape in scene.shapes])
        coverage = np.stack([_patch_coverage(shape.mask, geometry, clip_side, grid) for shape in scene.shapes])
        boxes = np.stack([_box(shape.mask) for shape in scene.shapes])
        attributes = [[name in (shape.color, shape.kind, shape.size) for name in ATTRIBUTES] for shape in scene.shapes]
        return SceneExample(
            clip_input=clip_input(scene.pixels, geometry, self.config),
            sam_input=sam_input(scene.pixels, geometry, self.config),
            image_extent=torch.tensor([geometry.sam_height / sam_side, geometry.sam_width / sam_side]),
            masks=torch.from_numpy(masks),
            patch_coverage=torch.from_numpy(coverage),
            subpatch_coverage=torch.from_numpy(_subpatch_coverage(scene, geometry, clip_side, grid)),
            attributes=torch.tensor(attributes, dtype=torch.float32),
            boxes=_sam_boxes(boxes, geometry, sam_side),
            clip_boxes=_clip_boxes(boxes, geometry, clip_side),
            **self._expression_tensors(scene, rng),
        )

    def _expression_tensors(self, scene: Scene, rng: np.random.Generator) -> dict[str, Tensor]:
        """The fields of `SceneExample` that have a dimension E."""
        if self.vocabulary is None:
            questions, token_ids = [], torch.zeros(0, 1, dtype=torch.int64)
        else:
            questions = ask(scene, rng, self.expressions, self.weights)
            token_ids = _token_ids(questions, self.vocabulary)
        nouns = [[noun for noun in (q.parse.noun, q.parse.landmark) if noun] for q in questions]

        def selection(rows: list[list[bool]]) -> Tensor:
            return torch.tensor(rows).view(len(questions), len(scene.shapes)).bool()

        return {
            "token_ids": token_ids,
            "targets": selection([[bool((s.mask & q.mask).any()) for s in scene.shapes] for q in questions]),
            "candidates": selection([[_describes(q.parse.noun, s) for s in scene.shapes] for q in questions]),
            "landmarks": selection([[_describes(q.parse.landmark, s) for s in scene.shapes] for q in questions]),
            "partial_matches": selection(
                [[any(_describes_partly(noun, s) for noun in pair) for s in scene.shapes] for pair in nouns]
            ),
            "parse": _parse_classes(questions),
        }


def _describes(noun: Noun | None, shape: Shape) -> bool:
    return noun is not None and noun.matches(shape)


def _describes_partly(noun: Noun, shape: Shape) -> bool:
    return shape.color == noun.color or shape.kind == noun.kind


def _token_ids(questions: list[Question], vocabulary: Vocabulary) -> Tensor:
    return torch.stack([vocabulary.encode(question.text) for question in questions])


def _parse_classes(questions: list[Question]) -> Tensor:
    rows = [_question_classes(question) for question in questions]
    return torch.tensor(rows).view(len(questions), len(PARSE_SIZES)).long()


def _question_classes(question: Question) -> list[int]:
    parse = question.parse
    noun_classes = [
        names.index(name)
        for noun in (parse.noun, parse.landmark)
        for names, name in zip(_NOUN_CLASSES, (noun.color, noun.kind, noun.size) if noun else (None,) * 3, strict=True)
    ]
    return [*noun_classes, OPERATIONS.index(parse.operation), parse.number or 0]


def training_size(rng: np.random.Generator, sides: tuple[int, int]) -> tuple[int, int]:
    """Random height and width: the aspect ratios of the world, at about the networks' input size to draw quickly.

    Args:
        rng: chooses the size.
        sides: range of the longer side, in pixels.
    """
    height, width = random_size(rng)
    scale = rng.uniform(*sides) / max(height, width)
    return max(48, round(height * scale)), max(48, round(width * scale))


def _sam_mask(mask: NDArray[np.bool_], geometry: Geometry, side: int) -> NDArray[np.uint8]:
    """(R/2, R/2) coverage of SAM's square, 0 to 255."""
    square = np.zeros((side, side), dtype=np.float32)
    square[: geometry.sam_height, : geometry.sam_width] = _resized(mask, geometry.sam_height, geometry.sam_width)
    return np.rint(255 * _averaged(square, side // 2)).astype(np.uint8)


def _patch_coverage(mask: NDArray[np.bool_], geometry: Geometry, side: int, grid: int) -> NDArray[np.float32]:
    """(grid * grid,) coverage of each cell of CLIP's square."""
    canvas = np.zeros((side, side), dtype=np.float32)
    rows = slice(geometry.clip_top, geometry.clip_top + geometry.clip_height)
    columns = slice(geometry.clip_left, geometry.clip_left + geometry.clip_width)
    canvas[rows, columns] = _resized(mask, geometry.clip_height, geometry.clip_width)
    return _averaged(canvas, grid).reshape(-1)


def _subpatch_coverage(scene: Scene, geometry: Geometry, side: int, grid: int) -> NDArray[np.float32]:
    """(G*G, 16) coverage of each part of a patch by any shape."""
    union = np.any([shape.mask for shape in scene.shapes], axis=0)
    parts = _patch_coverage(union, geometry, side, SUBPATCH_SIDE * grid)
    parts = parts.reshape(grid, SUBPATCH_SIDE, grid, SUBPATCH_SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts.reshape(grid * grid, SUBPATCH_SIDE**2))


def _resized(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float32]:
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _averaged(square: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means over square blocks; PyTorch is several times faster here than NumPy's mean over a reshaped array."""
    blocks = F.avg_pool2d(torch.from_numpy(square)[None], len(square) // side)[0]
    averaged: NDArray[np.float32] = blocks.numpy()
    return averaged


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Tight box around a mask: x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _sam_boxes(boxes: NDArray[np.float64], geometry: Geometry, side: int) -> Tensor:
    """(N, 4) boxes in pixels of the image -> fractions of SAM's square."""
    scale = geometry.sam_width / geometry.width / side, geometry.sam_height / geometry.height / side
    return torch.from_numpy(boxes * np.tile(scale, 2)).float()


def _clip_boxes(boxes: NDArray[np.float64], geometry: Geometry, side: int) -> Tensor:
    """(N, 4) boxes in pixels of the image -> fractions of CLIP's square."""
    scale = geometry.clip_width / geometry.width, geometry.clip_height / geometry.height
    offset = geometry.clip_left, geometry.clip_top
    return torch.from_numpy((boxes * np.tile(scale, 2) + np.tile(offset, 2)) / side).float()
