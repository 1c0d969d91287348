"""The scan along several directions in every portable backend."""

from __future__ import annotations

import pytest
import torch
from multi_operands import assert_equals_naive, multi_operands, rounded
from scan_operands import FAST, assert_same, grads_of
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.ops import multi_scan
from mmssmprune.ops.walks import line_order, snake_moves, snake_order
from mmssmprune.pruning.scan_order import line_scan, snake_scan

CASES = {
    'snakes': dict(),
    'snakes pruned': dict(kept=9),
    'snakes pruned carry': dict(kept=9, given_gap=False),
    'snakes own parameters': dict(own_parameters=True, kept=9),
    'snakes own parameters, one input': dict(own_parameters=True, one_input=True, kept=9),
    'sequence': dict(walk='sequence', own_parameters=True),
    'sequence, one input': dict(walk='sequence', own_parameters=True, one_input=True),
    'sequence pruned': dict(walk='sequence', own_parameters=True, kept=9),
    'bare': dict(without=('D', 'z', 'delta_bias', 'direction_B')),
    'lines': dict(walk='lines', own_parameters=True, one_input=True, without=('z',)),
    'lines, one state': dict(walk='lines', own_parameters=True, one_input=True, d_state=1, hw_shape=(5, 3)),
    'lines pruned': dict(walk='lines', own_parameters=True, one_input=True, d_state=1, kept=9),
}


@pytest.mark.parametrize('hw_shape', [(3, 5), (4, 2), (1, 4), (5, 1)])
def test_walks_are_those_of_the_models(hw_shape):
    path = snake_scan(*hw_shape)
    assert torch.equal(snake_order(*hw_shape), path.order)
    assert torch.equal(line_order(*hw_shape), line_scan(*hw_shape).order)
    if min(hw_shape) > 1:  # on a single line two moves have the same length
        assert torch.equal(snake_moves(path.order, hw_shape[1]), path.move)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
@pytest.mark.parametrize('backend', FAST)
def test_fast_backend_equals_naive(backend, param_order, case, poisoned_memory):
    leaves, options = multi_operands(**CASES[case])
    assert_equals_naive(leaves, {**options, 'param_order': param_order}, backend, 1e-11)


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_gradients_by_finite_differences(backend):
    leaves, options = multi_operands(1, (2, 2), 2, 2, kept=3, given_gap=False)
    names = list(leaves)
    assert torch.autograd.gradcheck(
        lambda *t: multi_scan(**dict(zip(names, t, strict=True)), **options, backend=backend), tuple(leaves.values())
    )


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_half_precision_is_rounded_once_inside_autocast_too(backend):
    leaves, options = multi_operands()
    half = rounded(leaves, torch.bfloat16)
    wide = {name: t.detach().float() for name, t in half.items()}
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = multi_scan(**half, **options, backend=backend)
    out.float().sum().backward()
    assert torch.equal(out, multi_scan(**wide, **options, backend=backend).bfloat16())
    assert half['B'].grad.dtype == torch.bfloat16
    assert half['A'].grad.dtype == torch.float32


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_operator_passes_opcheck(backend):
    leaves, _ = multi_operands(1, (2, 2), 2, 1)
    operands = [leaves.get(n) for n in ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'direction_B')]
    rest = (None, None, None, None, 4, 2, False, True, False, backend)
    torch.library.opcheck(torch.ops.mmssmprune.multi_scan.default, (*operands, *rest))
    bare = (*operands[:5], *(None,) * 8, 2, 0, False, False, True, backend)
    torch.library.opcheck(torch.ops.mmssmprune.multi_scan.default, bare)


def test_compiles_without_graph_breaks():
    leaves, options = multi_operands(kept=9)

    def scan(**leaves):
        return multi_scan(**leaves, **options)

    out, expected = torch.compile(scan, fullgraph=True, backend='aot_eager')(**leaves), scan(**leaves)
    weight = torch.randn_like(out)
    assert torch.equal(out, expected)
    assert_same(grads_of(out, leaves, weight), grads_of(expected, leaves, weight))


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_flop_formula_is_the_sum_over_the_directions(backend):
    leaves, options = multi_operands()
    with FlopCounterMode(display=False) as counter:
        multi_scan(**leaves, **options, backend=backend)
    assert counter.get_total_flops() == 2 * 15 * 5 * 4 * (9 * 3 + 1)


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_an_input_that_directions_share_is_given_once(backend):
    leaves, options = multi_operands(own_parameters=True, one_input=True, kept=9)
    copied = {**leaves, 'u': leaves['u'].detach().repeat(4, 1, 1, 1).requires_grad_()}
    bare = {**leaves, 'u': leaves['u'][0].detach().requires_grad_()}
    outs = [multi_scan(**operands, **options, backend=backend) for operands in (leaves, copied, bare)]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    weight = torch.randn_like(outs[0])
    once, each, flat = (
        grads_of(out, operands, weight) for out, operands in zip(outs, (leaves, copied, bare), strict=True)
    )
    assert_same(once, {**each, 'u': each['u'].sum(0, keepdim=True)}, 1e-14)
    assert torch.equal(once['u'][0], flat['u'])


def test_wrong_operands_are_named():
    leaves, options = multi_operands()
    for wrong, message in [
        ({'z': leaves['z'][:, :3]}, r'z must be \(2, 15, 5\)'),
        ({'hw_shape': (2, 5)}, r'hw_shape \(2, 5\) must have as many cells as u has tokens, 15'),
        ({'hw_shape': None}, 'direction_B needs move'),
        ({'param_order': 'random'}, "param_order is 'random'; the names are raster, scan"),
        ({'gap': torch.zeros(2, 3, 15)}, r'gap must be \(2, 4, 15\)'),
        ({'u': leaves['u'].int()}, 'u must be a floating-point tensor, got torch.int32'),
        ({'B': leaves['B'] * 1j}, 'B must be a floating-point tensor, got torch.complex128'),
        ({'gap': torch.zeros(2, 4, 15)}, 'gap must be an integer tensor, got torch.float32'),
        ({'A': leaves['A'].to('meta')}, 'A must be on cpu as the other operands are, got meta'),
        ({'u': leaves['u'].expand(3, -1, -1, -1)}, 'u has 3 sets of parameters for 4 directions'),
        ({'A': leaves['A'].expand(3, -1, -1)}, 'A has 3 sets of parameters for 4 directions'),
        ({'A': leaves['A'].expand(4, -1, -1)}, r'delta must be \(4, 2, 15, 5\)'),
    ]:
        with pytest.raises(ValueError, match=message):
            multi_scan(**{**leaves, **options, **wrong})


@pytest.mark.parametrize('backend', ['naive', *FAST])
@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('order', -1, 'order must have values from 0 to 8'),
        ('order', 9, 'order must have values from 0 to 8'),
        ('order', 2**32, 'order must have values from 0 to 8'),
        ('order', 'another one', 'order must have each value from 0 to 8 once per direction, but has one twice'),
        ('move', -1, 'move must have values from 0 to 4'),
        ('move', 5, 'move must have values from 0 to 4'),
        ('gap', -1, 'gap must have values from 0 to'),
        ('gap', 2**31, 'gap must have values from 0 to'),
    ],
)
def test_walks_that_are_none_are_named(name, value, message, backend):
    leaves, options = multi_operands(kept=9)
    walk = options[name].clone()
    walk[1, 2, 3] = walk[1, 2, 4] if value == 'another one' else value
    wrong = {**options, name: walk}
    with pytest.raises(ValueError, match=message):
        multi_scan(**leaves, **wrong, backend=backend)
    with pytest.raises(ValueError, match=message):
        torch.func.jvp(lambda u: multi_scan(**{**leaves, 'u': u}, **wrong), (leaves['u'],), (leaves['u'],))


def test_the_variable_chooses_where_it_can(monkeypatch):
    leaves, options = multi_operands(1, (2, 2), 2, 2)
    monkeypatch.setenv('MMSSMPRUNE_SCAN_BACKEND', 'naive')
    assert torch.equal(multi_scan(**leaves, **options), multi_scan(**leaves, **options, backend='naive'))
    monkeypatch.setenv('MMSSMPRUNE_SCAN_BACKEND', 'mamba_ssm')  # not on a CPU: the default runs
    multi_scan(**leaves, **options)
    monkeypatch.setenv('MMSSMPRUNE_SCAN_BACKEND', 'cuda')
    with pytest.raises(ValueError, match="unknown selective scan backend 'cuda' in MMSSMPRUNE_SCAN_BACKEND"):
        multi_scan(**leaves, **options)
