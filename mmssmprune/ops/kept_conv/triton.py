"""The convolution as Triton kernels for GPUs; Triton is imported once a convolution asks for it."""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

from ..backends.triton import import_problem
from .inputs import ConvInputs


def problem(device: torch.device | str) -> str | None:
    """Say in a few words why this backend cannot run on ``device``, or return None."""
    kind = torch.device(device).type
    if kind not in ('cuda', 'cpu'):
        return f'there is no Triton for {kind}'
    if kind == 'cpu' and os.environ.get('TRITON_INTERPRET') != '1':
        return 'it needs a GPU, or TRITON_INTERPRET=1 from the start'
    return _problem()


problem._dynamo_marked_constant = True  # as `cpp.problem`


@cache
def _problem() -> str | None:
    return import_problem('mmssmprune.ops.kept_conv.triton_kernels')


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C)."""
    from . import triton_kernels

    return triton_kernels.forward(p)


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    from . import triton_kernels

    return triton_kernels.backward(p, grad_out)
