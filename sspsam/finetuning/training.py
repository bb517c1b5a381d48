"""The loop: a batch, its losses, one step of the optimizer; evaluations, states and the best weights between them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from sspsam.errors import NumericalError, OutOfMemoryError, warn
from sspsam.finetuning.embeddings import EmbeddingStore
from sspsam.finetuning.examples import Example, collate, counts_of
from sspsam.finetuning.network import segment_pairs
from sspsam.finetuning.objective import LOSSES, Counts, losses
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.sampling import Sampler
from sspsam.finetuning.schedule import learning_rate
from sspsam.finetuning.state import Log, Progress, RunFolder, SavedState
from sspsam.finetuning.trainable import TrainableModel
from sspsam.utils.memory import is_out_of_memory, release_memory

_EVALUATIONS: Final = 10
_FEWEST_STEPS_BETWEEN: Final = 25
_TIMED_STEPS: Final = (3, 13)  # steps whose time decides about the number of steps
_LOG_STEPS: Final = 10


class Accelerator(Protocol):
    """The part of accelerate's `Accelerator` that the loop uses."""

    process_index: int
    num_processes: int
    scaler: Any

    def autocast(self) -> Any: ...
    def backward(self, loss: Tensor) -> None: ...
    def reduce(self, tensor: Tensor, reduction: str) -> Tensor: ...


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        score: larger is better; decides about the best weights and the end.
        metrics: flat numbers by the name of the part of the data.
    """

    score: float
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Trainer:
    """One training in one process.

    Args:
        accelerator: precision and the other processes.
        device: of the parts that learn.
        options: every number.
        trainable: the parts that learn.
        store: embeddings of the images.
        sampler: of the batches.
        side: R/2, side of the masks that are compared.
        evaluate: called with all processes together.
        run: folder of the state; None in all processes but the first.
        log: None in all processes but the first.
        settings: JSON text of everything that the bytes depend on.
        report: called with each line of the log.
    """

    accelerator: Accelerator
    device: torch.device
    options: FinetuneOptions
    trainable: TrainableModel
    store: EmbeddingStore
    sampler: Sampler
    side: int
    evaluate: Callable[[], Evaluation]
    run: RunFolder | None
    log: Log | None
    settings: str
    report: Callable[[dict[str, Any]], None]

    def train(self, progress: Progress, saved: SavedState | None) -> Progress:
        """Train from a position to the end; return the last position.

        Args:
            progress: where to begin.
            saved: the weights and the optimizer at that position; None: the first step.

        Raises:
            NumericalError: a loss or a weight is not finite.
            OutOfMemoryError: not enough memory for a single example.
        """
        optimizer = self._optimizer(saved)
        saved_at = time.monotonic()
        while progress.step < self._steps(progress) and not self._has_stopped(progress):
            begin = time.monotonic()
            self._set_rates(optimizer, progress)
            for name, value in self._step(optimizer, progress).items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.step += 1
            progress.seconds += time.monotonic() - begin
            if progress.step % _LOG_STEPS == 0:
                self._write_losses(optimizer, progress)
            is_last = progress.step >= self._steps(progress)
            if is_last or progress.step % self._eval_steps(progress) == 0:
                self._evaluate(progress)
            elif time.monotonic() - saved_at < self.options.save_seconds:
                continue
            self._save(optimizer, progress)
            saved_at = time.monotonic()
        return progress

    def _optimizer(self, saved: SavedState | None) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.trainable.groups(self.options), lr=self.options.learning_rate)
        if saved is not None:
            self.trainable.load_state(saved.weights)
            optimizer.load_state_dict(dict(saved.optimizer))
            if self.accelerator.scaler is not None and saved.scaler:
                self.accelerator.scaler.load_state_dict(dict(saved.scaler))
        return optimizer

    def _steps(self, progress: Progress) -> int:
        """Return the number of steps, which the time of some first steps decides where there is a budget."""
        if progress.steps is not None:
            return progress.steps
        planned = self._planned(progress)
        if self.options.time is None:
            progress.steps = planned
            return planned
        first, last = _TIMED_STEPS
        if progress.step == first:
            progress.seconds = 0.0
        if progress.step < last:
            return planned
        per_step = progress.seconds / (last - first)
        left = self.options.time - progress.seconds - self._evaluations(progress) * progress.evaluation_seconds
        possible = torch.tensor(last + max(0.0, left) / max(per_step, 1e-6))
        mean = self.accelerator.reduce(possible.to(self.device), "mean")
        progress.steps = max(last, min(planned, int(mean)))
        return progress.steps

    def _planned(self, progress: Progress) -> int:
        """Return the number of steps, as far as it is known."""
        return progress.steps or self.options.steps or self.sampler.steps(self.options.epochs)

    def _evaluations(self, progress: Progress) -> int:
        """Return the largest number of evaluations; of a time budget they take at most a third."""
        if self.options.time is None:
            return _EVALUATIONS
        return max(1, min(_EVALUATIONS, int(self.options.time / 3 / max(progress.evaluation_seconds, 1e-3))))

    def _eval_steps(self, progress: Progress) -> int:
        between = -(-self._planned(progress) // self._evaluations(progress))
        return self.options.eval_steps or max(_FEWEST_STEPS_BETWEEN, between)

    def _has_stopped(self, progress: Progress) -> bool:
        patience = self.options.patience
        return patience is not None and progress.evaluations_since_best >= patience

    def _set_rates(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        options, steps = self.options, self._planned(progress)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                progress.step,
                steps,
                group["peak"],
                first=min(options.warmup_rate, group["peak"]),
                last=min(options.final_rate, group["peak"]),
                warmup=options.warmup,
            )
        self.trainable.set_decoder_frozen(progress.step < options.decoder_frozen * steps)

    def _step(self, optimizer: torch.optim.Optimizer, progress: Progress) -> dict[str, float]:
        """Update the weights once and return the losses of the whole batch."""
        batch = self.sampler.batch(progress.step)
        counts = counts_of(batch)
        own = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        sums = self._gradients(optimizer, own, counts, progress)
        parameters = [parameter for parameter in self.trainable.parameters() if parameter.requires_grad]
        sums = self._reduce(parameters, sums)
        if not sums.isfinite().all():
            raise NumericalError(
                f"the loss is not finite at step {progress.step + 1}: use a lower learning rate, or no mixed precision"
            )
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, self.options.clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return dict(zip(LOSSES, sums.tolist(), strict=True))

    def _gradients(
        self, optimizer: torch.optim.Optimizer, examples: Sequence[Example], counts: Counts, progress: Progress
    ) -> Tensor:
        """Compute gradients part by part; where memory runs out, begin again with parts of half the size."""
        while True:
            try:
                optimizer.zero_grad(set_to_none=True)
                sums = torch.zeros(len(LOSSES), device=self.device)
                size = max(1, min(progress.micro_batch, len(examples)))
                for first in range(0, len(examples), size):
                    sums += self._backward(examples[first : first + size], counts)
                return sums
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                half = min(progress.micro_batch, len(examples)) // 2
            # outside of the except clause, whose traceback would keep the memory that has to be freed
            optimizer.zero_grad(set_to_none=True)
            release_memory()
            if half == 0:
                raise OutOfMemoryError("not enough memory to learn from a single example")
            progress.micro_batch = half
            warn(f"not enough memory for the batch: gradients are accumulated over {half} examples at a time")

    def _backward(self, examples: Sequence[Example], counts: Counts) -> Tensor:
        """Add the gradients of some examples and return their losses, (4,)."""
        device = self.device
        batch = collate(examples, self.side).to(device)
        features = self.store.features(batch.images, device)
        with self.accelerator.autocast(), device:
            expressions = self.trainable.encode_text(batch.token_ids)
            output = segment_pairs(self.trainable.model, features, batch.image, expressions)
        parts = losses(output.low_res.float(), output.box.float(), batch.targets, counts, self.options)
        stacked = torch.stack([parts[name] for name in LOSSES])
        self.accelerator.backward(stacked.sum())
        return stacked.detach()

    def _reduce(self, parameters: Sequence[torch.nn.Parameter], sums: Tensor) -> Tensor:
        """Add up gradients and losses over all processes; the losses are divided by the counts of the whole batch."""
        if self.accelerator.num_processes == 1:
            return sums
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat = torch.cat([sums, *(gradient.flatten() for gradient in gradients)])
        flat = self.accelerator.reduce(flat, "sum")
        sums, *parts = torch.split(flat, [len(sums), *(gradient.numel() for gradient in gradients)])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return sums

    def _evaluate(self, progress: Progress) -> None:
        """Evaluate, and keep the weights if they are the best ones."""
        if not all(parameter.isfinite().all() for parameter in self.trainable.parameters()):
            step = progress.step  # the answers of these weights would look like no target
            raise NumericalError(
                f"the weights are not finite after step {step}: use a lower learning rate, or no mixed precision"
            )
        self.trainable.write_token_rows()
        evaluation = self.evaluate()
        is_best = evaluation.score > progress.best_score
        if is_best:
            progress.best_step, progress.best_score = progress.step, evaluation.score
        is_highest = evaluation.score > progress.highest_score  # patience: a training may begin by getting worse
        progress.highest_score = max(progress.highest_score, evaluation.score)
        progress.evaluations_since_best = 0 if is_highest else progress.evaluations_since_best + 1
        if is_best and self.run is not None:
            self.run.save_best(progress.step, self.trainable.state())
        self._write({"step": progress.step, "score": evaluation.score, **evaluation.metrics})

    def _save(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        if self.run is None or self.log is None:
            return
        progress.log_bytes = self.log.length
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        weights = self.trainable.state()
        self.run.save(SavedState(self.settings, progress, weights, optimizer.state_dict(), scaler))
        if progress.best_step is not None:
            self.run.remove_older_best(progress.best_step)

    def _write_losses(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        means = {name: value / _LOG_STEPS for name, value in progress.sums.items()}
        progress.sums = {}
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        line = {"step": progress.step, "steps": self._planned(progress), "loss": sum(means.values()), **means}
        self._write({**line, "rates": rates, "seconds": round(progress.seconds, 2)})

    def _write(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)
        self.report(line)
