from __future__ import annotations

import torch

from mmssmprune.pruning import KeptTokens, choose_tokens, gather_rows
from mmssmprune.pruning.kept_tokens import most_similar

KEPT = KeptTokens(torch.tensor([[0, 2, 5], [1, 3, 4]]), 6)


def test_gather_and_scatter_are_inverse_on_kept_cells():
    full = torch.randn(2, 6, 3)
    compact = KEPT.gather(full)
    assert torch.equal(compact[1, 2], full[1, 4])
    assert torch.equal(KEPT.scatter(compact, full), full)
    zeroed = KEPT.scatter(compact)
    assert torch.equal(zeroed[0, [0, 2, 5]], full[0, [0, 2, 5]])
    assert (zeroed[0, [1, 3, 4]] == 0).all()


def test_scatter_sends_gradients_to_kept_tokens_and_to_the_base():
    base = torch.randn(2, 6, 3, requires_grad=True)
    compact = torch.randn(2, 3, 3, requires_grad=True)
    KEPT.scatter(compact, base).sum().backward()
    assert (compact.grad == 1).all()
    assert (KEPT.gather(base.grad) == 0).all()
    assert base.grad.sum() == 2 * 3 * 3


def test_subset_composes():
    assert KEPT.subset(torch.tensor([[0, 2], [1, 2]])).index.tolist() == [[0, 5], [3, 4]]


def test_choose_takes_the_highest_per_image_in_raster_order():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.9, 0.1, 0.2, 0.3]])
    assert choose_tokens(score, 2).tolist() == [[1, 3], [0, 3]]


def test_ties_go_to_the_earlier_position():
    assert choose_tokens(torch.ones(1, 1000), 3).tolist() == [[0, 1, 2]]


def test_protected_tokens_stay_in_every_image():
    score = torch.tensor([[9.0, 8, 0, 7], [9, 8, 0, 7], [9, 8, 0, 7]])
    assert choose_tokens(score, 2, torch.tensor([False, False, True, False])).tolist() == [[0, 2]] * 3


def test_gather_rows_may_repeat():
    x = torch.arange(6.0).view(2, 3, 1)
    assert gather_rows(x, torch.tensor([[2, 2, 0, 1], [0, 0, 0, 0]])).flatten().tolist() == [2, 2, 0, 1, 3, 3, 3, 3]


def test_most_similar_by_brute_force():
    x, chosen = torch.randn(2, 9, 5), torch.tensor([[0, 4, 7], [2, 3, 8]])
    leader = most_similar(x, chosen)
    for b in range(2):
        for cell in range(9):
            cosines = [torch.nn.functional.cosine_similarity(x[b, cell], x[b, k], dim=0).item() for k in chosen[b]]
            assert leader[b, cell] == cosines.index(max(cosines))
    assert torch.equal(leader.gather(1, chosen), torch.arange(3).expand(2, -1))
