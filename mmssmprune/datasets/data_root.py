"""Find out before training starts whether the data of a config are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

MAKE_MINI = 'run `python tools/dataset_tools/make_mini.py` (or `make data`) to make it'
BRING = 'put the data set there or set MMSSMPRUNE_DATA_ROOT to the folder that holds it'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_data_root(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Check that every file and folder that the dataloaders of ``cfg`` name exists.

    Raises:
        FileNotFoundError: the first that does not, with what to do about it.
    """
    for loader in loaders:
        for dataset in datasets_of(cfg.get(loader)):
            for place in _places(dataset):
                if '://' not in place and not Path(place).exists():  # remote storage answers for itself
                    raise FileNotFoundError(f'{loader} reads {place}, which does not exist; {_advice(place)}')


def _advice(place: str) -> str:
    return MAKE_MINI if any(part.startswith('mini_') for part in Path(place).parts) else BRING


def datasets_of(node: Any) -> Iterator[dict]:
    """Yield every dataset config inside a dataloader, those in wrappers such as RepeatDataset included."""
    if isinstance(node, dict):
        if 'data_root' in node or 'ann_file' in node:
            yield node
        else:
            for value in node.values():
                yield from datasets_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from datasets_of(value)


def _places(dataset: dict) -> Iterator[str]:
    """The root, the annotation file and the folders of one dataset config."""
    root = dataset.get('data_root') or ''
    inside = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
    for name in ['', *filter(None, inside)]:
        if root or name:
            yield os.path.join(root, name)
