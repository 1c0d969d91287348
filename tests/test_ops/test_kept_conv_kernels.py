"""The Triton kernels of the convolution: on a GPU, or by Triton's interpreter in a process with TRITON_INTERPRET=1.

`test_kept_conv_triton.py` starts such a process; in any other one without a GPU there is nothing to run here.
"""

from __future__ import annotations

import os

import pytest
import torch
from kept_conv_operands import CASES, assert_equals_whole_grid, conv_operands, draw_cells, rounded
from scan_operands import assert_same, grads_of

from mmssmprune.ops import kept_conv
from mmssmprune.ops.kept_conv import CONV_BACKENDS, triton

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() and not INTERPRETED else 'cpu'
pytestmark = pytest.mark.skipif(
    triton.problem(DEVICE) is not None, reason=f'no Triton kernels in this process: {triton.problem(DEVICE)}'
)
ON_GPU = pytest.mark.skipif(DEVICE != 'cuda', reason='real shapes need a GPU')
# The interpreter takes seconds for each, and others of the quick tests go the same way through the kernels.
SLOW = [pytest.mark.slow] if INTERPRETED else []
SLOW_CASES = ('PlainMamba, nothing pruned', 'PlainMamba dense', 'one cell')


@pytest.mark.parametrize('case', [pytest.param(c, marks=SLOW if c in SLOW_CASES else []) for c in CASES])
def test_equals_the_whole_grid(case, poisoned_memory):
    leaves, options = conv_operands(case, batch=1 if 'PlainMamba' in case else 2)
    assert_equals_whole_grid(leaves, options, 'triton', 2e-6, torch.float32, DEVICE)


@pytest.mark.parametrize('programs', [pytest.param(1, marks=SLOW), 12, pytest.param(10**9, marks=SLOW)])
def test_sums_do_not_depend_on_how_the_work_is_cut(programs, monkeypatch, poisoned_memory):
    """Several blocks of outputs and of channels; all in one part, some parts of several blocks, a part for each."""
    from mmssmprune.ops.kept_conv import triton_kernels

    if INTERPRETED:
        monkeypatch.setattr(triton_kernels, 'OUTPUTS', 8)
        monkeypatch.setattr(triton_kernels, 'CHANNELS', 16)
    monkeypatch.setattr(triton_kernels, 'PROGRAMS', programs)
    leaves, options = conv_operands('wide, at other cells', batch=2)
    assert_equals_whole_grid(leaves, options, 'triton', 2e-6, torch.float32, DEVICE)


@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=SLOW)])
def test_half_precision_operands_and_results(dtype, poisoned_memory):
    leaves, options = conv_operands('wide, at other cells')
    assert_equals_whole_grid(leaves, options, 'triton', torch.finfo(dtype).eps, dtype, DEVICE)


def test_reads_any_layout():
    """Channels that are not adjacent, an image expanded to a batch, int64 slots, an expanded gradient."""
    leaves, options = conv_operands('3x3')
    leaves = rounded(leaves, torch.float32, DEVICE)
    leaves['x'] = torch.randn(1, 3, 13, device=DEVICE, requires_grad=True)
    x = leaves['x'].transpose(1, 2).expand(3, -1, -1)
    options = {n: t.to(DEVICE, torch.int64) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    outs = [kept_conv(**{**leaves, 'x': x}, **options, backend=name) for name in ('triton', 'naive')]
    ones = torch.ones((), device=DEVICE)
    assert_same({'out': outs[0]}, {'out': outs[1]}, 2e-6)
    assert_same(*(grads_of(out, leaves, ones) for out in outs), 2e-6)


@pytest.mark.parametrize(('batch', 'kept', 'wanted'), [(0, 3, 3), (2, 0, 0), (2, 0, 4), (2, 4, 0)])
def test_no_tokens_or_no_outputs(batch, kept, wanted):
    cells, slot = (t[:batch].to(DEVICE) for t in draw_cells(2, 6, kept))
    out_cells, out_slot = (t[:batch].to(DEVICE) for t in draw_cells(2, 6, wanted))
    shapes = {'x': (batch, kept, 5), 'weight': (5, 1, 3, 3), 'bias': (5,)}
    leaves = {name: torch.randn(shape, device=DEVICE, requires_grad=True) for name, shape in shapes.items()}
    places = dict(cells=cells, slot=slot, out_cells=out_cells, out_slot=out_slot, hw_shape=(2, 3), origin=(-1, -1))
    out = kept_conv(**leaves, **places, backend='triton')
    assert torch.equal(out, leaves['bias'].expand(batch, wanted, 5))
    grads = grads_of(out, leaves, torch.ones_like(out))
    assert (grads['weight'] == 0).all()
    assert (grads['bias'] == batch * wanted).all()


def test_an_image_does_not_depend_on_its_batch():
    leaves, options = conv_operands('wide, at other cells')
    leaves = rounded(leaves, torch.float32, DEVICE)
    options = {n: t.to(DEVICE) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    last = {n: t[2:] if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    out, alone = kept_conv(**leaves, **options), kept_conv(**{**leaves, 'x': leaves['x'][2:]}, **last)
    assert torch.equal(out[2:], alone)


def test_operator_passes_opcheck():
    leaves, options = conv_operands('3x3', batch=1)
    leaves = rounded(leaves, torch.float32, DEVICE)
    tokens = [options[name].to(DEVICE) for name in ('cells', 'slot')] * 2
    operands = (*leaves.values(), *tokens, *options['hw_shape'], *options['origin'], 'triton')
    tests = ('test_schema', 'test_faketensor')
    torch.library.opcheck(torch.ops.mmssmprune.kept_conv.default, operands, test_utils=tests)


@pytest.mark.skipif(not INTERPRETED, reason='it is the default on a GPU')
def test_the_interpreter_runs_only_by_name(monkeypatch):
    cpu = torch.device('cpu')
    assert CONV_BACKENDS.choose(None, cpu, torch.float32) != 'triton'
    assert CONV_BACKENDS.choose('triton', cpu, torch.float32) == 'triton'
    monkeypatch.setenv('MMSSMPRUNE_CONV_BACKEND', 'triton')
    assert CONV_BACKENDS.choose(None, cpu, torch.float32) == 'triton'
    assert CONV_BACKENDS.choose(None, cpu, torch.float64) != 'triton'


@ON_GPU
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('keep', [0.5, 1.0])
@pytest.mark.parametrize(
    ('batch', 'hw_shape', 'kernel', 'origin'),
    [(2, (50, 84), (7, 7), (-3, -3)), (64, (14, 14), (7, 7), (-3, -3)), (8, (1, 4097), (1, 4), (0, -3))],
)
def test_equals_the_whole_grid_at_real_shapes(batch, hw_shape, kernel, origin, keep, dtype, poisoned_memory):
    length = hw_shape[0] * hw_shape[1]
    cells, slot = draw_cells(batch, length, int(keep * length))
    shapes = {'x': (batch, cells.shape[1], 384), 'weight': (384, 1, *kernel), 'bias': (384,)}
    leaves = {name: torch.randn(shape) for name, shape in shapes.items()}
    options = dict(cells=cells, slot=slot, hw_shape=hw_shape, origin=origin)
    rtol = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert_equals_whole_grid(leaves, options, 'triton', rtol, dtype, DEVICE)
