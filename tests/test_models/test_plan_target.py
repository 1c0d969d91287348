"""Plans solved for a target, against counts of real forward passes."""

from __future__ import annotations

import pytest
import torch
from mmengine.logging import MMLogger
from tiny_backbones import make

from mmssmprune import models
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.models import PlainMamba, Vim
from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.models.plan_target import solve_for_target
from mmssmprune.pruning import sequence_scan, snake_scan
from mmssmprune.pruning.plan import PlanTarget

PLAN = dict(layers=[1, 3, 5], keep_ratio=1.0)
ARCH = dict(embed_dims=96, num_layers=8)
BUILD = {
    'PlainMamba': lambda **k: PlainMamba(dict(ARCH, num_convs=1, layers_with_dwconv=(0,)), img_size=128, **k),
    'PlainMambaAdapter': lambda **k: models.PlainMambaAdapter(
        ARCH, img_size=128, conv_inplane=4, cffn_ratio=0.1, norm_cfg=dict(type='BN'), **k
    ),
    'Vim': lambda **k: Vim(ARCH, img_size=128, **k),
}
SHAPE = (128, 160)


def build(family: str, **pruning):
    return BUILD[family](pruning=dict(PLAN, **pruning))


def count(model: torch.nn.Module, hw: tuple[int, int] = SHAPE) -> int:
    return count_flops(model.eval(), torch.rand(1, 3, *hw)).total


@pytest.mark.parametrize(('family', 'saved'), [('PlainMamba', 0.2), ('PlainMambaAdapter', 0.1), ('Vim', 0.416)])
def test_flops_reduction_holds_for_a_real_forward_pass(family, saved):
    model = build(family)
    solve_for_target(model, PlanTarget(flops_reduction=saved, input_shape=SHAPE))
    ratios = model.pruner.plan.keep_ratios
    assert len(set(ratios)) == 1
    assert ratios[0] == round(ratios[0], 4) < 1
    reduced = count(model)
    model.set_keep_ratio(1.0)
    assert 1 - reduced / count(model) == pytest.approx(saved, abs=0.005)


def test_what_scores_cost_counts_against_the_dense_model():
    model = build('Vim', importance='released')
    solve_for_target(model, PlanTarget(flops_reduction=0.2, input_shape=SHAPE))
    assert 1 - count(model) / count(BUILD['Vim']()) == pytest.approx(0.2, abs=0.005)
    model.set_keep_ratio(1.0)
    assert count(model) > count(BUILD['Vim']())


@pytest.mark.parametrize(
    ('kind', 'names'),
    [
        ('plain_mamba', dict(importance='random', restoration='mask_token', alignment='bias')),
        ('vim_seg', dict()),
        ('vim_cls', dict(importance='grid', restoration='interpolate', alignment='none')),
        ('vim_double', dict(importance='cls_similarity', restoration='nearest')),
    ],
)
def test_counts_without_numbers_equal_real_ones(kind, names):
    model = make(kind, pruning=dict(layers=[0, 2], keep_ratio=0.6, **names))
    ghost = on_meta(model)
    assert {tensor.device.type for tensor in (*ghost.parameters(), *ghost.buffers())} == {'meta'}
    for ratio in (0.6, 1.0):
        model.set_keep_ratio(ratio)
        ghost.set_keep_ratio(ratio)
        assert count_on_meta(ghost, (64, 96)) == count(model, (64, 96))


def test_solving_changes_nothing_but_the_ratio():
    model = make('plain_mamba', pruning=dict(layers=[0, 2], keep_ratio=1.0, importance='random')).train()
    images = torch.rand(2, 3, 64, 64)
    snake_scan.cache_clear()
    sequence_scan.cache_clear()
    state, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    solve_for_target(model, PlanTarget(flops_reduction=0.005, input_shape=(64, 64)))
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    for key, value in model.state_dict().items():
        assert value.device.type == 'cpu'
        assert torch.equal(value, state[key])
    # what was cached for the count must not reach a real forward pass
    (out,) = model.eval()(images)[-1:]
    out.sum().backward()
    assert out.device.type == 'cpu'
    assert torch.isfinite(model.pos_embed.grad).all()


def test_token_targets():
    model = build('Vim')
    solve_for_target(model, PlanTarget(tokens=0.7))
    assert model.pruner.plan.token_share([range(8)]) == pytest.approx(0.7, abs=1e-3)
    solve_for_target(model, PlanTarget(tokens=0.7, input_shape=(64, 80)))
    tokens = model.tokens_per_layer((64, 80))  # 20 patches and a class token
    others = []
    for step in range(1, 101):
        model.set_keep_ratio(step / 100)
        others.append(sum(model.tokens_per_layer((64, 80))) / (8 * 21))
    assert abs(sum(tokens) / (8 * 21) - 0.7) <= min(abs(share - 0.7) for share in others)


def test_reopened_cells_count():
    model = build('PlainMamba', regime='per_output')
    model.out_indices = (1, 3)
    solve_for_target(model, PlanTarget(tokens=0.8))
    # layers 2 to 7 process the ratio itself
    assert model.pruner.plan.keep_ratios[0] == pytest.approx((0.8 * 8 - 2) / 6, abs=2e-3)


def test_targets_that_ask_for_nothing_keep_everything():
    model = build('PlainMamba')
    for target in (PlanTarget(tokens=1.0), PlanTarget(flops_reduction=0.0, input_shape=(64, 64))):
        model.set_keep_ratio(0.5)
        solve_for_target(model, target)
        assert model.pruner.plan.keep_ratios == (1.0,) * 3


@pytest.mark.parametrize(
    ('family', 'target', 'message'),
    [
        (
            'PlainMamba',
            dict(flops_reduction=0.9, input_shape=(64, 96)),
            r'flops_reduction 0.9 cannot be reached by pruning after layers \[1, 3, 5\] at 64x96; the most is 0\.\d+$',
        ),
        ('Vim', dict(tokens=0.2), r'tokens 0.2 cannot be reached by .* \[1, 3, 5\]; the least is 0.25$'),
        ('Vim', dict(flops_reduction=0.3, input_shape=(60, 64)), 'input_shape 60x64 does not suit .* do not tile'),
        ('PlainMambaAdapter', dict(flops_reduction=0.1, input_shape=(80, 64)), '80x64 does not .* divisible by 32'),
    ],
)
def test_targets_out_of_reach(family, target, message):
    with pytest.raises(ValueError, match=message):
        solve_for_target(build(family), PlanTarget(**target))


def test_one_line_tells_what_was_solved(capsys):
    MMLogger.get_instance('test_plan_target')
    solve_for_target(build('PlainMamba'), PlanTarget(tokens=0.7))
    told = capsys.readouterr()
    (line,) = (told.out + told.err).strip().splitlines()
    assert 'pruning.tokens 0.7: keep_ratio 0.7655 after layers [1, 3, 5] reaches 0.7' in line
