"""What mixed precision moves: `python -m benchmarks.precision [--scenes 200] [--device cuda]`.

Against float32 of the same model on the same device: the share of mask pixels that change for the golden expressions
(the golden models on the golden photographs, whose folder `SSPSAM_REFERENCE` names; left out without it), and for the
bundled model on held-out scenes of the shapes world the change of mIoU and of the no-target answers, in points.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from benchmarks.authors_checkpoint import authors_state, small_architecture
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.authors_layout import our_name, unused
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from training.evaluate import answers, summary

PRECISIONS = ("bfloat16", "float16")


def golden_predictor(variant: str, device: str, dtype: str) -> SSPSAMPredictor:
    """The model behind the golden files of a variant."""
    architecture = small_architecture(variant)
    model = SSPSAM(architecture)
    state = authors_state(architecture)
    model.load_state_dict({our_name(name): state[name] for name in set(state) - set(unused(state))})
    return SSPSAMPredictor(model, ModelConfig(architecture), device=device, dtype=dtype)


def golden_lines(reference: Path, device: str) -> list[str]:
    """Rows of (golden file, precision, share of all pixels, share of the foreground) as Markdown."""
    lines = []
    for file in sorted(reference.glob("golden_*.npz")):
        _, variant, photograph = file.stem.split("_")
        texts = [str(text) for text in np.load(file)["expressions"]]
        image = reference / "images" / f"{photograph}.jpg"
        masks = {
            dtype: np.stack([one.mask for one in golden_predictor(variant, device, dtype).predict(texts, image=image)])
            for dtype in ("float32", *PRECISIONS)
        }
        for dtype in PRECISIONS:
            changed = int((masks[dtype] != masks["float32"]).sum())
            foreground = max(1, int(masks["float32"].sum()))
            shares = f"{changed / masks[dtype].size:.4%} | {changed / foreground:.4%}"
            lines.append(f"| {variant}, {photograph} | {dtype} | {shares} |")
    return lines


def scene_lines(renderer: str, scenes: int, device: str) -> list[str]:
    """Rows of (precision, mIoU, its change in points, no-target answers that changed) as Markdown."""
    results = {
        dtype: answers(SSPSAMPredictor.from_pretrained("shapes", device=device, dtype=dtype), renderer, scenes, 10)
        for dtype in ("float32", *PRECISIONS)
    }
    exact, lines = results["float32"], []
    for dtype, found in results.items():
        change = 100 * (summary(found)["mIoU"] - summary(exact)["mIoU"])
        flips = sum(a.said_target != b.said_target for a, b in zip(exact, found, strict=True))
        lines.append(
            f"| {renderer} | {dtype} | {summary(found)['mIoU']:.4f} | {change:+.2f} | {flips} of {len(found)} |"
        )
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200, help="of each renderer, ten expressions each")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    reference = os.environ.get("SSPSAM_REFERENCE")
    if reference:
        print("| golden file | precision | pixels changed | changed / foreground |\n|---|---|---|---|")
        print("\n".join(golden_lines(Path(reference), arguments.device)), flush=True)
    print("\n| renderer | precision | mIoU | change in points | no-target answers changed |\n|---|---|---|---|---|")
    for renderer in ("own", "second"):
        print("\n".join(scene_lines(renderer, arguments.scenes, arguments.device)), flush=True)


if __name__ == "__main__":
    main()
