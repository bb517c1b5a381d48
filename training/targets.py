"""Targets of the losses that are computed on the device of the model, from a `SceneBatch`."""

import math

import torch
from torch import Tensor

from training.batches import SceneBatch

FREQUENCIES = 4
MARKS = ("targets", "candidates", "landmarks")  # per-patch maps that auxiliary heads predict


def patch_visibility(patch_coverage: Tensor) -> Tensor:
    """Rescale the coverage of patches so that every shape, however small, reaches 1 somewhere.

    Args:
        patch_coverage: (..., G*G) coverage of each patch by each shape.

    Returns:
        (..., G*G) from 0 to 1.
    """
    half_of_maximum = (0.5 * patch_coverage.amax(dim=-1, keepdim=True)).clamp(min=1e-6)
    return (patch_coverage / half_of_maximum).clamp(max=1)


def union(batch: SceneBatch, selected: Tensor, coverage: Tensor) -> Tensor:
    """Add up the coverage by the shapes that each expression selects.

    Args:
        batch: the scenes and their expressions.
        selected: (E, N) bool.
        coverage: (B, N, X) coverage by each shape.

    Returns:
        (E, X), at most 1.
    """
    by_scene = coverage.new_zeros(len(coverage), batch.rows, selected.shape[1])  # (B, rows, N)
    by_scene[batch.scene, batch.row] = selected.to(coverage.dtype)
    return (by_scene @ coverage)[batch.scene, batch.row].clamp(max=1)


def target_masks(batch: SceneBatch) -> Tensor:
    """(E, R/2, R/2) coverage of SAM's square by the targets of each expression."""
    side = batch.masks.shape[-1]
    return union(batch, batch.targets, batch.masks.flatten(2).float() / 255).view(-1, side, side)


def target_marks(batch: SceneBatch) -> Tensor:
    """(E, marks, G*G) visibility of targets, candidates and landmarks in each patch."""
    visibility = patch_visibility(batch.patch_coverage)
    selections = (batch.targets, batch.candidates, batch.landmarks)
    return torch.stack([union(batch, selected, visibility) for selected in selections], dim=1)


def target_similarity(batch: SceneBatch) -> tuple[Tensor, Tensor]:
    """Target of the similarity map.

    Returns:
        (E,) bool, the expressions that name a visible shape, and (E, G*G) visibility of the shapes that an expression
        names; shapes that match partly count 0.3.
    """
    named = batch.candidates | batch.landmarks  # (E, N)
    weights = torch.where(named, 1.0, 0.3 * batch.partial_matches)  # (E, N)
    visibility = patch_visibility(batch.patch_coverage)[batch.scene]  # (E, N, G*G)
    return named.any(dim=1), (weights.unsqueeze(2) * visibility).amax(dim=1)


def target_boxes(selected: Tensor, boxes: Tensor) -> Tensor:
    """(E, N) bool with a True in every row, (E, N, 4) boxes of the shapes -> (E, 4) box around the selected shapes."""
    low = torch.where(selected.unsqueeze(2), boxes[..., :2], torch.inf).amin(dim=1)
    high = torch.where(selected.unsqueeze(2), boxes[..., 2:], -torch.inf).amax(dim=1)
    return torch.cat([low, high], dim=1)


def position_encoding(places: Tensor) -> Tensor:
    """(..., 2) x, y as fractions -> (..., 16) sines and cosines of four frequencies."""
    angles = places.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(FREQUENCIES, device=places.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def patch_places(image_extent: Tensor, grid: int) -> Tensor:
    """Centre of each of CLIP's patches, as fractions of SAM's square.

    Args:
        image_extent: (B, 2) height and width of each image in SAM's square, as fractions of it.
        grid: G.

    Returns:
        (B, G*G, 2) x, y.
    """
    centers = (torch.arange(grid, device=image_extent.device) + 0.5) / grid
    rows, columns = torch.meshgrid(centers, centers, indexing="ij")
    places = torch.stack([columns, rows], dim=-1).flatten(0, 1)  # (G*G, 2)
    # CLIP's square holds the image in its middle, SAM's square at its top left
    padding = (1 - image_extent.flip(1)) / 2  # (B, 2) x, y
    return places - padding.unsqueeze(1)


def random_points_inside(masks: Tensor) -> Tensor:
    """(N, R/2, R/2) coverage -> (N, 1, 2) x, y of a random pixel of each mask."""
    flat = masks.flatten(1)
    index = torch.multinomial(flat.square() + 1e-9, 1)  # (N, 1)
    side = masks.shape[-1]
    return torch.stack([index % side, index // side], dim=-1) + 0.5
