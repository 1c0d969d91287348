"""One HTML page about a run of pictures: what was run, and per image the figure and its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mmssmprune.analysis import html_page
from mmssmprune.pruning.token_record import Pruning

from .observe import Observation

ABOUT = (
    'Dense is the same checkpoint at keep ratio 1. Under "kept tokens" the cells of tokens that were pruned after this '
    'layer are dark, and those pruned before are darkest. A score is shown where a token could still be pruned. All '
    '"cells of a token" are shown in their mean colour. The restored features are what the heads read, before any '
    'norm. Padding is not part of the image, so some cells may lie beyond it. Where an image is cut into sliding '
    'windows, counts are over all windows and maps are their mean.'
)


def make_page(title: str, facts: Mapping[str, object], images: Iterable[str]) -> str:
    """The page: ``facts`` in a table, then ``images`` as `describe` made them."""
    table = html_page.table('What was run', (), facts.items())
    return html_page.page(title, [table, html_page.paragraph(ABOUT), *images])


def describe(name: str, seen: Observation, png: bytes) -> str:
    """HTML of one image: the figure and tables of layers, prunings and taps."""
    return '\n'.join(
        [
            html_page.heading(name),
            html_page.picture(png, f'Kept tokens, scores, restored features and predictions of {name}'),
            _layer_table(seen),
            _pruning_table(seen),
            _tap_table(seen),
        ]
    )


def _layer_table(seen: Observation) -> str:
    counts = [sum(tokens) for tokens in zip(*(record.tokens_per_layer for record in seen.records), strict=True)]
    rows = []
    shares = [100 * tokens / whole for tokens, whole in zip(counts, seen.dense_tokens, strict=True)]
    for (tokens, share), group in groupby(range(len(counts)), key=lambda layer: (counts[layer], shares[layer])):
        rows.append((_span(list(group)), tokens, f'{share:.1f}'))
    rows.append(('mean', f'{sum(counts) / len(counts):.1f}', f'{sum(shares) / len(shares):.1f}'))
    return html_page.table('Tokens that each layer processes, class tokens included', ('layers', 'tokens', '%'), rows)


def _span(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f'{layers[0]} to {layers[-1]}'


def _pruning_table(seen: Observation) -> str:
    rows = []
    for windows in seen.prunings:
        kept, candidates = _flat(part.kept for part in windows), _flat(part.candidates for part in windows)
        beyond = kept & ~_on_image(seen, windows)
        counts = (int(candidates.sum()), int(kept.sum()), f'{100 * kept.sum() / candidates.sum():.1f}')
        pruned = candidates & ~kept
        means = ('-', '-')
        if windows[0].score is not None:
            score = _flat(part.score for part in windows)
            means = (_mean(score, kept), _mean(score, pruned))
        rows.append((windows[0].layer, *counts, int(beyond.sum()), windows[0].score_name or 'none', *means))
    columns = ('after layer', 'tokens', 'kept', '%', 'kept beyond the image', 'score', 'mean, kept', 'mean, pruned')
    return html_page.table('Prunings', columns, rows)


def _tap_table(seen: Observation) -> str:
    rows = []
    for tap in seen.taps:
        kept, norm = _flat(part.kept for part in tap), _flat(part.norm for part in tap)
        rows.append((tap[0].layer, int((~kept).sum()), _mean(norm, kept), _mean(norm, ~kept)))
    columns = ('after layer', 'restored cells', 'mean norm, kept', 'mean norm, restored')
    return html_page.table('Restored features', columns, rows)


def _flat(maps: Iterable[Tensor]) -> Tensor:
    """The maps (1, h, w) of all windows in one row."""
    return torch.cat([part.flatten() for part in maps])


def _on_image(seen: Observation, windows: Sequence[Pruning]) -> Tensor:
    shapes = [tuple(part.kept.shape[1:]) for part in windows]
    place = seen.placement_of(windows)
    return _flat(torch.from_numpy(place.on_image(hw, i)) for i, hw in enumerate(shapes))


def _mean(values: Tensor, where: Tensor) -> str:
    return f'{float(values[where].mean()):.4g}' if where.any() else '-'
