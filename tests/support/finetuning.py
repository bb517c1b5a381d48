"""Small lines to fine-tune on, and a job on the tiny model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sspsam.finetuning.checks import CheckedData, check_lines
from sspsam.finetuning.job import FinetuneJob
from sspsam.finetuning.lines import DataSource, read_lines
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.start import StartOptions
from sspsam.text.tokenizer import Tokenizer

OPTIONS = FinetuneOptions(
    steps=6, batch_size=4, eval_steps=3, learning_rate=3e-3, decoder_rate=3e-3, held_out_share=0.3
)


def write_lines(folder: Path, images: int = 6) -> Path:
    """Write images with a bright square, and `lines.jsonl` with two lines for each: the square, and nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for number in range(images):
        pixels = rng.integers(0, 90, (48, 64, 3)).astype(np.uint8)
        x, y = int(rng.integers(2, 40)), int(rng.integers(2, 24))
        pixels[y : y + 20, x : x + 20] = 230
        Image.fromarray(pixels).save(folder / f"{number}.png")
        square = [[x, y, x + 20, y, x + 20, y + 20, x, y + 20]]
        lines.append({"image": f"{number}.png", "text": "the bright square", "polygons": square})
        lines.append({"image": f"{number}.png", "text": "a giraffe", "mask": None})
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def job(lines: Path, model: Path | str, output: Path, **changes: Any) -> FinetuneJob:
    """Return a job on the CPU whose embeddings lie beside the lines."""
    start = StartOptions(str(model), device="cpu", embeddings=lines.parent / "embeddings")
    return FinetuneJob(DataSource((lines,)), start, output, **changes)


def weights(folder: Path) -> bytes:
    """Return the bytes of the weights of a checkpoint."""
    return (folder / "model.safetensors").read_bytes()


def checked(*paths: Path) -> CheckedData:
    """Check the lines of files."""
    return check_lines(read_lines(DataSource(paths)), Tokenizer(77, "{}."))


def with_lines(path: Path, *lines: dict[str, Any] | str) -> Path:
    """Append lines to a file: objects, or text as it is."""
    with path.open("a") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return path
