"""Find out before training starts whether the data of a config are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

MAKE_MINI = 'run `python tools/dataset_tools/make_mini.py` (or `make data`) to make it'
BRING = 'put the data set there or set MMSSMPRUNE_DATA_ROOT to the folder that holds it'
# Of mmpretrain: they download what is missing.
FETCHED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_data_root(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Check that every file and folder that the dataloaders of ``cfg`` name exists.

    Raises:
        FileNotFoundError: the first that does not, with what to do about it.
    """
    for loader in loaders:
        for dataset in datasets_of(cfg.get(loader)):
            for place in _places(dataset):
                if '://' not in place and not Path(place).expanduser().exists():
                    raise FileNotFoundError(f'{loader} reads {place}, which does not exist; {_advice(place)}')


def _advice(place: str) -> str:
    return MAKE_MINI if any(part.startswith('mini_') for part in Path(place).parts) else BRING


def datasets_of(node: Any) -> Iterator[dict]:
    """Yield every dataset config inside a dataloader, those in wrappers such as RepeatDataset included."""
    if isinstance(node, dict):
        if any(key in node for key in ('data_root', 'ann_file', 'data_prefix')):
            yield node
        else:
            for value in node.values():
                yield from datasets_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from datasets_of(value)


def _places(dataset: dict) -> Iterator[str]:
    """The root, the annotation file and the folders of one dataset config; none on storage that is not a local disk."""
    backend = dataset.get('backend_args') or dataset.get('file_client_args') or {}
    if backend.get('backend', 'local') not in ('local', 'disk') or dataset.get('type') in FETCHED:
        return
    root = dataset.get('data_root') or ''
    for name in ['', *stated_paths(dataset)]:
        if root or name:
            yield os.path.join(root, name)


def stated_paths(dataset: dict) -> list[str]:
    """What a dataset config says beside its root: ``ann_file`` and ``data_prefix``, each a path, a list or a dict."""

    def inside(value: Any) -> list[str]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            return [path for each in value for path in inside(each)]
        return [str(value)] if value else []

    return inside(dataset.get('ann_file')) + inside(dataset.get('data_prefix'))
