"""Lines -> training examples and held-out questions: embeddings of all images, rehearsal and negatives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sspsam.config import ModelConfig
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.records import Record
from sspsam.finetuning.checks import CheckedLine
from sspsam.finetuning.embeddings import EmbeddingStore, ImageSource
from sspsam.finetuning.examples import Example
from sspsam.finetuning.negatives import Negatives, foreign_phrases
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.rehearsal import HELD_OUT_SCENES, DrawnEntries, drawn_entries
from sspsam.finetuning.training import Evaluation
from sspsam.finetuning.validation import Question
from sspsam.finetuning.views import View, holds, image_views
from sspsam.images.loading import ImageInput, Pixels
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.progress import item_progress

HELD_OUT: Final = "held_out"
KNOWN: Final = "known"
FOREIGN: Final = "foreign"
_MOST_FOREIGN_QUESTIONS: Final = 100


@dataclass(frozen=True)
class RehearsalData:
    """Data about things that a model knows already, and phrases that refer to nothing.

    Args:
        lines: of the user, for rehearsal.
        known_lines: held out of them, to see what is forgotten.
        scenes: drawn scenes, for rehearsal.
        known_scenes: others, to see what is forgotten.
        phrases: that refer to nothing in any of the images.
    """

    lines: Sequence[CheckedLine] = ()
    known_lines: Sequence[CheckedLine] = ()
    scenes: Sequence[DrawnEntries] = ()
    known_scenes: Sequence[DrawnEntries] = ()
    phrases: Sequence[str] = ()

    @classmethod
    def of_drawn_shapes(cls, options: FinetuneOptions, texts: Iterable[str], tokenizer: Tokenizer) -> "RehearsalData":
        """Draw scenes and choose foreign phrases for a model of drawn shapes.

        Args:
            options: share and number of scenes, share of negatives.
            texts: of the user.
            tokenizer: of the model.
        """
        scenes: list[DrawnEntries] = []
        if options.rehearsal_share:
            scenes = list(drawn_entries(options.rehearsal_scenes, options.seed))
        known = list(drawn_entries(HELD_OUT_SCENES, options.seed, held_out=True))
        phrases = foreign_phrases(texts, tokenizer) if options.negatives_share else []
        return cls(scenes=scenes, known_scenes=known, phrases=phrases)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Everything that a training reads.

    Args:
        new: examples of the user's lines.
        old: examples for rehearsal.
        negatives: foreign phrases.
        questions: that never train, by the name of their part.
    """

    new: list[Example]
    old: list[Example]
    negatives: Negatives | None
    questions: dict[str, list[Question]]


class TrainingDataBuilder:
    """Encodes images, and makes examples and questions about them.

    Args:
        store: of embeddings.
        config: of the model.
        tokenizer: of the model.
        options: shares and seed.
        process: number of this process, and number of processes, which share the images that are not encoded yet.
        wait: waits for the other processes.
        show: whether to show progress.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        config: ModelConfig,
        tokenizer: Tokenizer,
        options: FinetuneOptions,
        *,
        process: tuple[int, int],
        wait: Callable[[], None],
        show: bool,
    ) -> None:
        self._store, self._config, self._tokenizer, self._options = store, config, tokenizer, options
        self._process, self._wait, self._show = process, wait, show

    def build(
        self, train: Sequence[CheckedLine], held_out: Sequence[CheckedLine], rehearsal: RehearsalData
    ) -> TrainingData:
        """Encode all images, and return examples and questions."""
        lines = [*train, *held_out, *rehearsal.lines, *rehearsal.known_lines]
        sources: dict[str, ImageSource] = {line.image: partial(_image, line.entry) for line in lines}
        sources |= {scene.key: scene.source for scene in (*rehearsal.scenes, *rehearsal.known_scenes)}
        views = self._views(train)
        sources |= {key: partial(_view, view, line.entry) for line, key, view in views}
        self._encode(sources)
        negatives = Negatives.of(rehearsal.phrases, self._tokenizer, self._options.negatives_share)
        questions = {
            HELD_OUT: _questions_of_lines(held_out),
            KNOWN: _questions_of_lines(rehearsal.known_lines) + _questions_of_scenes(rehearsal.known_scenes),
            FOREIGN: [] if negatives is None else self._foreign(held_out, negatives),
        }
        return TrainingData(
            [self._example(line.image, line.entry) for line in train]
            + [self._view_example(line.entry, key, view) for line, key, view in views],
            [self._example(line.image, line.entry) for line in rehearsal.lines]
            + [self._example(scene.key, entry) for scene in rehearsal.scenes for entry in scene.entries],
            negatives,
            {name: part for name, part in questions.items() if part},
        )

    def _encode(self, sources: dict[str, ImageSource]) -> None:
        """Encode this process's share of the images first; then all are in the cache on disk."""
        process, processes = self._process
        with item_progress("images encoded", len(sources), 0, self._show) as advance:
            for key in list(sources)[process::processes]:
                self._store.add(key, sources[key])
                advance()
        self._wait()
        for key, source in sources.items():
            self._store.add(key, source)

    def _example(self, image: str, entry: Entry) -> Example:
        geometry = self._store.geometries[image]
        return Example.of(
            image, entry.text, self._token_ids(entry.text), entry.mask(), entry.box, geometry, self._config
        )

    def _views(self, lines: Sequence[CheckedLine]) -> list[tuple[CheckedLine, str, View]]:
        """Return the further views in which lines stay true, with the key of each view."""
        options = self._options
        if not (options.flips or options.crops):
            return []
        views = []
        for line in lines:
            rng = np.random.default_rng([options.seed, 4, int(line.image[:15], 16)])  # the same for all its lines
            mask = line.entry.mask()
            of_image = image_views(line.entry.size, mirrored=options.flips, crops=options.crops, rng=rng)
            true_views = [view for view in of_image if holds(view, line.entry.text, mask)]
            views += [(line, f"{line.image} {view.name}", view) for view in true_views]
        return views

    def _view_example(self, entry: Entry, key: str, view: View) -> Example:
        box = None if entry.box is None else view.box(entry.box, entry.size)
        mask, geometry = view.mask(entry.mask()), self._store.geometries[key]
        return Example.of(key, entry.text, self._token_ids(entry.text), mask, box, geometry, self._config)

    def _token_ids(self, text: str) -> NDArray[np.int64]:
        return self._tokenizer.read(text)[0]  # `check_lines` warned

    def _foreign(self, held_out: Sequence[CheckedLine], negatives: Negatives) -> list[Question]:
        """Ask about a random foreign phrase in each of the held-out images."""
        rng = np.random.default_rng([self._options.seed, 3])
        lines = {line.image: line for line in held_out}
        questions = []
        for image, line in islice(lines.items(), _MOST_FOREIGN_QUESTIONS):
            text = negatives.texts[int(rng.integers(len(negatives.texts)))]
            size, name = line.entry.size, line.entry.image_id
            key, embedded = f"{image} {text}", line.entry.embedded
            entry = Entry(line.entry.image, name, size, text, True, None, key, embedded=embedded)
            questions.append(Question(image, entry))
        return questions


def evaluation_of(records: dict[str, list[Record]]) -> Evaluation:
    """Return the metrics of each part, and the score: the mean of their mean IoUs.

    An expression without a target counts 1 where the answer is no target, else 0, as in GRES; of the held-out lines
    alone, all with a target, the score is their mIoU.
    """
    metrics = {name: compute_metrics(part) for name, part in records.items()}
    return Evaluation(score_of(metrics), {name: dict(numbers) for name, numbers in metrics.items()})


def score_of(metrics: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the score of the metrics of each part; see `evaluation_of`."""
    return sum(float(numbers["gIoU"] or 0.0) for numbers in metrics.values()) / len(metrics)


def _questions_of_lines(lines: Sequence[CheckedLine]) -> list[Question]:
    return [Question(line.image, line.entry) for line in lines]


def _questions_of_scenes(scenes: Sequence[DrawnEntries]) -> list[Question]:
    return [Question(scene.key, entry) for scene in scenes for entry in scene.entries]


def _image(entry: Entry) -> ImageInput:
    return entry.image_input


def _view(view: View, entry: Entry) -> Pixels:
    return view.pixels(entry.image_input)
