"""Pruning-aware hidden state alignment: how much time passes at a pruned cell.

A pruned cell has no features any more, so its step size delta_p has to be chosen. Each choice returns what
`mmssmprune.ops.aligned_selective_scan` takes as ``delta_gap``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import aligned_selective_scan, selective_scan


def carry(delta: Tensor, raw_delta_at_zero: Tensor) -> Tensor:
    """Each pruned cell takes the delta of the kept token before it in scan order: (B, D, K) -> (B, D, K)."""
    return F.pad(delta[:, :, :-1], (1, 0))


def bias(delta: Tensor, raw_delta_at_zero: Tensor) -> Tensor:
    """Each pruned cell takes the delta of zero features, as if it were masked: (D,)."""
    return F.softplus(raw_delta_at_zero)


# 'none' lets no time pass: plain compaction, the control of every experiment.
ALIGNMENT: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {'none': None, 'carry': carry, 'bias': bias}


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
) -> Tensor:
    """Scan dense tokens, or kept tokens with the chosen alignment.

    Args:
        u, raw_delta: (B, D, K) in scan order; ``raw_delta`` before ``delta_bias`` (D,) and softplus.
        A, B, C, D: as in `mmssmprune.ops.selective_scan`.
        raw_delta_at_zero: (D,) what ``raw_delta + delta_bias`` is at a token of zero features.
        gap: (B, K) pruned cells just before each token; None where nothing is pruned.
        alignment: a name in `ALIGNMENT`.

    Returns:
        (B, D, K).
    """
    delta_of_pruned = ALIGNMENT[alignment]
    if gap is None or delta_of_pruned is None:
        return selective_scan(u, raw_delta, A, B, C, D, None, delta_bias, True)
    with torch.autocast(u.device.type, enabled=False):
        wide = torch.promote_types(raw_delta.dtype, torch.float32)
        delta = F.softplus(raw_delta.to(wide) + delta_bias.to(wide)[:, None])
        delta_gap = delta_of_pruned(delta, raw_delta_at_zero.to(wide))
    return aligned_selective_scan(u, delta, A, B, C, D, gap=gap, delta_gap=delta_gap)
