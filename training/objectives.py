"""The losses of each training stage. The auxiliary heads exist during training only; the bundled model has none."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sspsam.models import SSPSAM, ExpressionFeatures, ImageFeatures
from sspsam.models.attention_adapters import LinguisticFeatures
from sspsam.models.ssp_encoder import SSPOutput
from training.attention import plain_attention
from training.datasets import SceneExample, TextExample
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


@dataclass(frozen=True)
class SceneOutput:
    """Output of the model and of the auxiliary heads for the E expressions about one scene."""

    low_res: Tensor  # (E, M, M) mask logits
    ious: Tensor  # (E,) predicted IoU of each mask
    box: Tensor  # (E, 4) centre and size, as fractions of CLIP's canvas
    similarity: Tensor  # (E, G*G)
    marks: Tensor  # (layers - 1, E, marks, G*G) logits
    summary: Tensor  # (layers, E, 1 + counts + 16)


class Objective(nn.Module):
    """A model, its auxiliary heads, and the losses of the stages.

    Args:
        model: the model in training.
        mixed: compute everything but SAM's decoder with bfloat16 autocast.
    """

    def __init__(self, model: SSPSAM, mixed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.mixed = mixed
        self.heads = AuxiliaryHeads(model.config)

    def forward(self, stage: str, examples: list[Any]) -> Losses:
        """Compute the weighted losses of a stage.

        Args:
            stage: `text`, `clip`, `sam`, `joint` or `refine`.
            examples: `TextExample`s for stage `text`, `SceneExample`s for all others.
        """
        stages: dict[str, Callable[[list[Any]], Losses]] = {
            "text": self._text_losses,
            "clip": self._clip_losses,
            "sam": self._sam_losses,
            "joint": self._joint_losses,
            "refine": self._joint_losses,  # the losses of joint; recipe.py has other numbers for it
        }
        with plain_attention(next(self.model.parameters()).device):
            return stages[stage](examples)

    def _text_losses(self, examples: list[TextExample]) -> Losses:
        """The text features predict the structure of expressions; no image is involved."""
        with self._mixed_precision():
            expressions = self.model.encode_text(torch.cat([e.token_ids for e in examples]))
        return self.heads.parse_losses(expressions, torch.cat([e.parse for e in examples]))

    def _clip_losses(self, examples: list[SceneExample]) -> Losses:
        """CLIP's patch features predict the shape at each patch, its place and its box."""
        with self._mixed_precision():
            features = self.model.clip.encode_image(torch.stack([e.clip_input for e in examples]))  # (B, G*G, C)
        return self.heads.patch_losses(features.float(), examples)

    def _sam_losses(self, examples: list[SceneExample]) -> Losses:
        """SAM segments one shape or several, prompted by rough boxes or by a point inside."""
        sam = self.model.sam
        with self._mixed_precision():
            embeddings = sam.encode_image(torch.stack([e.sam_input for e in examples])).float()
        logits, ious, targets = [], [], []
        for example, embedding in zip(examples, embeddings, strict=True):
            shapes, prompts = self._sam_prompts(example)
            low_res, iou = sam.decode(sam.prepare(embedding), prompts)
            logits.append(low_res)
            ious.append(iou)
            targets.append(example.masks[shapes].amax(dim=1))
        return mask_losses(torch.cat(logits), torch.cat(ious), torch.cat(targets))

    def _sam_prompts(self, example: SceneExample) -> tuple[Tensor, Tensor]:
        """Choose shapes of a scene and prompts for them.

        Returns:
            (X, n) indices of the n shapes of each of X masks, and (X, tokens, D) prompts.
        """
        count = 1 if torch.rand(()) < 0.5 else int(torch.randint(1, len(example.masks) + 1, ()))
        shapes = torch.rand(_SAM_PROMPTS, len(example.masks), device=example.masks.device).topk(count).indices
        if count == 1 and torch.rand(()) < 0.3:
            return shapes, self._point_prompts(example.masks[shapes[:, 0]])
        return shapes, self._box_prompts(example.boxes[shapes])

    def _box_prompts(self, boxes: Tensor) -> Tensor:
        """(X, n, 4) boxes, as fractions of SAM's square -> (X, 2n, D) prompts of their corners, with jitter."""
        boxes = boxes * self.model.config.sam.image_size
        jitter = 0.06 * (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2) * torch.randn_like(boxes)
        prompts, _ = self.model.sam.prompt_encoder(points=None, boxes=(boxes + jitter).flatten(0, 1), masks=None)
        return torch.as_tensor(prompts).view(len(boxes), -1, self.model.config.sam.prompt_width)

    def _point_prompts(self, masks: Tensor) -> Tensor:
        """(X, T, T) coverage -> (X, points, D) prompts of a random point inside each mask."""
        points = random_points_inside(masks) * (self.model.config.sam.image_size / masks.shape[-1])
        labels = torch.ones(points.shape[:2], device=points.device)
        prompts, _ = self.model.sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        return torch.as_tensor(prompts)

    def _joint_losses(self, examples: list[SceneExample]) -> Losses:
        """The whole model segments the targets of expressions, with supervision of inner features."""
        images, expressions = self._features(examples)
        by_scene = zip(*(torch.split(x, [len(e.token_ids) for e in examples]) for x in expressions), strict=True)
        outputs = [self._output(image, ExpressionFeatures(*x)) for image, x in zip(images, by_scene, strict=True)]
        low_res = torch.cat([output.low_res for output in outputs])
        has_target = torch.cat([example.targets.any(dim=1) for example in examples])  # (E,)
        candidates = torch.cat([example.candidates.sum(dim=1) for example in examples])  # (E,)
        marks = torch.cat([output.marks for output in outputs], dim=1)
        summary = torch.cat([output.summary for output in outputs], dim=1)
        losses = mask_losses(
            low_res, torch.cat([o.ious for o in outputs]), torch.cat([target_masks(e) for e in examples])
        )
        losses |= no_target_loss(low_res, has_target)
        losses |= _scene_box_losses(outputs, examples)
        losses |= _similarity_losses(outputs, examples)
        losses |= mark_losses(marks, torch.cat([target_marks(example) for example in examples]))
        losses |= self.heads.parse_losses(expressions, torch.cat([example.parse for example in examples]))
        losses |= summary_losses(summary[..., : 1 + COUNTS], has_target, candidates)
        losses |= _landmark_losses(summary[..., 1 + COUNTS :], examples)
        if all(parameter.requires_grad for parameter in self.model.clip.visual.parameters()):
            losses |= self.heads.patch_losses(torch.stack([image.clip for image in images]).float(), examples)
        return losses

    def _features(self, examples: list[SceneExample]) -> tuple[list[ImageFeatures], ExpressionFeatures]:
        """Encode B scenes, and all of their expressions together."""
        with self._mixed_precision():
            images = self.model.encode_image(
                torch.stack([e.clip_input for e in examples]), torch.stack([e.sam_input for e in examples])
            )
            return images, self.model.encode_text(torch.cat([e.token_ids for e in examples]))

    def _output(self, image: ImageFeatures, expressions: ExpressionFeatures) -> SceneOutput:
        """Compute the output for one scene and its E expressions."""
        clip, sam = (tensor.float() for tensor in image)
        inner_layers = list(self.model.ssp.prompt_generator.layers)[:-1]
        with self._mixed_precision(), _recorded_outputs(inner_layers) as layers:
            ssp = self._ssp(clip, expressions)
        low_res, ious = self.model.sam.decode(self.model.sam.prepare(sam), ssp.prompts.float())
        marks, summary = self.heads.generator_outputs(layers, ssp.prompts)
        return SceneOutput(low_res, ious, ssp.box.float(), ssp.similarity.float(), marks, summary)

    def _ssp(self, clip: Tensor, expressions: ExpressionFeatures) -> SSPOutput:
        """Run the SSP encoder as `SSPSAM.segment` does."""
        ssp = self.model.ssp
        projected = ssp.visual_attention_adapter.project(clip)
        language = LinguisticFeatures(expressions.words, expressions.word_attention, expressions.sentence)
        output: SSPOutput = ssp(clip, projected, expressions.clip_sentence, language, expressions.padding)
        return output

    def _mixed_precision(self) -> torch.autocast:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed)


@contextlib.contextmanager
def _recorded_outputs(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules, in the order of their calls inside the context."""
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _scene_box_losses(outputs: list[SceneOutput], examples: list[SceneExample]) -> Losses:
    """Losses of the boxes of all expressions that have a target."""
    boxes, targets = [], []
    for output, example in zip(outputs, examples, strict=True):
        has_target = example.targets.any(dim=1)
        boxes.append(output.box[has_target])
        targets.append(target_boxes(example.targets[has_target], example.clip_boxes))
    return box_losses(torch.cat(boxes), torch.cat(targets))


def _similarity_losses(outputs: list[SceneOutput], examples: list[SceneExample]) -> Losses:
    """Squared error of the similarity maps of all expressions that name a shape of their scene."""
    errors = []
    for output, example in zip(outputs, examples, strict=True):
        names_any, target = target_similarity(example)
        errors.append((output.similarity[names_any] - target).square().mean(dim=1))
    return {"similarity": 4 * torch.cat(errors).mean()}


def _landmark_losses(places: Tensor, examples: list[SceneExample]) -> Losses:
    """Squared error of the place of the landmark, over expressions with exactly one landmark.

    Args:
        places: (layers, E, 16) predicted position encodings.
        examples: the scenes of the E expressions.
    """
    is_single = torch.cat([example.landmarks.sum(dim=1) == 1 for example in examples])  # (E,)
    boxes = torch.cat([example.landmarks.float() @ example.clip_boxes for example in examples])  # (E, 4)
    target = position_encoding((boxes[:, :2] + boxes[:, 2:]) / 2)  # (E, 16)
    error = (places - target).square().mean(dim=(0, 2))  # (E,)
    return {"landmark": 2 * (error * is_single).sum() / is_single.sum().clamp(min=1)}
