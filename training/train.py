"""Trains the bundled model from nothing: `python -m training.train --output runs/shapes --processes 2`.

Stages follow one another as in the paper, in small: CLIP's text encoder, its image encoder, SAM, then everything,
twice. Each writes a checkpoint every minute or two and goes on from it when the same command runs again; a run that was
interrupted ends with the weights of one that was not. `log.jsonl` holds the curve, `model` the result.
"""

import argparse
import dataclasses
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from sspsam.models import SSPSAM
from training import recipe
from training.export import export, taken_up
from training.objectives import PATCH_HEADS, Objective
from training.optimizer import MuonAndAdamW
from training.scenes import Example, Examples, Texts, Words
from training.vocabulary import vocabulary_of

_SAVE_SECONDS = 90.0
Seen = TypeVar("Seen", Example, Words)
_PATCHES = ("model.clip.visual.", *(f"heads.{name}." for name in PATCH_HEADS))
# of a stage: how the names of parameters begin that it takes up of earlier ones, in this order
_TAKEN_UP: dict[str, dict[str, tuple[str, ...]]] = {
    "joint": {
        "text": ("model.clip.", "model.ssp.linguistic_attention_adapter.", "heads.parse."),
        "clip": _PATCHES,
        "sam": ("model.sam.",),
    },
    "refine": {"joint": ("model.", "heads.")},
}


def main(words: list[str] | None = None) -> None:
    """The command."""
    arguments = _arguments(words)
    arguments.output.mkdir(parents=True, exist_ok=True)
    chosen = recipe.RECIPES[arguments.recipe]
    vocabulary_of(chosen, arguments.output)  # once, before several processes ask for it
    if arguments.processes == 1:
        _run(0, arguments)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(29_500 + os.getpid() % 1000))
        mp.spawn(_run, (arguments,), nprocs=arguments.processes)  # type: ignore[attr-defined,no-untyped-call]
    if list(chosen.stages)[-1] in arguments.stages:
        export(chosen, arguments.output, arguments.output / "model")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, log and model")
    parser.add_argument("--recipe", choices=list(recipe.RECIPES), default="shapes")
    stages = list(recipe.RECIPES["shapes"].stages)
    parser.add_argument("--stages", nargs="+", choices=stages, default=stages)
    parser.add_argument("--images", type=int, help="scenes of each stage, instead of the recipe's number")
    parser.add_argument("--start", type=Path, help="checkpoint folder whose model stage joint starts from")
    parser.add_argument("--processes", type=int, default=1, help="on the CPU: one for each core is fastest")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes, for each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of most matrix products; float32 is faster on a CPU that has no instructions for bfloat16",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-steps", type=int, default=50)
    arguments = parser.parse_args(words)
    for option in ("images", "processes", "threads", "log_steps"):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            parser.error(f"--{option.replace('_', '-')} is 1 or more, not {getattr(arguments, option)}")
    for name, stage in recipe.RECIPES[arguments.recipe].stages.items():
        if stage.batch % arguments.processes:
            parser.error(f"--processes {arguments.processes} does not divide the batch of stage {name} ({stage.batch})")
    return arguments


def _run(rank: int, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    if arguments.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    for name in arguments.stages:
        Trainer(name, arguments, rank).run()
    if dist.is_initialized():
        dist.destroy_process_group()


class Trainer:
    """One stage in one process.

    Args:
        name: of the stage.
        arguments: of the command line.
        rank: of this process.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, rank: int) -> None:
        self.name, self.arguments, self.rank = name, arguments, rank
        self.recipe = recipe.RECIPES[arguments.recipe]
        self.stage = self.recipe.stages[name]
        if arguments.images:
            self.stage = dataclasses.replace(self.stage, images=arguments.images)
        self.device = torch.device(arguments.device)
        self.checkpoint = arguments.output / f"{name}.pt"
        self.vocabulary = vocabulary_of(self.recipe, arguments.output)
        self.steps = self.stage.images // self.stage.batch
        self.step = 0
        self._seed("weights")  # the same in every process
        self.objective = Objective(SSPSAM(self.recipe.in_training), arguments.precision == "bfloat16")
        state = self._begin()
        for key, parameter in self.objective.named_parameters():
            parameter.requires_grad_(not key.startswith(self.stage.frozen))
        self.objective.to(self.device)
        self.optimizer = MuonAndAdamW(
            self.objective,
            self.stage.learning_rate,
            self.stage.weight_decay,
            self.stage.slower,
            self.stage.slowness,
        )
        if state:
            self.optimizer.load_state_dict(state["optimizer"])

    def _begin(self) -> dict[str, Any] | None:
        """Go on from this stage's checkpoint, or take up what the earlier ones learnt."""
        if self.checkpoint.exists():
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
            self.objective.load_state_dict(state["objective"])
            self.step = state["step"]
            return state
        prepare(self.objective)
        if self.name == "joint" and self.arguments.start:
            self.objective.model.load_state_dict(taken_up(self.arguments.start, self.vocabulary))
        else:
            for earlier, parts in _TAKEN_UP.get(self.name, {}).items():
                checkpoint = self.arguments.output / f"{earlier}.pt"
                if not checkpoint.exists():
                    raise FileNotFoundError(
                        f"stage {self.name} takes up what stage {earlier} learnt, and there is no {checkpoint}: "
                        f"run that stage first{', or name a finished model with --start' * (self.name == 'joint')}"
                    )
                learned = torch.load(checkpoint, weights_only=True)["objective"]
                taken = {key: value for key, value in learned.items() if key.startswith(parts)}
                self.objective.load_state_dict(taken, strict=False)
        return None

    def run(self) -> None:
        """All the steps that are left."""
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        every = self.arguments.log_steps
        for examples in self._batches():
            rate = self.stage.learning_rate * schedule(self.step / self.steps, self.stage.warmup)
            for key, value in self._learn(examples, rate).items():
                sums[key] = sums.get(key, 0.0) + value
            self.step += 1
            if self.step % every == 0:
                took, logged = time.monotonic() - logged, time.monotonic()
                self._log({key: value / every for key, value in sums.items()}, rate, took)
                sums = {}
            if time.monotonic() - saved > _SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            if _abandoned():
                raise SystemExit("the command that began this training was killed")
        self._save()

    def _learn(self, examples: list[Any], rate: float) -> dict[str, float]:
        """One step; what each loss was."""
        self._seed(f"{self.step} {self.rank}")
        losses = self.objective(self.name, examples)
        total = torch.stack([loss for key, loss in losses.items() if key[0] != "#"]).sum()
        if not total.isfinite():
            raise FloatingPointError(f"stage {self.name}, step {self.step}: the loss is not finite")
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step(rate)
        return {key: float(loss.detach()) for key, loss in losses.items()}

    def _seed(self, what: str) -> None:
        """Every step draws from a seed of its own, so that an interruption changes nothing."""
        torch.manual_seed(zlib.crc32(f"{self.arguments.seed} {self.name} {what}".encode()))

    def _batches(self) -> Iterator[list[Any]]:
        seed = 1000 * self.arguments.seed + list(self.recipe.stages).index(self.name)
        examples = self._examples(seed)
        share = self.stage.batch // self.arguments.processes
        mine = [
            self.stage.batch * step + self.rank * share + each
            for step in range(self.step, self.steps)
            for each in range(share)
        ]
        if not mine:
            return
        for batch in DataLoader(Subset(examples, mine), share, num_workers=self.arguments.workers, collate_fn=list):
            yield [_to(example, self.device) for example in batch]

    def _examples(self, seed: int) -> Dataset[Any]:
        stage, weights = self.stage, recipe.KIND_WEIGHTS
        if self.name == "text":
            return Texts(seed, stage.expressions, self.vocabulary, stage.images, weights)
        vocabulary = self.vocabulary if stage.expressions else None
        return Examples(self.recipe.config, seed, stage.expressions, vocabulary, stage.images, weights)

    def _average_gradients(self) -> None:
        if self.arguments.processes == 1:
            return
        learning = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        # where one process asked SAM with boxes alone and the other with points too, their gradients differ in number
        used = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.uint8)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, somewhere in zip(learning, used.tolist(), strict=True):
            if somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.arguments.processes
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self, losses: dict[str, float], rate: float, seconds: float) -> None:
        if self.rank:
            return
        images_per_second = self.arguments.log_steps * self.stage.batch / seconds
        line = {"stage": self.name, "step": self.step, "images": self.step * self.stage.batch, "rate": rate}
        line |= {"images_per_second": round(images_per_second, 1)}
        line |= {key: round(value, 4) for key, value in losses.items()}
        with open(self.arguments.output / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        if self.rank:
            return
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        beside = self.checkpoint.with_suffix(".tmp")
        torch.save(state, beside)
        os.replace(beside, self.checkpoint)


def _abandoned() -> bool:
    """Whether this is one of several processes, and the one that began them was killed."""
    parent = mp.parent_process()
    return parent is not None and not parent.is_alive()


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate: a rise, then a cosine down to a fiftieth."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def prepare(objective: Objective) -> None:
    """Scale up where the usual initialisation does not suit: CLIP's features, normalised along the tokens, are tiny."""
    adapter = objective.model.ssp.visual_attention_adapter
    with torch.no_grad():
        cast(nn.Linear, adapter.image_projection.layers[0]).weight *= objective.model.config.clip.grid


def _to(example: Seen, device: torch.device) -> Seen:
    moved: dict[str, Tensor] = {
        field.name: getattr(example, field.name).to(device) for field in dataclasses.fields(example)
    }
    return type(example)(**moved)


if __name__ == "__main__":
    main()
