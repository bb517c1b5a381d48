"""What each stage learns, as losses on examples.

The auxiliary heads live in training only; what the bundled model keeps is a plain `SSPSAM`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import Architecture
from sspsam.models import SSPSAM, ExpressionFeatures
from sspsam.models.attention_adapters import LinguisticFeatures
from sspsam.models.ssp_encoder import SSPOutput
from sspsam.shapes import COLORS, OUTLINES
from training.attention import plain_attention
from training.losses import Losses, box_losses, mark_losses, mask_losses, no_target_loss, summary_losses
from training.scenes import ATTRIBUTES, INSIDE_SIDE, PARSE_SIZES, Example, Words

_FREQUENCIES = 4
_PROMPTED = 6  # masks of a scene for which SAM is prompted
_MARKS = ("meant", "candidates", "landmarks")
PATCH_HEADS = ("attributes", "inside", "position", "box", "center")  # of `AuxiliaryHeads`, read in CLIP's patches
_COUNTS = 9  # 0 to 8 candidates


class AuxiliaryHeads(nn.Module):
    """Linear readings of inner features that are supervised while training.

    Args:
        config: of the model.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        width = config.clip.embed_dim
        self.attributes = nn.Linear(width, len(ATTRIBUTES))
        self.inside = nn.Linear(width, INSIDE_SIDE**2)
        self.position = nn.Linear(width, 4 * _FREQUENCIES)
        self.box = nn.Linear(width, 4)
        self.center = nn.Linear(width, 4 * _FREQUENCIES)
        prompts, layers = config.sam.prompt_width, config.ssp.generator_layers
        self.patches = nn.ModuleList(nn.Linear(prompts, len(_MARKS)) for _ in range(layers - 1))
        self.summary = nn.ModuleList(nn.Linear(prompts, 1 + _COUNTS + 4 * _FREQUENCIES) for _ in range(layers))
        # each for itself: what only one of them holds would not reach the patches
        self.parse = nn.ModuleList(
            nn.Linear(width, sum(PARSE_SIZES)) for width in (config.clip.embed_dim, config.ssp.hidden_width)
        )


class Objective(nn.Module):
    """A model, its auxiliary heads, and the losses of the stages.

    Args:
        model: in training.
        mixed: matrix products of all but SAM's decoder in bfloat16, everything else in float32.
    """

    def __init__(self, model: SSPSAM, mixed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.mixed = mixed
        self.heads = AuxiliaryHeads(model.config)
        self._layers: list[Tensor] = []  # what the prompt generator's layers gave in the last forward pass
        layers = model.ssp.prompt_generator.layers
        for layer in list(layers)[:-1]:
            layer.register_forward_hook(lambda module, inputs, output: self._layers.append(output))

    def forward(self, stage: str, examples: list[Any]) -> Losses:
        """Losses of a stage on examples, each weighted already."""
        with plain_attention(next(self.model.parameters()).device):
            losses: Losses = getattr(self, stage)(examples)
        return losses

    def clip(self, examples: list[Example]) -> Losses:
        """CLIP's patches say what they show, where they are, and where and how large it is."""
        with self._mixed_precision():
            features = self.model.clip.encode_image(torch.stack([e.clip_input for e in examples]))  # (B, G*G, C)
        return self._patches(features.float(), examples)

    def _patches(self, features: Tensor, examples: list[Example]) -> Losses:
        tokens = features * math.sqrt(features.shape[1])  # of unit size again
        attributes, insides, positions, boxes, centers = [], [], [], [], []
        for example, each in zip(examples, tokens, strict=True):
            shown = _shown(example.patches)  # (N, G*G)
            which, weight = shown.argmax(dim=0), shown.amax(dim=0)  # (G*G,) the shape that a patch shows most, if any
            share = torch.zeros(len(shown), device=shown.device).index_add(0, which, weight)
            weight = weight / share[which].clamp(min=1e-6) / len(shown)  # every shape counts the same
            attributes.append((weight * self._unlike(each, example.attributes[which])).sum())
            inner = self.heads.inside(each)  # (G*G, 16)
            insides.append(F.binary_cross_entropy_with_logits(inner, example.inside))
            place = _patch_places(example, self.model.config)  # (G*G, 2)
            positions.append(F.mse_loss(self.heads.position(each), _waves(place)))
            box = example.boxes[which]  # (G*G, 4)
            boxes.append((weight * (self.heads.box(each) - box).abs().sum(dim=1)).sum())
            center = (box[:, :2] + box[:, 2:]) / 2
            centers.append((weight * (self.heads.center(each) - _waves(center)).square().mean(dim=1)).sum())
        return {
            "attributes": torch.stack(attributes).mean(),
            "inside": 2 * torch.stack(insides).mean(),
            "position": torch.stack(positions).mean(),
            "boxes": torch.stack(boxes).mean(),
            "centers": torch.stack(centers).mean(),
        }

    def _unlike(self, tokens: Tensor, attributes: Tensor) -> Tensor:
        """(G*G, C) tokens, (G*G, 20) attributes of the shapes there -> (G*G,) how badly those are told."""
        parts = [len(COLORS), len(OUTLINES), 2]
        said, true = (torch.split(x, parts, dim=1) for x in (self.heads.attributes(tokens), attributes))
        named = [
            F.cross_entropy(ours, theirs, reduction="none") for ours, theirs in zip(said[:2], true[:2], strict=True)
        ]
        sizes = F.binary_cross_entropy_with_logits(said[2], true[2], reduction="none").sum(dim=1)
        return named[0] + 2 * named[1] + sizes

    def sam(self, examples: list[Example]) -> Losses:
        """SAM draws the masks of what boxes, roughly drawn, or a point inside show: one thing or several."""
        sam = self.model.sam
        with self._mixed_precision():
            embeddings = sam.encode_image(torch.stack([e.sam_input for e in examples])).float()
        logits, ious, wanted = [], [], []
        for example, embedding in zip(examples, embeddings, strict=True):
            together = 1 if torch.rand(()) < 0.5 else int(torch.randint(1, len(example.masks) + 1, ()))
            chosen = torch.rand(_PROMPTED, len(example.masks), device=embedding.device).topk(together).indices
            if together == 1 and torch.rand(()) < 0.3:
                prompts = self._point_prompts(example.masks[chosen[:, 0]])
            else:
                prompts = self._box_prompts(example.boxes[chosen])
            low_res, iou = sam.decode(sam.prepare(embedding), prompts)
            logits.append(low_res)
            ious.append(iou)
            wanted.append(example.masks[chosen].amax(dim=1))
        return mask_losses(torch.cat(logits), torch.cat(ious), torch.cat(wanted))

    def _box_prompts(self, boxes: Tensor) -> Tensor:
        """(X, n, 4) boxes, as fractions -> (X, 2n, D), their corners roughly where they are."""
        boxes = boxes * self.model.config.sam.image_size
        jitter = 0.06 * (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2) * torch.randn_like(boxes)
        prompts, _ = self.model.sam.prompt_encoder(points=None, boxes=(boxes + jitter).flatten(0, 1), masks=None)
        return torch.as_tensor(prompts).view(len(boxes), -1, self.model.config.sam.prompt_width)

    def _point_prompts(self, masks: Tensor) -> Tensor:
        """(X, T, T) -> (X, points, D), a point inside of each."""
        points = _points_inside(masks) * (self.model.config.sam.image_size / masks.shape[-1])
        labels = torch.ones(points.shape[:2], device=points.device)
        prompts, _ = self.model.sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        return torch.as_tensor(prompts)

    def text(self, examples: list[Words]) -> Losses:
        """Words alone: the text features tell how an expression is built."""
        with self._mixed_precision():
            expressions = self.model.encode_text(torch.cat([e.token_ids for e in examples]))
        return self._said(expressions, torch.cat([example.parse for example in examples]))

    def joint(self, examples: list[Example]) -> Losses:
        """Everything learns the masks of expressions; the inner steps are shown the way."""
        model = self.model
        with self._mixed_precision():
            seen = model.encode_image(
                torch.stack([e.clip_input for e in examples]), torch.stack([e.sam_input for e in examples])
            )
            expressions = model.encode_text(torch.cat([e.token_ids for e in examples]))
        counts = [len(e.token_ids) for e in examples]
        parts = zip(*(torch.split(tensor, counts) for tensor in expressions), strict=True)
        logits, ious, wanted, boxes, boxes_wanted, similarities = [], [], [], [], [], []
        marks, marks_wanted, summaries = [], [], []
        for example, image, part in zip(examples, seen, parts, strict=True):
            self._layers.clear()
            clip, sam = (tensor.float() for tensor in image)
            with self._mixed_precision():
                ssp = self._prompts(clip, ExpressionFeatures(*part))
            low_res, iou = model.sam.decode(model.sam.prepare(sam), ssp.prompts.float())
            logits.append(low_res)
            ious.append(iou)
            wanted.append(_union(example.meant, example.masks.flatten(1)).view(-1, *example.masks.shape[1:]))
            some = example.meant.any(dim=1)
            boxes.append(ssp.box.float()[some])
            boxes_wanted.append(_box_around(example.meant[some], example.clip_boxes))
            read, summary = self._readings(ssp.prompts)
            marks.append(read)
            summaries.append(summary)
            shown = _shown(example.patches)  # (N, G*G)
            marked = (example.meant, example.candidates, example.landmarks)
            marks_wanted.append(torch.stack([_union(each, shown) for each in marked], dim=1))  # (E, marks, G*G)
            mentioned = example.candidates | example.landmarks
            some = mentioned.any(dim=1)
            alike = torch.where(mentioned, 1.0, 0.3 * example.alike)[some]
            alike = (alike.unsqueeze(2) * shown).amax(dim=1)  # (E', G*G)
            similarities.append((ssp.similarity.float()[some] - alike).square().mean(dim=1))
        meant = torch.cat([example.meant.any(dim=1) for example in examples])  # (E,) whether anything is
        losses = mask_losses(torch.cat(logits), torch.cat(ious), torch.cat(wanted))
        losses |= no_target_loss(torch.cat(logits), meant)
        losses |= box_losses(torch.cat(boxes), torch.cat(boxes_wanted))
        losses["similarity"] = 4 * torch.cat(similarities).mean()
        losses |= mark_losses(torch.cat(marks, dim=1), torch.cat(marks_wanted))
        losses |= self._said(expressions, torch.cat([example.parse for example in examples]))
        summary = torch.cat(summaries, dim=1)
        losses |= summary_losses(
            summary[..., : 1 + _COUNTS],
            meant,
            torch.cat([example.candidates.sum(dim=1) for example in examples]),
        )
        losses |= _landmark_losses(summary[..., 1 + _COUNTS :], examples)
        if all(parameter.requires_grad for parameter in model.clip.visual.parameters()):
            losses |= self._patches(torch.stack([image.clip for image in seen]).float(), examples)
        return losses

    def refine(self, examples: list[Example]) -> Losses:
        """The same once more; that the learning rate starts high again is the difference."""
        return self.joint(examples)

    def _prompts(self, clip: Tensor, expressions: ExpressionFeatures) -> SSPOutput:
        """What `SSPSAM.segment` does before SAM decodes."""
        ssp = self.model.ssp
        projected = ssp.visual_attention_adapter.project(clip)
        language = LinguisticFeatures(expressions.words, expressions.word_attention, expressions.sentence)
        output: SSPOutput = ssp(clip, projected, expressions.clip_sentence, language, expressions.padding)
        return output

    def _readings(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads read in the prompt generator's layers.

        Returns:
            (layers - 1, E, marks, G*G) logits of what each patch is, after each layer but the last, and
            (layers, E, 1 + counts + 16): logits of whether there is something and of the number of candidates, and
            where the landmark is.
        """
        first = 1 + self.model.config.ssp.prompts
        layers = [tokens.float() for tokens in self._layers]
        patches = [head(x[:, first:]).transpose(1, 2) for head, x in zip(self.heads.patches, layers, strict=True)]
        learned = [*(tokens[:, :first] for tokens in layers), prompts.float()]
        summary = [head(x.mean(dim=1)) for head, x in zip(self.heads.summary, learned, strict=True)]
        return torch.stack(patches), torch.stack(summary)

    def _said(self, expressions: ExpressionFeatures, parse: Tensor) -> Losses:
        """Text features tell how an expression is built."""
        losses = []
        gate = expressions.sentence.float().tanh()  # what the patches are multiplied with
        for head, features in zip(self.heads.parse, (expressions.clip_sentence, gate), strict=True):
            parts = torch.split(head(features.float()), list(PARSE_SIZES), dim=1)
            losses += [F.cross_entropy(part, parse[:, index]) for index, part in enumerate(parts)]
        return {"parse": torch.stack(losses).mean()}

    def _mixed_precision(self) -> torch.autocast:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed)


def _shown(patches: Tensor) -> Tensor:
    """(N, G*G) how much of each patch a shape covers -> 0 to 1 whether it shows; the smallest shape shows somewhere."""
    return (patches / (0.5 * patches.amax(dim=1, keepdim=True)).clamp(min=1e-6)).clamp(max=1)


def _union(meant: Tensor, parts: Tensor) -> Tensor:
    """(E, N) which are meant, (N, X) what each covers -> (E, X) what all that are meant cover."""
    return (meant.float() @ parts).clamp(max=1)


def _landmark_losses(places: Tensor, examples: list[Example]) -> Losses:
    """(layers, E, 16) -> how badly the learned tokens know where the one landmark is, where there is one."""
    one = torch.cat([example.landmarks.sum(dim=1) == 1 for example in examples])  # (E,)
    boxes = torch.cat([example.landmarks.float() @ example.clip_boxes for example in examples])  # (E, 4)
    wanted = _waves((boxes[:, :2] + boxes[:, 2:]) / 2)
    unlike = (places - wanted).square().mean(dim=(0, 2))  # (E,)
    return {"landmark": 2 * (unlike * one).sum() / one.sum().clamp(min=1)}


def _box_around(meant: Tensor, boxes: Tensor) -> Tensor:
    """(E, N), (N, 4) -> (E, 4) the box around all that are meant."""
    low = torch.where(meant.unsqueeze(2), boxes[:, :2], torch.inf).amin(dim=1)
    high = torch.where(meant.unsqueeze(2), boxes[:, 2:], -torch.inf).amax(dim=1)
    return torch.cat([low, high], dim=1)


def _waves(places: Tensor) -> Tensor:
    """(..., 2) fractions -> (..., 16) sines and cosines, as position embeddings have them."""
    angles = places.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(_FREQUENCIES, device=places.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _patch_places(example: Example, config: Architecture) -> Tensor:
    """(G*G, 2) x, y of the middle of each of CLIP's patches, as fractions of SAM's square."""
    grid = config.clip.grid
    middle = (torch.arange(grid, device=example.picture.device) + 0.5) / grid
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    free = (1 - example.picture) / 2  # CLIP's canvas holds the picture in its middle, SAM's square at its top left
    return torch.stack([columns - free[1], rows - free[0]], dim=-1).flatten(0, 1)


def _points_inside(masks: Tensor) -> Tensor:
    """(N, T, T) -> (N, 1, 2) a random point x, y of each, in pixels."""
    flat = masks.flatten(1)
    index = torch.multinomial(flat.square() + 1e-9, 1)  # (N, 1)
    side = masks.shape[-1]
    return torch.stack([index % side, index // side], dim=-1) + 0.5
