"""Random operands of a scan along several directions, dense and pruned."""

from __future__ import annotations

from functools import partial

import scan_operands
import torch
from torch import Tensor

from mmssmprune.ops import multi_scan
from mmssmprune.pruning.kept_tokens import KeptTokens
from mmssmprune.pruning.scan_order import line_scan, sequence_scan, snake_scan

PARAMETERS = ('A', 'D', 'delta_bias', 'direction_B', 'delta_gap')


def multi_operands(
    batch: int = 2,
    hw_shape: tuple[int, int] = (3, 5),
    dim: int = 5,
    d_state: int = 3,
    *,
    kept: int | None = None,
    own_parameters: bool = False,
    one_input: bool = False,
    walk: str = 'snakes',
    given_gap: bool = True,
    without: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], dict]:
    """Float64 leaves, and the other arguments, for the walks of PlainMamba (snakes), VMamba (lines) or Vim (sequence).

    ``kept`` tokens are drawn per image; with ``given_gap`` half of the channels have a delta of their own at pruned
    cells. ``without`` names operands to leave out.
    """
    directions = 2 if walk == 'sequence' else 4
    cells = hw_shape[0] * hw_shape[1]
    sets, tokens = directions if own_parameters else 1, kept or cells
    leaves = {
        'u': torch.randn(1 if one_input else sets, batch, tokens, dim),
        'delta': torch.randn(sets, batch, tokens, dim),
        'A': -0.1 - 2 * torch.rand(sets, dim, d_state),
        'B': torch.randn(sets, batch, tokens, d_state),
        'C': torch.randn(sets, batch, tokens, d_state),
        'D': torch.randn(sets, dim),
        'z': torch.randn(batch, tokens, dim),
        'delta_bias': torch.randn(sets, dim),
    }
    options = {'param_order': 'raster' if walk == 'snakes' else 'scan'}
    if walk == 'snakes':
        leaves['direction_B'] = torch.randn(5, d_state)
    if kept is not None:
        over_grid = {'snakes': snake_scan, 'lines': line_scan}
        dense = over_grid[walk](*hw_shape) if walk in over_grid else sequence_scan(cells)
        index = torch.stack([torch.randperm(cells)[:kept].sort().values for _ in range(batch)])
        order = dense.over(KeptTokens(index, cells))
        options |= {'gap': order.gap, **order.arguments}
        if given_gap:
            leaves['delta_gap'] = torch.where(torch.arange(dim) % 2 == 0, torch.rand(sets, dim), -1.0)
    elif walk != 'sequence':
        options |= {'hw_shape': hw_shape, 'walk': walk}
    leaves = {name: t.double().requires_grad_() for name, t in leaves.items() if name not in without}
    return leaves, options


rounded = partial(scan_operands.rounded, parameters=PARAMETERS)


def assert_equals_naive(
    leaves: dict[str, Tensor],
    options: dict,
    backend: str,
    rtol: float,
    dtype: torch.dtype = torch.float64,
    device: str = 'cpu',
) -> None:
    """Compare the output and every gradient with the naive scan, in float64, of the same rounded operands."""
    operator, naive = (partial(multi_scan, backend=name) for name in (backend, 'naive'))
    scan_operands.assert_equals_reference(operator, naive, rounded(leaves, dtype, device), options, rtol)
