"""Bidirectional GRUs as one kernel each for NVIDIA GPUs, in Triton; imported where Triton is there.

The steps of a GRU follow one after the other, and each is too small for a GPU: cuDNN launches two kernels for a step
and direction, 308 for the 77 positions of a text. Here one launch computes all steps of both directions. The hidden
units are divided among blocks, each of which keeps its rows of the weights in registers.

A step needs the states of all blocks from the step before. The blocks exchange them through the result itself: it is
filled with a NaN that no computation returns, and a block reads the states of the last step until none of them is that
NaN. So every state says by itself whether it has been written, and nothing depends on the order in which the writes of
a block become visible. A counter of finished blocks would need two more ways through memory in every step.

Blocks that wait must all run at the same time. A cooperative launch guarantees that: it fails if not all blocks fit on
the device. `gru.fused_gru` tries which variants a device can launch. Should a state be missing all the same, a block
gives up after some seconds; its states are NaN then, which the check for finite answers notices.

- In float16, products on tensor cores serve all expressions. At 512 units a block needs 112 to 128 KB of shared memory,
  so that each takes a multiprocessor of its own: up to 32 expressions take 32 multiprocessors, more take 64. GPUs of
  compute capability 8.6, 8.9 and 12.0 have 99 KB for a block.
- In float32, sums of products serve one expression after the other. At 512 units the weights take most of the registers
  of 64 multiprocessors.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

_FEWEST_ROWS: Final = 16  # of a product on tensor cores
_FLOAT32_UNITS: Final = 16  # of a block in float32
_MISSING: Final = -1  # as an integer, the bits of a state that is not written yet; a GPU's NaN begins with a 0
_MOST_READINGS: Final = 2**22  # of a launch in vain, about half a microsecond each


@triton.jit  # type: ignore[untyped-decorator]
def _bidirectional_gru(  # type: ignore[no-untyped-def]
    gates,  # (E, L, 2, 3H) products of the inputs, with the biases of the inputs
    weights,  # (2, 3H, H) of the hidden state
    biases,  # (2, 3H) of the hidden state
    states,  # (E, L, 2, H) float16, with the bits of `_MISSING`; written
    length,
    count,
    width: tl.constexpr,
    units: tl.constexpr,
    blocks: tl.constexpr,
    padded_count: tl.constexpr,
    most_readings: tl.constexpr,
):
    direction = tl.program_id(0) // blocks
    own_units = (tl.program_id(0) % blocks) * units + tl.arange(0, units)
    inputs = tl.arange(0, width)
    rows = tl.arange(0, padded_count)
    is_row = rows[:, None] < count
    reset_weight, update_weight, new_weight = _load_weights(weights + direction * 3 * width * width, own_units, width)
    reset_bias, update_bias, new_bias = _load_biases(biases + direction * 3 * width, own_units, width)
    own = tl.zeros((padded_count, units), tl.float32)  # this block's part of the hidden state
    readings = 0
    for step in range(length):
        position = step + direction * (length - 1 - 2 * step)
        line = (rows[:, None] * length + position) * 2 + direction
        gate = gates + line * 3 * width + own_units[None, :]
        reset_input = tl.load(gate, mask=is_row, other=0.0).to(tl.float32)
        update_input = tl.load(gate + width, mask=is_row, other=0.0).to(tl.float32)
        new_input = tl.load(gate + 2 * width, mask=is_row, other=0.0).to(tl.float32)
        last_line = line - 2 + 4 * direction  # of the step before
        last = states + last_line * width + inputs[None, :]
        is_known = is_row & (step > 0)  # the first step begins with zeros
        hidden = tl.load(last, mask=is_known, other=0.0, volatile=True)
        while _any_missing(hidden, tl.int16) & (readings < most_readings):
            hidden = tl.load(last, mask=is_known, other=0.0, volatile=True)
            readings += 1
        reset = tl.sigmoid(reset_input + reset_bias + tl.dot(hidden, reset_weight))
        update = tl.sigmoid(update_input + update_bias + tl.dot(hidden, update_weight))
        new = new_input + reset * (new_bias + tl.dot(hidden, new_weight))
        new = 2 * tl.sigmoid(2 * new) - 1  # the hyperbolic tangent
        own = (1 - update) * new + update * own
        tl.store(states + line * width + own_units[None, :], own.to(tl.float16), mask=is_row, cache_modifier=".cg")


@triton.jit  # type: ignore[untyped-decorator]
def _bidirectional_gru_in_turn(  # type: ignore[no-untyped-def]
    gates,  # (E, L, 2, 3H) float32, products of the inputs, with the biases of the inputs
    weights,  # (2, 3H, H) float32, of the hidden state
    biases,  # (2, 3H) float32, of the hidden state
    states,  # (E, L, 2, H) float32, with the bits of `_MISSING`; written
    length,
    count,
    width: tl.constexpr,
    units: tl.constexpr,
    blocks: tl.constexpr,
    most_readings: tl.constexpr,
):
    direction = tl.program_id(0) // blocks
    own_units = (tl.program_id(0) % blocks) * units + tl.arange(0, units)
    inputs = tl.arange(0, width)
    reset_weight, update_weight, new_weight = _load_weights(weights + direction * 3 * width * width, own_units, width)
    reset_bias, update_bias, new_bias = _load_biases(biases + direction * 3 * width, own_units, width)
    readings = 0
    for step in range(length):
        position = step + direction * (length - 1 - 2 * step)
        is_known = step > 0  # the first step begins with zeros
        for row in range(count):
            line = (row * length + position) * 2 + direction
            gate = gates + line * 3 * width + own_units
            reset_input, update_input, new_input = tl.load(gate), tl.load(gate + width), tl.load(gate + 2 * width)
            last = states + (line - 2 + 4 * direction) * width  # of the step before
            hidden = tl.load(last + inputs, mask=is_known, other=0.0, volatile=True)
            own = tl.load(last + own_units, mask=is_known, other=0.0, volatile=True)  # this block's part of it
            while (_any_missing(hidden, tl.int32) | _any_missing(own, tl.int32)) & (readings < most_readings):
                hidden = tl.load(last + inputs, mask=is_known, other=0.0, volatile=True)
                own = tl.load(last + own_units, mask=is_known, other=0.0, volatile=True)
                readings += 1
            column = hidden[:, None]  # (H, 1)
            reset = tl.sigmoid(reset_input + reset_bias + tl.sum(column * reset_weight, axis=0))
            update = tl.sigmoid(update_input + update_bias + tl.sum(column * update_weight, axis=0))
            new = new_input + reset * (new_bias + tl.sum(column * new_weight, axis=0))
            new = 2 * tl.sigmoid(2 * new) - 1  # the hyperbolic tangent
            own = (1 - update) * new + update * own
            tl.store(states + line * width + own_units, own, cache_modifier=".cg")


@triton.jit  # type: ignore[untyped-decorator]
def _load_weights(weights, own_units, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a block's rows of the weights of the reset gate, the update gate and the new state, (H, units) each."""
    weight = weights + own_units[None, :] * width + tl.arange(0, width)[:, None]
    return tl.load(weight), tl.load(weight + width * width), tl.load(weight + 2 * width * width)


@triton.jit  # type: ignore[untyped-decorator]
def _load_biases(biases, own_units, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a block's biases of the same in float32, (units,) each."""
    bias = biases + own_units
    reset, update, new = tl.load(bias), tl.load(bias + width), tl.load(bias + 2 * width)
    return reset.to(tl.float32), update.to(tl.float32), new.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _any_missing(states, integer: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return True if a state is not written yet; `integer` is a type of the same size."""
    missing = states.to(integer, bitcast=True) == -1  # _MISSING
    return tl.max(missing.to(tl.int32)) > 0


def bidirectional_gru(x: Tensor, weight_ih: Tensor, bias_ih: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """Compute `gru(x)[0]` in the dtype of the weights; (E, L, H) -> (E, L, 2H).

    Args:
        x: float16 or float32, on the GPU; H (inputs and hidden units) is a power of two from 32 on. E is at most 64 in
            float16.
        weight_ih, bias_ih, weight_hh, bias_hh: weights of both directions, see `gru.GRUWeights`.
    """
    count, length, width = x.shape
    gates = F.linear(x, weight_ih, bias_ih)  # (E, L, 2*3H)
    in_float32 = x.dtype is torch.float32
    bits = torch.int32 if in_float32 else torch.int16
    states = torch.full((count, length, 2 * width), _MISSING, dtype=bits, device=x.device).view(x.dtype)
    tensors = gates, weight_hh, bias_hh, states
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if in_float32:
            blocks = width // _FLOAT32_UNITS
            _bidirectional_gru_in_turn[(2 * blocks,)](
                *tensors,
                length,
                count,
                width=width,
                units=_FLOAT32_UNITS,
                blocks=blocks,
                most_readings=_MOST_READINGS,
                num_warps=8,
                launch_cooperative_grid=True,
            )
            return states
        rows = max(_FEWEST_ROWS, 1 << (count - 1).bit_length())  # 16, 32 or 64, as in `gru.fused_gru`
        units, warps = (32, 4) if rows <= 32 else (16, 8)  # the fastest on an H200
        blocks = width // units
        _bidirectional_gru[(2 * blocks,)](
            *tensors,
            length,
            count,
            width=width,
            units=units,
            blocks=blocks,
            padded_count=rows,
            most_readings=_MOST_READINGS,
            num_warps=warps,
            launch_cooperative_grid=True,
        )
    return states
