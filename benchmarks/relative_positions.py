"""Relative positions of SAM's image encoder as a bias and as columns: one block of each kind at the size of ViT-H.

    python -m benchmarks.relative_positions [--device cpu] [--dtype float32] [--repeat 5]

Prints milliseconds of both ways, their ratio and the largest difference of the outputs. The two ways are defined in
`sspsam/models/image_encoder.py`; a GPU takes columns, a CPU the bias.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sspsam.config import PUBLISHED
from sspsam.devices import DTYPES, checked_device, inference_context
from sspsam.models.column_attention import column_buffer
from sspsam.models.image_encoder import Block
from sspsam.models.precision import copy_with


def block(window: int, dtype: torch.dtype, device: torch.device) -> Block:
    """Return a block of ViT-H with random weights, its norms in float32."""
    torch.manual_seed(window)
    original = Block(PUBLISHED["336"].sam, window)
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return copy_with(original, lambda name, x: x.to(device=device, dtype=x.dtype if "norm" in name else dtype))


def median_ms(function: Callable[[], Tensor], repeat: int, device: torch.device) -> float:
    """Return the median milliseconds of a call, after one that is not counted; on a CPU those of all its threads."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # other programs do not disturb the first
    times = []
    for index in range(repeat + 1):
        start = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index:
            times.append(1e3 * (clock() - start))
    return statistics.median(times)


def main() -> None:
    """Measure both ways and print a line for each kind of block."""
    parser = argparse.ArgumentParser(description="Compare two ways of adding relative positions.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    device, dtype = checked_device(arguments.device), DTYPES[arguments.dtype]
    sam = PUBLISHED["336"].sam
    side, head_width = sam.grid, sam.width // sam.heads
    for window in (0, sam.window_size):
        layer = block(window, dtype, device)
        squares = (-(-side // window)) ** 2 if window else 1
        with inference_context(device):
            x = torch.randn(1, side, side, sam.width, device=device)
            buffer = column_buffer(squares, sam.heads, window or side, head_width, dtype, device)
            difference = float((layer(x) - layer(x, buffer)).abs().max())
            bias = median_ms(lambda: layer(x), arguments.repeat, device)  # noqa: B023
            columns = median_ms(lambda: layer(x, buffer), arguments.repeat, device)  # noqa: B023
        kind = f"windows of {window}" if window else "the whole grid"
        print(
            f"{kind}: bias {bias:.1f} ms, columns {columns:.1f} ms, bias/columns {bias / columns:.2f}; "
            f"outputs differ by at most {difference:.1e}"
        )


if __name__ == "__main__":
    main()
