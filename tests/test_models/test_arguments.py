"""Wrong arguments end in one sentence when a class is built, and what a user would expect to work does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_backbones import PLAIN_ARCH, VIM_ARCH, VMAMBA_ARCH

from mmssmprune.analysis import TokenVisualizationHook
from mmssmprune.engine.distillation import DistillationHook
from mmssmprune.engine.keep_ratio_hooks import ElasticKeepRatioHook, KeepRatioWarmupHook
from mmssmprune.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmssmprune.models import PlainMamba, PlainMambaAdapter, SimpleFeaturePyramid, Vim, VMamba
from mmssmprune.pruning import make_plan

NAN = float('nan')
NO_COUNT = (0, -1, 1.5, True, '8', NAN, [8])
NO_FLAG = (1, 'True', None, [True])
NO_RATE = (1, 2, -0.1, NAN, True, '0.1', [0.1])
NO_DICT = (5, True, 'x', [1])
NO_SIZE = (0, -32, 32.0, True, 'x', (32,), (32, 0), (32, 32, 32), None, NAN)
NO_LAYERS = ('x', 1.5, True, NAN, None, [], [1.5], ['a'], [True], 4, [9], -5, {})

BAD = {
    'img_size': NO_SIZE,
    'patch_size': (*NO_COUNT, None),
    'in_channels': (*NO_COUNT, None),
    'out_indices': NO_LAYERS,
    'out_type': (5, 'x', None, ['featmap']),
    'drop_path_rate': (*NO_RATE, None),
    'final_norm': NO_FLAG,
    'embed_dims': NO_COUNT,
    'num_layers': NO_COUNT,
    'mixer_cfg': (
        *NO_DICT,
        dict(depth=3),
        *({key: 0} for key in ('d_state', 'expand', 'dt_rank', 'bias', 'conv_bias')),
    ),
    'with_cp': NO_FLAG,
    'arch': (5, True, 1.5, 'x', [], {}, dict(embed_dims=0, num_layers=2), dict(embed_dims=8, num_layers='2')),
    'init_cfg': (5, True, 'x.pth', [5], {}, dict(type='Pretrained'), dict(type='Pretrained', checkpoint=5)),
    'pruning': (True, 5, 'x', [], {}, *(dict(layers=bad, keep_ratio=0.5) for bad in (3.5, [], True, 'x', [0.5], [9]))),
}
BAD['init_cfg'] += (dict(type='Pretrained', checkpoint='x.pth', prefix=5), dict(type='Normall'), dict(checkpoint='x'))
BAD['pruning'] += tuple(dict(layers=[1], keep_ratio=bad) for bad in (0, 1.5, -1, NAN, True, '0.5', [0.5, 0.5], []))
BAD['pruning'] += tuple(dict(layers=[1], keep_ratio=0.5, alignment=bad) for bad in (5, True, ['none']))
PLAIN = {
    'num_convs': (-1, 1.5, True, '1'),
    'layers_with_dwconv': (5, True, 'x', [9], [-1], [0.5], [True]),
    'mixer_cfg': (dict(conv_size=4), dict(conv_size=0), dict(param_order=5), dict(dt_rank='x')),
    'patch_size': (7,),
    'img_size': (8,),
    'with_pos_embed': NO_FLAG,
    'drop_rate': NO_RATE,
    'interpolate_mode': (5, 'x'),
    'layer_cfgs': (*NO_DICT, dict(depth=3), dict(use_rms_norm=True), dict(mamba_cfg=dict(depth=3))),
    'convert_syncbn': NO_FLAG,
    'norm_cfg': (*NO_DICT, dict(type='BN'), dict(type='LN', eps=0), dict(type='LN', depth=3)),
    'freeze_patch_embed': NO_FLAG,
}
VIM = {
    'stride': NO_COUNT,
    'img_size': (100, 8),
    'mixer_cfg': (dict(d_conv=0), dict(dt_rank='x')),
    'norm_cfg': (),
    **dict.fromkeys(
        ('if_cls_token', 'use_middle_cls_token', 'use_double_cls_token', 'if_divide_out', 'with_fpn'), NO_FLAG
    ),
}
VMAMBA = {
    **{name: BAD[name] for name in ('in_channels', 'out_type', 'drop_path_rate', 'with_cp', 'init_cfg', 'pruning')},
    'arch': (5, True, 1.5, 'x', [], {}, dict(embed_dims=8), dict(VMAMBA_ARCH, num_layers=4), dict(depths=[1])),
    'out_indices': (*NO_LAYERS, [0, 0], [1, 0]),
    'patch_size': (*NO_COUNT, None, 3),
    'patch_norm': NO_FLAG,
    'embed_dims': (0, -1, 1.5, True, '8', NAN, [], [8, 16], [8, 16, 32, 0]),
    'depths': (0, 5, True, 'x', [], [0, 1], [1.5], [True]),
    'ssm_ratio': (0, -1, NAN, True, '1', 1e-3),
    'd_state': NO_COUNT,
    'dt_rank': (*NO_COUNT, 'x'),
    'conv_size': (*NO_COUNT, 2),
    'conv_bias': (1, 'True', [True]),
    'gated': (1, 'True', [True]),
    'mlp_ratio': (-1, NAN, True, '4'),
    'patch_embed_version': (5, 'v3'),
    'downsample_version': (5, 'v4'),
}
ADAPTER = {
    'interaction_indexes': (5, True, 'x', [], [5], [[]], [(0, 1)], [(0, 4)], [(1, 3)], [(2, 3), (0, 1)], [(0, 1.5)]),
    'conv_inplane': NO_COUNT,
    'n_points': NO_COUNT,
    'deform_num_heads': (*NO_COUNT, 5),
    'deform_ratio': (0, -1, NAN, True, '1', 1e-3),
    'cffn_ratio': (0, -1, NAN, True, '1', 1e-3),
    'init_values': (NAN, True, '0', None),
    'with_cffn': NO_FLAG,
    'use_extra_extractor': NO_FLAG,
    'add_vit_feature': NO_FLAG,
    'vit_feature_from': (5, 'x'),
    'norm_cfg': (*NO_DICT, dict(type='x'), dict(type='BN', depth=3), dict(eps=1e-5)),
    'out_indices': ([1], 0),
}


def shown(value) -> str:
    """The same in every process, as xdist wants it."""
    return getattr(value, '__name__', str(value))


def cases(*tables: dict) -> list:
    return [(name, value) for table in tables for name, values in table.items() for value in values]


def refuses(build, **kwargs) -> None:
    with torch.device('meta'), pytest.raises(ValueError, match=r'.') as caught:
        build(**kwargs)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('name', 'value'), cases(BAD, PLAIN), ids=shown)
def test_plain_mamba(name, value):
    refuses(PlainMamba, **{'arch': PLAIN_ARCH, 'img_size': 64, name: value})


@pytest.mark.parametrize(('name', 'value'), cases(BAD, VIM), ids=shown)
def test_vim(name, value):
    refuses(Vim, **{'arch': VIM_ARCH, 'img_size': 64, name: value})


@pytest.mark.parametrize(('name', 'value'), cases(VMAMBA), ids=shown)
def test_vmamba(name, value):
    refuses(VMamba, **{'arch': VMAMBA_ARCH, name: value})


@pytest.mark.parametrize(('name', 'value'), cases(ADAPTER), ids=shown)
def test_adapter(name, value):
    refuses(PlainMambaAdapter, **{'arch': PLAIN_ARCH, 'img_size': 64, 'norm_cfg': dict(type='BN'), name: value})


@pytest.mark.parametrize(
    ('build', 'kwargs'),
    [
        *((SimpleFeaturePyramid, dict(in_channels=bad)) for bad in (0, 6, 1.5, True, 'x', None, [8, 8], [])),
        *((SimpleFeaturePyramid, dict(in_channels=8, out_channels=bad)) for bad in NO_COUNT),
        *((SimpleFeaturePyramid, dict(in_channels=8, norm_cfg=bad)) for bad in (5, 'x', dict(type='x'))),
        *((Vim, dict(arch=VIM_ARCH, with_fpn=True, out_indices=range(4), norm_cfg=bad)) for bad in (5, dict(type='x'))),
        *((KeepRatioWarmupHook, dict(end=bad)) for bad in (0, -1, 1.5, True, '8', NAN, None)),
        *((KeepRatioWarmupHook, dict(end=8, begin=bad)) for bad in (8, -1, 1.5, True, '1', NAN, None)),
        *((ElasticKeepRatioHook, dict(keep_ratios=bad)) for bad in (0.5, 'x', [], [0], [1.1], [NAN], [True], [[]])),
        *((ElasticKeepRatioHook, dict(val_keep_ratio=bad)) for bad in (0, 1.1, NAN, True, 'x', [])),
        *((DistillationHook, dict(teacher=bad)) for bad in (5, True, ['x.pth'])),
        *((DistillationHook, dict(loss_weight=bad)) for bad in (0, -1, NAN, float('inf'), True, '1', None)),
        *((DistillationHook, dict(normalize=bad)) for bad in NO_FLAG),
        *((TokenVisualizationHook, {name: bad}) for name in ('interval', 'max_images') for bad in NO_COUNT),
        *((TokenVisualizationHook, dict(score_thr=bad)) for bad in (NAN, True, 'x', None)),
        *(
            (
                LayerDecayOptimWrapperConstructor,
                dict(optim_wrapper_cfg=dict(optimizer=dict(lr=1)), paramwise_cfg=dict(layer_decay_rate=bad)),
            )
            for bad in (0, 1.1, NAN, True, 'x', None)
        ),
        *((make_plan, dict(layers=bad, keep_ratio=0.5, num_layers=4)) for bad in (5, [], 'x', [True], [1.0], None)),
    ],
    ids=shown,
)
def test_necks_hooks_and_plans(build, kwargs):
    refuses(build, **kwargs)


def test_numbers_and_lists_of_numpy_are_as_good():
    two, half = np.int64(2), np.float32(0.5)
    plan = dict(layers=np.array([1, 2]), keep_ratio=half)
    with torch.device('meta'):
        plain = PlainMamba(
            dict(PLAIN_ARCH, num_layers=np.int32(4)),
            img_size=np.array([64, 96]),
            patch_size=np.int64(16),
            out_indices=np.array([1, -1]),
            drop_path_rate=half / 2,
            final_norm=np.bool_(True),
            pruning=plan,
        )
        assert (plain.pos_hw, plain.out_indices, plain.pruner.plan.keep_ratios) == ((4, 6), (1, 3), (0.5, 0.5))
        assert all(type(side) is int for side in plain.pos_hw)
        vim = Vim(VIM_ARCH, img_size=np.int64(64), out_indices=two, pruning=dict(layers=[np.int64(1)], keep_ratio=1))
        assert vim.out_indices == (2,)
        adapter = PlainMambaAdapter(PLAIN_ARCH, img_size=64, interaction_indexes=np.array([[0, 1], [2, 3]]))
        assert adapter.interaction_indexes == [(0, 1), (2, 3)]
    hook = KeepRatioWarmupHook(end=np.int64(5))
    assert (hook.begin, hook.end) == (0, 5)
    ElasticKeepRatioHook(keep_ratios=np.array([0.5, 1.0]))
