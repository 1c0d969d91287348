"""Pruning-aware hidden state alignment: how much time passes at a pruned cell.

A pruned cell has no features any more, so its step size delta_p has to be chosen. Each choice returns what
`mmssmprune.ops.multi_scan` takes as ``delta_gap``: a step size, or None for that of the step before. Sources: arXiv
2409.18962 section 4 for the alignment as such; what stands for delta_p is ours, since the paper's text leaves it open.

Below, ``raw_delta_at_zero`` and ``stored`` are (S, D) with S sets of parameters, or (D,) where all directions share
one, and so is what is returned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .token_state import TokenState


def carry(raw_delta_at_zero: Tensor, stored: Tensor | None) -> None:
    """Each pruned cell takes the delta of the kept token before it in scan order."""
    return None


def bias(raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes the delta of zero features, as if it were masked."""
    return F.softplus(raw_delta_at_zero)


def calibrated(raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor | None:
    """Each pruned cell takes the mean delta that such cells show in the dense model, ``stored``.

    A stored 0 means that nothing was measured yet; there it is `carry`, which a negative delta stands for.
    """
    return None if stored is None else torch.where(stored > 0, stored, -1.0)


def learned(raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes a trained delta: ``stored`` is added to the raw delta of zero features.

    A stored 0 is `bias`.
    """
    return F.softplus(raw_delta_at_zero if stored is None else raw_delta_at_zero + stored)


# 'none' lets no time pass: plain compaction, the control of every experiment.
ALIGNMENT: dict[str, Callable[[Tensor, Tensor | None], Tensor | None] | None] = {
    'none': None,
    'carry': carry,
    'bias': bias,
    'calibrated': calibrated,
    'learned': learned,
}
# These store what a calibration pass measures.
NEEDS_CALIBRATION = ('calibrated', 'learned')


def time_at_pruned_cells(tokens: TokenState, raw_delta_at_zero: Tensor) -> dict[str, Tensor | None]:
    """The arguments ``gap`` and ``delta_gap`` of `mmssmprune.ops.multi_scan`; none where no time passes unseen.

    Args:
        tokens: which tokens are at hand, and the alignment.
        raw_delta_at_zero: (S, D), or (D,) where all directions share one set of parameters: what the raw delta, biases
            included, is at a token of zero features.
    """
    delta_of_pruned = ALIGNMENT[tokens.alignment]
    if tokens.walk.gap is None or delta_of_pruned is None:
        return {}
    wide = torch.promote_types(raw_delta_at_zero.dtype, torch.float32)
    stored = tokens.stored_delta
    if stored is not None and raw_delta_at_zero.dim() == 1:
        stored = stored[0]
    return {'gap': tokens.walk.gap, 'delta_gap': delta_of_pruned(raw_delta_at_zero.to(wide), stored)}
