"""Disk, memory, cache and encodes of two checkpoints with the same image encoders, shared and not.

    python -m benchmarks.shared_encoders                   # the published 224 size, random weights; needs 14 GB of disk
    python -m benchmarks.shared_encoders --variant tiny    # a quick run

Two complete checkpoints are written, and the same two as checkpoints that name their encoders. Each measurement runs in
its own process. Memory is the proportional set size (PSS) after every weight was read once: pages of a file that is
mapped twice count once. It is known on Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

COMPLETE: Final = ("complete-a", "complete-b")
SHARED: Final = ("shared-a", "shared-b")


def write_checkpoints(variant: str, folder: Path) -> dict[str, float]:
    """Write two complete checkpoints with random weights and the same image encoders, and both without encoders."""
    import torch

    from benchmarks.authors_checkpoint import tiny_architecture
    from sspsam.checkpoints.encoders import encoder_store
    from sspsam.checkpoints.hub_options import HubOptions
    from sspsam.checkpoints.saving import save_checkpoint
    from sspsam.config import PUBLISHED, ModelConfig
    from sspsam.models import SSPSAM

    torch.manual_seed(0)
    architecture = tiny_architecture() if variant == "tiny" else PUBLISHED[variant]
    model = SSPSAM(architecture).requires_grad_(False)
    times = {}
    for complete, shared in zip(COMPLETE, SHARED, strict=True):
        config = ModelConfig(architecture, source="random weights of benchmarks/shared_encoders.py")
        save_checkpoint(folder / complete, config, model.state_dict())
        start = time.perf_counter()
        save_checkpoint(
            folder / shared, config, model.state_dict(), encoder_store=encoder_store(HubOptions(cache_dir=folder))
        )
        times[f"seconds to write {shared}"] = time.perf_counter() - start
        model.ssp.fusion.weight.mul_(1.5)
    return times


def disk(folder: Path) -> dict[str, float]:
    """Return the bytes of the complete and of the shared checkpoints, the store included."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*.safetensors")}
    complete = sum(size for path, size in sizes.items() if path.parent.name in COMPLETE)
    heads = sum(size for path, size in sizes.items() if path.parent.name in SHARED)
    return {"complete": complete, "shared": sum(sizes.values()) - complete, "of a head": heads / 2}


def memory(folder: Path, names: tuple[str, str], dtype: str, with_weights: bool) -> dict[str, float]:
    """Return the memory of two predictors, and the seconds that it took to load the second one."""
    from sspsam import SSPSAMPredictor

    first = SSPSAMPredictor.from_pretrained(folder / names[0], device="cpu", dtype=dtype, cache_dir=folder)
    _read_weights(first)
    alone = _proportional_set_size()
    start = time.perf_counter()
    if with_weights:
        second = first.with_weights(folder / names[1], cache_dir=folder)
    else:
        second = SSPSAMPredictor.from_pretrained(folder / names[1], device="cpu", dtype=dtype, cache_dir=folder)
    seconds = time.perf_counter() - start
    _read_weights(second)
    return {"one": alone, "two": _proportional_set_size(), "seconds": seconds}


def _read_weights(predictor: Any) -> None:
    for parameter in predictor._pipeline.model._network.parameters():
        parameter.sum()


def _proportional_set_size() -> float:
    """Return the PSS of this process in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError("the system does not tell the proportional set size")


def encodes(folder: Path) -> dict[str, float]:
    """Answer with two heads about one image; return the number of encodes, of cache entries, and times."""
    from sspsam import SSPSAMPredictor
    from sspsam.models import SSPSAM
    from sspsam.shapes import draw_scene

    count = 0
    encode = SSPSAM.encode_image

    def counting(model: SSPSAM, *inputs: Any) -> Any:
        nonlocal count
        count += 1
        return encode(model, *inputs)

    SSPSAM.encode_image = counting  # type: ignore[method-assign, assignment]
    image, cache = draw_scene(0, (480, 640)).pixels, folder / "embeddings"
    first = SSPSAMPredictor.from_pretrained(
        folder / COMPLETE[0], device="cpu", dtype="float32", embedding_cache=cache, cache_dir=folder
    )
    second = first.with_weights(folder / COMPLETE[1])
    seconds = {
        "fingerprint": _seconds(lambda: first.encoder_fingerprint),
        "encode": _seconds(lambda: first.set_image(image)),
        "first head": _seconds(lambda: first.predict("the red circle")),
        "second head, same image": _seconds(lambda: second.predict("the red circle", image=image)),
    }
    entries = list(cache.rglob("*.safetensors"))
    return {"encodes": count, "entries": len(entries), "entry bytes": entries[0].stat().st_size, **seconds}


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def digests(folder: Path) -> dict[str, float]:
    """Return the seconds to compute the digest of the encoders, to look it up, and to load with and without records."""
    from sspsam import SSPSAMPredictor

    os.environ["SSPSAM_HOME"] = str(folder / "no records yet")

    def load(name: str) -> Any:
        return SSPSAMPredictor.from_pretrained(folder / name, device="cpu", dtype="float32", cache_dir=folder)

    load_seconds = _seconds(lambda: load(COMPLETE[0]))
    return {
        "first load, complete": load_seconds,
        "fingerprint computed": _seconds(lambda: load(COMPLETE[0]).encoder_fingerprint),
        "fingerprint recorded": _seconds(lambda: load(COMPLETE[0]).encoder_fingerprint),
        "first load, shared": _seconds(lambda: load(SHARED[0])),
        "later load, shared": _seconds(lambda: load(SHARED[0])),
        "first load, second head": _seconds(lambda: load(SHARED[1])),
    }


def run_step(step: str, variant: str, folder: Path) -> dict[str, float]:
    """Run one measurement in this process."""
    kind, *details = step.split()
    if kind == "write":
        return write_checkpoints(variant, folder)
    if kind == "memory":
        files, dtype, way = details
        return memory(folder, SHARED if files == "shared" else COMPLETE, dtype, way == "with_weights")
    return {"disk": disk, "encodes": encodes, "digests": digests}[kind](folder)


STEPS: Final = (
    *("write", "disk", "encodes", "digests"),
    *("memory complete float32 from_pretrained", "memory complete float32 with_weights"),
    *("memory shared float32 from_pretrained", "memory shared float32 with_weights"),
    *("memory complete bfloat16 from_pretrained", "memory complete bfloat16 with_weights"),
)


def run_in_subprocess(step: str, variant: str, folder: Path) -> dict[str, float]:
    """Run one measurement in a new process, with records of its own."""
    command = [sys.executable, "-m", "benchmarks.shared_encoders", "--variant", variant, "--step", step]
    environment = {**os.environ, "SSPSAM_HOME": str(folder / "home")}
    output = subprocess.run(
        [*command, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Parse the command line, and print one line for each measurement: GB, seconds or counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["336", "224", "tiny"], default="224")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run_step(arguments.step, arguments.variant, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            print(f"{step}: {_shown(run_in_subprocess(step, arguments.variant, Path(folder)))}", flush=True)


def _shown(result: dict[str, float]) -> str:
    """Return the values of a measurement; those above a million are bytes."""
    return ", ".join(
        f"{name} {value / 1e9:.3f} GB" if value > 1e6 else f"{name} {value:.3g}" for name, value in result.items()
    )


if __name__ == "__main__":
    main()
