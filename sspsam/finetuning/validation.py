"""Records of expressions that do not train, from stored embeddings, as `sspsam eval` counts them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import inference_context
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.protocols import image_record
from sspsam.evaluation.records import Record
from sspsam.finetuning.embeddings import EmbeddingStore
from sspsam.models import SSPSAM, ImageFeatures
from sspsam.models.device_model import expressions_per_pass
from sspsam.models.layers import release_packed_weights
from sspsam.segmentation.postprocessing import box_on_image, foreground_pixels, logits_on_image, threshold_logit
from sspsam.segmentation.target_rule import is_no_target
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.arrays import FloatBox, Mask

_MOST_TOGETHER: Final = 32  # expressions in one pass of the decoder, on a GPU whose memory the training fills


@dataclass(frozen=True, eq=False)
class Question:
    """An expression to be answered.

    Args:
        image: key of the image's embedding.
        entry: of the expression.
    """

    image: str
    entry: Entry


@dataclass(frozen=True, eq=False)
class CertainAnswer:
    """An answer and the certainty of the model.

    Args:
        mask: (h, w) bool, before the no-target rule.
        no_target: whether the rule says that there is no target.
        certainty: IoU of the probabilities and the mask that they give, 0 to 1; without a target one minus the largest
            probability.
    """

    mask: Mask
    no_target: bool
    certainty: float


class _Answer(NamedTuple):
    """An answer of the network, before the no-target rule."""

    mask: Mask
    foreground_pixels: int
    box: FloatBox
    logits: Tensor  # (M, M)


class Validator:
    """Answers questions with the network as it is now.

    Args:
        model: the network.
        config: of the model.
        tokenizer: of the model.
        store: embeddings of the images.
        device: of the network.
    """

    def __init__(
        self, model: SSPSAM, config: ModelConfig, tokenizer: Tokenizer, store: EmbeddingStore, device: torch.device
    ) -> None:
        self._model, self._config, self._tokenizer = model, config, tokenizer
        self._store, self._device = store, device

    def records(self, questions: Sequence[Question], indices: Sequence[int]) -> list[Record]:
        """Answer questions and return their records, in the order of `indices`.

        Args:
            questions: all of them.
            indices: of those to answer; those about one image stand together.
        """
        release_packed_weights(self._model)  # packed before the last steps
        by_image: dict[str, list[int]] = {}
        for index in indices:
            by_image.setdefault(questions[index].image, []).append(index)
        records = {}
        for image, group in by_image.items():
            entries = [questions[index].entry for index in group]
            for index, entry, answer in zip(group, entries, self._answers(image, entries), strict=True):
                records[index] = self._record(index, entry, answer)
        release_packed_weights(self._model)
        return [records[index] for index in indices]

    def certain_answers(self, image: str, entries: Sequence[Entry]) -> list[CertainAnswer]:
        """Return the answers about one image with their certainty."""
        limit = self._config.postprocessing.no_target_pixels
        return [
            CertainAnswer(answer.mask, is_no_target(answer.foreground_pixels, limit), _certainty(answer.logits))
            for answer in self._answers(image, entries)
        ]

    def _answers(self, image: str, entries: Sequence[Entry]) -> Iterator[_Answer]:
        """Yield the answer to each expression about one image."""
        together = min(expressions_per_pass(self._device), _MOST_TOGETHER)
        with inference_context(self._device), self._device:
            features = self._store.image_features(image)
            prepared = self._model.prepare(ImageFeatures(*(tensor.to(self._device) for tensor in features)))
        for first in range(0, len(entries), together):
            texts = [entry.text for entry in entries[first : first + together]]
            with inference_context(self._device), self._device:
                token_ids = torch.stack([torch.from_numpy(self._tokenizer.read(text)[0]) for text in texts])
                prediction = self._model.segment(prepared, self._model.encode_text(token_ids.to(self._device)))
                answers = [self._answer(image, *row) for row in zip(prediction.low_res, prediction.box, strict=True)]
            yield from answers

    def _answer(self, image: str, logits: Tensor, box: Tensor) -> _Answer:
        """Return an answer from its (M, M) logits and the (4,) output of the box head, as the predictor does."""
        sizes, rules, geometry = self._config.architecture, self._config.postprocessing, self._store.geometries[image]
        low_res, sam_size = logits.unsqueeze(0), sizes.sam.image_size
        mask = logits_on_image(low_res, geometry, sam_size)[0] >= threshold_logit(rules.mask_threshold)
        foreground = foreground_pixels(low_res, sam_size, rules.no_target_frame)
        fractions = box.cpu().double().numpy()
        on_image = box_on_image(fractions, geometry, sizes.clip.image_size)
        return _Answer(mask.cpu().numpy(), int(foreground[0]), on_image, logits)

    def _record(self, index: int, entry: Entry, answer: _Answer) -> Record:
        record = image_record(
            index,
            entry.mask(),
            answer.mask,
            no_target=entry.no_target,
            predicted_no_target=is_no_target(answer.foreground_pixels, self._config.postprocessing.no_target_pixels),
            truth_box=entry.box,
            predicted_box=answer.box,
        )
        return replace(record, foreground_pixels=answer.foreground_pixels, image=entry.image.name, text=entry.text)


def _certainty(logits: Tensor) -> float:
    """Return the certainty of (M, M) logits; see `CertainAnswer`."""
    probability = logits.sigmoid()
    mask = probability >= 0.5
    if not mask.any():
        return float(1 - probability.max())
    return float(probability[mask].sum() / (mask.sum() + probability[~mask].sum()))
