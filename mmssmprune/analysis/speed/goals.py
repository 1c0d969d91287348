"""The goals for speed and memory, read off the rows of a benchmark: met, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

Row = dict[str, Any]
L1 = 'plain-mamba-l1'
MET, MISSED, NOT_MEASURED = 'met', 'missed', 'not measured'


def cpu_goals(rows: Sequence[Row]) -> list[Row]:
    """What is asked of a CPU, judged by the worst case of those that were measured."""
    return [
        _goal('dense L1 forward, default scan over the reference loop', 3, _speedups(rows, 'naive', _is_l1)),
        _goal('FLOPs saving of the pruned backbone that becomes time, forward', 0.85, _shares(rows)),
        *_common(rows),
    ]


def gpu_goals(rows: Sequence[Row]) -> list[Row]:
    """What is asked of an H100, judged by the worst case of those that were measured."""

    def official(image: tuple[int, int], batch: int) -> list[float]:
        def is_this(row: Row) -> bool:
            return _is_l1(row) and tuple(row['padded']) == image and row['batch'] == batch

        return _speedups(rows, 'mamba_ssm', is_this)

    return [
        _goal('dense L1 over the official way, 800x1344, batch 2', 2, official((800, 1344), 2)),
        _goal('dense L1 over the official way, 224x224, batch 64', 1.5, official((224, 224), 64)),
        _goal(
            'FLOPs saving of the pruned backbone that becomes time, forward, batch 8 or more',
            0.9,
            _shares([row for row in rows if row['batch'] >= 8]),
        ),
        *_common(rows),
    ]


def _common(rows: Sequence[Row]) -> list[Row]:
    costs = [
        row['alignment_cost'] for row in rows if row.get('alignment_cost') is not None and row['mode'] == 'forward'
    ]
    falls = _memory_falls(rows)
    return [
        _goal('cost of alignment over alignment none, forward', 0.02, costs, at_most=True),
        _goal('peak memory in training falls with kept tokens', 1, [float(all(falls))] if falls else []),
    ]


def _goal(name: str, wanted: float, measured: Sequence[float], at_most: bool = False) -> Row:
    row = {'goal': name, 'wanted': f'{"at most" if at_most else "at least"} {wanted:g}', 'measured': None}
    if not measured:
        return row | {'verdict': NOT_MEASURED}
    worst = max(measured) if at_most else min(measured)
    is_met = worst <= wanted if at_most else worst >= wanted
    return row | {'measured': worst, 'median': median(measured), 'verdict': MET if is_met else MISSED}


def _is_l1(row: Row) -> bool:
    return row['backbone'] == L1


def _of(rows: Sequence[Row], kind: str, mode: str = 'forward') -> list[Row]:
    return [row for row in rows if row['kind'] == kind and row['mode'] == mode and row.get('time_ratio') is not None]


def _speedups(rows: Sequence[Row], backend: str, wanted: Callable[[Row], bool]) -> list[float]:
    return [row['time_ratio'] for row in _of(rows, 'dense by backend') if row['scan'] == backend and wanted(row)]


def _shares(rows: Sequence[Row]) -> list[float]:
    return [row['share'] for row in _of(rows, 'pruned') if row.get('share') is not None]


def _memory_falls(rows: Sequence[Row]) -> list[bool]:
    """Per case of training: whether every smaller keep ratio holds less at the peak."""
    cases: dict[tuple, list[Row]] = {}
    for row in rows:
        if row['mode'] == 'training' and row['kind'] in ('dense', 'pruned') and row.get('peak_mib') is not None:
            cases.setdefault((row['backbone'], tuple(row['image']), row['batch']), []).append(row)
    falls = []
    for found in cases.values():
        by_kept = [row['peak_mib'] for row in sorted(found, key=lambda row: -(row['keep_ratio'] or 1))]
        if len(by_kept) > 1:
            falls.append(all(more > fewer for more, fewer in pairwise(by_kept)))
    return falls
