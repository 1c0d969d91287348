"""How tokens become fewer: dropped, or fused into others so that every cell keeps a token that stands for it.

Every function gets the tokens at hand and returns a `Reduced` of exactly ``keep`` tokens, class tokens included.
Where tokens are fused, the ones that remain are averages over all positions they stand for; dense maps are restored by
copying each token back to these positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import Choices
from .importance import LayerTrace, similarity_to_class, wide
from .kept_tokens import choose_tokens, gather_rows, most_similar
from .token_state import TokenState

REDUCTION = Choices('reduction')
register_reduction = REDUCTION.register


@dataclass(frozen=True)
class Reduced:
    """What is left of the tokens at hand.

    Attributes:
        chosen: (B, K') ascending places, among the tokens at hand, of those that remain.
        streams: their features (B, K', C) each.
        into: (B, K) which of the remaining tokens each token went into; None where tokens were dropped.
        score: (B, K) what decided instead of the importance, and None where the importance did or nothing was scored.
        score_name: says so in pictures: what ``score`` is, or why the importance decides nothing.
        leader: (B, K) which of the remaining tokens resembled each one most, by the cosine of the features, where the
            reduction has found out and dropped the others all the same: restorations that ask need no second matrix.
    """

    chosen: Tensor
    streams: tuple[Tensor, ...]
    into: Tensor | None = None
    score: Tensor | None = None
    score_name: str | None = None
    leader: Tensor | None = None


@register_reduction(needs='score')
def prune(streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int) -> Reduced:
    """Drop all but the tokens of the highest scores (arXiv 2409.18962)."""
    chosen = choose_tokens(score, keep, tokens.is_protected)
    return Reduced(chosen, tuple(gather_rows(x, chosen) for x in streams))


@register_reduction(needs='score')
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
    return _merged(streams, tokens, wide(trace.y), keep, 'unused by merge')


@register_reduction
def merge_features(
    streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor, keep: int
) -> Reduced:
    """`merge` by the features that the next layer reads, before its mixer: R-MeeTo (arXiv 2412.12496).

    What is left stays in the order of the sequence. R-MeeTo takes as many tokens away in each layer, which a plan does
    with ``start=0, every=1, equal_steps=True``.
    """
    return _merged(streams, tokens, wide(sum(streams)), keep, 'unused by merge_features')


def _merged(streams: tuple[Tensor, ...], tokens: TokenState, metric: Tensor, keep: int, score_name: str) -> Reduced:
    size = _sizes(tokens, metric)
    place = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])  # of each one left
    protected = tokens.is_protected.expand(metric.shape[:2])
    into = None
    while metric.shape[1] > keep:
        with torch.no_grad():
            chosen, step = _match(metric, protected, tokens.protected, metric.shape[1] - keep)
        streams = tuple(_average(x, size, step, chosen.shape[1]) for x in streams)
        metric = _average(metric, size, step, chosen.shape[1])
        size = torch.zeros_like(chosen, dtype=size.dtype).scatter_add(1, step, size)
        place, protected = place.gather(1, chosen), protected.gather(1, chosen)
        into = step if into is None else step.gather(1, into)
    return Reduced(place, streams, into, score_name=score_name)


def _sizes(tokens: TokenState, y: Tensor) -> Tensor:
    """How many positions each token at hand stands for: (B, K) float32."""
    return torch.ones(y.shape[:2], device=y.device) if tokens.leader is None else tokens.led


def _match(metric: Tensor, protected: Tensor, spared: tuple[int, ...], surplus: int) -> tuple[Tensor, Tensor]:
    """One round of matching: the places (B, K') of the tokens that stay, and into which of these (B, K) each goes.

    ``spared`` are the positions of the ``protected`` tokens in the whole sequence.
    """
    batch, count = metric.shape[:2]
    # Ascending places of the tokens that may merge: all but the protected ones.
    free = protected.long().argsort(dim=1, stable=True)[:, : count - len(spared)]
    first = 1 if 0 in spared else 0
    sources, targets = free[:, first::2], free[:, 1 - first :: 2]
    unit = F.normalize(metric, dim=-1)
    similarity = gather_rows(unit, sources) @ gather_rows(unit, targets).transpose(1, 2)
    best = similarity.max(dim=-1)
    merged = min(surplus, free.shape[1] // 2)
    order = best.values.argsort(dim=1, descending=True, stable=True)[:, :merged]
    leaving = sources.gather(1, order)
    stays = torch.ones(batch, count, device=metric.device).scatter(1, leaving, 0.0)
    chosen = choose_tokens(stays, count - merged)
    goes_to = torch.arange(count, device=metric.device).expand(batch, count)
    goes_to = goes_to.scatter(1, leaving, targets.gather(1, best.indices.gather(1, order)))
    return chosen, torch.searchsorted(chosen, goes_to)


def _average(x: Tensor, size: Tensor, into: Tensor, count: int) -> Tensor:
    """(B, K, C) -> (B, count, C): the size-weighted mean of the tokens that go into each."""
    size = size.unsqueeze(-1).to(x.dtype)
    total = torch.zeros_like(size[:, :count]).scatter_add(1, into.unsqueeze(-1), size)
    summed = x.new_zeros(x.shape[0], count, x.shape[2])
    summed = summed.scatter_add(1, into.unsqueeze(-1).expand_as(x), x * size)
    return summed / total
