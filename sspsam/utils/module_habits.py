"""Hints for those who use a predictor as if it were a module of PyTorch."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "half": "half precision of all weights would spoil the masks; use from_pretrained(name, dtype='float16')",
        "bfloat16": "use from_pretrained(name, dtype='bfloat16')",
        "float": "use from_pretrained(name, dtype='float32')",
        "cuda": "use to('cuda')",
        "cpu": "use to('cpu')",
        "eval": "a predictor is always in evaluation mode",
        "load_state_dict": "use from_pretrained(directory)",
    }
)


class ModuleHabits:
    """Base class that names the way to do what methods of PyTorch's modules do."""

    if not TYPE_CHECKING:  # with these methods, type checkers would accept every name and argument

        def __new__(cls, model: object = None, *arguments: object, **keywords: object) -> Any:
            if isinstance(model, str | os.PathLike):
                raise TypeError(f"load a checkpoint by its name or path with {cls.__name__}.from_pretrained({model!r})")
            return super().__new__(cls)

        def __getattr__(self, name: str) -> Any:
            hint = f": {_HINTS[name]}" if name in _HINTS else ""
            message = f"{type(self).__name__!r} object has no attribute {name!r}{hint}"
            raise AttributeError(message, name=name, obj=self)
