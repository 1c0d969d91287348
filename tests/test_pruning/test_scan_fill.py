"""How many cells each kept token's input stands for, counted by hand, and what a scan makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmssmprune.models.layers.plain_mamba_layer import PlainMambaMixer
from mmssmprune.models.layers.vim_block import VimMixer
from mmssmprune.models.layers.vss_block import SS2D
from mmssmprune.pruning import SCAN_FILL, KeptTokens, TokenState, line_scan, sequence_scan, snake_scan

ROWS = [[1, 4, 5, 11, 13], [0, 2, 3, 9, 14]]


def state(path, hw=(5, 3), rows=ROWS) -> TokenState:
    return TokenState.dense(path, hw).keeping(KeptTokens(torch.tensor(rows), path.order.shape[1]))


def test_zero_counts_every_token_once():
    assert SCAN_FILL['zero'](state(sequence_scan(15))) is None


def test_leader_counts_the_cells_of_each_leader():
    leader = torch.tensor([[0] * 6 + [1, 2, 2, 4, 3, 3, 4, 4, 4], [2] * 15])
    weights = SCAN_FILL['leader'](replace(state(sequence_scan(15)), leader=leader))
    assert weights.tolist() == [[6, 1, 2, 2, 4], [0, 0, 15, 0, 0]]


@pytest.mark.parametrize('path', [sequence_scan(15), snake_scan(5, 3), line_scan(5, 3)], ids=['vim', 'plain', 'vmamba'])
def test_neighbours_share_the_gaps_of_every_walk(path):
    tokens = state(path)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for b, cells in enumerate(ROWS):
        for order in path.order.tolist():
            visited = [step for step, cell in enumerate(order) if cell in cells]
            edges = [-1, *visited, len(order)]
            for i, step in enumerate(visited):
                before, after = step - edges[i] - 1, edges[i + 2] - step - 1
                expected[b, cells.index(order[step])] += (1 + (before + after) / 2) / len(path.order)
    weights = SCAN_FILL['neighbours'](tokens)
    assert torch.allclose(weights.double(), expected)
    if len(path.order) == 2:  # only what lies before the first or after the last one is halved
        ends = torch.tensor([(cells[0] + 14 - cells[-1]) / 2 for cells in ROWS])
        assert torch.allclose(weights.sum(1), 15 - ends)


MIXERS = {
    'vim': lambda: (VimMixer(8, d_state=3), sequence_scan(15)),
    'plain, raster': lambda: (PlainMambaMixer(8, d_state=3, conv_size=3), snake_scan(5, 3)),
    'plain, scan': lambda: (PlainMambaMixer(8, d_state=3, conv_size=3, param_order='scan'), snake_scan(5, 3)),
    'vmamba': lambda: (SS2D(8), line_scan(5, 3)),
    'vmamba, gated': lambda: (SS2D(8, d_state=3, gated=True), line_scan(5, 3)),
}


@pytest.mark.parametrize('name', MIXERS)
def test_weights_scale_what_goes_through_the_states_and_nothing_else(name):
    """A token's output is linear in the inputs: the scan with weights is the sum of what each input adds by itself."""
    mixer, path = MIXERS[name]()
    mixer = mixer.double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = state(path)
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1, 3, 2, 0.5, 4], [2, 1, 1, 5, 1]], dtype=torch.float64)

    def scanned(weights: torch.Tensor) -> torch.Tensor:
        return mixer(x, replace(tokens, input_weight=weights))[1].y

    none = scanned(torch.zeros_like(weights))  # D u, gated
    expected = none
    for i in range(5):
        one = torch.zeros_like(weights)
        one[:, i] = 1
        expected = expected + weights[:, i, None, None] * (scanned(one) - none)
    found = scanned(weights)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    plain = mixer(x, tokens)[1].y
    assert torch.allclose(scanned(torch.ones_like(weights)), plain, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(found, plain)
    a, b = (torch.autograd.grad(out.square().sum(), x, retain_graph=True)[0] for out in (found, expected))
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)
