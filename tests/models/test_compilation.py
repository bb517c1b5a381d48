"""Compiled blocks, with PyTorch's backends that need no compiler; `test_device_model.py` compiles in earnest."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch._dynamo

from sspsam.config import SAMConfig
from sspsam.errors import DeviceError, OutOfMemoryError
from sspsam.models import compilation, image_encoder, norms, trials
from sspsam.models.compilation import compile_blocks
from sspsam.models.cuda_graphs import RecordedFunctions
from sspsam.models.image_encoder import ImageEncoderViT
from sspsam.models.precision import WHOLE_NETWORK, copy_with, matrix_names
from tests.support.own_kernels import NormKernels, norm_kernels_on_the_cpu
from tests.support.recording import CPURecorder
from tests.support.triton_interpreter import interpreted, needs_triton


def encoder(size: int = 32) -> ImageEncoderViT:
    torch.manual_seed(size)
    config = SAMConfig(
        image_size=size, patch_size=8, width=16, layers=5, heads=2, mlp_width=32, window_size=3, global_blocks=(1, 3)
    )
    network = ImageEncoderViT(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def compiled_with(
    backend, monkeypatch: pytest.MonkeyPatch, size: int = 32, dtype: torch.dtype = torch.float32
) -> ImageEncoderViT:
    monkeypatch.setattr(compilation.torch, "compile", partial(_COMPILE, backend=backend))
    network = narrowed(encoder(size), dtype)
    compile_blocks(network)
    return network


def narrowed(network: ImageEncoderViT, dtype: torch.dtype) -> ImageEncoderViT:
    names = matrix_names(network, WHOLE_NETWORK)
    return copy_with(network, lambda name, tensor: tensor.to(dtype) if name in names else tensor)


_COMPILE = torch.compile


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def frames() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["frames"])


def compiled_graphs() -> int:
    """With operators `frames` counts more: PyTorch considers functions of Python that it calls on the way to them."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def no_compilations() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.slow
def test_many_compiled_encoders_and_sizes_of_batches_do_not_exhaust_pytorch_s_limit(monkeypatch) -> None:
    """The limit is 8 for one function; here are 2 kinds of blocks, 3 sizes of batches and 2 encoders."""
    for size in (32, 40):
        compiled, plain = compiled_with("eager", monkeypatch, size), encoder(size)
        with torch.no_grad():
            for count in (1, 2, 4, 1):
                assert torch.allclose(compiled(images(count, size)), plain(images(count, size)), atol=1e-5)
    assert frames() == {"total": 12, "ok": 12}


@pytest.mark.slow
def test_beyond_eight_sizes_of_batches_a_new_size_is_not_compiled(monkeypatch, caplog) -> None:
    compiled, plain = compiled_with("eager", monkeypatch), encoder()
    with torch.no_grad(), caplog.at_level("WARNING", "torch._dynamo"):
        for count in range(1, 11):
            assert torch.allclose(compiled(images(count)), plain(images(count)), atol=1e-5)
    assert frames() == {"total": 16, "ok": 16}
    assert "recompile_limit" not in caplog.text


@pytest.mark.slow
def test_inference_mode_for_which_pytorch_compiles_anew_counts_as_another_size(monkeypatch, caplog) -> None:
    compiled, plain = compiled_with("eager", monkeypatch), encoder()
    with caplog.at_level("WARNING", "torch._dynamo"):
        for count in range(1, 7):
            for context in (torch.no_grad, torch.inference_mode):
                with context():
                    assert torch.allclose(compiled(images(count)), plain(images(count)), atol=1e-5)
    assert frames() == {"total": 16, "ok": 16}
    assert "recompile_limit" not in caplog.text


def fail(message: str):
    def backend(*_: object):
        raise RuntimeError(message)

    return backend


def test_a_missing_compiler_is_one_line_that_names_compile_true(monkeypatch) -> None:
    compiled = compiled_with(fail("No working C++ compiler found in cxx: (None, 'g++')\n\nSet TORCH"), monkeypatch)
    with torch.no_grad(), pytest.raises(DeviceError) as caught:
        compiled(images(1))
    assert "finds no C++ compiler, such as g++" in str(caught.value)
    assert str(caught.value).endswith("leave out compile=True.")
    assert "\n" not in str(caught.value)


def test_other_errors_of_compilation_are_one_line_too_and_lack_of_memory_stays_one(monkeypatch) -> None:
    with torch.no_grad():
        with pytest.raises(DeviceError, match=r"an internal error\. Update PyTorch, or leave out compile=True"):
            compiled_with(fail("an internal error\nmore"), monkeypatch)(images(1))
        with pytest.raises(RuntimeError, match="out of memory") as caught:
            compiled_with(fail("CUDA out of memory. Tried to allocate"), monkeypatch)(images(1))
        assert not isinstance(caught.value, DeviceError | OutOfMemoryError)


def test_a_missing_compiler_does_not_turn_graphs_off(monkeypatch, caplog) -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    compiled = compiled_with(fail("no compiler"), monkeypatch)
    with torch.no_grad(), pytest.raises(DeviceError):
        call("encode", lambda x: (compiled(x),), images(1))
    recorder.busy = False
    call("double", lambda x: (2 * x,), images(1))
    assert len(recorder.recorded) == 2
    assert "graphs are off" not in caplog.text


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative positions are columns, as on a GPU."""
    monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda *_: True)


@pytest.fixture
def kernels(columns: None) -> Iterator[NormKernels]:
    with norm_kernels_on_the_cpu(NormKernels()) as kernels:
        yield kernels


class Graphs:
    """A backend of the compiler that computes what it gets as it is, and counts the own operators in it."""

    def __init__(self) -> None:
        self.operators: list[Counter[str]] = []

    def __call__(self, module: torch.fx.GraphModule, _: object):
        targets = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        self.operators.append(Counter(target for target in targets if target.startswith("sspsam.")))
        return module


IN_WINDOWS = {"sspsam.normalize_into_windows.default": 1, "sspsam.add_and_normalize.default": 1}
GLOBAL = {"sspsam.add_and_normalize.default": 2}
# of the five blocks; the first one is not compiled
RESULTS_OF_THE_KERNELS = {
    "windows": 1,
    "total before windows": 2,
    "windows of the total": 2,
    "total": 7,
    "norm of the total": 7,
}


@pytest.mark.parametrize("size", [32, 48])  # 4 or 6 tokens on a side, in windows of 3
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiled_blocks_with_columns_call_the_kernels(kernels, monkeypatch, size, dtype, context) -> None:
    graphs = Graphs()
    compiled, plain = compiled_with(graphs, monkeypatch, size, dtype), encoder(size)
    uncompiled = narrowed(plain, dtype)
    norms.norm_kernels_on(torch.device("cpu"), dtype)
    kernels.results.clear()  # of the trial
    with context():
        for count in (1, 2):
            expected, exact = uncompiled(images(count, size)), plain(images(count, size))
            assert kernels.results == RESULTS_OF_THE_KERNELS
            kernels.results.clear()
            result = compiled(images(count, size))
            assert kernels.results == RESULTS_OF_THE_KERNELS
            kernels.results.clear()
            assert torch.allclose(result, expected, atol=torch.finfo(dtype).eps)
            assert torch.allclose(result, exact, atol=4 * torch.finfo(dtype).eps)
    assert graphs.operators == [GLOBAL, IN_WINDOWS] * 2
    assert compiled_graphs() == 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_the_last_sum_of_a_compiled_block_is_left_to_the_next_one(columns, monkeypatch) -> None:
    updates = []
    compiled, plain = compiled_with("eager", monkeypatch), encoder()
    for block in compiled.blocks:
        forward = block.forward_with_columns
        monkeypatch.setattr(
            block,
            "forward_with_columns",
            lambda x, update, *others, forward=forward: forward(x, updates.append(update) or update, *others),
        )
    with torch.no_grad():
        assert torch.allclose(compiled(images(1)), plain(images(1)), atol=1e-5)
    assert [update is None for update in updates] == [True, False, False, False, False]


@pytest.mark.parametrize("chosen", [16, 24])  # widths of heads with their columns, in windows and in the whole grid
def test_compiled_blocks_with_columns_and_with_a_bias_may_take_turns(columns, monkeypatch, chosen) -> None:
    graphs = Graphs()
    compiled, plain = compiled_with(graphs, monkeypatch, 48), encoder(48)
    with torch.no_grad():
        expected = plain(images(1, 48))
        monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda width, *_: width == chosen)
        assert torch.allclose(compiled(images(1, 48)), expected, atol=1e-5)
    assert len(graphs.operators) == 1  # of the bias: no block with columns follows another one


def without_kernels_that_work(kernels: NormKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels._wrong, kernels._spoilt = "windows", lambda x: x + 1  # fails its trial


def turned_off(_: NormKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trials.SWITCH, "0")


@pytest.mark.parametrize("reason", [without_kernels_that_work, turned_off])
def test_where_kernels_do_not_work_the_compiler_gets_pytorch_s_operators(kernels, monkeypatch, reason) -> None:
    graphs, dtype = Graphs(), torch.float16
    compiled, uncompiled = compiled_with(graphs, monkeypatch, dtype=dtype), narrowed(encoder(), dtype)
    reason(kernels, monkeypatch)
    norms.norm_kernels_on.cache_clear()
    with torch.no_grad():
        expected = uncompiled(images(1))  # after the trial
        kernels.results.clear()
        assert torch.allclose(compiled(images(1)), expected, atol=0.004)
    assert graphs.operators == [{}, {}]
    assert not kernels.results


def test_in_autocast_the_compiler_gets_pytorch_s_operators(kernels, monkeypatch) -> None:
    graphs = Graphs()
    compiled = compiled_with(graphs, monkeypatch, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        compiled(images(1))
    assert graphs.operators == [{}, {}]


def test_in_float32_the_compiler_gets_pytorch_s_operators(kernels, monkeypatch) -> None:
    graphs = Graphs()
    compiled = compiled_with(graphs, monkeypatch)
    with torch.no_grad():
        assert torch.allclose(compiled(images(1)), encoder()(images(1)), atol=1e-5)
    assert graphs.operators == [{}, {}]
    assert not kernels.results


def test_what_was_compiled_with_the_kernels_is_not_used_without_them(kernels, monkeypatch) -> None:
    graphs, dtype = Graphs(), torch.float16
    compiled, plain = compiled_with(graphs, monkeypatch, dtype=dtype), encoder()
    with torch.no_grad():
        for _ in range(2):
            for allowed in (True, False):
                with monkeypatch.context() as patch:
                    if not allowed:
                        patch.setattr(trials, "gpu_kernels_allowed", lambda _: False)
                    kernels.results.clear()
                    assert torch.allclose(compiled(images(1)), plain(images(1)), atol=0.004)
                    assert kernels.results == (RESULTS_OF_THE_KERNELS if allowed else {})
    assert graphs.operators == [GLOBAL, IN_WINDOWS, {}, {}]


@pytest.mark.slow
def test_sizes_of_batches_with_and_without_kernels_count_against_one_limit(kernels, monkeypatch, caplog) -> None:
    compiled, plain = compiled_with("eager", monkeypatch, dtype=torch.float16), encoder()
    with torch.no_grad(), caplog.at_level("WARNING", "torch._dynamo"):
        for count in range(1, 7):
            for allowed in (True, False):
                with monkeypatch.context() as patch:
                    if not allowed:
                        patch.setattr(trials, "gpu_kernels_allowed", lambda _: False)
                    assert torch.allclose(compiled(images(count)), plain(images(count)), atol=0.004)
    assert compiled_graphs() == 16
    assert "recompile_limit" not in caplog.text


def test_two_encoders_compile_blocks_of_their_own(kernels, monkeypatch) -> None:
    graphs = Graphs()
    networks = [compiled_with(graphs, monkeypatch, size, torch.float16) for size in (32, 40)]
    with torch.no_grad():
        for network, size in zip(networks * 2, (32, 40) * 2, strict=True):
            assert torch.allclose(network(images(1, size)), encoder(size)(images(1, size)), atol=0.004)
    assert graphs.operators == [GLOBAL, IN_WINDOWS] * 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pytorch_s_own_backend_takes_the_operators(kernels, monkeypatch, dtype) -> None:
    most = 1e-5 if dtype is torch.float32 else 0.004
    for size in (32, 48):
        compiled, plain = compiled_with("inductor", monkeypatch, size, dtype), encoder(size)
        with torch.no_grad():
            for count in (1, 2, 1):
                kernels.results.clear()
                assert torch.allclose(compiled(images(count, size)), plain(images(count, size)), atol=most)
                assert kernels.results == ({} if dtype is torch.float32 else RESULTS_OF_THE_KERNELS)
    assert compiled_graphs() == 8
    assert not torch._dynamo.utils.counters["graph_break"]


# run where Triton interprets kernels on the CPU
INTERPRETED = """
import torch
from unittest import mock
from sspsam.models import image_encoder, norm_kernels
from tests.models import test_compilation as tests
from tests.support.own_kernels import norm_kernels_on_the_cpu

graphs = tests.Graphs()
with (
    mock.patch.object(image_encoder, "fused_attention_accepts", lambda *_: True),
    norm_kernels_on_the_cpu(norm_kernels),
    tests.pytest.MonkeyPatch.context() as patch,
    torch.no_grad(),
):
    for size in (32, 48):
        compiled = tests.compiled_with(graphs, patch, size, torch.float16)
        result, expected = compiled(tests.images(2, size)), tests.encoder(size)(tests.images(2, size))
        assert torch.allclose(result, expected, atol=0.004)
assert graphs.operators == [tests.GLOBAL, tests.IN_WINDOWS] * 2
"""


@needs_triton
@pytest.mark.slow
def test_compiled_blocks_call_the_real_kernels_in_the_interpreter() -> None:
    interpreted(INTERPRETED)
