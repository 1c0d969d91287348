"""Learning rates shrink with the distance from the heads; everything else is mmengine's own constructor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from tiny_backbones import make
from tiny_training import LAYERS, backbone_cfg, build, detector_cfg, segmentor_cfg

import mmssmprune.engine  # noqa: F401 (registers the constructor)
from mmssmprune.models.backbones import PrunableBackbone

LR, DECAY, RATE = 0.01, 0.05, 0.5
PRUNED = backbone_cfg(pruning=dict(layers=LAYERS, keep_ratio=0.5, restoration='mask_token'))


def groups(model: torch.nn.Module, constructor: str | None, **paramwise: Any) -> dict[str, dict[str, float]]:
    """lr and weight decay of every parameter that is optimised."""
    optimizer = dict(type='AdamW', lr=LR, weight_decay=DECAY)
    cfg = dict(type='OptimWrapper', optimizer=optimizer, paramwise_cfg=paramwise)
    wrapper = build_optim_wrapper(model, cfg | (dict(constructor=constructor) if constructor else {}))
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: dict(lr=group['lr'], weight_decay=group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


def decayed(model: torch.nn.Module, rate: float = RATE, **paramwise: Any) -> dict[str, dict[str, float]]:
    return groups(model, 'LayerDecayOptimWrapperConstructor', layer_decay_rate=rate, **paramwise)


@pytest.mark.parametrize('make_cfg', [segmentor_cfg, detector_cfg])
def test_known_names_have_the_rate_of_their_depth(make_cfg):
    model = build(make_cfg(PRUNED))
    rates = {name: group['lr'] / LR for name, group in decayed(model).items()}
    assert rates.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {  # four layers: the heads have depth 5
        'backbone.pos_embed': 5,
        'backbone.pruner.stages.0.restoration.mask_token': 5,
        'backbone.layers.0.mamba.in_proj.weight': 4,
        'backbone.layers.3.mamba.A_log': 1,
        'backbone.layers.3.norm.weight': 1,
        'backbone.norm_layer1.weight': 0,
    }
    for name, power in expected.items():
        assert rates[name] == pytest.approx(RATE**power), name
    for name, rate in rates.items():
        if name.startswith('backbone.patch_embed.'):
            assert rate == pytest.approx(RATE**5), name
        if not name.startswith('backbone.'):
            assert rate == 1, name


@pytest.mark.parametrize(
    ('kind', 'first', 'last'),
    [
        ('plain_mamba', {'patch_embed', 'pos_embed'}, {'ln1', 'norm_layer0', 'norm_layer1', 'norm_layer2'}),
        (
            'adapter',
            {'patch_embed', 'pos_embed'},
            {'interactions', 'level_embed', 'spm', 'up', 'ad_norm1', 'ad_norm2', 'ad_norm3', 'ad_norm4'},
        ),
        ('vim_cls', {'patch_embed', 'pos_embed', 'cls_token'}, {'norm_f'}),
        ('vim_double', {'patch_embed', 'pos_embed', 'cls_token_head', 'cls_token_tail'}, {'norm_f'}),
        ('vim_seg', {'patch_embed', 'pos_embed'}, {'fpn1', 'fpn2', 'norm_f'}),
    ],
)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_depths_of_every_backbone_as_mmpretrain_asks_for_them(kind: str, first: set, last: set, prefix: str):
    backbone: PrunableBackbone = make(kind, pruning=dict(layers=[0, 2], keep_ratio=0.6, restoration='mask_token'))
    by_depth: dict[int, set] = {}
    for name, _ in backbone.named_parameters():
        depth, depths = backbone.get_layer_depth(f'{prefix}{name}', prefix)
        assert depths == 6  # mmpretrain scales by rate ** (depths - depth - 1)
        by_depth.setdefault(depth, set()).add('.'.join(name.split('.')[: 2 if name.startswith('layers.') else 1]))
    assert by_depth.pop(0) == first | {'pruner'}
    assert by_depth.pop(5) == last
    assert by_depth == {i + 1: {f'layers.{i}'} for i in range(4)}
    assert backbone.get_layer_depth('decode_head.layers.0.weight', 'backbone.') == (5, 6)


def test_everything_else_is_as_in_mmengines_constructor():
    model = build(segmentor_cfg(PRUNED))
    # Frozen parameters are left out there, and so here.
    model.backbone.layers[1].norm.weight.requires_grad_(False)
    paramwise = dict(
        norm_decay_mult=0.0,
        bias_lr_mult=2.0,
        custom_keys={'.A_': dict(decay_mult=0.0), 'in_proj': dict(lr_mult=3.0), 'decode_head': dict(lr_mult=10.0)},
    )
    plain, scaled = groups(model, None, **paramwise), decayed(model, **paramwise)
    assert scaled.keys() == plain.keys()
    for name, group in scaled.items():
        depth, depths = model.backbone.get_layer_depth(name, 'backbone.')
        assert group['lr'] == pytest.approx(plain[name]['lr'] * RATE ** (depths - depth - 1)), name
        assert group['weight_decay'] == plain[name]['weight_decay'], name
    assert scaled['backbone.layers.3.mamba.in_proj.weight']['lr'] == pytest.approx(3 * LR * RATE)
    assert decayed(model, rate=1.0, **paramwise) == plain


def test_a_bare_backbone_is_a_model_too():
    rates = decayed(make('vim_cls'))
    assert rates['cls_token']['lr'] == pytest.approx(LR * RATE**5)
    assert rates['layers.2.mixer.out_proj.weight']['lr'] == pytest.approx(LR * RATE**2)


@pytest.mark.parametrize('rate', [0, -0.1, 1.1, '0.9', None, True])
def test_wrong_rates_are_refused(rate: Any):
    with pytest.raises(ValueError, match='layer_decay_rate must be a number above 0 and at most 1'):
        decayed(make('vim_cls'), rate=rate)


def test_models_without_our_backbones_and_optimizers_without_a_rate_are_refused():
    with pytest.raises(ValueError, match='needs a PlainMamba, PlainMambaAdapter or Vim'):
        decayed(torch.nn.Linear(2, 2))
    cfg = dict(optimizer=dict(type='AdamW'), paramwise_cfg=dict(layer_decay_rate=0.9))
    cfg['constructor'] = 'LayerDecayOptimWrapperConstructor'
    with pytest.raises(ValueError, match=r'give optimizer\.lr'):
        build_optim_wrapper(make('vim_cls'), cfg)
