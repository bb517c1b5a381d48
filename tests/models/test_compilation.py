"""Compiled blocks, with PyTorch's backends that need no compiler; `test_device_model.py` compiles in earnest."""

from functools import partial

import pytest
import torch
import torch._dynamo

from sspsam.config import SAMConfig
from sspsam.errors import DeviceError, OutOfMemoryError
from sspsam.models import compilation
from sspsam.models.compilation import compile_blocks
from sspsam.models.cuda_graphs import RecordedFunctions
from sspsam.models.image_encoder import ImageEncoderViT
from tests.support.recording import CPURecorder


def encoder(size: int = 32) -> ImageEncoderViT:
    torch.manual_seed(size)
    config = SAMConfig(
        image_size=size, patch_size=8, width=16, layers=3, heads=2, mlp_width=32, window_size=3, global_blocks=(1,)
    )
    return ImageEncoderViT(config).eval()


def compiled_with(backend, monkeypatch: pytest.MonkeyPatch, size: int = 32) -> ImageEncoderViT:
    monkeypatch.setattr(compilation.torch, "compile", partial(_COMPILE, backend=backend))
    network = encoder(size)
    compile_blocks(network)
    return network


_COMPILE = torch.compile


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def frames() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["frames"])


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
