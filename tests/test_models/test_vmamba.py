"""What only VMamba has: named variants, stages as outputs, steps between grids of any size."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import VMAMBA_ARCH, make

from mmssmprune.models import VMamba

# Parameters of the official classifiers, of which norm and head belong to no stage (head: 1000 x C + 1000).
PARAMETERS = {
    'tiny': 30_249_064,
    'T[s2l5]': 30_705_832,
    'Small': 50_147_752,
    'B': 88_557_800,
    's[s1l20]': 49_012_840,
    'b[s1l20]': 86_614_504,
    'vanilla-T': 22_893_448,
    'vanilla-s': 44_417_416,
    'vanilla-b': 76_254_056,
}


@pytest.mark.parametrize('arch', PARAMETERS)
def test_variants_have_the_published_numbers_of_parameters(arch):
    with torch.device('meta'):
        model = VMamba(arch, out_indices=-1)
    head = 1000 * model.embed_dims[-1] + 1000
    assert sum(p.numel() for p in model.parameters()) + head == PARAMETERS[arch]


def test_names_of_variants_are_aliases():
    assert [VMamba(name).depths for name in ('T', 'tiny', 't[s1l8]')] == [(2, 2, 8, 2)] * 3


@pytest.mark.parametrize(
    ('hw', 'grids'),
    [
        ((70, 93), [(18, 24), (9, 12), (5, 6), (3, 3)]),
        ((1, 1), [(1, 1)] * 4),
        ((1, 40), [(1, 10), (1, 5), (1, 3), (1, 2)]),
    ],
)
def test_any_image_size_runs(hw, grids):
    model = make('vmamba', pruning=dict(layers=[0, 2], keep_ratio=0.5))
    assert model.grids_of(hw) == grids
    outs = model(torch.randn(2, 3, *hw))
    assert [tuple(out.shape[2:]) for out in outs] == grids
    assert all(out.isfinite().all() for out in outs)


def test_the_first_release_crops_what_is_no_whole_patch():
    model = make('vmamba_gated')
    assert model.grids_of((70, 93)) == [(17, 23), (9, 12), (5, 6), (3, 3)]
    with pytest.raises(ValueError, match='is 3x64 pixels, smaller than one 4x4 patch'):
        model(torch.randn(1, 3, 3, 64))


def test_stages_after_the_last_output_neither_run_nor_train():
    """DistributedDataParallel refuses parameters without a gradient; the keys are those of the whole model."""
    model = make('vmamba', out_indices=(0, 2)).train()
    whole = make('vmamba')
    assert model.state_dict().keys() == {
        key for key in whole.state_dict() if not key.startswith(('outnorm1', 'outnorm3'))
    }
    assert model.tokens_per_layer((64, 64)) == whole.tokens_per_layer((64, 64))[:5]
    with pytest.raises(ValueError, match='names layer 5, but this backbone has layers 0 to 4'):
        model.set_pruning(dict(layers=[5], keep_ratio=0.5))
    outs = model(torch.randn(1, 3, 64, 64))
    sum(out.sum() for out in outs).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert not model.layers[3]['blocks'][0].norm.weight.requires_grad
    with torch.no_grad():
        for ours, theirs in zip(outs, whole(torch.randn(1, 3, 64, 64))[::2], strict=True):
            assert ours.shape == theirs.shape


def test_downsampling_has_the_depth_of_the_stage_that_it_ends():
    model = VMamba(VMAMBA_ARCH)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {count for _, count in depths.values()} == {8}
    expected = {'patch_embed.0.weight': 0, 'layers.0.blocks.1.norm.weight': 2, 'layers.0.downsample.1.weight': 2}
    expected |= {'layers.1.blocks.0.op.Ds': 3, 'layers.2.downsample.3.bias': 5, 'outnorm0.weight': 7}
    assert {name: depths[name][0] for name in expected} == expected


def test_a_stage_may_have_any_width():
    model = VMamba(dict(embed_dims=(8, 12, 16), depths=(1, 1, 1), ssm_ratio=1.5), out_indices=(1, 2))
    assert [tuple(out.shape[1:]) for out in model(torch.randn(1, 3, 32, 32))] == [(12, 4, 4), (16, 2, 2)]


def test_starts_as_the_official_class_does():
    torch.manual_seed(0)
    op = VMamba('tiny').layers[0]['blocks'][0].op
    delta = torch.nn.functional.softplus(op.dt_projs_bias.detach())
    assert 1e-3 * 0.99 < float(delta.min()) < float(delta.max()) < 0.1 * 1.01
    assert float(op.dt_projs_weight.detach().abs().max()) <= 6**-0.5
    assert (op.A_logs == 0).all()
    assert (op.Ds == 1).all()
    assert float(op.in_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
