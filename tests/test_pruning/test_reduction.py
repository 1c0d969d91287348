"""Reductions against what a reader computes by hand, one image and one token at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_backbones import make
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.pruning import REDUCTION, KeptTokens, LayerTrace, TokenState, sequence_scan, snake_scan
from mmssmprune.pruning.reduction import cell_levels


def dense(length: int, protected: tuple[int, ...] = ()) -> TokenState:
    return TokenState.dense(sequence_scan(length), (1, length - len(protected)), protected)


def reduce(name: str, x: torch.Tensor, y: torch.Tensor, tokens: TokenState, keep: int, score=None):
    score = torch.zeros(x.shape[:2]) if score is None else score
    return REDUCTION[name]((x,), tokens, LayerTrace(y, ()), score, keep)


@pytest.mark.parametrize('name', REDUCTION)
@pytest.mark.parametrize('protected', [(), (6,), (0, 12)])
@pytest.mark.parametrize('keep', [3, 5, 9, 12])
def test_every_reduction_keeps_as_many_as_asked(name, protected, keep):
    x, y = torch.randn(3, 13, 4), torch.randn(3, 13, 6)
    reduced = reduce(name, x, y, dense(13, protected), keep, torch.randn(3, 13))
    assert reduced.chosen.shape == (3, keep)
    assert (reduced.chosen.diff(dim=1) > 0).all()
    assert reduced.streams[0].shape == (3, keep, 4)
    for position in protected:
        assert (reduced.chosen == position).any(1).all()
        place = (reduced.chosen == position).nonzero()[:, 1]
        assert torch.equal(reduced.streams[0][torch.arange(3), place], x[:, position])
    if reduced.into is not None:
        own = torch.arange(keep).expand(3, -1)
        assert torch.equal(reduced.into.gather(1, reduced.chosen), own)


def test_prune_keeps_the_best():
    score = torch.tensor([[0.3, 0.9, 0.1, 0.5]])
    x = torch.arange(4.0).view(1, 4, 1)
    reduced = reduce('prune', x, x, dense(4), 2, score)
    assert reduced.chosen.tolist() == [[1, 3]]
    assert reduced.streams[0].flatten().tolist() == [1.0, 3.0]
    assert reduced.into is None


@pytest.mark.parametrize('protected', [(), (2,), (0, 8)])
def test_prune_merge_folds_each_dropped_token_into_the_kept_one_most_like_it(protected):
    x, score = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(2, 9)
    reduced = reduce('prune_merge', x, x, dense(9, protected), 5, score)
    assert torch.equal(reduced.chosen, reduce('prune', x, x, dense(9, protected), 5, score).chosen)
    assert reduced.into is None
    for b in range(2):
        kept = reduced.chosen[b].tolist()
        taken = {place: [(1.0, x[b, place])] for place in kept}
        for i in set(range(9)) - set(kept):
            alike = {
                place: F.cosine_similarity(x[b, i], x[b, place], dim=0) for place in kept if place not in protected
            }
            host = max(alike, key=alike.get)
            assert reduced.leader[b, i] == kept.index(host)
            taken[host].append((torch.exp(alike[host] - 1), x[b, i]))
        for k, place in enumerate(kept):
            mean = sum(w * v for w, v in taken[place]) / sum(w for w, _ in taken[place])
            assert torch.allclose(reduced.streams[0][b, k], mean, rtol=1e-12, atol=1e-12)
            if len(taken[place]) == 1:
                assert torch.equal(reduced.streams[0][b, k], x[b, place])


def test_a_token_that_was_folded_away_still_shows_itself_when_the_map_returns():
    pruning = dict(layers=[1], keep_ratio=0.5, reduction='prune_merge', restoration='follow')
    dense_model, pruned = make('plain_mamba').double(), make('plain_mamba', pruning=pruning).double()
    seen, prune = [], pruned.pruner.prune
    pruned.pruner.prune = lambda *args: seen.append(prune(*args)) or seen[-1]
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        full, maps = dense_model(images), pruned(images)
    gone = torch.ones(2, 24, dtype=torch.bool).scatter(1, seen[1][1].kept.index, False).view(2, 4, 6)
    same = (maps[1] == full[1]).all(1)
    assert same[gone].all()
    assert not same[~gone].all()  # some took others up


def test_evit_fuses_the_rest_at_the_cell_of_its_best():
    x, y = torch.randn(2, 7, 3), torch.randn(2, 7, 5)
    reduced = reduce('evit', x, y, dense(7), 3)
    for b in range(2):
        similarity = F.cosine_similarity(y[b], y[b].mean(0, keepdim=True), dim=-1)
        ranked = similarity.argsort(descending=True).tolist()
        alone, rest = ranked[:2], ranked[2:]
        assert reduced.chosen[b].tolist() == sorted([*alone, rest[0]])
        weights = torch.softmax(similarity[rest], 0)
        fused = (weights[:, None] * x[b, rest]).sum(0)
        for place, cell in enumerate(reduced.chosen[b].tolist()):
            expected = fused if cell == rest[0] else x[b, cell]
            assert torch.allclose(reduced.streams[0][b, place], expected, atol=1e-6)
        home = reduced.chosen[b].tolist().index(rest[0])
        assert reduced.into[b, rest].tolist() == [home] * 5


def test_evit_with_a_class_token_ranks_by_it():
    y = torch.randn(1, 6, 4)
    reduced = reduce('evit', y, y, dense(6, protected=(2,)), 3)
    similarity = F.cosine_similarity(y[0], y[0, 2:3], dim=-1)
    best = [i for i in similarity.argsort(descending=True).tolist() if i != 2][:2]
    assert reduced.chosen[0].tolist() == sorted([2, *best])


def merge_by_hand(x: torch.Tensor, y: torch.Tensor, sizes: list[float], merges: int):
    """One image, one round: features and the groups of places, in the order of the tokens that stay."""
    sources, targets = range(0, len(x), 2), range(1, len(x), 2)
    partners = {}
    for s in sources:
        similarity = [F.cosine_similarity(y[s], y[t], dim=0).item() for t in targets]
        partners[s] = (max(similarity), list(targets)[similarity.index(max(similarity))])
    leaving = sorted(sources, key=lambda s: -partners[s][0])[:merges]
    groups = {t: [t] for t in range(len(x)) if t not in leaving}
    for s in leaving:
        groups[partners[s][1]].append(s)
    features = [sum(sizes[i] * x[i] for i in members) / sum(sizes[i] for i in members) for members in groups.values()]
    return torch.stack(features), list(groups.values())


def test_merge_by_hand_and_back():
    x, y = torch.randn(2, 9, 3), torch.randn(2, 9, 5)
    reduced = reduce('merge', x, y, dense(9), 6)
    for b in range(2):
        features, groups = merge_by_hand(x[b], y[b], [1.0] * 9, 3)
        assert torch.allclose(reduced.streams[0][b], features, atol=1e-6)
        for place, members in enumerate(groups):
            assert reduced.into[b, members].tolist() == [place] * len(members)


def test_merge_features_is_merge_by_what_the_next_layer_reads():
    hidden, residual, y = torch.randn(2, 9, 4), torch.randn(2, 9, 4), torch.randn(2, 9, 5)
    given = (hidden, residual), dense(9, (4,))
    found = REDUCTION['merge_features'](*given, LayerTrace(y, ()), torch.zeros(2, 9), 4)
    expected = REDUCTION['merge'](*given, LayerTrace(hidden + residual, ()), torch.zeros(2, 9), 4)
    assert torch.equal(found.into, expected.into)
    assert all(torch.equal(a, b) for a, b in zip(found.streams, expected.streams, strict=True))


def tome_by_hand(metric: torch.Tensor, merges: int) -> tuple[list[int], dict[int, int]]:
    """What ToMe does where a class token stands at the head: who leaves, and where to (places of one image)."""
    a, b = metric[::2], metric[1::2]
    scores = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    scores[0] = -torch.inf
    best = scores.max(-1)
    leaving = [2 * i for i in best.values.argsort(descending=True)[:merges].tolist()]
    return leaving, {place: 2 * best.indices[place // 2].item() + 1 for place in leaving}


@pytest.mark.parametrize('length', [9, 10])
@pytest.mark.parametrize('protected', [(0,), (0, -1)], ids=['head', 'double'])
def test_with_a_class_token_at_the_head_odd_places_are_merged_into_as_in_tome(length, protected):
    protected = tuple(p % length for p in protected)
    tokens = dense(length, protected)
    x, y = torch.randn(2, length, 3), torch.randn(2, length, 5)
    most = (length - len(protected)) // 2
    for merges in (1, most):
        reduced = reduce('merge', x, y, tokens, length - merges)
        for b in range(2):
            leaving, into = tome_by_hand(y[b, : length - len(protected) + 1], merges)
            assert reduced.chosen[b].tolist() == [i for i in range(length) if i not in leaving]
            for place, target in into.items():
                assert reduced.chosen[b, reduced.into[b, place]] == target


@pytest.mark.parametrize('protected', [(), (0,), (4,)])
def test_evit_fuses_in_float64_where_the_model_does(protected):
    x, y = torch.randn(1, 9, 3, dtype=torch.float64), torch.randn(1, 9, 5, dtype=torch.float64)
    reduced = reduce('evit', x, y, dense(9, protected), 4)
    toward = y[:, list(protected)].sum(1, keepdim=True) if protected else y.mean(1, keepdim=True)
    similarity = F.cosine_similarity(y, toward, dim=-1)[0]
    ranked = [i for i in similarity.argsort(descending=True).tolist() if i not in protected]
    rest = ranked[3 - len(protected) :]
    fused = (torch.softmax(similarity[rest], 0)[:, None] * x[0, rest]).sum(0)
    place = reduced.chosen[0].tolist().index(rest[0])
    torch.testing.assert_close(reduced.streams[0][0, place], fused, rtol=1e-13, atol=1e-13)


def test_merge_weighs_by_how_much_a_token_stands_for():
    path = snake_scan(1, 9)
    kept = KeptTokens(torch.tensor([[0, 2, 4, 6]]), 9)
    leader = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3, 3]])
    tokens = replace(TokenState.dense(path, (1, 9)).keeping(kept), leader=leader)
    x, y = torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    reduced = reduce('merge', x, y, tokens, 3)
    features, _ = merge_by_hand(x[0], y[0], [2.0, 2.0, 2.0, 3.0], 1)
    assert torch.allclose(reduced.streams[0][0], features, atol=1e-6)


def test_merge_takes_as_many_rounds_as_it_needs():
    x, y = torch.randn(2, 16, 3), torch.randn(2, 16, 5)
    reduced = reduce('merge', x, y, dense(16), 2)
    sizes = torch.zeros(2, 2).scatter_add(1, reduced.into, torch.ones(2, 16))
    assert sizes.sum(1).tolist() == [16, 16]
    for b in range(2):
        for place in range(2):
            members = x[b, reduced.into[b] == place]
            assert torch.allclose(reduced.streams[0][b, place], members.mean(0), atol=1e-5)


@pytest.mark.parametrize('name', ['merge', 'merge_features', 'merge_neighbours', 'evit', 'prune_merge'])
def test_fused_tokens_pass_gradients_to_all_they_came_from(name):
    x = torch.randn(2, 9, 3, requires_grad=True)
    reduce(name, x, torch.randn(2, 9, 5), dense(9), 4).streams[0].square().sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()


def hosts_by_hand(values: dict[int, torch.Tensor], hw: tuple[int, int]) -> dict[int, tuple[float, int]]:
    """One image, cell by cell: what it costs each cell but the first to join its host, and which cell that is."""
    left, found, step, factor = set(values), {}, 1, 1.0
    while len(left) > 1:
        for black in (True, False):
            lattice = {c: (c // hw[1] // step, c % hw[1] // step) for c in left}
            level = {c for c, (i, j) in lattice.items() if ((i + j) % 2 if black else i % 2 and j % 2)}
            left -= level
            for cell in level:
                i, j = lattice[cell]
                near = [c for c in left if max(abs(lattice[c][0] - i), abs(lattice[c][1] - j)) <= (2 if black else 1)]
                cosine = {c: F.cosine_similarity(values[cell], values[c], dim=0).item() for c in near}
                host = max(near, key=cosine.get)
                found[cell] = (factor * (1 - cosine[host]), host)
            factor *= 4 if level else 1
        step *= 2
    return found


def joined_by_hand(values: dict[int, torch.Tensor], hw: tuple[int, int], keep: int) -> dict[int, int]:
    """Where every cell ends when all but ``keep`` have joined their hosts."""
    found = hosts_by_hand(values, hw)
    gone = sorted(found, key=found.get)[: len(values) - keep]

    def end_of(cell: int) -> int:
        return end_of(found[cell][1]) if cell in gone else cell

    return {cell: end_of(cell) for cell in values}


@pytest.mark.parametrize('protected', [(), (0,), (7,)])
@pytest.mark.parametrize('hw', [(5, 3), (4, 6), (1, 9), (2, 2)])
@pytest.mark.parametrize('share', [0.9, 0.6, 0.3, 0.0])
def test_merge_neighbours_by_hand(share, hw, protected):
    cells = hw[0] * hw[1]
    protected = tuple(min(p, cells) for p in protected)
    count, length = max(min(round(share * cells), cells - 1), 1), cells + len(protected)
    places = [i for i in range(length) if i not in protected]
    x = torch.randn(2, length, 4, dtype=torch.float64)
    tokens = TokenState.dense(sequence_scan(length), hw, protected)
    reduced = reduce('merge_neighbours', x, torch.randn(2, length, 5), tokens, count + len(protected))
    assert reduced.into is None
    for b in range(2):
        home = joined_by_hand({c: x[b, p] for c, p in enumerate(places)}, hw, count)
        chosen = reduced.chosen[b].tolist()
        assert chosen == sorted([places[c] for c in set(home.values())] + list(protected))
        for cell, at in home.items():
            assert chosen[reduced.leader[b, places[cell]]] == places[at]
        for at in set(home.values()):
            mean = torch.stack([x[b, places[c]] for c in home if home[c] == at]).mean(0)
            torch.testing.assert_close(reduced.streams[0][b, chosen.index(places[at])], mean, rtol=1e-12, atol=1e-12)


def test_merge_neighbours_goes_on_where_an_earlier_one_stopped():
    """A cell without a token compares as its leader, whom others join in its place; averages count cells."""
    hw, x = (4, 6), torch.randn(2, 24, 4, dtype=torch.float64)
    start = TokenState.dense(sequence_scan(24), hw)
    first = reduce('merge_neighbours', x, x, start, 17)
    tokens = replace(start.keeping(KeptTokens(first.chosen, 24)), leader=first.leader)
    moved = torch.randn(2, 17, 4, dtype=torch.float64)
    second = reduce('merge_neighbours', moved, moved, tokens, 9)
    for b in range(2):
        alive, leader = first.chosen[b].tolist(), first.leader[b].tolist()
        found = hosts_by_hand({c: moved[b, leader[c]] for c in range(24)}, hw)
        gone = sorted((c for c in alive if c in found), key=found.get)[:8]
        home = {c: c for c in alive}
        for _ in alive:  # as often as a chain can be long
            home = {c: alive[leader[found[at][1]]] if at in gone else at for c, at in home.items()}
        assert [alive[i] for i in second.chosen[b].tolist()] == sorted(set(home.values()))
        for place, at in enumerate(sorted(set(home.values()))):
            parts = [(moved[b, i], leader.count(i)) for i, c in enumerate(alive) if home[c] == at]
            mean = sum(value * size for value, size in parts) / sum(size for _, size in parts)
            torch.testing.assert_close(second.streams[0][b, place], mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('restoration', ['hold', 'zero', 'flow'])
def test_merge_neighbours_goes_on_whatever_else_is_chosen(restoration):
    """It has to know who stands for a cell where no other choice asks."""
    pruning = dict(layers=[0, 1, 2], keep_ratio=0.6, reduction='merge_neighbours', restoration=restoration)
    model = make('vim_cls', pruning=pruning | dict(conv_fill='zero', scan_fill='zero'))
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 96, 128))
    assert all(out.isfinite().all() for out in maps)
    assert model.tokens_per_layer((96, 128)) == [49, 30, 19, 12]


def test_merge_neighbours_makes_large_groups_only_where_all_is_alike():
    """Left half of one value, right half of noise: what leaves is on the left, and one token stands for many there."""
    hw = (8, 16)
    x = torch.randn(1, 8, 16, 6, dtype=torch.float64)
    x[:, :, :8] = 1 + 1e-6 * torch.randn(1, 8, 8, 6, dtype=torch.float64)
    x = x.flatten(1, 2)
    reduced = reduce('merge_neighbours', x, x, TokenState.dense(sequence_scan(128), hw), 76)
    left = torch.arange(128) % 16 < 8
    stays = torch.zeros(128, dtype=torch.bool).index_fill(0, reduced.chosen[0], True)
    assert stays[~left].all()
    assert torch.bincount(reduced.leader[0]).max() >= 4


@pytest.mark.parametrize('name', ['merge', 'merge_features', 'merge_neighbours', 'prune_merge'])
def test_likeness_is_as_exact_under_autocast(name):
    """Cosines near 1, as real features have: bfloat16 would take them for equal."""
    x = 1 + 0.02 * torch.randn(2, 48, 16)
    tokens, score = TokenState.dense(sequence_scan(48), (6, 8)), torch.randn(2, 48)
    plain = reduce(name, x, x, tokens, 30, score)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = reduce(name, x, x, tokens, 30, score)
    assert torch.equal(mixed.chosen, plain.chosen)
    links = [reduced.into if reduced.leader is None else reduced.leader for reduced in (plain, mixed)]
    assert torch.equal(*links)


@pytest.mark.parametrize('hw', [(1, 1), (1, 7), (5, 3), (8, 8)])
def test_every_cell_but_the_first_leaves_once_for_one_that_is_still_there(hw):
    gone: set[int] = set()
    for sources, targets in cell_levels(*hw):
        assert len(sources)
        for near in targets.tolist():
            hosts = {cell for cell in near if cell >= 0}
            assert hosts and not hosts & (gone | set(sources.tolist()))
        assert not gone & set(sources.tolist())
        gone |= set(sources.tolist())
    assert gone == set(range(1, hw[0] * hw[1]))


def test_the_cost_of_neighbours_grows_with_the_cells_and_not_with_their_square():
    def flops(name: str, side: int) -> int:
        x, tokens = torch.randn(1, side * side, 8), TokenState.dense(sequence_scan(side * side), (side, side))
        with FlopCounterMode(display=False) as counter:
            reduce(name, x, x, tokens, side * side // 2)
        return counter.get_total_flops()

    for side in (16, 32):  # a product of two vectors for every pair that is compared
        assert flops('merge_neighbours', side) == 2 * 8 * sum(near.numel() for _, near in cell_levels(side, side))
    assert flops('merge_neighbours', 32) < 4.1 * flops('merge_neighbours', 16) < 4.2 * 2 * 256 * (28 / 3) * 8
    assert flops('merge_features', 32) == 16 * flops('merge_features', 16)
