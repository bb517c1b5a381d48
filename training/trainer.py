"""One stage of the training in one process: resuming, steps, gradient averaging, logging and checkpoints."""

import dataclasses
import functools
import itertools
import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sspsam.models import SSPSAM
from training.batches import collate
from training.datasets import SceneDataset, TextDataset
from training.export import load_for_training
from training.heads import PATCH_HEADS
from training.objectives import Objective
from training.optimizer import MuonAndAdamW
from training.positions import fit_positions
from training.recipe import RECIPES, Stage
from training.vocabulary import load_or_create_vocabulary

_HEADS_RATE = 5e-3  # learning rate while the auxiliary heads learn alone
STAGES_FROM_A_MODEL = ("joint", "fine")  # stages that can start from a finished model
# for each stage, the earlier stages and the prefixes of the parameters that it loads from them, in this order
_INITIAL_PREFIXES: dict[str, dict[str, tuple[str, ...]]] = {
    "joint": {
        "text": ("model.clip.", "model.ssp.linguistic_attention_adapter.", "heads.parse."),
        "clip": ("model.clip.visual.", *(f"heads.{name}." for name in PATCH_HEADS)),
        "sam": ("model.sam.",),
    },
    "refine": {"joint": ("model.", "heads.")},
    "fine": {"refine": ("model.", "heads.")},
    "polish": {"fine": ("model.", "heads.")},
}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of `python -m training.train`.

    Args:
        output: folder for checkpoints, log and model.
        recipe: a name of `RECIPES`.
        stages: names of the stages to run.
        images: number of scenes of each stage; None: the recipe's number.
        batch_size: scenes per step of each stage; None: the recipe's number.
        learning_rate: peak of each stage; None: the recipe's.
        time: seconds that each stage takes, whatever number of scenes that is; None: the number of scenes counts.
        start: checkpoint folder that the first of the stages starts from; None: the earlier stages.
        processes: number of processes.
        threads: threads of each process.
        workers: data loading processes of each process.
        prefetch: batches that each of them draws ahead.
        device: of the model.
        precision: `bfloat16` or `float32`, of most matrix products.
        seed: determines weights, scenes and random draws.
        log_steps: steps between two lines of the log.
        save_seconds: seconds between two checkpoints of a stage.
    """

    output: Path
    recipe: str
    stages: list[str]
    images: int | None
    batch_size: int | None
    learning_rate: float | None
    time: float | None
    start: Path | None
    processes: int
    threads: int
    workers: int
    prefetch: int
    device: str
    precision: str
    seed: int
    log_steps: int
    save_seconds: float

    def stage(self, name: str) -> Stage:
        """Return a stage of the recipe, with these options instead of the recipe's numbers."""
        changes = {key: getattr(self, key) for key in ("images", "batch_size", "learning_rate") if getattr(self, key)}
        return dataclasses.replace(RECIPES[self.recipe].stages[name], **changes)


class Trainer:
    """One stage in one process.

    Args:
        name: of the stage.
        options: of the training.
        rank: of this process.

    Raises:
        FileNotFoundError: an earlier stage, whose weights this one needs, has not run.
    """

    def __init__(self, name: str, options: TrainingOptions, rank: int) -> None:
        self.name, self.options, self.rank = name, options, rank
        self.recipe = RECIPES[options.recipe]
        self.stage = options.stage(name)
        self.device = torch.device(options.device)
        self.checkpoint = options.output / f"{name}.pt"
        self.vocabulary = load_or_create_vocabulary(self.recipe, options.output)
        self.steps = self.stage.images // self.stage.batch_size
        self.config = self.recipe.stage_config(self.stage)
        self._seed("weights")  # the same in every process
        self.objective = Objective(
            SSPSAM(self.config.architecture), options.precision == "bfloat16", self.stage.no_target_weight
        )
        state = self._load_checkpoint()
        self.step: int = state["step"] if state else 0
        self.seconds: float = state["seconds"] if state else 0.0  # of training, up to the last step
        self._set_trainable(self.stage.frozen_prefixes)
        self.objective.to(self.device)
        self.optimizer = MuonAndAdamW(
            self.objective,
            self.stage.learning_rate,
            self.stage.weight_decay,
            self.stage.slow_prefixes,
            self.stage.slow_factor,
        )
        if state:
            self.optimizer.load_state_dict(state["optimizer"])

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """Load the weights of this stage's checkpoint and return its content, or start from earlier stages."""
        if self.checkpoint.exists():
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
            self.objective.load_state_dict(state["objective"])
            return state
        scale_image_projection(self.objective)
        if self.options.start and self.name == self.options.stages[0]:
            model = self.objective.model
            weights = load_for_training(self.options.start, self.vocabulary)
            model.load_state_dict(fit_positions(weights, model.state_dict()))
        else:
            self._load_earlier_stages()
        return None

    def _load_earlier_stages(self) -> None:
        from_a_model = self.name in STAGES_FROM_A_MODEL
        for earlier, prefixes in _INITIAL_PREFIXES.get(self.name, {}).items():
            checkpoint = self.options.output / f"{earlier}.pt"
            if not checkpoint.exists():
                raise FileNotFoundError(
                    f"stage {self.name} starts from the weights of stage {earlier}, but {checkpoint} does not exist: "
                    f"run stage {earlier} first{', or name a finished model with --start' * from_a_model}"
                )
            objective = torch.load(checkpoint, weights_only=True)["objective"]
            weights = {key: value for key, value in objective.items() if key.startswith(prefixes)}
            self.objective.load_state_dict(fit_positions(weights, self.objective.state_dict()), strict=False)

    def _set_trainable(self, frozen_prefixes: tuple[str, ...]) -> None:
        for key, parameter in self.objective.named_parameters():
            parameter.requires_grad_(not key.startswith(frozen_prefixes))

    def run(self) -> None:
        """Run all remaining steps.

        Raises:
            FloatingPointError: the loss is not finite.
            SystemExit: the process that started this one has been killed.
        """
        sums: dict[str, Tensor] = {}
        batches = self._batches()
        first_batch = next(batches, None)  # the time that the workers need to start is not part of the training
        saved = logged = last = time.monotonic()
        for batch in itertools.chain([] if first_batch is None else [first_batch], batches):
            for key, value in self._train_step(batch).items():
                sums[key] = sums[key] + value if key in sums else value
            self.step += 1
            self.seconds, last = self.seconds + time.monotonic() - last, time.monotonic()
            if self.step % self.options.log_steps == 0:
                elapsed, logged = time.monotonic() - logged, time.monotonic()
                self._log(sums, elapsed)
                sums = {}
            if time.monotonic() - saved > self.options.save_seconds:
                self._check_finite(sums)
                self._save()
                saved = time.monotonic()
            if _parent_was_killed():
                raise SystemExit("the command that started this training process was killed; run it again to resume")
            if self.progress >= 1:
                break
        self._check_finite(sums)
        self._save()

    @property
    def progress(self) -> float:
        """The finished part of the stage, 0 to 1."""
        return self.seconds / self.options.time if self.options.time else self.step / self.steps

    def _train_step(self, batch: Any) -> dict[str, Tensor]:
        """Update the weights once and return the losses."""
        self._seed(f"{self.step} {self.rank}")
        progress, stage = self.progress, self.stage
        only_heads = progress < stage.heads_alone
        self._set_trainable((*stage.frozen_prefixes, "model.") if only_heads else stage.frozen_prefixes)
        begun = (progress - stage.heads_alone) / (1 - stage.heads_alone)
        self.rate = _HEADS_RATE if only_heads else stage.learning_rate * schedule(begun, stage.warmup)
        losses = self.objective(self.name, batch)
        total = torch.stack([loss for key, loss in losses.items() if not key.startswith("#")]).sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        if self.options.processes > 1:
            average_gradients(self.objective, self.options.processes)
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step(self.rate)
        return {key: loss.detach() for key, loss in losses.items()} | {"#loss": total.detach()}

    def _seed(self, purpose: str) -> None:
        """Seed PyTorch; every step has its own seed, so that an interruption does not change the result."""
        torch.manual_seed(zlib.crc32(f"{self.options.seed} {self.name} {purpose}".encode()))

    def _batches(self) -> Iterator[Any]:
        """Yield this process's part of the batch of every remaining step."""
        loader = DataLoader(
            self._dataset(1000 * self.options.seed + list(self.recipe.stages).index(self.name)),
            batch_sampler=self._indices(),
            collate_fn=functools.partial(collate, image_dtype=torch.bfloat16 if self.objective.mixed else None),
            num_workers=self.options.workers,
            prefetch_factor=self.options.prefetch if self.options.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for batch in loader:
            yield batch.to(self.device)

    def _indices(self) -> Iterator[list[int]]:
        """Yield the numbers of this process's scenes of every remaining step; without end if the time decides."""
        per_process = self.stage.batch_size // self.options.processes
        for step in itertools.count(self.step) if self.options.time else range(self.step, self.steps):
            first = self.stage.batch_size * step + self.rank * per_process
            yield list(range(first, first + per_process))

    def _dataset(self, seed: int) -> Dataset[Any]:
        stage = self.stage
        if self.name == "text":
            return TextDataset(seed, stage.expressions, self.vocabulary, stage.images, stage.kind_weights)
        vocabulary = self.vocabulary if stage.expressions else None
        return SceneDataset(
            self.config, seed, stage.expressions, vocabulary, stage.images, stage.kind_weights, stage.sides
        )

    def _check_finite(self, losses: Mapping[str, Tensor]) -> None:
        if not all(value.isfinite() for value in losses.values()):
            raise FloatingPointError(
                f"stage {self.name}: the loss is not finite before step {self.step}; use another --seed"
            )

    def _log(self, losses: Mapping[str, Tensor], seconds: float) -> None:
        self._check_finite(losses)
        if self.rank:
            return
        steps, batch_size = self.options.log_steps, self.stage.batch_size
        line = {"stage": self.name, "step": self.step, "images": self.step * batch_size, "rate": self.rate}
        line |= {"seconds": round(self.seconds, 1), "images_per_second": round(steps * batch_size / seconds, 1)}
        line |= {key: round(float(value) / steps, 4) for key, value in losses.items()}
        with open(self.options.output / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        """Write the checkpoint of this stage; the file is replaced at once, so that it is always complete."""
        if self.rank:
            return
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)


def average_gradients(module: nn.Module, processes: int) -> None:
    """Average the gradients of a module over all processes, which must call this function together."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # the sets of parameters with a gradient differ if one process prompts SAM with boxes alone and another with points
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
    for parameter, somewhere in zip(parameters, has_gradient.tolist(), strict=True):
        if somewhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _parent_was_killed() -> bool:
    """Return True in one of several training processes if the process that started it has ended."""
    parent = mp.parent_process()
    return parent is not None and not parent.is_alive()


def schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate: a linear warmup, then a cosine down to a fiftieth.

    Args:
        progress: finished part of the stage, 0 to 1.
        warmup: the part over which the rate rises.
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def scale_image_projection(objective: Objective) -> None:
    """Scale up the initial weights that read CLIP's patch features, whose normalisation makes them very small."""
    adapter = objective.model.ssp.visual_attention_adapter
    with torch.no_grad():
        cast(nn.Linear, adapter.image_projection.layers[0]).weight *= objective.model.config.clip.grid
