"""The comparison of dense and pruned models: measure what is missing, then put it into one report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.device import get_device

from mmssmprune.models.flops import CONVENTION

from .entries import Entry
from .evaluate import KeepRatio
from .latency import describe_device
from .measure import (
    Row,
    Setting,
    config_keep_ratio,
    default_shape,
    measure_accuracy,
    measure_cost,
    measure_latencies,
    versions,
)
from .tasks import Task


def compare(
    entries: Sequence[Entry], setting: Setting, keep_ratios: Sequence[float] | None = None, untrained: bool = False
) -> dict[str, Any]:
    """Measure every row and report.

    Args:
        entries: models of one or several tasks.
        setting: where and how to measure.
        keep_ratios: at which pruned models are tested; None for what each config says.
        untrained: add, per task, the first model with random weights.

    Returns:
        ``versions``, ``device``, ``conventions`` and ``tables``, one per task, each with ``rows`` in full precision.

    Raises:
        FileNotFoundError: test data is missing.
        ValueError: models of one task are tested on different data, a checkpoint does not fit its model, or the
            target of a pruning plan cannot be met.
    """
    tasks = _by_task(entries)
    for entries_of_task in tasks:  # all of them now: bad data should not show after an hour of another model's test
        _check_same_data(entries_of_task)
    row_groups = [[Row(e, ratio) for e in task for ratio in _ratios(e, keep_ratios, setting)] for task in tasks]
    tables = []
    for rows in row_groups:
        first = rows[0].entry
        extra = [Row(first.untrained(), config_keep_ratio(first, setting))] if untrained else []
        tables.append(_measure_table(rows, extra, setting))
        setting.forget_models()
    return {
        'tables': tables,
        'device': describe_device(get_device()),
        'conventions': CONVENTION,
        'versions': versions(),
    }


def _by_task(entries: Sequence[Entry]) -> list[list[Entry]]:
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.task, []).append(entry)
    return list(groups.values())


def _check_same_data(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.data_hash != entries[0].data_hash:
            raise ValueError(
                f'{entries[0].name} and {entry.name} are tested on different data; compare them in separate calls'
            )


def _ratios(entry: Entry, keep_ratios: Sequence[float] | None, setting: Setting) -> list[KeepRatio]:
    if entry.pruning is None or not keep_ratios:
        return [config_keep_ratio(entry, setting)]
    return list(dict.fromkeys(keep_ratios))


def _measure_table(rows: list[Row], untrained: list[Row], setting: Setting) -> dict[str, Any]:
    task = rows[0].entry.task
    accuracies = measure_accuracy(rows + untrained, setting)
    shape = setting.shape or default_shape(rows[0].entry, setting)
    costs = [measure_cost(row, shape, setting) for row in rows]
    latencies = measure_latencies(rows, shape, setting) if setting.latency_runs else [{} for _ in rows]
    records = [
        _record(row, task, accuracy) | cost | latency
        for row, accuracy, cost, latency in zip(rows, accuracies[: len(rows)], costs, latencies, strict=True)
    ]
    _add_differences(rows, records)
    records += [_record(row, task, a) for row, a in zip(untrained, accuracies[len(rows) :], strict=True)]
    return {
        'task': task.name,
        'title': task.title,
        'metrics': [metric.title for metric in task.metrics],
        'shape': list(shape),
        'shape_from': 'the command line' if setting.shape else 'the first test image after the test pipeline',
        'num_images': accuracies[0]['num_images'],
        'rows': records,
    }


def _record(row: Row, task: Task, accuracy: dict[str, Any]) -> dict[str, Any]:
    entry = row.entry
    kind = 'untrained' if entry.checkpoint is None else 'dense' if entry.pruning is None else 'pruned'
    return {
        'model': entry.name,
        'kind': kind,
        'keep_ratio': row.keep_ratio,
        'config': str(entry.config_path),
        'checkpoint': None if entry.checkpoint is None else str(entry.checkpoint),
        'config_hash': entry.config_hash,
        'checkpoint_hash': entry.checkpoint_hash,
        'pruning': entry.pruning,
        'accuracy': task.percentages(accuracy['metrics']),
        'accuracy_raw': accuracy['metrics'],
        'accuracy_device': accuracy['device'],
    }


def _add_differences(rows: list[Row], records: list[dict[str, Any]]) -> None:
    for row, record in zip(rows, records, strict=True):
        dense = find_dense(row, rows)
        if dense is None or dense is row:
            continue
        base = records[rows.index(dense)]
        record['dense'] = base['model']
        record['accuracy_difference'] = {
            title: value - base['accuracy'][title] for title, value in record['accuracy'].items()
        }
        record['backbone_flops_change'] = record['flops']['backbone'] / base['flops']['backbone'] - 1


def find_dense(row: Row, rows: Sequence[Row]) -> Row | None:
    """The dense baseline of a row: the same model without pruning, or else the only dense one there is."""
    dense = [other for other in rows if other.entry.pruning is None]
    same = [other for other in dense if other.entry.dense_model_hash == row.entry.dense_model_hash]
    if row.entry.pruning is None:
        return row
    return same[0] if same else dense[0] if len(dense) == 1 else None
