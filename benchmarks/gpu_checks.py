"""Checks of `benchmarks.gpu`: parity, recorded graphs, threads, memory, and half precision against float32."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.authors_checkpoint import authors_state, small_architecture
from benchmarks.gpu_bench import GRAPHS, Bench, Numbers, Stage, environment
from benchmarks.workload import drawn_image, model_state
from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from sspsam.segmentation.postprocessing import logits_in_frame
from sspsam.shapes import ask, draw_scene

DTYPES: Final = {"cuda": ("float32", "float16", "bfloat16"), "cpu": ("float32", "bfloat16")}
VARIANTS: Final = ("224", "336")
THREADS: Final = {"quick": 3, "336": 8}
SCENES: Final = {"quick": 3, "336": 60}
EXPRESSIONS: Final = {"quick": (1, 3), "336": (1, 3, 16)}  # in the lists that threads ask
ROUNDS: Final = {"quick": 1, "336": 4}
MANY: Final = 64
DATA: Final = Path(__file__).parents[1] / "tests" / "data"


def parity(bench: Bench) -> Numbers:
    """Compare with the golden files: logits, and mask pixels in the authors' frame of 512 x 512."""
    numbers: Numbers = {}
    for variant in VARIANTS:
        architecture = small_architecture(variant)
        model = SSPSAM(architecture)
        model.load_state_dict(model_state(authors_state(architecture)))
        for dtype in DTYPES[bench.device.type]:
            predictor = SSPSAMPredictor(model, ModelConfig(architecture), device=bench.device, dtype=dtype)
            for name, golden, image in golden_files(bench.reference, variant):
                difference, changed, pixels = golden_difference(predictor, golden, image)
                numbers[f"{name} {dtype}"] = {"logits": difference, "pixels changed": changed, "pixels": pixels}
                share = f"{changed} of {pixels} mask pixels ({changed / pixels:.4%})"
                bench.say(f"parity {name} {dtype}: logits differ by {difference:.1e}, {share}")
    return numbers


def golden_files(reference: Path | None, variant: str) -> Iterator[tuple[str, dict[str, NDArray[Any]], Path]]:
    """Yield name, arrays and image of the golden files of a variant."""
    yield f"micro {variant}", dict(np.load(DATA / f"micro_{variant}.npz")), DATA / "micro.png"
    for file in sorted(reference.glob(f"golden_{variant}_*.npz")) if reference else []:
        photograph = file.stem.rpartition("_")[2]
        yield f"{photograph} {variant}", dict(np.load(file)), file.parent / "images" / f"{photograph}.jpg"


def golden_difference(
    predictor: SSPSAMPredictor, golden: dict[str, NDArray[Any]], image: Path
) -> tuple[float, int, int]:
    """Return the largest difference of the logits, the mask pixels that differ, and the number of mask pixels."""
    results = predictor.predict([str(text) for text in golden["expressions"]], image=image, return_logits="low_res")
    low_res = np.stack([_logits(result) for result in results])  # (E, M, M)
    expected, actual = ("low_res", low_res) if "low_res" in golden else ("low_res_every_4", low_res[:, ::4, ::4])
    masks = logits_in_frame(torch.from_numpy(low_res), 1024, 512).numpy() >= 0  # (E, 512, 512)
    expected_masks = np.unpackbits(golden["mask512"], axis=-1).astype(bool)
    return float(np.abs(actual - golden[expected]).max()), int((masks != expected_masks).sum()), masks.size


def bundled(bench: Bench) -> Numbers:
    """Compare the bundled model's answers about drawn scenes in half precision with those in float32."""
    scenes = [draw_scene(seed=9000 + number) for number in range(SCENES[bench.size])]
    texts = [
        [question.text for question in ask(scene, seed=number, count=1 + number % 8)]
        for number, scene in enumerate(scenes)
    ]
    answers: dict[str, list[Segmentation]] = {}
    for dtype in DTYPES[bench.device.type]:
        predictor = SSPSAMPredictor.from_pretrained("shapes", device=bench.device, dtype=dtype)
        pairs = zip(scenes, texts, strict=True)
        answers[dtype] = [result for scene, asked in pairs for result in predictor.predict(asked, image=scene.pixels)]
    return {
        dtype: half_difference(bench, dtype, answers["float32"], answers[dtype])
        for dtype in DTYPES[bench.device.type][1:]
    }


def half_difference(bench: Bench, dtype: str, exact: Sequence[Segmentation], half: Sequence[Segmentation]) -> Numbers:
    """Count mask pixels and no-target answers that differ, and find the worst IoU of two masks."""
    pairs = list(zip(exact, half, strict=True))
    changed = sum(int((a.mask != b.mask).sum()) for a, b in pairs)
    pixels = sum(a.mask.size for a in exact)
    no_target = sum(a.no_target != b.no_target for a, b in pairs)
    worst = min((_iou(a, b) for a, b in pairs if a.mask.any()), default=1.0)
    bench.say(
        f"bundled model in {dtype}: {changed} of {pixels} mask pixels change, {no_target} of {len(pairs)} no-target "
        f"answers, worst IoU {worst:.3f}"
    )
    return {"pixels changed": changed, "pixels": pixels, "no-target changed": no_target, "worst IoU": worst}


def _iou(a: Segmentation, b: Segmentation) -> float:
    return float((a.mask & b.mask).sum() / (a.mask | b.mask).sum())


def memory(bench: Bench) -> Numbers:
    """Measure the weights that the device holds in each precision, and the memory of up to 64 expressions."""
    if bench.device.type != "cuda":
        bench.say("memory: measured on a GPU only")
        return {}
    bench.release("half", "authors")
    return {dtype: _memory_of(bench, dtype) for dtype in ("bfloat16", "float16")}


def _memory_of(bench: Bench, dtype: str) -> Numbers:
    bench.release()
    before = torch.cuda.memory_allocated(bench.device)
    predictor = bench.predictor(dtype)
    weights = torch.cuda.memory_allocated(bench.device) - before
    torch.cuda.reset_peak_memory_stats(bench.device)
    embedding = predictor.encode(bench.pixels)
    one = torch.cuda.max_memory_allocated(bench.device) - before
    for count in [*(2**power for power in range(MANY.bit_length())), MANY]:
        predictor.predict(bench.texts(count), embedding=embedding)
    numbers = {
        "weights": weights,
        "peak of one image": one,
        f"peak with up to {MANY} expressions": torch.cuda.max_memory_allocated(bench.device) - before,
        "held afterwards": torch.cuda.memory_allocated(bench.device) - before,
        "reserved by PyTorch, all numbers of expressions recorded": torch.cuda.memory_reserved(bench.device),
    }
    bench.say(f"memory in {dtype}: " + ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in numbers.items()))
    return numbers


def graphs(bench: Bench) -> Numbers:
    """Compare recorded graphs with eager execution, in half precision for several numbers of expressions."""
    recorded = bench.half
    with environment(GRAPHS, "0"):
        eager = bench.predictor(bench.half_dtype)
    images = [np.array(drawn_image(seed)) for seed in (11, 12)]
    numbers: Numbers = {}
    for count in (1, 2, 3, 16, 17, MANY) if bench.size != "quick" else (1, 3):
        texts, image = bench.texts(count), images[count % 2]
        answers = [predictor.predict(texts, image=image, return_logits="low_res") for predictor in (recorded, eager)]
        numbers[str(count)] = difference(answers[1], answers[0])
        # again with text features from the cache: a graph must not have overwritten them
        again = recorded.predict(texts, image=image, return_logits="low_res")
        numbers[f"{count}, again"] = difference(answers[0], again)
        bench.say(
            f"graph against eager, {count} expressions: {numbers[str(count)]}; again: {numbers[f'{count}, again']}"
        )
    return numbers


def difference(expected: Sequence[Segmentation], actual: Sequence[Segmentation]) -> Numbers:
    """Largest difference of the logits, and the number of mask pixels that differ."""
    pairs = list(zip(expected, actual, strict=True))
    return {
        "logits": max(float(np.abs(_logits(a) - _logits(b)).max()) for a, b in pairs),
        "pixels changed": sum(int((a.mask != b.mask).sum()) for a, b in pairs),
    }


def _logits(result: Segmentation) -> NDArray[np.float32]:
    return np.asarray(result.low_res_logits)  # (M, M)


def threads(bench: Bench) -> Numbers:
    """Compare the answers of threads that share two predictors on one device with those of a single thread."""
    count = THREADS[bench.size]
    predictors = [
        bench.half,
        SSPSAMPredictor.from_pretrained("shapes", device=bench.device, dtype=bench.half_dtype),
    ]
    jobs = [
        (predictors[number % 2], predictors[number % 2].encode(draw_scene(40 + number).pixels), bench.texts(length))
        for number in range(count)
        for length in EXPRESSIONS[bench.size]
    ]
    new_image = partial(_new_image, predictors, bench.texts(2))
    expected, alone = [_answers(job) for job in jobs], [new_image(number) for number in range(count)]
    pool = ThreadPoolExecutor(count)
    try:
        together = [
            pair for _ in range(ROUNDS[bench.size]) for pair in zip(expected, pool.map(_answers, jobs), strict=True)
        ]
        encoded = list(pool.map(new_image, range(count)))
    finally:
        pool.shutdown(
            wait=False, cancel_futures=True
        )  # after a timeout: threads that hang must not stop the next stage
    numbers = {"embeddings": _worst(together), "new images": _worst(list(zip(alone, encoded, strict=True)))}
    bench.say(f"{count} threads, two predictors, against one thread: {numbers}")
    return numbers


def _answers(job: tuple[SSPSAMPredictor, ImageEmbedding, list[str]]) -> list[Segmentation]:
    predictor, embedding, texts = job
    return predictor.predict(texts, embedding=embedding, return_logits="low_res")


def _new_image(predictors: list[SSPSAMPredictor], texts: list[str], number: int) -> list[Segmentation]:
    predictor = predictors[number % len(predictors)]
    return predictor.predict(texts, image=draw_scene(70 + number).pixels, return_logits="low_res")


def _worst(pairs: list[tuple[list[Segmentation], list[Segmentation]]]) -> Numbers:
    differences = [difference(*pair) for pair in pairs]
    return {name: max(each[name] for each in differences) for name in differences[0]}


CHECKS: Final[dict[str, Stage]] = {
    "memory": memory,  # first: nothing else is on the device
    "parity": parity,
    "bundled": bundled,
    "graphs": graphs,
    "threads": threads,
}
