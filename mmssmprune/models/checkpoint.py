"""Loading pretrained weights by key: every mismatch is reported by name, none is skipped in silence."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from mmssmprune._checkpoint_file import read_checkpoint

# Never part of a backbone: averaged copies, classification heads, rotary tables of older Vim files.
FOREIGN_PREFIXES = ('ema_', 'head.', 'rope.', 'fc.', 'data_preprocessor.', 'neck.', 'decode_head.', 'auxiliary_head.')
FOREIGN_PREFIXES += ('rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')


def backbone_state(checkpoint: Mapping, prefix: str | None) -> dict[str, Tensor]:
    """Find the weights in a checkpoint (``state_dict``, ``model`` or the file itself); strip ``prefix`` from the keys.

    Raises:
        ValueError: no key starts with ``prefix``.
    """
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    if not prefix:
        return dict(state)
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    stripped = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if not stripped:
        some = ', '.join(list(state)[:3])
        raise ValueError(f'no key of the checkpoint starts with {prefix!r}; its keys look like {some}')
    return stripped


def load_pretrained(module: nn.Module, path: str, prefix: str | None, optional: tuple[str, ...]) -> None:
    """Load backbone weights from the file ``path``, after ``module.adapt_state`` has fitted them to its grid.

    Keys that only the checkpoint has are listed in the log. Keys that only the model has must belong to modules named
    in ``optional``; they keep their initial values and are listed too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: shapes differ, or weights are missing: the checkpoint is of another architecture.
    """
    state = backbone_state(read_checkpoint(path), prefix)
    foreign = [key for key in state if key.startswith(FOREIGN_PREFIXES)]
    state = {key: value for key, value in state.items() if key not in foreign}
    state = module.adapt_state(state)
    own = module.state_dict()
    differing = [
        f'{key} is {tuple(value.shape)} in the file and {tuple(own[key].shape)} in the model'
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    missing = [key for key in own if key not in state]
    unusable = [key for key in missing if not key.startswith(optional)]
    if differing or unusable:
        what = differing[:3] or [f'{key} is missing' for key in unusable[:3]]
        total = len(differing) or len(unusable)
        raise ValueError(
            f'{path} does not fit this {type(module).__name__}: {"; ".join(what)} ({total} in all); '
            f'use a checkpoint of the same arch, and check prefix={prefix!r}'
        )
    extra = [key for key in state if key not in own]
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    for what, keys in (
        ('not in the model, left out', foreign + extra),
        ('not in the file, kept as initialised', missing),
    ):
        if keys:
            print_log(f'{path}: {len(keys)} keys {what}: {", ".join(keys)}', logger='current')
