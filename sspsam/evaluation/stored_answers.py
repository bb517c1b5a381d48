"""A file of float32 answers of a CPU about drawn scenes, which answers of other machines are compared with.

The file holds the images themselves: the pixels that `sspsam.shapes` draws depend on the versions of NumPy and Pillow.
Logits are rounded to multiples of `_STEP`, an error of at most 0.06 of the float32 tolerance, and compressed without
further loss. The file is bound to the fingerprint of the model that gave the answers.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError
from sspsam.evaluation.comparison import ReferenceAnswer
from sspsam.images.loading import Pixels, load_image
from sspsam.images.preprocessing import geometry_of
from sspsam.segmentation.rle import rle_decode, rle_encode
from sspsam.utils.files import replace_file

ANSWERS_NAME: Final = "answers.safetensors"
_METADATA_KEY: Final = "sspsam_answers"
_FORMAT_VERSION: Final = 1
_STEP: Final = 2.0**-13  # of stored logits


@dataclass(frozen=True, eq=False)
class ReferenceScene:
    """An image, expressions about it, and the reference answers.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        texts: the expressions.
        answers: one for each expression.
    """

    pixels: Pixels
    texts: list[str]
    answers: list[ReferenceAnswer]


@dataclass(frozen=True, eq=False)
class StoredAnswers:
    """The content of a file of answers.

    Args:
        scenes: with their answers.
        made_with: versions of the software that gave the answers, by name.
        resized_digest: see `digest_of_resized_images`.
    """

    scenes: list[ReferenceScene]
    made_with: dict[str, str]
    resized_digest: str


def digest_of_resized_images(images: Sequence[Pixels], config: ModelConfig) -> str:
    """Return the SHA-256 of (h, w, 3) uint8 images in the model's input sizes, as the installed Pillow resizes them.

    Pillow's versions round differently for some pairs of sizes, and a model answers about the resized image.
    """
    digest = hashlib.sha256()
    for pixels in images:
        geometry = geometry_of(pixels, config)
        for size in ((geometry.clip_width, geometry.clip_height), (geometry.sam_width, geometry.sam_height)):
            digest.update(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).tobytes())
    return digest.hexdigest()


def save_answers(path: Path, scenes: Sequence[ReferenceScene], config: ModelConfig, made_with: dict[str, str]) -> None:
    """Write a file of answers.

    Args:
        path: of the file; an older one is replaced.
        scenes: with the answers of the model in float32 on a CPU.
        config: of the model.
        made_with: versions of the software, by name.

    Raises:
        StorageError: the file cannot be written; an older file is unchanged.
    """
    tensors: dict[str, NDArray[np.uint8]] = {}
    for index, scene in enumerate(scenes):
        tensors[f"image.{index}"] = np.frombuffer(_png(scene.pixels), np.uint8)
        tensors[f"logits.{index}"] = _packed(np.stack([answer.low_res_logits for answer in scene.answers]))
    content = {
        "version": _FORMAT_VERSION,
        "fingerprint": config.fingerprint,
        "made_with": made_with,
        "resized_digest": digest_of_resized_images([scene.pixels for scene in scenes], config),
        "scenes": [
            {
                "texts": scene.texts,
                "side": scene.answers[0].low_res_logits.shape[-1],
                "masks": [rle_encode(answer.mask)["counts"] for answer in scene.answers],
                "no_target": [answer.no_target for answer in scene.answers],
                "scores": [answer.score for answer in scene.answers],
                "boxes": [list(answer.box) for answer in scene.answers],
            }
            for scene in scenes
        ],
    }
    replace_file(path, save(tensors, {_METADATA_KEY: json.dumps(content)}))


def load_answers(path: str | os.PathLike[str], config: ModelConfig) -> StoredAnswers:
    """Read the answers of a model.

    Args:
        path: of a file that `save_answers` wrote.
        config: of the model.

    Raises:
        CheckpointError: the file is missing or damaged, or holds answers of another model.
    """
    try:
        with safe_open(path, framework="np") as file:
            content = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if content["version"] != _FORMAT_VERSION:
            raise ValueError(f"format version {content['version']}")
        scenes = [
            _scene(values, tensors[f"image.{index}"], tensors[f"logits.{index}"])
            for index, values in enumerate(content["scenes"])
        ]
        stored = StoredAnswers(scenes, dict(content["made_with"]), str(content["resized_digest"]))
        fingerprint = str(content["fingerprint"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, zlib.error) as error:
        raise CheckpointError(
            f"{path} with the reference answers is missing or damaged ({type(error).__name__}: {error}). "
            "Reinstall sspsam."
        ) from error
    if fingerprint != config.fingerprint:
        raise CheckpointError(
            f"{path} holds answers of another model (fingerprint {fingerprint[:20]}..., this model has "
            f"{config.fingerprint[:20]}...). In a checkout, python -m training.answers makes them again."
        )
    return stored


def _scene(values: dict[str, Any], png: NDArray[np.uint8], packed: NDArray[np.uint8]) -> ReferenceScene:
    """Build a scene from its JSON values, the bytes of its PNG and its packed logits."""
    pixels, texts = load_image(png.tobytes()), [str(text) for text in values["texts"]]
    logits = _unpacked(packed, len(texts), int(values["side"]))
    size = list(pixels.shape[:2])
    answers = [
        ReferenceAnswer(row, rle_decode({"size": size, "counts": counts}), bool(no_target), float(score), tuple(box))
        for row, counts, no_target, score, box in zip(
            logits, values["masks"], values["no_target"], values["scores"], values["boxes"], strict=True
        )
    ]
    return ReferenceScene(pixels, texts, answers)


def _packed(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Compress (E, M, M) logits: neighbours differ little, and so the high bytes of their differences are equal."""
    differences = np.round(logits / _STEP).astype("<i4")
    for axis in (1, 2):
        differences = np.diff(differences, axis=axis, prepend=np.int32(0))
    by_significance = differences.astype("<i4").view(np.uint8).reshape(-1, 4).T  # (4, E*M*M)
    return np.frombuffer(zlib.compress(by_significance.tobytes(), 9), np.uint8)


def _unpacked(packed: NDArray[np.uint8], count: int, side: int) -> NDArray[np.float32]:
    """Return the (count, side, side) logits of `_packed`."""
    by_significance = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8).reshape(4, -1)
    values = np.ascontiguousarray(by_significance.T).view("<i4").reshape(count, side, side)
    for axis in (1, 2):
        values = values.cumsum(axis=axis, dtype=np.int32)
    return cast(NDArray[np.float32], (values * _STEP).astype(np.float32))


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
