"""What a run would meet late, or not at all, checked before it begins: numbers, empty data sets, classes, names."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from .cfg_options import registered

# Modules of the suites that score each class, and have num_classes.
_HEADS = ('decode_head', 'auxiliary_head', 'bbox_head', 'roi_head.bbox_head', 'head')


def check_numbers(cfg: Config, splits: tuple[str, ...]) -> None:
    """Refuse lengths, sizes and rates that mmengine would take or meet late: ``max_iters=-1``, ``lr='a'`` ...

    Args:
        cfg: The config of the run.
        splits: Which of 'train', 'val', 'test' it uses.

    Raises:
        ValueError: The first of them, and what it may be.
    """
    checks = [(f'{split}_dataloader.{key}', int, least) for split in splits for key, least in _OF_LOADERS]
    if 'train' in splits:
        checks += _OF_TRAINING
    for key, kind, least in checks:
        value: Any = cfg
        for name in key.split('.'):
            value = value.get(name) if isinstance(value, (dict, Config)) else None
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value < float('inf') or kind(value) != value:
            what = 'a whole number' if kind is int else 'a number'
            raise ValueError(f'{key} is {value!r}; it has to be {what} from {least} on')


_OF_LOADERS = (('batch_size', 1), ('num_workers', 0))
_OF_TRAINING = [
    *((f'train_cfg.{key}', int, 1) for key in ('max_iters', 'max_epochs', 'val_interval')),
    ('train_cfg.val_begin', int, 0),
    ('optim_wrapper.accumulative_counts', int, 1),
    *((f'optim_wrapper.optimizer.{key}', float, 0) for key in ('lr', 'weight_decay')),
]


def build_loops(runner: Runner, splits: tuple[str, ...]) -> None:
    """Build what ``train()`` and ``test()`` would build first, so that a wrong config ends here; they find it built.

    Raises:
        ValueError: A data set is empty, or has more classes than a head of the model.
        KeyError: There is no optimizer of that name.
    """
    for split in splits:
        loop = getattr(runner, f'_{split}_loop')
        if loop is None:
            continue
        try:
            loop = getattr(runner, f'build_{split}_loop')(loop)
        except ValueError as error:
            if 'need at least one array' not in str(error):  # how mmengine's BaseDataset says that it is empty
                raise
            raise ValueError(_is_empty(split)) from None
        setattr(runner, f'_{split}_loop', loop)
        _check_data_set(split, loop.dataloader, runner.model)
    if 'train' in splits:
        _check_optimizer_name(runner)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)


def _is_empty(split: str) -> str:
    return f'{split}_dataloader has no image: its folder or annotations are empty, or all are left out by a filter'


def _check_data_set(split: str, loader: Any, model: nn.Module) -> None:
    images = len(loader.dataset)
    if not images:
        raise ValueError(_is_empty(split))
    if not len(loader) and 'Infinite' not in type(loader.sampler).__name__:
        raise ValueError(f'{split}_dataloader has {images} images, fewer than a batch, and drop_last leaves those out')
    classes = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes') or ()
    for name, num_classes in _classes_of_heads(model):
        if num_classes < len(classes):
            raise ValueError(
                f'model.{name}.num_classes is {num_classes}, but the data set of {split}_dataloader has '
                f'{len(classes)} classes'
            )


def _classes_of_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    while is_model_wrapper(model) or hasattr(model, 'module'):
        model = model.module
    for name in _HEADS:
        head: Any = model
        for part in name.split('.'):
            head = getattr(head, part, None)
        for each in head if isinstance(head, nn.ModuleList) else [head]:
            if isinstance(getattr(each, 'num_classes', None), int):
                yield name, each.num_classes


def _check_optimizer_name(runner: Runner) -> None:
    """Refuse an unknown one, of which mmengine says that None is not callable."""
    kind = ((runner.cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    if isinstance(kind, str) and not registered(kind, runner.default_scope.scope_name):
        nearest = get_close_matches(kind, OPTIMIZERS.module_dict, 1)
        meant = f'; did you mean {nearest[0]}?' if nearest else ''
        raise KeyError(f'optim_wrapper.optimizer.type: {kind} is not in the optimizer registry{meant}')
