"""Dense heads need every cell: how the compact sequence becomes a full map again.

Kept tokens are always exact; the choices differ in what the other cells show. Every one takes the compact tokens of a
stream (B, K, C), their `TokenState`, every position as it was when pruned ``remembered`` (B, L, C), and the position
embedding ``pos_embed`` (1, L, C) that the stream carries, the last two None where the choice does not need them, and
returns (B, L, C). Of several streams, which the reader adds up, only the last carries the positions; for the others
``pos_embed`` is None, and for a model without any it is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choices import Choices
from .kept_tokens import gather_rows
from .stage import Stage
from .token_state import TokenState

RESTORATION = Choices('restoration')
register_restoration = RESTORATION.register
# The one to take where no map is shown to anyone.
FLOOR = 'zero'
# Neighbours that 'interpolate' mixes, as many as bilinear resizing does.
NEIGHBOURS = 4
# Standard deviation of the Gaussian of 'flow', in cells: with 1 small objects run into what is around them.
FLOW_SPREAD = 0.5


@register_restoration(needs='remembered')
def hold(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the value it had when it was pruned."""
    return tokens.kept.scatter(x, remembered)


@register_restoration(needs='remembered')
def drift(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the value it had when it was pruned, moved as the nearest kept cell moved since.

    Ours: what the layers after a pruning add to a token varies slowly over the image, so a neighbour tells most of it.
    """
    _, index = _nearest_kept(tokens, 1)
    return _moved_with(x, tokens, remembered, index.squeeze(2))


@register_restoration(needs=('remembered', 'leader'))
def follow(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the value it had when it was pruned, moved as the kept token moved that resembled it most.

    Ours: the likeness (cosine of the features, see `TokenPruner`) is measured once, at the pruning. Of merging
    (ToMe) this keeps the idea that a similar token stands for a lost one, but not the loss of the cell's own features.
    """
    return _moved_with(x, tokens, remembered, tokens.leader)


def _moved_with(x: Tensor, tokens: TokenState, remembered: Tensor, leader: Tensor) -> Tensor:
    """``remembered``, plus at each pruned position the change since then of the token at hand ``leader`` (B, L)."""
    return tokens.kept.scatter(x, remembered + _change_of(x, tokens, remembered, leader))


def _change_of(x: Tensor, tokens: TokenState, remembered: Tensor, leader: Tensor) -> Tensor:
    """(B, L, C): how much the token at hand ``leader`` (B, L) of each position changed since the pruning."""
    return gather_rows(x - tokens.kept.gather(remembered), leader)


@register_restoration(needs=('remembered', 'leader'))
def flow(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the value it had when it was pruned, moved as the 3x3 cells around it moved, its own most.

    Ours: each of them moves as `follow` says. One token's change is a guess, and neighbours guess by other tokens.
    """
    change = _change_of(x, tokens, remembered, tokens.leader)  # a token at hand leads itself
    return tokens.kept.scatter(x, remembered + _blurred(change, tokens))


def _blurred(full: Tensor, tokens: TokenState) -> Tensor:
    """Every cell of (B, L, C) as the mean over the 3x3 cells around it, weighted by a Gaussian of `FLOW_SPREAD`.

    A class token, which is always kept, gets what some cell has.
    """
    grid = tokens.without_protected(full).mT.unflatten(2, tokens.hw_shape)
    squared = (torch.arange(-1, 2, dtype=full.dtype, device=full.device) / FLOW_SPREAD).square()
    weights = torch.exp(-0.5 * (squared[:, None] + squared))[None, None]
    inside = F.conv2d(grid.new_ones(1, 1, *tokens.hw_shape), weights, padding=1)
    around = F.conv2d(grid, weights.expand(grid.shape[1], -1, -1, -1), padding=1, groups=grid.shape[1]) / inside
    return around.flatten(2).mT.index_select(1, _whole(tokens).cells[0].clamp(min=0))


def _whole(tokens: TokenState) -> TokenState:
    """The same sequence with nothing pruned."""
    return TokenState.dense(tokens.dense_order, tokens.hw_shape, tokens.protected)


@register_restoration
def zero(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell is zero: the floor of the ablation."""
    return tokens.kept.scatter(x)


@register_restoration(name='mask_token', needs=('pos_embed', 'training'))
class MaskToken(nn.Module):
    """A pruned cell shows a learned vector plus its position embedding."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, stage.embed_dims))

    def forward(self, x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
        """(B, K, C) -> (B, L, C)."""
        shown = None if pos_embed is None else (self.mask_token + pos_embed).expand(x.shape[0], tokens.length, -1)
        return tokens.kept.scatter(x, shown)


@register_restoration
def nearest(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the kept cell nearest to it on the grid, the earlier one of two as near."""
    _, index = _nearest_kept(tokens, 1)
    return tokens.kept.scatter(x, gather_rows(x, index.squeeze(2)))


@register_restoration
def interpolate(x: Tensor, tokens: TokenState, remembered: Tensor | None, pos_embed: Tensor | None) -> Tensor:
    """A pruned cell shows the kept cells around it, weighted by a Gaussian as wide as the nearest is far."""
    squared, index = _nearest_kept(tokens, NEIGHBOURS)
    squared = squared.to(torch.promote_types(x.dtype, torch.float32))
    weights = torch.softmax(-0.5 * squared / squared[:, :, :1].clamp(min=1), dim=-1).to(x.dtype)
    around = gather_rows(x, index.flatten(1)).unflatten(1, index.shape[1:])
    return tokens.kept.scatter(x, (around * weights.unsqueeze(-1)).sum(2))


def _nearest_kept(tokens: TokenState, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances and compact places (B, L, count) of the kept patches nearest to every position."""
    whole = _whole(tokens)
    width, kept = tokens.hw_shape[1], tokens.kept.index.shape[1]
    squared = 0
    for from_cell in (lambda cells: cells // width, lambda cells: cells % width):  # rows, then columns
        squared = squared + (from_cell(whole.cells)[:, :, None] - from_cell(tokens.cells)[:, None]).square()
    squared = squared.masked_fill(
        tokens.is_protected[:, None], 2 * sum(tokens.hw_shape) ** 2
    )  # class tokens are nowhere
    # The place makes every key unique: of two as near the earlier one comes first, so that runs repeat.
    key = squared * kept + torch.arange(kept, device=squared.device)
    nearest = key.topk(min(count, kept - len(tokens.protected)), dim=-1, largest=False, sorted=True).values
    return nearest // kept, nearest % kept
