"""Rows of several runs in one table: what may stand side by side, and what a reader has to be told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .rows import ReportRow, ReportTable, Software


def check_same_data(hashes: Sequence[tuple[str, str | None]]) -> None:
    """Refuse models that are tested on different data.

    Args:
        hashes: model name and hash of its test data; None for a model that is not tested.

    Raises:
        ValueError: two hashes differ.
    """
    tested = [(name, value) for name, value in hashes if value is not None]
    for name, value in tested:
        if value != tested[0][1]:
            raise ValueError(f'{tested[0][0]} and {name} are tested on different data; compare them in separate calls')


def common_shape(tables: Sequence[ReportTable], asked: tuple[int, int] | None) -> tuple[int, int] | None:
    """The (H, W) at which earlier tables state FLOPs and latency; None where there are none.

    Raises:
        ValueError: they differ, or are not what was asked for.
    """
    shapes = dict.fromkeys([*([asked] if asked else []), *(table.shape for table in tables)])
    if len(shapes) > 1:
        said = ' and '.join(f'{height} x {width}' for height, width in shapes)
        raise ValueError(f'FLOPs and latency at {said} do not share a column; measure all models at one --shape')
    return next(iter(shapes), None)


# A row's label, and the description of the device that its latency was measured on.
Timed = tuple[str, Mapping[str, Any]]


def check_devices(devices: Sequence[Timed]) -> None:
    """Refuse latencies that were not measured on one device with the same settings.

    Raises:
        ValueError: two descriptions differ.
    """
    if len(group_devices(devices)) > 1:
        raise ValueError(
            f'latencies measured on different devices do not share a column ({describe_devices(devices)}); '
            '--runs 0 leaves latency out and keeps accuracy and FLOPs'
        )


def describe_devices(devices: Sequence[Timed]) -> str:
    """``model a on Some CPU, threads 1; model b on Other CPU, threads 1``."""
    return '; '.join(f'{", ".join(labels)} on {device}' for device, labels in group_devices(devices).items())


def group_devices(devices: Sequence[Timed]) -> dict[str, list[str]]:
    """Device with settings, in words -> the row labels."""
    groups: dict[str, list[str]] = {}
    for label, device in devices:
        groups.setdefault(say_device(device), []).append(label)
    return groups


def latency_devices(rows: Sequence[ReportRow]) -> list[Timed]:
    """Of the rows that were timed."""
    return [(row.label(), row.latency['device']) for row in rows if row.latency]


def say_device(device: Mapping[str, Any]) -> str:
    """``Some CPU, threads 1, dtype float32``."""
    settings = {key: value for key, value in device.items() if key != 'name'}
    return ', '.join(
        [str(device.get('name')), *(f'{key.replace("_", " ")} {value}' for key, value in settings.items())]
    )


def without_duplicates(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Each model at each keep ratio once; what this run measured goes before what an earlier one did."""
    best: dict[str, int] = {}
    for i, row in enumerate(rows):
        key = _identity(row)
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


def software_difference(row: Software, reference: Software) -> str:
    """``torch 2.4.0 instead of 2.13.0, other source of mmssmprune``; empty if they are equal."""
    said = [
        f'{name} {row.versions.get(name, "absent")} instead of {reference.versions.get(name, "absent")}'
        for name in dict.fromkeys([*reference.versions, *row.versions])
        if row.versions.get(name) != reference.versions.get(name)
    ]
    if row.source != reference.source:
        said.append("another state of mmssmprune's ops, pruning or models")
    return ', '.join(said)


def _identity(row: ReportRow) -> str:
    return json.dumps([row.kind, row.config_hash, row.checkpoint_hash, row.keep_ratio])
