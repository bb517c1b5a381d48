"""Train the bundled model from scratch: `python -m training.train --output runs/shapes --processes 2`.

The stages follow the paper at a small scale: CLIP's text encoder, its image encoder, SAM, then all parts together,
four times, at last with SAM's input at its full size. Each stage writes a checkpoint every minute or two; the same
command resumes an interrupted run, which then ends with the weights of an uninterrupted one. The output folder holds
the learning curve in `log.jsonl` and the result in `model`.

The last two stages alone, as the bundled weights were made from those before them, on a GPU: `python -m training.train
--output runs/fine --stages fine --start MODEL --time 225 --device cuda --workers 14`, then the same without `--start`
and with `--stages polish --time 265`.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.export import export
from training.recipe import RECIPES
from training.trainer import STAGES_FROM_A_MODEL, Trainer, TrainingOptions
from training.vocabulary import load_or_create_vocabulary


def main(words: list[str] | None = None) -> None:
    """Run the stages and write the model.

    Args:
        words: of the command line; None: those of this process.
    """
    options = parse_options(words)
    options.output.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[options.recipe]
    load_or_create_vocabulary(recipe, options.output)  # before several processes try to write it
    if options.processes == 1:
        _run_stages(0, options)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(29_500 + os.getpid() % 1000))
        mp.spawn(_run_stages, (options,), nprocs=options.processes)  # type: ignore[attr-defined,no-untyped-call]
    if list(recipe.stages)[-1] in options.stages:
        export(recipe, options.output, options.output / "model")


def parse_options(words: list[str] | None) -> TrainingOptions:
    """Parse the command line; invalid options end the process with a message.

    Args:
        words: of the command line; None: those of this process.
    """
    parser = _parser()
    options = TrainingOptions(**vars(parser.parse_args(words)))
    for name in ("images", "batch_size", "time", "processes", "threads", "prefetch", "log_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is 1 or more, not {value}")
    if options.start and options.stages[0] not in STAGES_FROM_A_MODEL:
        parser.error(f"--start: stage {options.stages[0]} cannot start from a model; use --stages joint, or fine")
    if options.time and options.processes > 1:
        parser.error("--time needs --processes 1: each process would end after another number of steps")
    for name in options.stages:
        size = options.stage(name).batch_size
        if size % options.processes:
            parser.error(f"--processes {options.processes} does not divide the batch size of stage {name} ({size})")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    stages = list(RECIPES["shapes"].stages)
    precision = "of most matrix products; float32 is faster on a CPU without bfloat16 instructions"
    add("--output", type=Path, required=True, help="folder for checkpoints, log and model")
    add("--recipe", choices=list(RECIPES), default="shapes")
    add("--stages", nargs="+", choices=stages, default=stages)
    add("--images", type=int, help="number of scenes of each stage, instead of the recipe's")
    add("--batch-size", type=int, help="scenes per step, instead of the recipe's")
    add("--learning-rate", type=float, help="peak of each stage, instead of the recipe's")
    add("--time", type=float, help="seconds that each stage takes, instead of a number of scenes")
    add("--start", type=Path, help="checkpoint folder whose model the first of the stages, joint or fine, starts from")
    add("--processes", type=int, default=1, help="on the CPU, one process per core is fastest")
    add("--threads", type=int, default=1, help="of each process")
    add("--workers", type=int, default=0, help="data loading processes of each process")
    add("--prefetch", type=int, default=2, help="batches that each of them draws ahead")
    add("--device", default="cpu")
    add("--precision", choices=("bfloat16", "float32"), default="bfloat16", help=precision)
    add("--seed", type=int, default=0)
    add("--log-steps", type=int, default=50, help="steps between two lines of the log")
    add("--save-seconds", type=float, default=90.0, help="seconds between two checkpoints of a stage")
    return parser


def _run_stages(rank: int, options: TrainingOptions) -> None:
    """Run the stages in one of the processes."""
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # SAM's decoder on a GPU; as its convolutions do by default
    if options.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=options.processes)
    for name in options.stages:
        Trainer(name, options, rank).run()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
