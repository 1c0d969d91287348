"""The scan of a mixer over the tokens at hand: order, gaps and alignment, unpacked as the operator takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import multi_scan

from .alignment import time_at_pruned_cells
from .importance import LayerTrace, RawDelta
from .token_state import TokenState


def scan_over_tokens(
    u: Tensor,
    delta: RawDelta,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    tokens: TokenState,
    direction_B: Tensor | None = None,
    param_order: str = 'scan',
) -> LayerTrace:
    """Scan tokens along every direction of their order; what the layer shows of it.

    Args:
        u, A, B, C, D, z, direction_B, param_order: as in `mmssmprune.ops.multi_scan`; the axis S is left out where
            there is one set of parameters.
        delta: the step sizes, of all sets.
        tokens: which tokens are at hand, and how time passes at the others.
    """
    operands = dict(u=u, delta=delta.raw, A=A, B=B, C=C, D=D, delta_bias=delta.bias)
    common = dict(z=z, direction_B=direction_B, param_order=param_order)
    gaps = time_at_pruned_cells(tokens, delta.at_zero)
    y = _weighted_scan(operands, common | tokens.scan_order.arguments | gaps, tokens)
    directions = ()
    if tokens.wants_directions:
        directions = _each_direction(operands, common, tokens, gaps, sets=len(delta.sets))
    return LayerTrace(y, delta.sets, directions, A)


@torch.no_grad()  # what is read from it is a choice, which has no gradient
def _each_direction(
    operands: dict[str, Tensor | None],
    common: dict[str, object],
    tokens: TokenState,
    gaps: dict[str, Tensor | None],
    sets: int,
) -> tuple[Tensor, ...]:
    """Every direction scanned by itself, (B, K, D) each: they add up to the scan of all."""
    found = []
    for r in range(tokens.scan_order.order.shape[-2]):
        own = {n: t if t is None or sets == 1 else t[r if len(t) > 1 else 0] for n, t in operands.items()}
        alone = replace(tokens, scan_order=tokens.scan_order.direction(r))
        more = alone.scan_order.arguments
        if gaps:
            delta_gap = gaps['delta_gap'] if sets == 1 or gaps['delta_gap'] is None else gaps['delta_gap'][r]
            more |= {'gap': gaps['gap'][:, r : r + 1], 'delta_gap': delta_gap}
        found.append(_weighted_scan(own, common | more, alone))
    return tuple(found)


def _weighted_scan(operands: dict[str, Tensor | None], common: dict[str, Any], tokens: TokenState) -> Tensor:
    """`multi_scan`, in which what a token adds to the states counts ``tokens.input_weight`` times."""
    if tokens.input_weight is None:
        return multi_scan(**operands, **common)
    weight, u, D = tokens.input_weight.unsqueeze(-1), operands['u'], operands['D']
    if common['param_order'] == 'scan' and common['direction_B'] is None:
        return multi_scan(**operands | {'B': operands['B'] * weight.to(u.dtype)}, **common)
    # B at a step is not that of the visited token alone, so the input itself is weighted, D u with it; that goes back.
    y = multi_scan(**operands | {'u': u * weight.to(u.dtype)}, **common)
    if D is None:
        return y
    directions = tokens.scan_order.order.shape[-2] if D.dim() == 1 else 1
    skip = directions * u * D if D.dim() == 1 else (u * D[:, None, None]).sum(0)
    gate = 1 if common['z'] is None else F.silu(common['z'])
    return y - ((weight - 1) * skip * gate).to(y.dtype)
