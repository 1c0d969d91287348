"""The convolution as Triton kernels for GPUs; Triton is imported once a convolution asks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..load_triton import problem_of
from .inputs import ConvInputs


def problem(device_type: str = 'cuda', dtype: torch.dtype = torch.float32) -> str | None:
    """Say in a few words why this backend cannot compute in ``dtype`` on a device, or return None."""
    return problem_of('mmssmprune.ops.kept_conv.triton_kernels', device_type, dtype)


problem._dynamo_marked_constant = True  # as `cpp.problem`


def forward(p: ConvInputs) -> Tensor:
    """Return the output (B, K, C)."""
    from . import triton_kernels

    return triton_kernels.forward(p)


def backward(p: ConvInputs, grad_out: Tensor) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias."""
    from . import triton_kernels

    return triton_kernels.backward(p, grad_out)
