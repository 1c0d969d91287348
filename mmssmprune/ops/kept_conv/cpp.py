"""The convolution in C++ for the CPU: ``kept_conv.cpp``, compiled on first use where there is a C++ compiler.

No result depends on the number of threads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .. import compile_cpp
from . import naive
from .inputs import ConvInputs, places_error

SOURCE = Path(__file__).with_name('kept_conv.cpp')
PAD = 16  # so many channels hold any vector


# ``Conv`` in the source, in its order: tensors with the strides of batch and token, then pointers, then numbers.
VIEWS = ('x', 'out', 'grad_out')
BUFFERS = ('slot', 'out_cells', 'weight', 'bias', 'rows', 'map')


def problem(device_type: str = 'cpu', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot run here, or return None. Compiles the source on the first call."""
    return _problem() if device_type == 'cpu' else 'it is for CPUs'


problem._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result does, without importing dynamo


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    library, reason = compile_cpp.load(SOURCE)
    if library is not None:
        library.is_inverse.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 4]
    return library, reason


@cache
def _problem() -> str | None:
    return _load()[1] or compile_cpp.in_fresh_thread(_wrong_result)


def _wrong_result() -> str | None:
    """Compare a small convolution and its gradients with the naive ones."""
    cells = torch.tensor([[0, 2, 3, 5, 8, 9, 11], [1, 2, 4, 6, 7, 10, 11]], device='cpu')
    tokens = torch.arange(7, dtype=torch.int32, device='cpu').expand(2, -1)
    slot = torch.full((2, 12), -1, dtype=torch.int32, device='cpu').scatter(1, cells, tokens)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        waves = [
            torch.arange(1, 1 + torch.Size(s).numel(), dtype=dtype, device='cpu').sin().view(s)
            for s in ((2, 7, 67), (67, 1, 3, 7), (67,))
        ]
        p = ConvInputs(*waves, cells, slot, cells, slot, 3, 4, -1, -2)
        grad_out = waves[0].cos()
        expected = [naive.forward(p), *naive.backward(p, grad_out)]
        for got, want in zip([forward(p), *backward(p, grad_out)], expected, strict=True):
            if not (got - want).abs().max() <= tolerance * want.abs().max():
                return f'it computes wrong {dtype} values on this CPU'
    return None


def check_places(p: ConvInputs) -> None:
    """As `ConvInputs.check_places`, faster."""
    for name, cells, slot_name, slot in p.places():
        wide = slot.dtype != torch.int32
        cells, slot = cells.long().contiguous(), (slot.long() if wide else slot).contiguous()
        if not _load()[0].is_inverse(cells.data_ptr(), slot.data_ptr(), wide, *cells.shape, slot.shape[1]):
            raise places_error(name, slot_name, slot.shape[1])


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C)."""
    out = p.x.new_empty(p.out_shape, dtype=p.compute_dtype)
    _call(
        p, p.weight.to(out.dtype).contiguous(), None if p.bias is None else p.bias.to(out.dtype).contiguous(), out=out
    )
    return out.to(p.x.dtype)


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    dy = grad_out.to(p.compute_dtype)
    dweight, dbias = dy.new_zeros(p.weight.shape), dy.new_zeros(p.x.shape[2])
    _call(p, dweight, dbias, grad_out=dy)
    return p.grads(forward(p.adjoint(dy)), dweight, dbias)


def _call(p: ConvInputs, weight: Tensor, bias: Tensor | None, **tensors: Tensor) -> None:
    p = p.with_cells()
    (batch, tokens, channels), (kh, kw) = p.x.shape, weight.shape[2:]
    if p.out_cells.numel() * channels == 0:
        return
    padded = -(-channels // PAD) * PAD
    tensors |= {'x': p.x.to(weight.dtype), 'weight': weight, 'rows': weight.new_empty((kh * kw + 2) * padded)}
    tensors |= {'slot': p.slot.to(torch.int32).contiguous(), 'out_cells': p.out_cells.to(torch.int64).contiguous()}
    tensors['map'] = p.slot.new_empty(batch * (p.height + kh - 1) * (p.width + kw - 1), dtype=torch.int64)
    for name in VIEWS:
        if name in tensors and tensors[name].stride(2) != 1:
            tensors[name] = tensors[name].contiguous()
    if bias is not None:
        tensors['bias'] = bias
    fields = []
    for name in VIEWS:
        fields += (tensors[name].data_ptr(), *tensors[name].stride()[:2]) if name in tensors else (0, 0, 0)
    fields += (tensors[name].data_ptr() if name in tensors else 0 for name in BUFFERS)
    fields += (batch, tokens, p.out_cells.shape[1], channels, padded, p.height, p.width, kh, kw, p.top, p.left)
    conv = (ctypes.c_int64 * (len(fields) + 1))(*fields, torch.get_num_threads())
    library = _load()[0]
    run = library.kept_conv_double if weight.dtype == torch.float64 else library.kept_conv_float
    run(conv)
