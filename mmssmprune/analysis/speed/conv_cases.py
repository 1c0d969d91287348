"""Operands and contestants of the convolution benchmark: our operator over kept tokens against convolving the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import kept_conv
from mmssmprune.ops.kept_conv import CONV_BACKENDS
from mmssmprune.pruning.kept_tokens import KeptTokens

from .scan_cases import FAMILIES, Contestant, ScanCase

SQUARE, LINES, CAUSAL = 7, 3, 4  # the sides of PlainMamba and VMamba, Vim's width
DENSE, GRID = 'all cells', 'scatter, convolve, gather'


def make_operands(case: ScanCase, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random leaves of `kept_conv`, and its other arguments; the weight is float32, as autocast leaves it."""
    family = FAMILIES[case.family]
    dim, side = family.dim, LINES if family.lines else SQUARE if family.directions == 4 else 0
    generator = torch.Generator().manual_seed(0)
    cells = case.hw_shape[0] * case.hw_shape[1]
    size = (side, side) if side else (1, CAUSAL)
    index = torch.rand(case.batch, cells, generator=generator).topk(case.tokens).indices.sort().values
    slot = torch.full((case.batch, cells), -1, dtype=torch.int32)
    slot.scatter_(1, index, torch.arange(case.tokens, dtype=torch.int32).expand(case.batch, -1))
    leaves = {
        'x': torch.randn(case.batch, case.tokens, dim, generator=generator).to(device, dtype).requires_grad_(),
        'weight': torch.randn(dim, 1, *size, generator=generator).to(device).requires_grad_(),
        'bias': torch.randn(dim, generator=generator).to(device).requires_grad_(),
    }
    options: dict[str, Any] = {'cells': index.to(device), 'slot': slot.to(device)}
    if side:
        return leaves, options | {'hw_shape': case.hw_shape, 'origin': (-(side // 2), -(side // 2))}
    return leaves, options | {'hw_shape': (1, cells), 'origin': (0, 1 - CAUSAL)}


def contestants(
    case: ScanCase, device: torch.device, dtype: torch.dtype, names: Sequence[str] | None
) -> dict[str, Contestant]:
    """A dense layer's convolution, the way over the grid, and backends by name: all but the naive one unless named."""
    leaves, options = make_operands(case, device, dtype)
    usable = [name for name in CONV_BACKENDS.available(device) if name != 'naive' and (not names or name in names)]
    calls = {DENSE: over_all_cells(leaves, options), GRID: over_grid(leaves, options)}
    return calls | {name: ours(leaves, options, name) for name in usable}


def ours(leaves: dict[str, Tensor], options: dict[str, Any], backend: str) -> Contestant:
    """The convolution by one of our backends."""
    return lambda: kept_conv(**leaves, **options, backend=backend), list(leaves.values())


def over_all_cells(leaves: dict[str, Tensor], options: dict[str, Any]) -> Contestant:
    """What a dense layer computes: the convolution of as many tokens as there are cells."""
    height, width = options['hw_shape']
    x = leaves['x'].detach()
    full = x.new_empty(len(x), height * width, x.shape[2]).normal_().requires_grad_()
    return lambda: _convolve(full, leaves, options), [full, leaves['weight'], leaves['bias']]


def over_grid(leaves: dict[str, Tensor], options: dict[str, Any]) -> Contestant:
    """Put the tokens on the grid, convolve all of it, pick them again."""
    height, width = options['hw_shape']
    kept = KeptTokens(options['cells'], height * width)
    return lambda: kept.gather(_convolve(kept.scatter(leaves['x']), leaves, options)), list(leaves.values())


def _convolve(full: Tensor, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    """(B, H*W, C) -> (B, H*W, C)."""
    height, width = options['hw_shape']
    top, left = options['origin']
    grid = full.transpose(1, 2).unflatten(2, (height, width))
    weight, bias = (leaves[name].to(full.dtype) for name in ('weight', 'bias'))
    out = F.conv2d(grid, weight, bias, padding=(-top, -left), groups=full.shape[2])
    return out[:, :, :height, :width].flatten(2).transpose(1, 2)
