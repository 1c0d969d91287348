"""State dicts as earlier versions wrote them."""

from __future__ import annotations

from torch import Tensor

OLDER = {
    'stages.0.restoration.mask_token': 'mask_token',
}


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it was before there were stages."""
    names = {key: key for key in state}
    for new, old in OLDER.items():
        names |= {key: key.replace(new, old) for key in state if key.endswith(f'pruner.{new}')}
    assert sum(key != name for key, name in names.items()) == 1
    return {names[key]: value for key, value in state.items()}
