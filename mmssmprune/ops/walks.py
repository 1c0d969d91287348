"""The four walks of a family over a grid: PlainMamba's snakes, and VMamba's lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The move by which a snake reached a cell: the rows of PlainMamba's direction_Bs.
START, RIGHT, LEFT, UP, DOWN = range(5)


def snake_order(height: int, width: int, device: torch.device | str = 'cpu') -> Tensor:
    """The cell visited at each step of the row snake, its reverse, the column snake and its reverse, (4, H*W).

    Both snakes start in the top left corner and turn at each end, so that neighbours in the sequence are neighbours
    in the image (arXiv 2403.17695, figure 3).
    """
    cells = torch.arange(height * width, device=device).view(height, width)
    rows, columns = _snake(cells), _snake(cells.t())
    return torch.stack([rows, rows.flip(0), columns, columns.flip(0)])


def _snake(cells: Tensor) -> Tensor:
    turns = torch.arange(cells.shape[0], device=cells.device)[:, None] % 2 == 1
    return torch.where(turns, cells.flip(1), cells).flatten()


def snake_moves(order: Tensor, width: int) -> Tensor:
    """The move that reached each cell of walks (R, L) over a grid of this width; the first is reached by `START`."""
    rows = order // width
    down, right = rows.diff(), (order - rows * width).diff()  # ONNX has no remainder by a width that is left open
    return F.pad(RIGHT * (right > 0) + LEFT * (right < 0) + UP * (down < 0) + DOWN * (down > 0), (1, 0), value=START)


def line_order(height: int, width: int, device: torch.device | str = 'cpu') -> Tensor:
    """The cell visited at each step row by row, column by column, and the reverse of both, (4, H*W).

    Every line starts at its top or left end again (VMamba's cross-scan, arXiv 2401.10166, section 4.3).
    """
    cells = torch.arange(height * width, device=device).view(height, width)
    rows, columns = cells.flatten(), cells.t().flatten()
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


# The walks that the scan knows over a grid of a given shape.
GRID_WALKS = ('snakes', 'lines')


def grid_order(walk: str, height: int, width: int, device: torch.device | str = 'cpu') -> Tensor:
    """The cell visited at each step (4, H*W) of one of `GRID_WALKS`."""
    return (snake_order if walk == 'snakes' else line_order)(height, width, device)
