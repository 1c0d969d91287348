"""Random operands of a selective scan, and the backends to try them on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmssmprune.ops.scan import cpp

NO_CPP = pytest.mark.skipif(cpp.problem() is not None, reason=f'no cpp backend: {cpp.problem()}')
# The fast backends of a CPU, each of which has to equal the naive one.
FAST = ['torch', pytest.param('cpp', marks=NO_CPP)]


def scan_operands(batch: int, dim: int, d_state: int, length: int, dtype=torch.float64) -> dict[str, Tensor]:
    """All operands as leaves that require gradients."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    operands = {
        'u': draw(batch, dim, length),
        'delta': draw(batch, dim, length),
        'A': -0.1 - 3 * torch.rand(dim, d_state, dtype=dtype),
        'B': draw(batch, d_state, length),
        'C': draw(batch, d_state, length),
        'D': draw(dim),
        'z': draw(batch, dim, length),
        'delta_bias': draw(dim),
    }
    return {name: t.requires_grad_() for name, t in operands.items()}


def grads_of(out: Tensor, leaves: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Gradients of sum(out * weight) by name."""
    found = torch.autograd.grad((out * weight).sum(), list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-12) -> None:
    """Compare tensors by name, relative to the largest value of each."""
    for name, want in expected.items():
        scale = max(want.abs().max().item(), 1e-300) if want.numel() else 1
        error = (actual[name] - want).abs().max().item() / scale if want.numel() else 0
        assert error <= rtol, f'{name}: relative error {error:.3g}'


def rounded(
    leaves: dict[str, Tensor], dtype: torch.dtype, device: str = 'cpu', parameters: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The leaves in ``dtype``, parameters in float32 at least, as autocast has them."""
    wide = torch.promote_types(dtype, torch.float32)
    dtypes = {name: wide if name in parameters else dtype for name in leaves}
    return {name: t.detach().to(device, dtypes[name]).requires_grad_() for name, t in leaves.items()}


def assert_equals_reference(
    operator: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    options: dict,
    rtol: float,
) -> Tensor:
    """Compare output and every gradient with those of a reference, which gets the same operands in float64."""
    exact = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    device, dtype = next((t.device, t.dtype) for t in leaves.values())
    options = {name: t.to(device) if isinstance(t, Tensor) else t for name, t in options.items()}
    out, expected = operator(**leaves, **options), reference(**exact, **options)
    assert out.dtype == dtype
    weight = torch.randn_like(expected).to(dtype)
    grads = grads_of(out, leaves, weight)
    assert all(grads[name].dtype == leaves[name].dtype for name in leaves)
    assert_same({'out': out}, {'out': expected}, rtol)
    assert_same(grads, grads_of(expected, exact, weight.double()), rtol)
    return out
