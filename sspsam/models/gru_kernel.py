"""Bidirectional GRUs as one kernel each for NVIDIA GPUs, in Triton; imported where Triton is there.

The steps of a GRU follow one after the other, and each is too small for a GPU: cuDNN launches two kernels for a step
and direction, 308 for the 77 positions of a text. Here one launch computes all steps of both directions. The hidden
units are divided among blocks, each of which keeps its rows of the weights in registers. After a step the blocks of a
direction exchange their parts of the hidden state through memory, and wait for each other at a counter.

Blocks that wait must all run at the same time, or they would wait for ever. A cooperative launch guarantees that: it
fails if not all blocks fit on the device. `gru.fused_gru` tries which variants a device can launch.

- In float16, products on tensor cores serve all expressions. At 512 units a block of 32 units needs 112 to 128 KB of
  shared memory, so that each takes a multiprocessor of its own: up to 32 expressions take 32 multiprocessors. GPUs of
  compute capability 8.6, 8.9 and 12.0 have 99 KB for a block, and get blocks of 16 units with 64 to 80 KB, on 64
  multiprocessors. More than 32 expressions take blocks of 16 units, too, with 112 to 116 KB.
- In float32, sums of products serve one expression after the other. At 512 units the weights take most of the registers
  of 64 multiprocessors.
"""

from functools import cache
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

_FEWEST_ROWS: Final = 16  # of a product on tensor cores
_SHARED_BYTES: Final = 256  # that a block of 32 units for 32 expressions needs for each of the H hidden units
_FLOAT32_UNITS: Final = 16  # of a block in float32
_COUNTER_STRIDE: Final = 32  # 128 bytes between the counters of the two directions


@triton.jit  # type: ignore[untyped-decorator]
def _bidirectional_gru(  # type: ignore[no-untyped-def]
    gates,  # (E, L, 2, 3H) products of the inputs, with the biases of the inputs
    weights,  # (2, 3H, H) of the hidden state
    biases,  # (2, 3H) of the hidden state
    states,  # (E, L, 2, H), written
    exchange,  # (2, 2, padded count, H) zeros: the hidden states of even and of odd steps
    counters,  # zeros: how many blocks of a direction have finished how many steps
    length,
    count,
    width: tl.constexpr,
    units: tl.constexpr,
    blocks: tl.constexpr,
    padded_count: tl.constexpr,
    counter_stride: tl.constexpr,
):
    direction = tl.program_id(0) // blocks
    own_units = (tl.program_id(0) % blocks) * units + tl.arange(0, units)
    inputs = tl.arange(0, width)
    rows = tl.arange(0, padded_count)
    is_row = rows[:, None] < count
    reset_weight, update_weight, new_weight = _load_weights(weights + direction * 3 * width * width, own_units, width)
    reset_bias, update_bias, new_bias = _load_biases(biases + direction * 3 * width, own_units, width)
    own = tl.zeros((padded_count, units), tl.float32)  # this block's part of the hidden state
    counter = counters + direction * counter_stride
    for step in range(length):
        position = step + direction * (length - 1 - 2 * step)
        line = (rows[:, None] * length + position) * 2 + direction
        gate = gates + line * 3 * width + own_units[None, :]
        reset_input = tl.load(gate, mask=is_row, other=0.0).to(tl.float32)
        update_input = tl.load(gate + width, mask=is_row, other=0.0).to(tl.float32)
        new_input = tl.load(gate + 2 * width, mask=is_row, other=0.0).to(tl.float32)
        # past the first cache level, which does not see the writes of other blocks
        read = exchange + ((step % 2) * 2 + direction) * padded_count * width
        hidden = tl.load(read + rows[:, None] * width + inputs[None, :], cache_modifier=".cg")
        reset = tl.sigmoid(reset_input + reset_bias + tl.dot(hidden, reset_weight))
        update = tl.sigmoid(update_input + update_bias + tl.dot(hidden, update_weight))
        new = new_input + reset * (new_bias + tl.dot(hidden, new_weight))
        new = 2 * tl.sigmoid(2 * new) - 1  # the hyperbolic tangent
        own = (1 - update) * new + update * own
        narrow = own.to(weights.dtype.element_ty)
        written = exchange + (((step + 1) % 2) * 2 + direction) * padded_count * width
        tl.store(written + rows[:, None] * width + own_units[None, :], narrow, cache_modifier=".cg")
        tl.store(states + line * width + own_units[None, :], narrow, mask=is_row)
        _wait_for_all(counter, blocks * (step + 1))


@triton.jit  # type: ignore[untyped-decorator]
def _bidirectional_gru_in_turn(  # type: ignore[no-untyped-def]
    gates,  # (E, L, 2, 3H) float32, products of the inputs, with the biases of the inputs
    weights,  # (2, 3H, H) float32, of the hidden state
    biases,  # (2, 3H) float32, of the hidden state
    states,  # (E, L, 2, H) float32, written
    exchange,  # (2, 2, E, H) zeros, float32: the hidden states of even and of odd steps
    counters,  # zeros: how many blocks of a direction have finished how many steps
    length,
    count,
    width: tl.constexpr,
    units: tl.constexpr,
    blocks: tl.constexpr,
    counter_stride: tl.constexpr,
):
    direction = tl.program_id(0) // blocks
    own_units = (tl.program_id(0) % blocks) * units + tl.arange(0, units)
    inputs = tl.arange(0, width)
    reset_weight, update_weight, new_weight = _load_weights(weights + direction * 3 * width * width, own_units, width)
    reset_bias, update_bias, new_bias = _load_biases(biases + direction * 3 * width, own_units, width)
    counter = counters + direction * counter_stride
    for step in range(length):
        position = step + direction * (length - 1 - 2 * step)
        for row in range(count):
            line = (row * length + position) * 2 + direction
            gate = gates + line * 3 * width + own_units
            # past the first cache level, which does not see the writes of other blocks
            read = exchange + (((step % 2) * 2 + direction) * count + row) * width
            hidden = tl.load(read + inputs, cache_modifier=".cg")[:, None]  # (H, 1)
            own = tl.load(read + own_units, cache_modifier=".cg")  # this block's part of the hidden state
            reset = tl.sigmoid(tl.load(gate) + reset_bias + tl.sum(hidden * reset_weight, axis=0))
            update = tl.sigmoid(tl.load(gate + width) + update_bias + tl.sum(hidden * update_weight, axis=0))
            new = tl.load(gate + 2 * width) + reset * (new_bias + tl.sum(hidden * new_weight, axis=0))
            new = 2 * tl.sigmoid(2 * new) - 1  # the hyperbolic tangent
            own = (1 - update) * new + update * own
            written = exchange + ((((step + 1) % 2) * 2 + direction) * count + row) * width
            tl.store(written + own_units, own, cache_modifier=".cg")
            tl.store(states + line * width + own_units, own)
        _wait_for_all(counter, blocks * (step + 1))


@triton.jit  # type: ignore[untyped-decorator]
def _load_weights(weights, own_units, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a block's rows of the weights of the reset gate, the update gate and the new state, (H, units) each."""
    weight = weights + own_units[None, :] * width + tl.arange(0, width)[:, None]
    return tl.load(weight), tl.load(weight + width * width), tl.load(weight + 2 * width * width)


@triton.jit  # type: ignore[untyped-decorator]
def _load_biases(biases, own_units, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a block's biases of these three in float32, (units,) each."""
    bias = biases + own_units
    reset, update, new = tl.load(bias), tl.load(bias + width), tl.load(bias + 2 * width)
    return reset.to(tl.float32), update.to(tl.float32), new.to(tl.float32)


@triton.jit
def _wait_for_all(counter, expected):  # type: ignore[no-untyped-def]
    """Wait until the blocks of a direction have finished a step."""
    tl.debug_barrier()  # all threads of the block have written
    tl.atomic_add(counter, 1, sem="release")
    finished = tl.atomic_add(counter, 0, sem="acquire")
    while finished < expected:
        finished = tl.atomic_add(counter, 0, sem="acquire")
    tl.debug_barrier()


def bidirectional_gru(x: Tensor, weight_ih: Tensor, bias_ih: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """Compute `gru(x)[0]` in the dtype of the weights; (E, L, H) -> (E, L, 2H).

    Args:
        x: float16 or float32, on the GPU; H (inputs and hidden units) is a power of two from 32 on. E is at most 64 in
            float16.
        weight_ih, bias_ih, weight_hh, bias_hh: weights of both directions, see `gru.GRUWeights`.
    """
    count, length, width = x.shape
    gates = F.linear(x, weight_ih, bias_ih)  # (E, L, 2*3H)
    counters = torch.zeros(2 * _COUNTER_STRIDE, dtype=torch.int32, device=x.device)
    states = x.new_empty(count, length, 2 * width)
    weights = gates, weight_hh, bias_hh
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if x.dtype is torch.float32:
            blocks = width // _FLOAT32_UNITS
            _bidirectional_gru_in_turn[(2 * blocks,)](
                *weights,
                states,
                x.new_zeros(2, 2, count, width),
                counters,
                length,
                count,
                width=width,
                units=_FLOAT32_UNITS,
                blocks=blocks,
                counter_stride=_COUNTER_STRIDE,
                num_warps=8,
                launch_cooperative_grid=True,
            )
            return states
        rows = max(_FEWEST_ROWS, 1 << (count - 1).bit_length())  # 16, 32 or 64, as in `gru.fused_gru`
        units, warps = _block_size(rows, width, _shared_memory(x.device))
        blocks = width // units
        _bidirectional_gru[(2 * blocks,)](
            *weights,
            states,
            x.new_zeros(2, 2, rows, width),
            counters,
            length,
            count,
            width=width,
            units=units,
            blocks=blocks,
            padded_count=rows,
            counter_stride=_COUNTER_STRIDE,
            num_warps=warps,
            launch_cooperative_grid=True,
        )
    return states


def _block_size(rows: int, width: int, shared_memory: int) -> tuple[int, int]:
    """Return the hidden units of a block in float16, and its number of warps: the fastest on an H200, if they fit.

    Args:
        rows: of the product, for the expressions.
        width: H.
        shared_memory: see `_shared_memory`.
    """
    return (32, 4) if rows <= 32 and shared_memory >= _SHARED_BYTES * width else (16, 8)


@cache
def _shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may use at most."""
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index)
    most: int = properties["max_shared_mem"]
    return most
