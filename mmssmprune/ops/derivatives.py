"""Derivatives beyond the first in reverse mode: torch's own, through the naive backend, which is plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad


def needs_plain_torch() -> bool:
    """Whether forward-mode AD or a transform of torch.func is at work, which operators of torch.library know not."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


needs_plain_torch._dynamo_marked_constant = True  # dynamo guards both by itself


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Turn autocast off, where the device has it: meta does not."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def gradients(
    function: Callable[..., Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    grad_outs: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Call ``function(*tensors)`` and return the gradients of its outputs, weighted by ``grad_outs``; None for None.

    They can be differentiated again where gradients are enabled, as they are under ``create_graph=True``.
    """
    again = torch.is_grad_enabled() or needs_plain_torch()
    with torch.enable_grad():
        # A view of its own for each: one tensor may be two operands.
        leaves = [
            None if t is None else t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()
            for t in tensors
        ]
        outputs = function(*leaves)
    pairs = [(y, g.to(y.dtype)) for y, g in zip(outputs, grad_outs, strict=True) if y is not None and g is not None]
    present = [t for t in leaves if t is not None]
    # A length of 0 leaves operands unused; their gradient is 0.
    found = torch.autograd.grad(
        *([y for y, _ in pairs], present, [g for _, g in pairs]),
        create_graph=again,
        allow_unused=True,
        materialize_grads=True,
    )
    grads = iter(found)
    return [None if t is None else next(grads) for t in leaves]
