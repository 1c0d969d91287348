"""The proof of the method: the compact aligned scan equals the scan over all cells with pruned inputs at zero."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scan_operands import FAST, assert_same, grads_of, scan_operands

from mmssmprune.ops import aligned_selective_scan, selective_scan

LENGTH = 23
KEPT = {
    'random': [1, 2, 5, 9, 10, 17, 20],
    'all': list(range(LENGTH)),
    'none but one': [11],
    'first and last': [0, LENGTH - 1],
    'first half': list(range(LENGTH // 2)),
    'second half': list(range(LENGTH // 2, LENGTH)),
}


def gaps(kept: list[int]) -> torch.Tensor:
    return torch.tensor([k - p - 1 for p, k in zip([-1, *kept[:-1]], kept, strict=True)])


@pytest.mark.parametrize('per_token', [True, False], ids=['delta_gap per token', 'delta_gap per channel'])
@pytest.mark.parametrize('backend', ['naive', *FAST])
@pytest.mark.parametrize('which', KEPT)
def test_equals_full_length_masked_scan(which, backend, per_token):
    batch, dim, d_state = 2, 3, 4
    rows = [KEPT[which], [LENGTH - 1 - k for k in reversed(KEPT[which])]]  # another pattern per image
    index = torch.tensor(rows)
    gap = torch.stack([gaps(row) for row in rows])
    leaves = scan_operands(batch, dim, d_state, len(rows[0]))
    del leaves['z'], leaves['delta_bias']
    leaves['delta'] = F.softplus(leaves['delta']).detach().requires_grad_()
    shape = (batch, dim, len(rows[0])) if per_token else (dim,)
    leaves['delta_gap'] = torch.rand(*shape, dtype=torch.float64).requires_grad_()
    compact = aligned_selective_scan(**leaves, gap=gap, backend=backend)
    full = full_length(leaves, index, gap)
    weight = torch.randn_like(compact)
    assert_same({'out': compact}, {'out': full})
    assert_same(grads_of(compact, leaves, weight), grads_of(full, leaves, weight), rtol=1e-11)


def full_length(leaves: dict, index: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """Spread the kept tokens over all cells, put delta_gap on the pruned ones, scan everything, pick the kept ones."""

    def spread(x: torch.Tensor) -> torch.Tensor:
        at = index[:, None].expand(-1, x.shape[1], -1)
        return x.new_zeros(*x.shape[:2], LENGTH).scatter(2, at, x)

    delta = spread(leaves['delta'])
    delta_gap = (
        leaves['delta_gap'] if leaves['delta_gap'].dim() == 3 else leaves['delta_gap'][:, None].expand_as(leaves['u'])
    )
    for b in range(len(index)):
        for k, (cell, pruned) in enumerate(zip(index[b].tolist(), gap[b].tolist(), strict=True)):
            before = torch.zeros_like(delta)
            before[b, :, cell - pruned : cell] = 1
            delta = delta + before * delta_gap[b, :, k, None]
    y = selective_scan(
        spread(leaves['u']), delta, leaves['A'], spread(leaves['B']), spread(leaves['C']), leaves['D'], backend='naive'
    )
    return y.gather(2, index[:, None].expand(-1, y.shape[1], -1))


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_gap_of_zero_is_the_plain_scan_bit_for_bit(backend):
    leaves = scan_operands(2, 3, 4, 9)
    del leaves['z'], leaves['delta_bias']
    gap = torch.zeros(2, 9, dtype=torch.long)
    delta_gap = torch.rand(3, dtype=torch.float64)
    aligned = aligned_selective_scan(**leaves, gap=gap, delta_gap=delta_gap, backend=backend)
    assert torch.equal(aligned, selective_scan(**leaves, backend=backend))


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_a_step_of_no_time_at_all_is_finite_with_gradients(backend):
    leaves = scan_operands(2, 3, 4, 9)
    del leaves['z'], leaves['delta_bias']
    leaves['delta'] = torch.zeros(2, 3, 9, dtype=torch.float64, requires_grad=True)
    leaves['delta_gap'] = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    out = aligned_selective_scan(**leaves, gap=torch.ones(2, 9, dtype=torch.long), backend=backend)
    grads = grads_of(out, leaves, torch.randn_like(out))
    assert torch.equal(out, leaves['D'][:, None] * leaves['u'])
    assert all(g.isfinite().all() for g in grads.values())
    assert grads['delta'].abs().max() > 0  # the derivative at zero is B u, not 0


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_a_float_gap_carries_its_gradient(backend):
    leaves = scan_operands(1, 2, 3, 6)
    del leaves['z'], leaves['delta_bias']
    leaves['delta'] = F.softplus(leaves['delta']).detach().requires_grad_()
    leaves['gap'] = torch.tensor([[0.0, 2, 0, 3, 1, 0]], dtype=torch.float64, requires_grad=True)
    leaves['delta_gap'] = torch.rand(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *t: aligned_selective_scan(**dict(zip(leaves, t, strict=True)), backend=backend),
        tuple(leaves.values()),
    )


def test_wrong_shapes():
    leaves = scan_operands(2, 3, 4, 9)
    del leaves['z'], leaves['delta_bias']
    with pytest.raises(ValueError, match=r'gap must be \(B, K\) = \(2, 9\)'):
        aligned_selective_scan(**leaves, gap=torch.zeros(2, 8), delta_gap=torch.zeros(3))
    with pytest.raises(ValueError, match=r'delta_gap must be \(D,\) or'):
        aligned_selective_scan(**leaves, gap=torch.zeros(2, 9), delta_gap=torch.zeros(3, 9))
    with pytest.raises(ValueError, match='delta_gap must have D = 3'):
        aligned_selective_scan(**leaves, gap=torch.zeros(2, 9), delta_gap=torch.zeros(4))
