"""Second-order gradients, forward mode and the transforms of torch.func: by finite differences, in every backend."""

from __future__ import annotations

import pytest
import torch
from kept_conv_operands import draw_cells
from multi_operands import multi_operands
from scan_operands import FAST, scan_operands
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from mmssmprune.ops import aligned_selective_scan, kept_conv, multi_scan, selective_scan

BACKENDS = ['naive', *FAST]
OPERATORS = ['selective_scan', 'aligned_selective_scan', 'multi_scan', 'multi_scan of Vim', 'kept_conv']


def bound(name: str, backend: str | None):
    """A function of float64 leaves alone, and the leaves."""
    options, scan = {}, scan_operands(1, 1, 2, 3)
    if name == 'selective_scan':
        function, leaves, options = selective_scan, scan, {'delta_softplus': True}
    elif name == 'aligned_selective_scan':
        function, leaves = aligned_selective_scan, {n: scan[n] for n in 'ABCDu'}
        leaves |= {'delta': torch.rand_like(scan['u']) + 0.1, 'delta_gap': torch.rand_like(scan['D'])}
        leaves['gap'] = torch.tensor([[1, 0, 2.5]], dtype=torch.float64)
    elif name == 'multi_scan':
        function, (leaves, options) = multi_scan, multi_operands(1, (2, 2), 1, 1, kept=3)
    elif name == 'multi_scan of Vim':
        function, (leaves, options) = multi_scan, multi_operands(1, (1, 3), 1, 1, walk='sequence', own_parameters=True)
    else:
        cells, slot = draw_cells(1, 6, 3)
        function, options = kept_conv, dict(cells=cells, slot=slot, hw_shape=(2, 3), origin=(-1, -1))
        leaves = {'x': torch.randn(1, 3, 2), 'weight': torch.randn(2, 1, 3, 2), 'bias': torch.randn(2)}
    leaves = {n: t.detach().double().requires_grad_() for n, t in leaves.items()}
    return lambda *tensors: function(**dict(zip(leaves, tensors, strict=True)), **options, backend=backend), tuple(
        leaves.values()
    )


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', OPERATORS)
def test_second_order_gradients(name, backend):
    assert gradgradcheck(*bound(name, backend), fast_mode=True)


@pytest.mark.parametrize('name', OPERATORS)
def test_forward_mode(name):
    assert gradcheck(*bound(name, 'torch'), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(*bound(name, None), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize('name', OPERATORS)
def test_transforms_of_torch_func(name):
    function, leaves = bound(name, None)
    leaves, numbers = tuple(t.detach() for t in leaves), tuple(range(len(leaves)))
    want = torch.autograd.functional.jacobian(function, leaves)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        for got, expected in zip(transform(function, numbers)(*leaves), want, strict=True):
            torch.testing.assert_close(got, expected)
    batch = torch.vmap(function)(*(torch.stack([t, 2 * t]) for t in leaves))
    torch.testing.assert_close(batch[0], function(*leaves))

    def square(*tensors):
        return function(*tensors).square().sum()

    found = torch.func.hessian(square)(*leaves)  # forward over reverse, both of torch.func
    torch.testing.assert_close(found, torch.autograd.functional.hessian(lambda t: square(t, *leaves[1:]), leaves[0]))


@pytest.mark.parametrize('name', OPERATORS)
def test_forward_mode_through_a_backward_pass(name):
    """A tangent that comes in with the gradient of the output, long after the forward pass."""
    function, leaves = bound(name, None)
    out = function(*leaves)
    weight, tangent = torch.randn_like(out), torch.randn_like(out)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, tangent)
        grads = torch.autograd.grad(out, leaves, dual, retain_graph=True)
        found = [forward_ad.unpack_dual(g).tangent for g in grads]
    torch.testing.assert_close(found, list(torch.autograd.grad(out, leaves, tangent)))


def test_third_order_gradients():
    function, leaves = bound('selective_scan', None)

    def second(*tensors):
        (first,) = torch.autograd.grad(function(*tensors).pow(3).sum(), tensors[1], create_graph=True)
        return torch.autograd.grad(first.square().sum(), tensors[3], create_graph=True)[0]

    assert gradcheck(second, leaves, fast_mode=True)


def test_one_tensor_as_two_operands():
    _, (u, _, A, B, *_) = bound('selective_scan', None)
    assert gradgradcheck(lambda u, B: selective_scan(u, u, A, B, B), (u, B), fast_mode=True)


def test_half_precision_comes_back_from_every_mode():
    x, weight = torch.randn(1, 4, 3).bfloat16(), torch.randn(3, 1, 1, 2)
    function = lambda x: kept_conv(x, weight, hw_shape=(1, 4), origin=(0, -1))  # noqa: E731
    out, tangent = torch.func.jvp(function, (x,), (x,))
    assert out.dtype == tangent.dtype == torch.bfloat16
    torch.testing.assert_close(tangent, out)  # it is linear in x


@pytest.mark.parametrize('name', ['selective_scan', 'aligned_selective_scan', 'multi_scan of Vim'])
def test_shapes_alone_have_second_order_gradients_too(name):
    """On the device meta, which knows no autocast."""
    function, leaves = bound(name, None)
    leaves = [t.detach().to('meta').requires_grad_() for t in leaves]
    first = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(first[0].sum(), leaves[1])
    assert second[0].shape == leaves[1].shape
