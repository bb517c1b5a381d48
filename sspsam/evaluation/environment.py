"""The machine and the software that give the answers: versions, names of processors, and memory."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import torch

from sspsam._version import __version__

_PACKAGES: Final[Mapping[str, str]] = {
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "segment_anything": "segment_anything",
    "numpy": "numpy",
    "Pillow": "pillow",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "pycocotools": "pycocotools",
}
_SECONDS_FOR_A_PROGRAM: Final = 10


def package_versions() -> dict[str, str]:
    """Return the versions of sspsam, Python and the packages that answers depend on."""
    return {
        "sspsam": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,  # with the kind of the build, such as +cpu or +cu130
        **{name: _version(package) for name, package in _PACKAGES.items()},
    }


def versions() -> dict[str, str | int | None]:
    """Return everything of the environment that a report of a bug needs; None where there is none."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    return {
        **package_versions(),
        "CUDA": torch.version.cuda,
        "CUDA driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuDNN": cudnn,
        "ROCm": torch.version.hip,
        "platform": platform.platform(),
        "CPU": _cpu_name(),
        "GPU": _gpu_names(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str | None:
    """Return the name of a device's hardware, where PyTorch knows it."""
    if device.type == "cpu":
        return _cpu_name()
    if device.type in ("cuda", "xpu"):
        return str(getattr(torch, device.type).get_device_name(device))
    return None


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the largest memory that tensors take on a device; on a CPU nothing can be reset."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).reset_peak_memory_stats(device)


def memory_bytes(device: torch.device) -> int | None:
    """Return the memory that was used, in bytes; None where it is unknown.

    On a GPU it is the most that tensors took since `reset_peak_memory`; with MPS, which keeps no maximum, all that the
    driver has allocated now; on a CPU the largest resident memory of the process since it began.
    """
    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return _resident_peak() if device.type == "cpu" else None


def _resident_peak() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # in a program that was packed without its metadata
        return "unknown"


def _gpu_names() -> str | None:
    """Return the names of all GPUs that PyTorch finds."""
    if torch.backends.mps.is_available():
        return "Apple (MPS)"
    backend = torch.cuda if torch.cuda.is_available() else torch.xpu if torch.xpu.is_available() else None
    if backend is None:
        return None
    return ", ".join(str(backend.get_device_name(index)) for index in range(backend.device_count()))


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if os.path.exists(information):
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    brand = _output("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else None
    return brand or platform.processor() or platform.machine()


def _output(program: str, *arguments: str) -> str | None:
    """Return the first line that a program prints; None where there is no such program, or it fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=_SECONDS_FOR_A_PROGRAM, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else None
