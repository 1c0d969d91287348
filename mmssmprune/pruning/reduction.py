"""How tokens become fewer: dropped, or fused into others so that every cell keeps a token that stands for it.

Every function gets the tokens at hand and returns a `Reduced` of exactly ``keep`` tokens, class tokens included.
Where tokens are fused, the ones that remain are averages over all positions they stand for; dense maps are restored by
copying each token back to these positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops.constants import kept_constant

from .choices import Choices
from .importance import LayerTrace, similarity_to_class, wide
from .kept_tokens import choose_tokens, cosines, gather_rows, highest, most_similar
from .token_state import TokenState

REDUCTION = Choices('reduction')
register_reduction = REDUCTION.register
REACH = 2  # how far the cells of `cell_levels` look, in steps of their grid


@dataclass(frozen=True)
class Reduced:
    """What is left of the tokens at hand.

    Attributes:
        chosen: (B, K') ascending places, among the tokens at hand, of those that remain.
        streams: their features (B, K', C) each.
        into: (B, K) which of the remaining tokens each token went into; None where tokens were dropped.
        score: (B, K) what decided instead of the importance, and None where the importance did or nothing was scored.
        score_name: what ``score`` is, for pictures.
        leader: (B, K) which of the remaining tokens resembled each one most, by the cosine of the features, where the
            reduction has found out and dropped the others all the same: restorations that ask need no second matrix.
    """

    chosen: Tensor
    streams: tuple[Tensor, ...]
    into: Tensor | None = None
    score: Tensor | None = None
    score_name: str | None = None
    leader: Tensor | None = None


@register_reduction(needs=('score', 'restoration'))
def prune(streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int) -> Reduced:
    """Drop all but the tokens of the highest scores (arXiv 2409.18962)."""
    chosen = choose_tokens(score, keep, tokens.is_protected)
    return Reduced(chosen, tuple(gather_rows(x, chosen) for x in streams))


@register_reduction(needs=('score', 'restoration'))
def prune_merge(
    streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int
) -> Reduced:
    """Fold every token into the kept one that it resembles most, then drop it (TPS, arXiv 2304.10716).

    Likeness is the cosine of the features; a folded token weighs exp(cosine - 1) against 1 for the kept one. Class
    tokens take nothing up.
    """
    chosen = choose_tokens(score, keep, tokens.is_protected)
    with torch.no_grad():
        x = wide(sum(streams))
        spared = tokens.is_protected.expand(x.shape[:2]).gather(1, chosen)
        leader = most_similar(x, chosen, spared)
        likeness = F.cosine_similarity(x, gather_rows(gather_rows(x, chosen), leader), dim=-1)
        # The kept ones weigh exactly 1: those that take nothing up stay as they are, bit for bit.
        weight = torch.exp(likeness - 1).scatter(1, chosen, 1.0)
    folded = tuple(_average(x, weight, leader, keep) for x in streams)
    return Reduced(chosen, folded, leader=leader)


@register_reduction
def evit(streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int) -> Reduced:
    """Keep the tokens most similar to the class token and fuse the others into one (EViT, arXiv 2202.07800).

    An SSM has no attention map; the cosine of the gated SSM outputs y takes its place, and its softmax over the others
    weights their mean, which stands at the cell of the most similar of them. Without a class token the similarity is
    that to the mean token. ``score`` is not used.
    """
    with torch.no_grad():
        similarity = similarity_to_image(trace, tokens)
        score = similarity.masked_fill(tokens.is_protected, torch.inf)
        ranked = score.argsort(dim=1, descending=True, stable=True)
        chosen = ranked[:, :keep].sort(dim=1).values
        fused, others = ranked[:, keep - 1 : keep], ranked[:, keep - 1 :]
        weights = torch.softmax(score.gather(1, others), dim=1).unsqueeze(-1)
        place = torch.arange(score.shape[1], device=score.device).expand_as(score)
        into = torch.searchsorted(chosen, place.scatter(1, others, fused.expand_as(others)))
    is_fused = (chosen == fused).unsqueeze(-1)

    def reduce(x: Tensor) -> Tensor:
        mean = (gather_rows(x, others) * weights.to(x.dtype)).sum(1, keepdim=True)
        return torch.where(is_fused, mean, gather_rows(x, chosen))

    return Reduced(chosen, tuple(reduce(x) for x in streams), into, similarity, 'similarity to image')


def similarity_to_image(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """(B, K) cosine of each y to that of the class token, or to the mean one where there is none; `evit` goes by it."""
    if tokens.protected:
        return similarity_to_class(trace, tokens)
    y = wide(trace.y)
    return F.cosine_similarity(y, y.mean(1, keepdim=True), dim=-1)


@register_reduction
def merge(streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int) -> Reduced:
    """Bipartite soft matching (ToMe, arXiv 2210.09461) on the gated SSM outputs y.

    Every other token may join the most similar of the rest; the pairs of the highest cosine do. Averages are weighted
    by how many positions a token stands for. One round at most halves the tokens, so a low ``keep`` takes several.
    As in ToMe the tokens at even places may join those at odd ones, and a class token at the head counts as place 0;
    elsewhere class tokens are not counted. ``score`` is not used; class tokens are never merged.
    """
    return _merged(streams, tokens, wide(trace.y), keep)


@register_reduction
def merge_features(
    streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int
) -> Reduced:
    """`merge` by the features that the next layer reads, before its mixer: R-MeeTo (arXiv 2412.12496).

    What is left stays in the order of the sequence. R-MeeTo takes as many tokens away in each layer, which a plan does
    with ``start=0, every=1, equal_steps=True``.
    """
    return _merged(streams, tokens, wide(sum(streams)), keep)


@register_reduction(needs=('restoration', 'leader'))
def merge_neighbours(
    streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int
) -> Reduced:
    """Merge cells with one near them, by the features that the next layer reads: ours.

    Every cell but one has a host among a few cells near it, the most similar one of a coarser grid (`cell_levels`),
    which has a host in turn: one tree of all cells. Those whose joining costs least join their hosts, and with them
    what they are hosts of. The cost is 1 - cosine, times the square of how many cells a token of the level stands for:
    groups grow large only where all is alike, and edges stay fine. A cell that has joined another keeps its own
    features in mind, which a restoration such as `flow` starts from. The work grows with the number of cells, that of
    `merge_features` with its square.
    """
    x = wide(sum(streams))
    with torch.no_grad():
        host, cost = _hosts(x, tokens)
        chosen = choose_tokens(cost, keep, tokens.is_protected)
        leader = host.scatter(1, chosen, chosen)
        for _ in range(max(tokens.hw_shape).bit_length()):  # to the host's host, then two further, four further, ...
            leader = leader.gather(1, leader)
        leader = torch.searchsorted(chosen, leader)
    size = _sizes(tokens, x)
    return Reduced(chosen, tuple(_average(x, size, leader, keep) for x in streams), leader=leader)


def _hosts(x: Tensor, tokens: TokenState) -> tuple[Tensor, Tensor]:
    """Which of the tokens at hand (B, K, C) each would join, and what that costs: (B, K) each; class tokens join none.

    A cell without a token of its own is as its leader is, here too.
    """
    stands_for = tokens.positions.expand(x.shape[:2]) if tokens.leader is None else tokens.leader
    place = tokens.without_protected(stands_for)  # of the token at each cell
    unit = gather_rows(F.normalize(x, dim=-1), place)
    host, cost = torch.zeros_like(place), torch.full_like(unit[..., 0], torch.inf)
    for number, (sources, targets) in enumerate(cell_levels(*tokens.hw_shape, x.device)):
        near = targets.expand(x.shape[0], -1, -1)
        around = gather_rows(unit, near.clamp(min=0).flatten(1)).unflatten(1, targets.shape)
        cosine = cosines(around, unit[:, sources].unsqueeze(2)).squeeze(-1)
        best = cosine.masked_fill(near < 0, -torch.inf).max(dim=-1)
        joined = place.gather(1, near.gather(2, best.indices.unsqueeze(-1)).squeeze(-1))
        host = host.scatter(1, sources.expand_as(joined), joined)
        # Two equal vectors have a cosine of 1 to rounding, which the factor would blow up.
        cost = cost.scatter(1, sources.expand_as(joined), (1 - best.values).clamp(min=0) * 4.0**number)
    cells = tokens.cells.clamp(min=0).expand(x.shape[:2])
    return host.gather(1, cells), cost.gather(1, cells)


def _merged(streams: tuple[Tensor, ...], tokens: TokenState, metric: Tensor, keep: int) -> Reduced:
    size = _sizes(tokens, metric)
    place = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])  # of each one left
    into = None
    while metric.shape[1] > keep:
        with torch.no_grad():
            chosen, step = _joined(*_pairs(metric, place, metric.shape[1] - keep, tokens), metric)
        streams = tuple(_average(x, size, step, chosen.shape[1]) for x in streams)
        metric = _average(metric, size, step, chosen.shape[1])
        size = torch.zeros_like(chosen, dtype=size.dtype).scatter_add(1, step, size)
        place = place.gather(1, chosen)
        into = step if into is None else step.gather(1, into)
    return Reduced(place, streams, into)


def _sizes(tokens: TokenState, y: Tensor) -> Tensor:
    """How many positions each token at hand stands for: (B, K) float32."""
    return torch.ones(y.shape[:2], device=y.device) if tokens.leader is None else tokens.led


def _pairs(metric: Tensor, place: Tensor, surplus: int, tokens: TokenState) -> tuple[Tensor, Tensor]:
    """Of the tokens left, compared by metric (B, K, C): at most ``surplus`` that leave and those that they join (B, m).

    Every other token may join the most similar of the rest, wherever it is. ``place`` (B, K) are their places among
    the tokens at hand.
    """
    count, first = metric.shape[1], 1 if 0 in tokens.protected else 0
    # Ascending places of the tokens that may merge: all but the protected ones.
    spared = tokens.is_protected.expand(place.shape[0], -1).gather(1, place).long()
    free = spared.argsort(dim=1, stable=True)[:, : count - len(tokens.protected)]
    sources, targets = free[:, first::2], free[:, 1 - first :: 2]
    unit = F.normalize(metric, dim=-1)
    best = cosines(gather_rows(unit, sources), gather_rows(unit, targets)).max(dim=-1)
    closest = highest(best.values, min(surplus, free.shape[1] // 2))
    return sources.gather(1, closest), targets.gather(1, best.indices.gather(1, closest))


@kept_constant
def cell_levels(height: int, width: int, device: torch.device | str = 'cpu') -> tuple[tuple[Tensor, Tensor], ...]:
    """The cells of a grid, level by level: those of the level (n,), and those of later ones near each (n, 12 or 4).

    First the black cells of a chessboard with the white ones up to two steps away, then every other white one with
    those diagonal to it, which leaves a grid of half the sides, and so on; -1 is off the grid. Cell 0 is of no level.
    """
    reach = range(-REACH, REACH + 1)
    white = [(down, right) for down in reach for right in reach if (down + right) % 2]
    diagonal = [(down, right) for down in reach for right in reach if down % 2 and right % 2]

    def every_other(length: int, first: int) -> Tensor:
        return torch.arange(length, device=device)[first :: 2 * step]

    levels, step = [], 1
    while step < max(height, width):
        even_rows, odd_rows = every_other(height, 0), every_other(height, step)
        even_columns, odd_columns = every_other(width, 0), every_other(width, step)
        black = torch.cat([_cells(even_rows, odd_columns, width), _cells(odd_rows, even_columns, width)]).sort().values
        others = _cells(odd_rows, odd_columns, width)
        levels += [(black, _around(black, white, step, height, width))]
        levels += [(others, _around(others, diagonal, step, height, width))]
        step *= 2
    return tuple(level for level in levels if len(level[0]))  # a grid of one row has only every second of them


def _cells(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Raster numbers of the cells in these rows and columns."""
    return (rows[:, None] * width + columns).flatten()


def _around(cells: Tensor, offsets: Sequence[tuple[int, int]], step: int, height: int, width: int) -> Tensor:
    """(n, offsets): the cells at these offsets (down, right) from each, in steps, or -1."""
    rows = torch.stack([cells // width + step * down for down, _ in offsets], 1)
    columns = torch.stack([cells % width + step * right for _, right in offsets], 1)
    on_grid = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(on_grid, rows * width + columns, -1)


def _joined(leaving: Tensor, joined: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """The places (B, K') of the tokens that stay, and into which of these (B, K) each goes."""
    batch, count = metric.shape[:2]
    stays = torch.ones(batch, count, device=metric.device).scatter(1, leaving, 0.0)
    chosen = choose_tokens(stays, count - leaving.shape[1])
    goes_to = torch.arange(count, device=metric.device).expand(batch, count).scatter(1, leaving, joined)
    return chosen, torch.searchsorted(chosen, goes_to)


def _average(x: Tensor, size: Tensor, into: Tensor, count: int) -> Tensor:
    """(B, K, C) -> (B, count, C): the size-weighted mean of the tokens that go into each."""
    size = size.unsqueeze(-1).to(x.dtype)
    total = torch.zeros_like(size[:, :count]).scatter_add(1, into.unsqueeze(-1), size)
    summed = x.new_zeros(x.shape[0], count, x.shape[2])
    summed = summed.scatter_add(1, into.unsqueeze(-1).expand_as(x), x * size)
    return summed / total
