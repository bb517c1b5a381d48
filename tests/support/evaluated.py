"""Drawn scenes as a JSONL data set on disk, for tests of evaluations."""

import json
from pathlib import Path

from PIL import Image

from sspsam.segmentation.rle import rle_encode
from sspsam.shapes import ask, draw_scene


def write_scenes(folder: Path, scenes: int, questions: int, size: tuple[int, int] = (80, 100)) -> Path:
    """Write `val.jsonl` with its images; the expressions about one image are not side by side."""
    lines = []
    for seed in range(scenes):
        scene = draw_scene(seed, size)
        Image.fromarray(scene.pixels).save(folder / f"{seed}.png")
        for number, question in enumerate(ask(scene, seed, questions)):
            rle = None if question.no_target else rle_encode(question.mask)
            lines.append((number, seed, {"image": f"{seed}.png", "text": question.text, "rle": rle}))
    ordered = [line for _, _, line in sorted(lines, key=lambda item: item[:2])]
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ordered))
    return folder
