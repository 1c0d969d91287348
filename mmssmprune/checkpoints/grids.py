"""Which grid a stored position embedding is of: its rows do not tell, so it travels in the state dict's metadata.

torch and mmengine write that metadata into checkpoints, beside the keys, and hand it over on loading.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor

from mmssmprune._mmengine import print_log

GRID = 'pos_hw'
Grid = tuple[int, int]
# Of the released models: 224x224 pixels by patches of 16, at stride 16 or (Vim) 8.
OFFICIAL_GRIDS = ((14, 14), (27, 27))


def recorded_grid(state: Mapping, module: str = '') -> Grid | None:
    """The grid (h, w) that a state dict records for the position embedding of ``module``, or None."""
    metadata = getattr(state, '_metadata', None)
    record = metadata.get(module) if isinstance(metadata, Mapping) else None
    return record.get(GRID) if isinstance(record, Mapping) else None


def with_grid(state: Mapping[str, Tensor], grid: Grid | None, module: str = '') -> dict[str, Tensor]:
    """A copy of a state dict that records the grid of ``module``; None: no record."""
    copied = OrderedDict(state)
    copied._metadata = OrderedDict(getattr(state, '_metadata', {}))
    if grid is not None:
        copied._metadata[module] = {**copied._metadata.get(module, {}), GRID: grid}
    return copied


def within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state dict whose keys start with ``prefix``, a module and a dot, without it, and its records."""
    part = OrderedDict((key[len(prefix) :], value) for key, value in state.items() if key.startswith(prefix))
    records = {f'{name}.': record for name, record in getattr(state, '_metadata', {}).items()}
    part._metadata = OrderedDict((n[len(prefix) : -1], record) for n, record in records.items() if n.startswith(prefix))
    return part


def replace_within(
    state: dict[str, Tensor], prefix: str, part: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> None:
    """Put ``new`` in the place of ``part``, which `within` took out of a state dict; what both share stays."""
    for key in part.keys() - new.keys():
        del state[f'{prefix}{key}']
    state.update({f'{prefix}{key}': value for key, value in new.items() if value is not part.get(key)})


def stored_grid(cells: int, recorded: Grid | None, own: Grid) -> Grid:
    """The grid (h, w) of a stored position embedding of so many cells.

    Args:
        cells: its rows, those of class tokens aside.
        recorded: what its file says, or None.
        own: the grid of the model that is to be filled.

    Raises:
        ValueError: the record is wrong, or there is none and the number of cells does not tell.
    """
    if recorded is not None:
        return _checked(recorded, cells)
    side = math.isqrt(cells)
    is_own, is_square = cells == math.prod(own), side * side == cells
    if is_own and own[0] == own[1]:
        return own
    if is_own:
        grid = (side, side) if (side, side) in OFFICIAL_GRIDS and is_square else own
        print_log(
            f'the weights do not say which grid their {cells} position embeddings are for, and {own[0]}x{own[1]} is '
            f'not the only one; they are taken for {grid[0]}x{grid[1]}',
            logger='current',
            level=logging.WARNING,
        )
        return grid
    if is_square:
        return side, side
    raise ValueError(
        f'the weights hold {cells} position embeddings and do not say for which grid (h, w), so they cannot be resized '
        f'to {own[0]}x{own[1]}: load them into a model with the img_size of their training and save that again'
    )


def _checked(recorded: Grid, cells: int) -> Grid:
    is_pair = isinstance(recorded, (tuple, list)) and len(recorded) == 2
    if not is_pair or not all(type(n) is int and n > 0 for n in recorded) or math.prod(recorded) != cells:
        raise ValueError(f'the weights say that their {cells} position embeddings are for the grid {recorded!r}')
    return tuple(recorded)
