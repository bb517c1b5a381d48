"""The network on a device in a precision: narrowed copies, recordings of E expressions, float32 on demand."""

import types

import pytest
import torch
import torch._dynamo

from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import IMAGE_ENCODERS
from sspsam.errors import OutOfMemoryError
from sspsam.models import SSPSAM, DeviceModel, Prediction, device_model, image_encoder
from sspsam.models.cuda_graphs import RecordedFunctions
from sspsam.models.device_model import expressions_per_pass
from sspsam.models.layers import FoldingModule
from sspsam.models.precision import WHOLE_NETWORK, matrix_names, network_on_demand, network_on_device
from tests.support.device_mode import simulated_device
from tests.support.recording import CPURecorder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> SSPSAM:
    network, _ = load_checkpoint(request.getfixturevalue("tiny_model"))
    return network.eval()


@pytest.fixture
def inputs(model: SSPSAM) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clip, sam = model.config.clip, model.config.sam
    ids = torch.randint(1, 400, (5, clip.context_length), generator=generator)
    ids[torch.arange(clip.context_length) >= torch.tensor([[9], [4], [7], [12], [5]])] = 0
    return (
        torch.randn(1, 3, clip.image_size, clip.image_size, generator=generator),
        torch.randn(1, 3, sam.image_size, sam.image_size, generator=generator),
        ids,
    )


def computed(model: SSPSAM | DeviceModel, inputs) -> Prediction:
    clip_input, sam_input, ids = inputs
    with torch.no_grad():
        [features] = model.encode_image(clip_input, sam_input)
        image, expressions = model.prepare(features), model.encode_text(ids)
        if isinstance(model, SSPSAM):
            return model.segment(image, expressions)
        prediction, doubled = model.segment(image, expressions, lambda prediction: 2 * prediction.box)
        assert torch.equal(doubled, 2 * prediction.box)
        return prediction


def test_recorded_and_eager_computation_give_the_same_bits_for_any_number_of_expressions(model, inputs) -> None:
    recorder = CPURecorder()
    recorded = DeviceModel(model, model, CPU, RecordedFunctions(recorder))
    for count in (1, 3, 5, 2):
        clip_input, sam_input, ids = inputs
        few = (clip_input, sam_input, ids[:count])
        for ours, expected in zip(computed(recorded, few), computed(model, few), strict=True):
            assert len(ours) == count
            assert torch.allclose(ours, expected, atol=1e-5)
    # encoder, preparation, texts and masks for 1, 4, 8 and 2 expressions
    assert len(recorder.recorded) == 2 + 2 * 4


def test_a_narrowed_copy_holds_its_matrices_in_half_precision_and_leaves_the_original(model) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = network_on_device(model, CPU, torch.float16, WHOLE_NETWORK)
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype is torch.float16} == matrix_names(model, WHOLE_NETWORK)
    wide = {name for name, dtype in dtypes.items() if dtype is torch.float32}
    large = {name for name in wide if network.get_parameter(name).dim() > 1}
    assert all("embedding" in name or "embed" in name or "token" in name or "position" in name for name in large)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_the_image_encoders_are_narrow_in_bfloat16_and_the_rest_is_shared(model) -> None:
    network = network_on_device(model, CPU, torch.bfloat16, IMAGE_ENCODERS)
    narrow = {name for name, parameter in network.named_parameters() if parameter.dtype is torch.bfloat16}
    assert narrow
    assert all(name.startswith(IMAGE_ENCODERS) for name in narrow)
    assert network.ssp.fusion.weight is model.ssp.fusion.weight


def test_a_copy_computes_once_what_depends_on_weights_alone(model, inputs, monkeypatch) -> None:
    expected = computed(model, inputs)
    copied = network_on_device(model, CPU, torch.float32)
    folding = [module for module in copied.modules() if isinstance(module, FoldingModule)]
    assert len(folding) == 4 + len(copied.sam.image_encoder.blocks)
    for name in ("_compute_constants", "_compute_learned_tokens", "_compute_context_bias"):
        kinds = [kind for kind in {type(module) for module in folding} if hasattr(kind, name)]
        assert kinds, name
        for kind in kinds:
            monkeypatch.delattr(kind, name)
    for ours, original in zip(computed(copied, inputs), expected, strict=True):
        assert torch.equal(ours, original)


def test_shared_encoders_keep_what_they_have_folded(model) -> None:
    """Recorded graphs read the memory of the first model's tables; no answer shows whether it is the same."""
    first = DeviceModel.of(model, CPU, torch.bfloat16)
    attentions = [block.attn for block in first._network.sam.image_encoder.blocks]
    tables = [attention._table for attention in attentions]
    second = DeviceModel.of(model, CPU, torch.bfloat16, encoders_of=first)
    assert second._network.sam.image_encoder is first._network.sam.image_encoder
    assert all(attention._table is table for attention, table in zip(attentions, tables, strict=True))
    assert second._network.sam.mask_decoder is not first._network.sam.mask_decoder


def test_the_weights_are_complete_before_other_streams_of_a_gpu_read_them(model, monkeypatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    waits, gpu = [], torch.device("cuda", 0)
    stream = types.SimpleNamespace(synchronize=lambda: waits.append("waited"))
    with simulated_device("cuda"):
        monkeypatch.setattr(torch.nn.GRU, "flatten_parameters", lambda gru: None)  # asks the driver
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        network_on_device(model, gpu, torch.float16)
    assert waits == ["waited"]


def test_half_precision_everywhere_is_close_to_float32(model, inputs) -> None:
    half = network_on_device(model, CPU, torch.float16, WHOLE_NETWORK)
    exact, narrow = computed(model, inputs), computed(half, inputs)
    assert all(tensor.dtype is torch.float32 for tensor in narrow)
    difference = (exact.low_res - narrow.low_res).abs().max() / exact.low_res.abs().max()
    assert 0 < difference < 0.02


@pytest.mark.parametrize("columns", [False, True])  # relative positions as a bias, or as columns
def test_weights_that_are_brought_on_demand_give_the_bits_of_the_original(model, inputs, monkeypatch, columns) -> None:
    monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda *_: columns)
    network = network_on_demand(model, CPU)
    for ours, expected in zip(computed(network, inputs), computed(model, inputs), strict=True):
        assert torch.equal(ours, expected)


def test_blocks_on_demand_hold_no_weights_of_their_own_between_calls(model) -> None:
    network = network_on_demand(model, torch.device("meta"))
    block = network.sam.image_encoder.blocks[0]
    assert {parameter.device.type for parameter in block.parameters()} == {"cpu"}
    assert network.ssp.fusion.weight.device.type == "meta"


@pytest.mark.slow
def test_compiled_blocks_give_the_same_and_are_compiled_in_one_piece(model, inputs, monkeypatch) -> None:
    """Once with relative positions as a bias, as on a CPU, and once as columns, as on a GPU."""
    expected = computed(model, inputs)
    for columns in (False, True):
        monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda *_, columns=columns: columns)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = DeviceModel.of(model, CPU, torch.float32, compiled=True)
        for ours, theirs in zip(computed(compiled, inputs), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
        assert torch._dynamo.utils.counters["frames"]["ok"] >= 2
        assert not torch._dynamo.utils.counters["graph_break"]
    assert all(type(block) is image_encoder.Block for block in model.sam.image_encoder.blocks)


def test_lack_of_memory_on_the_device_is_named(model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> SSPSAM:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_model, "network_on_device", fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory for the model on its device"):
        DeviceModel.of(model, CPU, torch.bfloat16)


@pytest.mark.parametrize(("gigabytes", "expected"), [(6, 16), (8, 16), (12, 64), (80, 64)])
def test_a_gpu_with_little_memory_decodes_fewer_expressions_at_a_time(monkeypatch, gigabytes, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = types.SimpleNamespace(total_memory=gigabytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert expressions_per_pass(torch.device("cuda", 0)) == expected
    assert expressions_per_pass(torch.device("cpu")) == 2
