"""What calls the source: operands as pointers and strides, the walks, and how the work is cut."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import compile_cpp
from ..walks import grid_order, snake_moves
from .inputs import ScanInputs, index_error

SOURCE = Path(__file__).with_name('scan.cpp')
PAD = 16  # so many channels hold any vector


# ``Scan`` in the source, in its order: tensors with the strides of set, batch, token and channel, then pointers, then
# numbers. ``weights`` (S, N + 3, D) has the rows of A transposed, then D, delta_bias and delta_gap; ``sums`` (B, S,
# N + 3, D) are their gradients. ``saved`` (B, R, chunks, N, D) holds states, ``carry`` (B, R, N + 1, D) the gradient
# of one and that of the delta before it; ``dmoves`` (parts * B, M, N) that of direction_B. All have N and D padded.
VIEWS = ('u', 'delta', 'z', 'gap_time', 'B', 'C', 'grad_out', 'total')
VIEWS += ('out', 'dy', 'du', 'ddelta', 'dz', 'dgap_time', 'dB', 'dC')
BUFFERS = ('weights', 'saved', 'carry', 'sums', 'direction_B', 'dmoves', 'order', 'move', 'gap')


@cache
def load() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled source, or None and the reason why there is none."""
    library, reason = compile_cpp.load(SOURCE)
    if library is not None:
        library.check_index.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5]
    return library, reason


def _together(p: ScanInputs) -> int:
    """How many directions have the same delta, B and C at each step, and so the same exponentials."""
    return p.directions if p.sets == 1 and not p.permute_params and p.gap_time is None else 1


def adds(p: ScanInputs) -> bool:
    """Whether tokens get gradients of delta, B and C from more than one walk."""
    return p.sets * _together(p) < p.directions


def parts_of(batch: int, padded: int) -> int:
    """How many parts the channels are split into, so that every thread has work."""
    return max(1, min(-(-torch.get_num_threads() // max(batch, 1)), padded // PAD))


def _weights(p: ScanInputs, rows: int, padded: int) -> Tensor:
    """A transposed, D, delta_bias and delta_gap as rows (S, states + 3, D), padded with zeros."""
    sets, dim, d_state = p.A.shape
    weights = p.u.new_zeros(sets, rows + 3, padded)
    weights[:, :d_state, :dim] = p.A.transpose(1, 2)
    for row, vector in enumerate((p.D, p.delta_bias, p.delta_gap), rows):
        if vector is not None:
            weights[:, row, :dim] = vector
    if p.delta_gap is None:
        weights[:, rows + 2] = -1
    return weights


@lru_cache(maxsize=32)
def _over_grid(walk: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        order = grid_order(walk, height, width)
        return tuple(t[None].int().contiguous() for t in (order, snake_moves(order, width)))


def _walk(p: ScanInputs) -> dict[str, Tensor | None]:
    """The walks as the source takes them; it knows the sequence by itself."""
    walk = {name: None if index is None else _checked(name, index, limit) for name, index, limit in p.index_limits()}
    if p.width and p.order is None:
        order, move = _over_grid('lines' if p.lines else 'snakes', p.u.shape[2] // p.width, p.width)
        walk |= dict(order=order, move=None if p.direction_B is None else move)
    return walk


def _checked(name: str, index: Tensor, limit: int) -> Tensor:
    """The integers as int32, after a look at them in the width that they have."""
    wide = index.dtype != torch.int32
    index = (index.long() if wide else index).contiguous()
    rows, length = index.shape[0] * index.shape[1], index.shape[2]
    if wrong := load()[0].check_index(index.data_ptr(), wide, rows, length, limit, name == 'order'):
        raise index_error(name, limit, repeated=wrong == 2)
    return index.to(torch.int32)


def call_source(p: ScanInputs, saved: Tensor, **tensors: Tensor | None) -> None:
    """Run forward, or backward if there is a ``grad_out``."""
    if p.u.numel() == 0:
        return
    inputs, batch, tokens, dim = p.u.shape
    states, padded = saved.shape[-2:]
    tensors |= dict(u=p.u, delta=p.delta, z=p.z, B=p.B, C=p.C, saved=saved, weights=_weights(p, states, padded))
    tensors |= dict(gap_time=p.gap_time, **_walk(p))
    if p.direction_B is not None:
        pad = states - p.direction_B.shape[1]
        tensors['direction_B'] = (F.pad(p.direction_B, (0, pad)) if pad else p.direction_B).contiguous()
    # Tensors are alive until the source returns, so pointers are safe; views have any layout, buffers are contiguous.
    fields = []
    for name in VIEWS:
        fields += _view(tensors.get(name))
    for name in BUFFERS:
        tensor = tensors.get(name)
        fields.append(0 if tensor is None else tensor.data_ptr())
    fields += (batch, dim, p.A.shape[2], tokens, padded, states, p.directions, inputs, p.A.shape[0], _together(p))
    fields += (p.permute_params, p.delta_softplus, p.delta_gap is not None)
    fields += (
        0 if p.direction_B is None else len(p.direction_B),
        *map(_batch_stride, (tensors['order'], tensors['move'])),
    )
    fields += (states * padded if p.keep_states else 0, parts_of(batch, padded), torch.get_num_threads())
    scan = (ctypes.c_int64 * len(fields))(*fields)
    library = load()[0]
    run = library.scan_double if p.u.dtype == torch.float64 else library.scan_float
    run(scan, 'grad_out' in tensors)


def _view(x: Tensor | None) -> tuple[int, ...]:
    """Pointer and strides; what all sets share has one set."""
    if x is None:
        return (0, 0, 0, 0, 0)
    strides = x.stride()
    return (x.data_ptr(), strides[0] if len(strides) == 4 and x.shape[0] > 1 else 0, *strides[-3:])


def _batch_stride(index: Tensor | None) -> int:
    """From image to image; 0 where all share one walk."""
    return 0 if index is None or index.shape[0] == 1 else index.stride(0)
