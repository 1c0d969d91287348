"""Convolutions over kept tokens against the convolution of the image with pruned cells at zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mmssmprune.pruning import (
    KeptTokens,
    TokenState,
    causal_conv_over_sequence,
    conv_over_grid,
    gather_rows,
    module_over_grid,
    sequence_scan,
)


def state(kept: KeptTokens, hw: tuple[int, int]) -> TokenState:
    """Over a grid or, with one row, a sequence; the walks do not matter here."""
    return TokenState.dense(sequence_scan(hw[0] * hw[1]), hw).keeping(kept)


def masked(x: torch.Tensor, kept: KeptTokens) -> torch.Tensor:
    mask = torch.zeros(x.shape[:2], dtype=x.dtype)
    for b, row in enumerate(kept.index.tolist()):
        mask[b, row] = 1
    return x * mask[..., None]


def test_grid_neighbours_stand_at_their_places():
    hw, conv = (3, 5), nn.Conv2d(4, 4, 7, padding=3, groups=4).double()
    x = torch.randn(2, 15, 4, dtype=torch.float64)
    kept = KeptTokens(torch.tensor([[0, 3, 8, 14], [1, 2, 3, 7]]), 15)
    grid = conv(masked(x, kept).transpose(1, 2).view(2, 4, 3, 5)).flatten(2).transpose(1, 2)
    assert torch.allclose(
        conv_over_grid(kept.gather(x), conv, state(kept, hw)), kept.gather(grid), rtol=1e-12, atol=1e-14
    )


def test_causal_neighbours_stand_at_their_places_in_both_directions():
    conv = nn.Conv1d(4, 4, 4, padding=3, groups=4).double()
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    kept = KeptTokens(torch.tensor([[0, 1, 5, 8], [2, 3, 4, 7]]), 9)
    weight, bias = conv.weight[:, 0], conv.bias
    zeroed = masked(x, kept)
    for backward in (False, True):
        out = causal_conv_over_sequence(kept.gather(x), conv, backward, state(kept, (1, 9)))
        for b, row in enumerate(kept.index.tolist()):
            for k, cell in enumerate(row):
                total = bias.clone()
                for tap in range(4):
                    place = cell + tap if backward else cell - tap
                    if 0 <= place < 9:
                        total = total + weight[:, 3 - tap] * zeroed[b, place]
                assert torch.allclose(out[b, k], total, rtol=1e-12)


@pytest.mark.parametrize('kept', [1, 4, 9])
def test_compact_is_the_convolution_of_the_kept_sequence(kept):
    """As in the released code: whoever is kept next is the neighbour, in either direction."""
    conv = nn.Conv1d(4, 4, 4, padding=3, groups=4).double()
    x = torch.randn(2, kept, 4, dtype=torch.float64)
    index = torch.stack([torch.randperm(9)[:kept].sort().values for _ in range(2)])
    tokens = replace(state(KeptTokens(index, 9), (1, 9)), closes_ranks=True)
    for backward in (False, True):
        walked = (x.flip(1) if backward else x).transpose(1, 2)
        expected = conv(walked)[..., :kept].transpose(1, 2)
        out = causal_conv_over_sequence(x, conv, backward, tokens)
        assert torch.allclose(out, expected.flip(1) if backward else expected, rtol=1e-12, atol=1e-14)


def test_leaders_are_seen_at_their_cells():
    hw, kept = (3, 5), KeptTokens(torch.tensor([[0, 3, 8, 14], [1, 2, 3, 7]]), 15)
    leader = torch.randint(4, (2, 15)).scatter(1, kept.index, torch.arange(4).expand(2, -1))
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    tokens = replace(state(kept, hw), leader=leader, shows_leaders=True)
    grid, line = nn.Conv2d(4, 4, 7, padding=3, groups=4).double(), nn.Conv1d(4, 4, 4, padding=3, groups=4).double()
    every = TokenState.dense(tokens.dense_order, hw)
    for apply in (
        lambda x, tokens: conv_over_grid(x, grid, tokens),
        lambda x, tokens: causal_conv_over_sequence(x, line, False, tokens),
        lambda x, tokens: causal_conv_over_sequence(x, line, True, tokens),
    ):
        expected = kept.gather(apply(gather_rows(x, leader), every))
        assert torch.allclose(apply(x, tokens), expected, rtol=1e-12, atol=1e-14)


def test_a_whole_module_sees_a_grid_of_zeros():
    hw, kept = (3, 5), KeptTokens(torch.tensor([[0, 3, 8, 14], [1, 2, 3, 7]]), 15)
    x = torch.randn(2, 15, 4, dtype=torch.float64)
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.GELU()).double().eval()
    expected = module(masked(x, kept).transpose(1, 2).view(2, 4, 3, 5)).flatten(2).transpose(1, 2)
    out = module_over_grid(kept.gather(x), module, state(kept, hw))
    assert torch.allclose(out, kept.gather(expected), rtol=1e-12, atol=1e-14)
