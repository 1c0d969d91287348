"""Fixed walks over the cells of an image, and what is left of them when only some tokens are kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops.constants import kept_constant
from mmssmprune.ops.snakes import LEFT, RIGHT, START, snake_moves, snake_order

from .kept_tokens import KeptTokens


@dataclass(frozen=True)
class Walk:
    """The order in which R directions visit K tokens.

    Attributes:
        order: (R, K), or (B, R, K) once tokens are pruned: the token visited at each step.
        move: same shape: how the dense walk reached the visited cell (`mmssmprune.ops.snakes`).
        gap: (B, R, K): how many pruned cells the dense walk visits between this token and the one before it (before
            the first token: since the start); None for the dense walk.
        snakes_over: (h, w) where these are the four snakes over that whole grid, whose order a kernel knows by itself.
        is_sequence: whether these are the tokens forward and backward, which a kernel knows as well.
    """

    order: Tensor
    move: Tensor
    gap: Tensor | None = None
    snakes_over: tuple[int, int] | None = None
    is_sequence: bool = False


@dataclass(frozen=True)
class ScanPath:
    """For each of R directions the cell visited at each step, the step of each cell, and the move: all (R, L).

    ``snakes_over`` and ``is_sequence`` as in `Walk`; kept tokens of a sequence are a sequence again.
    """

    order: Tensor
    step: Tensor
    move: Tensor
    snakes_over: tuple[int, int] | None = None
    is_sequence: bool = False

    def over(self, kept: KeptTokens | None) -> Walk:
        """The walk over all cells, or over the kept ones with the gaps between them."""
        if kept is None:
            return Walk(self.order, self.move, snakes_over=self.snakes_over, is_sequence=self.is_sequence)
        # When each kept cell is visited, [B, R, K]; contiguous, since torch.compile mistakes the strides otherwise.
        steps = self.step[:, kept.index].transpose(0, 1).contiguous()
        visited, order = steps.sort(dim=-1)
        gap = torch.diff(visited, dim=-1, prepend=visited.new_full((*visited.shape[:2], 1), -1)) - 1
        directions = torch.arange(len(self.order), device=order.device)[None, :, None]
        return Walk(order, self.move[directions, visited], gap, is_sequence=self.is_sequence)


@kept_constant
def snake_path(height: int, width: int, device: torch.device | str = 'cpu') -> ScanPath:
    """PlainMamba's four walks, as `snake_order` has them."""
    order = snake_order(height, width, device)
    return ScanPath(order, order.argsort(dim=-1), snake_moves(order, width), snakes_over=(height, width))


@kept_constant
def sequence_path(length: int, device: torch.device | str = 'cpu') -> ScanPath:
    """Vim's two walks (arXiv 2401.09417): the sequence forward and backward."""
    forward = torch.arange(length, device=device)
    order = torch.stack([forward, forward.flip(0)])
    moves = torch.stack([torch.full((length - 1,), move, device=device) for move in (RIGHT, LEFT)])
    return ScanPath(order, order.argsort(dim=-1), F.pad(moves, (1, 0), value=START), is_sequence=True)
