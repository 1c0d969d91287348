"""The compiled backend along several directions: chunks, gaps, layouts, threads, and what it keeps for backward."""

from __future__ import annotations

import pytest
import torch
from multi_operands import assert_equals_naive, multi_operands, rounded
from scan_operands import NO_CPP, assert_same, grads_of

from mmssmprune.ops import multi_scan

# The grid, channels and states, how many tokens are kept, and the rest of `multi_operands`; a chunk has 16 steps.
DIRECTIONS = {
    'one cell': ((1, 1), 1, 1, {}),
    'one chunk': ((4, 4), 16, 4, {}),
    'a line': ((1, 17), 33, 16, {}),
    'three chunks': ((6, 8), 40, 19, {}),
    'three chunks, own parameters': ((6, 8), 17, 4, dict(own_parameters=True)),
    'near gaps': ((8, 9), 21, 16, dict(kept=40, given_gap=False)),
    'far gaps': ((20, 20), 18, 5, dict(kept=33, given_gap=False)),
    'far gaps given': ((20, 20), 18, 5, dict(kept=33)),
    'gaps, no softplus bias': ((8, 9), 5, 1, dict(kept=17, without=('delta_bias', 'z'))),
    'gaps, own parameters': ((8, 9), 21, 16, dict(kept=40, own_parameters=True)),
    'gaps, own parameters, one input': ((8, 9), 21, 16, dict(kept=40, own_parameters=True, one_input=True)),
    'no directional B': ((5, 7), 24, 8, dict(without=('direction_B', 'D', 'z'))),
    'sequence': ((6, 8), 40, 16, dict(walk='sequence', own_parameters=True)),
    'sequence with gaps': ((8, 9), 21, 16, dict(walk='sequence', own_parameters=True, kept=33)),
}


@NO_CPP
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
@pytest.mark.parametrize('case', DIRECTIONS)
def test_directions_equal_naive(case, param_order, dtype, poisoned_memory):
    hw_shape, dim, d_state, rest = DIRECTIONS[case]
    leaves, options = multi_operands(2, hw_shape, dim, d_state, **rest)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    assert_equals_naive(leaves, {**options, 'param_order': param_order}, 'cpp', tolerance, dtype)


@NO_CPP
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_every_delta_gap_given_and_one_order_for_all_images(param_order, poisoned_memory):
    leaves, options = multi_operands(3, (8, 9), 21, 4, kept=20)
    leaves['delta_gap'] = leaves['delta_gap'].detach().abs().requires_grad_()
    options |= {'param_order': param_order, **{name: options[name][:1].int() for name in ('order', 'move')}}
    assert_equals_naive(leaves, options, 'cpp', 1e-11)


@NO_CPP
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_directions_read_any_layout(param_order, poisoned_memory):
    """Channels first, slices of one projection, one B and one gate for several."""
    leaves, options = multi_operands(2, (4, 5), 20, 4)
    leaves['u'] = torch.randn(2, 20, 20, dtype=torch.float64, requires_grad=True)  # [B, D, K]
    leaves['delta'] = torch.randn(1, 2, 20, 45, dtype=torch.float64, requires_grad=True)
    leaves['B'] = torch.randn(1, 1, 20, 4, dtype=torch.float64, requires_grad=True)
    leaves['z'] = torch.randn(2, 20, 1, dtype=torch.float64, requires_grad=True)
    views = {
        'u': lambda t: t.transpose(1, 2)[None],
        'delta': lambda t: t[..., 3:43:2],
        'B': lambda t: t.expand(-1, 2, -1, -1),
        'z': lambda t: t.expand(-1, -1, 20),
    }
    found = []
    for backend in ('cpp', 'naive'):
        seen = {name: views.get(name, lambda t: t)(t) for name, t in leaves.items()}
        out = multi_scan(**seen, **{**options, 'param_order': param_order}, backend=backend)
        found.append({'out': out, **grads_of(out, leaves, torch.ones(2, 20, 20).mul(1.5))})
    assert_same(*found, 1e-11)


@NO_CPP
@pytest.mark.parametrize(
    'rest', [dict(kept=40), dict(walk='sequence', own_parameters=True)], ids=['snakes', 'sequence']
)
@pytest.mark.parametrize('param_order', ['raster', 'scan'])
def test_threads_and_other_images_change_nothing(param_order, rest):
    leaves, options = multi_operands(3, (8, 9), 40, 4, **rest)
    leaves, options = rounded(leaves, torch.float32), {**options, 'param_order': param_order, 'backend': 'cpp'}
    weight = torch.randn(leaves['z'].shape)

    def results(threads: int, images: slice) -> dict[str, torch.Tensor]:
        mine = {n: t[..., images, :, :] if n in ('u', 'delta', 'B', 'C', 'z') else t for n, t in leaves.items()}
        walk = {n: t[images] if n in ('order', 'move', 'gap') else t for n, t in options.items()}
        torch.set_num_threads(threads)
        try:
            out = multi_scan(**mine, **walk)
            return {'out': out, **grads_of(out, mine, weight[images])}
        finally:
            torch.set_num_threads(1)

    together = results(1, slice(None))
    on_two = results(2, slice(None))
    assert all(torch.equal(together[name], on_two[name]) for name in together)
    alone = results(1, slice(1, 2))
    for name in ('out', 'u', 'delta', 'B', 'C', 'z'):
        assert torch.equal(alone[name], together[name][..., 1:2, :, :])
    # On two threads each takes half of its channels.
    halves = results(2, slice(1, 2))
    assert all(torch.equal(halves[name], alone[name]) for name in alone if name not in ('B', 'C', 'direction_B'))
    assert_same(halves, alone, 1e-6)


@NO_CPP
@pytest.mark.parametrize(('batch', 'tokens', 'dim'), [(2, 0, 5), (0, 4, 5), (2, 4, 0)])
def test_nothing_to_scan(batch, tokens, dim, poisoned_memory):
    leaves, options = multi_operands(2, (2, 2), 5, 3, walk='sequence')
    for name, leaf in leaves.items():
        if name in ('u', 'delta', 'B', 'C', 'z'):
            leaf = leaf[..., :batch, :tokens, :]
        leaf = leaf[..., :dim, :] if name == 'A' else leaf if name in ('B', 'C') else leaf[..., :dim]
        leaves[name] = leaf.detach().requires_grad_()
    out = multi_scan(**leaves, **options, backend='cpp')
    assert out.shape == (batch, tokens, dim)
    assert all((grad == 0).all() for grad in grads_of(out, leaves, torch.ones_like(out)).values())


@NO_CPP
def test_states_are_kept_for_training_alone():
    leaves, options = multi_operands(2, (6, 8), 20, 4)
    trained = multi_scan(**leaves, **options, backend='cpp')
    with torch.no_grad():
        assert torch.equal(multi_scan(**leaves, **options, backend='cpp'), trained)
    names = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'direction_B')
    operands = (*(leaves[name] for name in names), *(None,) * 4, 4, 8, False, True, False, 'cpp')
    assert torch.ops.mmssmprune.multi_scan(*operands)[2].shape == (2, 4, 3, 4, 32)
    out, _, saved = torch.ops.mmssmprune.multi_scan(*operands, False)
    assert saved.shape == (2, 4, 1, 4, 32)
    with pytest.raises(RuntimeError, match='a multi_scan with keep_states=False has no gradient'):
        out.sum().backward()
