"""What every backend of the scan receives, and the walks it knows without being given an order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import can_be_read
from ..walks import grid_order, snake_moves


@dataclass
class ScanInputs:
    """The operands of one scan along R directions over K tokens in raster order.

    Shapes, with S sets of parameters, 1 or R: ``u`` (1 or S, B, K, D); ``delta`` (S, B, K, D); ``A`` (S, D, N); ``B``,
    ``C`` (S, B, K, N); ``D``, ``delta_bias``, ``delta_gap`` (S, D); ``z`` (B, K, D); ``direction_B`` (M, N); integers
    ``order``, ``move`` (1 or B, R, K) and ``gap`` (B, R, K). The rest as in `mmssmprune.ops.multi_scan`; ``width`` is
    that of the grid, which ``lines`` or else snakes walk over, or 0 where the dense walk is the sequence itself.
    Without ``keep_states`` no backward will follow. ``gap_time`` (R, B, K, D) is further time that passes before each
    step: it decays the state, and brings no input.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    direction_B: Tensor | None
    delta_gap: Tensor | None
    order: Tensor | None
    move: Tensor | None
    gap: Tensor | None
    directions: int
    width: int
    lines: bool
    delta_softplus: bool
    permute_params: bool
    keep_states: bool = True
    gap_time: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor | None]:
        """The eleven floating-point operands; gradients come back in this order."""
        vectors = (self.D, self.z, self.delta_bias, self.direction_B, self.delta_gap)
        return [self.u, self.delta, self.A, self.B, self.C, *vectors, self.gap_time]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The float64 of any operand, else float32."""
        dtypes = [t.dtype for t in self.tensors if t is not None]
        return torch.float64 if torch.float64 in dtypes else torch.float32

    @property
    def sets(self) -> int:
        """Number of sets of parameters, 1 or R."""
        return self.A.shape[0]

    def with_tensors(self, tensors: list[Tensor | None]) -> ScanInputs:
        """The same scan of other floating-point operands."""
        *tensors, gap_time = tensors
        walk = (self.order, self.move, self.gap, self.directions, self.width, self.lines)
        return ScanInputs(*tensors, *walk, self.delta_softplus, self.permute_params, self.keep_states, gap_time)

    def wide(self) -> ScanInputs:
        """The same with every floating-point operand in `compute_dtype`."""
        dtype, tensors = self.compute_dtype, self.tensors
        if all(t is None or t.dtype == dtype for t in tensors):
            return self
        return self.with_tensors([None if t is None else t.to(dtype) for t in tensors])

    def index_limits(self) -> list[tuple[str, Tensor | None, int]]:
        """The integers that say where to read and write: name, tensor and the first value that is too large."""
        moves = 0 if self.direction_B is None else len(self.direction_B)
        order, move = ('order', self.order, self.u.shape[2]), ('move', self.move if moves else None, moves)
        return [order, move, ('gap', self.gap, 2**31)]

    def check_walk(self) -> None:
        """Raise ValueError for integers out of range and an order that is not one, as far as `can_be_read`."""
        for name, index, limit in self.index_limits():
            if index is None or index.numel() == 0 or not can_be_read(index):
                continue
            if not 0 <= int(index.min()) <= int(index.max()) < limit:  # as numbers: the limit may not fit the dtype
                raise index_error(name, limit)
            if name == 'order' and (index.long().sort(-1).values.diff(dim=-1) == 0).any():
                raise index_error(name, limit, repeated=True)

    def walk(self) -> tuple[Tensor | None, Tensor | None]:
        """The cell visited at each step and the move that led there, (1 or B, R, K) int64.

        No cells for a single walk along the sequence, which leaves tokens where they are.
        """
        if self.order is not None:
            return self.order.long(), None if self.move is None else self.move.long()
        if self.width == 0 and self.directions == 1:
            return None, None
        length = self.u.shape[2]
        if self.width == 0:
            cells = torch.arange(length, device=self.u.device)
            return torch.stack([cells, cells.flip(0)])[None], None
        order = grid_order('lines' if self.lines else 'snakes', length // self.width, self.width, self.u.device)
        return order[None], None if self.lines else snake_moves(order, self.width)[None]


def index_error(name: str, limit: int, repeated: bool = False) -> ValueError:
    """What is wrong with one of `ScanInputs.index_limits`."""
    if repeated:
        return ValueError(f'{name} must have each value from 0 to {limit - 1} once per direction, but has one twice')
    return ValueError(f'{name} must have values from 0 to {limit - 1}')


@dataclass
class Sequences:
    """Scans of one direction each, side by side in a batch: what a backend receives that knows no walks.

    Shapes: ``u``, ``delta``, ``gap_time`` (B, D, L); ``A`` (D, N); ``B``, ``C`` (B, N, L); ``D``, ``delta_bias`` (D,);
    all in one dtype.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor | None
    gap_time: Tensor | None
    delta_softplus: bool = False
