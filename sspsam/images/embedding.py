"""`ImageEmbedding`: the features of an encoded image, reused for any number of expressions."""

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

from sspsam.devices import naming_out_of_memory
from sspsam.errors import EmbeddingError, StorageError
from sspsam.identity import EncoderIdentity, PredictorIdentity
from sspsam.images.loading import DEFAULT_MAX_PIXELS, Pixels
from sspsam.images.pixel_limits import LARGER_LIMIT, limit_wording
from sspsam.images.preprocessing import Geometry
from sspsam.messages import OptionMessage
from sspsam.utils.arguments import whole_number
from sspsam.utils.files import replace_file
from sspsam.utils.paths import shown, user_file, user_path

_FORMAT_VERSION: Final = "1"
_METADATA_KEY: Final = "sspsam_embedding"


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """An encoded image; made by `SSPSAMPredictor.encode`, never changed afterwards.

    Args:
        clip_features: (G*G, C) float32, CLIP's features of every patch.
        sam_embedding: (D, g, g) float32, SAM's image embedding.
        height, width: of the upright image, pixels.
        fingerprint: of the model that made it.
        pixels: (height, width, 3) uint8 RGB of the upright image, for overlays; None after `load`.
        geometry: of the image in the model's inputs; None after `load`, since the file does not hold it.
        encoders: fingerprint of the image encoders that made it; every model with these encoders accepts it. Empty in
            an embedding of an earlier version of sspsam, which only the model that made it accepts.
    """

    clip_features: Tensor
    sam_embedding: Tensor
    height: int
    width: int
    fingerprint: str
    pixels: Pixels | None = field(default=None, repr=False)
    geometry: Geometry | None = field(default=None, repr=False)
    encoders: str = ""

    def __repr__(self) -> str:
        tensors = self.clip_features, self.sam_embedding
        stored = f"{sum(tensor.nbytes for tensor in tensors) / 1e6:.1f} MB of {tensors[0].dtype} on {tensors[0].device}"
        maker = f"encoders {self.encoders[:12]}" if self.encoders else f"model {self.fingerprint[:12]}"
        return f"ImageEmbedding({self.width} x {self.height} pixels, {maker}, {stored})"

    def to(self, device: torch.device | str) -> "ImageEmbedding":
        """Return the embedding with its tensors on a device; itself where they are there already."""
        clip_features, sam_embedding = self.clip_features.to(device), self.sam_embedding.to(device)
        if clip_features is self.clip_features and sam_embedding is self.sam_embedding:
            return self
        return dataclasses.replace(self, clip_features=clip_features, sam_embedding=sam_embedding)

    @naming_out_of_memory("not enough memory to write the embedding")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tensors, without the image itself, to a safetensors file.

        Raises:
            StorageError: the file cannot be written; an older file of that name is unchanged.
        """
        metadata = {"height": str(self.height), "width": str(self.width), "fingerprint": self.fingerprint}
        if self.encoders:
            metadata["encoders"] = self.encoders
        replace_file(
            user_file(path, "the embedding file", StorageError),
            pack_embedding(self.clip_features, self.sam_embedding, metadata),
        )

    @classmethod
    @naming_out_of_memory("not enough memory to read the embedding")
    def load(cls, path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> "ImageEmbedding":
        """Read a file of `save`; the tensors are on the CPU.

        Args:
            path: of the file.
            max_pixels: largest width times height of the image: a small file may claim any size, and masks are
                allocated at that size.

        Raises:
            EmbeddingError: the file is missing, damaged, or of another format version, or its image is too large.
        """
        max_pixels = whole_number("max_pixels", max_pixels, 1)
        path = user_path(path, "the embedding file", EmbeddingError)
        metadata, tensors = unpack_embedding(path)
        try:
            height, width = (_checked_side(metadata[name]) for name in ("height", "width"))
            fingerprint, encoders = str(metadata["fingerprint"]), str(metadata.get("encoders", ""))
        except (KeyError, ValueError) as error:
            raise EmbeddingError(f"{path} does not state the image and model that it belongs to: {error!r}") from error
        if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
            raise EmbeddingError(f"{path} is no embedding of sspsam: its tensors are not float32")
        if height * width > max_pixels:
            raise EmbeddingError(
                OptionMessage(
                    f"{path} belongs to an image of {width} x {height} = {width * height:,} pixels, more than ",
                    limit_wording(max_pixels),
                    ". If you trust the file, ",
                    LARGER_LIMIT,
                    ".",
                )
            )
        return cls(tensors["clip_features"], tensors["sam_embedding"], height, width, fingerprint, encoders=encoders)


def require_fitting_encoders(embedding: ImageEmbedding, identity: PredictorIdentity, encoders: EncoderIdentity) -> None:
    """Refuse an embedding that neither this model nor one with the same image encoders has made.

    Raises:
        EmbeddingError: the message says what differs.
    """
    if embedding.fingerprint == identity.fingerprint:
        return
    if embedding.encoders and embedding.encoders == encoders.fingerprint:
        return
    if embedding.encoders:
        difference = (
            f"whose image encoders are others (fingerprint {embedding.encoders[:20]}..., this model's have "
            f"{encoders.fingerprint[:20]}...)"
        )
    else:
        difference = (
            "by an earlier version of sspsam that did not state its image encoders, so that only that model accepts it "
            f"(fingerprint {embedding.fingerprint[:20]}..., this model has {identity.fingerprint[:20]}...)"
        )
    raise EmbeddingError(f"the embedding was made by another model, {difference}: encode the image with this model")


def pack_embedding(clip_features: Tensor, sam_embedding: Tensor, metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file with both tensors, the metadata, and a digest of everything."""
    tensors = {
        "clip_features": clip_features.detach().cpu().contiguous(),
        "sam_embedding": sam_embedding.detach().cpu().contiguous(),
    }
    metadata = {**metadata, "version": _FORMAT_VERSION}
    metadata["sha256"] = _digest(metadata, tensors)
    return save(tensors, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def unpack_embedding(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors, on the CPU, of a file that `pack_embedding` made.

    Raises:
        EmbeddingError: the file is missing, damaged, or of another format version.
    """
    if not os.path.isfile(path):
        raise EmbeddingError(f"no such embedding file: {shown(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "null"))
            # cloned: an embedding must not change when its file does
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise EmbeddingError(f"{path} is damaged or not an embedding: {error}") from error
    if not isinstance(metadata, dict) or set(tensors) != {"clip_features", "sam_embedding"}:
        raise EmbeddingError(f"{path} is a safetensors file, but not an embedding that sspsam saved")
    if metadata.get("version") != _FORMAT_VERSION:
        raise EmbeddingError(
            f"{path} has format version {metadata.get('version')!r}; this sspsam reads {_FORMAT_VERSION}. "
            "Encode the image again."
        )
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise EmbeddingError(f"{path} is damaged: its content does not match its digest. Encode the image again.")
    return metadata, tensors


def _checked_side(text: object) -> int:
    if not isinstance(text, str) or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise ValueError(f"{str(text)[:40]!r} is no number of pixels")
    return int(text)


def _digest(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
