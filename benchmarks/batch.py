"""What a batch costs beside the model: `python -m benchmarks.batch [--size vit_b] [--pictures 12]`.

One process, the same pictures and expressions in turn: the model alone (pictures read and resized beforehand, nothing
written), then `run_batch` from JPEG files to masks and lines with an empty cache of embeddings, then the same with
other expressions and the cache as the first pass left it. A picture of a camera's size; SAM's ViT-B with CLIP ViT-B/16,
random weights.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.__main__ import architecture, expressions
from sspsam import SSPSAMPredictor
from sspsam.batch import run_batch
from sspsam.config import Architecture, ModelConfig
from sspsam.images.loading import DEFAULT_MAX_PIXELS
from sspsam.models import SSPSAM
from sspsam.shapes import draw_scene
from sspsam.utils.batching import default_batch_size, raise_if_error


def sized(size: str) -> Architecture:
    """The 224 variant with SAM's ViT-B, or a quick one."""
    if size == "quick":
        return architecture("quick")
    full = architecture("224")
    sam = replace(full.sam, width=768, layers=12, heads=12, mlp_width=3072, global_blocks=(2, 5, 8, 11))
    return replace(full, sam=sam)


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files of 12 megapixels, as a camera makes them."""
    folder.mkdir()
    for seed in range(count):
        scene = Image.fromarray(draw_scene(seed, (750, 1000)).pixels)
        scene.resize((4000, 3000), Image.Resampling.BICUBIC).save(folder / f"{seed:03}.jpg", quality=92)
    return sorted(folder.iterdir())


def model_alone(predictor: SSPSAMPredictor, pictures: list[Path], texts: list[str]) -> float:
    """Seconds of the encoders and of the answers, for pictures that are read and resized already."""
    ready = [predictor._encoder.read(path, DEFAULT_MAX_PIXELS) for path in pictures]
    together = default_batch_size(predictor.device)  # as a batch encodes them
    start = time.perf_counter()
    for first in range(0, len(ready), together):
        part = ready[first : first + together]
        for embedding in predictor._encoder.encode(part, predictor.device, predictor.fingerprint):
            predictor.predict(texts, embedding=raise_if_error(embedding))
    return time.perf_counter() - start


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["vit_b", "quick"], default="vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--expressions", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        config = ModelConfig(sized(arguments.size))
        SSPSAMPredictor(SSPSAM(config.architecture), config, device="cpu").save_pretrained(folder / "model")
        pictures = draw_pictures(folder / "photos", arguments.pictures)
        alone, cached = (
            SSPSAMPredictor.from_pretrained(folder / "model", device=arguments.device, embedding_cache=cache)
            for cache in (None, folder / "cache")
        )
        passes = [expressions(seed, arguments.expressions) for seed in range(3)]
        for predictor in (alone, cached):  # weights are read from their file when they are used first
            model_alone(predictor, pictures[:1], passes[0])
        shutil.rmtree(folder / "cache")
        seconds = {"the model alone": model_alone(alone, pictures, passes[1])}
        for number, what in ((1, "a batch, cache empty"), (2, "the next question, cache full")):
            start = time.perf_counter()
            run_batch(folder / "photos", folder / f"out{number}", passes[number], predictor=cached)
            seconds[what] = time.perf_counter() - start
    base = seconds["the model alone"]
    print(
        f"size {arguments.size}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.pictures} pictures "
        f"of 12 megapixels, {arguments.expressions} expressions each\n\n"
        "| | seconds a picture | rate / the model's own |\n|---|---|---|"
    )
    for what, each in seconds.items():
        print(f"| {what} | {each / arguments.pictures:.3f} | {base / each:.2f} |")


if __name__ == "__main__":
    main()
