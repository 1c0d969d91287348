"""What happened to the tokens in a forward pass: which stayed, how they were scored, and how they came back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .pruner import TokenPruner
from .reduction import Reduced
from .token_state import TokenState


@dataclass(frozen=True)
class Pruning:
    """A layer after which tokens became fewer; maps are (B, h, w), without class tokens.

    Attributes:
        layer: 0-based, the layer that had just run.
        candidates: bool, cells that still had a token of their own.
        kept: bool, cells that have one afterwards; with `merge` and `evit` the others went into some of these.
        score: float32, NaN where there was no candidate; None where the reduction goes by no score.
        score_name: what the score is: the name of the importance, or the similarity by which `evit` chooses; or ``''``.
        leader: int64, the raster number of the cell whose token stands for each cell; None where nobody asked.
        stage: 0-based, whose grid this is; one that begins pruned is the next one after the layer's.
    """

    layer: int
    candidates: Tensor
    kept: Tensor
    score: Tensor | None
    score_name: str
    leader: Tensor | None
    stage: int


@dataclass(frozen=True)
class Tap:
    """The full map that a head, an adapter or the next stage reads after ``layer``, before any norm; maps (B, h, w).

    Attributes:
        layer: 0-based.
        kept: bool, cells with a token of their own; the others are restored.
        norm: float32, Euclidean norm over channels of the restored features.
        stage: 0-based, whose grid this is.
    """

    layer: int
    kept: Tensor
    norm: Tensor
    stage: int


@dataclass
class TokenRecord:
    """One forward pass.

    Attributes:
        hw_shapes: the grid (h, w) of each stage.
        tokens_per_layer: tokens that each layer processed, class tokens included.
        prunings: in the order of the layers.
        taps: in the order of the layers.
    """

    hw_shapes: list[tuple[int, int]] = field(default_factory=list)
    tokens_per_layer: list[int] = field(default_factory=list)
    prunings: list[Pruning] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)


@contextmanager
def recorded(pruner: TokenPruner) -> Iterator[list[TokenRecord]]:
    """Record the forward passes of the backbone that owns ``pruner``, one `TokenRecord` each; outputs do not change.

    Everything recorded is on the CPU and detached. Sliding windows make several passes for an image.
    """
    watch = _Watch(pruner.names['importance'] if pruner.needs('score', 'reduction') else None)
    pruner.observers.append(watch)
    try:
        yield watch.records
    finally:
        pruner.observers.remove(watch)


class _Watch:
    """An `Observer` that keeps what it is told; ``importance`` is that by which tokens are chosen, if one is."""

    def __init__(self, importance: str | None) -> None:
        self.importance = importance
        self.records: list[TokenRecord] = []
        self._layer = -1

    def started(self, tokens: TokenState) -> None:
        if tokens.stage == 0:
            self.records.append(TokenRecord())
        self.records[-1].hw_shapes.append(tokens.hw_shape)

    def ran(self, layer: int, count: int) -> None:
        self._layer = layer
        self.records[-1].tokens_per_layer.append(count)

    @torch.no_grad()
    def reduced(
        self, layer: int, before: TokenState, after: TokenState, score: Tensor, reduced: Reduced | None
    ) -> None:
        candidates = torch.ones_like(score, dtype=torch.bool)
        left = candidates[:, : score.shape[1] if reduced is None else reduced.chosen.shape[1]]
        name, shown = self.importance or '', score if self.importance else None
        if reduced is not None and reduced.score is not None:
            name, shown = reduced.score_name, reduced.score
        maps = (_to_map(candidates, before, False), _to_map(left, after, False))
        shown = None if shown is None else _to_map(shown.float(), before, torch.nan)
        leader = None
        if after.leader is not None:
            leader = _whole_to_map(after.cells.gather(1, after.leader), after)
        self.records[-1].prunings.append(Pruning(layer, *maps, shown, name, leader, before.stage))

    @torch.no_grad()
    def restored(self, full: tuple[Tensor, ...], tokens: TokenState) -> None:
        taps = self.records[-1].taps
        if taps and taps[-1].layer == self._layer:  # an output of the last layer of a stage, whose cells are back
            return
        batch, whole = full[0].shape[:2]
        alive = whole if tokens.kept is None else tokens.kept.index.shape[1]
        kept = torch.ones(batch, alive, dtype=torch.bool, device=full[0].device)
        norm = sum(full).float().norm(dim=-1)
        taps.append(Tap(self._layer, _to_map(kept, tokens, False), _whole_to_map(norm, tokens), tokens.stage))


def _to_map(values: Tensor, tokens: TokenState, elsewhere: float | bool) -> Tensor:
    """(B, K) of the tokens at hand -> (B, h, w) on the CPU, ``elsewhere`` at the other cells."""
    whole = torch.full((len(values), tokens.length), elsewhere, dtype=values.dtype, device=values.device)
    return _whole_to_map(whole.scatter(1, tokens.positions.expand(len(values), -1), values), tokens)


def _whole_to_map(values: Tensor, tokens: TokenState) -> Tensor:
    """(B, L) of all positions -> (B, h, w) on the CPU, class tokens left out."""
    patches = [i for i in range(tokens.length) if i not in tokens.protected]
    return values[:, patches].unflatten(1, tokens.hw_shape).detach().cpu()
