"""Whether the heads of a model have an output for every class of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .check_findings import Findings

HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head')


def heads_of(model: Any, path: str = 'model', inside: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path in the config, config) of every head that classifies and states ``num_classes``."""
    if isinstance(model, dict):
        if inside and 'num_classes' in model and not model.get('class_agnostic'):
            yield path, model
        for key, value in model.items():
            yield from heads_of(value, f'{path}.{key}', key in HEADS)
    elif isinstance(model, (list, tuple)):
        for i, value in enumerate(model):
            yield from heads_of(value, f'{path}[{i}]', inside)


def check_heads(heads: dict[str, Any], num_classes: int | None, findings: Findings) -> None:
    """A finding for every head (path -> its ``num_classes``) that is made for another number of classes."""
    for path, outputs in heads.items():
        if num_classes is not None and outputs != num_classes:
            findings.add(f'{path}.num_classes is {outputs}, and the data set has {num_classes} classes')
