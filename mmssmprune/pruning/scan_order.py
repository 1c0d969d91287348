"""In which order directions visit the tokens of an image, and what is left of it when only some are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops.constants import kept_constant
from mmssmprune.ops.walks import LEFT, RIGHT, START, grid_order, snake_moves

from .kept_tokens import KeptTokens


@dataclass(frozen=True)
class ScanOrder:
    """The order in which R directions visit K tokens: all L cells of a grid or sequence, or those that are kept.

    Attributes:
        order: (R, L), or (B, R, K) once tokens are pruned: the token visited at each step.
        move: same shape: how the dense walk reached the visited cell (`mmssmprune.ops.walks`), where scans ask for it.
        gap: (B, R, K): how many pruned cells the dense walk visits between this token and the one before it (before
            the first token: since the start); None for all cells.
        step: (R, L): when each cell is visited; None for kept tokens.
        known_as: arguments of `mmssmprune.ops.multi_scan` that stand for this order, which a kernel then computes by
            itself: none for a sequence forward and backward, kept tokens of which are a sequence again. None where
            the order has to be given.
    """

    order: Tensor
    move: Tensor | None = None
    gap: Tensor | None = None
    step: Tensor | None = None
    known_as: Mapping[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, order: Tensor, move: Tensor | None = None, known_as: Mapping[str, Any] | None = None) -> ScanOrder:
        """Over all cells, (R, L)."""
        return cls(order, move, None, order.argsort(dim=-1), known_as)

    def over(self, kept: KeptTokens | None) -> ScanOrder:
        """The order of the kept ones among all cells, with the gaps between them."""
        if kept is None:
            return self
        # When each kept cell is visited, [B, R, K]; contiguous, since torch.compile mistakes the strides otherwise.
        steps = self.step[:, kept.index].transpose(0, 1).contiguous()
        visited, order = steps.sort(dim=-1)
        gap = torch.diff(visited, dim=-1, prepend=visited.new_full((*visited.shape[:2], 1), -1)) - 1
        directions = torch.arange(len(self.order), device=order.device)[None, :, None]
        move = None if self.move is None else self.move[directions, visited]
        return ScanOrder(order, move, gap, known_as={} if self.known_as == {} else None)

    def direction(self, r: int) -> ScanOrder:
        """Direction ``r`` alone."""
        one = slice(r, r + 1)
        move, gap = (None if t is None else t[..., one, :] for t in (self.move, self.gap))
        return ScanOrder(self.order[..., one, :], move, gap)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `mmssmprune.ops.multi_scan` is told of the order, gaps left out."""
        return {'order': self.order, 'move': self.move} if self.known_as is None else dict(self.known_as)


@kept_constant
def snake_scan(height: int, width: int, device: torch.device | str = 'cpu') -> ScanOrder:
    """PlainMamba's four snakes over a grid (arXiv 2403.17695)."""
    order = grid_order('snakes', height, width, device)
    return ScanOrder.of(order, snake_moves(order, width), {'hw_shape': (height, width), 'walk': 'snakes'})


@kept_constant
def line_scan(height: int, width: int, device: torch.device | str = 'cpu') -> ScanOrder:
    """VMamba's rows, columns and the reverse of both over a grid (arXiv 2401.10166)."""
    return ScanOrder.of(
        grid_order('lines', height, width, device), known_as={'hw_shape': (height, width), 'walk': 'lines'}
    )


@kept_constant
def sequence_scan(length: int, device: torch.device | str = 'cpu') -> ScanOrder:
    """Vim's two directions (arXiv 2401.09417): the sequence forward and backward."""
    forward = torch.arange(length, device=device)
    moves = torch.stack([torch.full((length - 1,), move, device=device) for move in (RIGHT, LEFT)])
    return ScanOrder.of(torch.stack([forward, forward.flip(0)]), F.pad(moves, (1, 0), value=START), {})
