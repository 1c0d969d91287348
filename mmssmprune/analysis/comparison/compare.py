"""The comparison of dense and pruned models: measure what is missing, join earlier results, put all into one report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.device import get_device

from mmssmprune.analysis.results import check_output
from mmssmprune.analysis.software import this_software
from mmssmprune.datasets import check_data_root
from mmssmprune.models.flops import CONVENTION

from . import join
from .derive import derive
from .entries import Entry, work_dir_of
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
)
from .published import find_published
from .rows import Measured, NotRun, Report, ReportRow, ReportTable


@dataclass
class _Group:
    """What shares a table: models to measure, and tables of earlier results, in the order of the command line."""

    task: str
    title: str
    metrics: tuple[str, ...]
    members: list[Entry | ReportTable]

    @property
    def entries(self) -> list[Entry]:
        return [member for member in self.members if isinstance(member, Entry)]

    @property
    def tables(self) -> list[ReportTable]:
        return [member for member in self.members if isinstance(member, ReportTable)]

    @property
    def earlier_rows(self) -> list[ReportRow]:
        return [row for table in self.tables for row in table.rows]


def compare(
    models: Sequence[Entry | Report],
    setting: Setting,
    keep_ratios: Sequence[float] | None = None,
    untrained: bool = False,
) -> Report:
    """Measure every model, join the rows of earlier results, and report.

    Args:
        models: models of one or several tasks, and earlier results.
        setting: where and how to measure.
        keep_ratios: at which pruned models are tested; None for what each config says.
        untrained: add, per task, the first model with random weights.

    Raises:
        FileNotFoundError: test data is missing.
        ValueError: models of one task are tested on different data, stated at different sizes or timed on different
            devices, an earlier result counts FLOPs otherwise, a checkpoint does not fit its model, or the target of a
            pruning plan cannot be met.
        RuntimeError: the folder of the setting cannot be written to.
    """
    for model in models:
        if isinstance(model, Report) and model.conventions != CONVENTION:
            origin = model.tables[0].rows[0].origin
            raise ValueError(f'the earlier result {origin} counts FLOPs by another convention; measure its models anew')
    groups = _group(models)
    for group in groups:  # all of them now: what does not fit should not show after an hour of another model's test
        _check(group, setting)
    check_output(setting.out_dir)
    tables = [_make_table(group, setting, keep_ratios, untrained) for group in groups]
    measured_now = any(group.entries for group in groups)
    software = this_software() if measured_now else tables[0].rows[0].software
    return Report(tuple(tables), CONVENTION, software)


def _group(models: Sequence[Entry | Report]) -> list[_Group]:
    groups: dict[Any, _Group] = {}
    for model in models:
        for member in model.tables if isinstance(model, Report) else [model]:
            name, title, metrics = _task_of(member)
            groups.setdefault((name, metrics), _Group(name, title, metrics, [])).members.append(member)
    return list(groups.values())


def _task_of(member: Entry | ReportTable) -> tuple[str, str, tuple[str, ...]]:
    if isinstance(member, ReportTable):
        return member.task, member.title, member.metrics
    return member.task.name, member.task.title, tuple(metric.title for metric in member.task.metrics)


def _check(group: _Group, setting: Setting) -> None:
    """Refuse what cannot share a table before anything is measured."""
    tested = [(entry.name, entry.data_hash) for entry in group.entries if entry.weights != 'none']
    join.check_same_data(tested + [(row.label(), row.data_hash) for row in group.earlier_rows])
    join.common_shape(group.tables, setting.shape)
    if setting.latency_runs:
        join.check_devices(_devices(group))


def _devices(group: _Group) -> list[join.Timed]:
    """Of the latencies that are there and of those that will be measured."""
    timed = [entry.name for entry in group.entries if entry.weights == 'checkpoint']
    here = describe_device(get_device()) if timed else {}
    return [(name, here) for name in timed] + join.latency_devices(group.earlier_rows)


def _make_table(group: _Group, setting: Setting, keep_ratios: Sequence[float] | None, untrained: bool) -> ReportTable:
    fresh = [Row(entry, ratio) for entry in group.entries for ratio in _ratios(entry, keep_ratios, setting)]
    shape, shape_from = _shape(group, setting)
    extra = [_untrained(group.entries[0], setting)] if untrained and group.entries else []
    made = iter(_measure(fresh, extra, shape, setting))
    rows = [row for member in group.members for row in _rows_of(member, fresh, made)] + list(made)
    rows = join.with_own_names(join.without_duplicates(rows))
    no_latency = ''
    if not setting.latency_runs:
        no_latency = join.describe_devices(join.latency_devices(rows))
        rows = [replace(row, latency=None) for row in rows]
    rows = derive([replace(row, paper=_published(row, group)) for row in rows], group.metrics)
    return ReportTable(group.task, group.title, group.metrics, shape, shape_from, tuple(rows), no_latency)


def _rows_of(member: Entry | ReportTable, fresh: Sequence[Row], made: Iterator[ReportRow]) -> list[ReportRow]:
    if isinstance(member, ReportTable):
        return list(member.rows)
    return [next(made) for row in fresh if row.entry is member]


def _ratios(entry: Entry, keep_ratios: Sequence[float] | None, setting: Setting) -> list[KeepRatio]:
    if entry.pruning is None or not keep_ratios:
        return [config_keep_ratio(entry, setting)]
    return list(dict.fromkeys(keep_ratios))


def _untrained(entry: Entry, setting: Setting) -> Row:
    return Row(entry.untrained(), config_keep_ratio(entry, setting))


def _shape(group: _Group, setting: Setting) -> tuple[tuple[int, int], str]:
    """(H, W) for FLOPs and latency, and who says so."""
    shape = join.common_shape(group.tables, setting.shape)
    if setting.shape:
        return shape, 'the command line'
    if shape:
        return shape, f'the earlier result {group.tables[0].rows[0].origin}'
    tested = [entry for entry in group.entries if entry.weights != 'none']
    entry = (tested or group.entries)[0]
    try:
        check_data_root(entry.cfg, ('test_dataloader',))
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; without data, --shape H W says at which size FLOPs are counted') from None
    return default_shape(entry, setting), 'the first test image after the test pipeline'


def _measure(
    rows: Sequence[Row], untrained: Sequence[Row], shape: tuple[int, int], setting: Setting
) -> list[ReportRow]:
    """Rows of this run: those of ``rows``, then those of ``untrained``, which are only tested."""
    tested = [row for row in [*rows, *untrained] if row.entry.weights != 'none']
    accuracy = dict(zip(map(id, tested), measure_accuracy(tested, setting), strict=True))
    costs = []
    for i, row in enumerate(rows):
        costs.append(measure_cost(row, shape, setting))
        last = all(other.entry is not row.entry for other in rows[i + 1 :])
        if last and (row.entry.weights == 'none' or not setting.latency_runs):
            setting.forget(row.entry)
    timed = [row for row in rows if row.entry.weights == 'checkpoint'] if setting.latency_runs else []
    latency = dict(zip(map(id, timed), measure_latencies(timed, shape, setting) if timed else [], strict=True))
    for row in rows:
        setting.forget(row.entry)
    costs += [None] * len(untrained)
    return [
        _report_row(row, accuracy.get(id(row)), cost, latency.get(id(row)))
        for row, cost in zip([*rows, *untrained], costs, strict=True)
    ]


def _report_row(
    row: Row, accuracy: Measured | None, cost: dict[str, Any] | None, latency: dict[str, Any] | None
) -> ReportRow:
    entry = row.entry
    ours = accuracy or NotRun(f'no checkpoint in {work_dir_of(entry.config_path)}')
    return ReportRow(
        model=entry.name,
        kind='untrained' if entry.weights == 'random' else 'dense' if entry.pruning is None else 'pruned',
        keep_ratio=row.keep_ratio,
        ours=ours,
        family=entry.family,
        architecture=str(entry.cfg.model.type).rsplit('.', 1)[-1],
        config=_shorten(entry.config_path),
        config_hash=entry.config_hash,
        dense_model_hash=entry.dense_model_hash,
        software=this_software(),
        checkpoint=None if entry.checkpoint is None else _shorten(entry.checkpoint),
        checkpoint_hash=entry.checkpoint_hash,
        data_hash=None if entry.weights == 'none' else entry.data_hash,
        pruning=None if entry.pruning is None else entry.pruning.to_dict(),
        recipe=cost['recipe'] if cost else None,
        training=entry.training,
        cost=cost,
        latency=latency,
    )


def _shorten(path: Path) -> str:
    """Relative to the current folder where it lies below it: what a reader can use."""
    full, here = path.absolute(), Path.cwd()
    return os.path.relpath(full, here) if full.is_relative_to(here) else str(path)


def _published(row: ReportRow, group: _Group) -> Any:
    if row.kind == 'untrained':
        return None
    return find_published(Path(row.config).stem, row.family, group.task, group.metrics, row.pruning)
