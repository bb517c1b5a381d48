"""Copies of the network for a device and a precision; the float32 original stays where it is."""

import copy
from collections.abc import Callable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor, nn

from sspsam.models.clip import TextTransformer, VisionTransformer
from sspsam.models.image_encoder import Attention
from sspsam.models.layers import FoldingModule
from sspsam.models.sspsam import SSPSAM

Module = TypeVar("Module", bound=nn.Module)

WHOLE_NETWORK: Final = ("",)
_BLOCK_LISTS: Final = (".transformer.resblocks", ".image_encoder.blocks")  # of CLIP's and of SAM's transformers
_MATRIX_MODULES: Final = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention, nn.GRU)
_MATRIX_PARAMETERS: Final[Mapping[type[nn.Module], tuple[str, ...]]] = {
    Attention: ("rel_pos_h", "rel_pos_w"),
    VisionTransformer: ("proj",),
    TextTransformer: ("text_projection",),
}


def copy_with(
    module: Module,
    convert: Callable[[str, Tensor], Tensor],
    parts: Mapping[nn.Module, nn.Module] = MappingProxyType({}),
) -> Module:
    """Copy a module with other parameters and buffers.

    Args:
        module: is not changed.
        convert: called with the name and the value of each parameter and buffer; returns the tensor of the copy. A
            tensor that it returns unchanged is shared by both modules.
        parts: submodules of `module`, each with the module that takes its place in the copy.
    """
    # the memo of `deepcopy`: identity -> copy
    converted: dict[int, Any] = {id(part): other for part, other in parts.items()}
    replaced = {id(tensor) for part in parts for tensor in chain(part.parameters(), part.buffers())}
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if id(tensor) in replaced:
            continue
        value = convert(name, tensor)
        if isinstance(tensor, nn.Parameter) and value is not tensor:
            value = nn.Parameter(value, requires_grad=False)
        converted[id(tensor)] = value
    return copy.deepcopy(module, converted)


def matrix_names(model: nn.Module, prefixes: tuple[str, ...]) -> set[str]:
    """Return the names of the parameters that mixed precision keeps in half precision.

    They are weights and biases of products and convolutions, and the tables of relative positions. Norms, embeddings
    that are added to the residual stream, and scales stay in float32.

    Args:
        model: any of this package.
        prefixes: parameters whose names begin with one of them are considered.
    """
    names: set[str] = set()
    for module_name, module in model.named_modules():
        dot = module_name and f"{module_name}."
        if isinstance(module, _MATRIX_MODULES):
            names.update(dot + name for name, _ in module.named_parameters(recurse=False))
        names.update(dot + name for name in _MATRIX_PARAMETERS.get(type(module), ()))
    return {name for name in names if name.startswith(prefixes)}


def network_on_device(
    model: SSPSAM,
    device: torch.device,
    dtype: torch.dtype,
    prefixes: tuple[str, ...] = WHOLE_NETWORK,
    parts: Mapping[nn.Module, nn.Module] = MappingProxyType({}),
) -> SSPSAM:
    """Return a copy for one device and precision; tensors that need no conversion are shared with the model.

    Each matrix is narrowed before it is moved, so that the device never holds the float32 matrices. What the network
    computes from weights alone is computed now, so the weights of the copy must not change.

    Args:
        model: in float32 and in evaluation mode.
        device: of the copy.
        dtype: of the matrices; see `matrix_names`. float32: nothing is narrowed.
        prefixes: see `matrix_names`.
        parts: submodules that are on the device already, in this precision; see `copy_with`.
    """
    narrowed = set() if dtype is torch.float32 else matrix_names(model, prefixes)
    network = copy_with(
        model, lambda name, tensor: tensor.to(dtype if name in narrowed else tensor.dtype).to(device), parts
    )
    finished = {module for part in parts.values() for module in part.modules()}
    for module in network.modules():
        if isinstance(module, nn.GRU):
            module.flatten_parameters()  # cuDNN would otherwise copy the weights for every call
        elif isinstance(module, FoldingModule) and module not in finished:  # recorded graphs read what it has folded
            with torch.no_grad():
                module.fold()
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.current_stream(device).synchronize()  # threads with other streams may use the network at once
    return network


class OnDemand(nn.Module):
    """A block whose weights are copied to a device for every call and freed afterwards.

    Args:
        block: of a transformer; it is not changed.
        device: to compute on.
    """

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.block, self._device = block, device
        self.attn = block.attn
        self.window_size = getattr(block, "window_size", 0)  # of SAM's blocks

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Copy the block's weights to the device and call the copy."""
        return self._on_device()(*arguments, **keywords)

    def forward_with_columns(self, *arguments: Any) -> Any:
        """Copy the block's weights to the device and call this method of the copy; see `image_encoder.Block`."""
        return self._on_device().forward_with_columns(*arguments)

    def _on_device(self) -> Any:
        return copy_with(self.block, lambda _, tensor: tensor.to(self._device))


def network_on_demand(model: SSPSAM, device: torch.device) -> SSPSAM:
    """Return a copy in float32 that brings the weights of the large transformers to the device block by block.

    Args:
        model: in float32 and in evaluation mode.
        device: of the inputs and outputs.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    lists = [name for name in lists if name.endswith(_BLOCK_LISTS)]
    prefixes = tuple(f"{name}." for name in lists)
    network = copy_with(model, lambda name, tensor: tensor if name.startswith(prefixes) else tensor.to(device))
    for name in lists:
        layers = cast(nn.ModuleList, network.get_submodule(name))
        for index, block in enumerate(layers):
            layers[index] = OnDemand(block, device)
    return network
