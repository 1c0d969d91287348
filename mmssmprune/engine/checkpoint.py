"""Checkpoints: is a file whole, which one to resume from, and does it fit the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmssmprune._checkpoint_file import (
    check_checkpoint_file,
    is_complete_checkpoint,
    read_checkpoint,
    training_state_allowed,
)

__all__ = [
    'StateDictDifference',
    'check_checkpoint_file',
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
]

_NAMES_SHOWN = 3
_PRUNING_STATE = 'backbone.pruner.'


def find_resume_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint from which an interrupted training in ``work_dir`` goes on, or None.

    The one that mmengine's ``last_checkpoint`` file names, if it is whole; otherwise (the process was killed while it
    wrote, or the folder was moved) the latest whole ``iter_*.pth`` or ``epoch_*.pth``.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text().strip() if pointer.is_file() else ''
    candidates = [Path(named), work_dir / Path(named).name] if named else []
    saved = [*work_dir.glob('iter_*.pth'), *work_dir.glob('epoch_*.pth')]
    candidates += sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((str(path) for path in candidates if is_complete_checkpoint(path)), None)


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
    expected = {name: tuple(value.shape) for name, value in _unwrap(model).state_dict().items()}
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
        optional = getattr(getattr(_unwrap(model), 'backbone', None), 'optional_in_checkpoint', ())
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
        fit_backbones(_unwrap(model), state_dict, resumes)
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
    load_state_dict(_unwrap(model), {name.removeprefix('module.'): value for name, value in state_dict.items()})
    return checkpoint


def save_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """``torch.save`` under a temporary name, then rename: an interruption leaves nothing half written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    torch.save(checkpoint, part)
    part.replace(path)


def extract_state_dict(checkpoint: Any, path: str) -> dict[str, torch.Tensor]:
    """The weights in a loaded checkpoint, which is ``{'state_dict': ...}`` or the weights themselves.

    Raises:
        ValueError: There are none.
    """
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not state_dict or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f'checkpoint {path} holds no model weights: expected a dict with the key "state_dict"')
    return state_dict


def _unwrap(model: nn.Module) -> nn.Module:
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
