"""Dense heads need every cell: how the compact sequence becomes a full map again.

Kept tokens are always exact; the choices differ in what the other cells show. Every function takes the compact tokens
(B, K, C), their `TokenState`, the cells as they were when pruned ``held`` (B, L, C) and a blank sequence (1, L, C), the
last two None where the choice does not need them, and returns (B, L, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .kept_tokens import gather_rows
from .token_state import TokenState

Restoration = Callable[[Tensor, TokenState, Tensor | None, Tensor | None], Tensor]
# Neighbours that 'interpolate' mixes, as many as bilinear resizing does.
NEIGHBOURS = 4


def hold(x: Tensor, tokens: TokenState, held: Tensor | None, blank: Tensor | None) -> Tensor:
    """A pruned cell shows the value it had when it was pruned."""
    return tokens.kept.scatter(x, held)


def zero(x: Tensor, tokens: TokenState, held: Tensor | None, blank: Tensor | None) -> Tensor:
    """A pruned cell is zero: the floor of the ablation."""
    return tokens.kept.scatter(x)


def mask_token(x: Tensor, tokens: TokenState, held: Tensor | None, blank: Tensor | None) -> Tensor:
    """A pruned cell shows ``blank``, a learned vector plus its position embedding (zero without one)."""
    return tokens.kept.scatter(x, None if blank is None else blank.expand(len(x), -1, -1))


def nearest(x: Tensor, tokens: TokenState, held: Tensor | None, blank: Tensor | None) -> Tensor:
    """A pruned cell shows the kept cell nearest to it on the grid, the earlier one of two as near."""
    _, index = _nearest_kept(tokens, 1)
    return tokens.kept.scatter(x, gather_rows(x, index.squeeze(2)))


def interpolate(x: Tensor, tokens: TokenState, held: Tensor | None, blank: Tensor | None) -> Tensor:
    """A pruned cell shows the kept cells around it, weighted by a Gaussian as wide as the nearest is far."""
    squared, index = _nearest_kept(tokens, NEIGHBOURS)
    weights = torch.softmax(-0.5 * squared / squared[:, :, :1].clamp(min=1), dim=-1).to(x.dtype)
    around = gather_rows(x, index.flatten(1)).unflatten(1, index.shape[1:])
    return tokens.kept.scatter(x, (around * weights.unsqueeze(-1)).sum(2))


def _nearest_kept(tokens: TokenState, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances and compact places (B, L, count) of the kept patches nearest to every position."""
    whole = TokenState.dense(tokens.path, tokens.hw_shape, tokens.protected)
    width = tokens.hw_shape[1]

    def points(cells: Tensor) -> Tensor:
        return torch.stack([cells // width, cells % width], dim=-1)

    difference = points(whole.cells)[:, :, None] - points(tokens.cells)[:, None]  # [B, L, K, 2]
    squared = difference.square().sum(-1).float()
    squared = squared.masked_fill(tokens.is_protected[:, None], torch.inf)  # class tokens are nowhere
    patches = tokens.kept.index.shape[1] - len(tokens.protected)
    # A stable sort, not topk: ties go to the earlier cell, so that runs repeat.
    ranked = squared.sort(dim=-1, stable=True)
    return ranked.values[:, :, : min(count, patches)], ranked.indices[:, :, : min(count, patches)]


RESTORATION: dict[str, Restoration] = {
    'hold': hold,
    'nearest': nearest,
    'interpolate': interpolate,
    'mask_token': mask_token,
    'zero': zero,
}
