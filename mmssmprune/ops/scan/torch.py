"""The portable fast path: a chunked recurrence in plain PyTorch.

Per token it forms exp(delta A) <= 1 and steps h = a h + x with the channels innermost; only one state per chunk is
kept, and backward recomputes the rest. There are no cumulative sums of logs: they turn to NaN in float32 once delta A
reaches about -128, which gaps in pruned sequences do reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ScanInputs, Sequences
from .sequences import fold, sum_at_home, unfold, visit_again

# Elements of one (T, B, N, D) buffer: small enough to stay in a core's cache, large enough to hide Python's overhead.
CHUNK_ELEMENTS = 1 << 18
MIN_CHUNK, MAX_CHUNK = 4, 32


def chunk_length(batch: int, d_state: int, dim: int, length: int) -> int:
    """Tokens per chunk, from the size of one state."""
    fit = CHUNK_ELEMENTS // max(batch * d_state * dim, 1)
    return max(1, min(max(fit, MIN_CHUNK), MAX_CHUNK, length))


def unfilled(p: ScanInputs) -> tuple[Tensor, Tensor]:
    """What `forward` saves: the sum before the gate, empty without one, and the states before each chunk."""
    _, batch, tokens, dim = p.u.shape
    entries, d_state = batch * p.directions // p.sets, p.A.shape[2]
    chunks = -(-tokens // chunk_length(entries, d_state, dim, tokens))
    total = p.u.new_empty(0 if p.z is None else p.z.shape, dtype=p.compute_dtype)
    return total, total.new_empty(p.sets, chunks, entries, d_state, dim)


def forward(p: ScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D) and what `unfilled` describes."""
    wide = p.wide()
    scanned, saved = zip(*(_scan(one) for one in unfold(wide)), strict=True)
    total = sum_at_home(wide, list(scanned))
    if p.z is None:
        return total.to(p.u.dtype), total.new_empty(0), torch.stack(saved)
    return (total * F.silu(wide.z)).to(p.u.dtype), total, torch.stack(saved)


def backward(p: ScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    wide, grad_out, dz = p.wide(), grad_out.to(p.compute_dtype), None
    if p.z is not None:
        sigmoid = torch.sigmoid(wide.z)
        dz = grad_out * total * sigmoid * (1 + wide.z * (1 - sigmoid))
        grad_out = grad_out * wide.z * sigmoid
    parts = zip(unfold(wide), saved.unbind(0), visit_again(wide, grad_out), strict=True)
    grads = fold(wide, [_scan_backward(*part) for part in parts])
    grads[6] = dz
    return [None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, p.tensors, strict=True)]


@dataclass
class _TimeMajor:
    """The operands, time first, channels last: ``u``, ``delta``, ``elapsed`` [L, B, D]; ``B``, ``C`` [L, B, N]."""

    u: Tensor
    raw_delta: Tensor  # before softplus, with the bias
    delta: Tensor
    elapsed: Tensor
    A: Tensor  # [N, D]
    B: Tensor
    C: Tensor


def _time_major(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1).contiguous()


def _batch_major(x: Tensor) -> Tensor:
    return x.permute(1, 2, 0)  # a view: callers want the channels last in memory anyway


def _prepare(p: Sequences) -> _TimeMajor:
    raw = _time_major(p.delta)
    if p.delta_bias is not None:
        raw = raw + p.delta_bias
    delta = F.softplus(raw) if p.delta_softplus else raw
    elapsed = delta if p.gap_time is None else delta + _time_major(p.gap_time)
    return _TimeMajor(_time_major(p.u), raw, delta, elapsed, p.A.t().contiguous(), _time_major(p.B), _time_major(p.C))


def _buffers(like: Tensor, size: int, count: int) -> list[Tensor]:
    """``count`` scratch tensors (T, B, N, D) for all chunks; fresh memory for each would cost more than the sums."""
    return [like.new_empty(size, *like.shape) for _ in range(count)]


def _chunk_states(tm: _TimeMajor, at: slice, state: Tensor, decay: Tensor, states: Tensor) -> None:
    """Fill the buffers with the decays and states (T, B, N, D) of one chunk that starts from ``state`` (B, N, D)."""
    torch.mul(tm.elapsed[at].unsqueeze(2), tm.A, out=decay).exp_()
    torch.mul((tm.delta[at] * tm.u[at]).unsqueeze(2), tm.B[at].unsqueeze(3), out=states)
    for a, h in zip(decay.unbind(0), states.unbind(0), strict=True):
        state = h.addcmul_(a, state)


def _sum_over_states(weights: Tensor, states: Tensor, out: Tensor | None = None) -> Tensor:
    """[T, B, N] x [T, B, N, D] -> [T, B, D]."""
    if out is None:
        return torch.matmul(weights.unsqueeze(2), states).squeeze(2)
    torch.matmul(weights.unsqueeze(2), states, out=out.unsqueeze(2))
    return out


def _sum_over_channels(weights: Tensor, states: Tensor) -> Tensor:
    """[T, B, D] x [T, B, N, D] -> [T, B, N]; the row vector first, which is ten times faster on a CPU."""
    return torch.matmul(weights.unsqueeze(2), states.transpose(2, 3)).squeeze(2)


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _scan(p: Sequences) -> tuple[Tensor, Tensor]:
    """Return the output (B, D, L) and the state before each chunk (chunks, B, N, D)."""
    batch, dim, length = p.u.shape
    d_state = p.A.shape[1]
    tm = _prepare(p)
    y = torch.empty_like(tm.u)
    size = chunk_length(batch, d_state, dim, length)
    chunks = _chunks(length, size)
    before = p.u.new_zeros(len(chunks), batch, d_state, dim)
    decay, states = _buffers(p.u.new_empty(batch, d_state, dim), size, 2)
    for i, at in enumerate(chunks):
        tokens = at.stop - at.start
        _chunk_states(tm, at, before[i], decay[:tokens], states[:tokens])
        _sum_over_states(tm.C[at], states[:tokens], out=y[at])
        if i + 1 < len(chunks):
            before[i + 1] = states[tokens - 1]
    if p.D is not None:
        y.addcmul_(tm.u, p.D)
    return _batch_major(y), before


def _scan_backward(p: Sequences, before: Tensor, grad_out: Tensor) -> Sequences:
    """Return the gradients in place of the operands; ``before`` is what `_scan` saved."""
    batch, dim, length = p.u.shape
    tm, dy = _prepare(p), _time_major(grad_out)
    grads = _TimeMajor(*(torch.zeros_like(t) for t in (tm.u, tm.delta, tm.delta, tm.elapsed, tm.A, tm.B, tm.C)))
    size = chunk_length(batch, p.A.shape[1], dim, length)
    chunks = _chunks(length, size)
    carry = p.u.new_zeros(batch, p.A.shape[1], dim)
    buffers = _buffers(carry, size, 4)
    for i in reversed(range(len(chunks))):
        at = chunks[i]
        carry = _chunk_backward(tm, grads, at, before[i], carry, dy, [b[: at.stop - at.start] for b in buffers])
    ddelta = grads.delta + grads.elapsed
    if p.delta_softplus:
        ddelta = ddelta * torch.sigmoid(tm.raw_delta)
    if p.D is not None:
        grads.u.addcmul_(dy, p.D)
    return Sequences(
        _batch_major(grads.u),
        _batch_major(ddelta),
        grads.A.t(),
        _batch_major(grads.B),
        _batch_major(grads.C),
        None if p.D is None else (dy * tm.u).sum((0, 1)),
        None if p.delta_bias is None else ddelta.sum((0, 1)),
        None if p.gap_time is None else _batch_major(grads.elapsed),
    )


def _chunk_backward(
    tm: _TimeMajor,
    grads: _TimeMajor,
    at: slice,
    before: Tensor,
    carry: Tensor,
    dy: Tensor,
    buffers: list[Tensor],
) -> Tensor:
    """Write one chunk's gradients; return the gradient of the state before the chunk."""
    decay, states, dstates, scratch = buffers
    _chunk_states(tm, at, before, decay, states)
    grads.C[at] = _sum_over_channels(dy[at], states)
    torch.mul(dy[at].unsqueeze(2), tm.C[at].unsqueeze(3), out=dstates)
    for a, dh in zip(reversed(decay.unbind(0)), reversed(dstates.unbind(0)), strict=True):
        carry = dh.add_(carry) * a
    grads.B[at] = _sum_over_channels(tm.delta[at] * tm.u[at], dstates)
    dinputs = _sum_over_states(tm.B[at], dstates)
    torch.mul(dinputs, tm.delta[at], out=grads.u[at])
    torch.mul(dinputs, tm.u[at], out=grads.delta[at])
    # d(exp(elapsed A)) times the exponential itself; the state it multiplied is the one of the step before.
    dexponent = dstates.mul_(decay)
    dexponent[0].mul_(before)
    dexponent[1:].mul_(states[:-1])
    torch.sum(torch.mul(dexponent, tm.A, out=scratch), 2, out=grads.elapsed[at])
    grads.A += torch.mul(dexponent, tm.elapsed[at].unsqueeze(2), out=scratch).sum((0, 1))
    return carry
