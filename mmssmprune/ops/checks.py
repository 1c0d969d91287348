"""What the operators ask of their operands beyond shapes, and which tensors can be looked into for it."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def check_kind(name: str, tensor: Tensor, device: torch.device, integer: bool = False) -> None:
    """Raise ValueError unless the operand ``name`` is real (or ``integer``) and on ``device``, as the first one is."""
    if tensor.dtype not in (INTEGERS if integer else FLOATS):
        raise ValueError(f'{name} must be {"an integer" if integer else "a floating-point"} tensor, got {tensor.dtype}')
    if tensor.device != device:
        raise ValueError(f'{name} must be on {device} as the other operands are, got {tensor.device}')


def can_be_read(tensor: Tensor) -> bool:
    """Whether looking at values is possible and waits for no device: a true tensor on a CPU, one of no vmap."""
    return (
        tensor.device.type == 'cpu'
        and type(tensor) is Tensor
        and not torch._C._functorch.is_batchedtensor(tensor)
        and not torch.compiler.is_compiling()
    )
