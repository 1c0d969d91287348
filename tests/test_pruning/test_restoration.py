from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmssmprune.pruning import RESTORATION, KeptTokens, Stage, TokenState, sequence_scan, snake_scan

HW = (4, 5)
MADE = {name: RESTORATION.make(name, Stage([None], embed_dims=3, d_inner=6)) for name in RESTORATION}


def state(rows: list[list[int]], protected: tuple[int, ...] = ()) -> TokenState:
    path = sequence_scan(20 + len(protected)) if protected else snake_scan(*HW)
    kept = KeptTokens(torch.tensor(rows), 20 + len(protected))
    leader = torch.arange(kept.length).remainder(len(rows[0])).expand(len(rows), -1)
    leader = leader.scatter(1, kept.index, torch.arange(len(rows[0])).expand_as(kept.index))
    return replace(TokenState.dense(path, HW, protected).keeping(kept), leader=leader)


PLAIN = [[0, 6, 7, 13, 19], [1, 2, 3, 10, 15]]


def restore(name: str, x: torch.Tensor, tokens: TokenState) -> torch.Tensor:
    torch.manual_seed(1)
    length = tokens.kept.length
    remembered, pos_embed = torch.randn(len(x), length, x.shape[2]), torch.randn(1, length, x.shape[2])
    return MADE[name](x, tokens, remembered, pos_embed)


@pytest.mark.parametrize('name', RESTORATION)
@pytest.mark.parametrize('protected', [(), (10,)], ids=['patches', 'class token'])
def test_kept_cells_are_exact(name, protected):
    rows = [[0, 6, 10, 13, 19], [1, 2, 3, 10, 15]] if protected else PLAIN
    tokens, x = state(rows, protected), torch.randn(2, 5, 3)
    full = restore(name, x, tokens)
    assert full.shape == (2, 20 + len(protected), 3)
    assert torch.equal(tokens.kept.gather(full), x)


@pytest.mark.parametrize('name', ['nearest', 'interpolate'])
def test_a_constant_map_stays_constant(name):
    tokens = state(PLAIN)
    full = restore(name, torch.full((2, 5, 3), 1.25), tokens)
    assert torch.allclose(full, torch.full((2, 20, 3), 1.25), rtol=1e-6)


def test_nearest_by_brute_force():
    tokens, x = state(PLAIN), torch.randn(2, 5, 3)
    full = restore('nearest', x, tokens)
    for b, row in enumerate(PLAIN):
        for cell in range(20):
            distances = [(cell // 5 - k // 5) ** 2 + (cell % 5 - k % 5) ** 2 for k in row]
            assert torch.equal(full[b, cell], x[b, distances.index(min(distances))])


def test_interpolation_leans_to_the_nearer_cell():
    tokens = state([[0, 4]])
    full = restore('interpolate', torch.tensor([[[0.0], [1.0]]]), tokens)[0, :, 0]
    assert 0 < full[1] < 0.5 < full[3] < 1
    assert full[2] == 0.5


def test_class_tokens_are_no_neighbours():
    tokens = state([[0, 10, 20]], protected=(10,))
    x = torch.tensor([[[1.0], [100.0], [1.0]]])
    for name in ('nearest', 'interpolate'):
        full = restore(name, x, tokens)[0, :, 0]
        patches = torch.cat([full[:10], full[11:]])
        assert torch.allclose(patches, torch.ones(20))


def test_what_pruned_cells_show():
    tokens, x = state(PLAIN), torch.randn(2, 5, 3)
    remembered, pos_embed = torch.randn(2, 20, 3), torch.randn(1, 20, 3)
    pruned = torch.ones(2, 20, dtype=torch.bool).scatter(1, tokens.kept.index, False)
    assert torch.equal(MADE['hold'](x, tokens, remembered, None)[pruned], remembered[pruned])
    assert torch.equal(MADE['mask_token'](x, tokens, None, pos_embed)[pruned], pos_embed.expand(2, -1, -1)[pruned])
    assert (MADE['mask_token'](x, tokens, None, None)[pruned] == 0).all()
    assert (MADE['zero'](x, tokens, None, None)[pruned] == 0).all()


def test_pruned_cells_move_with_their_neighbour_or_their_likeness():
    tokens, remembered = state(PLAIN), torch.randn(2, 20, 3)
    step = torch.randn(2, 5, 3)
    x = tokens.kept.gather(remembered) + step
    drifted, followed = (MADE[name](x, tokens, remembered, None) for name in ('drift', 'follow'))
    for b, row in enumerate(PLAIN):
        for cell in set(range(20)) - set(row):
            distances = [(cell // 5 - k // 5) ** 2 + (cell % 5 - k % 5) ** 2 for k in row]
            moved = remembered[b, cell] + step[b, distances.index(min(distances))]
            assert torch.allclose(drifted[b, cell], moved, atol=1e-6)
            assert torch.allclose(followed[b, cell], remembered[b, cell] + step[b, tokens.leader[b, cell]], atol=1e-6)


@pytest.mark.parametrize('protected', [(), (0,), (10,)], ids=['patches', 'class token first', 'class token amid'])
def test_pruned_cells_flow_as_their_neighbours_follow(protected: tuple[int, ...]):
    tokens = state([[0, 6, 10, 13, 19], [0, 2, 3, 10, 15]], protected)
    length = tokens.length
    cells = [position for position in range(length) if position not in protected]
    remembered = torch.randn(2, length, 3, dtype=torch.float64)
    step = torch.randn(2, 5, 3, dtype=torch.float64)
    full = MADE['flow'](tokens.kept.gather(remembered) + step, tokens, remembered, None)
    moved = step.gather(1, tokens.leader[..., None].expand(-1, -1, 3))[:, cells].unflatten(1, HW)
    for b in range(2):
        for number, position in enumerate(cells):
            if position in tokens.kept.index[b]:
                continue
            y, x = divmod(number, HW[1])
            around = [(i, j) for i in range(HW[0]) for j in range(HW[1]) if abs(i - y) <= 1 and abs(j - x) <= 1]
            weights = torch.tensor([-((i - y) ** 2 + (j - x) ** 2) * 2 for i, j in around]).double().exp()
            want = sum(w * moved[b, i, j] for w, (i, j) in zip(weights / weights.sum(), around, strict=True))
            torch.testing.assert_close(full[b, position], remembered[b, position] + want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('name', ['hold', 'drift', 'follow', 'flow', 'mask_token'])
def test_gradients_reach_what_stands_at_pruned_cells(name):
    tokens, x = state(PLAIN), torch.randn(2, 5, 3)
    remembered, pos_embed = torch.randn(2, 20, 3, requires_grad=True), torch.randn(1, 20, 3, requires_grad=True)
    MADE[name](x, tokens, remembered, pos_embed).square().sum().backward()
    source = pos_embed if name == 'mask_token' else remembered
    for b, row in enumerate(PLAIN):
        grad = source.grad[0 if name == 'mask_token' else b].abs().sum(-1)
        assert (grad[[cell for cell in range(20) if cell not in row]] > 0).all()


@pytest.mark.parametrize('name', RESTORATION)
def test_gradients_reach_kept_tokens(name):
    x = torch.randn(2, 5, 3, requires_grad=True)
    restore(name, x, state(PLAIN)).square().sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()


def test_interpolation_weighs_in_float64_where_the_model_does():
    tokens, x = state(PLAIN), torch.randn(2, 5, 3, dtype=torch.float64)
    full = RESTORATION['interpolate'](x, tokens, None, None)
    for b, row in enumerate(PLAIN):
        for cell in set(range(20)) - set(row):
            squared = torch.tensor([(cell // 5 - k // 5) ** 2 + (cell % 5 - k % 5) ** 2 for k in row])
            nearest = squared.argsort(stable=True)[:4]
            spread = squared[nearest].double()
            weights = torch.softmax(-0.5 * spread / spread[0].clamp(min=1), 0)
            torch.testing.assert_close(full[b, cell], weights @ x[b, nearest], rtol=1e-13, atol=1e-13)
