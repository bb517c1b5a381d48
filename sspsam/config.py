"""The frozen description of a model: every dimension, the preprocessing, the no-target rule, and the origin.

`ModelConfig` is the content of `config.json`. Reading is strict: an unknown, missing or mistyped entry is a
`ConfigError` that names it, and a configuration whose `fingerprint` does not fit its content is refused.
"""

import dataclasses
import hashlib
import json
import math
import numbers
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sspsam.errors import ConfigError
from sspsam.utils.paths import kind_name, shown
from sspsam.utils.strict_json import dataclass_from_json, parse_json_object, require, short_repr

FORMAT_VERSION: Final = 1
SHARED_FORMAT_VERSION: Final = 2  # of a checkpoint that names its image encoders instead of holding them
IMAGE_ENCODERS: Final = ("clip.visual.", "sam.image_encoder.")  # prefixes of the names of their parameters
CALIBRATION_NAME: Final = "calibration.json"  # optional, beside the weights
MODEL_TYPE: Final = "ssp-sam"
# above any real model; a hostile file can neither make the construction slow nor sizes overflow
_MAX_DIMENSION: Final = 1 << 16
_MAX_BY_NAME: Final = {"vocab_size": 1 << 20, "image_size": 1 << 14, "mask_tokens": 64}
_MAX_LAYERS: Final = 256
_MAX_TEXT: Final = 2000  # characters of source, license and origin


def _check_dimensions(config: Any) -> None:
    """Check that every integer of a configuration is positive and below the limit for its entry."""
    where = type(config).__name__
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, int):
            layers = entry.name.endswith("layers")
            limit = _MAX_LAYERS if layers else _MAX_BY_NAME.get(entry.name, _MAX_DIMENSION)
            require(1 <= value <= limit, f"{where}.{entry.name} is {value}; it must be from 1 to {limit}")


def _check_divides(where: str, part: str, divisor: int, whole: str, value: int) -> None:
    require(value % divisor == 0, f"{where}.{part} ({divisor}) must divide {whole} ({value})")


@dataclass(frozen=True)
class CLIPConfig:
    """CLIP with surgery (`docs/method.md`, section 2)."""

    image_size: int  # S, pixels
    patch_size: int  # pixels
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp_width: int
    surgery_layers: int  # how many of the last vision blocks run two paths
    embed_dim: int  # C
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    context_length: int = 77  # L, text positions
    vocab_size: int = 49408

    def __post_init__(self) -> None:
        _check_dimensions(self)
        _check_divides("clip", "patch_size", self.patch_size, "image_size", self.image_size)
        _check_divides("clip", "vision_heads", self.vision_heads, "vision_width", self.vision_width)
        _check_divides("clip", "text_heads", self.text_heads, "text_width", self.text_width)
        require(
            self.surgery_layers <= self.vision_layers,
            f"clip.surgery_layers is {self.surgery_layers}, more than the {self.vision_layers} vision_layers",
        )
        require(3 <= self.context_length <= 4096, f"clip.context_length is {self.context_length}; 3 to 4096 can be")

    @property
    def grid(self) -> int:
        """G, patches along each side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class SAMConfig:
    """Segment Anything: image encoder, prompt encoder and mask decoder (`docs/method.md`, section 4)."""

    image_size: int  # pixels
    patch_size: int  # pixels
    width: int
    layers: int
    heads: int
    mlp_width: int
    window_size: int  # patches
    global_blocks: tuple[int, ...]  # which blocks attend to the whole grid instead of to windows
    prompt_width: int = 256  # D
    mask_channels: int = 16  # of the unused mask prompt
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    decoder_attention_downsample: int = 2
    mask_tokens: int = 4
    iou_head_layers: int = 3
    iou_head_width: int = 256

    def __post_init__(self) -> None:
        _check_dimensions(self)
        _check_divides("sam", "patch_size", self.patch_size, "image_size", self.image_size)
        _check_divides("sam", "heads", self.heads, "width", self.width)
        _check_divides("sam", "decoder_attention_downsample", self.decoder_attention_downsample, "D", self.prompt_width)
        inner = self.prompt_width // self.decoder_attention_downsample
        _check_divides("sam", "decoder_heads", self.decoder_heads, "the decoder's attention width", inner)
        require(self.prompt_width % 8 == 0, f"sam.prompt_width is {self.prompt_width}; it must be a multiple of 8")
        require(self.mask_channels % 4 == 0, f"sam.mask_channels is {self.mask_channels}; must be a multiple of 4")
        blocks = self.global_blocks
        require(
            list(blocks) == sorted(set(blocks)) and all(0 <= block < self.layers for block in blocks),
            f"sam.global_blocks is {str(blocks)[:200]}; it must list blocks below {self.layers}, ascending, once each",
        )

    @property
    def grid(self) -> int:
        """Patches along each side of the image embedding."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class SSPConfig:
    """The Semantic-Spatial Prompt encoder and the box head (`docs/method.md`, section 3)."""

    hidden_width: int = 512  # H
    attention_heads: int = 8
    image_projection_layers: int = 3
    prompts: int = 128  # P
    generator_layers: int = 6
    generator_heads: int = 8
    generator_mlp_width: int = 2048
    box_head_layers: int = 3

    def __post_init__(self) -> None:
        _check_dimensions(self)
        _check_divides("ssp", "attention_heads", self.attention_heads, "hidden_width", self.hidden_width)


@dataclass(frozen=True)
class Architecture:
    """Every dimension of a model; the argument of `sspsam.models.SSPSAM`."""

    clip: CLIPConfig
    sam: SAMConfig
    ssp: SSPConfig

    def __post_init__(self) -> None:
        _check_divides("ssp", "generator_heads", self.ssp.generator_heads, "sam.prompt_width", self.sam.prompt_width)


@dataclass(frozen=True)
class Preprocessing:
    """Constants that turn images and expressions into tensors (`docs/method.md`, section 1).

    CLIP's mean and standard deviation are for channels in [0, 1], SAM's for channels in [0, 255]; RGB order.
    """

    clip_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    clip_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    sam_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    sam_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    text_template: str = "{}."

    def __post_init__(self) -> None:
        for name, values in self.normalization.items():
            require(all(math.isfinite(value) for value in values), f"preprocessing.{name} is not finite: {values}")
            if name.endswith("std"):
                require(min(values) > 0, f"preprocessing.{name} must be positive, not {values}")
        require(
            self.text_template.count("{}") == 1 and len(self.text_template) <= 200,
            f"preprocessing.text_template must hold {{}} once, not {self.text_template[:200]!r}",
        )

    @property
    def normalization(self) -> dict[str, tuple[float, ...]]:
        """Means and standard deviations by name, as floats: 0 and 0.0 give one JSON text and so one fingerprint."""
        names = ("clip_mean", "clip_std", "sam_mean", "sam_std")
        return {name: tuple(map(float, getattr(self, name))) for name in names}


@dataclass(frozen=True)
class Postprocessing:
    """Constants that turn logits into a mask, and the authors' rule for no target (`docs/method.md`, section 5).

    Args:
        mask_threshold: probability from which a pixel is foreground; 0.5 is a logit of 0.
        no_target_pixels: fewer foreground pixels than this, at 0.5, in the authors' frame mean that the expression
            refers to nothing.
        no_target_frame: side of that frame, which is SAM's square at another size, padding included; pixels.
    """

    mask_threshold: float = 0.5
    no_target_pixels: int = 50
    no_target_frame: int = 512

    def __post_init__(self) -> None:
        check_mask_threshold(self.mask_threshold)
        check_no_target_pixels(self.no_target_pixels)
        require(self.no_target_pixels <= 8192**2, "no_target_pixels is larger than any no_target_frame")
        require(1 <= self.no_target_frame <= 8192, f"no_target_frame is {self.no_target_frame}; 1 to 8192 can be")


def check_mask_threshold(value: Any) -> None:
    """Check that a value is a probability strictly between 0 and 1.

    Raises:
        TypeError: not a number.
        ConfigError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"mask_threshold must be a number, not {kind_name(value)}")
    if not 0.0 < float(value) < 1.0:
        raise ConfigError(f"mask_threshold must be a probability between 0 and 1 (0.5 is logit 0), not {value}")


def check_no_target_pixels(value: Any) -> None:
    """Check that a value is a whole number of pixels, 0 or more.

    Raises:
        TypeError: not a whole number.
        ConfigError: negative.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"no_target_pixels must be a whole number, not {kind_name(value)} ({shown(value)})")
    if value < 0:
        raise ConfigError(f"no_target_pixels must be 0 or more, not {value}")


@dataclass(frozen=True)
class SharedEncoders:
    """The image encoders of a checkpoint that does not hold them itself.

    Args:
        sha256: of the safetensors file that holds exactly their tensors, in float32.
        origin: of a checkpoint that has these encoders, in words.
    """

    sha256: str
    origin: str

    def __post_init__(self) -> None:
        require(
            re.fullmatch("[0-9a-f]{64}", self.sha256) is not None,
            f"encoders.sha256 is no SHA-256: {self.sha256[:80]!r}",
        )
        require(len(self.origin) <= _MAX_TEXT, f"encoders.origin is longer than {_MAX_TEXT} characters")


@dataclass(frozen=True)
class ModelConfig:
    """The content of `config.json`.

    Args:
        architecture: every dimension.
        preprocessing: constants of the input.
        postprocessing: threshold and no-target rule.
        weights_sha256: SHA-256 of `model.safetensors`, hexadecimal; empty for a model that was never saved. Where
            `encoders` are named: of the file that would hold all tensors.
        source: of the weights, in words.
        license: licence of the weights, an SPDX identifier where there is one.
        encoders: that `model.safetensors` does not hold; None: it holds all tensors.
    """

    architecture: Architecture
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    weights_sha256: str = ""
    source: str = "unknown"
    license: str = "unknown"
    encoders: SharedEncoders | None = None

    def __post_init__(self) -> None:
        digest = self.weights_sha256
        require(
            re.fullmatch("([0-9a-f]{64})?", digest) is not None, f"weights_sha256 is not a SHA-256: {digest[:80]!r}"
        )
        for name in ("source", "license"):
            require(len(getattr(self, name)) <= _MAX_TEXT, f"{name} is longer than {_MAX_TEXT} characters")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the whole configuration, the digest of all weights included; hexadecimal.

        It does not depend on whether the checkpoint holds its image encoders or names them.
        """
        return hashlib.sha256(_canonical(self._content())).hexdigest()

    def _content(self) -> dict[str, Any]:
        content = dataclasses.asdict(dataclasses.replace(self, encoders=None))
        del content["encoders"]
        content["preprocessing"] |= self.preprocessing.normalization
        return {"model_type": MODEL_TYPE, "format_version": FORMAT_VERSION, **content}

    def to_json(self) -> str:
        """Return the text of `config.json`, fingerprint included."""
        content = {**self._content(), "fingerprint": self.fingerprint}
        if self.encoders is not None:
            content |= {"format_version": SHARED_FORMAT_VERSION, "encoders": dataclasses.asdict(self.encoders)}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        if not _is_utf8(text):  # a source that was taken from a file name may hold characters that UTF-8 cannot encode
            text = json.dumps(content, indent=2)
        return text + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "config.json") -> "ModelConfig":
        """Parse and check the text of a `config.json`.

        Args:
            text: JSON.
            where: name of the file, for errors.

        Raises:
            ConfigError: malformed, of a newer format, out of range, or changed since it was saved.
        """
        data = parse_json_object(text, where)
        require(
            data.pop("model_type", None) == MODEL_TYPE,
            f"{where} does not describe an SSP-SAM model (model_type is not {MODEL_TYPE!r})",
        )
        version = data.pop("format_version", None)
        require(
            type(version) is int and FORMAT_VERSION <= version <= SHARED_FORMAT_VERSION,
            f"{where} has format version {short_repr(version)}; this sspsam reads versions {FORMAT_VERSION} and "
            f"{SHARED_FORMAT_VERSION}. Upgrade sspsam, or convert the checkpoint again.",
        )
        stored_fingerprint = data.pop("fingerprint", None)
        try:
            encoders = None
            if version == SHARED_FORMAT_VERSION:
                encoders = dataclass_from_json(SharedEncoders, data.pop("encoders", None), "config.encoders")
            config = dataclass_from_json(cls, data, "config", absent=frozenset({"encoders"}))
            config = dataclasses.replace(config, encoders=encoders)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        require(
            stored_fingerprint == config.fingerprint,
            f"{where} was edited after it was saved: its fingerprint does not fit. Restore the file or convert again; "
            "thresholds can be passed to predict() instead.",
        )
        return config


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _published(image_size: int, patch_size: int, vision: tuple[int, int], embed_dim: int) -> Architecture:
    width, layers = vision
    clip = CLIPConfig(
        image_size=image_size,
        patch_size=patch_size,
        vision_width=width,
        vision_layers=layers,
        vision_heads=width // 64,
        vision_mlp_width=4 * width,
        surgery_layers=6,
        embed_dim=embed_dim,
        text_width=embed_dim,
        text_layers=12,
        text_heads=embed_dim // 64,
        text_mlp_width=4 * embed_dim,
    )
    sam = SAMConfig(
        image_size=1024,
        patch_size=16,
        width=1280,
        layers=32,
        heads=16,
        mlp_width=5120,
        window_size=14,
        global_blocks=(7, 15, 23, 31),
    )
    return Architecture(clip, sam, SSPConfig())


PUBLISHED: Final[Mapping[str, Architecture]] = types.MappingProxyType(
    {"224": _published(224, 16, (768, 12), 512), "336": _published(336, 14, (1024, 24), 768)}
)
"""The two published variants: CLIP ViT-B/16 at 224 px and ViT-L/14 at 336 px, both with SAM ViT-H."""
