"""Times of `benchmarks.gpu`: the four tasks in several precisions, the authors' way, and the parts of the predictor."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.authors_way import Answer
from benchmarks.gpu_bench import Bench, Numbers, Stage
from benchmarks.workload import drawn_image
from sspsam import Segmentation, SSPSAMPredictor
from sspsam.devices import inference_context
from sspsam.images.loading import DEFAULT_MAX_PIXELS
from sspsam.images.preprocessing import clip_input, device_inputs, geometry_of, sam_input, staged_pixels
from sspsam.utils.batching import default_batch_size, raise_if_error

MANY: Final = 16
FOLDER: Final = {"quick": 3, "336": 96}  # images; many, since nothing is computed beside reading the first
AUTHORS_FOLDER: Final = {"quick": 1, "336": 4}
FOLDER_EXPRESSIONS: Final = 3


def authors(bench: Bench) -> Numbers:
    """The authors' way: from a decoded image to a mask of 512 x 512 pixels on the host."""
    way, image = bench.authors, Image.fromarray(bench.pixels)
    embedding = way.encode_image(image)
    return {
        "i": bench.milliseconds("authors (i)", lambda: _mask(way(image, bench.text()))),
        "ii": bench.milliseconds("authors (ii)", lambda: _mask(way(image, bench.text(), embedding))),
        "iii": bench.milliseconds(
            f"authors (iii), {MANY} expressions",
            lambda: [_mask(way(image, text, embedding)) for text in bench.texts(MANY)],
        ),
    }


def _mask(answer: Answer) -> torch.Tensor:
    return (answer.logits512 >= 0).cpu()


def tasks(bench: Bench, predictor: SSPSAMPredictor, name: str) -> Numbers:
    """Tasks (i), (ii) and (iii): from a decoded image to masks of its size on the host."""
    embedding = predictor.encode(bench.pixels)
    return {
        "i": bench.milliseconds(f"{name} (i)", lambda: predictor.predict(bench.texts(1), image=bench.pixels)),
        "ii": bench.milliseconds(f"{name} (ii)", lambda: predictor.predict(bench.texts(1), embedding=embedding)),
        "iii": bench.milliseconds(f"{name} (iii)", lambda: predictor.predict(bench.texts(MANY), embedding=embedding)),
    }


def speed(bench: Bench) -> Numbers:
    """The tasks in half precision."""
    return tasks(bench, bench.half, f"sspsam {bench.half_dtype}")


def float32(bench: Bench) -> Numbers:
    """The tasks in float32."""
    return tasks(bench, bench.predictor("float32"), "sspsam float32")


def compiled(bench: Bench) -> Numbers:
    """Task (i) with `compile=True`, and the seconds that compilation takes."""
    start = time.perf_counter()
    predictor = bench.predictor(bench.half_dtype, compiled=True)
    predictor.predict(bench.texts(1), image=bench.pixels)
    bench.synchronize()
    seconds = time.perf_counter() - start
    bench.say(f"compiled predictor: first answer after {seconds:.1f} s")
    return {"seconds": seconds} | tasks(bench, predictor, "sspsam compiled")


def folder(bench: Bench) -> Numbers:
    """Task (iv): JPEG files to masks, against the model's own rate and the authors' way; milliseconds per image."""
    with tempfile.TemporaryDirectory() as directory:
        paths = list(_written_images(Path(directory), FOLDER[bench.size]))
        _batch(bench, bench.half, paths[: 4 * default_batch_size(bench.device)])  # allocates page-locked memory, too
        ours = bench.timed(lambda: _batch(bench, bench.half, paths)) / len(paths)
        own_rate = _model_alone(bench, bench.half, paths)
        few = paths[: AUTHORS_FOLDER[bench.size]]
        bench.authors(Image.open(few[0]).convert("RGB"), bench.text())
        theirs = bench.timed(lambda: [_authors_image(bench, path) for path in few]) / len(few)
    numbers = {"iv": 1e3 * ours, "model alone": 1e3 * own_rate, "authors iv": 1e3 * theirs, "rate": own_rate / ours}
    bench.say("folder, per image: " + ", ".join(f"{name} {value:.2f}" for name, value in numbers.items()))
    return numbers


def _written_images(directory: Path, count: int) -> Iterator[Path]:
    """Write drawn JPEG files of 1080 x 720 pixels."""
    for seed in range(count):
        path = directory / f"{seed:03}.jpg"
        drawn_image(100 + seed).save(path, quality=92)
        yield path


def _batch(bench: Bench, predictor: SSPSAMPredictor, paths: list[Path]) -> None:
    for results in predictor.predict_batch(paths, [bench.texts(FOLDER_EXPRESSIONS) for _ in paths]):
        _consume(results)


def _consume(results: Iterable[Segmentation]) -> int:
    return sum(int(result.foreground_pixels) for result in results)


def _model_alone(bench: Bench, predictor: SSPSAMPredictor, paths: list[Path]) -> float:
    """Seconds per image for images that were decoded beforehand."""
    encoder, size = predictor._pipeline.images, default_batch_size(bench.device)
    ready = [encoder.preprocess(path, DEFAULT_MAX_PIXELS) for path in paths]

    def encode_and_answer() -> None:
        for first in range(0, len(ready), size):
            for embedding in encoder.encode(ready[first : first + size]):
                _consume(predictor.predict(bench.texts(FOLDER_EXPRESSIONS), embedding=raise_if_error(embedding)))

    return bench.timed(encode_and_answer) / len(ready)


def _authors_image(bench: Bench, path: Path) -> list[torch.Tensor]:
    image = Image.open(path).convert("RGB")
    embedding = bench.authors.encode_image(image)
    return [_mask(bench.authors(image, text, embedding)) for text in bench.texts(FOLDER_EXPRESSIONS)]


def parts(bench: Bench) -> Numbers:
    """Parts of the predictor in half precision: encode an image, read and answer 1 and 16 expressions, resize."""
    predictor = bench.half
    embedding = predictor.encode(bench.pixels)
    numbers = {"encode": bench.milliseconds("encode, resize included", lambda: predictor.encode(bench.pixels))}
    for count in (1, MANY):
        numbers[f"read {count}"] = bench.milliseconds(f"read {count}", lambda: _read(bench, predictor, count))  # noqa: B023
        known = bench.texts(count)
        numbers[f"answer {count}"] = bench.milliseconds(
            f"answer {count}, texts known, masks on the host",
            lambda: predictor.predict(known, embedding=embedding),  # noqa: B023
        )
    return numbers


def _read(bench: Bench, predictor: SSPSAMPredictor, count: int) -> None:
    texts = predictor._pipeline.texts
    with inference_context(bench.device):
        texts.encode(texts.tokenize(bench.texts(count)))


def resize(bench: Bench) -> Numbers:
    """Both model inputs from decoded pixels, on the device and by Pillow."""
    large = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    numbers: Numbers = {}
    for name, pixels in (("720 x 1080", bench.pixels), ("12 megapixels", large)):
        for part, value in _resize_parts(bench, name, pixels).items():
            numbers[f"{name}, {part}"] = value
    return numbers


def _resize_parts(bench: Bench, name: str, pixels: NDArray[np.uint8]) -> Numbers:
    config = bench.half.config
    geometry = geometry_of(pixels, config)
    uploaded = staged_pixels(pixels, bench.device).to(bench.device, non_blocking=True)

    def by_pillow() -> tuple[torch.Tensor, torch.Tensor]:
        return clip_input(pixels, geometry, config), sam_input(pixels, geometry, config)

    def on_device(source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return device_inputs(source, geometry, config)

    pairs = zip(on_device(uploaded), by_pillow(), strict=True)
    same = all(torch.equal(ours.cpu(), pillows) for ours, pillows in pairs)
    bench.say(f"{name}: inputs on the device have {'the' if same else 'NOT THE'} bits of Pillow's")
    return {
        "bits of Pillow": same,
        "on the device": bench.milliseconds(f"{name}, inputs on the device", lambda: on_device(uploaded)),
        "with upload": bench.milliseconds(
            f"{name}, upload and inputs on the device",
            lambda: on_device(staged_pixels(pixels, bench.device).to(bench.device, non_blocking=True)),
        ),
        "by Pillow": bench.milliseconds(f"{name}, inputs by Pillow", by_pillow),
    }


TIMES: Final[dict[str, Stage]] = {
    "speed": speed,
    "authors": authors,
    "parts": parts,
    "folder": folder,
    "resize": resize,
    "float32": float32,
    "compiled": compiled,
}
