"""Shapes, sizes, options and errors of the dense backbones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from tiny_backbones import DROPPED, FOUR, MAKERS, PLAIN_ARCH, PRUNING, VECTOR_MAKERS, VIM_ARCH, layers_of, make

from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, VMamba
from mmssmprune.models.flops import count_on_meta, on_meta

OFFICIAL_KEYS = json.loads((Path(__file__).parents[1] / 'data' / 'official_keys.json').read_text())
TAPS = {'l1': (5, 11, 17, 23), 'l2': (5, 11, 17, 23), 'l3': (8, 17, 26, 35)}
VIM_SEG = dict(img_size=512, if_cls_token=False, with_fpn=True, out_indices=TAPS['l1'])
OFFICIAL = {f'plain_mamba_{a}': lambda a=a: PlainMamba(a) for a in TAPS}
OFFICIAL |= {f'plain_mamba_seg_{a}': lambda a=a: PlainMamba(a, out_indices=TAPS[a]) for a in TAPS}
OFFICIAL |= {f'plain_mamba_adapter_{a}': lambda a=a: PlainMambaAdapter(a) for a in TAPS}
OFFICIAL |= {f'vim_{a}': lambda a=a: Vim(a) for a in ('tiny', 'small', 'base')}
OFFICIAL |= {'vim_seg_tiny': lambda: Vim('tiny', **VIM_SEG)}
VMAMBA = dict(tiny_s1l8='tiny', small_s2l15='small', base_s2l15='base', tiny_s2l5='t[s2l5]')
VMAMBA |= dict(small_s1l20='s[s1l20]', base_s1l20='b[s1l20]', vanilla_tiny='vanilla-t')
OFFICIAL |= {f'vmamba_{name}': lambda a=a: VMamba(a, out_indices=3) for name, a in VMAMBA.items()}
OFFICIAL |= {f'vmamba_{task}_{name}': lambda a=a: VMamba(a) for name, a in VMAMBA.items() for task in ('det', 'seg')}


@pytest.mark.parametrize('name', OFFICIAL_KEYS)
def test_state_dict_keys_equal_the_official_ones(name):
    with torch.device('meta'):
        ours = {key: list(value.shape) for key, value in OFFICIAL[name]().state_dict().items()}
    official = {k.removeprefix('backbone.'): shape for k, shape in OFFICIAL_KEYS[name].items()}
    official = {k.replace('classifier.norm', 'outnorm3'): shape for k, shape in official.items()}
    official = {k: shape for k, shape in official.items() if not k.startswith(('head.', 'classifier.head.'))}
    assert ours == official


@pytest.mark.parametrize('kind', MAKERS)
@pytest.mark.parametrize('hw', [(64, 64), (32, 96), (128, 32)])
def test_maps_of_any_size(kind, hw):
    outs = make(kind)(torch.randn(2, 3, *hw))
    pyramid = kind in ('adapter', 'vim_seg')
    stages = kind.startswith('vmamba')
    strides = (4, 8, 16, 32) if pyramid or stages else (16, 16, 16, 16)
    channels = (8, 16, 32, 64) if stages else (24,) * 4
    assert [tuple(o.shape) for o in outs] == [
        (2, c, hw[0] // s, hw[1] // s) for c, s in zip(channels, strides, strict=True)
    ]
    assert all(o.is_contiguous() and o.isfinite().all() for o in outs)


def test_plain_mamba_pads_what_the_patch_does_not_divide():
    outs = make('plain_mamba')(torch.randn(1, 3, 76, 101))
    assert outs[0].shape[2:] == (5, 7)
    assert make('plain_mamba').tokens_per_layer((76, 101)) == [35] * 4


def test_registered_where_mmdet_and_mmseg_find_them():
    import mmdet.registry
    import mmseg.registry

    for registry in (MODELS, mmdet.registry.MODELS, mmseg.registry.MODELS):
        for name in ('PlainMamba', 'PlainMambaAdapter', 'Vim', 'VMamba'):
            assert registry.get(name) is not None
    assert isinstance(mmseg.registry.MODELS.build(dict(type='Vim', arch=VIM_ARCH, img_size=64)), Vim)


@pytest.mark.parametrize(('arch', 'dims'), [('L1', 192), ('l3', 448)])
def test_arch_in_any_case(arch, dims):
    with torch.device('meta'):
        assert PlainMamba(arch).embed_dims == dims
        assert Vim('Small').embed_dims == Vim('S').embed_dims == 384


def test_loose_arguments_override_the_arch():
    with torch.device('meta'):
        model = PlainMamba('L1', num_layers=3, embed_dims=32, out_indices=[0, -1])
    assert (model.num_layers, model.embed_dims, model.out_indices) == (3, 32, (0, 2))


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: PlainMamba('L9'), "arch is 'L9'; the names are l1, l2, l3"),
        (lambda: PlainMamba(dict(embed_dims=8)), "arch needs 'num_layers'"),
        (lambda: PlainMamba(dict(PLAIN_ARCH, depth=3)), "unknown key 'depth'"),
        (lambda: PlainMamba(PLAIN_ARCH, out_indices=[4]), 'out_indices names layer 4, but .* layers 0 to 3'),
        (lambda: PlainMamba(PLAIN_ARCH, out_indices=[2, 1]), 'ascending'),
        (lambda: PlainMamba(PLAIN_ARCH, patch_size=15), 'must be even'),
        (lambda: PlainMamba(dict(PLAIN_ARCH, mixer_cfg=dict(param_order='x'))), 'the names are raster, scan'),
        (lambda: PlainMambaAdapter(PLAIN_ARCH, interaction_indexes=[(0, 2)]), 'runs of layers, .* cover layers 0 to 3'),
        (lambda: PlainMambaAdapter(PLAIN_ARCH, out_indices=[1]), 'always returns strides'),
        (lambda: PlainMambaAdapter(PLAIN_ARCH, deform_num_heads=5), '5 attention heads do not divide'),
        (lambda: Vim(VIM_ARCH, with_fpn=True, out_indices=[1]), 'with_fpn needs four out_indices'),
        (lambda: PlainMamba(PLAIN_ARCH, out_type='cls_token'), 'names of PlainMamba are featmap, avg_featmap'),
        (lambda: PlainMambaAdapter(PLAIN_ARCH, out_type='avg_featmap'), 'names of PlainMambaAdapter are featmap'),
        (lambda: PlainMamba(PLAIN_ARCH, out_type='avg_featmap', out_indices=[1, 3]), r'must be -1, got \[1, 3\]'),
        (lambda: PlainMamba(PLAIN_ARCH, out_type='avg_featmap', final_norm=False), 'set final_norm=True'),
        (lambda: Vim(VIM_ARCH, out_type='cls_token', if_cls_token=False), 'needs a class token'),
        (lambda: Vim(VIM_ARCH, out_type='cls_token', with_fpn=True, out_indices=FOUR), 'with_fpn makes a pyramid'),
        (
            lambda: Vim(VIM_ARCH, out_type='cls_token', pruning=dict(PRUNING, restoration='hold')),
            "pruning.restoration is about maps, and out_type 'cls_token' returns none",
        ),
        (lambda: PlainMamba(PLAIN_ARCH, pruning=dict(layers=[4], keep_ratio=0.5)), 'names layer 4'),
        (
            lambda: PlainMamba(dict(PLAIN_ARCH, layers_with_dwconv=(2,)), pruning=dict(layers=[1], keep_ratio=0.5)),
            'pruning must start at layer 2 or later',
        ),
    ],
)
def test_config_mistakes_fail_at_build_time(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ('kind', 'hw', 'message'),
    [
        ('plain_mamba', (15, 64), 'is 15x64 pixels, smaller than one 16x16 patch'),
        ('vim_cls', (8, 8), 'smaller than one 16x16 patch'),
        ('vim_cls', (64, 72), 'do not tile an image of 64x72'),
        ('adapter', (64, 48), 'sides divisible by 32, got an image of 64x48'),
    ],
)
def test_image_sizes_that_cannot_be(kind, hw, message):
    with pytest.raises(ValueError, match=message):
        make(kind)(torch.randn(1, 3, *hw))


def test_no_parameter_is_left_without_gradient():
    """DistributedDataParallel refuses such parameters."""
    for kind in MAKERS:
        model = make(kind).train()
        sum(o.sum() for o in model(torch.randn(2, 3, 64, 64))).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == [], kind


@pytest.mark.parametrize('kind', MAKERS)
def test_gradient_checkpointing_changes_nothing(kind):
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for with_cp in (False, True):
        model = make(kind, with_cp=with_cp, pruning=dict(layers=[1], keep_ratio=0.5)).train()
        sum(o.square().sum() for o in model(images)).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_vim_block_drops_its_incoming_state_at_the_rate_of_the_block_before():
    model = Vim(VIM_ARCH, img_size=64, drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for block in model.layers]
    assert rates == pytest.approx([0, 0, 0.1, 0.2])
    assert model.drop_path.drop_prob == 0.3


def last_tokens(model, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The backbone's vector, and what the final norm gave: tokens (B, K, C) and which of them are class tokens."""
    seen = {}
    norm = next(getattr(model, name) for name in ('norm_f', 'ln1', 'outnorm3') if hasattr(model, name))
    handles = [
        norm.register_forward_hook(lambda _, args, out: seen.update(tokens=out)),
        layers_of(model)[-1].register_forward_pre_hook(lambda _, args: seen.update(state=args[-1])),
    ]
    (out,) = model(images)
    for handle in handles:
        handle.remove()
    return out, seen['tokens'], seen['state'].is_protected.expand(seen['tokens'].shape[:2])


@pytest.mark.parametrize('reduction', [None, 'prune', 'merge', 'evit'])
@pytest.mark.parametrize('kind', VECTOR_MAKERS)
def test_vector_is_read_from_the_tokens_that_are_left(kind, reduction):
    pruning = None if reduction is None else dict(PRUNING, reduction=reduction)
    model = make(kind, pruning=pruning)
    with torch.no_grad():
        out, tokens, is_class_token = last_tokens(model, torch.randn(3, 3, 64, 96))
    assert tokens.shape[1] == model.tokens_per_layer((64, 96))[-1]
    wanted = is_class_token if model.out_type == 'cls_token' else ~is_class_token
    by_hand = torch.stack([row[picked].mean(0) for row, picked in zip(tokens, wanted, strict=True)])
    assert out.shape == (3, 64 if kind.startswith('vmamba') else 24)
    torch.testing.assert_close(out, by_hand)


@pytest.mark.parametrize(('vector', 'maps'), [('plain_mamba_avg', 'plain_mamba'), ('vim_avg', 'vim_cls')])
def test_vector_of_a_dense_model_is_the_mean_of_its_map(vector, maps):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(make(vector)(images)[0], make(maps)(images)[-1].mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', VECTOR_MAKERS)
def test_vector_at_keep_ratio_1_is_the_dense_one(kind):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        pruned = make(kind, pruning=dict(PRUNING, keep_ratio=1.0))(images)
        assert torch.equal(pruned[0], make(kind)(images)[0])
        assert not torch.equal(make(kind, pruning=PRUNING)(images)[0], pruned[0])


@pytest.mark.parametrize('kind', VECTOR_MAKERS)
def test_vector_restores_nothing_and_trains_every_parameter(kind, monkeypatch):
    model = make(kind, pruning=PRUNING | DROPPED).train()
    states, restores = [], len(model.stages) > 1  # at the end of a stage every cell returns by necessity
    if not restores:
        monkeypatch.setattr(type(model.pruner), 'restore', lambda *args, **kwargs: pytest.fail('restored'))
    layers_of(model)[-1].register_forward_pre_hook(lambda _, args: states.append(args[-1]))
    model(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
    assert (states[-1].leader is None) == (not restores or states[-1].kept is None)
    assert bool(states[-1].remembered) == (states[-1].kept is not None and restores)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('kind', VECTOR_MAKERS)
def test_vector_meets_a_target(kind):
    dense, halved = (
        count_on_meta(on_meta(make(kind, pruning=p)), (64, 64)) for p in (None, dict(PRUNING, keep_ratio=0.5))
    )
    model = make(kind, pruning=dict(layers=PRUNING['layers'], flops_reduction=1 - halved / dense, input_shape=(64, 64)))
    assert count_on_meta(on_meta(model), (64, 64)) == pytest.approx(halved, abs=1e-3 * dense)
