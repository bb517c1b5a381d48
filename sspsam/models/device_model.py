"""The network on one device in one precision: narrowed weights, CUDA graphs, and float32 where half precision fails."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Self

import torch
from torch import Tensor, nn

from sspsam.config import IMAGE_ENCODERS
from sspsam.devices import naming_out_of_memory
from sspsam.models.compilation import compile_blocks
from sspsam.models.cuda_graphs import RecordedFunctions, recorded_functions
from sspsam.models.layers import release_packed_weights
from sspsam.models.mask_decoder import DecoderImage
from sspsam.models.precision import WHOLE_NETWORK, network_on_demand, network_on_device
from sspsam.models.sspsam import SSPSAM, ExpressionFeatures, ImageFeatures, Prediction, PreparedImage
from sspsam.models.transformer import ImageProjections

_MOST_EXPRESSIONS: Final = 64  # in one pass on a GPU
_WITH_LITTLE_MEMORY: Final = 16  # in one pass on a GPU whose memory the graphs of 64 could exhaust
_LITTLE_MEMORY: Final = 10 << 30  # bytes


def expressions_per_pass(device: torch.device) -> int:
    """Return the number of expressions in one pass of the decoder.

    With two, every intermediate tensor stays in a CPU's cache and below 32 MB (see `models.image_encoder`); a GPU needs
    many. The graphs of a GPU keep their memory: those of 1, 2, 4 ... 64 expressions 2.6 GB in the published 336 size,
    those of up to 16 0.6 GB.
    """
    if device.type == "cpu":
        return 2
    if device.type == "cuda" and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(device).total_memory
        return _WITH_LITTLE_MEMORY if memory < _LITTLE_MEMORY else _MOST_EXPRESSIONS
    return _MOST_EXPRESSIONS


class DeviceModel:
    """SSP-SAM on one device in one precision, with the methods of `SSPSAM`.

    - float32: everything in float32.
    - float16 on a GPU: every matrix of the network in float16.
    - Other mixed precision: only the matrices of the image encoders are narrow. bfloat16 has too few digits for words
      and masks, and on a CPU their products gain nothing.

    Norms, softmax, residuals, similarity and its normalisation are float32 in each. On the CPU in float32 the network
    is the original itself; otherwise it is a copy, and the original keeps its float32 weights where they are.

    Args:
        original: in float32 and in evaluation mode.
        network: the original, or a copy of it on the device.
        device: of the network.
        recorded: replays the computation for one image and for 1, 2, 4 ... expressions; None: every call is eager.
    """

    def __init__(
        self, original: SSPSAM, network: SSPSAM, device: torch.device, recorded: RecordedFunctions | None
    ) -> None:
        self._original, self._network, self._device, self._recorded = original, network, device, recorded

    @classmethod
    @naming_out_of_memory("not enough memory for the model on its device")
    def of(
        cls,
        original: SSPSAM,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        encoders_of: "DeviceModel | None" = None,
    ) -> Self:
        """Copy a network to a device in a precision.

        Args:
            original: in float32 and in evaluation mode.
            device: to compute on.
            dtype: float32, or that of mixed precision.
            compiled: whether to compile the blocks of SAM's image encoder with `torch.compile`, at their first
                use.
            encoders_of: model on the same device in the same precision, of whose original `original` has the image
                encoders; they are shared on the device, too.
        """
        release_packed_weights(original)
        whole = dtype is torch.float16 and device.type == "cuda"
        network = original
        if compiled or dtype is not torch.float32 or next(original.parameters()).device != device:
            parts = {} if encoders_of is None else encoders_of._encoders_on_device()
            network = network_on_device(original, device, dtype, WHOLE_NETWORK if whole else IMAGE_ENCODERS, parts)
        if compiled and encoders_of is None:
            compile_blocks(network.sam.image_encoder)
        return cls(original, network, device, recorded_functions(device))

    def _encoders_on_device(self) -> dict[nn.Module, nn.Module]:
        """Return the image encoders of the original, each with the one on the device."""
        original, network = self._original, self._network
        return {
            original.clip.visual: network.clip.visual,
            original.sam.image_encoder: network.sam.image_encoder,
        }

    @property
    def answers_in_float32(self) -> bool:
        """True if texts and masks are computed in float32, so that a repetition in float32 would give the same."""
        return self._network.ssp.fusion.weight.dtype is torch.float32

    def in_float32(self) -> "DeviceModel":
        """Return the network in float32 on the same device, for rare repetitions.

        The blocks of the large transformers are copied to the device for every call; nothing is recorded.
        """
        return DeviceModel(self._original, network_on_demand(self._original, self._device), self._device, None)

    def encode_image(self, clip_input: Tensor, sam_input: Tensor) -> list[ImageFeatures]:
        """Encode B images; see `SSPSAM.encode_image`."""
        if self._recorded is None or len(clip_input) != 1:
            with self._device:
                return self._network.encode_image(clip_input, sam_input)
        return [ImageFeatures(*self._recorded("encode image", self._encode_one_image, clip_input, sam_input))]

    def prepare(self, features: ImageFeatures) -> PreparedImage:
        """Compute once what is the same for every expression; see `SSPSAM.prepare`."""
        return _prepared_image(self._call("prepare image", self._prepare, *features))

    def encode_text(self, token_ids: Tensor) -> ExpressionFeatures:
        """Encode E expressions; see `SSPSAM.encode_text`.

        Args:
            token_ids: (E, L) integers, 0 = padding; E is at most `expressions_per_pass` on a GPU.
        """
        features = self._call("encode text", self._encode_text, *self._padded([token_ids]))
        return ExpressionFeatures(*(tensor[: len(token_ids)] for tensor in features))

    def segment(
        self, image: PreparedImage, expressions: ExpressionFeatures, summarize: Callable[[Prediction], Tensor]
    ) -> tuple[Prediction, Tensor]:
        """Segment one image for E expressions; see `SSPSAM.segment`.

        Args:
            image: from `prepare`.
            expressions: from `encode_text`.
            summarize: computes (E, any) numbers from the prediction; always the same function, since it is recorded.
        """
        segment = partial(self._segment, summarize)
        tensors = self._call("segment", segment, *_tensors(image), *self._padded(expressions))
        *prediction, summary = (tensor[: len(expressions.padding)] for tensor in tensors)
        return Prediction(*prediction), summary

    def _call(self, name: str, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
        """Call a function of tensors, or replay its recording."""
        if self._recorded is None:
            return function(*inputs)
        return self._recorded(name, function, *inputs)

    # The application's default device is overridden, on which stock SAM would create tensors.

    def _encode_one_image(self, clip_input: Tensor, sam_input: Tensor) -> ImageFeatures:
        with self._device:
            [features] = self._network.encode_image(clip_input, sam_input)
        return features

    def _prepare(self, clip: Tensor, sam: Tensor) -> tuple[Tensor, ...]:
        with self._device:
            return _tensors(self._network.prepare(ImageFeatures(clip, sam)))

    def _encode_text(self, token_ids: Tensor) -> ExpressionFeatures:
        with self._device:
            return self._network.encode_text(token_ids)

    def _segment(self, summarize: Callable[[Prediction], Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        of_image = len(tensors) - len(ExpressionFeatures._fields)
        image, expressions = _prepared_image(tensors[:of_image]), ExpressionFeatures(*tensors[of_image:])
        with self._device:
            prediction = self._network.segment(image, expressions)
            return *prediction, summarize(prediction)

    def _padded(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Repeat the first row of (E, ...) tensors up to the next power of two, where calls are recorded."""
        count = len(tensors[0])
        missing = 0 if self._recorded is None else (1 << (count - 1).bit_length()) - count
        if not missing:
            return tensors
        return [torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) for tensor in tensors]


def finite_images(features: Sequence[ImageFeatures]) -> Tensor:
    """Return for each of B images whether all of its features are finite: (B,) bool on their device."""
    return torch.stack([torch.stack([tensor.isfinite().all() for tensor in image]).all() for image in features])


def _tensors(image: PreparedImage) -> tuple[Tensor, ...]:
    """Return the tensors of a prepared image in a fixed order."""
    decoder = image.decoder
    return image.clip, image.projected, decoder.tokens, decoder.position, *decoder.projections


def _prepared_image(tensors: Sequence[Tensor]) -> PreparedImage:
    """Return the prepared image of `_tensors`."""
    clip, projected, tokens, position, *projections = tensors
    return PreparedImage(clip, projected, DecoderImage(tokens, position, ImageProjections(*projections)))
