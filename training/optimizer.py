"""Muon for the matrices inside the networks, AdamW for everything else.

On the first stage Muon (Jordan et al. 2024, as PyTorch has it) needs about half of the scenes that AdamW needs for the
same loss.
"""

from typing import Any

import torch
from torch import nn

_LEAST_SIDE = 16  # a matrix with a shorter side is a head or a set of tokens
_NOT_MATRICES = ("embed", "position", "rel_pos", "tokens.", "_token.", "heads.")


class MuonAndAdamW:
    """Two optimizers that step as one.

    Args:
        module: whose parameters learn.
        learning_rate: of both; Muon's steps are scaled to AdamW's.
        weight_decay: of what Muon moves.
        slower: how the names of parameters begin that learn at `slowness` times the rate, for they have learnt before.
        slowness: see `slower`.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        weight_decay: float,
        slower: tuple[str, ...] = (),
        slowness: float = 1.0,
    ) -> None:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            inner = parameter.ndim == 2 and min(parameter.shape) > _LEAST_SIDE
            inner = inner and not any(part in name for part in _NOT_MATRICES)
            groups.setdefault((inner, name.startswith(slower)), []).append(parameter)

        def of(inner: bool) -> list[dict[str, Any]]:
            return [
                {"params": parameters, "share": slowness if slow else 1.0}
                for (matrices, slow), parameters in sorted(groups.items())
                if matrices == inner
            ]

        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(of(True), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(of(False), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, learning_rate: float) -> None:
        """Move every parameter along its gradient."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group["share"]
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What to save."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """What was saved."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
