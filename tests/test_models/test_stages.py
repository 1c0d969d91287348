"""Backbones of several stages: everything that pruning promises, where neither width nor length is one number."""

from __future__ import annotations

import pytest
import torch
from four_stages import DEPTHS, DIMS, make_four_stages
from tiny_backbones import DROPPED, PRUNING, make
from torch import nn

from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.pruning import CONV_FILL, IMPORTANCE
from mmssmprune.pruning.pruner import CHOICES
from mmssmprune.pruning.token_record import recorded

HW = (72, 104)  # grids 18x26, 9x13, 5x7 and 3x4
CELLS = (468, 117, 35, 12)
LAYERS = [0, 2, 4, 5, 8]  # twice in the third stage, once in each of the others
NAMES = [
    {key: name}
    for key, names in CHOICES.items()
    for name in names
    if name not in (*IMPORTANCE.needing('class_token'), *CONV_FILL.needing('sequence'), 'random')
]


def images(batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 3, *HW, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize('names', NAMES, ids=str)
def test_keep_ratio_one_is_dense_bit_for_bit(names):
    dense, pruned = make_four_stages(), make_four_stages(pruning=dict(layers=LAYERS, keep_ratio=1, **names))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(dense(images()), pruned(images()), strict=True))


@pytest.mark.parametrize('names', NAMES, ids=str)
def test_every_name_prunes_inside_stages_and_trains(names):
    model = make_four_stages(pruning=dict(layers=LAYERS, keep_ratio=0.6, **names))
    with torch.no_grad():
        together = model.double()(images(dtype=torch.float64))
        alone = model(images(dtype=torch.float64)[1:])
    assert [tuple(out.shape[1:]) for out in together] == [
        (dims, *grid) for dims, grid in zip(DIMS, model.grids_of(HW), strict=True)
    ]
    for whole, one in zip(together, alone, strict=True):
        assert torch.allclose(whole[1], one[0], rtol=1e-9, atol=1e-9)
    outs = model.float().train()(images())
    sum(out.square().sum() for out in outs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('regime', ['progressive', 'per_output'])
def test_rows_per_layer_are_the_plan(regime, with_cp):
    model = make_four_stages(pruning=dict(layers=LAYERS, keep_ratio=0.6, regime=regime), with_cp=with_cp).train()
    plan = model.tokens_per_layer(HW)
    assert plan == [468, 281, 117, 71, 35, 21, 13, 13, 12, 8]
    rows = []
    for stage in model.stages:
        for layer in stage.layers:
            layer.mamba.in_proj.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    sum(out.sum() for out in model(images())).backward()
    assert rows[: len(plan)] == plan


def test_a_stage_begins_with_every_cell_unless_the_plan_prunes_where_it_begins():
    scores, begun = [], []
    model = make_four_stages(pruning=DROPPED | dict(layers=[2, 3, 4], keep_ratio=0.5)).double()
    begin = model.pruner.begin

    def watched(streams, tokens, before):
        found = begin(streams, tokens, before)
        scores.append(before.score)
        begun.append(found[1].kept)
        return found

    model.pruner.begin = watched
    with torch.no_grad():
        model(images(dtype=torch.float64))
    assert [kept is None for kept in begun] == [True, False, True]
    assert scores[1].shape == (2, 117, 1)  # of pruned cells too
    for score, kept in zip(scores[1], begun[1].index, strict=True):
        # 5x7 cells from 9x13: row i is the mean of rows floor(9 i / 5) to ceil(9 (i + 1) / 5).
        grid = score.view(9, 13)
        pooled = torch.stack(
            [
                grid[9 * i // 5 : -(-9 * (i + 1) // 5), 13 * j // 7 : -(-13 * (j + 1) // 7)].mean()
                for i in range(5)
                for j in range(7)
            ]
        )
        assert kept.tolist() == sorted(pooled.topk(18).indices.tolist())


BEGUN = [1, 3, 4, 7]  # where the second, the third and the last stage begin, and inside the third


@pytest.mark.parametrize('names', NAMES, ids=str)
def test_stages_that_begin_pruned_prove_the_same(names):
    pruning = dict(layers=BEGUN, keep_ratio=1, **names)
    dense, model = make_four_stages(), make_four_stages(pruning=pruning)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(dense(images()), model(images()), strict=True))
    model.set_keep_ratio(0.6)
    plan = model.tokens_per_layer(HW)
    per_output = names.get('regime', '').startswith('per_')
    # What the third stage's begin left is what its pruning may choose from: no output lies between them.
    assert plan == [468, 468, 71, 71, 21, 13, 13, 13, 8, 8], per_output
    rows = []
    for stage in model.stages:
        for layer in stage.layers:
            layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    with torch.no_grad():
        together = model.double()(images(dtype=torch.float64))
        assert rows == plan
        alone = model(images(dtype=torch.float64)[1:])
    for whole, one in zip(together, alone, strict=True):
        assert torch.allclose(whole[1], one[0], rtol=1e-9, atol=1e-9)
    outs = model.float().train()(images())
    sum(out.square().sum() for out in outs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize('saved', [0.1, 0.2])
def test_flops_targets_are_met(saved):
    dense = count_on_meta(on_meta(make_four_stages()), HW)
    model = make_four_stages(pruning=dict(flops_reduction=saved, input_shape=HW, layers=[0, 2, 5]))
    assert 1 - count_on_meta(on_meta(model), HW) / dense == pytest.approx(saved, abs=0.005)


def test_unless_told_the_deepest_stage_and_those_after_it_begin_pruned_for_a_target():
    model = make_four_stages(pruning=dict(tokens=0.8))
    assert model.pruner.plan.layers == (3, 7)
    shares = [
        n / (h * w)
        for n, (h, w) in zip(model.tokens_per_layer((1024, 1024))[4::4], model.grids_of((1024, 1024))[2:], strict=True)
    ]
    assert shares == pytest.approx([1 - 0.2 * 10 / 6] * 2, abs=0.01)


def test_depths_for_layer_decay_count_through_the_stages():
    model = make_four_stages(pruning=dict(layers=LAYERS, keep_ratio=0.6))
    depth = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depth['patch_embed.proj.weight'] == 0
    assert [depth[f'blocks.{s}.{i}.norm.weight'] for s, n in enumerate(DEPTHS) for i in range(n)] == list(range(1, 11))


def test_records_have_a_grid_per_stage():
    model = make_four_stages(pruning=dict(layers=LAYERS, keep_ratio=0.6))
    with torch.no_grad(), recorded(model.pruner) as records:
        model(images())
    (record,) = records
    assert record.hw_shapes == model.grids_of(HW)
    assert record.tokens_per_layer == model.tokens_per_layer(HW)
    assert [p.layer for p in record.prunings] == LAYERS
    assert [tuple(tap.kept.shape[1:]) for tap in record.taps] == record.hw_shapes
    assert [int(tap.kept[0].sum()) for tap in record.taps] == [281, 71, 13, 8]


def test_all_states_of_a_checkpoint_come_back():
    pruning = dict(layers=LAYERS, keep_ratio=0.6, restoration='mask_token')
    model, again = make_four_stages(pruning=pruning), make_four_stages(pruning=pruning)
    for name, parameter in model.named_parameters():
        if name.startswith('pruner.'):
            nn.init.normal_(parameter)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(images()), again(images()), strict=True))


def test_dense_tokens_are_those_of_each_stage():
    backbone = make('vmamba', pruning=dict(PRUNING))
    grids = backbone.grids_of((64, 96))
    assert backbone.dense_tokens_per_layer(grids) == [384, 384, 96, 24, 24, 6]
    assert make('vim_cls').dense_tokens_per_layer([(4, 6)]) == [25] * 4
