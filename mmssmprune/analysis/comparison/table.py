"""The report's tables as text: columns that every output shares, Markdown, and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmssmprune.analysis.escape import escape_markdown, markdown_code, one_line

from .footnotes import Footnotes
from .methods import method_labels
from .notes import notes
from .rows import NOT_RUN, Measured, NotRun, Report, ReportRow, ReportTable, format_keep_ratio

BLANK = '-'
# An accuracy that was measured and is no number; a footnote at the row's name says so.
UNDEFINED = 'NaN'


@dataclass(frozen=True)
class Column:
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


def columns(table: ReportTable, footnotes: Footnotes) -> list[Column]:
    """The columns of one task's table; latency and published numbers only where there are any."""
    rows = table.rows
    methods = method_labels(rows)
    found = [
        Column('model', lambda row: row.model, lambda row: row.model + footnotes.of_row(row), is_text=True),
        _text('method', lambda row: methods[id(row)]),
        _text('keep ratio', lambda row: format_keep_ratio(row.keep_ratio), is_text=False),
        _number('tokens kept (%)', lambda row: _get(row.cost, 'tokens', 'mean_share'), '.1f', 100),
        _giga('backbone FLOPs (G)', lambda row: row.backbone_flops),
        _number('Δ FLOPs (%)', lambda row: row.backbone_flops_change, '+.1f', 100),
        _giga('model FLOPs (G)', lambda row: _get(row.cost, 'flops', 'total')),
        _number('params (M)', lambda row: _get(row.cost, 'params', 'total'), '.2f', 1e-6),
    ]
    if any(row.latency for row in rows):
        found += [
            _number('backbone (ms)', lambda row: _get(row.latency, 'backbone', 'median_ms'), '.1f'),
            _number('model (ms)', lambda row: row.model_ms, '.1f'),
        ]
    for metric in table.metrics:
        found += _accuracy_columns(metric, any(_published(row, metric) is not None for row in rows), footnotes)
    return found


def _accuracy_columns(metric: str, with_paper: bool, footnotes: Footnotes) -> list[Column]:
    """``ours`` reads nothing but `ReportRow.ours`, ``paper`` nothing but `ReportRow.paper`."""

    def show_ours(row: ReportRow) -> str:
        match row.ours:
            case Measured():
                return f'{row.measured[metric]:.1f}' if metric in row.measured else UNDEFINED
            case NotRun():
                return NOT_RUN
        raise TypeError(f'{row.model}: neither measured nor not run')

    def show_paper(row: ReportRow) -> str:
        value = _published(row, metric)
        return BLANK if value is None else f'{value:.1f} {footnotes.of_source(row.paper)}'

    def show_pareto(row: ReportRow) -> str:
        return ', '.join(row.pareto.get(metric, ())) or BLANK

    paper = (
        [Column(f'{metric} (paper)', lambda row: _published(row, metric), show_paper, origin='paper')]
        if with_paper
        else []
    )
    return [
        *paper,
        Column(f'{metric} (ours)', lambda row: row.measured.get(metric), show_ours, origin='ours'),
        _number(f'Δ {metric}', lambda row: row.accuracy_difference.get(metric), '+.1f'),
        Column(f'Pareto {metric}', lambda row: ', '.join(row.pareto.get(metric, ())) or None, show_pareto, True),
    ]


def to_markdown(report: Report, plots: Mapping[str, str] | None = None) -> str:
    """The whole report: tables, pictures, then the notes on how they were made.

    Args:
        report: what to show.
        plots: file name of each picture -> what it shows.
    """
    footnotes = Footnotes(report)
    parts = []
    for table in report.tables:
        shown = columns(table, footnotes)
        lines = [[escape_markdown(column.title) for column in shown], [('---' if c.is_text else '---:') for c in shown]]
        lines += [[escape_markdown(column.show(row)) for column in shown] for row in table.rows]
        rows = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        parts.append(f'### {escape_markdown(table.title)}\n\n{rows}\n')
    parts += [f'![{escape_markdown(text)}]({name})\n' for name, text in (plots or {}).items()]
    lines = [f'- {escape_markdown(line)}' for line in [*notes(report), *footnotes.lines()]]
    if report.command:  # the first of the notes, but as code
        lines[0] = f'- Command: {markdown_code(report.command)}'
    return '\n'.join(parts) + '\n' + '\n'.join(lines) + '\n'


def to_rich(table: ReportTable, footnotes: Footnotes) -> Group:
    """One task's table for the terminal: each model's name on a line of its own, as names are long, above its rows.

    The other columns of text are left to the files.
    """
    shown = [column for column in columns(table, footnotes) if not column.is_text]
    cells = [[one_line(column.show(row)) for column in shown] for row in table.rows]
    # One width for the header and every model's rows: a title wraps between words, a number never does.
    texts = zip(*([max(one_line(column.title).split() or [''], key=len) for column in shown], *cells), strict=True)
    widths = [max(map(len, column)) for column in texts]

    def block(rows: list[list[str]], show_header: bool) -> Table:
        part = Table(box=None, show_header=show_header, padding=(0, 1, 0, 0))
        for column, width in zip(shown, widths, strict=True):
            part.add_column(Text(one_line(column.title)), justify='right', width=width, vertical='bottom')
        for row in rows:
            part.add_row(*map(Text, row))
        return part

    parts: list[Any] = [Text(one_line(table.title), style='bold underline'), block([], show_header=True)]
    names = [row.model + footnotes.of_row(row) for row in table.rows]
    for name, kind in dict.fromkeys(zip(names, (row.kind for row in table.rows), strict=True)):
        own = [line for line, other in zip(cells, names, strict=True) if other == name]
        parts += [
            Text(one_line(name), style='bold green' if kind == 'dense' else 'bold'),
            block(own, show_header=False),
        ]
    return Group(*parts, Text())


def three_digits(value: float) -> str:
    """A number with 3 significant digits, without exponent: 0.0412, 3.02, 14.5, 1230."""
    rounded = float(f'{value:.3g}')
    if rounded == 0:
        return '0'
    magnitude = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else int(f'{rounded:e}'.split('e')[1]) + 1
    return f'{rounded:.{max(0, 3 - magnitude)}f}'


def _published(row: ReportRow, metric: str) -> float | None:
    return row.paper.percent.get(metric) if row.paper else None


def _text(title: str, value: Callable[[ReportRow], str], is_text: bool = True) -> Column:
    return Column(title, value, value, is_text)


def _number(title: str, value: Callable[[ReportRow], float | None], spec: str, factor: float = 1.0) -> Column:
    def show(row: ReportRow) -> str:
        number = value(row)
        if number is None:
            return BLANK
        text = format(number * factor, spec)
        return text.replace('-', '+') if float(text) == 0 else text  # no "-0.0"

    def scaled(row: ReportRow) -> float | None:
        number = value(row)
        return None if number is None else number * factor

    return Column(title, scaled, show)


def _giga(title: str, value: Callable[[ReportRow], float | None]) -> Column:
    def scaled(row: ReportRow) -> float | None:
        number = value(row)
        return None if number is None else number / 1e9

    return Column(title, scaled, lambda row: BLANK if value(row) is None else three_digits(value(row) / 1e9))


def _get(values: Mapping[str, Any] | None, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
