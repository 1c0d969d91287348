"""Checkpoints: is a file whole, which one to resume from, and does it fit the model."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmssmprune._checkpoint_file import (
    check_checkpoint_file,
    is_complete_checkpoint,
    read_checkpoint,
    training_state_allowed,
)

from .writing import written_whole

__all__ = [
    'StateDictDifference',
    'check_checkpoint_file',
    'check_destination',
    'check_state_dict',
    'compare_state_dict',
    'extract_state_dict',
    'find_resume_checkpoint',
    'fit_position_embeddings',
    'is_complete_checkpoint',
    'load_checkpoint_strict',
    'read_checkpoint',
    'save_checkpoint',
    'training_state_allowed',
    'unwrap',
]

_NAMES_SHOWN = 3
_PRUNING_STATE = 'backbone.pruner.'


def find_resume_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint from which an interrupted training in ``work_dir`` goes on, or None.

    The work_dir's own file of the name that mmengine's ``last_checkpoint`` holds, if it is whole; otherwise (the
    process was killed while it wrote) its furthest whole ``iter_*.pth`` or ``epoch_*.pth``; otherwise what
    ``last_checkpoint`` names elsewhere, for a CheckpointHook with an ``out_dir``. A copied work_dir goes on from its
    own files, and dates of files do not matter.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    own = (work_dir / Path(named).name).absolute()  # as mmengine writes it
    if named and _is_usable(own):
        return str(own)
    furthest = [path for kind in ('iter', 'epoch') for path in _furthest_whole(work_dir, kind)]
    if len(furthest) > 1:  # of a training by iterations and one by epochs
        furthest.sort(key=_iteration_inside, reverse=True)
    elsewhere = [Path(named)] if named and _is_usable(Path(named)) else []
    return next((str(path) for path in [*furthest, *elsewhere]), None)


def _furthest_whole(work_dir: Path, kind: str) -> list[Path]:
    numbered = {path: re.fullmatch(rf'{kind}_(\d+)\.pth', path.name) for path in work_dir.glob(f'{kind}_*.pth')}
    saved = sorted((path for path, match in numbered.items() if match), key=lambda path: -int(numbered[path][1]))
    return [path for path in saved if _is_usable(path)][:1]


def _is_usable(path: Path) -> bool:
    whole = is_complete_checkpoint(path)
    if path.is_file() and not whole:
        print_log(f'{path} is cut short or damaged: it is not resumed from', 'current', logging.WARNING)
    return whole


def _iteration_inside(path: Path) -> int:
    try:
        return int(read_checkpoint(str(path), map_location='meta')['meta']['iter'])
    except (ValueError, TypeError, KeyError):
        return -1


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

    def within(self, prefix: str) -> StateDictDifference:
        """The part whose names start with ``prefix``."""
        lists = (self.missing, self.unexpected, self.mismatched)
        return StateDictDifference(*([name for name in names if name.startswith(prefix)] for names in lists))


def compare_state_dict(model: nn.Module, state_dict: dict[str, Any]) -> StateDictDifference:
    """Compare names and shapes of a state dict with those of a model (a wrapped one is unwrapped).

    Left aside: ``num_batches_tracked`` where the file has none, in the file the extras of official releases
    (``ema_*`` copies, ``rope`` tables and the ImageNet classifier ``head.*``), and in either what pruning stores:
    a dense checkpoint serves a pruned model, whose stored deltas and mask token then start afresh, and the reverse.
    """
    expected = {name: tuple(value.shape) for name, value in unwrap(model).state_dict().items()}
    given = {name.removeprefix('module.'): value for name, value in state_dict.items()}
    missing = [name for name in expected if name not in given and not _may_be_absent(name)]
    unexpected = [name for name in given if name not in expected and not _is_known_extra(name)]
    mismatched = [
        f'{name} is {tuple(given[name].shape)} instead of {shape}'
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    return StateDictDifference(missing, unexpected, mismatched)


def check_state_dict(model: nn.Module, state_dict: dict[str, Any], path: str, *, heads_too: bool = True) -> None:
    """Refuse a state dict of another architecture.

    Args:
        model: The model that is to be filled.
        state_dict: Names to tensors, as stored in the file.
        path: The file, for the message.
        heads_too: Neck and heads have to fit too, as for a test or a resumed training. Otherwise only the backbone:
            a fine-tuning may well start with new heads, and its backbone may have modules that it declares as
            ``optional_in_checkpoint``. Keys that only the file has, outside the backbone (an auxiliary head, say),
            are no reason to refuse.

    Raises:
        ValueError: The first few names that do not fit.
    """
    whole = compare_state_dict(model, state_dict)
    backbone = whole.within('backbone.')
    if heads_too:
        reason = StateDictDifference(whole.missing, backbone.unexpected, whole.mismatched)
    else:
        optional = getattr(getattr(unwrap(model), 'backbone', None), 'optional_in_checkpoint', ())
        new = tuple(f'backbone.{name}' for name in optional)
        required = [name for name in backbone.missing if not name.startswith(new)]
        reason = StateDictDifference(required, backbone.unexpected, backbone.mismatched)
    if reason:
        raise ValueError(f'checkpoint {path} is of another architecture than the model: {reason}')


def fit_position_embeddings(
    model: nn.Module, state_dict: dict[str, torch.Tensor], path: str, resumes: bool = False
) -> None:
    """Resize, in a state dict, the position embeddings of backbones that were trained on another grid.

    Raises:
        ValueError: Their grid cannot be known, or ``resumes`` and it is not the model's.
    """
    from mmssmprune.models.checkpoint import fit_backbones

    try:
        fit_backbones(unwrap(model), state_dict, resumes)
    except ValueError as error:
        raise ValueError(f'checkpoint {path} does not fit the model: {error}') from None


def load_checkpoint_strict(model: nn.Module, path: str, map_location: str = 'cpu') -> dict[str, Any]:
    """Load a checkpoint into a model, all of it or nothing.

    Args:
        model: Backbone, neck and heads, as built from the config.
        path: A file or an address that mmengine can read.
        map_location: As for ``torch.load``.

    Returns:
        The checkpoint (``meta`` and so on).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no weights, or fits another architecture.
    """
    checkpoint = read_checkpoint(path, map_location)
    state_dict = extract_state_dict(checkpoint, path)
    fit_position_embeddings(model, state_dict, path)
    check_state_dict(model, state_dict, path)
    load_state_dict(unwrap(model), {name.removeprefix('module.'): value for name, value in state_dict.items()})
    return checkpoint


def save_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """``torch.save`` under a temporary name, then rename: an interruption leaves nothing half written."""
    with written_whole(path) as part:
        torch.save(checkpoint, part)


def check_destination(source: str | Path, destination: str | Path, *, force: bool, doing: str = 'convert') -> None:
    """Refuse to write over a file, unless ``force``, and over the source in any case.

    Raises:
        ValueError: Says which.
    """
    source, destination = Path(source), Path(destination)
    if destination.is_dir():
        raise ValueError(f'{destination} is a folder; give the name of the file to write')
    if destination.exists() and source.exists() and destination.samefile(source):
        raise ValueError(f'{destination} is the file to {doing}; give another name for the result')
    if destination.exists() and not force:
        raise ValueError(f'{destination} exists; give another name, or --force to replace it')


def extract_state_dict(checkpoint: Any, path: str) -> dict[str, torch.Tensor]:
    """The weights in a loaded checkpoint, which is ``{'state_dict': ...}`` or the weights themselves.

    Raises:
        ValueError: There are none.
    """
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not state_dict or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f'checkpoint {path} holds no model weights: expected a dict with the key "state_dict"')
    return state_dict


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside its wrappers for several processes, averaging and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _may_be_absent(name: str) -> bool:
    return name.endswith('num_batches_tracked') or _PRUNING_STATE in name


def _is_known_extra(name: str) -> bool:
    return name.startswith(('ema_', 'head.')) or 'rope' in name.split('.') or _PRUNING_STATE in name


def _count_and_name(names: list[str], what: str) -> str:
    if not names:
        return ''
    more = ', ...' if len(names) > _NAMES_SHOWN else ''
    return f'{len(names)} key{"s" * (len(names) > 1)} {what} ({", ".join(names[:_NAMES_SHOWN])}{more})'
