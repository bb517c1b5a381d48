"""`finetune`: checked lines -> examples -> steps -> the best checkpoint with its model card."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from sspsam.devices import dtype_name
from sspsam.errors import FinetuningError
from sspsam.finetuning.board import FOLDER as BOARD_FOLDER
from sspsam.finetuning.board import Board
from sspsam.finetuning.calibrating import calibrate_if_possible
from sspsam.finetuning.corrected_images import WORST_FOLDER
from sspsam.finetuning.embeddings import EmbeddingStore
from sspsam.finetuning.examples import target_side
from sspsam.finetuning.job import RUN_FOLDER, Finetuned, FinetuneJob, check_inputs, check_output
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.processes import Processes
from sspsam.finetuning.reporting import Message, Reporter, described
from sspsam.finetuning.results import write_result
from sspsam.finetuning.sampling import Sampler
from sspsam.finetuning.settings import difference, lines_digest, settings_text
from sspsam.finetuning.splitting import SplitLines, split_lines
from sspsam.finetuning.start import Start
from sspsam.finetuning.state import LOG_NAME, Log, Progress, RunFolder, SavedState
from sspsam.finetuning.trainable import TrainableModel, default_parts
from sspsam.finetuning.training import Evaluation, Trainer
from sspsam.finetuning.training_data import (
    FOREIGN,
    HELD_OUT,
    RehearsalData,
    TrainingData,
    TrainingDataBuilder,
    evaluation_of,
    score_of,
)
from sspsam.finetuning.validation import Validator
from sspsam.finetuning.worst import remove_worst, worst_lines, write_worst
from sspsam.messages import OVERWRITE, OptionMessage
from sspsam.utils.files import make_directory
from sspsam.utils.paths import shown

MEMORY_BYTES: Final = 1 << 30  # of the embeddings that stay in memory


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
        NumericalError: a loss or a weight is not finite.
    """
    options = options or FinetuneOptions()
    job = job.expanded()
    check_output(job)
    start = Start.of(job.start)
    start.require_other_folder(job.output)
    processes = Processes(start.device, options.mixed_precision)
    say: Message = message if message is not None and processes.is_first else _silent
    return _Run(job, options, start, processes, say, progress and processes.is_first).result()


def _silent(text: str) -> None:
    """Ignore a message."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Everything that the steps need.

    Args:
        lines: of the user.
        parts: that learn.
        store: of embeddings.
        data: examples and questions.
        trainable: the network with the parts that learn.
        validator: answers questions with the network as it is.
        settings: JSON text of everything that the bytes of the result depend on.
    """

    lines: SplitLines
    parts: Sequence[str]
    store: EmbeddingStore
    data: TrainingData
    trainable: TrainableModel
    validator: Validator
    settings: str


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
        # Data and model: lines -> examples about encoded images, and the parts that learn
        prepared = self._prepared()
        evaluate = _Evaluator(prepared.validator, prepared.data, self.processes)
        with RunFolder(self.job.output / RUN_FOLDER) as folder:
            # Training: examples -> weights, from the beginning or from the saved state
            self._open(folder)
            progress = self._trained(prepared, folder, evaluate)

            # Result: the best weights -> checkpoint, model card, curves, worst lines, calibration
            if progress.best_step is not None:
                prepared.trainable.load_state(folder.load_best(progress.best_step))
            after = evaluate()
            self.say(f"after:  {described(after.metrics)}")
            if progress.best_step == 0:
                self.say(
                    "no step made the model better than it was before, so that the new checkpoint has the weights of "
                    "the starting point: lower the rates (--learning-rate, --decoder-rate, --token-rate), add lines, "
                    "and look at curves.png"
                )
            if not self.processes.is_first:
                return None
            result = self._written(prepared, progress, after)
            folder.remove()
        return result

    def _prepared(self) -> _Prepared:
        start, device = self.start, self.processes.device
        lines = split_lines(self.job, self.options, start.tokenizer, self.say, self.show)
        check_inputs(self.job, [line.entry for line in lines.every])
        token_ids = torch.from_numpy(np.stack([start.tokenizer.read(text)[0] for text in lines.all_texts]))
        parts = self.options.train or default_parts(start.model, token_ids)
        predictor = start.predictor(device)
        store = EmbeddingStore(predictor, MEMORY_BYTES)
        data = self._training_data(lines, store)
        trainable = TrainableModel(start.model, parts, token_ids)
        trainable.to(device)
        self.say(f"learning: {', '.join(trainable.parts)}; {sum(p.numel() for p in trainable.parameters()):,} numbers")
        if "tokens" in parts and trainable.tokens is None:
            self.say("no token of the lines shares its row with others, so tokens have nothing to learn")
        validator = Validator(start.model, start.config, start.tokenizer, store, device)
        settings = self._settings(lines, parts, predictor.dtype)
        return _Prepared(lines, parts, store, data, trainable, validator, settings)

    def _open(self, folder: RunFolder) -> None:
        """Lock the folder, and clear it where the user gave up an earlier training."""
        if self.processes.is_first:
            make_directory(self.job.output)
            folder.lock()
            check_output(self.job)  # again: another process may have finished here while this one was encoding
            if self.job.overwrite:
                folder.clear()
        self.processes.wait()

    def _trained(self, prepared: _Prepared, folder: RunFolder, evaluate: Callable[[], Evaluation]) -> Progress:
        """Take all steps that are left, and return the last position."""
        progress, saved, log = self._begin(folder, evaluate, prepared)
        board = None if log is None else Board(self.job.output / BOARD_FOLDER)
        trainer = Trainer(
            accelerator=self.processes.accelerator,
            device=self.processes.device,
            options=self.options,
            trainable=prepared.trainable,
            store=prepared.store,
            sampler=self._sampler(prepared.data),
            side=target_side(self.start.config),
            evaluate=evaluate,
            run=folder if self.processes.is_first else None,
            log=log,
            settings=prepared.settings,
            report=Reporter(self.say, board),
        )
        try:
            progress = trainer.train(progress, saved)
        finally:
            if log is not None and board is not None:
                log.close()
                board.close()
        self.processes.wait()
        return progress

    def _written(self, prepared: _Prepared, progress: Progress, after: Evaluation) -> Finetuned:
        """Write all files of the result."""
        output, lines, data = self.job.output, prepared.lines, prepared.data
        result = write_result(output, self.start, lines, data, self.options, prepared.parts, progress, after)
        if not self.job.worst:
            remove_worst(output / WORST_FOLDER)
        else:
            bad = worst_lines(lines.train, lines.held_out, prepared.validator, self.job.worst)
            write_worst(output / WORST_FOLDER, bad)
            self.say(f"the {len(bad)} worst lines are in {shown(output / WORST_FOLDER)}")
        self._calibrate(data)
        return result

    def _training_data(self, lines: SplitLines, store: EmbeddingStore) -> TrainingData:
        rehearsal = RehearsalData(lines.rehearsal, lines.known, phrases=self.job.negatives or ())
        if self.start.knows_drawn_shapes:
            drawn = RehearsalData.of_drawn_shapes(self.options, lines.all_texts, self.start.tokenizer)
            phrases = drawn.phrases if self.job.negatives is None else self.job.negatives
            rehearsal = dataclasses.replace(drawn, lines=lines.rehearsal, known_lines=lines.known, phrases=phrases)
        elif self.job.rehearsal is None:
            self.say(
                "there is no rehearsal: the model may forget what these lines do not show, and answer expressions that "
                "refer to nothing; name lines of what it knows with --rehearsal"
            )
        builder = TrainingDataBuilder(
            store,
            self.start.config,
            self.start.tokenizer,
            self.options,
            process=(self.processes.index, self.processes.count),
            wait=self.processes.wait,
            show=self.show,
        )
        return builder.build(lines.train, lines.held_out, rehearsal)

    def _sampler(self, data: TrainingData) -> Sampler:
        return Sampler(
            data.new,
            data.old,
            data.negatives,
            batch_size=self.options.batch_size,
            rehearsal=self.options.rehearsal_share,
            seed=self.options.seed,
        )

    def _settings(self, lines: SplitLines, parts: Sequence[str], dtype: torch.dtype) -> str:
        """Return everything that the bytes of the result depend on, as far as it is known."""
        numbers = dataclasses.asdict(self.options)
        numbers.pop("save_seconds")
        settings = {
            "options": numbers,
            "parts": list(parts),
            "lines": lines_digest((lines.train, lines.held_out, lines.rehearsal, lines.known)),
            "negatives": None if self.job.negatives is None else list(self.job.negatives),
            "start": self.start.config.fingerprint,
            "device": self.processes.device.type,
            "processes": self.processes.count,
            "dtype": dtype_name(dtype),
            "embedding_dtype": self.job.start.embedding_dtype,
        }
        return settings_text(settings)

    def _begin(
        self, folder: RunFolder, evaluate: Callable[[], Evaluation], prepared: _Prepared
    ) -> tuple[Progress, SavedState | None, Log | None]:
        """Return the position, the state and the log: of an interrupted training, or new ones."""
        saved = folder.load()
        if saved is not None and saved.settings != prepared.settings:
            raise FinetuningError(
                OptionMessage(
                    f"{shown(folder.folder)} is of a training with {difference(prepared.settings, saved.settings)}: "
                    "repeat it as it was, choose another folder, or start again with ",
                    OVERWRITE,
                )
            )
        progress = Progress() if saved is None else saved.progress
        if saved is None:
            begin = time.monotonic()
            before = evaluate()
            progress.before, progress.evaluation_seconds = before.metrics, time.monotonic() - begin
            self.say(f"before: {described(before.metrics)}")
        else:
            self.say(f"continuing after step {progress.step:,}")
        score = score_of(progress.before)
        if progress.best_step != 0 and score >= progress.best_score:  # the starting weights, which are still there
            progress.best_step, progress.best_score = 0, score
            if self.processes.is_first:
                folder.save_best(0, prepared.trainable.state())
        log = Log(self.job.output / LOG_NAME, progress.log_bytes) if self.processes.is_first else None
        return progress, saved, log

    def _calibrate(self, data: TrainingData) -> None:
        """Calibrate on the held-out lines and the foreign phrases about their images."""
        questions = [question for name in (HELD_OUT, FOREIGN) for question in data.questions.get(name, [])]
        entries = [question.entry for question in questions]
        device, start = str(self.processes.device), self.job.start
        self.say(calibrate_if_possible(self.job.output, entries, device, start.dtype, start.cache()))


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """Evaluates all parts of the data that never train, each process a share of the images."""

    validator: Validator
    data: TrainingData
    processes: Processes

    def __call__(self) -> Evaluation:
        records = {}
        for name, questions in self.data.questions.items():
            images = list(dict.fromkeys(question.image for question in questions))
            own = set(images[self.processes.index :: self.processes.count])
            indices = [index for index, question in enumerate(questions) if question.image in own]
            records[name] = self.processes.gathered(self.validator.records(questions, indices))
        return evaluation_of(records)
