"""The multi-directional scan as Triton kernels for GPUs: operands are read in raster layout, through the walks.

`steps` holds what the kernels have in common, `arguments` what they take; `launch` calls them. Triton is
imported once a scan asks for it.
"""

from __future__ import annotations

import importlib
import os
from functools import cache

import torch
from torch import Tensor

from ..common import ScanInputs, fold_gap
from ..multi_inputs import MultiScanInputs

# Tokens between two states that forward saves for backward: a state per chunk costs 4 N / CHUNK bytes per token,
# channel and direction.
CHUNK = 64
# The oldest Triton that compiles the kernels; see docs/versions.md.
FLOOR = [3, 4]


def problem(device: torch.device | str) -> str | None:
    """Say in a few words why this backend cannot run on ``device``, or return None."""
    kind = torch.device(device).type
    if kind not in ('cuda', 'cpu'):
        return f'there is no Triton for {kind}'
    if kind == 'cpu' and not is_interpreted():
        return 'it needs a GPU, or TRITON_INTERPRET=1 from the start'
    return _problem()


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels on the CPU."""
    return os.environ.get('TRITON_INTERPRET') == '1'


problem._dynamo_marked_constant = True  # as `cpp.problem`


@cache
def _problem() -> str | None:
    return import_problem('mmssmprune.ops.backends.triton.launch')


def import_problem(kernels: str) -> str | None:
    """Say in a few words why the module ``kernels`` cannot be used with the installed Triton, or return None."""
    try:
        import triton

        if [int(part) for part in triton.__version__.split('.')[:2]] < FLOOR:
            return f'it needs Triton {FLOOR[0]}.{FLOOR[1]} or later, and {triton.__version__} is installed'
        importlib.import_module(kernels)
    except Exception as error:  # a broken Triton raises anything
        return f'Triton {FLOOR[0]}.{FLOOR[1]} or later does not import: {error}'
    return None


def multi_saved_shape(p: MultiScanInputs) -> tuple[int, ...]:
    """Shape of the saved states (B, R, chunks, D, N)."""
    _, batch, tokens, channels = p.u.shape
    return batch, p.directions, -(-tokens // CHUNK), channels, p.A.shape[-1]


def multi_forward(p: MultiScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, K, D), the sum before the gate, empty without one, and the state before each chunk."""
    from . import launch

    return launch.forward(p, CHUNK)


def multi_backward(p: MultiScanInputs, total: Tensor, saved: Tensor, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients in the order of `MultiScanInputs.tensors`; ``total`` and ``saved`` are from forward."""
    from . import launch

    return launch.backward(p, total, saved, grad_out, CHUNK)


def scan(p: ScanInputs) -> Tensor:
    """One direction over (B, D, L), differentiable in every operand."""
    return fold_gap(p, _one_direction)


def _one_direction(p: ScanInputs) -> Tensor:
    u, delta, B, C = (t.transpose(1, 2)[None] for t in (p.u, p.delta, p.B, p.C))
    D, bias = (None if t is None else t[None] for t in (p.D, p.delta_bias))
    z = None if p.z is None else p.z.transpose(1, 2)
    operands = (u, delta, p.A[None], B, C, D, z, bias, None, None, None, None, None, 1, 0, p.delta_softplus, False)
    return torch.ops.mmssmprune.multi_scan(*operands, 'triton')[0].transpose(1, 2)
