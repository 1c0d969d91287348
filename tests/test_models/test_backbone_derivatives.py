"""Whole backbones in forward mode and differentiated twice, against finite differences."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import PRUNING, make

STEP = 1e-6


@pytest.mark.parametrize('pruning', [None, PRUNING], ids=['dense', 'pruned'])
@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls', 'vim_seg'])
def test_forward_mode_of_a_backbone(kind, pruning):
    model = make(kind, pruning=pruning).double()
    x, direction = (torch.randn(2, 3, 64, 64, dtype=torch.float64) for _ in range(2))
    out, tangent = torch.func.jvp(lambda x: model(x)[-1], (x,), (direction,))
    with torch.no_grad():
        torch.testing.assert_close(out, model(x)[-1])
        found = (model(x + STEP * direction)[-1] - model(x - STEP * direction)[-1]) / (2 * STEP)
    assert (tangent - found).norm() < 1e-6 * found.norm()


def test_second_order_gradients_of_a_pruned_backbone():
    """At batch size 2: with one image torch 2.13 gets batch norm wrong, whose gradient then is a transposed view."""
    model = make('plain_mamba', pruning=PRUNING).double()
    x, direction = (torch.randn(2, 3, 64, 64, dtype=torch.float64) for _ in range(2))
    weight = torch.randn_like(model(x)[-1])

    def gradient(x: torch.Tensor, **options) -> torch.Tensor:
        return torch.autograd.grad((model(x)[-1] * weight).sin().sum(), x, **options)[0]

    leaf = x.clone().requires_grad_()
    (product,) = torch.autograd.grad((gradient(leaf, create_graph=True) * direction).sum(), leaf)
    ahead, behind = (gradient((x + step * direction).requires_grad_()) for step in (STEP, -STEP))
    found = (ahead - behind) / (2 * STEP)
    assert (product - found).norm() < 1e-5 * found.norm()
