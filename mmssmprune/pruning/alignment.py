"""Pruning-aware hidden state alignment: how much time passes at a pruned cell.

A pruned cell has no features any more, so its step size delta_p has to be chosen. Every choice is called as

    gap, delta_gap = alignment(gap, raw_delta_at_zero)

and what it returns goes to `mmssmprune.ops.multi_scan`: ``gap`` (B, R, K) counts the pruned cells before each token,
None where no time passes; ``delta_gap`` is the step size of each of these cells, None for that of the step before.
``raw_delta_at_zero`` and ``delta_gap`` are (S, D) with S sets of parameters, or (D,) where all directions share one.
Sources: arXiv 2409.18962 section 4 for the alignment as such; what stands for delta_p is ours, since the paper's text
leaves it open.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import Choices
from .token_state import TokenState

ALIGNMENT = Choices('alignment')
register_alignment = ALIGNMENT.register


@register_alignment
def none(gap: Tensor, raw_delta_at_zero: Tensor) -> tuple[None, None]:
    """No time passes: plain compaction, the control of every experiment."""
    return None, None


@register_alignment
def carry(gap: Tensor, raw_delta_at_zero: Tensor) -> tuple[Tensor, None]:
    """Each pruned cell takes the delta of the kept token before it in scan order."""
    return gap, None


@register_alignment
def bias(gap: Tensor, raw_delta_at_zero: Tensor) -> tuple[Tensor, Tensor]:
    """Each pruned cell takes the delta of zero features, as if it were masked."""
    return gap, F.softplus(raw_delta_at_zero)


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
    gap, delta_gap = tokens.alignment(tokens.scan_order.gap, raw_delta_at_zero.to(wide))
    return {} if gap is None else {'gap': gap, 'delta_gap': delta_gap}
