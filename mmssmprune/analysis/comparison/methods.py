"""Methods: a model family with a pruning recipe. The rows of one method are one line in a plot."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .rows import ReportRow


@dataclass(frozen=True)
class Method:
    """Rows that differ only in how much they prune.

    Attributes:
        label: unlike that of any other method in the table.
        kind: of all its rows.
        rows: as the table orders them.
    """

    label: str
    kind: str
    rows: tuple[ReportRow, ...]


def group_methods(rows: Sequence[ReportRow]) -> list[Method]:
    """The methods of a table, in order of appearance.

    Rows are of one method if they have the same dense model, the same recipe, the same training length and hooks.
    Where a checkpoint was tested at several ratios, and another of the same method as well, each is a line of its own.
    """
    groups: dict[Hashable, list[ReportRow]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    members = [part for group in groups.values() for part in _by_checkpoint(group)]
    heads = {row.architecture for row in rows}
    names = [_base_label(part[0], len(heads) > 1) for part in members]
    details = [_details(part[0]) for part in members]
    labels = [
        name + _difference(detail, [d for n, d in zip(names, details, strict=True) if n == name])
        for name, detail in zip(names, details, strict=True)
    ]
    return [Method(label, part[0].kind, tuple(part)) for label, part in zip(labels, members, strict=True)]


def method_labels(rows: Sequence[ReportRow]) -> dict[int, str]:
    """The label of each row's method, by the row's ``id``."""
    return {id(row): method.label for method in group_methods(rows) for row in method.rows}


def _key(row: ReportRow) -> Hashable:
    # Every dense or untrained model is a point of its own, so it is known by its checkpoint.
    own = row.checkpoint_hash if row.kind != 'pruned' else None
    parts = [row.kind, row.dense_model_hash, row.recipe, row.training, own, row.config if row.kind == 'dense' else '']
    return json.dumps(parts, sort_keys=True, default=list)


def _by_checkpoint(rows: list[ReportRow]) -> list[list[ReportRow]]:
    models: dict[str, list[ReportRow]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    swept = len(models) > 1 and any(len(part) > 1 for part in models.values())
    return list(models.values()) if swept else [rows]


def _base_label(row: ReportRow, with_architecture: bool) -> str:
    name = f'{row.family} {row.architecture}' if with_architecture else row.family
    return f'{name}, {row.recipe["reduction"] if row.recipe else row.kind}'


def _details(row: ReportRow) -> dict[str, str]:
    """What may tell methods of one base label apart, the last resort last."""
    recipe = {key: value for key, value in (row.recipe or {}).items() if key != 'reduction'}
    return {key: _text(value) for key, value in {**recipe, **row.training, 'model': row.model}.items()}


def _difference(detail: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    """The fewest leading details in which this one differs from all others of its base label."""
    rivals = [other for other in others if other is not detail]
    said: list[str] = []
    for key, value in detail.items():
        if not rivals:
            break
        if any(other.get(key) != value for other in rivals):
            said.append(value if key == 'model' else f'{key} {value}')
            rivals = [other for other in rivals if other.get(key) == value]
    return f' ({", ".join(said)})' if said else ''


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return '/'.join(map(str, value)) or 'none'
    return str(value)
