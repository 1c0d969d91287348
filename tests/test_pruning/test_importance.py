from __future__ import annotations

import math

import pytest
import torch

from mmssmprune.pruning import IMPORTANCE, KeptTokens, LayerTrace, RawDelta, TokenState, sequence_scan, snake_scan

Y = torch.tensor([[[1.0, -3.0], [-2.0, 0.5], [4.0, 0.0]]])


def score(name: str, trace: LayerTrace, tokens: TokenState | None = None) -> torch.Tensor:
    return IMPORTANCE[name](trace, tokens or TokenState.dense(snake_scan(1, 3), (1, 3)))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('clip', [0.5, 0.25, 2.0]),
        ('sum', [-1.0, -0.75, 2.0]),
        ('l1', [2.0, 1.25, 2.0]),
        ('l2', [math.sqrt(5), math.sqrt(4.25 / 2), math.sqrt(8)]),
    ],
)
def test_scores_by_hand(name, expected):
    assert score(name, LayerTrace(Y, ()))[0].tolist() == pytest.approx(expected)


def test_delta_is_the_mean_step_size_of_all_directions():
    raw = torch.randn(2, 3, 4)
    bias = torch.randn(4)
    expected = torch.log1p(torch.exp(torch.stack([raw + bias, 2 * raw]))).mean((0, 3))
    trace = LayerTrace(Y.expand(2, -1, -1), (RawDelta(raw, bias, bias), RawDelta(2 * raw, torch.zeros(4), bias)))
    assert torch.allclose(score('delta', trace), expected, atol=1e-6)


def test_released_is_the_second_direction_in_the_order_of_its_walk():
    first, second = torch.randn(2, 2, 6, 5)
    tokens = TokenState.dense(sequence_scan(6), (1, 6))
    found = score('released', LayerTrace(first + second, (), (first, second)), tokens)
    assert torch.equal(found, second.mean(-1).flip(1))
    kept = KeptTokens(torch.tensor([[0, 2, 3], [1, 4, 5]]), 6)
    fewer = (first[:, :3], second[:, :3])
    found = score('released', LayerTrace(sum(fewer), (), fewer), tokens.keeping(kept))
    assert torch.equal(found, fewer[1].mean(-1).flip(1))


def test_cls_similarity_is_the_cosine_to_the_class_token():
    y = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], [[0.0, 1.0], [-5.0, 0.0], [1.0, 0.0]]])
    tokens = TokenState.dense(sequence_scan(3), (1, 2), protected=(1,))
    expected = torch.tensor([[0.0, 1.0, math.sqrt(0.5)], [0.0, 1.0, -1.0]])
    assert torch.allclose(score('cls_similarity', LayerTrace(y, ()), tokens), expected, atol=1e-6)


@pytest.mark.parametrize(('count', 'per_block'), [(16, 1), (32, 2), (48, 3)])
def test_grid_keeps_an_even_pattern(count, per_block):
    hw = (8, 8)
    tokens = TokenState.dense(snake_scan(*hw), hw)
    scores = score('grid', LayerTrace(torch.zeros(1, 64, 1), ()), tokens)
    kept = torch.zeros(64).index_fill(0, scores[0].argsort(descending=True, stable=True)[:count], 1)
    blocks = kept.view(4, 2, 4, 2).sum((1, 3))
    assert (blocks == per_block).all()


def test_grid_scores_belong_to_cells_not_to_ranks():
    hw = (4, 4)
    path = sequence_scan(17)
    dense = TokenState.dense(path, hw, protected=(8,))
    kept = KeptTokens(torch.tensor([[1, 5, 8, 9, 16]]), 17)
    pruned = TokenState.dense(path, hw, (8,)).keeping(kept)
    full = score('grid', LayerTrace(torch.zeros(1, 17, 1), ()), dense)
    some = score('grid', LayerTrace(torch.zeros(1, 5, 1), ()), pruned)
    spare = [0, 1, 3, 4]  # the class token's score means nothing
    assert torch.equal(some[0, spare], full[0, kept.index[0, spare]])


def test_random_differs_between_images_and_repeats_with_the_seed():
    trace = LayerTrace(torch.zeros(2, 50, 1), ())
    torch.manual_seed(1)
    first = score('random', trace)
    torch.manual_seed(1)
    assert torch.equal(first, score('random', trace))
    assert not torch.equal(first[0], first[1])


def test_cells_leave_out_class_tokens():
    tokens = TokenState.dense(sequence_scan(6), (2, 2), protected=(0, 5))
    assert tokens.cells.tolist() == [[-1, 0, 1, 2, 3, -1]]
    tokens = TokenState.dense(sequence_scan(5), (2, 2), protected=(2,))
    assert tokens.cells.tolist() == [[0, 1, -1, 2, 3]]
