"""The comparison of models, from top to bottom: group by task, check, measure, join, take means, derive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.device import get_device

from mmssmprune.analysis.latency import describe_device
from mmssmprune.analysis.results import check_output
from mmssmprune.analysis.software import this_software
from mmssmprune.datasets import check_data_root
from mmssmprune.models.flops import CONVENTION

from . import derive
from .entries import Entry, work_dir_of
from .measure import (
    MeasureSetting,
    Variant,
    config_keep_ratio,
    default_shape,
    measure_accuracy,
    measure_cost,
    measure_latencies,
)
from .published import find_published
from .report import ComparisonReport, Measured, NotRun, ReportRow, ReportTable

# What shares a table, in the order of the command line: models to measure, and tables of earlier results.
_Members = list[Entry | ReportTable]


def compare(
    models: Sequence[Entry | ComparisonReport],
    setting: MeasureSetting,
    keep_ratios: Sequence[float] | None = None,
    untrained: bool = False,
) -> ComparisonReport:
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
    groups = _group(models)
    for members in groups.values():  # now: what does not fit should not show after an hour of another model's test
        _check(members, setting)
    check_output(setting.out_dir)
    tables = [_make_table(*key, members, setting, keep_ratios, untrained) for key, members in groups.items()]
    measured_now = any(isinstance(model, Entry) for model in models)
    made_with = this_software() if measured_now else tables[0].rows[0].software
    return ComparisonReport(tuple(tables), CONVENTION, made_with, per_class=setting.per_class)


def _group(models: Sequence[Entry | ComparisonReport]) -> dict[tuple[str, str, tuple[str, ...]], _Members]:
    """Name and title of a task, and its metrics -> what is measured by them."""
    groups: dict[tuple[str, str, tuple[str, ...]], _Members] = {}
    for model in models:
        if isinstance(model, Entry):
            task = model.task
            groups.setdefault((task.name, task.title, tuple(m.title for m in task.metrics)), []).append(model)
            continue
        if model.conventions != CONVENTION:
            origin = model.rows[0].origin
            raise ValueError(f'the earlier result {origin} counts FLOPs by another convention; measure its models anew')
        for table in model.tables:
            known = next((key for key in groups if (key[0], key[2]) == (table.task, table.metrics)), None)
            groups.setdefault(known or (table.task, table.title, table.metrics), []).append(table)
    return groups


def _split(members: _Members) -> tuple[list[Entry], list[ReportTable]]:
    return [m for m in members if isinstance(m, Entry)], [m for m in members if isinstance(m, ReportTable)]


def _check(members: _Members, setting: MeasureSetting) -> None:
    """Refuse what cannot share a table before anything is measured."""
    entries, tables = _split(members)
    earlier = [row for table in tables for row in table.rows]
    tested = [(entry.name, entry.data_hash) for entry in entries if entry.weights != 'none']
    derive.check_same_data(tested + [(row.label(), row.data_hash) for row in earlier])
    derive.common_shape(tables, setting.shape)
    if setting.latency_runs:
        timed = [entry.name for entry in entries if entry.weights == 'checkpoint']
        here = describe_device(get_device()) if timed else {}
        derive.check_devices([(name, here) for name in timed] + derive.latency_devices(earlier))


def _make_table(
    task: str,
    title: str,
    metrics: tuple[str, ...],
    members: _Members,
    setting: MeasureSetting,
    keep_ratios: Sequence[float] | None,
    untrained: bool,
) -> ReportTable:
    shape, shape_from = _shape(members, setting)
    entries, _ = _split(members)
    chance = [entries[0].untrained()] if untrained and entries else []
    variants = []
    for entry in [*entries, *chance]:
        asked = dict.fromkeys(keep_ratios or ()) if entry.pruning is not None and entry not in chance else ()
        variants += [Variant(entry, ratio) for ratio in asked or [config_keep_ratio(entry, setting)]]
    measured = _measure(variants, shape, setting)
    rows: list[ReportRow] = []
    for member in [*members, *chance]:
        own = [row for variant, row in measured.items() if variant.entry is member]
        rows += member.rows if isinstance(member, ReportTable) else own
    rows = derive.with_own_names(derive.without_duplicates(rows))
    no_latency = ''
    if not setting.latency_runs:
        no_latency = derive.describe_devices(derive.latency_devices(rows))
        rows = [replace(row, latency=None) for row in rows]
    rows = derive.join_seeds(rows)
    for i, row in enumerate(rows):
        known = (Path(row.config).stem, row.family, task, metrics, row.pruning)
        rows[i] = replace(row, paper=None if row.kind == 'untrained' else find_published(*known))
    rows = derive.derive(rows, metrics)
    return ReportTable(task, title, metrics, shape, shape_from, tuple(rows), no_latency)


def _shape(members: _Members, setting: MeasureSetting) -> tuple[tuple[int, int], str]:
    """(H, W) for FLOPs and latency, and who says so."""
    entries, tables = _split(members)
    if setting.shape:
        return setting.shape, 'the command line'
    if tables:
        return tables[0].shape, f'the earlier result {tables[0].rows[0].origin}'
    entry = next((entry for entry in entries if entry.weights != 'none'), entries[0])
    try:
        check_data_root(entry.cfg, ('test_dataloader',))
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error}; without data, --shape H W says at which size FLOPs are counted') from None
    return default_shape(entry, setting), 'the first test image after the test pipeline'


def _measure(variants: Sequence[Variant], shape: tuple[int, int], setting: MeasureSetting) -> dict[Variant, ReportRow]:
    """A row for each variant; one with random weights is only tested, one without weights only counted."""
    accuracy = measure_accuracy([v for v in variants if v.entry.weights != 'none'], setting)
    counted = [variant for variant in variants if variant.entry.weights != 'random']
    timed = [v for v in counted if v.entry.weights == 'checkpoint'] if setting.latency_runs else []
    cost = {}
    for i, variant in enumerate(counted):
        cost[variant] = measure_cost(variant, shape, setting)
        if variant not in timed and all(other.entry is not variant.entry for other in counted[i + 1 :]):
            setting.forget(variant.entry)
    latency = measure_latencies(timed, shape, setting)
    for variant in timed:
        setting.forget(variant.entry)
    return {v: _report_row(v, accuracy.get(v), cost.get(v), latency.get(v)) for v in variants}


def _report_row(
    variant: Variant, accuracy: Measured | None, cost: dict[str, Any] | None, latency: dict[str, Any] | None
) -> ReportRow:
    entry = variant.entry
    dense = 'dense' if cost and cost['tokens'] else 'reference'
    return ReportRow(
        model=entry.name,
        kind='untrained' if entry.weights == 'random' else dense if entry.pruning is None else 'pruned',
        keep_ratio=variant.keep_ratio,
        ours=accuracy or NotRun(f'no checkpoint in {work_dir_of(entry.config_path)}'),
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
        schedule_hash=entry.schedule_hash,
        **entry.trained,
    )


def _shorten(path: Path) -> str:
    """Relative to the current folder where it lies below it: what a reader can use."""
    full, here = path.absolute(), Path.cwd()
    return os.path.relpath(full, here) if full.is_relative_to(here) else str(path)
