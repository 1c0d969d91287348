"""What follows from rows side by side: may they be, what does pruning change, which are best, which are one method."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from mmssmprune.analysis.json_check import is_nan, is_number
from mmssmprune.analysis.results import digest

from .report import Measured, ReportRow, ReportTable

# Costs that differ less are equal: a solved plan meets its target only so nearly.
SAME_COST = 0.005
# What a plot has on its horizontal axis: name -> the row's value, None where it has none.
AXES: dict[str, Callable[[ReportRow], float | None]] = {
    'FLOPs': lambda row: row.backbone_flops,
    'latency': lambda row: row.model_ms,
}
# A row's label, and the description of the device that its latency was measured on.
Timed = tuple[str, Mapping[str, Any]]
Point = tuple[float, float]


# What may share a table -----------------------------------------------------------------------------------------------


def check_same_data(hashes: Sequence[tuple[str, str | None]]) -> None:
    """Raise ValueError where the hashes of two models' test data differ; None is of a model that is not tested."""
    tested = [(name, value) for name, value in hashes if value is not None]
    for name, value in tested:
        if value != tested[0][1]:
            raise ValueError(f'{tested[0][0]} and {name} are tested on different data; compare them in separate calls')


def common_shape(tables: Sequence[ReportTable], asked: tuple[int, int] | None) -> tuple[int, int] | None:
    """The (H, W) asked for and of earlier tables, or None; ValueError where they differ."""
    shapes = dict.fromkeys([*([asked] if asked else []), *(table.shape for table in tables)])
    if len(shapes) > 1:
        said = ' and '.join(f'{height} x {width}' for height, width in shapes)
        raise ValueError(f'FLOPs and latency at {said} do not share a column; measure all models at one --shape')
    return next(iter(shapes), None)


def check_devices(devices: Sequence[Timed]) -> None:
    """Raise ValueError for latencies that were not measured on one device with the same settings."""
    if len(group_devices(devices)) > 1:
        raise ValueError(
            f'latencies measured on different devices do not share a column ({describe_devices(devices)}); '
            '--runs 0 leaves latency out and keeps accuracy and FLOPs'
        )


def describe_devices(devices: Sequence[Timed]) -> str:
    """``model a on Some CPU, threads 1; model b on Other CPU, threads 1``."""
    return '; '.join(f'{", ".join(labels)} on {device}' for device, labels in group_devices(devices).items())


def group_devices(devices: Sequence[Timed]) -> dict[str, list[str]]:
    """Device with settings, in words (``Some CPU, threads 1, dtype float32``) -> the row labels."""
    groups: dict[str, list[str]] = {}
    for label, device in devices:
        settings = [f'{key.replace("_", " ")} {value}' for key, value in device.items() if key != 'name']
        groups.setdefault(', '.join([str(device.get('name')), *settings]), []).append(label)
    return groups


def latency_devices(rows: Sequence[ReportRow]) -> list[Timed]:
    """Of the rows that were timed."""
    return [(row.label(), row.latency['device']) for row in rows if row.latency]


def without_duplicates(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Each model at each keep ratio once; what this run measured goes before what an earlier one did."""
    best: dict[str, int] = {}
    for i, row in enumerate(rows):
        key = json.dumps([row.kind, row.config_hash, row.checkpoint_hash, row.keep_ratio])
        if key not in best or (rows[best[key]].origin and not row.origin):
            best[key] = i
    return [rows[i] for i in sorted(best.values())]


def with_own_names(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Say of earlier rows where they are from, where another model has the same name."""
    models = {(row.model, row.config_hash, row.checkpoint_hash, row.origin) for row in rows}
    times = Counter(name for name, *_ in models)
    return [
        replace(row, model=f'{row.model} (from {row.origin})') if times[row.model] > 1 and row.origin else row
        for row in rows
    ]


def join_seeds(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """One row, at the place of the first, for trainings that differ by nothing but their seeds.

    They have the same config, schedule, iteration and keep ratio, were tested with the same software, and their
    checkpoints say different seeds; a checkpoint that says none stays a row of its own.
    """
    groups: dict[str, list[ReportRow]] = {}
    for row in rows:
        same = [row.config_hash, row.keep_ratio, row.training, row.schedule_hash, row.iteration, row.data_hash]
        known = row.seed is not None and isinstance(row.ours, Measured)
        own = [id(row)] if not known else [dict(row.software.versions), row.software.source]
        groups.setdefault(json.dumps([same, own], sort_keys=True), []).append(row)
    found = []
    for group in groups.values():
        several = len(group) > 1 and len({row.seed for row in group}) == len(group)
        found += [_mean_row(group)] if several else group
    times = Counter(name for name, _ in {(row.model, row.checkpoint_hash) for row in found})
    return [
        replace(row, model=f'{row.model} from {row.runs[0].model}') if row.runs and times[row.model] > 1 else row
        for row in found
    ]


def _mean_row(runs: Sequence[ReportRow]) -> ReportRow:
    """Accuracy is the mean over the runs, a latency the median of all their times."""
    first, ours = runs[0], [run.ours for run in runs]

    def mean(values: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        numbers = [name for name in values[0] if all(is_number(v.get(name)) or is_nan(v.get(name)) for v in values)]
        return {name: fmean(v[name] for v in values) for name in numbers}

    return replace(
        first,
        model=f'{Path(first.config).stem} ({len(runs)} seeds)',
        ours=replace(
            ours[0],
            percent=mean([o.percent for o in ours]),
            raw=mean([o.raw for o in ours]),
            result=', '.join(o.result for o in ours),
            per_class=mean([o.per_class for o in ours]),
        ),
        checkpoint=', '.join(filter(None, (run.checkpoint for run in runs))),
        checkpoint_hash=digest([run.checkpoint_hash for run in runs]),
        latency=_pool([run.latency for run in runs]),
        seed=None,
        origin=', '.join(dict.fromkeys(run.origin for run in runs if run.origin)),
        runs=tuple(runs),
    )


def _pool(times: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The latencies of several runs as those of one; what is not in all of them is left out."""
    if any(time is None for time in times):
        return None
    first, shared = times[0], [name for name in times[0] if all(name in time for time in times)]
    if 'runs_ms' not in first:
        return {name: first[name] if name == 'device' else _pool([t[name] for t in times]) for name in shared}
    runs = [ms for time in times for ms in time['runs_ms']]
    return {'median_ms': median(runs), 'runs_ms': runs}


# Differences and the Pareto front -------------------------------------------------------------------------------------


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
        return replace(row, dense=None, accuracy_difference={}, difference_spread={}, backbone_flops_change=None)
    ours, theirs = row.measured, dense.measured
    flops, dense_flops = row.backbone_flops, dense.backbone_flops
    return replace(
        row,
        dense=dense.model,
        accuracy_difference={title: value - theirs[title] for title, value in ours.items() if title in theirs},
        difference_spread=_paired_spread(row, dense),
        backbone_flops_change=flops / dense_flops - 1 if flops is not None and dense_flops else None,
    )


def _paired_spread(row: ReportRow, dense: ReportRow) -> dict[str, float]:
    theirs = {run.seed: run.measured for run in dense.runs}
    if not row.runs or {run.seed for run in row.runs} != set(theirs):
        return {}
    shared = [title for title in row.measured if title in dense.measured]
    return {title: stdev(run.measured[title] - theirs[run.seed][title] for run in row.runs) for title in shared}


def _optimal(rows: Sequence[ReportRow], metric: str, axis: str) -> set[int]:
    """Indices of the rows that no other row beats; those that were not run or are untrained take no part."""
    points = {
        i: (AXES[axis](row), row.measured[metric])
        for i, row in enumerate(rows)
        if row.kind != 'untrained' and metric in row.measured and AXES[axis](row) is not None
    }
    flags = pareto_optimal(list(points.values()), SAME_COST)
    return {i for i, optimal in zip(points, flags, strict=True) if optimal}


def pareto_optimal(points: Sequence[Point], same_cost: float = 0.0) -> list[bool]:
    """For each (cost, value) whether no other point beats it.

    A point is beaten by one that is worth more and costs no more, or that is worth as much and costs less.

    Args:
        points: costs are positive; the less the better. Values: the more the better.
        same_cost: costs that differ by at most this share count as equal. Solved plans meet a target only so nearly,
            and a latency is no more exact either.
    """

    def beats(other: Point, point: Point) -> bool:
        no_dearer = other[0] <= point[0] * (1 + same_cost)
        cheaper = other[0] * (1 + same_cost) < point[0]
        return (other[1] > point[1] and no_dearer) or (other[1] == point[1] and cheaper)

    return [not any(beats(other, point) for other in points) for point in points]


def pareto_front(points: Sequence[Point], same_cost: float = 0.0) -> list[Point]:
    """The optimal points by rising cost, each once: their values never fall."""
    flags = pareto_optimal(points, same_cost)
    return sorted({point for point, optimal in zip(points, flags, strict=True) if optimal})


# Methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """Rows that differ only in how much they prune: one line in a plot.

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
    groups: dict[str, list[ReportRow]] = {}
    for row in rows:
        # Every model that is not pruned is a point of its own, so it is known by its checkpoint.
        own = row.checkpoint_hash if row.kind != 'pruned' else None
        config = row.config if row.kind in ('dense', 'reference') else ''
        key = [row.kind, row.dense_model_hash, row.recipe, row.training, own, config]
        groups.setdefault(json.dumps(key, sort_keys=True, default=list), []).append(row)
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


def _by_checkpoint(rows: list[ReportRow]) -> list[list[ReportRow]]:
    models = [[row for row in rows if row.model == name] for name in dict.fromkeys(row.model for row in rows)]
    swept = len(models) > 1 and any(len(part) > 1 for part in models)
    return models if swept else [rows]


def _base_label(row: ReportRow, with_architecture: bool) -> str:
    name = f'{row.family} {row.architecture}' if with_architecture else row.family
    return f'{name}, {row.recipe["reduction"] if row.recipe else row.kind}'


def _details(row: ReportRow) -> dict[str, str]:
    """What may tell methods of one base label apart, the last resort last."""

    def text(value: Any) -> str:
        return ('/'.join(map(str, value)) or 'none') if isinstance(value, (list, tuple)) else str(value)

    recipe = {key: value for key, value in (row.recipe or {}).items() if key != 'reduction'}
    return {key: text(value) for key, value in {**recipe, **row.training, 'model': row.model}.items()}


def _difference(detail: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    """The fewest leading details in which this one differs from all others of its base label."""
    rivals = [other for other in others if other is not detail]
    said: list[str] = []
    for key, value in detail.items():
        if any(other.get(key) != value for other in rivals):
            said.append(value if key == 'model' else f'{key} {value}')
            rivals = [other for other in rivals if other.get(key) == value]
    return f' ({", ".join(said)})' if said else ''
