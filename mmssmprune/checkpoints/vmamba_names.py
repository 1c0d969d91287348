"""Names and shapes that VMamba's weights have had, and those of today's official code. A file keeps those of its day.

Three writers: the code of January 2024, the code of today, and its version in one file, which stores some weights as
matrices. Pointwise convolutions hold what linear layers hold. The order of the numbers is always the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_BLOCK = r'(layers\.\d+\.blocks\.\d+)'
_DOWN = r'(layers\.\d+\.downsample)'
# (a name that files hold, how the official code calls it now)
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r'patch_embed\.proj\.', 'patch_embed.0.'),
        (r'patch_embed\.norm\.', 'patch_embed.2.'),
        (rf'{_BLOCK}\.ln_1\.', r'\1.norm.'),
        (rf'{_BLOCK}\.self_attention\.', r'\1.op.'),
        (r'norm(?=\.|$)', 'classifier.norm'),
        (r'head(?=\.|$)', 'classifier.head'),
    )
)
_MATRICES = re.compile(rf'{_BLOCK}\.op\.(x_proj|dt_projs)\.weight')
_LINEAR = re.compile(r'.*\.(in_proj|out_proj|fc1|fc2|reduction|head)\.weight')
_DIRECTIONS = 4


def is_vmamba(names: Iterable[str]) -> bool:
    """Whether names, without prefix, are of a VMamba, of whatever age."""
    return any(re.match(rf'{_BLOCK}\.(op|self_attention)\.', name) for name in names)


def current_weights(state: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Per name of a VMamba's weights (without prefix): the name of today, and the weight in the shape of today.

    A weight whose name and shape are those of today is the same object.
    """
    merging = {name.rpartition('.2.')[0] for name in state if re.fullmatch(rf'{_DOWN}\.2\.weight', name)}
    return {name: _current(name, value, merging) for name, value in state.items()}


def _current(name: str, value: Tensor, merging: set[str]) -> tuple[str, Tensor]:
    for pattern, new in _RENAMES:
        name = pattern.sub(new, name) if pattern.match(name) else name
    if _MATRICES.fullmatch(name):
        return name.replace('.weight', '_weight'), _per_direction(value)
    place, _, last = name.rpartition('.downsample.')
    if f'{place}.downsample' in merging:  # of one file: 1 is a norm and 2 a matrix; else 1 is a convolution
        name = f'{place}.downsample.{last.replace("1.", "norm.").replace("2.", "reduction.")}'
    if value.dim() == 4 and value.shape[2:] == (1, 1) and _LINEAR.fullmatch(name):
        value = value.flatten(1)
    return name, value


def _per_direction(value: Tensor) -> Tensor:
    """Rows of all directions (4 R, d), perhaps as convolutions of size 1, to (4, R, d)."""
    if value.dim() < 2 or len(value) % _DIRECTIONS:
        return value  # of no VMamba: the comparison of shapes says so
    return value.reshape(_DIRECTIONS, len(value) // _DIRECTIONS, value.shape[1])
