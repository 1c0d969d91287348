"""Blocks of cells that live or die together, such as 2x2: a convolution and a scan find whole neighbourhoods.

After STORM (arXiv 2606.19932), which reduces spatial units instead of tokens; here any score may rank them. Where a
side of the grid is no multiple of the unit's, the last row or column of units is smaller. Units of one size compete
with each other only, so that the number of tokens is the same for every image of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .kept_tokens import choose_tokens
from .token_state import TokenState


class UnitGroup(NamedTuple):
    """The units of one size: their ``rows`` and ``columns`` in the map of all units, how many, and cells in each."""

    rows: slice
    columns: slice
    count: int
    cells: int


def unit_groups(hw_shape: tuple[int, int], unit: tuple[int, int]) -> list[UnitGroup]:
    """The units (h, w) of a grid (h, w) by size: whole ones, then those cut at the right, below, and in the corner."""
    down, across = (_parts(length, side) for length, side in zip(hw_shape, unit, strict=True))
    return [UnitGroup(rows, columns, n * m, height * width) for rows, n, height in down for columns, m, width in across]


def _parts(length: int, side: int) -> list[tuple[slice, int, int]]:
    """Along a side of the grid: where the whole units and the cut one are, how many, and cells in each."""
    if side == 1:  # nothing is cut, and a length that is a symbol stays one
        return [(slice(0, length), length, 1)]
    whole, rest = length // side, length % side
    parts = [(slice(0, whole), whole, side), (slice(whole, whole + 1), 1, rest)]
    return [part for part in parts if part[1] and part[2]]


@torch.no_grad()  # a choice has no gradient
def choose_units(score: Tensor, tokens: TokenState, unit: tuple[int, int], keep: Sequence[int]) -> Tensor:
    """Which of the tokens at hand stand in the units of the highest mean score: (B, K) float, 1 there and 0 elsewhere.

    Args:
        score: (B, K), of whole units at hand; -inf where a token is no candidate, as are all of its unit.
        tokens: their state; class tokens belong to no unit.
        unit: (h, w) in cells.
        keep: how many units of each group of `unit_groups` are chosen.
    """
    (height, width), batch = tokens.hw_shape, len(score)
    cells = tokens.cells.expand(batch, -1)
    # Class tokens are at -1, so a column before the first cell takes them.
    scores = score.new_full((batch, height * width + 1), -torch.inf).scatter(1, cells + 1, score)[:, 1:]
    of_units = F.avg_pool2d(scores.unflatten(1, (1, height, width)), unit, ceil_mode=True).squeeze(1)
    lives = torch.zeros_like(of_units)
    for group, count in zip(unit_groups(tokens.hw_shape, unit), keep, strict=True):
        own = of_units[:, group.rows, group.columns]
        chosen = choose_tokens(own.flatten(1), count)
        mask = torch.zeros_like(own).flatten(1).scatter(1, chosen, 1.0)
        lives[:, group.rows, group.columns] = mask.view_as(own)
    lives = lives.repeat_interleave(unit[0], 1).repeat_interleave(unit[1], 2)[:, :height, :width].flatten(1)
    return lives.gather(1, cells.clamp(min=0))
