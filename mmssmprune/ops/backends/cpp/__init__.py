"""The selective scan in C++ for the CPU: ``selective_scan.cpp``, compiled on first use where there is a C++ compiler.

Results keep the channels innermost in memory, as the models hold their tokens. A result does not depend on the number
of threads, but for the last bits of the gradients of B and C where a batch has fewer entries than there are threads.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mmssmprune.ops import compile_cpp

from .. import naive
from ..common import ScanInputs

SOURCE = Path(__file__).with_name('selective_scan.cpp')
CHUNK, GROUP, PAD = 16, 8, 16  # the first two as in the source; PAD channels hold any vector


class _View(ctypes.Structure):
    _fields_ = [('data', ctypes.c_void_p), *((stride, ctypes.c_int64) for stride in ('batch', 'channel', 'time'))]


class _Scan(ctypes.Structure):
    """``Scan`` in the source. ``weights`` has the rows of A transposed, then D and delta_bias; ``sums`` alike."""

    _views = ('u', 'delta', 'z', 'gap', 'B', 'C', 'grad_out', 'out', 'du', 'ddelta', 'dz', 'dgap', 'dB', 'dC')
    _buffers = ('weights', 'saved', 'carry', 'sums')
    _sizes = ('batch', 'dim', 'states', 'length', 'padded', 'padded_states', 'softplus', 'parts', 'threads')
    _fields_ = [
        *((name, _View) for name in _views),
        *((name, ctypes.c_void_p) for name in _buffers),
        *((name, ctypes.c_int64) for name in _sizes),
    ]


def problem() -> str | None:
    """Say in a few words why this backend cannot run here, or return None. Compiles the source on the first call."""
    return _problem()


problem._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result does, without importing dynamo


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    return compile_cpp.load(SOURCE)


@cache
def _problem() -> str | None:
    reason = _load()[1]
    if reason is None:
        with ThreadPoolExecutor(1) as fresh:  # torch's modes (fake tensors, counters, autocast) stay in their thread
            reason = fresh.submit(_wrong_result).result()
    return reason


def _wrong_result() -> str | None:
    """Compare a small scan and its gradients with the naive ones."""
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        shapes = [(2, 19, 18), (2, 19, 18), (19, 3), (2, 3, 18), (2, 3, 18), (19,), (2, 19, 18), (19,), (2, 19, 18)]
        waves = [torch.arange(1, 1 + torch.Size(s).numel(), dtype=dtype, device='cpu').sin().view(s) for s in shapes]
        waves[2], waves[8] = waves[2] - 2, waves[8] + 1
        p = ScanInputs(*waves, delta_softplus=True)
        out, saved = forward(p)
        grad_out = waves[0].cos()
        expected = [naive.scan(p), *p.autograd_of(naive.scan, grad_out)]
        for got, want in zip([out, *backward(p, saved, grad_out)], expected, strict=True):
            if not (got - want).abs().max() <= tolerance * want.abs().max():
                return f'it computes wrong {dtype} values on this CPU'
    return None


def saved_shape(batch: int, dim: int, d_state: int, length: int) -> tuple[int, int, int, int]:
    """Shape of what `forward` saves: the states before each chunk."""
    group = 1 if d_state == 1 else 4 if d_state <= 4 else GROUP
    return batch, -(-length // CHUNK), -(-d_state // group) * group, -(-dim // PAD) * PAD


def forward(p: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return the output (B, D, L) and the states before each chunk."""
    out = _channels_last(p.u)
    saved = p.u.new_empty(saved_shape(*p.u.shape[:2], p.A.shape[1], p.u.shape[2]))
    if out.numel():
        _call(p, saved, out=out)
    return out, saved


def backward(p: ScanInputs, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`; ``saved`` is what `forward` saved."""
    batch, dim, length = p.u.shape
    d_state, (states, padded) = p.A.shape[1], saved.shape[2:]
    parts = _parts(batch, padded)
    du, ddelta = _channels_last(p.u), _channels_last(p.u)
    dz, dgap = (None if t is None else _channels_last(p.u) for t in (p.z, p.gap_delta))
    dB, dC = (p.u.new_empty(parts * batch, length, d_state).transpose(1, 2) for _ in range(2))
    sums = p.u.new_empty(batch, states + 2, padded)
    if p.u.numel():
        results = {'du': du, 'ddelta': ddelta, 'dz': dz, 'dgap': dgap, 'dB': dB, 'dC': dC}
        carry = p.u.new_empty(batch, states, padded)
        _call(p, saved, grad_out=grad_out, carry=carry, sums=sums, **results)
    else:
        sums.zero_(), dB.zero_(), dC.zero_()
    if parts > 1:
        dB, dC = (_channels_last(t[:batch]).copy_(t.unflatten(0, (parts, batch)).sum(0)) for t in (dB, dC))
    sums = sums.sum(0)[:, :dim]
    return [
        du,
        ddelta,
        sums[:d_state].t().contiguous(),
        dB,
        dC,
        None if p.D is None else sums[states].clone(),
        dz,
        None if p.delta_bias is None else sums[states + 1].clone(),
        dgap,
    ]


def _channels_last(like: Tensor) -> Tensor:
    """An unfilled (B, C, L) tensor with C innermost."""
    return like.new_empty(like.shape[0], like.shape[2], like.shape[1]).transpose(1, 2)


def _parts(batch: int, padded: int) -> int:
    """How many parts the channels are split into, so that every thread has work."""
    return max(1, min(-(-torch.get_num_threads() // max(batch, 1)), padded // PAD))


def _weights(p: ScanInputs, rows: int, padded: int) -> Tensor:
    """A transposed, D and delta_bias as rows (states + 2, D), padded with zeros."""
    dim, d_state = p.A.shape
    weights = p.u.new_zeros(rows + 2, padded)
    weights[:d_state, :dim] = p.A.t()
    for row, vector in ((rows, p.D), (rows + 1, p.delta_bias)):
        if vector is not None:
            weights[row, :dim] = vector
    return weights


def _call(p: ScanInputs, saved: Tensor, **tensors: Tensor | None) -> None:
    batch, dim, length = p.u.shape
    states, padded = saved.shape[2:]
    tensors |= {'u': p.u, 'delta': p.delta, 'z': p.z, 'gap': p.gap_delta, 'B': p.B, 'C': p.C}
    tensors |= {'weights': _weights(p, states, padded), 'saved': saved}
    scan = _Scan(
        batch=batch,
        dim=dim,
        states=p.A.shape[1],
        length=length,
        padded=padded,
        padded_states=states,
        softplus=p.delta_softplus,
        parts=_parts(batch, padded),
        threads=torch.get_num_threads(),
    )
    for name, tensor in tensors.items():
        if tensor is not None:
            pointer = tensor.data_ptr()
            setattr(scan, name, _View(pointer, *tensor.stride()) if name in _Scan._views else pointer)
    library = _load()[0]
    run = library.selective_scan_double if p.u.dtype == torch.float64 else library.selective_scan_float
    run(ctypes.byref(scan), 'grad_out' in tensors)
