"""Effect of mixed precision on the results: `python -m benchmarks.precision [--scenes 200] [--device cuda]`.

Everything is compared with float32 of the same model on the same device. The golden models answer the golden
expressions about the golden photographs: the first table shows the share of mask pixels that change. It needs the
folder of the golden files, which `SSPSAM_REFERENCE` names, and is left out without it. The bundled model answers
expressions about held-out scenes of the shapes world: the second table shows the change of mIoU in points, and the
number of no-target answers that change.
"""

import argparse
import os
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.authors_checkpoint import authors_state, small_architecture
from benchmarks.workload import model_state
from sspsam import SSPSAMPredictor
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from training.evaluate import RENDERERS, answers, summary

PRECISIONS: Final = ("bfloat16", "float16")


def golden_predictor(variant: str, device: str, dtype: str) -> SSPSAMPredictor:
    """Build the model of the golden files of a variant."""
    architecture = small_architecture(variant)
    model = SSPSAM(architecture)
    model.load_state_dict(model_state(authors_state(architecture)))
    return SSPSAMPredictor(model, ModelConfig(architecture), device=device, dtype=dtype)


def golden_rows(reference: Path, device: str) -> list[str]:
    """Rows of (golden file, precision, changed share of all pixels, changed pixels / foreground) as Markdown."""
    rows = []
    for file in sorted(reference.glob("golden_*.npz")):
        _, variant, photograph = file.stem.split("_")
        texts = [str(text) for text in np.load(file)["expressions"]]
        image = reference / "images" / f"{photograph}.jpg"
        masks = {}
        for dtype in ("float32", *PRECISIONS):
            results = golden_predictor(variant, device, dtype).predict(texts, image=image)
            masks[dtype] = np.stack([result.mask for result in results])
        foreground = max(1, int(masks["float32"].sum()))
        for dtype in PRECISIONS:
            changed = int((masks[dtype] != masks["float32"]).sum())
            shares = f"{changed / masks[dtype].size:.4%} | {changed / foreground:.4%}"
            rows.append(f"| {variant}, {photograph} | {dtype} | {shares} |")
    return rows


def scene_rows(renderer: str, scenes: int, device: str) -> list[str]:
    """Rows of (renderer, precision, mIoU, its change in points, changed no-target answers) as Markdown."""
    results = {
        dtype: answers(SSPSAMPredictor.from_pretrained("shapes", device=device, dtype=dtype), renderer, scenes, 10)
        for dtype in ("float32", *PRECISIONS)
    }
    exact, rows = results["float32"], []
    exact_miou = summary(exact)["mIoU"]
    for dtype, scored in results.items():
        miou = summary(scored)["mIoU"]
        flips = sum(a.predicted_target != b.predicted_target for a, b in zip(exact, scored, strict=True))
        change = 100 * (miou - exact_miou)
        rows.append(f"| {renderer} | {dtype} | {miou:.4f} | {change:+.2f} | {flips} of {len(scored)} |")
    return rows


def main() -> None:
    """Parse the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200, help="of each renderer, with ten expressions each")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    reference = os.environ.get("SSPSAM_REFERENCE")
    if reference:
        print("| golden file | precision | pixels changed | changed / foreground |\n|---|---|---|---|")
        print("\n".join(golden_rows(Path(reference), arguments.device)), flush=True)
    print("\n| renderer | precision | mIoU | change in points | no-target answers changed |\n|---|---|---|---|---|")
    for renderer in RENDERERS:
        print("\n".join(scene_rows(renderer, arguments.scenes, arguments.device)), flush=True)


if __name__ == "__main__":
    main()
