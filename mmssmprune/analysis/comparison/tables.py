"""What a report shows, whatever the format: tables as data frames, footnotes, and the notes below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import stdev
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd

from mmssmprune.analysis.software import software_difference

from .derive import SAME_COST, group_devices, latency_devices, method_labels
from .report import ComparisonReport, Measured, NotRun, Published, ReportRow, ReportTable, format_keep_ratio

NOT_RUN = 'not run'
BLANK = '-'
# An accuracy that was measured and is no number; a footnote at the row's name says so.
UNDEFINED = 'NaN'
QUOTED = 'quoted'

# Title of a column -> what a row has there, None for nothing, and its text.
Cells = dict[str, tuple[Any, str]]


def frames(table: ReportTable, footnotes: Footnotes, brief: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One task's table twice: values in full precision, None for nothing, and what a reader sees of them.

    Latency and published numbers have columns only where there are any. ``brief``: no percentiles of latency.
    """
    methods = method_labels(table.rows)
    cells = [_cells(row, methods[id(row)], table, footnotes, brief) for row in table.rows]
    values, texts = _as_frames(cells)
    empty = [title for title in values if title.endswith(('(ms)', '(paper)')) and values[title].isna().all()]
    return values.drop(columns=empty), texts.drop(columns=empty)


def _as_frames(cells: Sequence[Cells]) -> tuple[pd.DataFrame, pd.DataFrame]:
    values, texts = ([{title: cell[part] for title, cell in row.items()} for row in cells] for part in (0, 1))
    return pd.DataFrame(values, dtype=object), pd.DataFrame(texts, dtype=object).replace('', BLANK)


def _cells(row: ReportRow, method: str, table: ReportTable, footnotes: Footnotes, brief: bool) -> Cells:
    """Title -> value and text. ``ours`` reads nothing but `ReportRow.ours`, ``paper`` nothing but `ReportRow.paper`."""
    latency = row.latency or {}
    cells = {
        'model': (row.model, row.model + footnotes.of_row(row)),
        'method': (method, method),
        'keep ratio': (format_keep_ratio(row.keep_ratio),) * 2,
        'tokens kept (%)': _number(((row.cost or {}).get('tokens') or {}).get('mean_share'), '.1f', 100),
        'backbone FLOPs (G)': _number(row.backbone_flops, per=1e9),
        'Δ FLOPs (%)': _number(row.backbone_flops_change, '+.1f', 100),
        'model FLOPs (G)': _number(row.cost and row.cost['flops']['total'], per=1e9),
        'params (M)': _number(row.cost and row.cost['params']['total'], '.2f', 1e-6),
        'backbone (ms)': _milliseconds(latency.get('backbone'), brief),
        'model (ms)': _milliseconds(latency.get('model'), brief),
    }
    for form in _all_of('forms', table.rows):
        timed = latency.get('forms', {}).get(form, {})
        cells |= {f'{part}, {form} (ms)': _milliseconds(timed.get(part), brief) for part in ('backbone', 'model')}
    sizes = [size for size in _all_of('batches', table.rows) if size.isdecimal() and len(size) < 9]  # by us, they are
    for size in sorted(sizes, key=int):
        time = latency.get('batches', {}).get(size)
        per_second = int(size) * 1000 / time['median_ms'] if time and time['median_ms'] else None
        cells[f'images/s at batch {size}'] = _number(per_second)
    nothing = NOT_RUN if isinstance(row.ours, NotRun) else UNDEFINED
    for metric in table.metrics:
        paper = row.paper.percent.get(metric) if row.paper else None
        ours = row.measured.get(metric)
        pareto = ', '.join(row.pareto.get(metric, ()))
        change, change_text = _number(row.accuracy_difference.get(metric), '+.1f')
        if metric in row.difference_spread:
            change_text += f' ± {row.difference_spread[metric]:.1f}'
        cells |= {
            f'{metric} (paper)': (paper, '' if paper is None else f'{paper:.1f} {footnotes.of_source(row.paper)}'),
            f'{metric} (ours)': (ours, nothing if ours is None else _with_spread(ours, row.spread.get(metric))),
            f'Δ {metric}': (change, change_text),
            f'Pareto {metric}': (pareto or None, pareto),
        }
    return cells


def _all_of(part: str, rows: Sequence[ReportRow]) -> list[str]:
    """The forms, or the batch sizes, that any row was timed in."""
    return list(dict.fromkeys(name for row in rows for name in (row.latency or {}).get(part, {})))


def _number(value: float | None, spec: str = '', times: float = 1, per: float = 1) -> tuple[float | None, str]:
    """``value * times / per`` and its text; without a format it has three significant digits."""
    if value is None:
        return None, ''
    number = value * times / per
    text = format(number, spec) if spec else three_digits(number)
    return number, text.replace('-', '+') if float(text) == 0 else text  # no "-0.0"


def _milliseconds(time: Mapping[str, Any] | None, brief: bool) -> tuple[float | None, str]:
    """The median, and in brackets the 5th and 95th percentile."""
    if time is None:
        return None, ''
    low, high = percentiles(time)
    return time['median_ms'], f'{time["median_ms"]:.1f}' + ('' if brief else f' ({low:.1f}-{high:.1f})')


def percentiles(time: Mapping[str, Any]) -> tuple[float, float]:
    """The 5th and 95th of the runs in ms, linear between two runs."""
    low, high = np.percentile(time['runs_ms'], (5, 95))
    return float(low), float(high)


def _with_spread(value: float, spread: float | None) -> str:
    return f'{value:.1f}' if spread is None else f'{value:.1f} ± {spread:.1f}'


def three_digits(value: float) -> str:
    """A number with 3 significant digits, without exponent: 0.0412, 3.02, 14.5, 1230."""
    rounded = float(f'{value:.3g}')
    if rounded == 0:
        return '0'
    magnitude = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else int(f'{rounded:e}'.split('e')[1]) + 1
    return f'{rounded:.{max(0, 3 - magnitude)}f}'


def is_text(title: str) -> bool:
    """Whether a column holds words; the other ones are set to the right."""
    return title in ('model', 'method', 'class') or title.startswith('Pareto ')


# More about the same rows: AP by overlap and size of the objects, IoU of every class ----------------------------------

# What COCO's evaluator reports beside AP: its own ending -> ours.
_COCO = {'': 'AP', '_50': 'AP50', '_75': 'AP75', '_s': 'AP small', '_m': 'AP medium', '_l': 'AP large'}


def ap_frames(table: ReportTable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average precision at one overlap and by the size of the objects, as `frames`; empty where no row says it."""
    found = {kind: [_average_precisions(row, kind) for row in table.rows] for kind in ('bbox', 'segm')}
    shown = [kind for kind in found if any(len(scores) > 1 for scores in found[kind])]
    cells = []
    for i, row in enumerate(table.rows if shown else ()):
        ratio = format_keep_ratio(row.keep_ratio)
        cells.append({'model': (row.model, row.model), 'keep ratio': (ratio, ratio)})
        for kind in shown:
            cells[i] |= {f'{kind} {title}': found[kind][i].get(title, (None, '')) for title in _COCO.values()}
    return _as_frames(cells)


def _average_precisions(row: ReportRow, kind: str) -> dict[str, tuple[float, str]]:
    """In percent, by the title; what has no objects, for which the evaluator says -1, is left out."""

    def read(ours: Measured | NotRun) -> dict[str, float]:
        raw = ours.raw.items() if isinstance(ours, Measured) else ()
        known = {f'{kind}_mAP{ending}': title for ending, title in _COCO.items()}
        scores = {known[name.rpartition('/')[2]]: value for name, value in raw if name.rpartition('/')[2] in known}
        return {t: 100 * v for t, v in scores.items() if isinstance(v, (int, float)) and 0 <= v <= 1}

    means, runs = read(row.ours), [read(run.ours) for run in row.runs]
    spreads = {title: stdev(run[title] for run in runs) for title in means if runs and all(title in r for r in runs)}
    return {title: (value, _with_spread(value, spreads.get(title))) for title, value in means.items()}


def class_frames(table: ReportTable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The IoU of every class, a line for each: a column for each row that has it, and its difference to the dense one.

    Values have the differences in columns of their own, texts in brackets.
    """
    rows = [row for row in table.rows if isinstance(row.ours, Measured) and row.ours.per_class]
    dense = {row.model: row.ours.per_class for row in rows if row.kind == 'dense'}
    values, texts = {}, {}
    for row in rows:
        theirs = dense.get(row.dense, {})
        for name, value in row.ours.per_class.items():
            change = value - theirs[name] if name in theirs else None
            said = '' if change is None or change != change else f' ({_number(change, "+.1f")[1]})'
            values.setdefault(name, {}).update({row.label(): value, f'Δ {row.label()}': change})
            texts.setdefault(name, {})[row.label()] = UNDEFINED if value != value else f'{value:.1f}{said}'
    return tuple(
        pd.DataFrame([{'class': name, **of_class} for name, of_class in found.items()], dtype=object)
        for found in (values, texts)
    )


def further_tables(report: ComparisonReport, table: ReportTable) -> list[tuple[str, pd.DataFrame]]:
    """Titles and texts of the smaller tables that follow a task's own."""
    found = [(f'{table.title}: AP by overlap and size of the objects', ap_frames(table)[1])]
    if report.per_class:
        found.append((f'{table.title}: IoU of every class (difference to the dense model)', class_frames(table)[1]))
    return [(title, texts.where(texts.notna(), BLANK)) for title, texts in found if len(texts)]


# Footnotes: marks in a table and what they stand for ------------------------------------------------------------------


class Footnotes:
    """Numbers for sources of published numbers (``sources``), letters for rows that were measured otherwise (``rows``).

    Both map a text to its mark.
    """

    def __init__(self, report: ComparisonReport) -> None:
        self._software = report.software
        letters = (''.join(pair) for n in (1, 2) for pair in product(ascii_lowercase, repeat=n))
        sources = dict.fromkeys(_say_source(row.paper) for row in report.rows if row.paper)
        rows = dict.fromkeys(filter(None, map(self._say_row, report.rows)))
        self.sources = {text: str(number) for number, text in enumerate(sources, 1)}
        self.rows = dict(zip(rows, letters, strict=False))

    def of_source(self, paper: Published) -> str:
        """``[1]``, or ``[1, quoted]`` for a number that was not seen at its source."""
        number = self.sources[_say_source(paper)]
        return f'[{number}, {QUOTED}]' if paper.quoted else f'[{number}]'

    def of_row(self, row: ReportRow) -> str:
        """`` [a]``, or nothing for a row of this run."""
        letter = self.rows.get(self._say_row(row))
        return f' [{letter}]' if letter else ''

    def lines(self) -> list[str]:
        """What the marks stand for, sources first."""
        return [f'[{mark}] {text}' for texts in (self.sources, self.rows) for text, mark in texts.items()]

    def _say_row(self, row: ReportRow) -> str:
        difference = software_difference(row.software, self._software)
        said = []
        if row.runs:
            seeds = ', '.join(str(run.seed) for run in row.runs)
            paired = ', at Δ that of the differences seed by seed' if row.difference_spread else ''
            said.append(
                f'Mean over {len(row.runs)} trainings with the seeds {seeds}; behind ± their sample standard '
                f'deviation{paired}.'
            )
        if row.origin or difference:
            software = f'measured with other software: {difference}' if difference else 'same software'
            said.append(f'Row of the earlier result {row.origin}, {software}.')
        if row.undefined:
            said.append(
                f'The evaluator gave no number (NaN) for {" and ".join(row.undefined)}, which is left out of '
                'differences, Pareto fronts and plots.'
            )
        return ' '.join(said)


def _say_source(paper: Published) -> str:
    recipe = f' Recipe: {paper.recipe}.' if paper.recipe else ''
    if paper.quoted:
        return f'Published, not ours: quoted by others as of {paper.citation}; not seen in that source itself.{recipe}'
    return f'Published, not ours: {paper.citation}.{recipe}'


# Notes: how the numbers were made -------------------------------------------------------------------------------------


def notes(report: ComparisonReport) -> list[str]:
    """One sentence group per line."""
    rows = report.rows
    lines = [f'Command: {report.command}'] if report.command else []
    lines += [f'{table.title}: {_input_note(table)}' for table in report.tables]
    lines.append(f'FLOPs: {report.conventions}{_flops_note(rows)}')
    lines += [
        f'Latency of {t.title} is left out. It was measured on: {t.no_latency}.' for t in report.tables if t.no_latency
    ]
    lines += _latency_notes([row for row in rows if row.latency])
    lines.append(_accuracy_note(rows))
    if reasons := list(dict.fromkeys(row.ours.reason for row in rows if isinstance(row.ours, NotRun))):
        more = f', and so on for {len(reasons) - 1} others' if len(reasons) > 1 else ''
        lines.append(f'Not run: FLOPs and parameters come from the config alone; {reasons[0]}{more}.')
    if any(row.paper for row in rows):
        lines.append(
            'Paper: published by others for the model and recipe of the config, with the source by its number; nothing '
            'of it was measured here, and it is in no plot, difference or Pareto front.'
        )
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


def _flops_note(rows: Sequence[ReportRow]) -> str:
    costs = [row.cost for row in rows if row.cost]
    text = ''
    if proposals := sorted({cost['proposals'] for cost in costs if cost['proposals']}):
        text += (
            f' RoI heads cost in proportion to the number of proposals: counted at the configured maximum of '
            f'{" or ".join(map(str, proposals))} (masks: at most the first 100).'
        )
    if unsupported := sorted({name.removesuffix('.default') for cost in costs for name in cost['flops_unsupported']}):
        text += f' Ran but have no formula and count 0: {", ".join(unsupported)}.'
    if left_out := dict.fromkeys(cost['flops_left_out'] for cost in costs if cost.get('flops_left_out')):
        text += f' Did not run and is missing in the FLOPs of the model: {"; ".join(left_out)}.'
    return text


def _latency_notes(timed: Sequence[ReportRow]) -> list[str]:
    if not timed:
        return []
    singles = [run for row in timed for run in row.runs or [row]]
    runs = min(len(run.latency['model']['runs_ms']) for run in singles)
    more = ''
    if batches := _all_of('batches', timed):
        more = f' Images per second: the model at batch size {" or ".join(batches)}, by the median.'
        if any(None in row.latency.get('batches', {}).values() for row in timed):
            more += f' {BLANK} there: the memory did not suffice.'
    if forms := _all_of('forms', timed):
        more += f' Form {" or ".join(forms)}: of the backbone alone; preprocessing, neck and heads stay as they are.'
    together = 'all rows of a table in turns within one run of this tool'
    if any(row.origin for row in timed):
        together = 'rows of one run of this tool in turns; rows of an earlier result were timed in its run'
    return [
        f'Latency: median (5th to 95th percentile) of {runs} synchronised runs of each checkpoint after warm-up, '
        f'{together}; the model time includes post-processing. Device: '
        f'{" or ".join(group_devices(latency_devices(timed)))}.{more}'
    ]


def _accuracy_note(rows: Sequence[ReportRow]) -> str:
    text = (
        'Tokens kept: mean over the layers of the backbone, percent of the full grid. Params: the whole model. '
        "Accuracy, ours: measured by this tool with the config's own test set and evaluator. Δ: the row minus the "
        'dense model of its table. Pareto: no other row is as accurate and costs less on that axis (backbone FLOPs, '
        f'latency of the model; costs within {SAME_COST:.1%} are equal)'
    )
    if any(row.kind == 'reference' for row in rows):
        text += '; a reference is another backbone, which cannot be pruned and has no difference'
    if any(row.kind == 'untrained' for row in rows):
        text += '; an untrained row has seeded random weights and shows what chance gives'
    devices = group_devices([(row.label(), row.ours.device) for row in rows if isinstance(row.ours, Measured)])
    if len(devices) > 1:
        text += f'. Accuracy was measured on several devices: {"; ".join(devices)}'
    return f'{text}.'
