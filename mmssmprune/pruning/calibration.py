"""Measuring the step sizes that pruned cells would have had: what the alignments `calibrated` and `learned` start from.

A pruned cell leaves no trace in later layers, so a pass over the dense model is needed: it keeps every token, notes
which ones the plan would have pruned by then, and averages the delta that they show in each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .importance import LayerTrace, score_tokens
from .kept_tokens import choose_tokens
from .plan import PrunePlan
from .scan_path import ScanPath
from .token_state import TokenState


class DeltaRecorder(nn.Module):
    """Takes a pruner's place during one dense forward pass.

    Args:
        plan, importance: what would be pruned.
        per_stage: whether all cells are candidates again after a tap.
        num_layers: depth of the backbone.

    Attributes:
        means: per layer (sets of parameters, D) the mean delta of the cells that would be pruned by then; None for
            layers before the first pruning.
        at_zero: per layer, in the same shape, the raw delta of zero features.
    """

    def __init__(self, plan: PrunePlan, importance: str, per_stage: bool, num_layers: int):
        super().__init__()
        self.plan, self.importance, self.per_stage = plan, importance, per_stage
        self.means: list[Tensor | None] = [None] * num_layers
        self.at_zero: list[Tensor | None] = [None] * num_layers
        self.alive: Tensor | None = None
        self.candidates: Tensor | None = None

    def start(self, path: ScanPath, hw_shape: tuple[int, int], protected: tuple[int, ...] = ()) -> TokenState:
        """The dense state."""
        return TokenState.dense(path, hw_shape, protected)

    def prune(
        self,
        layer: int,
        streams: tuple[Tensor, ...],
        tokens: TokenState,
        trace: LayerTrace,
        blank: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Note what would have been pruned; nothing is."""
        if self.alive is not None:
            self.means[layer] = _mean_delta(trace, ~self.alive)
            self.at_zero[layer] = torch.stack([delta.at_zero for delta in trace.deltas])
        if layer in self.plan.layers:
            score = score_tokens(self.importance, trace, tokens)
            if self.alive is None:
                self.alive = self.candidates = torch.ones_like(score, dtype=torch.bool)
            spared = len(tokens.protected)
            keep = self.plan.keep_after(layer, int(self.candidates[0].sum()) - spared) + spared
            score = score.masked_fill(~self.candidates, -torch.inf)
            chosen = choose_tokens(score, keep, tokens.is_protected)
            self.alive = torch.zeros_like(self.alive).scatter(1, chosen, True)
            self.candidates = self.alive
        return streams, tokens

    def tapped(self, tokens: TokenState) -> TokenState:
        """After a tap all cells are candidates again where the regime says so."""
        if self.per_stage and self.alive is not None:
            self.candidates = torch.ones_like(self.alive)
        return tokens

    def restore(self, x: Tensor, tokens: TokenState, stream: int = 0, blank: Tensor | None = None) -> Tensor:
        """Nothing is missing."""
        return x


def _mean_delta(trace: LayerTrace, dead: Tensor) -> Tensor | None:
    """(sets of parameters, D) over the dead cells of the whole batch, and of all processes; None without any.

    Every process takes part, one without dead cells too: with images of other sizes others may have some.
    """
    values = [delta.value() for delta in trace.deltas]  # float32 or wider
    weight = dead.unsqueeze(-1).to(values[0].dtype)
    sums = torch.stack([(value * weight).sum((0, 1)) for value in values])
    total = torch.cat([sums.flatten(), weight.sum()[None]])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total[:-1].view_as(sums) / total[-1] if total[-1] > 0 else None
