from __future__ import annotations

import pytest
import torch

from mmssmprune.pruning import KeptTokens, sequence_scan, snake_scan

GRIDS = [(1, 1), (1, 5), (5, 1), (3, 4), (5, 7)]


def walk_by_hand(order: list[int], kept: set[int]) -> tuple[list[int], list[int]]:
    """The twin of ScanOrder.over: step along, note kept cells and how many pruned ones came before."""
    visited, gaps, skipped = [], [], 0
    for cell in order:
        if cell in kept:
            visited.append(cell)
            gaps.append(skipped)
            skipped = 0
        else:
            skipped += 1
    return visited, gaps


@pytest.mark.parametrize('hw', GRIDS)
def test_snake_visits_neighbours_and_names_the_move(hw):
    height, width = hw
    path = snake_scan(height, width)
    steps = {1: (0, 1), 2: (0, -1), 3: (-1, 0), 4: (1, 0)}
    for order, move in zip(path.order.tolist(), path.move.tolist(), strict=True):
        assert sorted(order) == list(range(height * width))
        assert move[0] == 0
        for before, cell, code in zip(order, order[1:], move[1:], strict=False):
            delta = (cell // width - before // width, cell % width - before % width)
            assert delta == steps[code]


@pytest.mark.parametrize('hw', GRIDS)
@pytest.mark.parametrize('keep', [1, 0.5, 0.2])
def test_walk_over_kept_tokens_equals_the_walk_by_hand(hw, keep):
    path = snake_scan(*hw)
    cells = hw[0] * hw[1]
    count = max(1, round(keep * cells))
    index = torch.stack([torch.randperm(cells)[:count].sort().values for _ in range(3)])
    walk = path.over(KeptTokens(index, cells))
    for b in range(3):
        for r, order in enumerate(path.order.tolist()):
            visited, gaps = walk_by_hand(order, set(index[b].tolist()))
            assert index[b][walk.order[b, r]].tolist() == visited
            assert walk.gap[b, r].tolist() == gaps
            assert walk.move[b, r].tolist() == [path.move[r, path.step[r, c]].item() for c in visited]


def test_mirrored_image_has_mirrored_gaps():
    """Mirror the kept cells left-right, and the walk with them: the gaps stay.

    The fixed snakes start top left or at the ends, so what is mirrored is the walk: its order with columns flipped.
    """
    height, width = 4, 6
    path = snake_scan(height, width)
    index = torch.tensor([[1, 4, 8, 13, 20]])
    mirrored = (index // width * width + width - 1 - index % width).sort().values
    cells = torch.arange(height * width).view(height, width).flip(1).flatten()
    flipped = type(path).of(cells[path.order], path.move)
    expected = path.over(KeptTokens(index, height * width))
    actual = flipped.over(KeptTokens(mirrored, height * width))
    assert torch.equal(actual.gap, expected.gap)
    assert torch.equal(cells[mirrored[0][actual.order[0]]], index[0][expected.order[0]])


def test_sequence_path_is_forward_and_backward():
    path = sequence_scan(5)
    assert path.order.tolist() == [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]
    walk = path.over(KeptTokens(torch.tensor([[1, 2, 4]]), 5))
    assert walk.gap.tolist() == [[[1, 0, 1], [0, 1, 0]]]


def test_dense_paths_are_cached():
    assert snake_scan(3, 4) is snake_scan(3, 4)
