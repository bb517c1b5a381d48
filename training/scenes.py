"""Scenes of the shapes world as tensors: what the networks see, and what is true of it."""

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

INSIDE_SIDE = 4  # each patch is told, while training, what its parts show
TARGET_SIDE = 128  # masks are learnt in a square of this many pixels, SAM's padding included
_KINDS, _COLORS, _SIZES = list(OUTLINES), list(COLORS), ["small", "large"]
ATTRIBUTES = (*_COLORS, *_KINDS, *_SIZES)
_NAMED = ((None, *COLORS), (None, *OUTLINES), (None, "small", "large"))  # what a noun names, if anything
PARSE_SIZES = (*(len(names) for names in _NAMED), *(len(names) for names in _NAMED), len(OPERATIONS), len(NUMBERS))


@dataclass(frozen=True)
class Example:
    """One scene with N shapes and E expressions; S, G: CLIP's canvas and grid; T: `TARGET_SIDE`."""

    clip_input: Tensor  # (3, S, S)
    sam_input: Tensor  # (3, image size, image size)
    picture: Tensor  # (2,) height and width of the picture in SAM's square, as fractions of it
    masks: Tensor  # (N, T, T) share of each pixel of SAM's square that a shape covers
    patches: Tensor  # (N, G*G) share of each patch of CLIP's canvas that a shape covers
    inside: Tensor  # (G*G, 16) share of each of the 4 x 4 parts of a patch that any shape covers
    attributes: Tensor  # (N, 20) which of `ATTRIBUTES` a shape has
    boxes: Tensor  # (N, 4) tight box, x0, y0, x1, y1, as fractions of SAM's square
    clip_boxes: Tensor  # (N, 4) the same, as fractions of CLIP's canvas
    token_ids: Tensor  # (E, L)
    meant: Tensor  # (E, N) bool, which shapes an expression means
    candidates: Tensor  # (E, N) bool, which shapes its noun fits
    landmarks: Tensor  # (E, N) bool, which shapes it mentions beside that
    alike: Tensor  # (E, N) bool, which shapes are in part as it says
    parse: Tensor  # (E, 8) which of so many in `PARSE_SIZES`: colour, kind, size, the landmark's, operation, number


@dataclass(frozen=True)
class Words:
    """E expressions without their scene."""

    token_ids: Tensor  # (E, L)
    parse: Tensor  # (E, 8), see `Example`


class Texts(Dataset[Words]):
    """Expressions about scenes that nobody looks at; number i is always the same.

    Args:
        seed: another seed, other expressions.
        expressions: about each scene, at the most.
        vocabulary: of the model in training.
        length: how many scenes.
        weights: how often each kind of expression is asked, as for `ask`.
    """

    def __init__(
        self, seed: int, expressions: int, vocabulary: Vocabulary, length: int, weights: Mapping[str, float]
    ) -> None:
        self.seed, self.expressions, self.vocabulary = seed, expressions, vocabulary
        self.length, self.weights = length, weights

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Words:
        rng = np.random.default_rng((self.seed, index))
        scene = draw_scene(rng, (96, 96), int(rng.integers(1, 9)))
        questions = ask(scene, rng, self.expressions, self.weights)
        return Words(_read(questions, self.vocabulary), _parses(questions))


class Examples(Dataset[Example]):
    """Example number i is always the same one.

    Args:
        config: for the preprocessing.
        seed: another seed, other scenes.
        expressions: asked about each scene, at the most.
        vocabulary: of the model in training.
        length: how many examples.
        weights: how often each kind of expression is asked, as for `ask`.
    """

    def __init__(
        self,
        config: ModelConfig,
        seed: int,
        expressions: int,
        vocabulary: Vocabulary | None,
        length: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.config, self.seed, self.expressions, self.vocabulary = config, seed, expressions, vocabulary
        self.length, self.weights = length, weights

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.seed, index))
        while True:
            # where nothing is asked, the more shapes the more is learnt from a scene
            scene = draw_scene(rng, training_size(rng), None if self.vocabulary else int(rng.integers(5, 9)))
            if scene.shapes:
                return self._example(scene, rng)

    def _example(self, scene: Scene, rng: np.random.Generator) -> Example:
        geometry = geometry_of(scene.pixels, self.config)
        architecture = self.config.architecture
        sam_side, clip_side, grid = architecture.sam.image_size, architecture.clip.image_size, architecture.clip.grid
        masks = np.stack([_in_sam_square(shape.mask, geometry, sam_side) for shape in scene.shapes])
        patches = np.stack([_in_patches(shape.mask, geometry, clip_side, grid) for shape in scene.shapes])
        boxes = np.stack([_box(shape.mask) for shape in scene.shapes])
        scale = geometry.sam_width / geometry.width / sam_side, geometry.sam_height / geometry.height / sam_side
        clip_scale = geometry.clip_width / geometry.width, geometry.clip_height / geometry.height
        clip_boxes = (boxes * np.tile(clip_scale, 2) + np.tile((geometry.clip_left, geometry.clip_top), 2)) / clip_side
        attributes = [[name in (s.color, s.kind, s.size) for name in ATTRIBUTES] for s in scene.shapes]
        return Example(
            clip_input=clip_input(scene.pixels, geometry, self.config),
            sam_input=sam_input(scene.pixels, geometry, self.config),
            picture=torch.tensor([geometry.sam_height / sam_side, geometry.sam_width / sam_side]),
            masks=torch.from_numpy(masks),
            patches=torch.from_numpy(patches),
            inside=torch.from_numpy(_inside(scene, geometry, clip_side, grid)),
            attributes=torch.tensor(attributes, dtype=torch.float32),
            boxes=torch.from_numpy(boxes * np.tile(scale, 2)).float(),
            clip_boxes=torch.from_numpy(clip_boxes).float(),
            **self._questions(scene, rng),
        )

    def _questions(self, scene: Scene, rng: np.random.Generator) -> dict[str, Tensor]:
        if self.vocabulary is None:
            questions, token_ids = [], torch.zeros(0, 1, dtype=torch.int64)
        else:
            questions = ask(scene, rng, self.expressions, self.weights)
            token_ids = _read(questions, self.vocabulary)
        nouns = [[noun for noun in (q.parse.noun, q.parse.landmark) if noun] for q in questions]

        def which(marked: list[list[bool]]) -> Tensor:
            return torch.tensor(marked).view(len(questions), len(scene.shapes)).bool()

        return {
            "token_ids": token_ids,
            "meant": which([[bool((s.mask & q.mask).any()) for s in scene.shapes] for q in questions]),
            "candidates": which([[_fits(q.parse.noun, s) for s in scene.shapes] for q in questions]),
            "landmarks": which([[_fits(q.parse.landmark, s) for s in scene.shapes] for q in questions]),
            "alike": which([[any(_partly(noun, s) for noun in each) for s in scene.shapes] for each in nouns]),
            "parse": _parses(questions),
        }


def _fits(noun: Noun | None, shape: Shape) -> bool:
    return noun is not None and noun.matches(shape)


def _partly(noun: Noun, shape: Shape) -> bool:
    """Whether a shape is of a noun's colour or kind."""
    return shape.color == noun.color or shape.kind == noun.kind


def _read(questions: list[Question], vocabulary: Vocabulary) -> Tensor:
    return torch.stack([vocabulary.read(question.text) for question in questions])


def _parses(questions: list[Question]) -> Tensor:
    return torch.tensor([_parsed(q) for q in questions]).view(len(questions), len(PARSE_SIZES)).long()


def _parsed(question: Question) -> list[int]:
    parse = question.parse
    named = [
        names.index(name)
        for noun in (parse.noun, parse.landmark)
        for names, name in zip(_NAMED, (noun.color, noun.kind, noun.size) if noun else (None,) * 3, strict=True)
    ]
    return [*named, OPERATIONS.index(parse.operation), parse.number or 0]


def training_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: the aspects of the world at the size that the networks see, where drawing is cheap."""
    height, width = random_size(rng)
    scale = rng.uniform(224, 384) / max(height, width)
    return max(48, round(height * scale)), max(48, round(width * scale))


def _in_sam_square(mask: NDArray[np.bool_], geometry: Geometry, side: int) -> NDArray[np.float32]:
    square = np.zeros((side, side), dtype=np.float32)
    square[: geometry.sam_height, : geometry.sam_width] = _resized(mask, geometry.sam_height, geometry.sam_width)
    return _averaged(square, TARGET_SIDE)


def _in_patches(mask: NDArray[np.bool_], geometry: Geometry, side: int, grid: int) -> NDArray[np.float32]:
    canvas = np.zeros((side, side), dtype=np.float32)
    rows = slice(geometry.clip_top, geometry.clip_top + geometry.clip_height)
    columns = slice(geometry.clip_left, geometry.clip_left + geometry.clip_width)
    canvas[rows, columns] = _resized(mask, geometry.clip_height, geometry.clip_width)
    return _averaged(canvas, grid).reshape(-1)


def _inside(scene: Scene, geometry: Geometry, side: int, grid: int) -> NDArray[np.float32]:
    anything = np.any([shape.mask for shape in scene.shapes], axis=0)
    parts = _in_patches(anything, geometry, side, INSIDE_SIDE * grid)
    parts = parts.reshape(grid, INSIDE_SIDE, grid, INSIDE_SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts.reshape(grid * grid, INSIDE_SIDE**2))


def _resized(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float32]:
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _averaged(square: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    # NumPy's mean over blocks takes several times as long
    blocks = F.avg_pool2d(torch.from_numpy(square)[None], len(square) // side)[0]
    averaged: NDArray[np.float32] = blocks.numpy()
    return averaged


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
