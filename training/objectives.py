"""The losses of each training stage. The auxiliary heads exist during training only; the bundled model has none."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sspsam.finetuning.network import decoder_images, ssp_output
from sspsam.models import SSPSAM, ExpressionFeatures
from training.attention import plain_attention
from training.batches import SceneBatch, TextBatch
from training.heads import COUNTS, AuxiliaryHeads
from training.losses import Losses, box_losses, mark_losses, mask_losses, no_target_loss, summary_losses
from training.targets import (
    position_encoding,
    random_points_inside,
    target_boxes,
    target_marks,
    target_masks,
    target_similarity,
)

_SAM_PROMPTS = 6  # masks of a scene for which SAM is prompted


class BatchOutput(NamedTuple):
    """Output of the model and of the auxiliary heads for the E expressions of a batch."""

    low_res: Tensor  # (E, M, M) mask logits
    ious: Tensor  # (E,) predicted IoU of each mask
    box: Tensor  # (E, 4) centre and size, as fractions of CLIP's square
    similarity: Tensor  # (E, G*G)
    marks: Tensor  # (layers - 1, E, marks, G*G) logits
    summary: Tensor  # (layers, E, 1 + counts + 16)


class Objective(nn.Module):
    """A model, its auxiliary heads, and the losses of the stages.

    Args:
        model: the model in training.
        mixed: compute everything but SAM's decoder with bfloat16 autocast.
        no_target_weight: see `no_target_loss`.
    """

    def __init__(self, model: SSPSAM, mixed: bool = False, no_target_weight: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.mixed = mixed
        self.no_target_weight = no_target_weight
        self.heads = AuxiliaryHeads(model.config)

    def forward(self, stage: str, batch: Any) -> Losses:
        """Compute the weighted losses of a stage.

        Args:
            stage: `text`, `clip`, `sam`, `joint`, `refine`, `fine` or `polish`.
            batch: a `TextBatch` for stage `text`, a `SceneBatch` for all others.
        """
        stages: dict[str, Callable[[Any], Losses]] = {
            "text": self._text_losses,
            "clip": self._clip_losses,
            "sam": self._sam_losses,
            "joint": self._joint_losses,
            "refine": self._joint_losses,  # the losses of joint; recipe.py has other numbers for it
            "fine": self._fine_losses,
            "polish": self._fine_losses,
        }
        with plain_attention(next(self.model.parameters()).device):
            return stages[stage](batch)

    def _text_losses(self, batch: TextBatch) -> Losses:
        """The text features predict the structure of expressions; no image is involved."""
        with self._mixed_precision():
            expressions = self.model.encode_text(batch.token_ids)
        return self.heads.parse_losses(expressions, batch.parse)

    def _clip_losses(self, batch: SceneBatch) -> Losses:
        """CLIP's patch features predict the shape at each patch, its place and its box."""
        with self._mixed_precision():
            features = self.model.clip.encode_image(batch.clip_input)  # (B, G*G, C)
        return self.heads.patch_losses(features.float(), batch)

    def _sam_losses(self, batch: SceneBatch) -> Losses:
        """SAM segments one shape or several, prompted by rough boxes or by a point inside."""
        sam = self.model.sam
        with self._mixed_precision():
            embeddings = sam.encode_image(batch.sam_input).float()
        logits, ious, targets = [], [], []
        for index, (embedding, count) in enumerate(zip(embeddings, batch.shapes.tolist(), strict=True)):
            masks = batch.masks[index, :count].float() / 255  # (N, R/2, R/2)
            shapes, prompts = self._sam_prompts(masks, batch.boxes[index])
            low_res, iou = sam.decode(sam.prepare(embedding), prompts)
            logits.append(low_res)
            ious.append(iou)
            targets.append(masks[shapes].amax(dim=1))
        return mask_losses(torch.cat(logits), torch.cat(ious), torch.cat(targets))

    def _sam_prompts(self, masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Choose shapes of a scene and prompts for them.

        Args:
            masks: (N, R/2, R/2) coverage by each shape of the scene.
            boxes: (N or more, 4) boxes of the shapes, as fractions of SAM's square.

        Returns:
            (X, n) indices of the n shapes of each of X masks, and (X, tokens, D) prompts.
        """
        count = 1 if torch.rand(()) < 0.5 else int(torch.randint(1, len(masks) + 1, ()))
        shapes = torch.rand(_SAM_PROMPTS, len(masks), device=masks.device).topk(count).indices
        if count == 1 and torch.rand(()) < 0.3:
            return shapes, self._point_prompts(masks[shapes[:, 0]])
        return shapes, self._box_prompts(boxes[shapes])

    def _box_prompts(self, boxes: Tensor) -> Tensor:
        """(X, n, 4) boxes, as fractions of SAM's square -> (X, 2n, D) prompts of their corners, with jitter."""
        boxes = boxes * self.model.config.sam.image_size
        jitter = 0.06 * (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2) * torch.randn_like(boxes)
        prompts, _ = self.model.sam.prompt_encoder(points=None, boxes=(boxes + jitter).flatten(0, 1), masks=None)
        return torch.as_tensor(prompts).view(len(boxes), -1, self.model.config.sam.prompt_width)

    def _point_prompts(self, masks: Tensor) -> Tensor:
        """(X, R/2, R/2) coverage -> (X, points, D) prompts of a random point inside each mask."""
        points = random_points_inside(masks) * (self.model.config.sam.image_size / masks.shape[-1])
        labels = torch.ones(points.shape[:2], device=points.device)
        prompts, _ = self.model.sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        return torch.as_tensor(prompts)

    def _joint_losses(self, batch: SceneBatch) -> Losses:
        """The whole model segments the targets of expressions, with supervision of inner features."""
        _, expressions, output = self.segment(batch)
        return self._expression_losses(expressions, output, batch, edges=False)

    def _fine_losses(self, batch: SceneBatch) -> Losses:
        """The losses of `joint`, the losses of CLIP's patch features, and losses of the edges of the masks."""
        patches, expressions, output = self.segment(batch)
        losses = self._expression_losses(expressions, output, batch, edges=True)
        return losses | self.heads.patch_losses(patches, batch)

    def segment(self, batch: SceneBatch) -> tuple[Tensor, ExpressionFeatures, BatchOutput]:
        """Run the whole model on all expressions of a batch at once.

        Args:
            batch: B scenes with E expressions about them.

        Returns:
            (B, G*G, C) CLIP's patch features, the features of the E expressions, and the output.
        """
        with self._mixed_precision():
            clip = self.model.clip.encode_image(batch.clip_input).float()  # (B, G*G, C)
            sam = self.model.sam.encode_image(batch.sam_input).float()  # (B, D, g, g)
            expressions = self.model.encode_text(batch.token_ids)
        inner_layers = list(self.model.ssp.prompt_generator.layers)[:-1]
        with self._mixed_precision(), _recorded_outputs(inner_layers) as layers:
            ssp = ssp_output(self.model, clip, expressions, batch.scene)
        images = decoder_images(self.model, sam, batch.scene)
        low_res, ious = self.model.sam.decode(images, ssp.prompts.float())
        marks, summary = self.heads.generator_outputs(layers, ssp.prompts)
        return clip, expressions, BatchOutput(low_res, ious, ssp.box.float(), ssp.similarity.float(), marks, summary)

    def _expression_losses(
        self, expressions: ExpressionFeatures, output: BatchOutput, batch: SceneBatch, edges: bool
    ) -> Losses:
        """Losses of masks, boxes, text features and inner features."""
        has_target, candidates = batch.has_target, batch.candidates.sum(dim=1)  # (E,)
        losses = mask_losses(output.low_res, output.ious, target_masks(batch), edges)
        losses |= no_target_loss(output.low_res, has_target, self.no_target_weight)
        boxes = target_boxes(batch.targets[has_target], batch.clip_boxes[batch.scene[has_target]])
        losses |= box_losses(output.box[has_target], boxes)
        losses |= _similarity_loss(output.similarity, batch)
        losses |= mark_losses(output.marks, target_marks(batch))
        losses |= self.heads.parse_losses(expressions, batch.parse)
        losses |= summary_losses(output.summary[..., : 1 + COUNTS], has_target, candidates)
        return losses | _landmark_loss(output.summary[..., 1 + COUNTS :], batch)

    def _mixed_precision(self) -> torch.autocast:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed)


@contextlib.contextmanager
def _recorded_outputs(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the tokens after layers of the prompt generator, in the order of their calls inside the context."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.wide)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _similarity_loss(similarity: Tensor, batch: SceneBatch) -> Losses:
    """Squared error of the (E, G*G) similarity maps of all expressions that name a shape of their scene."""
    names_any, target = target_similarity(batch)
    error = (similarity - target).square().mean(dim=1)  # (E,)
    return {"similarity": 4 * (error * names_any).sum() / names_any.sum().clamp(min=1)}


def _landmark_loss(places: Tensor, batch: SceneBatch) -> Losses:
    """Squared error of the place of the landmark, over expressions with exactly one landmark.

    Args:
        places: (layers, E, 16) predicted position encodings.
        batch: the scenes of the E expressions.
    """
    is_single = batch.landmarks.sum(dim=1) == 1  # (E,)
    boxes = batch.clip_boxes[batch.scene]  # (E, N, 4)
    box = torch.where(batch.landmarks.unsqueeze(2), boxes, 0.0).sum(dim=1)  # (E, 4) of the one landmark
    target = position_encoding((box[:, :2] + box[:, 2:]) / 2)  # (E, 16)
    error = (places - target).square().mean(dim=(0, 2))  # (E,)
    return {"landmark": 2 * (error * is_single).sum() / is_single.sum().clamp(min=1)}
