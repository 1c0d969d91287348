"""Pruning-aware hidden state alignment: how much time passes at a pruned cell.

A pruned cell has no features any more, so its step size delta_p has to be chosen. Every choice is called as

    gap, delta_gap = alignment(gap, raw_delta_at_zero, layer)

and what it returns goes to `mmssmprune.ops.multi_scan`: ``gap`` (B, R, K) counts the pruned cells before each token,
None where no time passes; ``delta_gap`` is the step size of each of these cells, None for that of the step before.
``raw_delta_at_zero`` and ``delta_gap`` are (S, D) with S sets of parameters, or (D,) where all directions share one.
``layer`` is the layer's place in its stage; only modules get it, for functions it stays 0. Sources: arXiv 2409.18962
section 4 for the alignment as such; what stands for delta_p is ours, since the paper's text leaves it open.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choices import Choices
from .stage import Stage
from .token_state import TokenState

ALIGNMENT = Choices('alignment')
register_alignment = ALIGNMENT.register
# How fast a stored delta follows once the first batches are averaged.
MOMENTUM = 0.05


@register_alignment
def none(gap: Tensor, raw_delta_at_zero: Tensor, layer: int) -> tuple[None, None]:
    """No time passes: plain compaction, the control of every experiment."""
    return None, None


@register_alignment
def carry(gap: Tensor, raw_delta_at_zero: Tensor, layer: int) -> tuple[Tensor, None]:
    """Each pruned cell takes the delta of the kept token before it in scan order."""
    return gap, None


@register_alignment
def bias(gap: Tensor, raw_delta_at_zero: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Each pruned cell takes the delta of zero features, as if it were masked."""
    return gap, F.softplus(raw_delta_at_zero)


class StoredDelta(nn.Module):
    """Base of the choices that store what calibration passes measure; everything starts at zero.

    ``stored_delta`` (layers, S, D) is a number per layer of the stage, set of parameters and channel;
    ``calibrated_batches`` counts the batches that went into it.
    """

    learns = False

    def __init__(self, stage: Stage):
        super().__init__()
        stored = torch.zeros(len(stage.layers), stage.param_sets, stage.d_inner)
        if self.learns:
            self.stored_delta = nn.Parameter(stored)
        else:
            self.register_buffer('stored_delta', stored)
        self.register_buffer('calibrated_batches', torch.zeros((), dtype=torch.long))

    def stored_as(self, raw_delta_at_zero: Tensor, layer: int) -> Tensor:
        """What is stored for a layer, shaped as ``raw_delta_at_zero``."""
        stored = self.stored_delta[layer]
        return stored[0] if raw_delta_at_zero.dim() == 1 else stored

    def to_store(self, mean: Tensor, at_zero: Tensor) -> Tensor:
        """What a measured mean delta (S, D) is stored as; ``at_zero`` is the raw delta of zero features."""
        return mean

    @torch.no_grad()
    def forget(self) -> None:
        """Start the averages anew."""
        self.stored_delta.zero_()
        self.calibrated_batches.zero_()

    @torch.no_grad()
    def average_in(self, measured: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Average a batch in: per layer of the stage the mean delta of pruned cells and the raw delta at zero, (S, D).

        The plain mean of the first batches, then a running one in training, where the weights move; the mean of all
        otherwise.
        """
        weight = 1 / (int(self.calibrated_batches) + 1)
        if self.training:
            weight = max(weight, MOMENTUM)
        for layer, (mean, at_zero) in measured.items():
            self.stored_delta[layer].lerp_(self.to_store(mean, at_zero).to(self.stored_delta.dtype), weight)
        self.calibrated_batches += 1


@register_alignment(name='calibrated', needs='calibration')
class CalibratedDelta(StoredDelta):
    """Each pruned cell takes the mean delta that such cells show in the dense model.

    A stored 0 means that nothing was measured yet; there it is `carry`, which a negative delta stands for.
    """

    def forward(self, gap: Tensor, raw_delta_at_zero: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The gap as it is, and what is stored."""
        stored = self.stored_as(raw_delta_at_zero, layer)
        return gap, torch.where(stored > 0, stored, -1.0)


@register_alignment(name='learned', needs='calibration')
class LearnedDelta(StoredDelta):
    """Each pruned cell takes a trained delta: what is stored is added to the raw delta of zero features.

    A stored 0 is `bias`.
    """

    learns = True

    def forward(self, gap: Tensor, raw_delta_at_zero: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The gap as it is, and the trained delta."""
        return gap, F.softplus(raw_delta_at_zero + self.stored_as(raw_delta_at_zero, layer))

    def to_store(self, mean: Tensor, at_zero: Tensor) -> Tensor:
        """The raw delta whose softplus is ``mean``, as the distance from that of zero features."""
        # The inverse of softplus, written so that large values do not overflow.
        return mean + torch.log(-torch.expm1(-mean)) - at_zero


def time_at_pruned_cells(tokens: TokenState, raw_delta_at_zero: Tensor) -> dict[str, Tensor | None]:
    """The arguments ``gap`` and ``delta_gap`` of `mmssmprune.ops.multi_scan`; none where no time passes unseen.

    Args:
        tokens: which tokens are at hand, and the alignment.
        raw_delta_at_zero: (S, D), or (D,) where all directions share one set of parameters: what the raw delta, biases
            included, is at a token of zero features.
    """
    if tokens.scan_order.gap is None or tokens.alignment is None:
        return {}
    wide = torch.promote_types(raw_delta_at_zero.dtype, torch.float32)
    gap, delta_gap = tokens.alignment(tokens.scan_order.gap, raw_delta_at_zero.to(wide), tokens.layer)
    return {} if gap is None else {'gap': gap, 'delta_gap': delta_gap}
