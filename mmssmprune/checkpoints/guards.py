"""Close what mmengine leaves open where it reads files: code in checkpoints, and Python objects in YAML."""

from __future__ import annotations

from typing import Any

import yaml
from mmengine.fileio.handlers import yaml_handler
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from .reading import read_checkpoint


def guard_mmengine() -> None:
    """Let every load of the process that goes through mmengine read plain data only.

    That is ``init_cfg=dict(type='Pretrained')`` of any module, ``load_from``, ``resume`` and the ``load_checkpoint`` of
    mmengine, mmdet and mmseg, which fall back to full unpickling (or start with it, before torch 2.6); and YAML files,
    whose tags may name any Python function. Doing it twice does no harm.
    """
    CheckpointLoader.load_checkpoint = classmethod(_load_checkpoint)
    mmengine_checkpoint.load_from_http = _load_from_http  # what the loaders of open-mmlab:// and the like call
    yaml_handler.Loader = _PlainLoader


def _load_checkpoint(cls: type, filename: str, map_location: Any = None, logger: Any = 'current') -> Any:
    print_log(f'Loads checkpoint from path: {filename}', logger=logger)
    return read_checkpoint(filename, map_location)


def _load_from_http(filename: str, map_location: Any = None, *_: Any, **__: Any) -> Any:
    return read_checkpoint(filename, map_location)


class _PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Numbers, texts, lists, dicts, and the tuples that mmengine writes."""


_PlainLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
