"""`--cfg-options model.backbone.pruning.keep_ratio=...` works on every config, whatever its plan says."""

from __future__ import annotations

import pytest
from config_files import CONFIGS, build

from mmssmprune.engine.runner_setup import load_config
from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, VMamba
from mmssmprune.models.backbones.base import resolve_arch
from mmssmprune.pruning import Stage, TokenPruner

KEY = 'model.backbone.pruning.keep_ratio'
FAMILIES = {'PlainMamba': PlainMamba, 'PlainMambaAdapter': PlainMambaAdapter, 'Vim': Vim}
VMAMBA_DEPTHS = {name: VMamba.arch_zoo[name]['depths'] for name in ('tiny', 'small', 'base')}
TARGETED = sorted(path for path in CONFIGS.rglob('*flops*.py'))


def plan_of(backbone: dict):
    """The plan of a backbone's config, without building the backbone."""
    if backbone['type'] == 'VMamba':
        depths = VMAMBA_DEPTHS[backbone['arch']]
        stages = [Stage([None] * depth, 8, 16, first=sum(depths[:i])) for i, depth in enumerate(depths)]
        return TokenPruner(backbone['pruning'], stages).plan
    family = FAMILIES[backbone['type'].rpartition('.')[2]]
    zoo = family.arch_zoo
    zoo = {**zoo, **{name[0]: settings for name, settings in zoo.items()}} if family is Vim else zoo
    depth = resolve_arch(backbone.get('arch', next(iter(zoo))), zoo, {})['num_layers']
    return TokenPruner(backbone['pruning'], [Stage([None] * depth, 8, 16)]).plan


def test_there_are_configs_with_targets():
    assert len(TARGETED) >= 80


@pytest.mark.parametrize('path', TARGETED, ids=lambda path: path.stem)
def test_a_keep_ratio_overrides_a_target_and_keeps_its_layers(path):
    own = load_config(str(path)).model.backbone
    layers = plan_of(own).layers
    given = load_config(str(path), {KEY: 0.8}).model.backbone
    assert plan_of(given).layers == layers
    assert plan_of(given).keep_ratios == (0.8,) * len(layers)
    kept = {'flops_reduction', 'tokens', 'input_shape', 'layers', 'keep_ratio'}
    assert {k: v for k, v in given.pruning.items() if k not in kept} == {
        k: v for k, v in own.pruning.items() if k not in kept
    }
    ratios = [0.9 - 0.1 * i for i in range(len(layers))]
    assert plan_of(load_config(str(path), {KEY: ratios}).model.backbone).keep_ratios == tuple(ratios)


@pytest.mark.parametrize(
    'options',
    [
        {KEY: 0.8},
        {'model.backbone.pruning': dict(keep_ratio=0.8)},
        {'model': dict(backbone=dict(pruning=dict(keep_ratio=0.8)))},
        {KEY: 0.8, 'model.backbone.pruning.flops_reduction': None, 'model.backbone.pruning.input_shape': None},
    ],
)
def test_it_builds_however_it_is_given(options):
    """A second or two, for a whole model."""
    path = CONFIGS / 'vim' / 'vim-t-flops30_upernet_4xb8-60k_ade20k-512x512.py'
    cfg = load_config(str(path), options)
    cfg.model.backbone.init_cfg = None
    cfg.model = cfg.model.backbone
    model = build(cfg)
    assert (model.pruner.plan.layers, model.pruner.plan.keep_ratios) == ((0,), (0.8,))
    assert model.tokens_per_layer((512, 512))[1] == 820  # ceil(0.8 * 1024)


def test_a_target_overrides_a_keep_ratio_too():
    path = CONFIGS / 'vim' / 'vim-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py'
    own = load_config(str(path)).model.backbone.pruning
    given = load_config(str(path), {'model.backbone.pruning.tokens': 0.6}).model.backbone.pruning
    assert given == {**{k: v for k, v in own.items() if k != 'keep_ratio'}, 'tokens': 0.6}
