"""What happened to the tokens in a forward pass: which stayed, how they were scored, and how they came back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .importance import LayerTrace
from .pruner import TokenPruner
from .reduction import similarity_to_image
from .token_state import TokenState

# How `PruneStage.score` came about where the config's importance does not decide.
SIMILARITY = 'similarity to image'
NOT_USED = 'unused by merge'


@dataclass(frozen=True)
class PruneStage:
    """One layer after which tokens become fewer; maps are (B, h, w), without class tokens.

    Attributes:
        layer: 0-based, the layer that had just run.
        candidates: bool, cells that still had a token of their own.
        kept: bool, cells that have one afterwards; with `merge` and `evit` the others went into some of these.
        score: float32, NaN where there was no candidate.
        score_name: what the score is: the name of the importance for `prune`, the similarity by which `evit` chooses,
            and for `merge` the importance again, with the remark that it decides nothing.
    """

    layer: int
    candidates: Tensor
    kept: Tensor
    score: Tensor
    score_name: str


@dataclass(frozen=True)
class Tap:
    """The full map that a head or an adapter reads after ``layer``, before any norm; maps are (B, h, w).

    Attributes:
        layer: 0-based.
        kept: bool, cells with a token of their own; the others are restored.
        norm: float32, Euclidean norm over channels of the restored features.
    """

    layer: int
    kept: Tensor
    norm: Tensor


@dataclass
class TokenRecord:
    """One forward pass.

    Attributes:
        hw_shape: the grid (h, w).
        tokens_per_layer: tokens that each layer processed, class tokens included.
        stages: in the order of the layers.
        taps: in the order of the layers.
    """

    hw_shape: tuple[int, int]
    tokens_per_layer: list[int] = field(default_factory=list)
    stages: list[PruneStage] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)


@contextmanager
def recorded(pruner: TokenPruner) -> Iterator[list[TokenRecord]]:
    """Record the forward passes of the backbone that owns ``pruner``, one `TokenRecord` each; outputs do not change.

    Everything recorded is on the CPU and detached. Sliding windows make several passes for an image.
    """
    watch = _Watch(pruner)
    wrappers = {'start': watch.start, 'prune': watch.prune, 'restore': watch.restore, '_reduce': watch.reduce}
    for name, wrapper in wrappers.items():
        setattr(pruner, name, wrapper)  # on the object, so that the class shows again once these are deleted
    try:
        yield watch.records
    finally:
        for name in wrappers:
            delattr(pruner, name)


class _Watch:
    """Calls what it wraps with the same arguments, and notes what goes in and comes out."""

    def __init__(self, pruner: TokenPruner) -> None:
        self.pruner = pruner
        self.records: list[TokenRecord] = []
        self._start, self._prune = pruner.start, pruner.prune
        self._reduce, self._restore = pruner._reduce, pruner.restore
        self._layer = -1
        self._pruning = False  # cells that come back to the scan are restored too, but no head reads them
        self._tapped: Tensor | None = None  # the sum of what was restored after the current layer

    def start(self, *args: Any, **kwargs: Any) -> TokenState:
        tokens = self._start(*args, **kwargs)
        self.records.append(TokenRecord(tokens.hw_shape))
        self._layer = -1
        return tokens

    def prune(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        self.records[-1].tokens_per_layer.append(trace.y.shape[1])
        self._layer, self._pruning, self._tapped = layer, True, None
        try:
            return self._prune(layer, streams, tokens, trace, *args, **kwargs)
        finally:
            self._pruning = False

    def reduce(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        reduced = self._reduce(layer, streams, tokens, trace, score)
        with torch.no_grad():
            shown, name = self._deciding_score(tokens, trace, score)
            candidates = torch.ones_like(score, dtype=torch.bool)
            left = torch.ones(reduced[0][0].shape[:2], dtype=torch.bool, device=score.device)
            stage = PruneStage(
                layer,
                _to_map(candidates, tokens, False),
                _to_map(left, reduced[1], False),
                _to_map(shown.float(), tokens, torch.nan),
                name,
            )
        self.records[-1].stages.append(stage)
        return reduced

    def _deciding_score(self, tokens: TokenState, trace: LayerTrace, score: Tensor) -> tuple[Tensor, str]:
        if self.pruner.reduction == 'evit':
            return similarity_to_image(trace, tokens), SIMILARITY
        if self.pruner.reduction == 'merge':
            return score, f'{self.pruner.importance}, {NOT_USED}'
        return score, self.pruner.importance

    def restore(self, x: Tensor, tokens: TokenState, *args: Any, **kwargs: Any) -> Tensor:
        full = self._restore(x, tokens, *args, **kwargs)
        if not self._pruning:
            self._note_tap(full.detach(), x.shape[:2], tokens)
        return full

    def _note_tap(self, full: Tensor, alive: torch.Size, tokens: TokenState) -> None:
        """Vim's last output restores its two streams one by one and reads their sum, so a second call adds up."""
        taps = self.records[-1].taps
        if self._tapped is None:
            self._tapped = full
        else:
            self._tapped = self._tapped + full
            taps.pop()
        kept = torch.ones(alive, dtype=torch.bool, device=full.device)
        norm = self._tapped.float().norm(dim=-1)
        taps.append(Tap(self._layer, _to_map(kept, tokens, False), _whole_to_map(norm, tokens)))


def _to_map(values: Tensor, tokens: TokenState, blank: float | bool) -> Tensor:
    """(B, K) of the tokens at hand -> (B, h, w) on the CPU, ``blank`` at the other cells."""
    whole = torch.full((len(values), tokens.length), blank, dtype=values.dtype, device=values.device)
    return _whole_to_map(whole.scatter(1, tokens.positions.expand(len(values), -1), values), tokens)


def _whole_to_map(values: Tensor, tokens: TokenState) -> Tensor:
    """(B, L) of all positions -> (B, h, w) on the CPU, class tokens left out."""
    patches = [i for i in range(tokens.length) if i not in tokens.protected]
    return values[:, patches].unflatten(1, tokens.hw_shape).detach().cpu()
