"""What layers need to know about the tokens they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .kept_tokens import KeptTokens, Places
from .scan_order import ScanOrder


@dataclass(frozen=True)
class TokenState:
    """Which tokens are at hand, and how the scan walks over them.

    A sequence is the cells of the grid ``hw_shape`` in raster order, with class tokens inserted at ``protected``.

    Attributes:
        dense_order: how scans walk over the whole sequence.
        scan_order: how they walk over the tokens at hand.
        hw_shape: the grid (h, w).
        kept: the positions still alive, or None while nothing is pruned.
        places: the same for convolutions.
        protected: positions that are never pruned and not counted by the keep ratio (class tokens).
        alignment: the choice of that name, how the state moves over pruned cells; None lets no time pass.
        closes_ranks: whether convolutions along the sequence skip pruned positions, where the conv_fill wants it.
        stage: number of the stage.
        wants_directions: whether the layer that comes next is to show the output of every direction.
        pos_embed: (1, L, C) the position embedding, where a restoration needs it.
        remembered: per stream (B, L, C), every position as it was when it was pruned; empty where no choice needs it.
        shows_leaders: whether convolutions find at each pruned position what its leader has.
        input_weight: (B, K) how many cells the input of each token stands for in the scan (see `scan_fill`); None
            where each stands for its own.
        alive_units: how many units of each size are left (see `units`); empty for all.
        leader: (B, L) the token at hand that stands for each position, where tokens were fused or the restoration
            needs to know which one resembled it most.
        fused: whether pruned tokens went into their leaders, which then are what every position shows.
        score: (B, L, 1) the last score of each position, where pruned ones may come back (``regime='per_output'``).
        reopened: whether all positions are candidates at the next pruning layer.
    """

    dense_order: ScanOrder
    scan_order: ScanOrder
    hw_shape: tuple[int, int]
    kept: KeptTokens | None = None
    places: Places | None = None
    protected: tuple[int, ...] = ()
    alignment: Callable | None = None
    closes_ranks: bool = False
    stage: int = 0
    wants_directions: bool = False
    pos_embed: Tensor | None = None
    remembered: tuple[Tensor, ...] = ()
    shows_leaders: bool = False
    input_weight: Tensor | None = None
    alive_units: tuple[int, ...] = ()
    leader: Tensor | None = None
    fused: bool = False
    score: Tensor | None = None
    reopened: bool = False

    @classmethod
    def dense(cls, order: ScanOrder, hw_shape: tuple[int, int], protected: Sequence[int] = (), **more) -> TokenState:
        """Every cell alive; ``more`` are further attributes."""
        return cls(order, order, hw_shape, protected=tuple(protected), **more)

    def all_alive(self) -> TokenState:
        """The same with every cell alive again and nothing remembered."""
        names = ('alignment', 'closes_ranks', 'stage', 'wants_directions', 'pos_embed')
        same = {name: getattr(self, name) for name in names}
        return TokenState.dense(self.dense_order, self.hw_shape, self.protected, **same)

    def keeping(self, kept: KeptTokens) -> TokenState:
        """The same with only these positions alive. All indices of a pruning stage are made here, once."""
        places = Places.of(kept.index, self.length)
        return replace(self, kept=kept, places=places, scan_order=self.dense_order.over(kept))

    @property
    def led(self) -> Tensor:
        """(B, K) float32: of how many positions each token at hand is the leader, itself included."""
        ones = torch.ones(self.leader.shape, device=self.leader.device)
        return ones.new_zeros(self.kept.index.shape).scatter_add(1, self.leader, ones)

    @property
    def length(self) -> int:
        """Number of positions in the whole sequence."""
        return self.dense_order.order.shape[1]

    def without_protected(self, full: Tensor) -> Tensor:
        """(B, L, ...), something of every position -> (B, h*w, ...): that of the cells."""
        if not self.protected:
            return full
        starts, ends = (0, *(p + 1 for p in self.protected)), (*self.protected, self.length)
        return torch.cat([full[:, start:end] for start, end in zip(starts, ends, strict=True)], 1)

    @property
    def positions(self) -> Tensor:
        """Places of the tokens at hand in the whole sequence: (B, K), or (1, L) while nothing is pruned."""
        if self.kept is not None:
            return self.kept.index
        return torch.arange(self.length, device=self.dense_order.order.device)[None]

    @property
    def is_protected(self) -> Tensor:
        """Bool, shaped as `positions`: which tokens at hand are class tokens."""
        positions = self.positions
        found = torch.zeros_like(positions, dtype=torch.bool)
        for position in self.protected:
            found = found | (positions == position)
        return found

    @property
    def cells(self) -> Tensor:
        """Raster numbers of the cells of the tokens at hand, shaped as `positions`; class tokens have none (-1)."""
        positions = self.positions
        before = sum((positions > p).long() for p in self.protected) if self.protected else 0
        return (positions - before).masked_fill(self.is_protected, -1)
