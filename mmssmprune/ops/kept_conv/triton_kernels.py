"""The kernels of the convolution, and what launches them. A program takes some outputs times some channels."""

# ruff: noqa: RUF005  (inside a kernel tuples grow by addition only)

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .inputs import ConvInputs

OUTPUTS, CHANNELS = 16, 64  # of a block
PROGRAMS = 1024  # for the gradient of the weight: about so many, each with sums of its own
OPTIONS = dict(num_warps=4, enable_fp_fusion=True)  # Triton's default for the latter changes in 3.10


class Tokens(NamedTuple):
    """Rows of channels (B, tokens, C): a pointer and the strides of image and token; channels are adjacent."""

    ptr: Any
    batch: int
    token: int


class Grid(NamedTuple):
    """Pointers to integers ``slot`` (B, H*W) and ``out_cells`` (B, K), their strides per image, and the sizes."""

    slot: Any
    out_cells: Any
    slot_batch: int
    cells_batch: int
    outputs: int
    channels: int
    height: int
    width: int
    top: int
    left: int


@triton.jit
def cells_of(grid, block, BLOCK_K: tl.constexpr):
    """Image, numbers of the outputs and their rows and columns on the grid, for a block of all images' outputs."""
    blocks = tl.cdiv(grid.outputs, BLOCK_K)
    b = tl.cast(block // blocks, tl.int64)
    k = (block % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    cell = tl.load(grid.out_cells + b * grid.cells_batch + k, k < grid.outputs, 0).to(tl.int32)
    return b, k, cell // grid.width, cell % grid.width


@triton.jit
def channels_of(grid, BLOCK_C: tl.constexpr):
    """The block of channels of this program, with its mask."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return c, c < grid.channels


@triton.jit
def load_tokens(x, b, token, c, mask):
    """Float32 [tokens, channels], zero where ``mask`` is False."""
    at = x.ptr + b * x.batch + token.to(tl.int64)[:, None] * x.token + c[None, :]
    return tl.load(at, mask, 0.0).to(tl.float32)


@triton.jit
def load_neighbours(x, grid, b, k, row, column, c, in_c):
    """The tokens [outputs, channels] at the given cells, zero where there is none."""
    inside = (k < grid.outputs) & (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
    token = tl.load(grid.slot + b * grid.slot_batch + row * grid.width + column, inside, -1)
    return load_tokens(x, b, token, c, (token >= 0)[:, None] & in_c[None, :])


@triton.jit
def conv_kernel(
    x, grid, taps, bias, out, KH: tl.constexpr, KW: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Outputs of one block; ``taps`` (KH*KW, C), ``bias`` (C) or None, ``out`` (B, K, C)."""
    b, k, row, column = cells_of(grid, tl.program_id(0), BLOCK_K)
    c, in_c = channels_of(grid, BLOCK_C)
    total = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for i in range(KH):
        for j in tl.static_range(KW):
            weight = tl.load(taps + (i * KW + j) * grid.channels + c, in_c, 0.0)
            at = row + grid.top + i, column + grid.left + j
            total += weight[None, :] * load_neighbours(x, grid, b, k, at[0], at[1], c, in_c)
    if bias is not None:
        total += tl.load(bias + c, in_c, 0.0).to(tl.float32)[None, :]
    place = out + (b * grid.outputs + k)[:, None] * grid.channels + c[None, :]
    tl.store(place, total, (k < grid.outputs)[:, None] & in_c[None, :])


@triton.jit
def sums_kernel(
    x, dy, grid, blocks, span, dtaps, dbias, KW: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Gradients of one row of taps and of the bias, over ``span`` of all ``blocks`` of outputs.

    ``dtaps`` (parts, KH*KW, C) and ``dbias`` (parts, C) keep what each part of the blocks yields.
    """
    part, i = tl.program_id(0), tl.program_id(2)
    c, in_c = channels_of(grid, BLOCK_C)
    in_bias = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    sums = ()
    for _ in tl.static_range(KW):
        sums = sums + (in_bias,)
    for block in range(part * span, tl.minimum(part * span + span, blocks)):
        b, k, row, column = cells_of(grid, block, BLOCK_K)
        grad = load_tokens(dy, b, k, c, (k < grid.outputs)[:, None] & in_c[None, :])
        in_bias += grad
        more = ()
        for j in tl.static_range(KW):
            at = row + grid.top + i, column + grid.left + j
            more = more + (sums[j] + grad * load_neighbours(x, grid, b, k, at[0], at[1], c, in_c),)
        sums = more
    first_tap = (tl.cast(part, tl.int64) * tl.num_programs(2) + i) * KW
    for j in tl.static_range(KW):
        tl.store(dtaps + (first_tap + j) * grid.channels + c, tl.sum(sums[j], 0), in_c)
    if i == 0:
        tl.store(dbias + tl.cast(part, tl.int64) * grid.channels + c, tl.sum(in_bias, 0), in_c)


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C)."""
    p = p.with_cells()
    out = p.x.new_empty(p.out_shape)
    if out.numel() == 0:
        return out
    kh, kw = p.weight.shape[2:]
    with _on(p.x.device):
        programs = _blocks(p), triton.cdiv(p.x.shape[2], CHANNELS)
        bias = None if p.bias is None else p.bias.contiguous()
        constants = dict(KH=kh, KW=kw, BLOCK_K=OUTPUTS, BLOCK_C=CHANNELS)
        conv_kernel[programs](_tokens(p.x), _grid(p), p.taps(), bias, out, **constants, **OPTIONS)
    return out


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    p = p.with_cells()
    (kh, kw), channels = p.weight.shape[2:], p.x.shape[2]
    blocks, columns = _blocks(p), triton.cdiv(channels, CHANNELS)
    span = max(1, blocks * columns * kh // PROGRAMS)
    parts = triton.cdiv(blocks, span)
    dtaps = p.x.new_empty(parts, kh * kw, channels, dtype=torch.float32)
    dbias = p.x.new_empty(parts, channels, dtype=torch.float32)
    if dtaps.numel():
        with _on(p.x.device):
            constants = dict(KW=kw, BLOCK_K=OUTPUTS, BLOCK_C=CHANNELS)
            tokens = _tokens(p.x), _tokens(grad_out)
            sums_kernel[parts, columns, kh](*tokens, _grid(p), blocks, span, dtaps, dbias, **constants, **OPTIONS)
    return p.grads(forward(p.adjoint(grad_out)), dtaps.sum(0).t(), dbias.sum(0))


def _blocks(p: ConvInputs) -> int:
    """How many blocks of outputs there are in all images."""
    return p.out_cells.shape[0] * triton.cdiv(p.out_cells.shape[1], OUTPUTS)


def _tokens(x: Tensor) -> Tokens:
    if x.stride(2) != 1:
        x = x.contiguous()
    return Tokens(x, x.stride(0), x.stride(1))


def _grid(p: ConvInputs) -> Grid:
    sizes = (p.out_cells.shape[1], p.x.shape[2], p.height, p.width, p.top, p.left)
    slot, out_cells = (t if t.stride(1) == 1 else t.contiguous() for t in (p.slot, p.out_cells))
    return Grid(slot, out_cells, slot.stride(0), out_cells.stride(0), *sizes)


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()
