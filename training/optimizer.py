"""Muon for the matrices inside the networks, AdamW for all other parameters.

On the first stage Muon (Jordan et al. 2024, in PyTorch's implementation) needs about half of the scenes that AdamW
needs for the same loss.
"""

from typing import Any

import torch
from torch import nn

_MIN_SIDE = 16  # a matrix with a shorter side is a head or a set of tokens
_ADAMW_NAMES = ("embed", "position", "rel_pos", "tokens.", "_token.", "heads.")  # parts of names that AdamW updates


class MuonAndAdamW:
    """Two optimizers that step together.

    Args:
        module: the module to train; parameters that need no gradient are left out.
        learning_rate: of both optimizers; Muon's updates are scaled to AdamW's.
        weight_decay: of Muon.
        slow_prefixes: parameters whose names begin so learn at `slow_factor` times the learning rate.
        slow_factor: see `slow_prefixes`.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        weight_decay: float,
        slow_prefixes: tuple[str, ...] = (),
        slow_factor: float = 1.0,
    ) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}  # by (updated by Muon, slow)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                group = (_is_inner_matrix(name, parameter), name.startswith(slow_prefixes))
                groups.setdefault(group, []).append(parameter)

        def parameter_groups(muon: bool) -> list[dict[str, Any]]:
            return [
                # checkpoints of a training contain the key "share"
                {"params": parameters, "share": slow_factor if is_slow else 1.0}
                for (is_muon, is_slow), parameters in sorted(groups.items())
                if is_muon == muon
            ]

        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                parameter_groups(muon=True), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(parameter_groups(muon=False), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, learning_rate: float) -> None:
        """Update every parameter."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["share"]
            optimizer.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of both optimizers."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load the result of `state_dict`."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    is_matrix = parameter.ndim == 2 and min(parameter.shape) > _MIN_SIDE
    return is_matrix and not any(part in name for part in _ADAMW_NAMES)
