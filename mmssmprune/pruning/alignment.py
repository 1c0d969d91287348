"""Pruning-aware hidden state alignment: how much time passes at a pruned cell.

A pruned cell has no features any more, so its step size delta_p has to be chosen. Each choice returns what
`mmssmprune.ops.aligned_selective_scan` takes as ``delta_gap``. Sources: arXiv 2409.18962 section 4 for the alignment
as such; what stands for delta_p is ours, since the paper's text leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import aligned_selective_scan, selective_scan


def carry(delta: Tensor, raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes the delta of the kept token before it in scan order: (B, D, K) -> (B, D, K)."""
    return F.pad(delta[:, :, :-1], (1, 0))


def bias(delta: Tensor, raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes the delta of zero features, as if it were masked: (D,)."""
    return F.softplus(raw_delta_at_zero)


def calibrated(delta: Tensor, raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes the mean delta that such cells show in the dense model, ``stored`` (D,).

    A stored 0 means that nothing was measured yet; there it is `carry`.
    """
    carried = carry(delta, raw_delta_at_zero, stored)
    if stored is None:
        return carried
    stored = stored.to(delta.dtype)[:, None]
    return torch.where(stored > 0, stored, carried)


def learned(delta: Tensor, raw_delta_at_zero: Tensor, stored: Tensor | None) -> Tensor:
    """Each pruned cell takes a trained delta: ``stored`` (D,) is added to the raw delta of zero features.

    A stored 0 is `bias`.
    """
    return F.softplus(raw_delta_at_zero if stored is None else raw_delta_at_zero + stored.to(delta.dtype))


# 'none' lets no time pass: plain compaction, the control of every experiment.
ALIGNMENT: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor] | None] = {
    'none': None,
    'carry': carry,
    'bias': bias,
    'calibrated': calibrated,
    'learned': learned,
}
# These store what a calibration pass measures.
NEEDS_CALIBRATION = ('calibrated', 'learned')


def scan_tokens(
    u: Tensor,
    raw_delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    raw_delta_at_zero: Tensor,
    gap: Tensor | None,
    alignment: str,
    stored_delta: Tensor | None = None,
) -> Tensor:
    """Scan dense tokens, or kept tokens with the chosen alignment.

    Args:
        u, raw_delta: (B, D, K) in scan order; ``raw_delta`` before ``delta_bias`` (D,) and softplus.
        A, B, C, D: as in `mmssmprune.ops.selective_scan`.
        raw_delta_at_zero: (D,) what ``raw_delta + delta_bias`` is at a token of zero features.
        gap: (B, K) pruned cells just before each token; None where nothing is pruned.
        alignment: a name in `ALIGNMENT`.
        stored_delta: (D,) what `calibrated` or `learned` keeps for this layer and set of parameters.

    Returns:
        (B, D, K).
    """
    delta_of_pruned = ALIGNMENT[alignment]
    if gap is None or delta_of_pruned is None:
        return selective_scan(u, raw_delta, A, B, C, D, None, delta_bias, True)
    wide = torch.promote_types(raw_delta.dtype, torch.float32)
    delta = F.softplus(raw_delta.to(wide) + delta_bias.to(wide)[:, None])
    delta_gap = delta_of_pruned(delta, raw_delta_at_zero.to(wide), stored_delta)
    return aligned_selective_scan(u, delta, A, B, C, D, gap=gap, delta_gap=delta_gap)
