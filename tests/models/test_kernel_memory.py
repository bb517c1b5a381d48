"""The check that kernels for a GPU use no memory but that of their tensors, see `tests/support/triton_memory.py`."""

import pytest

from tests.support.triton_interpreter import interpreted, needs_triton

PROGRAM = """
import torch
from triton.runtime.errors import InterpreterError
from tests.support.triton_memory import copy

numbers = torch.arange(12.0)

def copied(count, blocks, step):
    source, target = numbers[:count].clone(), torch.zeros(12)
    copy[(blocks,)](source, target, step, block=4)
    return target

assert torch.equal(copied(12, 3, 4), numbers)
for count, blocks, step in ((12, 4, 4), (11, 3, 4), (12, 3, 3), (12, 2, -4)):
    try:
        copied(count, blocks, step)
    except InterpreterError as error:
        print(error)
    else:
        print("not noticed")
"""


@needs_triton
@pytest.mark.slow
def test_accesses_outside_of_the_tensors_and_blocks_that_overlap_are_noticed() -> None:
    messages = interpreted(PROGRAM).splitlines()
    assert [next(part for part in ("4 of 4", "1 of 4", "two blocks") if part in line) for line in messages] == [
        "4 of 4",
        "1 of 4",
        "two blocks",
        "4 of 4",
    ]
