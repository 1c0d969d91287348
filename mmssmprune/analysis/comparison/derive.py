"""What follows from the rows of a table: differences from the dense baseline, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .pareto import pareto_optimal
from .rows import ReportRow

# Costs that differ less are equal: a solved plan meets its target only so nearly.
SAME_COST = 0.005
# What a plot has on its horizontal axis: name -> the row's value, None where it has none.
AXES: dict[str, Callable[[ReportRow], float | None]] = {
    'FLOPs': lambda row: row.backbone_flops,
    'latency': lambda row: row.model_ms,
}


def derive(rows: Sequence[ReportRow], metrics: Sequence[str]) -> list[ReportRow]:
    """The rows with what `ReportRow` derives; what they had of it before is forgotten."""
    optimal = {(metric, axis): _optimal(rows, metric, axis) for metric in metrics for axis in AXES}
    return [
        replace(
            _with_difference(row, find_dense(row, rows)),
            pareto={metric: tuple(axis for axis in AXES if i in optimal[metric, axis]) for metric in metrics},
        )
        for i, row in enumerate(rows)
    ]


def find_dense(row: ReportRow, rows: Sequence[ReportRow]) -> ReportRow | None:
    """The dense baseline of a row; a dense row is its own.

    The first dense row whose model is the same but for the pruning. Where there is none (a fine-tuning may have changed
    drop path, say), the only dense row of the same family and head, or else the only dense row there is.
    """
    if row.kind != 'pruned':
        return row if row.kind == 'dense' else None
    dense = [other for other in rows if other.kind == 'dense']
    same = [other for other in dense if other.dense_model_hash == row.dense_model_hash]
    family = [o for o in dense if (o.family, o.architecture) == (row.family, row.architecture)]
    only = next((group[0] for group in (family, dense) if len(group) == 1), None)
    return same[0] if same else only


def _with_difference(row: ReportRow, dense: ReportRow | None) -> ReportRow:
    if dense is None or dense is row:
        return replace(row, dense=None, accuracy_difference={}, backbone_flops_change=None)
    flops, dense_flops = row.backbone_flops, dense.backbone_flops
    return replace(
        row,
        dense=dense.model,
        accuracy_difference={
            title: value - dense.measured[title] for title, value in row.measured.items() if title in dense.measured
        },
        backbone_flops_change=flops / dense_flops - 1 if flops is not None and dense_flops else None,
    )


def _optimal(rows: Sequence[ReportRow], metric: str, axis: str) -> set[int]:
    """Indices of the rows that no other row beats; those that were not run or are untrained take no part."""
    points = {
        i: (AXES[axis](row), row.measured[metric])
        for i, row in enumerate(rows)
        if row.kind != 'untrained' and metric in row.measured and AXES[axis](row) is not None
    }
    flags = pareto_optimal(list(points.values()), SAME_COST)
    return {i for i, optimal in zip(points, flags, strict=True) if optimal}
