"""Everything that the bytes of a result depend on: compared where an interrupted training continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from sspsam.finetuning.checks import CheckedLine

# the settings that a message names, in its words; their values follow unless they are long or digests
_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "processes": "another number of processes",
        "dtype": "another precision of the image encoders (dtype)",
        "embedding_dtype": "another precision of the stored embeddings",
        "device": "another kind of device",
        "start": "another model to start from",
        "lines": "other lines",
        "negatives": "other negatives",
        "parts": "other parts that learn",
    }
)
_WITHOUT_VALUES: Final = ("start", "lines", "negatives", "parts")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings."""
    return json.dumps(settings, sort_keys=True)


def difference(text: str, earlier: str) -> str:
    """Return what is different in earlier settings, in words.

    Args:
        text: of the settings now, see `settings_text`.
        earlier: text of the settings of the interrupted training.
    """
    new, old = json.loads(text), json.loads(earlier)
    words = [
        title if name in _WITHOUT_VALUES else f"{title} ({old.get(name)}, not {new.get(name)})"
        for name, title in _TITLES.items()
        if old.get(name) != new.get(name)
    ]
    new_options, old_options = new.get("options", {}), old.get("options", {})
    words += [
        f"another {name} ({old_options.get(name)}, not {value})"
        for name, value in new_options.items()
        if old_options.get(name) != value
    ]
    return ", ".join(words) or "other settings"


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
