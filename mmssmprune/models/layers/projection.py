"""The widths of a Mamba mixer, and where its step sizes start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmssmprune._values import whole


def mixer_sizes(embed_dims: int, d_state: int, expand: int, dt_rank: int | str) -> tuple[int, int, int]:
    """d_inner, the rank of the step-size projection and d_state; raises ValueError for what is no whole number."""
    rank = step_size_rank(embed_dims, dt_rank)
    return whole('expand', expand) * embed_dims, rank, whole('d_state', d_state)


def step_size_rank(embed_dims: int, dt_rank: int | str) -> int:
    """The rank of the step-size projection, ``'auto'`` resolved; raises ValueError for what is no whole number."""
    if isinstance(dt_rank, str):
        if dt_rank != 'auto':
            raise ValueError(f"dt_rank must be 'auto' or a whole number from 1 on, got {dt_rank!r}")
        dt_rank = math.ceil(embed_dims / 16)
    return whole('dt_rank', dt_rank)


def start_step_sizes(weight: Tensor, bias: Tensor, smallest: float = 1e-3, largest: float = 0.1) -> None:
    """Start a step-size projection (..., D, R) as Mamba does: step sizes at zero, softplus(bias) (..., D), are
    log-uniform between the two.
    """
    nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)
    delta = torch.exp(torch.rand(bias.shape) * math.log(largest / smallest) + math.log(smallest))
    with torch.no_grad():
        bias.copy_(delta + torch.log(-torch.expm1(-delta)))
