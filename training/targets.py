"""Targets of the losses that are computed on the device of the model, from a `SceneExample`."""

import math

import torch
from torch import Tensor

from training.datasets import SceneExample

FREQUENCIES = 4
MARKS = ("targets", "candidates", "landmarks")  # per-patch maps that auxiliary heads predict


def patch_visibility(patch_coverage: Tensor) -> Tensor:
    """Rescale the coverage of patches so that every shape, however small, reaches 1 somewhere.

    Args:
        patch_coverage: (N, G*G) coverage of each patch by each shape.

    Returns:
        (N, G*G) from 0 to 1.
    """
    half_of_maximum = (0.5 * patch_coverage.amax(dim=1, keepdim=True)).clamp(min=1e-6)
    return (patch_coverage / half_of_maximum).clamp(max=1)


def union(selected: Tensor, coverage: Tensor) -> Tensor:
    """(E, N) bool selected shapes, (N, X) coverage by each shape -> (E, X) coverage by the selected shapes."""
    return (selected.float() @ coverage).clamp(max=1)


def target_masks(example: SceneExample) -> Tensor:
    """(E, T, T) coverage of SAM's square by the targets of each expression."""
    return union(example.targets, example.masks.flatten(1)).view(-1, *example.masks.shape[1:])


def target_marks(example: SceneExample) -> Tensor:
    """(E, marks, G*G) visibility of targets, candidates and landmarks in each patch."""
    visibility = patch_visibility(example.patch_coverage)
    selections = (example.targets, example.candidates, example.landmarks)
    return torch.stack([union(selected, visibility) for selected in selections], dim=1)


def target_similarity(example: SceneExample) -> tuple[Tensor, Tensor]:
    """Target of the similarity map.

    Returns:
        (E,) bool, the E' expressions that name a visible shape, and (E', G*G) visibility of the shapes that those
        expressions name; shapes that match partly count 0.3.
    """
    named = example.candidates | example.landmarks  # (E, N)
    names_any = named.any(dim=1)  # (E,)
    weights = torch.where(named, 1.0, 0.3 * example.partial_matches)[names_any]  # (E', N)
    return names_any, (weights.unsqueeze(2) * patch_visibility(example.patch_coverage)).amax(dim=1)


def target_boxes(targets: Tensor, boxes: Tensor) -> Tensor:
    """(E, N) bool with a target in every row, (N, 4) boxes of the shapes -> (E, 4) box around all targets."""
    low = torch.where(targets.unsqueeze(2), boxes[:, :2], torch.inf).amin(dim=1)
    high = torch.where(targets.unsqueeze(2), boxes[:, 2:], -torch.inf).amax(dim=1)
    return torch.cat([low, high], dim=1)


def position_encoding(places: Tensor) -> Tensor:
    """(..., 2) x, y as fractions -> (..., 16) sines and cosines of four frequencies."""
    angles = places.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(FREQUENCIES, device=places.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def patch_places(example: SceneExample, grid: int) -> Tensor:
    """(G*G, 2) x, y of the centre of each of CLIP's patches, as fractions of SAM's square."""
    centers = (torch.arange(grid, device=example.image_extent.device) + 0.5) / grid
    rows, columns = torch.meshgrid(centers, centers, indexing="ij")
    padding = (
        1 - example.image_extent
    ) / 2  # CLIP's canvas holds the image in its middle, SAM's square at its top left
    return torch.stack([columns - padding[1], rows - padding[0]], dim=-1).flatten(0, 1)


def random_points_inside(masks: Tensor) -> Tensor:
    """(N, T, T) coverage -> (N, 1, 2) x, y of a random pixel of each mask."""
    flat = masks.flatten(1)
    index = torch.multinomial(flat.square() + 1e-9, 1)  # (N, 1)
    side = masks.shape[-1]
    return torch.stack([index % side, index // side], dim=-1) + 0.5
