"""Muon for the matrices inside the networks, AdamW for all other parameters.

On the first stage Muon (Jordan et al. 2024) needs about half of the scenes that AdamW needs for the same loss. It is
computed here for all matrices of a shape at once: PyTorch's implementation takes one after the other, which on a GPU
takes as long as the rest of a step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

_MIN_SIDE = 16  # a matrix with a shorter side is a head or a set of tokens
_ADAMW_NAMES = ("embed", "position", "rel_pos", "tokens.", "_token.", "heads.")  # parts of names that AdamW updates


_MOMENTUM = 0.95
_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's polynomial


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with Nesterov momentum and `adjust_lr_fn="match_rms_adamw"`, in batches of equal shapes.

    Args:
        groups: parameter groups of matrices.
        lr: learning rate.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = orthogonalized(torch.stack([self._momentum(parameter) for parameter in parameters]))
                rate = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Update the momentum of a parameter and return its Nesterov momentum."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(momentum, _MOMENTUM)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Replace the singular values of (X, rows, columns) matrices by about 1, with Newton-Schulz iterations."""
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


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
            Muon(parameter_groups(muon=True), learning_rate, weight_decay),
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
