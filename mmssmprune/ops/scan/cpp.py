"""The selective scan in C++ for the CPU: ``scan.cpp``, compiled on first use where there is a C++ compiler.

A result does not depend on the number of threads, but for the last bits of the gradients
of B, C and direction_B where a batch has fewer entries than there are threads.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .. import compile_cpp
from . import naive, sequences
from .cpp_launch import PAD, adds, call_source, load, parts_of
from .inputs import ScanInputs

CHUNK, GROUP = 16, 8  # as in the source


def problem(device_type: str = 'cpu', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot run here, or return None. Compiles the source on the first call."""
    return _problem() if device_type == 'cpu' else 'it is for CPUs'


problem._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result does, without importing dynamo


@cache
def _problem() -> str | None:
    return load()[1] or compile_cpp.in_fresh_thread(_wrong_result)


def _wrong_result() -> str | None:
    """Compare small scans along one and along four directions, and their gradients, with the naive ones."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        for p in _small_scans(dtype):
            grad_out = p.u[0].cos()
            out, total, saved = forward(p)
            pairs = [(out, sequences.scan(p, naive.scan))]
            expected = sequences.backward(p, naive.scan, grad_out)
            pairs += zip(backward(p, total, saved, grad_out), expected, strict=True)
            for got, want in pairs:
                if want is not None and not (got - want).abs().max() <= tolerance * want.abs().max():
                    return f'it computes wrong {dtype} values on this CPU'
    return None


def _small_scans(dtype: torch.dtype) -> list[ScanInputs]:
    batch, tokens, dim, d_state = 2, 18, 19, 3
    sequence, state, walk = (1, batch, tokens, dim), (1, batch, tokens, d_state), (batch, 4, tokens)

    def wave(*shape: int) -> Tensor:
        return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=dtype, device='cpu').sin().view(shape)

    shapes = (sequence, sequence, (1, dim, d_state), state, state, (1, dim), sequence[1:], (1, dim))
    operands = [wave(*shape) for shape in shapes]
    operands[2] -= 2
    gap = torch.arange(torch.Size(walk).numel(), device='cpu').view(walk) % 3
    sizes = -wave(1, dim).sign() * wave(1, dim)
    one = ScanInputs(*operands, *(None,) * 5, 1, 0, False, True, False, gap_time=wave(*sequence) + 1)
    return [one, ScanInputs(*operands, wave(5, d_state), sizes, None, None, gap, 4, 6, False, True, False)]


def unfilled(p: ScanInputs) -> tuple[Tensor, Tensor]:
    """What `forward` saves: the sum before the gate, empty without one, and the states before each chunk.

    These are (B, R, chunks, N, D), padded; those of one chunk if they are not kept.
    """
    _, batch, tokens, dim = p.u.shape
    d_state, group = p.A.shape[2], 1 if p.A.shape[2] == 1 else 4 if p.A.shape[2] <= 4 else GROUP
    padded = -(-d_state // group) * group, -(-dim // PAD) * PAD
    total = p.u.new_empty(0 if p.z is None else p.z.shape, dtype=p.compute_dtype)
    return total, total.new_empty(batch, p.directions, -(-tokens // CHUNK) if p.keep_states else 1, *padded)


def forward(p: ScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D) and what `unfilled` describes."""
    wide = p.wide()
    _, saved = unfilled(wide)
    saved[:, :, :1] = 0
    total = (saved.new_empty if p.directions == 1 else saved.new_zeros)(p.u.shape[1:])
    if p.z is None:
        call_source(wide, saved, total=total)
        return total.to(p.u.dtype), total.new_empty(0), saved
    out = torch.empty_like(total)
    call_source(wide, saved, total=total, out=out)
    return out.to(p.u.dtype), total, saved


def backward(p: ScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    tensors, p, grad_out = p.tensors, p.wide(), grad_out.to(saved.dtype)
    (inputs, batch, tokens, dim), (states, padded) = p.u.shape, saved.shape[-2:]
    sets, _, d_state = p.A.shape
    parts = parts_of(batch, padded)
    # Where directions meet they are added up, and where there are no channels nothing is written.
    new_u, new = (
        p.u.new_empty if once and p.u.numel() else p.u.new_zeros for once in (inputs == p.directions, not adds(p))
    )
    du, ddelta = new_u(p.u.shape), new(p.delta.shape)
    dB, dC = (new(sets, parts * batch, tokens, d_state) for _ in range(2))
    dz, dy = (None if p.z is None else p.u.new_empty(p.z.shape) for _ in range(2))
    dgap_time = None if p.gap_time is None else p.u.new_empty(p.gap_time.shape)
    sums = p.u.new_zeros(batch, sets, states + 3, padded)
    carry = p.u.new_zeros(batch, p.directions, states + 1, padded)
    dmoves = None if p.direction_B is None else p.u.new_zeros(parts * batch, len(p.direction_B), states)
    results = dict(du=du, ddelta=ddelta, dB=dB, dC=dC, dz=dz, dy=dy, dgap_time=dgap_time)
    operands = dict(grad_out=grad_out, total=None if p.z is None else total)
    call_source(p, saved, **operands, **results, sums=sums, carry=carry, dmoves=dmoves)
    if parts > 1:
        dB, dC = (t.unflatten(1, (parts, batch)).sum(1) for t in (dB, dC))
    sums = sums.sum(0)[..., :dim]
    dA, rows = sums[:, :d_state].transpose(1, 2).contiguous(), sums[:, states:].unbind(1)
    vectors = zip((p.D, p.delta_bias, p.delta_gap), rows, strict=True)
    dD, dbias, dgap = (None if t is None else g.clone() for t, g in vectors)
    moves = None if dmoves is None else dmoves.sum(0)[:, :d_state].contiguous()
    grads = [du, ddelta, dA, dB, dC, dD, dz, dbias, moves, dgap, dgap_time]
    return [None if g is None else g.to(t.dtype) for g, t in zip(grads, tensors, strict=True)]
