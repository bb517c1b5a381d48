"""A training step on stored embeddings, and one that runs the encoders: `python -m benchmarks.finetuning_step`.

The published 336 size with random weights, the default parts and the authors' objective; each example is about an image
of its own. `--images` sets the examples of a step. Needs 12 GB of memory. Memory is the peak of the process while it
does the steps, without the model and the embeddings.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import architecture
from sspsam.config import ModelConfig
from sspsam.finetuning.network import Features, segment_pairs
from sspsam.finetuning.objective import Counts, Targets, losses
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.trainable import TrainableModel
from sspsam.models import SSPSAM
from sspsam.text.encoder import tokenizer_for


def random_model(size: str) -> SSPSAM:
    """Return a frozen network with random weights."""
    with torch.device("meta"):
        model = SSPSAM(architecture(size))
    model = model.to_empty(device="cpu").requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.normal_(0, 0.02, generator=generator)
    return model


class Step:
    """A training step with its inputs.

    Args:
        model: the network.
        images: B, each with one expression.
    """

    def __init__(self, model: SSPSAM, images: int) -> None:
        config = model.config
        tokenizer = tokenizer_for(ModelConfig(config))
        self.model, self.options = model, FinetuneOptions()
        self.token_ids = torch.stack(
            [torch.from_numpy(tokenizer(f"the cup number {n} on the table")) for n in range(images)]
        )
        self.trainable = TrainableModel(model, ("ssp", "decoder"), self.token_ids)
        self.optimizer = torch.optim.AdamW(self.trainable.groups(self.options), lr=1e-4)
        self.clip = torch.randn(images, 3, config.clip.image_size, config.clip.image_size)
        self.sam = torch.randn(images, 3, config.sam.image_size, config.sam.image_size)
        side = config.sam.image_size // 2
        boxes = torch.tensor([[0.2, 0.2, 0.6, 0.7]]).expand(images, -1)
        self.targets = Targets(
            (torch.rand(images, side, side) > 0.9).float(), boxes, torch.ones(images, dtype=torch.bool)
        )

    def encoded(self) -> Features:
        """Run both image encoders on each image."""
        with torch.no_grad():
            parts = [self.model.encode_image(c[None], s[None])[0] for c, s in zip(self.clip, self.sam, strict=True)]
        return Features(torch.stack([part.clip for part in parts]), torch.stack([part.sam for part in parts]))

    def learn(self, features: Features) -> Tensor:
        """Update the weights once."""
        images = len(self.token_ids)
        self.optimizer.zero_grad()
        output = segment_pairs(self.model, features, torch.arange(images), self.trainable.encode_text(self.token_ids))
        loss = torch.stack([*losses(*output, self.targets, Counts(images, images), self.options).values()]).sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.trainable.parameters(), self.options.clip)
        self.optimizer.step()
        return loss.detach()


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds on the clock and of the processor that a computation takes."""
    begin, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - processor


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="336", help="published size, or another of benchmarks.workload")
    parser.add_argument("--images", type=int, default=4, help="examples of a step")
    parser.add_argument("--repeat", type=int, default=3, help="steps on stored embeddings that are timed")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    step = Step(random_model(arguments.size), arguments.images)
    config = step.model.config
    features = Features(
        torch.randn(arguments.images, config.clip.grid**2, config.clip.embed_dim) / config.clip.grid,
        torch.randn(arguments.images, config.sam.prompt_width, config.sam.grid, config.sam.grid),
    )
    step.learn(features)  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stored = min(seconds(lambda: step.learn(features)) for _ in range(arguments.repeat))
    encoding = seconds(step.encoded)
    numbers = {
        "size": arguments.size,
        "images": arguments.images,
        "threads": torch.get_num_threads(),
        "seconds_on_stored_embeddings": round(stored[0], 2),
        "processor_seconds_on_stored_embeddings": round(stored[1], 2),
        "seconds_with_encoders": round(stored[0] + encoding[0], 2),
        "processor_seconds_with_encoders": round(stored[1] + encoding[1], 2),
        "times_cheaper": round((stored[1] + encoding[1]) / stored[1], 1),
        "learned_numbers": sum(parameter.numel() for parameter in step.trainable.parameters()),
        "bytes_of_an_embedding": sum(tensor[0].nbytes for tensor in features),
        "peak_bytes_of_the_process_with_stored_embeddings": 1024 * before,
        "peak_bytes_of_the_process_with_encoders": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
