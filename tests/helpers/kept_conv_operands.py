"""Random operands of the convolution over kept tokens, and the same convolution of the whole grid by torch."""

from __future__ import annotations

from functools import partial

import pytest
import scan_operands
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops import kept_conv
from mmssmprune.ops.kept_conv import cpp

NO_CPP = pytest.mark.skipif(cpp.problem() is not None, reason=f'no cpp backend: {cpp.problem()}')
# Grid, kernel, origin, kept tokens (None: all, and no cells given), kept outputs (None: at the tokens), channels.
CASES = {
    'PlainMamba': ((5, 9), (7, 7), (-3, -3), 23, None, 50),
    'PlainMamba, nothing pruned': ((6, 4), (7, 7), (-3, -3), 24, None, 67),
    'PlainMamba dense': ((6, 4), (7, 7), (-3, -3), None, None, 67),
    'Vim dense backward': ((1, 23), (1, 4), (0, 0), None, None, 20),
    'some outputs of a whole grid': ((4, 5), (3, 3), (-1, -1), None, 7, 18),
    'Vim forward': ((1, 41), (1, 4), (0, -3), 20, None, 35),
    'Vim backward': ((1, 41), (1, 4), (0, 0), 20, None, 35),
    '3x3': ((4, 7), (3, 3), (-1, -1), 13, None, 3),
    'wide, at other cells': ((5, 6), (2, 5), (-1, -3), 9, 26, 20),
    'tall, at some of the tokens': ((6, 5), (6, 1), (-2, 0), 30, 4, 16),
    'all taps beyond the token': ((4, 5), (2, 3), (1, -4), 20, 11, 9),
    'kernel wider than the grid': ((3, 2), (5, 8), (-2, -4), 4, None, 5),
    'one token': ((3, 3), (3, 3), (-1, -1), 1, None, 17),
    'one cell': ((1, 1), (7, 7), (-3, -3), 1, None, 1),
}
NAMES = ('x', 'weight', 'bias')


def draw_cells(batch: int, length: int, kept: int, shuffled: bool = False) -> tuple[Tensor, Tensor]:
    """``cells`` (B, kept) of ``length``, others in each image, ascending or ``shuffled``; and ``slot`` for them."""
    cells = torch.stack([torch.randperm(length)[:kept] for _ in range(batch)])
    cells = cells if shuffled else cells.sort().values
    tokens = torch.arange(kept, dtype=torch.int32).expand(batch, -1)
    return cells, torch.full((batch, length), -1, dtype=torch.int32).scatter(1, cells, tokens)


def conv_operands(case: str, batch: int = 3, shuffled: bool = False) -> tuple[dict[str, Tensor], dict]:
    """Float64 leaves, and the other arguments."""
    hw_shape, kernel, origin, kept, wanted, channels = CASES[case]
    options = dict(hw_shape=hw_shape, origin=origin)
    if kept is None:
        kept = hw_shape[0] * hw_shape[1]
    else:
        options['cells'], options['slot'] = draw_cells(batch, hw_shape[0] * hw_shape[1], kept, shuffled)
    if wanted is not None:
        options['out_cells'], options['out_slot'] = draw_cells(batch, hw_shape[0] * hw_shape[1], wanted, shuffled)
    shapes = ((batch, kept, channels), (channels, 1, *kernel), (channels,))
    leaves = {name: torch.randn(s, dtype=torch.float64) for name, s in zip(NAMES, shapes, strict=True)}
    return {name: t.requires_grad_() for name, t in leaves.items()}, options


def on_whole_grid(x, weight, bias=None, *, hw_shape, origin, cells=None, out_cells=None, **slots) -> Tensor:
    """The definition by torch alone: scatter, pad, F.conv2d, gather."""
    (height, width), (top, left), (kh, kw) = hw_shape, origin, weight.shape[2:]
    cells = torch.arange(height * width, device=x.device).expand(len(x), -1) if cells is None else cells
    out_cells = cells if out_cells is None else out_cells
    index = cells[..., None].expand(-1, -1, x.shape[2])
    full = x.new_zeros(len(x), height * width, x.shape[2]).scatter(1, index, x)
    grid = full.transpose(1, 2).reshape(len(x), -1, height, width)
    padded = F.pad(grid, (-left, left + kw - 1, -top, top + kh - 1))
    out = F.conv2d(padded, weight, bias, groups=x.shape[2]).flatten(2).transpose(1, 2)
    return out.gather(1, out_cells[..., None].expand(-1, -1, x.shape[2]))


rounded = partial(scan_operands.rounded, parameters=NAMES[1:])


def assert_equals_whole_grid(
    leaves: dict[str, Tensor],
    options: dict,
    backend: str,
    rtol: float,
    dtype: torch.dtype = torch.float64,
    device: str = 'cpu',
) -> None:
    """Compare output and every gradient with those of the whole grid, in float64, of the same rounded operands."""
    operator, narrow = partial(kept_conv, backend=backend), rounded(leaves, dtype, device)
    out = scan_operands.assert_equals_reference(operator, on_whole_grid, narrow, options, rtol)
    assert out.is_contiguous()
