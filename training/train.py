"""Trains the bundled model from nothing: `python -m training.train --output runs/shapes`.

Stages follow one another as in the paper, in small: CLIP's image encoder, SAM, then everything. Each writes a
checkpoint every few minutes and goes on from it when the same command runs again; `log.jsonl` holds the curve.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from sspsam.config import Architecture, ModelConfig
from sspsam.models import SSPSAM
from sspsam.shapes import ask, draw_scene
from sspsam.text import Tokenizer
from training import recipe
from training.objectives import Objective
from training.optimizer import MuonAndAdamW
from training.scenes import Example, Examples
from training.vocabulary import Vocabulary

_SAVE_SECONDS = 90.0
_LOG_STEPS = 50


def main() -> None:
    """The command."""
    arguments = _arguments()
    if arguments.processes == 1:
        _run(0, arguments)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(29_500 + os.getpid() % 1000))
        torch.multiprocessing.spawn(_run, (arguments,), nprocs=arguments.processes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, log and model")
    parser.add_argument("--stages", nargs="+", choices=list(recipe.STAGES), default=list(recipe.STAGES))
    parser.add_argument("--images", type=int, help="scenes of each stage, instead of the recipe's number")
    parser.add_argument("--processes", type=int, default=1, help="on the CPU: one for each core is fastest")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes, for each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _run(rank: int, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    if arguments.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=arguments.processes)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.stages:
        stage = recipe.STAGES[name]
        if arguments.images:
            stage = recipe.smaller(stage, arguments.images)
        Trainer(name, stage, arguments, rank).run()
    if dist.is_initialized():
        dist.destroy_process_group()


class Trainer:
    """One stage in one process.

    Args:
        name: of the stage.
        stage: how much and how fast.
        arguments: of the command line.
        rank: of this process.
    """

    def __init__(self, name: str, stage: recipe.Stage, arguments: argparse.Namespace, rank: int) -> None:
        self.name, self.stage, self.rank, self.world = name, stage, rank, arguments.processes
        self.output, self.seed, self.workers = arguments.output, arguments.seed, arguments.workers
        self.device = torch.device(arguments.device)
        self.checkpoint = self.output / f"{name}.pt"
        torch.manual_seed(1000 * self.seed + list(recipe.STAGES).index(name))
        self.vocabulary = _vocabulary(self.output)
        self.objective = Objective(SSPSAM(in_training(recipe.ARCHITECTURE, self.vocabulary)))
        self.steps = stage.images // stage.batch
        self.step = 0
        state = self._resume()
        self.objective.to(self.device)
        self.optimizer = MuonAndAdamW(self.objective, stage.learning_rate, stage.weight_decay)
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
        torch.manual_seed(hash((self.seed, self.name, self.step, rank)) % 2**31)

    def _resume(self) -> dict[str, Any] | None:
        if self.checkpoint.exists():
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
            self.objective.load_state_dict(state["objective"])
            self.step = state["step"]
            return state
        names = list(recipe.STAGES)
        prepare(self.objective)
        if self.name == "joint":
            for earlier, parts in (("clip", ("model.clip.visual.", "heads.")), ("sam", ("model.sam.",))):
                file = self.output / f"{earlier}.pt"
                if not file.exists():
                    print(f"{file} is missing: stage {names[-1]} starts without it", flush=True)
                    continue
                learned = torch.load(file, weights_only=True)["objective"]
                taken = {key: value for key, value in learned.items() if key.startswith(parts)}
                self.objective.load_state_dict(taken, strict=False)
        return None

    def run(self) -> None:
        """All the steps that are left."""
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        for examples in self._batches():
            rate = self.stage.learning_rate * schedule(self.step / self.steps, self.stage.warmup)
            losses = self.objective(self.name, examples)
            total = torch.stack([loss for key, loss in losses.items() if key[0] != "#"]).sum()
            self.optimizer.zero_grad()
            total.backward()
            self._average_gradients()
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
            if not total.isfinite():
                raise FloatingPointError(f"stage {self.name}, step {self.step}: the loss is not finite")
            self.optimizer.step(rate)
            self.step += 1
            for key, loss in losses.items():
                sums[key] = sums.get(key, 0.0) + float(loss.detach())
            if self.step % _LOG_STEPS == 0:
                took, logged = time.monotonic() - logged, time.monotonic()
                self._log({key: value / _LOG_STEPS for key, value in sums.items()}, rate, took)
                sums = {}
            if time.monotonic() - saved > _SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()

    def _batches(self) -> Iterator[list[Example]]:
        vocabulary = self.vocabulary if self.stage.expressions else None
        seed = 1000 * self.seed + list(recipe.STAGES).index(self.name)
        config = training_config()
        examples = Examples(config, seed, self.stage.expressions, vocabulary, self.stage.images)
        share = self.stage.batch // self.world
        mine = [
            self.stage.batch * step + self.rank * share + each
            for step in range(self.step, self.steps)
            for each in range(share)
        ]
        loader = DataLoader(
            Subset(examples, mine),
            batch_size=share,
            num_workers=self.workers,
            collate_fn=list,
            persistent_workers=False,
        )
        for batch in loader:
            yield [_to(example, self.device) for example in batch]

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self, losses: dict[str, float], rate: float, seconds: float) -> None:
        if self.rank:
            return
        images = self.step * self.stage.batch
        line = {"stage": self.name, "step": self.step, "images": images, "rate": rate}
        line |= {"images_per_second": round(_LOG_STEPS * self.stage.batch / seconds, 1)}
        line |= {key: round(value, 4) for key, value in losses.items()}
        with open(self.output / "log.jsonl", "a") as file:
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


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate: a rise, then a cosine down to a fiftieth."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def prepare(objective: Objective) -> None:
    """Scale up where the usual initialisation does not suit: CLIP's features, normalised along the tokens, are tiny."""
    with torch.no_grad():
        adapter = objective.model.ssp.visual_attention_adapter
        adapter.image_projection.layers[0].weight *= objective.model.config.clip.grid


def in_training(architecture: Architecture, vocabulary: Vocabulary) -> Architecture:
    """The architecture with the small vocabulary."""
    return dataclasses.replace(architecture, clip=dataclasses.replace(architecture.clip, vocab_size=vocabulary.size))


def training_config() -> ModelConfig:
    """Preprocessing and sizes of the recipe."""
    return ModelConfig(recipe.ARCHITECTURE, recipe.PREPROCESSING, recipe.POSTPROCESSING)


def _vocabulary(output: Path) -> Vocabulary:
    tokenizer = Tokenizer(recipe.ARCHITECTURE.clip.context_length, recipe.PREPROCESSING.text_template)
    file = output / "vocabulary.json"
    if file.exists():
        return Vocabulary.load(file, tokenizer)
    vocabulary = Vocabulary.of((*recipe.PHRASES, *words_of_the_world()), recipe.VOCABULARY_ROWS, tokenizer)
    with contextlib.suppress(FileExistsError):
        vocabulary.save(file)
    return vocabulary


def words_of_the_world() -> Iterator[str]:
    """Expressions that hold every word of the shapes world, and none of the wide world."""
    for seed in range(recipe.VOCABULARY_SCENES):
        for question in ask(draw_scene(seed, (96, 96)), seed, 30):
            if "foreign" not in question.kind:
                yield question.text


def _to(example: Example, device: torch.device) -> Example:
    moved: dict[str, Tensor] = {
        field.name: getattr(example, field.name).to(device) for field in dataclasses.fields(example)
    }
    return Example(**moved)


if __name__ == "__main__":
    main()
