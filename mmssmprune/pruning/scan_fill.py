"""What the scan takes in for pruned cells: how many cells the input of each kept token stands for.

A scan over fewer tokens takes less in, while time passes as before (see `alignment`): its states, made for whole
images, shrink with the keep ratio. A choice is asked once per pruning, gets the `TokenState`, and returns weights
(B, K) of what each token adds to the states, or None for 1; what a token adds to its own output beside them (D u) is
not weighted. Ours, after the proportional attention of ToMe (arXiv 2210.09461), where a merged token counts as often as
it has patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .choices import Choices
from .token_state import TokenState

SCAN_FILL = Choices('scan_fill')
register_scan_fill = SCAN_FILL.register


@register_scan_fill
def zero(tokens: TokenState) -> None:
    """A pruned cell brings no input (arXiv 2409.18962): every token counts once."""
    return None


@register_scan_fill(needs='leader')
def leader(tokens: TokenState) -> Tensor:
    """A pruned cell brings the input of its leader, the kept token that resembled it most or that it went into."""
    return tokens.led


@register_scan_fill
def neighbours(tokens: TokenState) -> Tensor:
    """A pruned cell brings the input of the nearer kept token in scan order: half of the gap on each side.

    Over several directions that is their mean; the sequence forward and backward has the same gaps.
    """
    order = tokens.scan_order
    before = order.gap
    last = tokens.length - before.shape[-1] - before.sum(-1, keepdim=True)  # pruned cells after the last kept one
    after = torch.cat([before[..., 1:], last], -1)
    of_steps = 1 + (before + after) / 2
    return of_steps.new_zeros(of_steps.shape).scatter(-1, order.order.expand(of_steps.shape), of_steps).mean(1)
