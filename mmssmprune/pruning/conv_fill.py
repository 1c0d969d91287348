"""Depthwise convolutions over tokens: every neighbour stands at its own cell, pruned ones included.

What a pruned neighbour contains is the choice named ``conv_fill``. It is asked once per pruning, gets the `TokenState`
and returns it with what convolutions are to know. Outputs are computed at the tokens at hand only.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from mmssmprune.ops import kept_conv

from .choices import Choices
from .kept_tokens import gather_rows
from .token_state import TokenState

CONV_FILL = Choices('conv_fill')
register_conv_fill = CONV_FILL.register


@register_conv_fill
def zero(tokens: TokenState) -> TokenState:
    """A pruned neighbour is zero, as the padding is."""
    return tokens


@register_conv_fill(needs='sequence')
def compact(tokens: TokenState) -> TokenState:
    """There are no pruned neighbours: the kept tokens close ranks, as in the released code of arXiv 2409.18962."""
    return tokens


@register_conv_fill(needs='leader')
def leader(tokens: TokenState) -> TokenState:
    """A pruned neighbour has what its leader, the kept token that resembled it most or that it went into, has now.

    Ours. It costs a copy and no arithmetic, and the sums of a convolution stay what they are in the dense model.
    """
    return replace(tokens, shows_leaders=True)


def conv_over_grid(x: Tensor, conv: nn.Conv2d, tokens: TokenState) -> Tensor:
    """Apply the depthwise ``conv``, which keeps the grid's size, to tokens at their places on the grid.

    Args:
        x: (B, K, C) the tokens at hand.
        conv: of stride 1.
        tokens: where they stand.

    Returns:
        (B, K, C).
    """
    origin = (-conv.padding[0], -conv.padding[1])
    return _at_tokens(x, conv.weight, conv.bias, tokens, tokens.hw_shape, origin)


def causal_conv_over_sequence(x: Tensor, conv: nn.Conv1d, backward: bool, tokens: TokenState) -> Tensor:
    """Apply a causal depthwise ``conv`` along the sequence, or against it: (B, K, C) -> (B, K, C)."""
    weight, first = (conv.weight.flip(-1), 0) if backward else (conv.weight, 1 - conv.weight.shape[-1])
    if tokens.closes_ranks:
        return kept_conv(x, weight, conv.bias, hw_shape=(1, x.shape[1]), origin=(0, first))
    return _at_tokens(x, weight, conv.bias, tokens, (1, tokens.length), (0, first))


def module_over_grid(x: Tensor, module: nn.Module, tokens: TokenState) -> Tensor:
    """Apply any ``module`` that keeps the grid's size to tokens (B, K, C) on a grid of zeros; returns (B, K, C')."""
    full = x if tokens.kept is None else tokens.kept.scatter(x)
    # A transposed view makes torch 2.13's CPU batch-norm backward wrong at batch size 1, hence contiguous.
    grid = full.transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()
    full = module(grid).flatten(2).transpose(1, 2)
    # Channels adjacent, which gathering makes them: the layers after this one would copy the residual stream otherwise.
    return full.contiguous() if tokens.kept is None else tokens.kept.gather(full)


def _at_tokens(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: TokenState,
    hw_shape: tuple[int, int],
    origin: tuple[int, int],
) -> Tensor:
    grid = dict(hw_shape=hw_shape, origin=origin)
    if tokens.kept is None:
        return kept_conv(x, weight, bias, **grid)
    places = tokens.places
    if tokens.shows_leaders:  # every position has a token then
        x = gather_rows(x, tokens.leader)
        return kept_conv(x, weight, bias, out_cells=places.cells, out_slot=places.slot, **grid)
    return kept_conv(x, weight, bias, cells=places.cells, slot=places.slot, **grid)
