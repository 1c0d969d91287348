"""The multi-directional scan as Triton kernels for GPUs: operands are read in raster layout, through the walks.

Triton is imported once a scan asks for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..load_triton import problem_of
from .common import ScanInputs, fold_gap
from .inputs import MultiScanInputs

# Tokens between two states that forward saves for backward: a state per chunk costs 4 N / CHUNK bytes per token,
# channel and direction.
CHUNK = 64


def problem(device_type: str = 'cuda', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot compute in ``dtype`` on a device, or return None."""
    return problem_of('mmssmprune.ops.scan.triton_kernels', device_type, dtype)


problem._dynamo_marked_constant = True  # as `cpp.problem`


def multi_saved_shape(p: MultiScanInputs) -> tuple[int, ...]:
    """Shape of the saved states (B, R, chunks, D, N)."""
    _, batch, tokens, channels = p.u.shape
    return batch, p.directions, -(-tokens // CHUNK), channels, p.A.shape[-1]


def multi_forward(p: MultiScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D), the sum before the gate, empty without one, and the state before each chunk."""
    from . import triton_kernels

    return triton_kernels.forward(p, CHUNK)


def multi_backward(p: MultiScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `MultiScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    from . import triton_kernels

    return triton_kernels.backward(p, total, saved, grad_out, CHUNK)


def scan(p: ScanInputs) -> Tensor:
    """One direction over (B, D, L), differentiable in every operand."""
    return fold_gap(p, _one_direction)


def _one_direction(p: ScanInputs) -> Tensor:
    u, delta, B, C = (t.transpose(1, 2)[None] for t in (p.u, p.delta, p.B, p.C))
    D, bias = (None if t is None else t[None] for t in (p.D, p.delta_bias))
    z = None if p.z is None else p.z.transpose(1, 2)
    operands = (u, delta, p.A[None], B, C, D, z, bias, None, None, None, None, None, 1, 0, p.delta_softplus, False)
    return torch.ops.mmssmprune.multi_scan(*operands, 'triton')[0].transpose(1, 2)
