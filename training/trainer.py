"""One stage of the training in one process: resuming, steps, gradient averaging, logging and checkpoints."""

import dataclasses
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from sspsam.models import SSPSAM
from training.datasets import SceneDataset, SceneExample, TextDataset, TextExample
from training.export import load_for_training
from training.heads import PATCH_HEADS
from training.objectives import Objective
from training.optimizer import MuonAndAdamW
from training.recipe import KIND_WEIGHTS, RECIPES
from training.vocabulary import load_or_create_vocabulary

SAVE_SECONDS = 90.0  # time between two checkpoints of a stage
_ExampleT = TypeVar("_ExampleT", SceneExample, TextExample)
# for each stage, the earlier stages and the prefixes of the parameters that it loads from them, in this order
_INITIAL_PREFIXES: dict[str, dict[str, tuple[str, ...]]] = {
    "joint": {
        "text": ("model.clip.", "model.ssp.linguistic_attention_adapter.", "heads.parse."),
        "clip": ("model.clip.visual.", *(f"heads.{name}." for name in PATCH_HEADS)),
        "sam": ("model.sam.",),
    },
    "refine": {"joint": ("model.", "heads.")},
}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of `python -m training.train`.

    Args:
        output: folder for checkpoints, log and model.
        recipe: a name of `RECIPES`.
        stages: names of the stages to run.
        images: number of scenes of each stage; None: the recipe's number.
        start: checkpoint folder that stage joint starts from; None: the earlier stages.
        processes: number of processes.
        threads: threads of each process.
        workers: data loading processes of each process.
        device: of the model.
        precision: `bfloat16` or `float32`, of most matrix products.
        seed: determines weights, scenes and random draws.
        log_steps: steps between two lines of the log.
    """

    output: Path
    recipe: str
    stages: list[str]
    images: int | None
    start: Path | None
    processes: int
    threads: int
    workers: int
    device: str
    precision: str
    seed: int
    log_steps: int


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
        self.stage = self.recipe.stages[name]
        if options.images:
            self.stage = dataclasses.replace(self.stage, images=options.images)
        self.device = torch.device(options.device)
        self.checkpoint = options.output / f"{name}.pt"
        self.vocabulary = load_or_create_vocabulary(self.recipe, options.output)
        self.steps = self.stage.images // self.stage.batch_size
        self._seed("weights")  # the same in every process
        self.objective = Objective(SSPSAM(self.recipe.training_architecture), options.precision == "bfloat16")
        state = self._load_checkpoint()
        self.step: int = state["step"] if state else 0
        for key, parameter in self.objective.named_parameters():
            parameter.requires_grad_(not key.startswith(self.stage.frozen_prefixes))
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
        if self.name == "joint" and self.options.start:
            self.objective.model.load_state_dict(load_for_training(self.options.start, self.vocabulary))
        else:
            self._load_earlier_stages()
        return None

    def _load_earlier_stages(self) -> None:
        for earlier, prefixes in _INITIAL_PREFIXES.get(self.name, {}).items():
            checkpoint = self.options.output / f"{earlier}.pt"
            if not checkpoint.exists():
                raise FileNotFoundError(
                    f"stage {self.name} starts from the weights of stage {earlier}, but {checkpoint} does not exist: "
                    f"run stage {earlier} first{', or name a finished model with --start' * (self.name == 'joint')}"
                )
            objective = torch.load(checkpoint, weights_only=True)["objective"]
            weights = {key: value for key, value in objective.items() if key.startswith(prefixes)}
            self.objective.load_state_dict(weights, strict=False)

    def run(self) -> None:
        """Run all remaining steps.

        Raises:
            FloatingPointError: the loss is not finite.
            SystemExit: the process that started this one has been killed.
        """
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        log_steps = self.options.log_steps
        for examples in self._batches():
            rate = self.stage.learning_rate * schedule(self.step / self.steps, self.stage.warmup)
            for key, value in self._train_step(examples, rate).items():
                sums[key] = sums.get(key, 0.0) + value
            self.step += 1
            if self.step % log_steps == 0:
                elapsed, logged = time.monotonic() - logged, time.monotonic()
                self._log({key: value / log_steps for key, value in sums.items()}, rate, elapsed)
                sums = {}
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            if _parent_was_killed():
                raise SystemExit("the command that started this training process was killed; run it again to resume")
        self._save()

    def _train_step(self, examples: list[Any], rate: float) -> dict[str, float]:
        """Update the weights once and return the losses."""
        self._seed(f"{self.step} {self.rank}")
        losses = self.objective(self.name, examples)
        total = torch.stack([loss for key, loss in losses.items() if not key.startswith("#")]).sum()
        if not total.isfinite():
            raise FloatingPointError(f"stage {self.name}, step {self.step}: the loss is not finite; use another --seed")
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        if self.options.processes > 1:
            average_gradients(self.objective, self.options.processes)
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step(rate)
        return {key: float(loss.detach()) for key, loss in losses.items()}

    def _seed(self, purpose: str) -> None:
        """Seed PyTorch; every step has its own seed, so that an interruption does not change the result."""
        torch.manual_seed(zlib.crc32(f"{self.options.seed} {self.name} {purpose}".encode()))

    def _batches(self) -> Iterator[list[Any]]:
        """Yield this process's part of the batch of every remaining step."""
        dataset = self._dataset(1000 * self.options.seed + list(self.recipe.stages).index(self.name))
        per_process = self.stage.batch_size // self.options.processes
        indices = [
            self.stage.batch_size * step + self.rank * per_process + offset
            for step in range(self.step, self.steps)
            for offset in range(per_process)
        ]
        if not indices:
            return
        subset = Subset(dataset, indices)
        for batch in DataLoader(subset, per_process, num_workers=self.options.workers, collate_fn=list):
            yield [_moved(example, self.device) for example in batch]

    def _dataset(self, seed: int) -> Dataset[Any]:
        stage = self.stage
        if self.name == "text":
            return TextDataset(seed, stage.expressions, self.vocabulary, stage.images, KIND_WEIGHTS)
        vocabulary = self.vocabulary if stage.expressions else None
        return SceneDataset(self.recipe.config, seed, stage.expressions, vocabulary, stage.images, KIND_WEIGHTS)

    def _log(self, losses: dict[str, float], rate: float, seconds: float) -> None:
        if self.rank:
            return
        images_per_second = self.options.log_steps * self.stage.batch_size / seconds
        line = {"stage": self.name, "step": self.step, "images": self.step * self.stage.batch_size, "rate": rate}
        line |= {"images_per_second": round(images_per_second, 1)}
        line |= {key: round(value, 4) for key, value in losses.items()}
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


def _moved(example: _ExampleT, device: torch.device) -> _ExampleT:
    """Copy an example to a device."""
    tensors: dict[str, Tensor] = {
        field.name: getattr(example, field.name).to(device) for field in dataclasses.fields(example)
    }
    return type(example)(**tensors)
