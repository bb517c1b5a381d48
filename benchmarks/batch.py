"""Overhead of a batch over the model alone: `python -m benchmarks.batch [--size vit_b] [--images 12]`.

One process measures, on the same images and with new expressions in each pass: the model alone (images decoded and
resized beforehand, no output), then `run_batch` from JPEG files to masks and lines with an empty embedding cache, then
`run_batch` with the cache that the first pass filled. The images have 12 megapixels; the model is SAM ViT-B with CLIP
ViT-B/16 and random weights.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.workload import architecture, expressions
from sspsam import SSPSAMPredictor
from sspsam.batch import run_batch
from sspsam.config import Architecture, ModelConfig
from sspsam.images.loading import DEFAULT_MAX_PIXELS
from sspsam.models import SSPSAM
from sspsam.shapes import draw_scene
from sspsam.utils.batching import default_batch_size, raise_if_error


def sized(size: str) -> Architecture:
    """Return the 224 variant with SAM's ViT-B for `"vit_b"`, or a small architecture for `"quick"`."""
    if size == "quick":
        return architecture("quick")
    full = architecture("224")
    sam = replace(full.sam, width=768, layers=12, heads=12, mlp_width=3072, global_blocks=(2, 5, 8, 11))
    return replace(full, sam=sam)


def write_images(folder: Path, count: int) -> list[Path]:
    """Write drawn JPEG files of 12 megapixels, the size of a camera's."""
    folder.mkdir()
    for seed in range(count):
        scene = Image.fromarray(draw_scene(seed, (750, 1000)).pixels)
        scene.resize((4000, 3000), Image.Resampling.BICUBIC).save(folder / f"{seed:03}.jpg", quality=92)
    return sorted(folder.iterdir())


def model_alone(predictor: SSPSAMPredictor, paths: list[Path], texts: list[str]) -> float:
    """Seconds that encoding and answering take, for images that are decoded and resized beforehand."""
    encoder = predictor._pipeline.images
    ready = [encoder.preprocess(path, DEFAULT_MAX_PIXELS) for path in paths]
    batch_size = default_batch_size(predictor.device)  # that of a batch
    start = time.perf_counter()
    for first in range(0, len(ready), batch_size):
        chunk = ready[first : first + batch_size]
        for embedding in encoder.encode(chunk):
            predictor.predict(texts, embedding=raise_if_error(embedding))
    return time.perf_counter() - start


def measure(folder: Path, size: str, device: str, images: int, texts_per_pass: int) -> dict[str, float]:
    """Seconds of each pass over all images; `folder` is empty and receives all files."""
    torch.manual_seed(0)
    config = ModelConfig(sized(size))
    SSPSAMPredictor(SSPSAM(config.architecture), config, device="cpu").save_pretrained(folder / "model")
    paths = write_images(folder / "images", images)
    uncached, cached = (
        SSPSAMPredictor.from_pretrained(folder / "model", device=device, embedding_cache=cache)
        for cache in (None, folder / "cache")
    )
    passes = [expressions(seed, texts_per_pass) for seed in range(3)]
    for predictor in (uncached, cached):  # the first use of a weight reads it from the file
        model_alone(predictor, paths[:1], passes[0])
    shutil.rmtree(folder / "cache")
    seconds = {"the model alone": model_alone(uncached, paths, passes[1])}
    for number, name in ((1, "a batch, cache empty"), (2, "the next question, cache full")):
        start = time.perf_counter()
        run_batch(folder / "images", folder / f"out{number}", passes[number], predictor=cached)
        seconds[name] = time.perf_counter() - start
    return seconds


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["vit_b", "quick"], default="vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", "--pictures", type=int, default=12, help="number of images")
    parser.add_argument("--expressions", type=int, default=2, help="for each image")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), arguments.size, arguments.device, arguments.images, arguments.expressions)
    baseline = seconds["the model alone"]
    print(
        f"size {arguments.size}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.images} images "
        f"of 12 megapixels, {arguments.expressions} expressions each\n\n"
        "| | seconds per image | rate / rate of the model alone |\n|---|---|---|"
    )
    for name, elapsed in seconds.items():
        print(f"| {name} | {elapsed / arguments.images:.3f} | {baseline / elapsed:.2f} |")


if __name__ == "__main__":
    main()
