"""Batches of scenes: the tensors of several `SceneExample`s, padded to the same number of shapes."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from training.datasets import SceneExample, TextExample


class _Batch:
    """A dataclass of tensors that can be pinned and moved together."""

    def pin_memory(self) -> Self:
        """Copy to memory from which a GPU can read while it computes; PyTorch's `DataLoader` calls this method."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """Copy to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(**{name: function(x) if isinstance(x, Tensor) else x for name, x in fields.items()})


@dataclass(frozen=True)
class SceneBatch(_Batch):
    """B scenes with up to N shapes each, and their E expressions, scene after scene.

    The sizes and units are those of `SceneExample`. Shapes that a scene does not have are zeros everywhere.
    """

    clip_input: Tensor  # (B, 3, S, S)
    sam_input: Tensor  # (B, 3, side, side)
    image_extent: Tensor  # (B, 2)
    shapes: Tensor  # (B,) number of shapes
    masks: Tensor  # (B, N, R/2, R/2) uint8
    patch_coverage: Tensor  # (B, N, G*G)
    subpatch_coverage: Tensor  # (B, G*G, 16)
    attributes: Tensor  # (B, N, 20)
    boxes: Tensor  # (B, N, 4)
    clip_boxes: Tensor  # (B, N, 4)
    scene: Tensor  # (E,) index of the scene of each expression
    row: Tensor  # (E,) index of each expression among those of its scene
    rows: int  # largest number of expressions of a scene
    token_ids: Tensor  # (E, L)
    targets: Tensor  # (E, N) bool
    candidates: Tensor  # (E, N) bool
    landmarks: Tensor  # (E, N) bool
    partial_matches: Tensor  # (E, N) bool
    parse: Tensor  # (E, 8)

    @property
    def has_target(self) -> Tensor:
        """(E,) bool, True for the expressions that refer to a shape."""
        return self.targets.any(dim=1)


@dataclass(frozen=True)
class TextBatch(_Batch):
    """E expressions without their scenes."""

    token_ids: Tensor  # (E, L)
    parse: Tensor  # (E, 8)


def collate(
    examples: list[SceneExample] | list[TextExample], image_dtype: torch.dtype | None = None
) -> SceneBatch | TextBatch:
    """Join examples of one kind.

    Args:
        examples: scenes, or expressions alone.
        image_dtype: of the inputs of the image encoders; None: float32. Autocast converts them in any case.
    """
    scenes = [example for example in examples if isinstance(example, SceneExample)]
    if scenes:
        batch = collate_scenes(scenes)
        images = {name: getattr(batch, name).to(image_dtype) for name in ("clip_input", "sam_input")}
        return dataclasses.replace(batch, **images) if image_dtype else batch
    return TextBatch(torch.cat([e.token_ids for e in examples]), torch.cat([e.parse for e in examples]))


def collate_scenes(examples: list[SceneExample]) -> SceneBatch:
    """Join scenes."""
    shapes = [len(example.masks) for example in examples]
    counts = [len(example.token_ids) for example in examples]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(example, name) for example in examples])

    def by_shape(name: str) -> Tensor:  # (N of the scene, ...) each -> (B, N, ...)
        return torch.nn.utils.rnn.pad_sequence([getattr(example, name) for example in examples], batch_first=True)

    def selection(name: str) -> Tensor:  # (E of the scene, N of the scene) each -> (E, N)
        rows = [getattr(example, name) for example in examples]
        return torch.cat([F.pad(x, (0, max(shapes) - x.shape[1])) for x in rows])

    return SceneBatch(
        **{name: stacked(name) for name in ("clip_input", "sam_input", "image_extent", "subpatch_coverage")},
        **{name: by_shape(name) for name in ("masks", "patch_coverage", "attributes", "boxes", "clip_boxes")},
        **{name: selection(name) for name in ("targets", "candidates", "landmarks", "partial_matches")},
        shapes=torch.tensor(shapes),
        scene=torch.repeat_interleave(torch.tensor(counts)),
        row=torch.cat([torch.arange(count) for count in counts]),
        rows=max(counts),
        token_ids=torch.cat([example.token_ids for example in examples]),
        parse=torch.cat([example.parse for example in examples]),
    )
