"""Small layers that several networks share."""

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        width_in: width of the input.
        width_hidden: width of every layer but the last.
        width_out: width of the output.
        layers: number of linear layers.
    """

    def __init__(self, width_in: int, width_hidden: int, width_out: int, layers: int) -> None:
        super().__init__()
        widths = [width_in, *[width_hidden] * (layers - 1), width_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return cast(Tensor, self.layers[-1](x))
