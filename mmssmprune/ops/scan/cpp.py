"""The selective scan in C++ for the CPU: ``multi_scan.cpp``, compiled on first use where there is a C++ compiler.

One kernel serves a scan along several directions and a single one. Results keep the channels innermost in memory, as
the models hold their tokens. A result does not depend on the number of threads, but for the last bits of the gradients
of B, C and direction_B where a batch has fewer entries than there are threads.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from .. import compile_cpp
from . import naive, sequences
from .common import ScanInputs
from .cpp_launch import PAD, adds, call_source, load, parts_of
from .inputs import MultiScanInputs

CHUNK, GROUP = 16, 8  # as in the source


def problem(device_type: str = 'cpu', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot run here, or return None. Compiles the source on the first call."""
    return _problem() if device_type == 'cpu' else 'it is for CPUs'


problem._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result does, without importing dynamo


@cache
def _problem() -> str | None:
    return load()[1] or compile_cpp.in_fresh_thread(_wrong_result)


def _wrong_result() -> str | None:
    """Compare a small scan and its gradients, and one along several directions, with the naive ones."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        shapes = [(2, 19, 18), (2, 19, 18), (19, 3), (2, 3, 18), (2, 3, 18), (19,), (2, 19, 18), (19,), (2, 19, 18)]
        waves = [torch.arange(1, 1 + torch.Size(s).numel(), dtype=dtype, device='cpu').sin().view(s) for s in shapes]
        waves[2], waves[8] = waves[2] - 2, waves[8] + 1
        p = ScanInputs(*waves, delta_softplus=True)
        grad_out = waves[0].cos()
        out, saved = forward(p)
        pairs = [([out, *backward(p, saved, grad_out)], [naive.scan(p), *p.autograd_of(naive.scan, grad_out)])]
        u, delta, A, B, C, D, _, bias = (t.transpose(-2, -1)[None] if t.dim() > 1 else t[None] for t in waves[:8])
        gap = torch.arange(2 * 4 * 18, device='cpu').view(2, 4, 18) % 3
        walk = (waves[3][0, :, :5].t(), -D.sign() * D, None, None, gap, 4, 6, True, False)
        several = MultiScanInputs(u, delta, A.transpose(-2, -1), B, C, D, u[0].cos(), bias, *walk)
        out, total, saved = multi_forward(several)
        expected, *rest = sequences.forward(several, naive)
        grads = multi_backward(several, total, saved, u[0])
        pairs.append(([out, *grads], [expected, *sequences.backward(several, *rest, u[0], naive, 'naive')]))
        for got, want in (pair for both in pairs for pair in zip(*both, strict=True)):
            if not (got - want).abs().max() <= tolerance * want.abs().max():
                return f'it computes wrong {dtype} values on this CPU'
    return None


def saved_shape(batch: int, dim: int, d_state: int, length: int) -> tuple[int, ...]:
    """Shape of what `forward` saves: the states before each chunk."""
    return batch, 1, -(-length // CHUNK), *_padded(d_state, dim)


def multi_saved_shape(p: MultiScanInputs) -> tuple[int, ...]:
    """Shape of the states before each chunk of each direction, (B, R, chunks, N, D), padded; of one if not kept."""
    _, batch, tokens, dim = p.u.shape
    chunks = -(-tokens // CHUNK) if p.keep_states else 1
    return batch, p.directions, chunks, *_padded(p.A.shape[2], dim)


def _padded(d_state: int, dim: int) -> tuple[int, int]:
    group = 1 if d_state == 1 else 4 if d_state <= 4 else GROUP
    return -(-d_state // group) * group, -(-dim // PAD) * PAD


def forward(p: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return the output (B, D, L) and the states before each chunk."""
    out, _, saved = _forward(_one_direction(p), p.gap_delta)
    return out.transpose(1, 2), saved


def backward(p: ScanInputs, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`; ``saved`` is what `forward` saved."""
    one = _one_direction(p)
    total = None if p.z is None else _forward(replace(one, z=None, keep_states=False), p.gap_delta)[0]
    grads, dgap = _backward(one, total, saved, grad_out.transpose(1, 2), p.gap_delta)
    du, ddelta, dA, dB, dC, dD, dz, dbias, *_ = (None if g is None else g if g is grads[6] else g[0] for g in grads)
    by_token = (None if g is None else g.transpose(1, 2) for g in (du, ddelta, dB, dC, dz, dgap))
    du, ddelta, dB, dC, dz, dgap = by_token
    return [du, ddelta, dA, dB, dC, dD, dz, dbias, dgap]


def _one_direction(p: ScanInputs) -> MultiScanInputs:
    u, delta, B, C = (t.transpose(1, 2)[None] for t in (p.u, p.delta, p.B, p.C))
    D, bias = (None if t is None else t[None] for t in (p.D, p.delta_bias))
    z = None if p.z is None else p.z.transpose(1, 2)
    return MultiScanInputs(u, delta, p.A[None], B, C, D, z, bias, *(None,) * 5, 1, 0, p.delta_softplus, False)


def multi_forward(p: MultiScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D), the sum before the gate, empty without one, and the states before each chunk."""
    out, total, saved = _forward(p.wide())
    return out.to(p.u.dtype), total.to(p.u.dtype), saved


def multi_backward(p: MultiScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `MultiScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    dtype = p.compute_dtype
    grads, _ = _backward(p.wide(), total.to(dtype), saved, grad_out.to(dtype))
    return [None if g is None else g.to(t.dtype) for g, t in zip(grads, p.tensors, strict=True)]


def _forward(p: MultiScanInputs, extra: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """All operands in one dtype; ``extra`` (B, D, K) is time that passes before each step."""
    shape = p.u.shape[1:]
    saved = p.u.new_empty(multi_saved_shape(p))
    saved[:, :, :1] = 0
    total = (p.u.new_empty if p.directions == 1 else p.u.new_zeros)(shape)
    if p.z is None:
        call_source(p, extra, saved, total=total)
        return total, total.new_empty(0), saved
    out = torch.empty_like(total)
    call_source(p, extra, saved, total=total, out=out)
    return out, total, saved


def _backward(
    p: MultiScanInputs, total: Tensor | None, saved: Tensor, grad_out: Tensor, extra: Tensor | None = None
) -> tuple[list[Tensor | None], Tensor | None]:
    """The gradients of the operands, and that of ``extra``."""
    (sets, batch, tokens, dim), d_state, (states, padded) = p.u.shape, p.A.shape[2], saved.shape[-2:]
    parts = parts_of(batch, padded)
    # Where directions meet they are added up, and where there are no channels nothing is written.
    new_u, new = (
        p.u.new_empty if once and p.u.numel() else p.u.new_zeros for once in (sets == p.directions, not adds(p))
    )
    du, ddelta = new_u(p.u.shape), new(p.u.shape)
    dB, dC = (new(sets, parts * batch, tokens, d_state) for _ in range(2))
    dz, dy = (None if p.z is None else p.u.new_empty(p.z.shape) for _ in range(2))
    dextra = None if extra is None else p.u.new_empty(batch, tokens, dim)
    sums = p.u.new_zeros(batch, sets, states + 3, padded)
    carry = p.u.new_zeros(batch, p.directions, states + 1, padded)
    dmoves = None if p.direction_B is None else p.u.new_zeros(parts * batch, len(p.direction_B), states)
    results = dict(du=du, ddelta=ddelta, dB=dB, dC=dC, dz=dz, dy=dy, dextra=dextra)
    operands = dict(grad_out=grad_out, total=None if p.z is None else total)
    call_source(p, extra, saved, **operands, **results, sums=sums, carry=carry, dmoves=dmoves)
    if parts > 1:
        dB, dC = (t.unflatten(1, (parts, batch)).sum(1) for t in (dB, dC))
    sums = sums.sum(0)[..., :dim]
    dA, rows = sums[:, :d_state].transpose(1, 2).contiguous(), sums[:, states:].unbind(1)
    vectors = [None if t is None else g.clone() for t, g in zip((p.D, p.delta_bias, p.delta_gap), rows, strict=True)]
    moves = None if dmoves is None else dmoves.sum(0)[:, :d_state].contiguous()
    return [du, ddelta, dA, dB, dC, vectors[0], dz, vectors[1], moves, vectors[2]], dextra
