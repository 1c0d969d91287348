"""The Triton kernels against the naive scan: on a GPU, or by Triton's interpreter in a process with TRITON_INTERPRET=1.

`test_triton_backend.py` starts such a process; in any other one without a GPU there is nothing to run here.
"""

from __future__ import annotations

import os

import pytest
import torch
from multi_operands import assert_equals_naive, multi_operands, rounded
from scan_operands import assert_same, grads_of, scan_operands

from mmssmprune.ops import multi_scan, selective_scan
from mmssmprune.ops.scan import triton
from mmssmprune.ops.scan.selective_scan import run_scan

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() and not INTERPRETED else 'cpu'
pytestmark = pytest.mark.skipif(
    triton.problem(DEVICE) is not None, reason=f'no Triton kernels in this process: {triton.problem(DEVICE)}'
)
ON_GPU = pytest.mark.skipif(DEVICE != 'cuda', reason='real shapes need a GPU')
# The interpreter takes seconds for each: without a GPU the quick tests have one way through every kernel.
SLOW = [pytest.mark.slow] if INTERPRETED else []

CASES = {
    'snakes': dict(hw_shape=(2, 3)),
    'snakes pruned': dict(kept=5),
    'snakes pruned carry': dict(kept=6, given_gap=False, without=('delta_bias',)),
    'sequence': dict(walk='sequence', own_parameters=True, hw_shape=(1, 7)),
    'sequence pruned': dict(walk='sequence', own_parameters=True, kept=5, batch=2),
    'snakes own parameters': dict(own_parameters=True, kept=5),
    'one input': dict(own_parameters=True, one_input=True, kept=5),
    'bare': dict(hw_shape=(3, 2), d_state=1, without=('D', 'z', 'delta_bias', 'direction_B')),
    'one token': dict(hw_shape=(1, 1), dim=1),
    'lines, one state': dict(walk='lines', own_parameters=True, one_input=True, hw_shape=(2, 3), d_state=1),
    'lines pruned': dict(walk='lines', own_parameters=True, one_input=True, d_state=1, kept=5, without=('z',)),
}
# Of the interpreter's quick tests, by case: which have their walks cut into chunks, and which have them whole.
QUICK_APART = ('snakes pruned', 'sequence', 'bare', 'one token')
QUICK_WHOLE = ('snakes', 'snakes pruned carry', 'sequence pruned', 'one input', 'one token')
EVERY_CASE = [
    pytest.param(case, apart, id=f'{case}-{"chunks apart" if apart else "whole walks"}', marks=[] if quick else SLOW)
    for case in CASES
    for apart, quick in ((False, case in QUICK_WHOLE), (True, case in QUICK_APART))
]


@pytest.fixture
def launch(monkeypatch):
    """Small blocks, so that tiny operands have several blocks of channels and several chunks."""
    from mmssmprune.ops.scan import triton_kernels as launch

    if INTERPRETED:
        monkeypatch.setattr(triton, 'CHUNK', 4)
        for name in ('FORWARD', 'BACKWARD'):
            monkeypatch.setattr(launch, name, getattr(launch, name)._replace(states=16))
    return launch


def cut(launch, monkeypatch, apart: bool) -> None:
    monkeypatch.setattr(launch, 'ENOUGH_PROGRAMS', 10**9 if apart else 0)


@pytest.mark.parametrize(('case', 'apart'), EVERY_CASE)
def test_equals_naive(case, apart, launch, monkeypatch, poisoned_memory):
    cut(launch, monkeypatch, apart)
    leaves, options = multi_operands(**{'batch': 1, 'hw_shape': (3, 3), 'dim': 3, **CASES[case]})
    assert_equals_naive(leaves, options, 'triton', 2e-6, torch.float32, DEVICE)


@pytest.mark.parametrize(('batch', 'hw_shape'), [(1, (2, 3)), pytest.param(2, (3, 5), marks=SLOW)])
def test_equals_naive_at_odd_sizes(batch, hw_shape, launch, monkeypatch, poisoned_memory):
    """Blocks of channels and chunks that are not full."""
    cut(launch, monkeypatch, False)
    leaves, options = multi_operands(batch, hw_shape, 5, 3)
    assert_equals_naive(leaves, options, 'triton', 2e-6, torch.float32, DEVICE)


@pytest.mark.parametrize('apart', [False, pytest.param(True, marks=SLOW)], ids=['whole walks', 'chunks apart'])
def test_equals_naive_with_everything_permuted(apart, launch, monkeypatch, poisoned_memory):
    """Four directions that share their parameters but not the places where they read them."""
    cut(launch, monkeypatch, apart)
    leaves, options = multi_operands(1, (2, 3), 3, 2, kept=5)
    assert_equals_naive(leaves, {**options, 'param_order': 'scan'}, 'triton', 2e-6, torch.float32, DEVICE)


@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=SLOW)])
def test_half_precision_operands_and_results(dtype, launch, monkeypatch, poisoned_memory):
    """Only results are rounded: the reference has the same rounded operands."""
    cut(launch, monkeypatch, False)
    leaves, options = multi_operands(1, (2, 2), 3, 2)
    rtol = 2 * torch.finfo(dtype).eps
    assert_equals_naive(leaves, options, 'triton', rtol, dtype, DEVICE)


def test_reads_any_layout(launch, monkeypatch):
    """Slices of a projection, channels that are not adjacent, an image expanded to a batch, int32 walks."""
    cut(launch, monkeypatch, False)
    leaves, options = multi_operands(2, (2, 3), 3, 2, kept=4)
    leaves = rounded(leaves, torch.float32, DEVICE)
    views = dict(leaves)
    wide = torch.cat([leaves['B'], leaves['C'], leaves['B']], dim=-1).detach().requires_grad_()
    views['B'], views['C'] = wide[..., :2], wide[..., 2:4]
    views['u'] = leaves['u'].detach().transpose(2, 3).contiguous().transpose(2, 3)
    views['z'] = leaves['z'][:1].detach().expand(2, -1, -1)
    options = {n: t.to(DEVICE, torch.int32) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    out, expected = (multi_scan(**views, **options, backend=name) for name in ('triton', 'naive'))
    weight = torch.randn_like(out)
    both = {'wide': wide, 'delta': leaves['delta']}
    assert_same(
        {'out': out, **grads_of(out, both, weight)}, {'out': expected, **grads_of(expected, both, weight)}, 2e-6
    )


@pytest.mark.parametrize('apart', [pytest.param(True, marks=SLOW)], ids=['chunks apart'])
def test_two_runs_are_equal_bit_for_bit(apart, launch, monkeypatch):
    cut(launch, monkeypatch, apart)
    leaves, options = multi_operands(1, (2, 3), 2, 1)
    leaves = rounded(leaves, torch.float32, DEVICE)
    runs = []
    for _ in range(2):
        out = multi_scan(**leaves, **options, backend='triton')
        runs.append([out, *grads_of(out, leaves, torch.ones_like(out)).values()])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_operator_passes_opcheck(launch, monkeypatch):
    cut(launch, monkeypatch, False)
    leaves, _ = multi_operands(1, (1, 2), 2, 1)
    leaves = rounded(leaves, torch.float32, DEVICE)
    operands = [leaves.get(n) for n in ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'direction_B')]
    rest = (None, None, None, None, 4, 2, False, True, False, 'triton')
    torch.library.opcheck(
        torch.ops.mmssmprune.multi_scan.default, (*operands, *rest), test_utils=('test_schema', 'test_faketensor')
    )


@pytest.mark.parametrize('size', [0.0, 60.0, 3e4])
def test_step_sizes_far_out_are_finite(size, launch, monkeypatch):
    cut(launch, monkeypatch, False)
    leaves, options = multi_operands(1, (1, 3), 2, 2, walk='sequence')
    leaves = rounded(leaves, torch.float32, DEVICE)
    leaves['delta'] = (
        torch.tensor([size, -size, size], device=DEVICE).view(1, 1, 3, 1).repeat(1, 1, 1, 2).requires_grad_()
    )
    results = []
    for name in ('triton', 'naive'):
        out = multi_scan(**leaves, **options, backend=name)
        results.append({'out': out, **grads_of(out, leaves, torch.ones_like(out))})
    assert all(t.isfinite().all() for t in results[0].values())
    assert_same(*results, rtol=1e-5)


@pytest.mark.parametrize('batch', [0, 1])
def test_no_tokens(batch, launch):
    leaves, options = multi_operands(1, (1, 2), 2, 2, walk='sequence')
    leaves = rounded(leaves, torch.float32, DEVICE)
    leaves |= {n: leaves[n][:, :batch, :0] for n in ('u', 'delta', 'B', 'C')}
    leaves['z'] = leaves['z'][:batch, :0]
    out = multi_scan(**leaves, **options, backend='triton')
    assert out.shape == (batch, 0, 2)
    grads = grads_of(out, leaves, out)
    assert (grads['A'] == 0).all()


@pytest.mark.parametrize('softplus', [True, False])
def test_single_scan_with_and_without_a_gap(softplus, launch, monkeypatch):
    cut(launch, monkeypatch, False)
    leaves = {n: t.detach().float().to(DEVICE) for n, t in scan_operands(1, 3, 2, 5).items()}
    leaves['delta'] = leaves['delta'].abs()
    leaves['gap_time'] = torch.rand(1, 3, 5, device=DEVICE)
    leaves = {n: t.requires_grad_() for n, t in leaves.items()}
    outs = [run_scan(*leaves.values(), softplus, name) for name in ('triton', 'naive')]
    weight = torch.randn_like(outs[0])
    assert_same({'out': outs[0]}, {'out': outs[1]}, 2e-6)
    assert_same(*(grads_of(out, leaves, weight) for out in outs), rtol=5e-6)
    del leaves['gap_time'], leaves['z']
    outs = [selective_scan(**leaves, delta_softplus=softplus, backend=name) for name in ('triton', 'naive')]
    assert_same({'out': outs[0]}, {'out': outs[1]}, 2e-6)


@ON_GPU
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kept', [None, 0.7])
@pytest.mark.parametrize(
    ('walk', 'batch', 'hw_shape'),
    [('snakes', 2, (50, 84)), ('snakes', 64, (14, 14)), ('sequence', 8, (1, 197)), ('lines', 2, (50, 84))],
)
def test_equals_naive_at_real_shapes(walk, batch, hw_shape, kept, dtype, poisoned_memory):
    kept = kept and int(kept * hw_shape[0] * hw_shape[1])
    batch = min(batch, 4) if kept is None else batch
    leaves, options = multi_operands(batch, hw_shape, 384, 16, walk=walk, own_parameters=walk != 'snakes', kept=kept)
    rtol = 1e-4 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert_equals_naive(leaves, options, 'triton', rtol, dtype, DEVICE)
