"""Measuring the step sizes that pruned cells would have had, for the alignments that store them.

A pruned cell leaves no trace in later layers, so a pass over the dense model is needed: it keeps every token, notes
which ones the plan would have pruned by then, and averages the delta that they show in each layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .importance import LayerTrace
from .kept_tokens import choose_tokens
from .plan import PrunePlan
from .token_state import TokenState
from .units import choose_units


class DeltaRecorder:
    """What a pruner does instead of pruning, in one pass over the dense model.

    Args:
        plan: what would be pruned.
        stages: numbers of the layers of each stage.
        reopened: layers after which all cells are candidates again.

    Attributes:
        measured: per stage, by the layer's place in it, (S, D) the mean delta of the cells that would be pruned by then
            and the raw delta of zero features. Layers before the first pruning of their stage are missing.
    """

    def __init__(self, plan: PrunePlan, stages: Sequence[range], reopened: Collection[int]):
        self.plan, self.stages, self.reopened = plan, stages, reopened
        self.measured: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in stages]
        self.start()

    def start(self) -> None:
        """A stage begins with all cells alive."""
        self.alive: Tensor | None = None
        self.alive_units: tuple[int, ...] = ()
        self.candidates: Tensor | None = None
        self.after_reopening = False

    def note(self, layer: int, tokens: TokenState, trace: LayerTrace) -> None:
        """Look at what a layer shows when it has run."""
        place = layer - self.stages[tokens.stage][0]
        if self.alive is not None and self.after_reopening:
            self.candidates, self.alive_units = torch.ones_like(self.alive), ()
        if self.alive is not None:
            mean = _mean_delta(trace, ~self.alive)
            if mean is not None:
                at_zero = torch.stack([delta.at_zero for delta in trace.deltas])
                self.measured[tokens.stage][place] = mean, at_zero
        self.after_reopening = layer in self.reopened

    def choose(self, layer: int, score: Tensor, tokens: TokenState) -> None:
        """Note which tokens the plan would prune after a layer, by their scores (B, L)."""
        if self.alive is None:
            self.alive = self.candidates = torch.ones_like(score, dtype=torch.bool)
        score = score.masked_fill(~self.candidates, -torch.inf)
        self.alive_units, cells = self.plan.keep_units(layer, tokens.hw_shape, self.alive_units)
        if self.plan.unit != (1, 1):
            score = choose_units(score, tokens, self.plan.unit, self.alive_units)
        chosen = choose_tokens(score, cells + len(tokens.protected), tokens.is_protected)
        self.alive = self.candidates = torch.zeros_like(self.alive).scatter(1, chosen, True)


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
