"""The simple feature pyramid: shapes, gradients, its norm, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope

import mmssmprune.models  # noqa: F401  (registers)


def build(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS.build(dict(type='SimpleFeaturePyramid', **dict(dict(in_channels=8, out_channels=6), **kwargs)))


@pytest.mark.parametrize(('h', 'w'), [(4, 4), (5, 3), (2, 7), (3, 2)])
def test_five_strides_from_one_map(h, w):
    outs = build()((torch.randn(2, 8, h, w),))
    sides = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (h // 2, w // 2), ((h // 2 + 1) // 2, (w // 2 + 1) // 2)]
    assert [tuple(out.shape) for out in outs] == [(2, 6, *side) for side in sides]
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


def test_every_level_and_parameter_has_a_gradient():
    neck = build()
    x = torch.randn(1, 8, 5, 3, requires_grad=True)
    outs = neck([x])
    for out in outs:
        (grad,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x, retain_graph=True)
        assert grad.abs().sum() > 0
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())


def test_outputs_are_layer_normalised_over_channels():
    for out in build()([torch.randn(1, 8, 4, 6)])[:4]:
        assert out.mean(1).abs().max() < 1e-5
        assert torch.allclose(out.var(1, unbiased=False), torch.ones(()), atol=1e-2)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_layer_norm_is_found_under_the_scope_of_a_suite(scope):
    with DefaultScope.overwrite_default_scope(scope):
        norm = MODELS.build(dict(type='LN2d', normalized_shape=5, eps=1e-6))
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 5, 3, 4)
    expected = F.layer_norm(x.movedim(1, -1), (5,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    assert torch.allclose(norm(x), expected)


def test_keys_are_those_of_detectron2():
    keys = {key for key in build().state_dict() if key.startswith(('simfp_2', 'simfp_5'))}
    convs = {f'{i}.{name}' for i in (4, 5) for name in ('weight', 'norm.weight', 'norm.bias')}
    ups = {f'{i}.{name}' for i in (0, 1, 3) for name in ('weight', 'bias')}
    down = {f'simfp_5.{i}.{name}' for i in (1, 2) for name in ('weight', 'norm.weight', 'norm.bias')}
    assert keys == {f'simfp_2.{name}' for name in convs | ups} | down


@pytest.mark.parametrize('in_channels', [0, 6, [8, 8]])
def test_wrong_width(in_channels):
    with pytest.raises(ValueError, match=r'in_channels must be a multiple of 4, the width of the one map, got'):
        build(in_channels=in_channels)


@pytest.mark.parametrize('shapes', [[(1, 12, 4, 4)], [(1, 8, 1, 4)], [(1, 8, 4, 4)] * 2, [(1, 16, 8)]])
def test_wrong_input(shapes):
    with pytest.raises(ValueError, match=r'takes one map of 8 channels and sides of at least 2, .*; got \['):
        build()([torch.randn(shape) for shape in shapes])
