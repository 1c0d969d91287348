"""Loading pretrained weights by key: every mismatch is reported by name, none is skipped in silence."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from mmssmprune._checkpoint_file import read_checkpoint
from mmssmprune.models.pos_embed import GRID, recorded_grid, with_grid

from .backbones.base import PrunableBackbone

# Never part of a backbone: averaged copies, classification heads, rotary tables of older Vim files.
FOREIGN_PREFIXES = ('ema_', 'head.', 'rope.', 'fc.', 'data_preprocessor.', 'neck.', 'decode_head.', 'auxiliary_head.')
FOREIGN_PREFIXES += ('rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')


def backbone_state(checkpoint: Mapping, prefix: str | None) -> dict[str, Tensor]:
    """Find the weights in a checkpoint (``state_dict``, ``model`` or the file itself); strip ``prefix`` from the keys.

    What its metadata says of the position embedding's grid stays with them.

    Raises:
        ValueError: no key starts with ``prefix``.
    """
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    if not prefix:
        return with_grid(state, None)
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    stripped = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if not stripped:
        some = ', '.join(list(state)[:3])
        raise ValueError(f'no key of the checkpoint starts with {prefix!r}; its keys look like {some}')
    return with_grid(stripped, recorded_grid(state, prefix[:-1]))


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
    grid = recorded_grid(state)
    state = {key: value for key, value in state.items() if key not in foreign}
    try:
        state = module.adapt_state(with_grid(state, grid))
    except ValueError as error:
        raise ValueError(f'{path} does not fit this {type(module).__name__}: {error}') from None
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
    held = {key: value for key, value in state.items() if key in own}
    module.load_state_dict(with_grid(held, module.pos_hw), strict=False)
    for what, keys in (
        ('not in the model, left out', foreign + extra),
        ('not in the file, kept as initialised', missing),
    ):
        if keys:
            print_log(f'{path}: {len(keys)} keys {what}: {", ".join(keys)}', logger='current')


def fit_backbones(model: nn.Module, state: dict[str, Tensor], resumes: bool = False) -> None:
    """Replace the position embeddings in the weights of a whole model by such of the grids of its backbones.

    Args:
        model: the model that is to be filled, unwrapped.
        state: its names to tensors, perhaps with ``module.`` before them; changed in place.
        resumes: a training goes on, whose optimizer knows no other grid.

    Raises:
        ValueError: the grid in the file cannot be known, or ``resumes`` and it is another one.
    """
    ddp = 'module.' if state and all(key.startswith('module.') for key in state) else ''
    for name, backbone in model.named_modules():
        prefix = f'{ddp}{name}.' if name else ddp
        pos_embed = state.get(f'{prefix}pos_embed')
        if not isinstance(backbone, PrunableBackbone) or pos_embed is None:
            continue
        fitted = backbone.adapt_state(backbone_state(state, prefix))
        if fitted['pos_embed'] is pos_embed:
            continue
        if resumes:
            raise ValueError(
                f'its position embeddings are not for the grid {backbone.pos_hw[0]}x{backbone.pos_hw[1]} of the model, '
                'and a training resumes at its own img_size; with load_from its weights start another one'
            )
        state[f'{prefix}pos_embed'] = fitted['pos_embed']
        if hasattr(state, '_metadata'):
            state._metadata[prefix[:-1]] = {**state._metadata.get(prefix[:-1], {}), GRID: backbone.pos_hw}
