"""Depthwise convolutions over kept tokens: every neighbour stands at its own cell, pruned ones included.

What a pruned neighbour contains is the choice named ``conv_fill``:

- ``zero``: zero, as the padding is.
- ``hold``: the cell's last known features, passed through this layer's norm and the x-half of its in_proj. A pruned
  cell thereby costs about a fifth of a kept one in each layer.

Outputs are computed at the tokens at hand only; FLOP counters see the projections of pruned cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssmprune.ops import kept_conv

from .token_state import TokenState

CONV_FILL = ('zero', 'hold')


def conv_over_grid(x: Tensor, conv: nn.Conv2d, tokens: TokenState, fill: Tensor | None = None) -> Tensor:
    """Apply the depthwise ``conv``, which keeps the grid's size, to tokens at their places on the grid.

    Args:
        x: (B, K, C) the tokens at hand.
        conv: of stride 1.
        tokens: where they stand.
        fill: (B, P, C) what the pruned cells ``tokens.lost.cells`` contain; None for zero.

    Returns:
        (B, K, C).
    """
    if tokens.kept is None:
        return _over_whole_grid(x, conv, tokens.hw_shape)
    origin = (-conv.padding[0], -conv.padding[1])
    return _at_kept_tokens(x, conv.weight, conv.bias, tokens, fill, tokens.hw_shape, origin)


def causal_conv_over_sequence(
    x: Tensor, conv: nn.Conv1d, backward: bool, tokens: TokenState, fill: Tensor | None = None
) -> Tensor:
    """Apply a causal depthwise ``conv`` along the sequence, or against it: (B, K, C) -> (B, K, C).

    ``conv`` pads both ends by its width - 1; what it yields past the end is cut off. ``fill`` as in `conv_over_grid`.
    """
    if tokens.kept is None:
        x = x.flip(1) if backward else x
        x = conv(x.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2)
        return x.flip(1) if backward else x
    weight, first = (conv.weight.flip(-1), 0) if backward else (conv.weight, 1 - conv.weight.shape[-1])
    return _at_kept_tokens(x, weight, conv.bias, tokens, fill, (1, tokens.length), (0, first))


def module_over_grid(x: Tensor, module: nn.Module, tokens: TokenState) -> Tensor:
    """Apply any ``module`` that keeps the grid's size to tokens (B, K, C) on a grid of zeros; returns (B, K, C')."""
    if tokens.kept is None:
        return _over_whole_grid(x, module, tokens.hw_shape)
    return tokens.kept.gather(_over_whole_grid(tokens.kept.scatter(x), module, tokens.hw_shape))


def _over_whole_grid(x: Tensor, module: nn.Module, hw_shape: tuple[int, int]) -> Tensor:
    # A transposed view makes torch 2.13's CPU batch-norm backward wrong at batch size 1, hence contiguous.
    grid = x.transpose(1, 2).unflatten(2, hw_shape).contiguous()
    return module(grid).flatten(2).transpose(1, 2)


def _at_kept_tokens(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: TokenState,
    fill: Tensor | None,
    hw_shape: tuple[int, int],
    origin: tuple[int, int],
) -> Tensor:
    places = at = tokens.places
    if fill is not None:
        at = tokens.lost.behind_kept
        x = torch.cat([x, fill.to(x.dtype)], 1)
    outputs = dict(out_cells=places.cells, out_slot=places.slot)
    return kept_conv(x, weight, bias, cells=at.cells, slot=at.slot, **outputs, hw_shape=hw_shape, origin=origin)
