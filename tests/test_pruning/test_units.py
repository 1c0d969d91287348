"""Whole blocks of cells live or die, at the borders of odd grids too, and in every image as many."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny_backbones import PRUNING, make

from mmssmprune.pruning import TokenPruner, TokenState, sequence_scan
from mmssmprune.pruning.units import choose_units, unit_groups


def blocks(hw: tuple[int, int], unit: tuple[int, int]) -> list[list[int]]:
    """The cells of each block."""
    corners = product(range(0, hw[0], unit[0]), range(0, hw[1], unit[1]))
    return [
        [y * hw[1] + x for y in range(top, min(top + unit[0], hw[0])) for x in range(left, min(left + unit[1], hw[1]))]
        for top, left in corners
    ]


@pytest.mark.parametrize('unit', [(2, 2), (1, 3), (3, 2), (9, 9)])
@pytest.mark.parametrize('hw', [(4, 6), (5, 7), (1, 8), (3, 3)])
def test_the_best_blocks_of_each_size_by_hand(hw, unit):
    length = hw[0] * hw[1]
    protected = (length // 2,)
    tokens = TokenState.dense(sequence_scan(length + 1), hw, protected)
    score = torch.randn(3, length + 1)
    groups = unit_groups(hw, unit)
    keep = [(group.count + 1) // 2 for group in groups]
    assert sum(group.count * group.cells for group in groups) == length
    lives = choose_units(score, tokens, unit, keep)
    patches = [i for i in range(length + 1) if i not in protected]
    for b in range(3):
        expected = set()
        for group, count in zip(groups, keep, strict=True):
            found = [cells for cells in blocks(hw, unit) if len(cells) == group.cells]
            if len({g.cells for g in groups}) == len(groups):  # else two groups have blocks of as many cells
                found.sort(key=lambda cells: -score[b, patches][cells].mean().item())
                expected |= {cell for cells in found[:count] for cell in cells}
        alive = {cell for cell, place in enumerate(patches) if lives[b, place]}
        assert len(alive) == sum(n * g.cells for n, g in zip(keep, groups, strict=True))
        assert all(alive.isdisjoint(cells) or alive.issuperset(cells) for cells in blocks(hw, unit))
        if expected:
            assert alive == expected


@pytest.mark.parametrize('regime', ['progressive', 'per_output'])
@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls', 'vim_double', 'vmamba'])
def test_every_pruning_of_a_backbone_keeps_whole_blocks(kind, regime, monkeypatch):
    model = make(kind, pruning=dict(PRUNING, unit=(2, 2), regime=regime)).double()
    seen, reduce = [], TokenPruner._reduce

    def watched(self, layer, streams, *args):
        streams, tokens = reduce(self, layer, streams, *args)
        seen.append((len(streams[0]), tokens))
        return streams, tokens

    monkeypatch.setattr(TokenPruner, '_reduce', watched)
    images = torch.randn(3, 3, 112, 176, dtype=torch.float64)  # 7x11 cells, of VMamba's third stage 7x11 too
    together, plan = model(images), model.tokens_per_layer((112, 176))
    for (batch, tokens), n in zip(seen, (plan[1], plan[-1]) if kind != 'vmamba' else (plan[1], plan[3]), strict=True):
        assert tokens.kept.index.shape == (batch, n)
        for row in tokens.cells:
            alive = set(row.tolist()) - {-1}
            assert all(alive.isdisjoint(c) or alive.issuperset(c) for c in blocks(tokens.hw_shape, (2, 2)))
    for b in range(3):
        for whole, one in zip(together, model(images[b : b + 1]), strict=True):
            assert torch.allclose(whole[b], one[0], rtol=1e-9, atol=1e-9)


def test_a_ratio_of_one_is_the_dense_model_bit_for_bit():
    images = torch.randn(2, 3, 80, 48)
    pruned = make('plain_mamba', pruning=dict(PRUNING, keep_ratio=1.0, unit=(2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(make('plain_mamba')(images), pruned(images), strict=True))


def test_units_of_one_cell_are_tokens():
    images = torch.randn(2, 3, 80, 112)
    one, plain = (
        make('plain_mamba', pruning=dict(PRUNING, importance='clip', **unit))(images)
        for unit in (dict(unit=[1, 1]), {})
    )
    assert all(torch.equal(a, b) for a, b in zip(one, plain, strict=True))


@pytest.mark.parametrize('unit', [2, (2,), (2, 0), (2, 1.5), 'ab', (True, 2)])
def test_a_unit_is_two_whole_numbers(unit):
    with pytest.raises(ValueError, match=r'pruning.unit must be \(h, w\) in cells, two whole numbers above 0'):
        make('plain_mamba', pruning=dict(PRUNING, unit=unit))


@pytest.mark.parametrize('reduction', ['merge', 'evit'])
def test_reductions_that_ask_no_score_have_no_units(reduction):
    with pytest.raises(ValueError, match=f"'{reduction}' goes by something else; leave it out or set reduction to 'p"):
        make('plain_mamba', pruning=dict(PRUNING, unit=(2, 2), reduction=reduction))
