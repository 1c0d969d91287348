"""The convolution as its definition says, tap by tap: slow, and what every other backend is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .inputs import ConvInputs


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C); autograd can differentiate it."""
    dtype = p.compute_dtype
    out = torch.zeros(p.out_shape, dtype=dtype, device=p.x.device)
    for weight, neighbour in zip(p.weight.flatten(1).t().to(dtype), _neighbours(p), strict=True):
        out = out + weight * neighbour
    return (out if p.bias is None else out + p.bias.to(dtype)).to(p.x.dtype)


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    dy = grad_out.to(p.compute_dtype)
    dtaps = torch.stack([(dy * neighbour).sum((0, 1)) for neighbour in _neighbours(p)])
    return p.grads(forward(p.adjoint(dy)), dtaps.t(), dy.sum((0, 1)))


def _neighbours(p: ConvInputs) -> Iterator[Tensor]:
    """For each tap the tokens (B, K, C) under it, zero where there is none."""
    p = p.with_cells()
    x = p.x.to(p.compute_dtype)
    padded = torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1)  # slot -1 is the last of these
    row, column = p.out_cells // p.width, p.out_cells % p.width
    for i in range(p.weight.shape[2]):
        for j in range(p.weight.shape[3]):
            r, c = row + p.top + i, column + p.left + j
            inside = (r >= 0) & (r < p.height) & (c >= 0) & (c < p.width)
            token = p.slot.long().gather(1, torch.where(inside, r * p.width + c, 0))
            token = torch.where(inside & (token >= 0), token, x.shape[1])
            yield padded.gather(1, token[..., None].expand(-1, -1, x.shape[2]))
