"""`finetune`: checked lines -> examples -> steps -> the best checkpoint with its model card."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sspsam._version import __version__
from sspsam.checkpoints.directory import CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.saving import check_destination, save_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import FinetuningError
from sspsam.finetuning.board import FOLDER as BOARD_FOLDER
from sspsam.finetuning.board import Board
from sspsam.finetuning.calibrating import calibrate_if_possible
from sspsam.finetuning.card import finetuned_card
from sspsam.finetuning.checks import CheckedData, CheckedLine, check_lines, split_by_image
from sspsam.finetuning.curves import save_curves
from sspsam.finetuning.embeddings import EmbeddingStore
from sspsam.finetuning.examples import target_side
from sspsam.finetuning.lines import DataSource, read_lines
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.processes import Processes
from sspsam.finetuning.sampling import Sampler
from sspsam.finetuning.setup import FOREIGN, HELD_OUT, Knowledge, Material, Preparation, evaluation_of, score_of
from sspsam.finetuning.start import Start, StartOptions, checked_output
from sspsam.finetuning.state import LOG_NAME, Log, Progress, RunFolder, SavedState, read_log
from sspsam.finetuning.trainable import TrainableModel, default_parts
from sspsam.finetuning.training import Evaluation, Trainer
from sspsam.finetuning.validation import Validator
from sspsam.finetuning.worst import FOLDER as WORST_FOLDER
from sspsam.finetuning.worst import worst_lines, write_worst
from sspsam.utils.files import make_directory, replace_file
from sspsam.utils.paths import shown

REPORT_NAME: Final = "finetune.json"
CURVES_NAME: Final = "curves.png"
CARD_NAME: Final = "README.md"
_RUN_FOLDER: Final = "unfinished"
Message = Callable[[str], None]


@dataclass(frozen=True)
class FinetuneJob:
    """Data, starting point and output of a fine-tuning.

    Args:
        data: lines to learn from.
        start: checkpoint to start from.
        output: folder of the new checkpoint.
        held_out: lines that never train; None: a part of the images of `data`.
        rehearsal: lines about what the model knows; None: drawn scenes where the model knows drawn shapes, else none.
        negatives: phrases that refer to nothing in any image; None: foreign things where the model knows drawn shapes.
        skip_problems: whether to leave out lines with problems instead of refusing the data.
        overwrite: whether to replace a finished checkpoint, or the state of another training, in `output`.
        worst: number of the worst lines to show in `output/worst`; 0: none.
    """

    data: DataSource
    start: StartOptions
    output: Path
    held_out: DataSource | None = None
    rehearsal: DataSource | None = None
    negatives: Sequence[str] | None = None
    skip_problems: bool = False
    overwrite: bool = False
    worst: int = 0


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning.

    Args:
        directory: of the checkpoint.
        config: of the checkpoint.
        before, after: metrics of each part of the data that never trained.
        steps: of the whole training.
        best_step: step of the weights that were kept; 0: no step made the model better, and it is as before.
    """

    directory: Path
    config: ModelConfig
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    steps: int
    best_step: int


def finetune(
    job: FinetuneJob, options: FinetuneOptions | None = None, *, message: Message | None = None, progress: bool = False
) -> Finetuned | None:
    """Fine-tune a checkpoint on lines of the user; a training that was interrupted continues where it was saved.

    With `accelerate launch` or `torchrun` all processes call this function together, on one file system.

    Args:
        job: data, starting point and output.
        options: every number; None: the defaults.
        message: called with each line for the user.
        progress: whether to show bars on standard error.

    Returns:
        The result; None in all processes but the first.

    Raises:
        FinetuningError: lines have problems, there is too little data, or the output folder is in use.
        DatasetError: the data cannot be read.
        MissingExtraError: accelerate is not installed.
        NumericalError: a loss is not finite.
    """
    options = options or FinetuneOptions()
    job = dataclasses.replace(job, output=checked_output(job.output))
    _check_output(job)
    start = Start.of(job.start)
    start.require_other_folder(job.output)
    processes = Processes(start.device, options.mixed_precision)
    say: Message = message if message is not None and processes.is_first else _silent
    return _Run(job, options, start, processes, say, progress and processes.is_first).result()


def _silent(text: str) -> None:
    """Ignore a message."""


def _check_output(job: FinetuneJob) -> None:
    """Refuse to replace a finished checkpoint that the user did not give up."""
    check_destination(job.output)
    finished = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if os.path.exists(job.output / name)]
    if finished and not job.overwrite and not os.path.isdir(job.output / _RUN_FOLDER):
        raise FinetuningError(
            f"{shown(job.output)} holds a checkpoint already: choose another folder, or replace it with overwrite=True "
            "(command line: --overwrite)"
        )


@dataclass(frozen=True, eq=False)
class _Lines:
    """The user's lines after the checks and the split."""

    train: list[CheckedLine]
    held_out: list[CheckedLine]
    rehearsal: list[CheckedLine]
    known: list[CheckedLine]
    left_out: int

    @property
    def all_texts(self) -> list[str]:
        return [line.entry.text for line in (*self.train, *self.held_out, *self.rehearsal, *self.known)]


@dataclass(frozen=True, eq=False)
class _Run:
    """The order of a fine-tuning.

    Args:
        job, options: as given.
        start: the loaded starting point.
        processes: that train together.
        say: shows a line.
        show: whether to show bars.
    """

    job: FinetuneJob
    options: FinetuneOptions
    start: Start
    processes: Processes
    say: Message
    show: bool

    def result(self) -> Finetuned | None:
        """Run everything."""
        # Data: lines -> checked lines, split by image
        lines = self._lines()

        # Model: the parts that learn
        token_ids = torch.from_numpy(np.stack([self.start.tokenizer(text) for text in lines.all_texts]))
        parts = self.options.train or default_parts(self.start.model, token_ids)
        store = EmbeddingStore(self.start.predictor(self.processes.device))

        # Embeddings: images -> features, once
        material = self._material(lines, store)
        trainable = TrainableModel(self.start.model, parts, token_ids)
        trainable.to(self.processes.device)
        self.say(f"learning: {', '.join(trainable.parts)}; {sum(p.numel() for p in trainable.parameters()):,} numbers")

        # Training: examples -> weights
        settings = self._settings(lines, parts)
        folder = self._opened_folder(settings)
        validator = Validator(self.start.model, self.start.config, self.start.tokenizer, store, self.processes.device)
        evaluate = _Evaluator(validator, material, self.processes)
        progress, saved, log = self._begin(folder, evaluate, settings)
        board = None if log is None else Board(self.job.output / BOARD_FOLDER)
        trainer = Trainer(
            self.processes.accelerator,
            self.processes.device,
            self.options,
            trainable,
            store,
            self._sampler(material),
            target_side(self.start.config),
            evaluate,
            folder if self.processes.is_first else None,
            log,
            settings,
            _Reporter(self.say, board),
        )
        progress = trainer.train(progress, saved)
        self.processes.wait()

        # Result: the best weights -> checkpoint, model card, curves
        if progress.best_step is not None:
            trainable.load_state(folder.load_best(progress.best_step))
        after = evaluate()
        if after.score < score_of(progress.before):
            self.say("no step made the model better than it was before: look at the lines and at curves.png")
        if log is not None and board is not None:
            log.close()
            board.close()
        if not self.processes.is_first:
            return None
        result = self._written(lines, material, parts, progress, after)
        if self.job.worst:
            bad = worst_lines(lines.train, lines.held_out, validator, self.job.worst)
            write_worst(self.job.output / WORST_FOLDER, bad)
            self.say(f"the {len(bad)} worst lines are in {shown(self.job.output / WORST_FOLDER)}")
        self._calibrate(material)
        folder.remove()
        return result

    def _lines(self) -> _Lines:
        """Read, check and split all lines, and report every problem at once."""
        checked = self._checked(self.job.data)
        rehearsal = None if self.job.rehearsal is None else self._checked(self.job.rehearsal)
        given = None if self.job.held_out is None else self._checked(self.job.held_out)
        every = [data for data in (checked, rehearsal, given) if data is not None]
        problems = [problem for data in every for problem in data.problems]
        if problems and not self.job.skip_problems:
            CheckedData([], problems, 0).require_no_problems()
        if problems:
            self.say(f"{len(problems):,} lines with problems are left out; the first: {problems[0]}")
        for note in checked.notes():
            self.say(note)
        if given is None:
            train, held_out = split_by_image(checked.lines, self.options.held_out_share, self.options.seed)
        else:
            held_out = given.lines
            train = _without_images(checked.lines, held_out, self.say)
        old, known = ([], []) if rehearsal is None else split_by_image(rehearsal.lines, 0.2, self.options.seed)
        old = _without_images(old, held_out, self.say)
        if not train or not held_out:
            raise FinetuningError("there must be lines to learn from, and lines about other images that are held out")
        images = len({line.image for line in held_out})
        self.say(
            f"{len(train):,} lines about {len({line.image for line in train}):,} images to learn from; "
            f"{len(held_out):,} about {images:,} other images are held out (seed {self.options.seed}) and never train"
        )
        return _Lines(train, held_out, old, known, len(problems) + checked.duplicates)

    def _checked(self, data: DataSource) -> CheckedData:
        return check_lines(read_lines(data), self.start.tokenizer, show=self.show)

    def _material(self, lines: _Lines, store: EmbeddingStore) -> Material:
        knowledge = Knowledge(lines.rehearsal, lines.known, phrases=self.job.negatives or ())
        if self.start.knows_drawn_shapes:
            drawn = Knowledge.of_drawn_shapes(self.options, lines.all_texts, self.start.tokenizer)
            phrases = drawn.phrases if self.job.negatives is None else self.job.negatives
            knowledge = dataclasses.replace(drawn, lines=lines.rehearsal, known_lines=lines.known, phrases=phrases)
        elif self.job.rehearsal is None:
            self.say(
                "there is no rehearsal: the model may forget what these lines do not show, and answer expressions that "
                "refer to nothing; name lines of what it knows with --rehearsal"
            )
        preparation = Preparation(
            store,
            self.start.config,
            self.start.tokenizer,
            self.options,
            process=(self.processes.index, self.processes.count),
            wait=self.processes.wait,
            show=self.show,
        )
        return preparation.material(lines.train, lines.held_out, knowledge)

    def _sampler(self, material: Material) -> Sampler:
        return Sampler(
            material.new,
            material.old,
            material.negatives,
            batch_size=self.options.batch_size,
            rehearsal=self.options.rehearsal_share,
            seed=self.options.seed,
        )

    def _settings(self, lines: _Lines, parts: Sequence[str]) -> str:
        """Return a digest of everything that the bytes of the result depend on, as far as it is known."""
        numbers = dataclasses.asdict(self.options)
        numbers.pop("save_seconds")
        digest = hashlib.sha256()
        for part in (lines.train, lines.held_out, lines.rehearsal, lines.known):
            for line in part:
                mask = hashlib.sha256(np.packbits(line.entry.mask()).tobytes()).hexdigest()
                digest.update(f"{line.image}\t{line.entry.text}\t{line.entry.box}\t{mask}\n".encode())
            digest.update(b"\n")
        described = {
            "options": numbers,
            "parts": list(parts),
            "lines": digest.hexdigest(),
            "negatives": None if self.job.negatives is None else list(self.job.negatives),
            "start": self.start.config.fingerprint,
            "device": self.processes.device.type,
            "processes": self.processes.count,
            "embedding_dtype": self.job.start.embedding_dtype,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _opened_folder(self, settings: str) -> RunFolder:
        folder = RunFolder(self.job.output / _RUN_FOLDER)
        if self.processes.is_first:
            make_directory(self.job.output)
            folder.lock()
            if self.job.overwrite:
                folder.clear()
        self.processes.wait()
        return folder

    def _begin(
        self, folder: RunFolder, evaluate: Callable[[], Evaluation], settings: str
    ) -> tuple[Progress, SavedState | None, Log | None]:
        """Return the position, the state and the log: of an interrupted training, or new ones."""
        saved = folder.load()
        if saved is not None and saved.settings != settings:
            raise FinetuningError(
                f"{shown(folder.folder)} is of a training with other lines or options: repeat them, choose another "
                "folder, or start again with overwrite=True (command line: --overwrite)"
            )
        progress = Progress() if saved is None else saved.progress
        if saved is None:
            begin = time.monotonic()
            before = evaluate()
            progress.before, progress.evaluation_seconds = before.metrics, time.monotonic() - begin
            self.say(f"before: {described(before.metrics)}")
        else:
            self.say(f"continuing after step {progress.step:,}")
        log = Log(self.job.output / LOG_NAME, progress.log_bytes) if self.processes.is_first else None
        return progress, saved, log

    def _written(
        self, lines: _Lines, material: Material, parts: Sequence[str], progress: Progress, after: Evaluation
    ) -> Finetuned:
        """Write the checkpoint, the model card, the report and the curves."""
        output, before = self.job.output, progress.before
        origin = self.start.checkpoint.origin
        source = f"fine-tuned with sspsam finetune from {shown(origin)}, which is: {self.start.config.source}"
        config = dataclasses.replace(self.start.config, source=source[:2000])
        config = save_checkpoint(output, config, self.start.model.state_dict())
        report = {
            "sspsam": __version__,
            "start": {"origin": origin, "fingerprint": self.start.config.fingerprint},
            "fingerprint": config.fingerprint,
            "options": dataclasses.asdict(self.options) | {"train": list(parts)},
            "lines": {
                "train": len(lines.train),
                "train_images": len({line.image for line in lines.train}),
                "held_out": len(lines.held_out),
                "held_out_images": len({line.image for line in lines.held_out}),
                "without_target": sum(line.entry.no_target for line in (*lines.train, *lines.held_out)),
                "left_out": lines.left_out,
                "rehearsal": len(material.old),
                "negative_phrases": 0 if material.negatives is None else len(material.negatives.texts),
            },
            "held_out_digests": sorted({line.image for line in lines.held_out}),
            "steps": progress.step,
            "best_step": progress.best_step,
            "seconds": round(progress.seconds, 1),
            "before": before,
            "after": after.metrics,
        }
        replace_file(output / REPORT_NAME, (json.dumps(report, indent=2) + "\n").encode())
        replace_file(output / CARD_NAME, finetuned_card(output.name, config, report).encode())
        save_curves(output / CURVES_NAME, read_log(output / LOG_NAME), before)
        self.say(f"after:  {described(after.metrics)}")
        return Finetuned(output, config, before, after.metrics, progress.step, progress.best_step or 0)

    def _calibrate(self, material: Material) -> None:
        """Calibrate on the held-out lines and the foreign phrases about their images."""
        questions = [question for name in (HELD_OUT, FOREIGN) for question in material.questions.get(name, [])]
        entries = [question.entry for question in questions]
        note = calibrate_if_possible(self.job.output, entries, str(self.processes.device))
        if note:
            self.say(note)


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """Evaluates all parts of the data that never train, each process a share of the images."""

    validator: Validator
    material: Material
    processes: Processes

    def __call__(self) -> Evaluation:
        records = {}
        for name, questions in self.material.questions.items():
            images = list(dict.fromkeys(question.image for question in questions))
            own = set(images[self.processes.index :: self.processes.count])
            indices = [index for index, question in enumerate(questions) if question.image in own]
            records[name] = self.processes.gathered(self.validator.records(questions, indices))
        return evaluation_of(records)


@dataclass(frozen=True)
class _Reporter:
    """Shows the lines of the log."""

    say: Message
    board: Board | None

    def __call__(self, line: dict[str, Any]) -> None:
        if self.board is not None:
            self.board.write(line)
        if "score" in line:
            self.say(f"step {line['step']:,}: {described({k: v for k, v in line.items() if isinstance(v, dict)})}")
        elif line["step"] % 50 == 0:
            losses = ", ".join(f"{name} {line[name]:.3f}" for name in ("dice", "focal", "l1", "giou"))
            self.say(f"step {line['step']:,} of {line['steps']:,}: loss {line['loss']:.3f} ({losses})")


def described(metrics: dict[str, dict[str, Any]]) -> str:
    """Return the most important numbers of each part in one line."""
    parts = []
    for name, numbers in metrics.items():
        shown_numbers = [f"{key} {numbers[key]:.3f}" for key in ("mIoU", "N-acc") if numbers.get(key) is not None]
        parts.append(f"{name.replace('_', ' ')} {', '.join(shown_numbers)}")
    return "; ".join(parts)


def _without_images(lines: list[CheckedLine], held_out: Sequence[CheckedLine], say: Message) -> list[CheckedLine]:
    """Return the lines about other images than those that are held out."""
    images = {line.image for line in held_out}
    kept = [line for line in lines if line.image not in images]
    if len(kept) < len(lines):
        say(f"{len(lines) - len(kept):,} lines about held-out images are left out, so that no such image trains")
    return kept
