"""The official classes' arguments work: as many interactions as wanted, and every name of their constructors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_backbones import PLAIN_ARCH
from torch import nn

from mmssmprune.models import PlainMamba, PlainMambaAdapter
from mmssmprune.models.layers.deformable_attention import grid_reference_points
from mmssmprune.pruning import TokenState, snake_scan

EIGHT = dict(PLAIN_ARCH, num_layers=8)
RUNS = [
    [[0, 2], [3, 5], [6, 7]],
    [[0, 7]],
    [[0, 1, 2, 3], [4, 5, 6, 7]],
    [[i, i] for i in range(8)],
    [[0, 1], [2, 3], [4, 5], [6, 7]],
]


def adapter(**kwargs) -> PlainMambaAdapter:
    torch.manual_seed(0)
    kwargs = dict(arch=EIGHT, img_size=64, conv_inplane=8, norm_cfg=dict(type='BN')) | kwargs
    model = PlainMambaAdapter(**kwargs)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and 'A_' not in name:
            nn.init.normal_(parameter, std=0.3)
        if name.endswith('gamma'):
            nn.init.constant_(parameter, 0.5)
    return model.eval()


def by_hand(model: PlainMambaAdapter, images: torch.Tensor, runs: list[list[int]]) -> list[torch.Tensor]:
    """The official forward: the CNN's features after the last interaction, plus the last map at four sizes."""
    height, width = images.shape[-2:]
    shapes = [(height // s, width // s) for s in (8, 16, 32)]
    c1, *levels = model.spm(images)
    c = torch.cat([level + model.level_embed[i] for i, level in enumerate(levels)], 1)
    x, hw = model.embed(images)
    tokens = TokenState.dense(snake_scan(*hw), hw)
    for interaction, run in zip(model.interactions, runs, strict=True):
        x = interaction.injector(x, grid_reference_points([hw], x), c, shapes)
        for layer in model.layers[run[0] : run[-1] + 1]:
            x, _ = layer(x, tokens)
        for extractor in (interaction.extractor, *(interaction.extra_extractors or ())):
            c = extractor(c, grid_reference_points(shapes, x), x, hw, shapes)
    parts = c.split([h * w for h, w in shapes], 1)
    c2, c3, c4 = (p.transpose(1, 2).unflatten(2, shape).contiguous() for p, shape in zip(parts, shapes, strict=True))
    last = x.transpose(1, 2).unflatten(2, hw)
    scaled = [F.interpolate(last, scale_factor=s, mode='bilinear', align_corners=False) for s in (4, 2, 1, 0.5)]
    maps = [m + s for m, s in zip((model.up(c2) + c1, c2, c3, c4), scaled, strict=True)]
    return [getattr(model, f'ad_norm{i}')(m) for i, m in enumerate(maps, 1)]


@pytest.mark.parametrize('runs', RUNS, ids=str)
def test_any_number_of_interactions(runs):
    model, images = adapter(interaction_indexes=runs), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outs, expected = model(images), by_hand(model, images, runs)
    assert [tuple(o.shape) for o in outs] == [(2, 24, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    for out, wanted in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, wanted)
    extras = {name.split('.')[1] for name in model.state_dict() if 'extra_extractors' in name}
    assert extras == {str(len(runs) - 1)}
    assert model.output_layers == tuple(run[-1] for run in runs)


@pytest.mark.parametrize('regime', ['progressive', 'per_stage'])
def test_three_interactions_prune_and_train(regime):
    pruning = dict(layers=[1, 4], keep_ratio=0.5, regime=regime)
    model = adapter(interaction_indexes=RUNS[0], pruning=pruning).train()
    assert model.tokens_per_layer((64, 64)) == [16, 16, 8, 8, 8, *([4] * 3 if regime == 'progressive' else [8] * 3)]
    sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    dense, all_kept = adapter(interaction_indexes=RUNS[0]), adapter(interaction_indexes=RUNS[0], pruning=pruning)
    all_kept.set_keep_ratio(1)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(dense(images), all_kept(images), strict=True))


def test_maps_of_their_own_runs_need_four():
    adapter(interaction_indexes=RUNS[-1], vit_feature_from='each')(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"vit_feature_from='each' .* has 3 runs"):
        adapter(interaction_indexes=RUNS[0], vit_feature_from='each')


def test_the_adapters_official_arguments():
    official = dict(
        pretrain_size=224, conv_inplane=8, n_points=4, deform_num_heads=6, init_values=0.25, cffn_ratio=0.25
    )
    official.update(deform_ratio=1.0, add_vit_feature=True, num_classes=80, interaction_indexes=[[0, 3], [4, 7]])
    official.update(out_indices=-1, convert_syncbn=True, final_norm=False, drop_path_rate=0.1)
    model = PlainMambaAdapter(arch=EIGHT, img_size=64, norm_cfg=dict(type='BN'), **official)
    assert (model.interactions[0].injector.gamma == 0.25).all()
    assert isinstance(model.patch_embed.stem[1], nn.SyncBatchNorm)
    bare = adapter(with_cffn=False, use_extra_extractor=False)
    assert not [name for name in bare.state_dict() if 'ffn' in name or 'extra_extractors' in name]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = by_hand(bare, images, [list(run) for run in bare.interaction_indexes])
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(bare(images), expected, strict=True))


def test_the_backbones_official_arguments():
    layer_cfgs = dict(use_rms_norm=False, mamba_cfg=dict(d_state=4, expand=2, conv_size=3, bias=True, dt_init='random'))
    official = dict(arch=None, embed_dims=24, num_layers=3, num_convs_patch_embed=2, layers_with_dwconv=[0])
    official.update(layer_cfgs=layer_cfgs, norm_cfg=dict(type='LN', eps=1e-3), test_cfg=dict(), img_size=64)
    ours = dict(arch=dict(PLAIN_ARCH, num_layers=3, num_convs=2), img_size=64)
    models = []
    for kwargs in (official, ours):
        torch.manual_seed(0)
        models.append(PlainMamba(**kwargs).eval())
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert (models[0].ln1.eps, models[1].ln1.eps) == (1e-3, 1e-6)
    with torch.device('meta'):
        default = PlainMamba(arch=None)
    assert (default.embed_dims, default.num_layers, default.layers[0].mamba.in_proj.bias is None) == (192, 20, False)


def test_without_position_embedding():
    model = PlainMamba(PLAIN_ARCH, with_pos_embed=False, pruning=dict(layers=[1], tokens=0.8, restoration='mask_token'))
    assert 'pos_embed' not in model.state_dict()
    images = torch.randn(1, 3, 64, 64)
    x, hw = model.eval().embed(images)
    assert torch.equal(x, model.patch_embed(images)[0])
    assert model(images)[0].shape == (1, 24, *hw)
    model.load_state_dict(model.state_dict())


def test_dropout_interpolation_and_a_frozen_stem():
    images = torch.randn(1, 3, 64, 96)
    model = PlainMamba(PLAIN_ARCH, img_size=64, drop_rate=0.5, freeze_patch_embed=True, interpolate_mode='nearest')
    before = model.patch_embed.stem[1].running_mean.clone()
    dropped = (model.train().embed(images)[0] == 0).float().mean()
    assert 0.4 < dropped < 0.6
    assert torch.equal(model.patch_embed.stem[1].running_mean, before)
    assert not any(p.requires_grad for p in model.patch_embed.parameters())
    grid = model.pos_embed.transpose(1, 2).unflatten(2, (4, 4))
    positions = model.eval().embed(images)[0] - model.patch_embed(images)[0]
    expected = F.interpolate(grid, size=(4, 6), mode='nearest').flatten(2).transpose(1, 2)
    torch.testing.assert_close(positions, expected)
