"""How a report's numbers were made, in sentences below its tables."""

from __future__ import annotations

from collections.abc import Sequence

from .derive import SAME_COST
from .join import group_devices, latency_devices
from .rows import Measured, NotRun, Report, ReportRow, ReportTable


def notes(report: Report) -> list[str]:
    """One sentence group per line."""
    tables = report.tables
    rows = [row for table in tables for row in table.rows]
    lines = [f'Command: {report.command}'] if report.command else []
    lines += [f'{table.title}: {_input_note(table)}' for table in tables]
    lines.append(f'FLOPs: {report.conventions}{_flops_notes(rows)}')
    lines += _latency_notes(tables)
    lines += _accuracy_notes(rows)
    lines += _published_notes(rows)
    lines.append('Versions: ' + ', '.join(f'{name} {version}' for name, version in report.software.versions.items()))
    return lines


def _input_note(table: ReportTable) -> str:
    height, width = table.shape
    images = sorted({row.ours.num_images for row in table.rows if isinstance(row.ours, Measured)})
    tested = f'accuracy on {" or ".join(map(str, images))} test images; ' if images else ''
    padded = sorted({tuple(row.cost['padded_shape']) for row in table.rows if row.cost} - {(height, width)})
    padding = f', padded by the model to {" and ".join(f"{h} x {w}" for h, w in padded)}' if padded else ''
    return (
        f'{tested}FLOPs and latency at batch size 1, input {height} x {width} '
        f'(height x width, from {table.shape_from}{padding}).'
    )


def _flops_notes(rows: Sequence[ReportRow]) -> str:
    costs = [row.cost for row in rows if row.cost]
    proposals = sorted({cost['proposals'] for cost in costs if cost['proposals']})
    text = ''
    if proposals:
        text += (
            f' RoI heads cost in proportion to the number of proposals: counted at the configured maximum of '
            f'{" or ".join(map(str, proposals))} (masks: at most the first 100).'
        )
    unsupported = sorted({name.removesuffix('.default') for cost in costs for name in cost['flops_unsupported']})
    if unsupported:
        text += f' Ran but have no formula and count 0: {", ".join(unsupported)}.'
    left_out = dict.fromkeys(cost['flops_left_out'] for cost in costs if cost.get('flops_left_out'))
    if left_out:
        text += f' Did not run and is missing in the FLOPs of the model: {"; ".join(left_out)}.'
    return text


def _latency_notes(tables: Sequence[ReportTable]) -> list[str]:
    timed = [row for table in tables for row in table.rows if row.latency]
    lines = [f'Latency of {t.title} is left out. It was measured on: {t.no_latency}.' for t in tables if t.no_latency]
    if not timed:
        return lines
    runs = min(len(row.latency['model']['runs_ms']) for row in timed)
    together = 'all rows of a table in turns within one run of this tool'
    if any(row.origin for row in timed):
        together = 'rows of one run of this tool in turns; rows of an earlier result were timed in its run'
    devices = group_devices(latency_devices(timed))
    text = (
        f'Latency: median of {runs} synchronised runs after warm-up, {together}; the model time includes '
        f'post-processing. Device: {" or ".join(devices)}.'
    )
    return [*lines, text]


def _accuracy_notes(rows: Sequence[ReportRow]) -> list[str]:
    text = (
        'Tokens kept: mean over the layers of the backbone, percent of the full grid. Params: the whole model. '
        "Accuracy, ours: measured by this tool with the config's own test set and evaluator. Δ: the row minus the "
        'dense model of its table. Pareto: no other row is as accurate and costs less on that axis (backbone FLOPs, '
        f'latency of the model; costs within {SAME_COST:.1%} are equal)'
    )
    if any(row.kind == 'untrained' for row in rows):
        text += '; an untrained row has seeded random weights and shows what chance gives'
    devices = group_devices([(row.label(), row.ours.device) for row in rows if isinstance(row.ours, Measured)])
    if len(devices) > 1:
        text += f'. Accuracy was measured on several devices: {"; ".join(devices)}'
    lines = [f'{text}.']
    if any(isinstance(row.ours, NotRun) for row in rows):
        reasons = list(dict.fromkeys(row.ours.reason for row in rows if isinstance(row.ours, NotRun)))
        more = f', and so on for {len(reasons) - 1} others' if len(reasons) > 1 else ''
        lines.append(f'Not run: FLOPs and parameters come from the config alone; {reasons[0]}{more}.')
    return lines


def _published_notes(rows: Sequence[ReportRow]) -> list[str]:
    if not any(row.paper for row in rows):
        return []
    return [
        'Paper: published by others for the model and recipe of the config, with the source by its number; nothing '
        'of it was measured here, and it is in no plot, difference or Pareto front.'
    ]
