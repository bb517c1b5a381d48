"""The kernels of this package, each against PyTorch's operators, for `benchmarks.gpu`."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu_bench import Bench, Numbers, Stage
from benchmarks.workload import architecture
from sspsam.config import Architecture
from sspsam.models import Prediction, gru, norms, patch_weights, trials
from sspsam.segmentation import summary

EXPRESSIONS: Final = (1, 16)
CALLS: Final = 20  # in one graph, so that the time of its launch does not count
ROUNDS: Final = 9
WINDOW: Final = 14

Step = Callable[[], object]


@contextmanager
def pytorchs_operators() -> Iterator[None]:
    """Compute with PyTorch's operators wherever there is a choice."""
    with mock.patch.object(trials, "gpu_kernels_allowed", return_value=False):
        yield


def own_kernels(bench: Bench) -> Numbers:
    """Microseconds of each step with the kernels of this package and with PyTorch's operators, and their ratio.

    The kernels' results are in half precision. Those of PyTorch's operators are in float32, and the products that
    follow narrow them, which is not measured here.
    """
    dtype = getattr(torch, bench.half_dtype)
    numbers: Numbers = {"not used": _not_used(architecture(bench.size).ssp.hidden_width, dtype, bench.device)}
    bench.say(f"kernels that are not used on {bench.device}: {', '.join(numbers['not used']) or 'none'}")
    for count in EXPRESSIONS:
        for name, step in _steps(architecture(bench.size), count, dtype, bench.device).items():
            own = _microseconds(bench, step)
            with pytorchs_operators():
                other = _microseconds(bench, step)
            numbers[f"{name}, {count}"] = {"own": own, "PyTorch": other}
            bench.say(f"{name}, E = {count}: {own:.1f} us, PyTorch's operators {other:.1f} us, ratio {other / own:.2f}")
    return numbers


def _not_used(width: int, dtype: torch.dtype, device: torch.device) -> list[str]:
    """Return the kernels that do not work on a device, where PyTorch's operators are timed twice."""
    with torch.no_grad():
        works = {
            "norms": trials.allowed_kernels(norms.norm_kernels_on, device, dtype) is not None,
            "patches": trials.allowed_kernels(patch_weights.patch_kernels_on, device, dtype) is not None,
            "statistics": trials.allowed_kernels(summary.summary_kernel_on, device) is not None,
            "GRU": gru.fused_gru(width, 1, dtype, device) is not None,
            "GRU in float32": gru.fused_gru(width, 1, torch.float32, device) is not None,
        }
    return [name for name, used in works.items() if not used]


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


def _steps(sizes: Architecture, count: int, dtype: torch.dtype, device: torch.device) -> Mapping[str, Step]:
    """Return the steps of the network for which this package has kernels."""
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, kind)

    def norm(width: int) -> nn.LayerNorm:
        return nn.LayerNorm(width).requires_grad_(False).to(device)

    clip, sam, ssp = sizes.clip, sizes.sam, sizes.ssp
    length, hidden, width, patches = clip.context_length, ssp.hidden_width, sam.prompt_width, clip.grid**2
    text, text_update = noise(count, length, clip.text_width), noise(count, length, clip.text_width, kind=dtype)
    gates, words = noise(count, length, clip.text_mlp_width, kind=dtype), noise(count, length, hidden, kind=dtype)
    tokens = noise(count, 1 + ssp.prompts + patches, width)
    tokens_update = tokens.flip(1).to(dtype)
    image, image_update = noise(1, sam.grid**2, width), noise(count, sam.grid**2, width, kind=dtype)
    grid = noise(1, sam.grid, sam.grid, sam.width)
    grid_update = grid.flip(1).to(dtype)
    text_norm, tokens_norm, grid_norm, patch_norm = map(norm, (clip.text_width, width, sam.width, hidden))
    projected = noise(patches, hidden, kind=dtype)
    verified, context, weighted = (noise(count, patches, hidden, kind=dtype) for _ in range(3))
    products, sentence, bias = noise(count, patches), noise(count, hidden), noise(hidden, kind=dtype)
    scale, sigma = torch.ones(1, device=device), torch.full((1,), 0.5, device=device)
    side = 4 * sam.grid
    maps = [noise(count, clip.grid, clip.grid) for _ in range(2)]
    prediction = Prediction(noise(count, side, side), noise(count), noise(count, 4), text, maps[0], text, maps[1])
    pixels = torch.zeros(count, dtype=torch.long, device=device)

    return {
        "sum and norm of a text": lambda: norms.add_and_normalize(text_norm, text, text_update, dtype),
        "QuickGELU of a text": lambda: norms.quick_gelu(gates),
        "sum, norm and position of prompts": lambda: norms.normalize_sum(
            tokens_norm, tokens, tokens_update, dtype, tokens[0]
        ),
        "sum and norm of image tokens": lambda: norms.normalize_sum(tokens_norm, image, image_update, dtype),
        "sum and norm into windows": lambda: norms.normalize_into_windows(grid_norm, grid, grid_update, WINDOW, dtype),
        "patches by sentence": lambda: patch_weights.weight_by_sentence(products, projected, bias, dtype, relu=True),
        "patches by words": lambda: patch_weights.weight_by_words(
            patch_norm, scale, sigma, verified, context, weighted, sentence, dtype
        ),
        "statistics of answers": lambda: summary.summarize_with_pixels(prediction, pixels),
        "GRU": _gru_step(words),
        "GRU in float32": _gru_step(words.float()),
    }


def _gru_step(words: Tensor) -> Step:
    """Return the step that runs a GRU over (E, L, H) words, in their dtype."""
    count, _, hidden = words.shape
    stock_gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True).eval().requires_grad_(False)
    stock_gru = stock_gru.to(words.device, words.dtype)
    directions = gru.stack_directions(stock_gru)

    def step() -> Tensor:
        fused = gru.fused_gru(hidden, count, words.dtype, words.device)
        states: Tensor = stock_gru(words)[0] if fused is None else fused(directions, words)
        return states

    return step


KERNELS: Final[dict[str, Stage]] = {"kernels": own_kernels}
