"""What calls the kernels: how the work is cut, memory, and the sums over what programs leave apart."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.language import constexpr

from ..inputs import ScanInputs
from .arguments import ARRAY, LINES, SEQUENCE, SNAKE, Grads, Inputs, Plan, Rows, Walk
from .backward_kernels import carry_kernel, grads_kernel
from .forward_kernels import combine_kernel, ends_kernel, gate_kernel, ungate_kernel, walk_kernel


class Shape(NamedTuple):
    """How much one program takes at once; below it fits sm_90's registers at R = 4, N = 16, with gaps nearly.

    ``states``: block of channels times N. ``steps``: unrolled; their operands are all read before the first is taken.
    """

    states: int
    steps: int
    warps: int


FORWARD, BACKWARD = Shape(256, 2, 1), Shape(256, 2, 2)
TILE = dict(BLOCK_T=16, BLOCK_D=64)  # of the gates
OPTIONS = dict(enable_fp_fusion=True)  # Triton's default changes in 3.10
# With fewer programs than this every chunk becomes a program of its own, and is walked twice.
ENOUGH_PROGRAMS = 1024


@dataclass
class _Cut:
    """The operands as kernels take them, and how one pass cuts the work into programs."""

    p: ScanInputs
    x: Inputs
    plan: Plan
    programs: int
    blocks: int
    chunks: int
    warps: int

    def run(self, kernel, *operands, grid: tuple[int, int] | None = None, **constants) -> None:
        """Launch one of the kernels that walk."""
        constants |= dict(plan=self.plan, num_warps=self.warps, **OPTIONS)
        kernel[grid or self.grid](self.x, *operands, **constants)

    @property
    def grid(self) -> tuple[int, int]:
        return self.programs, self.blocks

    @property
    def apart(self) -> bool:
        return self.plan.APART.value

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.p.u.new_empty(shape, dtype=dtype)

    def states(self) -> Tensor:
        """An unfilled (B, R, chunks, D, N)."""
        p = self.p
        return self.empty(p.u.shape[1], p.directions, self.chunks, p.u.shape[3], p.A.shape[2])

    def combine(self, ends: Tensor, elapsed: Tensor, reverse: bool) -> None:
        grid = self.p.u.shape[1] * self.p.directions, self.blocks
        self.run(combine_kernel, ends, elapsed, grid=grid, REVERSE=reverse)


def _cut(p: ScanInputs, chunk: int, shape: Shape) -> _Cut:
    inputs, batch, tokens, channels = p.u.shape
    block_n = triton.next_power_of_2(p.A.shape[2])
    block_d = min(triton.next_power_of_2(channels), max(shape.states // block_n, 1))
    blocks, chunks = triton.cdiv(channels, block_d), triton.cdiv(tokens, chunk)
    apart = chunks > 1 and batch * blocks < ENOUGH_PROGRAMS
    path = ARRAY if p.order is not None else SEQUENCE if not p.width else LINES if p.lines else SNAKE
    moves = 1 if p.direction_B is None else triton.next_power_of_2(len(p.direction_B))
    numbers = (p.directions, inputs, p.sets, path.value, p.permute_params, p.delta_softplus, apart, chunk, shape.steps)
    plan = Plan(*(constexpr(number) for number in (*numbers, block_d, block_n, moves)))
    return _Cut(p, _inputs(p, chunks), plan, batch * chunks if apart else batch, blocks, chunks, shape.warps)


def _inputs(p: ScanInputs, chunks: int) -> Inputs:
    order, move, gap = (None if t is None else t.contiguous() for t in (p.order, p.move, p.gap))
    strides = [0 if t is None or len(t) == 1 else t.stride(0) for t in (order, move)]
    walk = Walk(order, move, gap, *strides, p.u.shape[2], p.width)
    vectors = (None if t is None else t.float().contiguous() for t in (p.A, p.D, p.delta_bias, p.delta_gap))
    added = None if p.direction_B is None else Rows(p.direction_B.contiguous(), token=p.A.shape[2])
    tokens = (_rows(t) for t in (p.u, p.delta, p.B, p.C))
    gap_time = None if p.gap_time is None else _rows(p.gap_time)
    return Inputs(*tokens, added, gap_time, *vectors, walk, p.u.shape[3], p.A.shape[2], chunks)


def _rows(x: Tensor | None) -> Rows:
    """Rows of (B, K, C), or of (S, B, K, C) with a plane for each set; copied only if channels are not adjacent."""
    if x is None:
        return Rows(None)
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    return Rows(x, 0 if x.dim() == 3 or len(x) == 1 else x.stride(0), *x.stride()[-3:-1])


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()


def _tiles(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[0], triton.cdiv(shape[1], TILE['BLOCK_T']), triton.cdiv(shape[2], TILE['BLOCK_D'])


def forward(p: ScanInputs, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, sum before the gate (empty without one) and the states before each chunk."""
    cut = _cut(p, chunk, FORWARD)
    shape = p.u.shape[1:]
    before, out = cut.states(), p.u.new_empty(shape)
    total = p.u.new_empty(0 if p.z is None else shape)
    if out.numel() == 0:
        return out, total, before
    planes = p.directions if cut.apart else 1
    y = cut.empty(planes, *shape)
    with _on(p.u.device):
        if cut.apart:
            elapsed = cut.empty(*before.shape[:-1])
            cut.run(ends_kernel, before, elapsed)
            cut.combine(before, elapsed, reverse=False)
        elif p.directions > 1:
            y.zero_()
        results = _rows(y), _rows(p.z), _rows(None if p.z is None else total), _rows(out)
        cut.run(walk_kernel, before, *results, BLOCK_T=TILE['BLOCK_T'])
        if cut.apart:
            gate_kernel[_tiles(shape)](*results, *shape[1:], PLANES=planes, **TILE, **OPTIONS)
    return out, total, before


def backward(p: ScanInputs, total: Tensor, before: Tensor, grad_out: Tensor, chunk: int) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`, each in the dtype of its operand."""
    if p.u.numel() == 0:
        return [None if t is None else torch.zeros_like(t) for t in p.tensors]
    cut = _cut(p, chunk, BACKWARD)
    with _on(p.u.device):
        dy, dz = _ungate(p, total, grad_out)
        after = _carry(cut, dy) if cut.apart else None
        memory = _memory(cut)
        scratch = cut.empty(
            *cut.grid, chunk // BACKWARD.steps, p.directions, cut.plan.BLOCK_D.value, cut.plan.BLOCK_N.value
        )
        rows = {name: _rows(memory[name]) for name in ('u', 'delta', 'B', 'C')}
        gap_time = None if p.gap_time is None else _rows(memory['gap_time'])
        grads = Grads(**{**memory, **rows, 'gap_time': gap_time})
        cut.run(grads_kernel, _rows(dy), before, after, scratch, grads)
    return _reduced(p, memory, dz)


def _ungate(p: ScanInputs, total: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of the sum before the gate and of the gate."""
    if p.z is None:
        return grad_out, None
    shape = p.z.shape
    dy, dz = p.z.new_empty(shape, dtype=torch.float32), p.z.new_empty(shape)
    ungate_kernel[_tiles(shape)](*(_rows(t) for t in (grad_out, p.z, total, dy, dz)), *shape[1:], **TILE, **OPTIONS)
    return dy, dz


def _carry(cut: _Cut, dy: Tensor) -> Tensor:
    """The gradient of the state after each chunk, as far as later chunks use it."""
    after = cut.states()
    elapsed = cut.empty(*after.shape[:-1])
    cut.run(carry_kernel, _rows(dy), after, elapsed)
    cut.combine(after, elapsed, reverse=True)
    return after


def _memory(cut: _Cut) -> dict[str, Tensor | None]:
    """Memory for the gradients by the names of `Grads`."""
    p, R = cut.p, cut.p.directions
    inputs, *shape = p.u.shape
    together = p.sets == 1 and not p.permute_params
    one_u = inputs == 1 and not cut.apart
    planes = 1 if together else R
    # A plane that nothing is added to is written in the dtype of its operand.
    u = cut.empty(1 if one_u else R, *shape, dtype=p.u.dtype if inputs == R else torch.float32)
    memory = {
        'u': u.zero_() if one_u and R > 1 else u,
        'delta': cut.empty(planes, *shape, dtype=p.delta.dtype if p.sets == planes else torch.float32),
        'A': cut.empty(cut.programs, *p.A.shape),
        'direction_B': None,
        'gap_time': None if p.gap_time is None else torch.empty_like(p.gap_time, memory_format=torch.contiguous_format),
    }
    for name in ('B', 'C'):
        memory[name] = cut.empty(cut.blocks * planes, *shape[:2], p.A.shape[2])
    for name in ('D', 'delta_bias', 'delta_gap'):
        memory[name] = None if getattr(p, name) is None else cut.empty(cut.programs, p.sets, shape[2])
    if p.direction_B is not None:
        memory['direction_B'] = cut.empty(cut.programs * cut.blocks, cut.plan.MOVES.value, p.A.shape[2])
    return memory


def _reduced(p: ScanInputs, memory: dict[str, Tensor | None], dz: Tensor | None) -> list[Tensor | None]:
    """Sum what programs, blocks of channels and directions left apart, in an order that is always the same."""
    grads = {'z': dz, 'gap_time': memory['gap_time']}
    for name in ('u', 'delta'):
        planes = memory[name]
        grads[name] = planes if len(planes) == len(getattr(p, name)) else planes.sum(0, keepdim=True)
    for name in ('B', 'C'):
        planes = memory[name].unflatten(0, (-1, len(memory['delta'])))  # [blocks, planes, B, K, N]
        grads[name] = planes.sum(0) if planes.shape[1] == p.sets else planes.sum((0, 1))[None]
    for name in ('A', 'D', 'delta_bias', 'delta_gap'):
        grads[name] = None if memory[name] is None else memory[name].sum(0)
    rows = memory['direction_B']
    grads['direction_B'] = None if rows is None else rows.sum(0)[: len(p.direction_B)]
    names = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'direction_B', 'delta_gap', 'gap_time')
    return [None if t is None else grads[name].to(t.dtype) for name, t in zip(names, p.tensors, strict=True)]
