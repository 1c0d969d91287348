"""Depthwise convolutions over kept tokens: every neighbour stands at its own cell, pruned ones included.

What a pruned neighbour contains is the choice named ``conv_fill``:

- ``zero``: zero, as the padding is.
- ``hold``: the cell's last known features, passed through this layer's norm and the x-half of its in_proj. A pruned
  cell thereby costs about a fifth of a kept one in each layer.

The tokens are put back on the grid, convolved there and picked again, so the convolution costs what the dense one does:
4 to 6 percent of a dense layer. FLOP counters see all of it, the projections of pruned cells included.
"""

from __future__ import annotations

from torch import Tensor, nn

from .token_state import TokenState

CONV_FILL = ('zero', 'hold')


def conv_over_grid(x: Tensor, conv: nn.Module, tokens: TokenState, fill: Tensor | None = None) -> Tensor:
    """Apply the 2-D ``conv`` to tokens at their places on the grid.

    Args:
        x: (B, K, C) the tokens at hand.
        conv: keeps the grid's size.
        tokens: where they stand.
        fill: (B, P, C) what the pruned cells ``tokens.lost.cells`` contain; None for zero.

    Returns:
        (B, K, C').
    """
    full = _on_grid(x, tokens, fill)
    # A transposed view makes torch 2.13's CPU batch-norm backward wrong at batch size 1, hence contiguous.
    grid = full.transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()
    full = conv(grid).flatten(2).transpose(1, 2)
    return full if tokens.kept is None else tokens.kept.gather(full)


def causal_conv_over_sequence(
    x: Tensor, conv: nn.Conv1d, backward: bool, tokens: TokenState, fill: Tensor | None = None
) -> Tensor:
    """Apply a causal depthwise ``conv`` along the sequence, or against it: (B, K, C) -> (B, K, C).

    ``conv`` pads both ends by its width - 1; what it yields past the end is cut off. ``fill`` as in `conv_over_grid`.
    """
    full = _on_grid(x, tokens, fill)
    length = full.shape[1]
    if backward:
        full = full.flip(1)
    full = conv(full.transpose(1, 2))[:, :, :length].transpose(1, 2)
    if backward:
        full = full.flip(1)
    return full if tokens.kept is None else tokens.kept.gather(full)


def _on_grid(x: Tensor, tokens: TokenState, fill: Tensor | None) -> Tensor:
    """(B, K, C) -> (B, L, C)."""
    if tokens.kept is None:
        return x
    return tokens.kept.scatter(x, None if fill is None else tokens.lost.cells.scatter(fill))
