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
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        named = list(module.named_parameters())
        inner = [
            p
            for name, p in named
            if p.ndim == 2 and min(p.shape) > _LEAST_SIDE and not any(part in name for part in _NOT_MATRICES)
        ]
        chosen = {id(p) for p in inner}
        others = [p for _, p in named if id(p) not in chosen]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, learning_rate: float) -> None:
        """Move every parameter along its gradient."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
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
