"""The predictor on an NVIDIA GPU: parity, recorded graphs, threads, memory, moves and pickles."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.errors import SSPSAMWarning
from sspsam.images.preprocessing import clip_input, device_inputs, geometry_of, sam_input, staged_pixels
from sspsam.models import Prediction, kernels, norms, patch_weights, trials
from sspsam.models.column_attention import from_windows, to_windows
from sspsam.models.gru import fused_gru, stack_directions
from sspsam.segmentation import summary
from sspsam.shapes import ask, draw_scene

pytestmark = pytest.mark.cuda

DATA = Path(__file__).parent / "data"
GPU = torch.device("cuda", 0)
SCENES = [(draw_scene(500 + seed), 1 + seed % 5) for seed in range(10)]
FLOAT32_TOLERANCE = 2e-3  # of logits up to 100; measured on an H200: 9e-4
MOST_CHANGED = 1e-3  # of the mask pixels in half precision, as in `sspsam check`


@pytest.fixture(scope="module", params=["float32", "float16"])
def predictor(request: pytest.FixtureRequest) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=request.param)


@pytest.fixture
def few_gigabytes() -> Iterator[Callable[[float], None]]:
    """Limit the memory that PyTorch may take beyond what it holds now."""

    def limit(gigabytes: float) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(GPU).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + gigabytes * 1e9) / total, GPU)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)


def answers(predictor: SSPSAMPredictor) -> list[Segmentation]:
    """Answer questions about the scenes, in lists of one to five."""
    return [
        result
        for scene, count in SCENES
        for result in predictor.predict(
            [question.text for question in ask(scene, seed=count, count=count)],
            image=scene.pixels,
            return_logits="low_res",
        )
    ]


def assert_same_answers(actual: Sequence[Segmentation], expected: Sequence[Segmentation], dtype: torch.dtype) -> None:
    assert [result.no_target for result in actual] == [result.no_target for result in expected]
    pairs = list(zip(actual, expected, strict=True))
    if dtype is torch.float32:
        assert max(np.abs(a.low_res_logits - b.low_res_logits).max() for a, b in pairs) < FLOAT32_TOLERANCE
    changed = sum(int((a.mask != b.mask).sum()) for a, b in pairs)
    assert changed < MOST_CHANGED * sum(a.mask.size for a, _ in pairs)


@pytest.mark.parametrize("variant", ["224", "336"])
def test_float32_on_a_gpu_gives_the_numbers_of_the_golden_files(
    variant: str, golden_model: Callable[[str], Path]
) -> None:
    predictor = SSPSAMPredictor.from_pretrained(golden_model(variant), device=GPU, dtype="float32")
    golden = np.load(DATA / f"micro_{variant}.npz")
    texts = [str(text) for text in golden["expressions"]]
    results = predictor.predict(texts, image=DATA / "micro.png", explain=True, return_logits="low_res")
    for row, result in enumerate(results):
        assert np.abs(result.low_res_logits[::4, ::4] - golden["low_res_every_4"][row]).max() < 2e-5
        assert np.abs(result.explanation.similarity - golden["similarity"][row]).max() < 1e-4
        assert np.abs(result.explanation.word_attention - golden["word_attention"][row]).max() < 1e-4
        assert abs(result.score - golden["iou_pred"][row, 0]) < 2e-5


def test_answers_are_those_of_float32_on_the_cpu(predictor: SSPSAMPredictor) -> None:
    expected = answers(SSPSAMPredictor.from_pretrained("shapes", device="cpu"))
    assert_same_answers(answers(predictor), expected, predictor.dtype)


@pytest.mark.parametrize("shape", [(720, 1080), (3000, 4000), (1200, 3), (9, 4)])
def test_inputs_made_on_a_gpu_have_the_bits_of_those_made_by_pillow(
    shape: tuple[int, int], predictor: SSPSAMPredictor
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    geometry = geometry_of(pixels, predictor.config)
    clip, sam = device_inputs(staged_pixels(pixels, GPU).to(GPU), geometry, predictor.config)
    assert clip.device == sam.device == GPU
    assert torch.equal(clip.cpu(), clip_input(pixels, geometry, predictor.config))
    assert torch.equal(sam.cpu(), sam_input(pixels, geometry, predictor.config))


def test_recorded_graphs_give_the_answers_of_eager_execution(
    predictor: SSPSAMPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPSAM_CUDA_GRAPHS", "0")
    eager = SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=predictor.dtype)
    expected = answers(eager)
    assert_same_answers(answers(predictor), expected, predictor.dtype)
    assert_same_answers(answers(predictor), expected, predictor.dtype)  # replayed, with text features from the cache


def test_threads_that_share_predictors_get_the_answers_of_one_thread(predictor: SSPSAMPredictor) -> None:
    predictors = [predictor, SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=predictor.dtype)]
    expected = answers(predictor)
    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(answers, predictors * 6):
            assert_same_answers(results, expected, predictor.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_too_little_memory_for_all_expressions_halves_them(
    dtype: str, golden_model: Callable[[str], Path], few_gigabytes: Callable[[float], None]
) -> None:
    predictor = SSPSAMPredictor.from_pretrained(golden_model("224"), device=GPU, dtype=dtype)
    embedding = predictor.encode(DATA / "micro.png")
    texts = [f"the mug number {number}" for number in range(64)]
    expected = [predictor.predict(text, embedding=embedding, return_logits="low_res") for text in texts]
    few_gigabytes(0.5)
    results = predictor.predict(texts, embedding=embedding, return_logits="low_res")
    assert_same_answers(results, expected, predictor.dtype)


def test_a_predictor_moves_to_the_cpu_and_back_with_its_embeddings(predictor: SSPSAMPredictor) -> None:
    expected = answers(predictor)
    scene, _ = SCENES[0]
    embedding = predictor.encode(scene.pixels)
    try:
        assert predictor.to("cpu").device.type == "cpu"
        moved = predictor.predict(["the circle"], embedding=embedding, return_logits="low_res")
    finally:
        predictor.to(GPU)
    assert_same_answers(answers(predictor), expected, predictor.dtype)
    back = predictor.predict(["the circle"], embedding=embedding, return_logits="low_res")
    assert_same_answers(moved, back, predictor.dtype)


def test_a_pickled_predictor_answers_on_the_gpu_again(predictor: SSPSAMPredictor) -> None:
    duplicate = pickle.loads(pickle.dumps(predictor))
    assert (duplicate.device, duplicate.dtype) == (predictor.device, predictor.dtype)
    assert_same_answers(answers(duplicate), answers(predictor), predictor.dtype)


def test_saved_weights_are_the_float32_originals(golden_model: Callable[[str], Path], tmp_path: Path) -> None:
    predictor = SSPSAMPredictor.from_pretrained(golden_model("224"), device=GPU, dtype="float16")
    predictor.encode(DATA / "micro.png")
    assert predictor.save_pretrained(tmp_path / "saved").weights_sha256 == predictor.config.weights_sha256


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize(
    ("count", "dtype", "most"),
    [(count, torch.float16, 3e-3) for count in (1, 3, 16, 33, 64)] + [(count, torch.float32, 2e-6) for count in (1, 4)],
)
def test_the_gru_kernels_give_the_states_of_pytorch_on_the_cpu(
    width: int, count: int, dtype: torch.dtype, most: float
) -> None:
    kernel = fused_gru(width, count, dtype, GPU)
    if kernel is None:
        pytest.skip("the kernel does not run on this GPU, or Triton finds no C compiler")
    torch.manual_seed(count)
    stock = torch.nn.GRU(width, width, batch_first=True, bidirectional=True)
    x = torch.randn(count, 77, width)
    with torch.no_grad():
        expected = stock(x)[0]
        directions = stack_directions(stock.to(GPU, dtype))
        for _ in range(3):  # the counters and the exchanged states start anew in each call
            assert (kernel(directions, x.to(GPU, dtype)).float().cpu() - expected).abs().max() < most


@pytest.mark.parametrize("count", [1, 16, 32])
def test_the_smaller_blocks_of_gpus_with_little_shared_memory_give_the_same_states(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused_gru(512, count, torch.float16, GPU) is None:
        pytest.skip("the kernel does not run on this GPU, or Triton finds no C compiler")
    from sspsam.models import gru_kernel

    gru = torch.nn.GRU(512, 512, batch_first=True, bidirectional=True).to(GPU, torch.float16)
    x = torch.randn(count, 77, 512, device=GPU, dtype=torch.float16)
    with torch.no_grad():
        expected = gru_kernel.bidirectional_gru(x, *stack_directions(gru))
        monkeypatch.setattr(gru_kernel, "_shared_memory", lambda device: 99 << 10)
        states = gru_kernel.bidirectional_gru(x, *stack_directions(gru))
    assert (states.float() - expected.float()).abs().max() < 3e-3


@pytest.mark.parametrize(("tokens", "width"), [((1, 77), 512), ((1, 577), 1024), ((3, 4096), 256), ((64, 85), 256)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_kernels_give_the_results_of_pytorch(tokens: tuple[int, int], width: int, dtype: torch.dtype) -> None:
    fused = norms.norm_kernels_on(GPU, dtype)
    if fused is None:
        pytest.skip("the kernels do not run on this GPU, or Triton finds no C compiler")
    norm = torch.nn.LayerNorm(width).requires_grad_(False).to(GPU)
    torch.nn.init.normal_(norm.weight)
    x, update = torch.randn(*tokens, width, device=GPU) * 3 + 1, torch.randn(*tokens, width, device=GPU).to(dtype)
    most = 8 * torch.finfo(dtype).eps
    with torch.no_grad():
        total, narrow = fused.add_and_normalize(norm, x, update, dtype)
        assert torch.equal(total, x + update)
        assert (narrow - norm(total)).abs().max() < most
        wide, narrow, positioned = fused.normalize_sum(norm, x[:1], update, dtype, x[0])
        assert (wide - norm(x[:1] + update)).abs().max() < 1e-4
        assert (narrow - wide).abs().max() < most
        assert ((positioned - (wide + x[0])).abs() / (wide + x[0]).abs().clamp(min=1)).max() < most
        assert (fused.normalize(norm, x, dtype) - norm(x)).abs().max() < most
        assert (fused.quick_gelu(update) - update.float() * torch.sigmoid(1.702 * update.float())).abs().max() < most


def test_the_norm_kernels_move_the_tokens_of_windows() -> None:
    fused = norms.norm_kernels_on(GPU, torch.float16)
    if fused is None:
        pytest.skip("the kernels do not run on this GPU, or Triton finds no C compiler")
    norm, x = torch.nn.LayerNorm(1280).requires_grad_(False).to(GPU), torch.randn(2, 64, 64, 1280, device=GPU)
    with torch.no_grad():
        _, windows = fused.normalize_into_windows(norm, x, None, 14, torch.float16)
        assert (windows - to_windows(norm(x), 14)).abs().max() < 8e-3
        total, windows = fused.normalize_into_windows(norm, x, x.half(), 14, torch.float16)
        assert torch.equal(total, x + x.half())
        assert (windows - to_windows(norm(total), 14)).abs().max() < 8e-3
        total, narrow = fused.add_and_normalize(norm, x, windows, torch.float16, 14)
        assert torch.equal(total, x + from_windows(windows, 14, 64))
        assert (narrow - norm(total)).abs().max() < 8e-3


@pytest.mark.parametrize("expressions", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernels_that_weight_patches_give_the_results_of_pytorch(expressions: int, dtype: torch.dtype) -> None:
    fused = patch_weights.patch_kernels_on(GPU, dtype)
    if fused is None:
        pytest.skip("the kernels do not run on this GPU, or Triton finds no C compiler")
    torch.manual_seed(expressions)
    count, width, most = 576, 512, 8 * torch.finfo(dtype).eps
    norm = torch.nn.LayerNorm(width).requires_grad_(False).to(GPU)
    image, patches = (torch.randn(expressions, count, width, device=GPU).to(dtype) for _ in range(2))
    context, sentence = image + patches / 2, torch.randn(expressions, width, device=GPU)
    scale, sigma = torch.full((1,), 1.2, device=GPU), torch.full((1,), 0.5, device=GPU)
    products, bias = torch.randn(expressions, count, device=GPU), torch.randn(width, device=GPU).to(dtype)
    by_words, by_sentence = (norm, scale, sigma, image, context, patches, sentence), (products, patches[0], bias)
    with torch.no_grad():
        results = (
            *fused.weight_by_words(*by_words, dtype),
            *fused.weight_by_sentence(*by_sentence, dtype, relu=True),
        )
        expected = (
            *patch_weights.weight_by_words(*by_words, torch.float32),
            *patch_weights.weight_by_sentence(*by_sentence, torch.float32, relu=True),
        )
    pairs = list(zip(results, expected, strict=True))
    assert trials.max_difference(pairs) < most
    assert trials.max_difference([pairs[0], pairs[2]]) < 1e-5  # verification and similarity are float32


@pytest.mark.parametrize(("expressions", "side", "grid"), [(1, 256, 24), (16, 256, 24), (3, 90, 7)])
def test_the_kernels_behind_answers_give_the_numbers_of_pytorch(expressions: int, side: int, grid: int) -> None:
    fused = summary.summary_kernel_on(GPU)
    if fused is None:
        pytest.skip("the kernels do not run on this GPU, or Triton finds no C compiler")
    torch.manual_seed(side)
    iou, box = torch.rand(expressions, 4, device=GPU)[:, 1], torch.rand(expressions, 4, device=GPU)
    maps = [torch.rand(expressions, grid, grid, device=GPU) for _ in range(2)]
    pixels = torch.arange(expressions, device=GPU)
    for offset in (-9.0, -3.0, 0.0, 9.0):  # from empty to full masks
        logits = torch.randn(expressions, side, side, device=GPU) + offset
        prediction = Prediction(logits, iou, box, iou, maps[0], iou, maps[1])
        pairs = [(fused.summarize(prediction, pixels), summary.summarize_with_pytorch(prediction, pixels))]
        assert trials.max_difference(pairs) < 1e-5
    logits[-1, 3, 4] = torch.nan
    assert fused.summarize(prediction, pixels)[:, 0].tolist() == [1] * (expressions - 1) + [0]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_answers_are_those_without_the_kernels_of_this_package(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=dtype))
    monkeypatch.setattr(trials, "gpu_kernels_allowed", lambda device: False)
    plain = SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=dtype)
    assert_same_answers(answers(plain), expected, plain.dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_answers_of_a_compiled_encoder_are_those_of_the_uncompiled_one(dtype: str) -> None:
    uncompiled = SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=dtype)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = SSPSAMPredictor.from_pretrained("shapes", device=GPU, dtype=dtype, compile=True)
    assert_same_answers(answers(compiled), answers(uncompiled), uncompiled.dtype)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # blocks with windows and without
    assert not torch._dynamo.utils.counters["graph_break"]


def test_float32_attention_by_plain_products_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 8, tokens, 32, device=GPU) for tokens in (70, 90, 90))
    with torch.no_grad():
        plain = kernels.attention(q, k, v)
        monkeypatch.setattr(kernels, "_MOST_PLAIN_SCORES", 0)
        assert not torch.equal(plain, kernels.attention(q, k, v))  # two ways
        assert (plain - kernels.attention(q, k, v)).abs().max() < 1e-5


def test_an_image_that_overflows_in_half_precision_is_encoded_again_in_float32() -> None:
    model = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    with torch.no_grad():  # float16 ends at 65504; the norm that follows undoes the factor
        model._model.sam.image_encoder.neck[0].weight.mul_(2e5)
    predictor, expected = (
        SSPSAMPredictor(model._model, model.config, device=GPU, dtype=dtype) for dtype in ("float16", "float32")
    )
    scene = draw_scene(7)
    texts = ["the red circle", "the largest shape"]
    with pytest.warns(SSPSAMWarning, match="overflowed for this image"):
        results = predictor.predict(texts, image=scene.pixels)
    assert_same_answers(results, expected.predict(texts, image=scene.pixels), torch.float16)
