"""The tensors of CLIP alone, from the authors' `CS-*.pt` or another file of OpenAI's CLIP; nothing in it is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from sspsam.checkpoints.authors_layout import our_name, unused
from sspsam.checkpoints.authors_state import read_state, weights_of
from sspsam.checkpoints.torchscript import is_torchscript, read_torchscript_state
from sspsam.errors import CheckpointError
from sspsam.utils.paths import shown

CLIP_PREFIX: Final = "encoder."  # of CLIP's names in an authors' checkpoint

_FIRST: Final = "visual.conv1.weight"
_REQUIRED: Final = (
    _FIRST,
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.proj",
    "visual.transformer.resblocks.0.ln_1.weight",
    "transformer.resblocks.0.ln_1.weight",
    "token_embedding.weight",
    "positional_embedding",
    "ln_final.weight",
    "text_projection",
)
# how names of other libraries, or of other models, begin: beginning, description
_OTHER_NAMES: Final = (
    ("vision_model.", "its names are those of Hugging Face's transformers (vision_model.*)"),
    ("text_model.", "its names are those of Hugging Face's transformers (text_model.*)"),
    ("visual.layer1.", "its vision model is a ResNet"),
    ("visual.trunk.", "its vision model is one of timm (visual.trunk.*)"),
    ("text.", "its names are those of a text model of open_clip of its own (text.*)"),
    ("sam.", "it holds SAM (sam.*), perhaps as a whole SSP-SAM checkpoint"),
)
_MAX_NAMES: Final = 5  # in an error


def read_clip_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of CLIP alone, by OpenAI's names.

    Raises:
        CheckpointNotFoundError: no such file.
        UnsafeCheckpointError: the pickle names a class or function that no checkpoint needs; nothing was run.
        CheckpointError: damaged, or not CLIP with a vision transformer by OpenAI's names.
    """
    state = read_torchscript_state(path) if is_torchscript(path) else read_state(path)
    weights = _without_prefix(weights_of(state, path))
    missing = [name for name in _REQUIRED if name not in weights]
    unknown = [name for name in weights if our_name(CLIP_PREFIX + name) is None and not unused([CLIP_PREFIX + name])]
    if missing or unknown:
        raise CheckpointError(
            f"{shown(path)} is not CLIP with a vision transformer by OpenAI's names: {_difference(missing, unknown)}"
            f"{_other_names(weights)}. Give the authors' CS-*.pt or OpenAI's own file with --clip (clip= in Python)"
        )
    return weights


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without what precedes the names of CLIP in a model of which it is a part."""
    prefixes = [name.removesuffix(_FIRST) for name in state if f".{name}".endswith(f".{_FIRST}")]
    return {name.removeprefix(prefixes[0] if len(prefixes) == 1 else ""): tensor for name, tensor in state.items()}


def _difference(missing: list[str], unknown: list[str]) -> str:
    if missing:
        return f"no tensor '{missing[0]}'"
    rest = f" and {len(unknown) - _MAX_NAMES} more" if len(unknown) > _MAX_NAMES else ""
    return f"unknown tensors {', '.join(map(shown, unknown[:_MAX_NAMES]))}{rest}"


def _other_names(state: Mapping[str, Tensor]) -> str:
    described = (text for beginning, text in _OTHER_NAMES if any(name.startswith(beginning) for name in state))
    return next((f"; {text}" for text in described), "")
