"""The convolution with what torch has: put the tokens on the grid, convolve all of it, pick the outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ConvInputs


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C)."""
    dtype = p.compute_dtype
    bias = None if p.bias is None else p.bias.to(dtype)
    grid = _scatter(p.x.to(dtype), p.cells, p).contiguous()
    padding, crop, _ = _frame(p)
    out = F.conv2d(grid, p.weight.to(dtype), bias, padding=padding, groups=p.x.shape[2])
    return _gather(out[:, :, crop[0] : crop[0] + p.height, crop[1] : crop[1] + p.width], p.out_cells, p).to(p.x.dtype)


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    dtype = p.compute_dtype
    grid = _scatter(p.x.to(dtype), p.cells, p).contiguous()
    padding, crop, beyond = _frame(p)
    dy = _scatter(grad_out.to(dtype), p.out_cells, p)
    dy = F.pad(dy, (crop[1], beyond[1], crop[0], beyond[0])).contiguous()
    dgrid, dweight, dbias = torch.ops.aten.convolution_backward(
        dy, grid, p.weight.to(dtype), [p.x.shape[2]], [1, 1], padding, [1, 1], False, [0, 0], p.x.shape[2], [True] * 3
    )
    return p.grads(_gather(dgrid, p.cells, p), dweight, dbias)


def _scatter(x: Tensor, cells: Tensor | None, p: ConvInputs) -> Tensor:
    """(B, M, C) -> (B, C, H, W), zero elsewhere."""
    grid = x
    if cells is not None:
        rows = x.new_zeros(x.shape[0] * p.height * p.width, x.shape[2])
        rows = rows.index_copy(0, _rows(cells, p), x.flatten(0, 1))
        grid = rows.unflatten(0, (x.shape[0], p.height * p.width))
    return grid.transpose(1, 2).unflatten(2, (p.height, p.width))


def _gather(grid: Tensor, cells: Tensor | None, p: ConvInputs) -> Tensor:
    """(B, C, H, W) -> (B, K, C)."""
    tokens = grid.flatten(2).transpose(1, 2).contiguous()
    if cells is None:
        return tokens
    return tokens.flatten(0, 1).index_select(0, _rows(cells, p)).unflatten(0, cells.shape)


def _rows(cells: Tensor, p: ConvInputs) -> Tensor:
    """Numbers of the cells in all images of the batch one after another."""
    image = torch.arange(cells.shape[0], device=cells.device)[:, None]
    return (cells + image * (p.height * p.width)).flatten()


def _frame(p: ConvInputs) -> tuple[list[int], list[int], list[int]]:
    """Per axis: the padding on both sides with which every output is computed, and how many are too many on each."""
    corner, size = (p.top, p.left), p.weight.shape[2:]
    padding = [max(-first, first + n - 1) for first, n in zip(corner, size, strict=True)]
    before = [pad + first for pad, first in zip(padding, corner, strict=True)]
    beyond = [2 * pad - n + 1 - skip for pad, n, skip in zip(padding, size, before, strict=True)]
    return padding, before, beyond
