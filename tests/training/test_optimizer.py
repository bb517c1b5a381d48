"""The batched Muon optimizer, compared with PyTorch's."""

import torch

from training import optimizer


def test_batched_muon_equals_that_of_pytorch() -> None:
    torch.manual_seed(0)
    shapes = [(24, 24), (24, 24), (40, 20), (20, 40), (40, 20)]
    batched = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    stock = [torch.nn.Parameter(parameter.detach().clone()) for parameter in batched]
    ours = optimizer.Muon([{"params": batched}], 1e-2, 0.02)
    theirs = torch.optim.Muon(stock, lr=1e-2, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for index, (one, other) in enumerate(zip(batched, stock, strict=True)):
            one.grad = None if index == 1 and step == 1 else torch.randn(one.shape)
            other.grad = None if one.grad is None else one.grad.clone()
        ours.step()
        theirs.step()
    for one, other in zip(batched, stock, strict=True):
        assert torch.allclose(one, other, atol=2e-4)
