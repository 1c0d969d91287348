"""The scan of a mixer over the tokens at hand: walk, gaps and alignment, unpacked as the operator takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmssmprune.ops import multi_scan

from .alignment import time_at_pruned_cells
from .importance import LayerTrace, RawDelta
from .scan_path import Walk
from .token_state import TokenState


def scan_over_walk(
    u: Tensor,
    deltas: Sequence[RawDelta],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    tokens: TokenState,
    direction_B: Tensor | None = None,
    param_order: str = 'scan',
) -> LayerTrace:
    """Scan tokens along every direction of their walk; what the layer shows of it.

    Args:
        u, A, B, C, D, z, direction_B, param_order: as in `mmssmprune.ops.multi_scan`; the axis S is left out where
            there is one set of parameters.
        deltas: the step sizes of each set.
        tokens: which tokens are at hand, and how time passes at the others.
    """
    raw, bias, at_zero = (
        of_sets[0] if len(deltas) == 1 else torch.stack(of_sets)
        for of_sets in zip(*((delta.raw, delta.bias, delta.at_zero) for delta in deltas), strict=True)
    )
    operands = dict(u=u, delta=raw, A=A, B=B, C=C, D=D, delta_bias=bias)
    common = dict(z=z, direction_B=direction_B, param_order=param_order)
    gaps = time_at_pruned_cells(tokens, at_zero)
    y = multi_scan(**operands, **common, **_known_or_given(tokens.walk), **gaps)
    directions = ()
    if tokens.wants_directions:
        directions = _each_direction(operands, common, tokens.walk, gaps, sets=len(deltas))
    return LayerTrace(y, tuple(deltas), directions)


def _known_or_given(walk: Walk) -> dict[str, object]:
    """A walk that the operator knows by itself, or its order and moves."""
    if walk.is_sequence:
        return {}
    if walk.snakes_over is not None:
        return {'hw_shape': walk.snakes_over}
    return {'order': walk.order, 'move': walk.move}


@torch.no_grad()  # what is read from it is a choice, which has no gradient
def _each_direction(
    operands: dict[str, Tensor | None],
    common: dict[str, object],
    walk: Walk,
    gaps: dict[str, Tensor | None],
    sets: int,
) -> tuple[Tensor, ...]:
    """Every direction scanned by itself, (B, K, D) each: they add up to the scan of all."""
    found = []
    for r in range(walk.order.shape[-2]):
        own = {n: t if t is None or sets == 1 else t[r if len(t) > 1 else 0] for n, t in operands.items()}
        one = slice(r, r + 1)
        more = {'order': walk.order[..., one, :], 'move': walk.move[..., one, :]}
        if gaps:
            delta_gap = gaps['delta_gap'] if sets == 1 or gaps['delta_gap'] is None else gaps['delta_gap'][r]
            more |= {'gap': gaps['gap'][:, one], 'delta_gap': delta_gap}
        found.append(multi_scan(**own, **common, **more))
    return tuple(found)
