"""Every name of the method works from a config file of configs/, and docs/choose_your_pruning.md lists it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from mmssmprune.engine.runner_setup import load_config
from mmssmprune.pruning import CONV_FILL
from mmssmprune.pruning.plan import PLAN_KEYS
from mmssmprune.pruning.pruner import CHOICES, DEFAULTS

ROOT = Path(__file__).parents[2]
CONFIGS = [
    'plain_mamba/plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    'vim/vim-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    'vmamba/vmamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
]
NAMES = [(key, name) for key, names in CHOICES.items() for name in names]
PLANS = [
    dict(layers=None, start=1, every=2),
    dict(layers=None, keep_ratio=None, tokens=0.7),
    dict(layers=None, keep_ratio=None, flops_reduction=0.4, input_shape=(128, 128)),
]


def backbone_of(config: str, **changes) -> torch.nn.Module:
    options = {f'model.backbone.pruning.{key}': value for key, value in changes.items()}
    cfg = load_config(str(ROOT / 'configs' / config), options)
    if changes.get('importance') == 'cls_similarity':
        cfg.model.backbone.if_cls_token = True
    return MODELS.build(cfg.model.backbone).eval()


@pytest.mark.parametrize(('key', 'name'), NAMES, ids=lambda value: value)
@pytest.mark.parametrize('config', CONFIGS, ids=lambda config: config.split('/')[0])
def test_name_from_a_config(config, key, name):
    if name == 'cls_similarity' and not config.startswith('vim'):
        pytest.skip('PlainMamba and VMamba have no class token')
    if name in CONV_FILL.needing('sequence') and not config.startswith('vim/'):
        pytest.skip('PlainMamba and VMamba convolve over the grid')
    backbone = backbone_of(config, **{key: name})
    with torch.no_grad():
        outs = backbone(torch.randn(1, 3, 128, 128))
    stages = [(1, 24 * 2**i, 32 // 2**i, 32 // 2**i) for i in range(4)]
    shapes = stages if config.startswith('vmamba') else [(1, 64, 16, 16)] * 4
    assert [tuple(out.shape) for out in outs] == shapes
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: list(plan)[-1])
def test_plan_from_a_config(plan):
    backbone = backbone_of(CONFIGS[0], **plan)
    tokens = backbone.tokens_per_layer((128, 128))
    assert tokens[0] == 256 > tokens[-1]


def test_the_page_lists_every_name_and_the_defaults():
    page = (ROOT / 'docs' / 'choose_your_pruning.md').read_text(encoding='utf-8')
    for key in (*CHOICES, *PLAN_KEYS):
        assert f'`{key}`' in page or f'`{key}=' in page, key
    for key, name in NAMES:
        assert f'| `{name}`' in page, (key, name)
    for key, name in DEFAULTS.items():
        section = page.split(f'## `{key}`')[1].split('\n## ')[0]
        if name is None:  # each backbone states its own
            for family in ('Vim', 'PlainMamba', 'VMamba'):
                own = MODELS.build(dict(type=family, arch='tiny' if family != 'PlainMamba' else 'L1')).stages[0]
                assert f'| `{getattr(own, key)}` (default of {family})' in section, family
        else:
            assert f'| `{name}` (default)' in section, (key, name)
