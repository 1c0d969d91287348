"""Weights by name: where a file holds them, which of them no model has, and whether they fit a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmssmprune._mmengine import BaseTTAModel, is_model_wrapper
from mmssmprune.pruning.pruner import OLD_NAMES

from .grids import GRID, replace_within, with_grid, within

_NAMES_SHOWN = 3
_PRUNING = re.compile(r'(.*\.)?pruner\..*')
# What files hold and no model of theirs needs: a pattern for the whole key, and why.
FOREIGN = {
    r'ema_.*': 'second copy of a weight, left by an EMA hook; the plain key holds the averaged one',
    r'(.*\.)?rope\..*': 'table of the rotary embedding, which the Vim of this package does not have',
    _PRUNING.pattern: 'what the pruning of this package stores; the official model is dense',
    r'data_preprocessor\..*': 'the config holds mean and deviation of the pixels',
}


def why_foreign(name: str) -> str | None:
    """Why no model has a key, None where one may."""
    return next((why for pattern, why in FOREIGN.items() if re.fullmatch(pattern, name)), None)


def is_of_pruning(name: str) -> bool:
    """Whether a key is of what a `pruning` dict stores."""
    return _PRUNING.fullmatch(name) is not None


def current_name(name: str) -> str:
    """A key as models call it now."""
    place, _, last = name.rpartition('pruner.')
    return f'{place}pruner.{OLD_NAMES[last]}' if last in OLD_NAMES and (not place or place.endswith('.')) else name


def extract_state_dict(checkpoint: Any, path: str) -> dict[str, Tensor]:
    """The weights in a loaded checkpoint, which is ``{'state_dict': ...}`` or the weights themselves.

    Raises:
        ValueError: There are none.
    """
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f'checkpoint {path} holds no model weights: expected a dict with the key "state_dict"')
    return state_dict


def part_of(state: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """The weights whose keys start with ``prefix``, without it, and what the state dict records of their grid.

    Raises:
        ValueError: no key starts with ``prefix``.
    """
    if not prefix:
        return with_grid(state, None)
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    part = within(state, prefix)
    if not part:
        some = ', '.join(list(state)[:3])
        raise ValueError(f'no key of the checkpoint starts with {prefix!r}; its keys look like {some}')
    return part


@dataclass(frozen=True)
class StateDictDifference:
    """Where a checkpoint's state dict and a model differ: names, and for shapes ``name is (...) instead of (...)``."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [
            _count_and_name(self.missing, 'missing in it'),
            _count_and_name(self.unexpected, 'unknown to the model'),
            _count_and_name(self.mismatched, 'of another shape'),
        ]
        return '; '.join(part for part in parts if part)


def compare_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    required: str | tuple[str, ...] = '',
    optional: tuple[str, ...] = (),
) -> StateDictDifference:
    """Compare names and shapes of a state dict with those of a model (a wrapped one is unwrapped).

    Left aside: ``num_batches_tracked`` where the file has none, what is `FOREIGN` in the file and the ImageNet
    classifier ``head.*`` of official releases, and in either what pruning stores: a dense checkpoint serves a pruned
    model, whose stored deltas and mask token then start afresh, and the reverse.

    Args:
        model: The model that is to be filled.
        state_dict: Names to tensors, perhaps with ``module.`` before them.
        required: How the names of the model start that have to be there and to fit; '' is all of them.
        optional: How those start that may be missing all the same.
    """
    expected = {name: tuple(value.shape) for name, value in unwrap(model).state_dict().items()}
    given = {current_name(name.removeprefix('module.')): value for name, value in state_dict.items()}
    missing = [
        name
        for name in expected
        if name not in given and not name.endswith('num_batches_tracked') and not is_of_pruning(name)
    ]
    mismatched = [
        f'{name} is {tuple(given[name].shape)} instead of {shape}'
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    return StateDictDifference(
        [name for name in missing if name.startswith(required) and not name.startswith(optional)],
        [name for name in given if name not in expected and not why_foreign(name) and not name.startswith('head.')],
        [name for name in mismatched if name.startswith(required)],
    )


def fit(
    model: nn.Module,
    state_dict: dict[str, Tensor],
    required: str | tuple[str, ...] = '',
    optional: tuple[str, ...] = (),
    *,
    resumes: bool = False,
) -> StateDictDifference:
    """Adapt a state dict to the backbone of a model (`adapt_state`), and say how it then differs from the model.

    That resizes position embeddings of other grids and gives weights of older files the names of today.

    Args:
        model, state_dict, required, optional: As for `compare_state_dict`; the state dict is changed in place.
        resumes: A training goes on, whose optimizer knows no other grid.

    Raises:
        ValueError: The grid in the file cannot be known, or ``resumes`` and it is another one.
    """
    model = unwrap(model)
    ddp = 'module.' if state_dict and all(key.startswith('module.') for key in state_dict) else ''
    for name, backbone in model.named_modules():
        prefix = f'{ddp}{name}.' if name else ddp
        part = within(state_dict, prefix) if hasattr(backbone, 'adapt_state') else {}
        adapted = backbone.adapt_state(part) if part else part
        if adapted.get('pos_embed') is not part.get('pos_embed'):
            if resumes:
                raise ValueError(
                    f'its position embeddings are not for the grid {backbone.pos_hw[0]}x{backbone.pos_hw[1]} of the '
                    'model, and a training resumes at its own img_size; with load_from its weights start another one'
                )
            if hasattr(state_dict, '_metadata'):
                record = state_dict._metadata.get(prefix[:-1], {})
                state_dict._metadata[prefix[:-1]] = {**record, GRID: backbone.pos_hw}
        replace_within(state_dict, prefix, part, adapted)
    return compare_state_dict(model, state_dict, required, optional)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside its wrappers for several processes, averaging and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _count_and_name(names: list[str], what: str) -> str:
    if not names:
        return ''
    more = ', ...' if len(names) > _NAMES_SHOWN else ''
    return f'{len(names)} key{"s" * (len(names) > 1)} {what} ({", ".join(names[:_NAMES_SHOWN])}{more})'
