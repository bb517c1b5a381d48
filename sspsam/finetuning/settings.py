"""Everything that the bytes of a result depend on: compared where an interrupted training continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch

from sspsam.devices import DTYPES, default_dtype, dtype_name
from sspsam.finetuning.checks import CheckedLine

# settings that a message names: their titles, and the values that it tries
_ALTERNATIVES: Final[Mapping[str, tuple[str, Sequence[Any]]]] = {
    "processes": ("number of processes", range(1, 257)),
    "dtype": ("precision of the image encoders (dtype)", (None, *DTYPES)),
    "embedding_dtype": ("precision of the stored embeddings", tuple(DTYPES)),
    "device": ("kind of device", ("cpu", "cuda", "mps")),
}


@dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Args:
        described: values by name, for JSON. Those of earlier versions lack `dtype`, which is therefore left out where
            it is the default of the device.
    """

    described: Mapping[str, Any]

    @classmethod
    def of(cls, described: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Self:
        """Add the precision of the image encoders on a device to settings."""
        is_default = dtype == default_dtype(device)
        return cls({**described} if is_default else {**described, "dtype": dtype_name(dtype)})

    @property
    def digest(self) -> str:
        """Digest of the settings."""
        return hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()

    def difference(self, digest: str) -> str:
        """Return what is different in the settings that have another digest."""
        for name, (title, values) in _ALTERNATIVES.items():
            for value in values:
                if self._with(name, value) == digest:
                    return f"another {title} ({_shown(value)}, not {_shown(self.described.get(name))})"
        return "other lines or options"

    def _with(self, name: str, value: Any) -> str:
        rest = {key: other for key, other in self.described.items() if key != name}
        return Settings(rest if value is None else {**rest, name: value}).digest


def lines_digest(parts: Sequence[Sequence[CheckedLine]]) -> str:
    """Return a digest of lines, with their images and masks."""
    digest = hashlib.sha256()
    for part in parts:
        for line in part:
            mask = hashlib.sha256(np.packbits(line.entry.mask()).tobytes()).hexdigest()
            of_line = f"{line.image}\t{line.entry.text}\t{line.entry.box}\t{mask}\n"
            digest.update(of_line.encode(errors="surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)
