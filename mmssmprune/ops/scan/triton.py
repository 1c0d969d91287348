"""The scan as Triton kernels for GPUs: operands are read in raster layout, through the walks.

Triton is imported once a scan asks for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..load_triton import problem_of
from .inputs import ScanInputs

# Tokens between two states that forward saves for backward: a state per chunk costs 4 N / CHUNK bytes per token,
# channel and direction.
CHUNK = 64


def problem(device_type: str = 'cuda', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot compute in ``dtype`` on a device, or return None."""
    return problem_of('mmssmprune.ops.scan.triton_kernels', device_type, dtype)


problem._dynamo_marked_constant = True  # as `cpp.problem`


def unfilled(p: ScanInputs) -> tuple[Tensor, Tensor]:
    """What `forward` saves: the sum before the gate, empty without one, and the states (B, R, chunks, D, N)."""
    _, batch, tokens, channels = p.u.shape
    total = p.u.new_empty(0 if p.z is None else p.z.shape)
    states = (batch, p.directions, -(-tokens // CHUNK), channels, p.A.shape[-1])
    return total, p.u.new_empty(states, dtype=torch.float32)


def forward(p: ScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D) and what `unfilled` describes."""
    from . import triton_kernels

    return triton_kernels.forward(p, CHUNK)


def backward(p: ScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `ScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    from . import triton_kernels

    return triton_kernels.backward(p, total, saved, grad_out, CHUNK)
