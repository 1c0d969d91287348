"""What a recording says, against what the layers and norms are seen to get; and that it changes nothing."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import DROPPED, PRUNING, make
from torch import Tensor

from mmssmprune.models.backbones import PrunableBackbone
from mmssmprune.pruning.token_record import TokenRecord, recorded

GRID = (4, 6)
CLASS_TOKENS = {'plain_mamba': [], 'adapter': [], 'vim_seg': [], 'vim_cls': [12], 'vim_double': [0, 25]}


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model: PrunableBackbone, batch: int = 2) -> tuple[TokenRecord, tuple[Tensor, ...]]:
    torch.manual_seed(5)  # for importance 'random'
    with recorded(model.pruner) as records:
        outs = model(images(batch))
    (record,) = records
    return record, outs


def cell_map(kind: str, positions: list[int]) -> list[list[bool]]:
    """A grid of what is in ``positions`` of the sequence, by walking over it."""
    rows: list[list[bool]] = [[]]
    for position in range(24 + len(CLASS_TOKENS[kind])):
        if position in CLASS_TOKENS[kind]:
            continue
        if len(rows[-1]) == GRID[1]:
            rows.append([])
        rows[-1].append(position in positions)
    return rows


@pytest.mark.parametrize(
    'options', [{}, {'regime': 'per_stage'}, {'reduction': 'merge'}, {'reduction': 'evit'}], ids=str
)
@pytest.mark.parametrize('kind', CLASS_TOKENS)
def test_kept_cells_are_those_that_the_next_layer_gets(kind: str, options: dict):
    model = make(kind, pruning=dict(PRUNING, **options))
    seen: list[Tensor | None] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[-1].kept and args[-1].kept.index))
    record, outs = run(model)
    assert record.hw_shapes == [GRID]
    assert record.tokens_per_layer == model.tokens_per_layer((64, 96))
    assert [stage.layer for stage in record.prunings] == PRUNING['layers']
    for stage in record.prunings:
        index = seen[stage.layer + 1]
        assert stage.kept.tolist() == [cell_map(kind, row.tolist()) for row in index]
        assert stage.score is None or torch.equal(stage.candidates, ~stage.score.isnan())
        assert stage.candidates[stage.kept].all()
    first, second = record.prunings
    assert first.candidates.all()
    everything = options.get('regime') == 'per_stage'  # all maps are tapped after each layer
    assert torch.equal(second.candidates, torch.ones_like(first.kept) if everything else first.kept)
    assert [tap.layer for tap in record.taps] == list(model.output_layers)
    assert torch.equal(record.taps[-1].kept, second.kept)
    with torch.no_grad():
        torch.manual_seed(5)
        again = model(images())
    assert all(torch.equal(a, b) for a, b in zip(outs, again, strict=True))


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls'])
@pytest.mark.parametrize('importance', ['clip', 'l1', 'random'])
def test_scores_are_those_that_were_used(kind: str, importance: str):
    model = make(kind, pruning=dict(PRUNING, importance=importance))
    torch.manual_seed(5)
    with torch.no_grad():
        plain = model(images())
    record, outs = run(model)
    assert all(torch.equal(a, b) for a, b in zip(plain, outs, strict=True))  # no random number is drawn twice
    for stage in record.prunings:
        assert stage.score_name == importance
        pruned = stage.candidates & ~stage.kept
        for i in range(2):
            assert stage.score[i][stage.kept[i]].min() >= stage.score[i][pruned[i]].max()


def test_the_first_score_is_the_formula_of_the_paper():
    model = make('vim_cls', pruning=PRUNING | DROPPED)
    traces = []
    model.layers[0].register_forward_hook(lambda _, __, out: traces.append(out[-1].y))
    record, _ = run(model)
    expected = traces[0].clamp(min=0).mean(-1)
    expected = torch.cat([expected[:, :12], expected[:, 13:]], dim=1).reshape(2, *GRID)
    torch.testing.assert_close(record.prunings[0].score, expected)


@pytest.mark.parametrize('reduction', ['evit', 'merge'])
def test_what_decides_is_named(reduction: str):
    record, _ = run(make('vim_cls', pruning=dict(PRUNING, reduction=reduction)))
    stage = record.prunings[0]
    if reduction == 'merge':
        assert stage.score is None and stage.score_name == ''
        return
    assert stage.score_name == 'similarity to image'
    best = [row.flatten().topk(int(kept.sum()) - 1).indices for row, kept in zip(stage.score, stage.kept, strict=True)]
    assert all(kept.flatten()[i].all() for i, kept in zip(best, stage.kept, strict=True))  # one more is the fused one


def test_leaders_are_cells_that_kept_a_token():
    record, _ = run(make('vim_cls', pruning=dict(PRUNING, reduction='merge_neighbours', conv_fill='leader')))
    for stage in record.prunings:
        raster = torch.arange(stage.leader[0].numel()).view(stage.leader.shape[1:])
        for leader, kept in zip(stage.leader, stage.kept, strict=True):
            assert kept.flatten()[leader.flatten()].all() and torch.equal(leader[kept], raster[kept])


def test_norms_are_those_of_the_maps_before_the_norm_layers():
    model = make('plain_mamba', pruning=PRUNING)
    read = []
    for name in ('norm_layer0', 'norm_layer1', 'norm_layer2', 'ln1'):
        getattr(model, name).register_forward_pre_hook(lambda _, args: read.append(args[0]))
    record, _ = run(model)
    for tap, x in zip(record.taps, read, strict=True):
        torch.testing.assert_close(tap.norm, x.norm(dim=-1).reshape(2, *GRID))


def test_norms_in_vim_are_of_the_output_and_of_both_streams_after_the_last_block():
    model = make('vim_cls', pruning=PRUNING)
    read = []
    model.norm_f.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    record, outs = run(model)
    for tap, out in zip(record.taps[:-1], outs, strict=False):
        torch.testing.assert_close(tap.norm, out.norm(dim=1))
    last = read[-1].norm(dim=-1)
    torch.testing.assert_close(record.taps[-1].norm, torch.cat([last[:, :12], last[:, 13:]], 1).reshape(2, *GRID))


def test_a_recording_ends_and_an_error_leaves_nothing_behind():
    model = make('plain_mamba', pruning=PRUNING)
    before = dict(vars(model.pruner))
    with pytest.raises(ValueError, match='smaller than one'), recorded(model.pruner):
        model(torch.zeros(1, 3, 8, 8))
    assert vars(model.pruner) == before
    with recorded(model.pruner) as records, torch.no_grad():
        model(images(1))
        model(images(1))
    model(images(1))
    assert len(records) == 2
    assert torch.equal(records[0].prunings[1].kept, records[1].prunings[1].kept)


def test_at_keep_ratio_1_everything_is_kept():
    model = make('adapter', pruning=dict(PRUNING, keep_ratio=1.0))
    record, _ = run(model)
    assert all(stage.kept.all() for stage in record.prunings)
    assert [tap.layer for tap in record.taps] == [0, 1, 2, 3]
