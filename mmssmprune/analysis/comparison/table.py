"""What a report shows, whatever the format: the columns of its tables, the notes below them, and footnotes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from string import ascii_lowercase
from typing import Any

from mmssmprune.analysis.software import software_difference

from .derive import SAME_COST, group_devices, latency_devices, method_labels
from .report import ComparisonReport, Measured, NotRun, Published, ReportRow, ReportTable, format_keep_ratio

NOT_RUN = 'not run'
BLANK = '-'
# An accuracy that was measured and is no number; a footnote at the row's name says so.
UNDEFINED = 'NaN'
QUOTED = 'quoted'


# Columns --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableColumn:
    """A column of every output.

    Attributes:
        title: its head.
        value: what a row has there in full precision, None for nothing.
        show: how a table prints it.
        is_text: not a number.
        origin: 'ours' or 'paper' where it holds accuracies.
    """

    title: str
    value: Callable[[ReportRow], Any]
    show: Callable[[ReportRow], str]
    is_text: bool = False
    origin: str = ''


def columns(table: ReportTable, footnotes: Footnotes) -> list[TableColumn]:
    """The columns of one task's table; latency and published numbers only where there are any."""
    rows, methods = table.rows, method_labels(table.rows)
    found = [
        TableColumn('model', lambda row: row.model, lambda row: row.model + footnotes.of_row(row), is_text=True),
        TableColumn('method', lambda row: methods[id(row)], lambda row: methods[id(row)], is_text=True),
        TableColumn('keep ratio', *[lambda row: format_keep_ratio(row.keep_ratio)] * 2),
        _number('tokens kept (%)', lambda row: _get(row.cost, 'tokens', 'mean_share'), _times(100), '.1f'),
        _number('backbone FLOPs (G)', lambda row: row.backbone_flops, _giga),
        _number('Δ FLOPs (%)', lambda row: row.backbone_flops_change, _times(100), '+.1f'),
        _number('model FLOPs (G)', lambda row: _get(row.cost, 'flops', 'total'), _giga),
        _number('params (M)', lambda row: _get(row.cost, 'params', 'total'), _times(1e-6), '.2f'),
    ]
    if any(row.latency for row in rows):
        found.append(_number('backbone (ms)', lambda row: _get(row.latency, 'backbone', 'median_ms'), float, '.1f'))
        found.append(_number('model (ms)', lambda row: row.model_ms, float, '.1f'))
    for metric in table.metrics:
        found += _accuracy_columns(metric, any(_published(row, metric) is not None for row in rows), footnotes)
    return found


def _accuracy_columns(metric: str, with_paper: bool, footnotes: Footnotes) -> list[TableColumn]:
    """``ours`` reads nothing but `ReportRow.ours`, ``paper`` nothing but `ReportRow.paper`."""

    def show_ours(row: ReportRow) -> str:
        if isinstance(row.ours, NotRun):
            return NOT_RUN
        return f'{row.measured[metric]:.1f}' if metric in row.measured else UNDEFINED

    def show_paper(row: ReportRow) -> str:
        value = _published(row, metric)
        return BLANK if value is None else f'{value:.1f} {footnotes.of_source(row.paper)}'

    def pareto(row: ReportRow) -> str | None:
        return ', '.join(row.pareto.get(metric, ())) or None

    paper = TableColumn(f'{metric} (paper)', lambda row: _published(row, metric), show_paper, origin='paper')
    return [
        *([paper] if with_paper else []),
        TableColumn(f'{metric} (ours)', lambda row: row.measured.get(metric), show_ours, origin='ours'),
        _number(f'Δ {metric}', lambda row: row.accuracy_difference.get(metric), float, '+.1f'),
        TableColumn(f'Pareto {metric}', pareto, lambda row: pareto(row) or BLANK, is_text=True),
    ]


def _number(
    title: str, value: Callable[[ReportRow], float | None], scale: Callable[[float], float], spec: str = ''
) -> TableColumn:
    """A column of numbers; without a format they have three significant digits."""

    def scaled(row: ReportRow) -> float | None:
        return None if value(row) is None else scale(value(row))

    def show(row: ReportRow) -> str:
        if (number := scaled(row)) is None:
            return BLANK
        text = format(number, spec) if spec else three_digits(number)
        return text.replace('-', '+') if float(text) == 0 else text  # no "-0.0"

    return TableColumn(title, scaled, show)


def _times(factor: float) -> Callable[[float], float]:
    return lambda number: number * factor


def _giga(number: float) -> float:
    return number / 1e9


def three_digits(value: float) -> str:
    """A number with 3 significant digits, without exponent: 0.0412, 3.02, 14.5, 1230."""
    rounded = float(f'{value:.3g}')
    if rounded == 0:
        return '0'
    magnitude = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else int(f'{rounded:e}'.split('e')[1]) + 1
    return f'{rounded:.{max(0, 3 - magnitude)}f}'


def _published(row: ReportRow, metric: str) -> float | None:
    return row.paper.percent.get(metric) if row.paper else None


def _get(values: Mapping[str, Any] | None, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


# Footnotes: marks in a table and what they stand for ------------------------------------------------------------------


@dataclass(frozen=True)
class Footnotes:
    """Numbers for sources of published numbers, letters for rows that were measured otherwise.

    Attributes:
        sources: text -> ``1``, ``2``, ...
        rows: text -> ``a``, ``b``, ...
    """

    report: ComparisonReport
    sources: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.report.rows
        letters = (''.join(pair) for n in (1, 2) for pair in product(ascii_lowercase, repeat=n))
        _mark(self.sources, (_say_source(row.paper) for row in rows if row.paper), map(str, range(1, 1000)))
        _mark(self.rows, (self._say_row(row) for row in rows), letters)

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
        difference = software_difference(row.software, self.report.software)
        said = []
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


def _mark(marks: dict[str, str], texts: Iterable[str], names: Iterable[str]) -> None:
    marks.update(zip(dict.fromkeys(text for text in texts if text), names, strict=False))


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
    runs = min(len(row.latency['model']['runs_ms']) for row in timed)
    together = 'all rows of a table in turns within one run of this tool'
    if any(row.origin for row in timed):
        together = 'rows of one run of this tool in turns; rows of an earlier result were timed in its run'
    return [
        f'Latency: median of {runs} synchronised runs after warm-up, {together}; the model time includes '
        f'post-processing. Device: {" or ".join(group_devices(latency_devices(timed)))}.'
    ]


def _accuracy_note(rows: Sequence[ReportRow]) -> str:
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
    return f'{text}.'
