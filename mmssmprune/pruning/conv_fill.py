"""Depthwise convolutions over kept tokens: every neighbour stands at its own cell, pruned ones included.

What a pruned neighbour contains is the choice named ``conv_fill``. With ``zero`` it is zero, as the padding is. The
kept tokens are put back on the grid, convolved there and picked again, so the cost is that of the dense convolution:
4 to 6 percent of a dense layer, and counted in full by FLOP counters.
"""

from __future__ import annotations

from torch import Tensor, nn

from .kept_tokens import KeptTokens

CONV_FILL = ('zero',)


def conv_over_grid(x: Tensor, conv: nn.Conv2d, hw_shape: tuple[int, int], kept: KeptTokens | None) -> Tensor:
    """Apply ``conv`` to tokens (B, K, C) at their places on the grid ``hw_shape``; returns (B, K, C')."""
    full = x if kept is None else kept.scatter(x)
    # A transposed view makes torch 2.13's CPU batch-norm backward wrong at batch size 1, hence contiguous.
    grid = full.transpose(1, 2).unflatten(2, hw_shape).contiguous()
    full = conv(grid).flatten(2).transpose(1, 2)
    return full if kept is None else kept.gather(full)


def causal_conv_over_sequence(x: Tensor, conv: nn.Conv1d, backward: bool, kept: KeptTokens | None) -> Tensor:
    """Apply a causal depthwise ``conv`` along the sequence, or against it: (B, K, C) -> (B, K, C).

    ``conv`` pads both ends by its width - 1; what it yields past the end is cut off.
    """
    full = x if kept is None else kept.scatter(x)
    length = full.shape[1]
    if backward:
        full = full.flip(1)
    full = conv(full.transpose(1, 2))[:, :, :length].transpose(1, 2)
    if backward:
        full = full.flip(1)
    return full if kept is None else kept.gather(full)
