"""The kernels of this package, each against PyTorch's operators, for `benchmarks.gpu`."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu_bench import Bench, Numbers, Stage
from benchmarks.workload import architecture
from sspsam.config import Architecture
from sspsam.models import Prediction, kernels, norms, patch_weights
from sspsam.models.gru import both_directions, fused_gru
from sspsam.segmentation import summary

EXPRESSIONS: Final = (1, 16)
CALLS: Final = 20  # in one graph, so that the time of its launch does not count
ROUNDS: Final = 9
CHOOSERS: Final = (norms, patch_weights, summary)  # modules that ask whether kernels of this package apply
WINDOW: Final = 14

Step = Callable[[], object]


@contextmanager
def pytorchs_operators() -> Iterator[None]:
    """Compute with PyTorch's operators wherever there is a choice."""
    with ExitStack() as stack:
        for module in CHOOSERS:
            stack.enter_context(mock.patch.object(module, "own_kernels_apply", return_value=False))
        yield


def own_kernels(bench: Bench) -> Numbers:
    """Microseconds of each step with the kernels of this package and with PyTorch's operators, and their ratio.

    The kernels' results are in half precision. Those of PyTorch's operators are in float32, and the products that
    follow narrow them, which is not measured here.
    """
    numbers: Numbers = {}
    dtype = getattr(torch, bench.half_dtype)
    for count in EXPRESSIONS:
        for name, (ours, theirs) in _steps(architecture(bench.size), count, dtype, bench.device).items():
            own = _microseconds(bench, ours)
            with pytorchs_operators():
                other = _microseconds(bench, theirs)
            numbers[f"{name}, {count}"] = {"own": own, "PyTorch": other}
            bench.say(f"{name}, E = {count}: {own:.1f} us, PyTorch's operators {other:.1f} us, ratio {other / own:.2f}")
    return numbers


def _microseconds(bench: Bench, step: Step) -> float:
    """Median time of one call, on a GPU within a recorded graph."""
    with torch.no_grad():
        if bench.device.type != "cuda":
            step()
            return 1e6 * statistics.median(bench.timed(step) for _ in range(ROUNDS))
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(bench.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            step()
        bench.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(CALLS):
                step()
        graph.replay()
        return 1e6 * statistics.median(bench.timed(graph.replay) for _ in range(ROUNDS)) / CALLS


def _steps(
    sizes: Architecture, count: int, dtype: torch.dtype, device: torch.device
) -> Mapping[str, tuple[Step, Step]]:
    """Return each step of the network as it is computed, and as PyTorch's operators compute it."""
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def norm(width: int) -> nn.LayerNorm:
        return nn.LayerNorm(width).requires_grad_(False).to(device)

    clip, sam, ssp = sizes.clip, sizes.sam, sizes.ssp
    hidden, width, patches = ssp.hidden_width, sam.prompt_width, clip.grid**2
    text, text_update = noise(count, clip.context_length, clip.text_width), noise(count, 77, clip.text_width).to(dtype)
    tokens, tokens_update = (
        noise(count, 1 + ssp.prompts + patches, width),
        noise(count, 1 + ssp.prompts + patches, width),
    )
    image, image_update = noise(1, sam.grid**2, width), noise(count, sam.grid**2, width).to(dtype)
    grid, words = noise(1, sam.grid, sam.grid, sam.width), noise(count, clip.context_length, hidden).to(dtype)
    grid_update = noise(*grid.shape).to(dtype)
    text_norm, tokens_norm, grid_norm, patch_norm = map(norm, (clip.text_width, width, sam.width, hidden))
    gates = noise(count, clip.context_length, clip.text_mlp_width).to(dtype)
    projected, context = noise(patches, hidden).to(dtype), noise(count, patches, hidden).to(dtype)
    products, sentence, bias = noise(count, patches), noise(count, hidden), noise(hidden).to(dtype)
    scale, sigma = torch.ones(1, device=device), torch.full((1,), 0.5, device=device)
    gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True).eval().requires_grad_(False)
    gru = gru.to(device, dtype)
    fused, directions = fused_gru(hidden, count, dtype, device), both_directions(gru)
    weight, weight_bias = noise(ssp.generator_mlp_width, width).to(dtype), noise(ssp.generator_mlp_width).to(dtype)
    narrow_tokens, tokens_update = tokens.to(dtype), tokens_update.to(dtype)
    side = 4 * sam.grid
    maps = [noise(count, clip.grid, clip.grid) for _ in range(2)]
    prediction = Prediction(noise(count, side, side), noise(count), noise(count, 4), text, maps[0], text, maps[1])
    pixels = torch.zeros(count, dtype=torch.long, device=device)

    both: dict[str, Step] = {
        "sum and norm of a text": lambda: norms.add_and_normalize(text_norm, text, text_update, dtype),
        "QuickGELU of a text": lambda: norms.quick_gelu(gates),
        "sum, norm and position of prompts": lambda: norms.normalize_sum(
            tokens_norm, tokens, tokens_update, dtype, tokens[0]
        ),
        "sum and norm of image tokens": lambda: norms.normalize_sum(tokens_norm, image, image_update, dtype),
        "sum and norm into windows": lambda: norms.normalize_into_windows(grid_norm, grid, grid_update, WINDOW, dtype),
        "patches by sentence": lambda: patch_weights.weigh_by_sentence(products, projected, bias, dtype, relu=True),
        "patches by words": lambda: patch_weights.weigh_by_words(
            *(patch_norm, scale, sigma, context, context, context, sentence, dtype)
        ),
        "numbers behind answers": lambda: summary.with_pixels(prediction, pixels),
    }
    return {
        **{name: (step, step) for name, step in both.items()},
        "GRU": (lambda: gru(words) if fused is None else fused(directions, words), lambda: gru(words)),
        "product with ReLU": (
            lambda: kernels.product_with_relu(narrow_tokens, weight, weight_bias),
            lambda: kernels.linear(narrow_tokens, weight, weight_bias).relu(),
        ),
    }


KERNELS: Final[dict[str, Stage]] = {"kernels": own_kernels}
