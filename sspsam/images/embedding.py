"""What the model keeps of a picture, so that any number of expressions can be asked about it."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sspsam.errors import EmbeddingError
from sspsam.images.loading import Pixels
from sspsam.models import PreparedImage
from sspsam.utils.files import replace_file

_FORMAT_VERSION: Final = "1"
_MAX_PIXELS: Final = 1 << 31
_KEY: Final = "sspsam_embedding"


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """An encoded picture; made by `SSPSAMPredictor.encode`, never changed afterwards.

    Args:
        clip_features: (G*G, C) float32, CLIP's features of every patch.
        sam_embedding: (D, g, g) float32, SAM's image embedding.
        height, width: of the upright picture, pixels.
        fingerprint: of the model that made it; no other model takes it.
        pixels: (height, width, 3) uint8 RGB of the upright picture, for overlays; None after `load`.
        prepared: what the model makes of the tensors for every expression; kept from the first question on.
        moved: the same on the device where it was asked about last, if that is another.
    """

    clip_features: Tensor
    sam_embedding: Tensor
    height: int
    width: int
    fingerprint: str
    pixels: Pixels | None = field(default=None, repr=False)
    prepared: PreparedImage | None = field(default=None, repr=False)
    moved: "ImageEmbedding | None" = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"ImageEmbedding({self.width} x {self.height} pixels, model {self.fingerprint[:12]})"

    def __getstate__(self) -> dict[str, Any]:
        """All but what can be made again."""
        return {**self.__dict__, "prepared": None, "moved": None}

    def to(self, device: torch.device | str) -> "ImageEmbedding":
        """The same embedding with its tensors on another device; itself where they are there already.

        The last such copy is kept, so that what is computed for the first question there serves the next ones.
        """
        device = torch.device(device)
        if self.clip_features.device == device and self.sam_embedding.device == device:
            return self
        moved = self.moved
        if moved is None or moved.clip_features.device != device:
            clip, sam = self.clip_features.to(device), self.sam_embedding.to(device)
            if clip is self.clip_features and sam is self.sam_embedding:  # such as "cuda" for "cuda:0"
                return self
            moved = dataclasses.replace(self, clip_features=clip, sam_embedding=sam, prepared=None, moved=None)
            object.__setattr__(self, "moved", moved)  # threads may both do so: what they write is equal
        return moved

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the primary tensors, not the picture, to a safetensors file.

        Raises:
            StorageError: the file cannot be written; an older file of that name is left as it was.
        """
        about = {"height": str(self.height), "width": str(self.width), "fingerprint": self.fingerprint}
        replace_file(Path(path), pack(self.clip_features, self.sam_embedding, about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ImageEmbedding":
        """Read what `save` wrote; the tensors are on the CPU.

        Raises:
            EmbeddingError: missing, damaged, or of another version.
        """
        path = Path(path)
        about, tensors = unpack(path)
        try:
            height, width = (_side(about[name]) for name in ("height", "width"))
            fingerprint = str(about["fingerprint"])
        except (KeyError, ValueError) as error:
            raise EmbeddingError(f"{path} does not say which picture and model it belongs to: {error!r}") from error
        if any(tensor.dtype != torch.float32 for tensor in tensors.values()) or height * width > _MAX_PIXELS:
            raise EmbeddingError(f"{path} does not hold what sspsam saves: float32 tensors of a picture of sane size")
        return cls(tensors["clip_features"], tensors["sam_embedding"], height, width, fingerprint)


def pack(clip_features: Tensor, sam_embedding: Tensor, about: dict[str, str]) -> bytes:
    """A safetensors file of both tensors, what is said about them, and a digest of all of it."""
    tensors = {
        "clip_features": clip_features.detach().cpu().contiguous(),
        "sam_embedding": sam_embedding.detach().cpu().contiguous(),
    }
    said = {**about, "version": _FORMAT_VERSION}
    said["sha256"] = _digest(said, tensors)
    return save(tensors, {_KEY: json.dumps(said, sort_keys=True)})


def unpack(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What `pack` made: what is said about the tensors, and the tensors, on the CPU.

    Raises:
        EmbeddingError: missing, damaged, or of another version.
    """
    if not path.is_file():
        raise EmbeddingError(f"no such embedding file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            # cloned: an embedding must not change when its file does
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise EmbeddingError(f"{path} is damaged or not an embedding: {error}") from error
    if not isinstance(about, dict) or set(tensors) != {"clip_features", "sam_embedding"}:
        raise EmbeddingError(f"{path} is a safetensors file, but not an embedding that sspsam saved")
    if about.get("version") != _FORMAT_VERSION:
        raise EmbeddingError(
            f"{path} has format version {about.get('version')!r}; this sspsam reads {_FORMAT_VERSION}. "
            "Encode the picture again."
        )
    if about.pop("sha256", None) != _digest(about, tensors):
        raise EmbeddingError(f"{path} is damaged: its content does not match its digest. Encode the picture again.")
    return about, tensors


def _side(text: object) -> int:
    if not isinstance(text, str) or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise ValueError(f"{str(text)[:40]!r} is no number of pixels")
    return int(text)


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
