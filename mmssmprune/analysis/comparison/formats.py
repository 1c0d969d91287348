"""A report in the formats that people read: terminal, Markdown, CSV, LaTeX, HTML; foreign text stays text in each."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmssmprune.analysis.escape import csv_cell, escape_html, escape_latex, escape_markdown, markdown_code, one_line
from mmssmprune.analysis.html_page import heading, page, picture

from .report import ComparisonReport, Measured, NotRun, ReportRow, ReportTable
from .table import NOT_RUN, Footnotes, TableColumn, columns, notes

_STYLE = """<style>
.wide { overflow-x: auto; }
.wide table { font-size: 13px; font-variant-numeric: tabular-nums; }
.wide td { white-space: nowrap; }
.wide th, .wide td { padding: .25rem .6rem; }
.wide .text { text-align: left; }
.dense td { background: #eef4fa; font-weight: 600; }
.wide .paper { color: #8a4b00; font-style: italic; }
.wide .notrun { color: #777; }
li { margin: .3rem 0; overflow-wrap: anywhere; }
</style>"""


def to_rich(table: ReportTable, footnotes: Footnotes) -> Group:
    """One task's table for the terminal: each model's name on a line of its own, as names are long, above its rows.

    The other columns of text are left to the files.
    """
    shown = [column for column in columns(table, footnotes) if not column.is_text]
    titles = [one_line(column.title) for column in shown]
    cells = [[one_line(column.show(row)) for column in shown] for row in table.rows]
    # One width for the header and every model's rows: a title wraps between words, a number never does.
    words = [max(title.split() or [''], key=len) for title in titles]
    widths = [max(map(len, column)) for column in zip(words, *cells, strict=True)]

    def block(rows: list[list[str]], show_header: bool = False) -> Table:
        part = Table(box=None, show_header=show_header, padding=(0, 1, 0, 0))
        for title, width in zip(titles, widths, strict=True):
            part.add_column(Text(title), justify='right', width=width, vertical='bottom')
        for row in rows:
            part.add_row(*map(Text, row))
        return part

    parts: list[Any] = [Text(one_line(table.title), style='bold underline'), block([], show_header=True)]
    names = [(row.model + footnotes.of_row(row), row.kind) for row in table.rows]
    for name, kind in dict.fromkeys(names):
        own = [line for line, (other, _) in zip(cells, names, strict=True) if other == name]
        parts += [Text(one_line(name), style='bold green' if kind == 'dense' else 'bold'), block(own)]
    return Group(*parts, Text())


def to_markdown(report: ComparisonReport, plots: Mapping[str, str] | None = None) -> str:
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


def to_csv(report: ComparisonReport) -> str:
    """All tables in one: numbers in full precision, empty where there is none, and what identifies a row.

    ``run`` is 'measured' or 'not run', whatever else a row holds.
    """
    footnotes = Footnotes(report)
    records = []
    for table in report.tables:
        shown = columns(table, footnotes)
        for row in table.rows:
            run = 'measured' if isinstance(row.ours, Measured) else NOT_RUN
            values = {column.title: column.value(row) for column in shown}
            records.append({'task': table.task, 'kind': row.kind, 'run': run} | values | _identity(row, table))
    titles = dict.fromkeys(title for record in records for title in record)
    out = StringIO()
    writer = csv.DictWriter(out, list(titles), restval='', lineterminator='\n')
    writer.writerow({title: csv_cell(title) for title in titles})
    writer.writerows({title: csv_cell(value) for title, value in record.items()} for record in records)
    return out.getvalue()


def _identity(row: ReportRow, table: ReportTable) -> dict[str, object]:
    return {
        'input height': table.shape[0],
        'input width': table.shape[1],
        'paper source': row.paper.citation if row.paper else None,
        'paper quoted by others': row.paper.quoted if row.paper else None,
        'latency device': row.latency['device']['name'] if row.latency else None,
        'config': row.config,
        'config hash': row.config_hash,
        'checkpoint hash': row.checkpoint_hash,
        'data hash': row.data_hash,
        'source hash': row.software.source,
        'versions': ' '.join(f'{name}=={version}' for name, version in row.software.versions.items()),
        'earlier result': row.origin,
    }


def to_latex(report: ComparisonReport) -> str:
    """A ``table`` environment per task, for the packages booktabs and graphicx; the notes are comments below it."""
    footnotes = Footnotes(report)
    marked = ''.join(f'\n  \\par {escape_latex(line)}' for line in footnotes.lines())
    parts = []
    for table in report.tables:
        shown = columns(table, footnotes)
        lines = [_latex_row([column.title for column in shown]), '\\midrule']
        lines += [_latex_row([column.show(row) for column in shown]) for row in table.rows]
        body = '\n    '.join(lines)
        parts.append(
            '\\begin{table}\n  \\centering\n'
            f'  \\caption{{{escape_latex(table.title)} at {table.shape[0]} $\\times$ {table.shape[1]}}}\n'
            f'  \\label{{tab:{re.sub(r"[^A-Za-z0-9-]+", "-", table.task)}}}\n  \\resizebox{{\\linewidth}}{{!}}{{%\n'
            f'  \\begin{{tabular}}{{{"".join("l" if column.is_text else "r" for column in shown)}}}\n    \\toprule\n'
            f'    {body}\n    \\bottomrule\n  \\end{{tabular}}}}\n  \\footnotesize{marked}\n\\end{{table}}\n'
        )
    comments = ''.join(f'% {one_line(note)}\n' for note in notes(report))
    return '% Needs \\usepackage{booktabs,graphicx}\n' + '\n'.join(parts) + comments


def _latex_row(cells: list[str]) -> str:
    text = ' & '.join(map(escape_latex, cells))
    # After the \\ of the line above, a bracket or star would be its argument.
    return ('{}' if text[:1] in ('[', '*') else '') + text + ' \\\\'


def to_html(report: ComparisonReport, plots: Mapping[str, tuple[str, bytes]]) -> str:
    """The report as one HTML page that needs no other file: tables, pictures, notes.

    Args:
        report: what to show.
        plots: file name of each picture -> what it shows, and its PNG bytes.
    """
    footnotes = Footnotes(report)
    parts = [_STYLE]
    for table in report.tables:
        shown = columns(table, footnotes)
        head = ''.join(f'<th{_html_class(column)}>{escape_html(column.title)}</th>' for column in shown)
        body = ''
        for row in table.rows:
            cells = (f'<td{_html_class(column, row)}>{escape_html(column.show(row))}</td>' for column in shown)
            body += f'<tr class="{escape_html(row.kind)}">{"".join(cells)}</tr>\n'
        parts.append(heading(table.title))
        parts.append(
            f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'
        )
    parts += [f'<p>{picture(png, text)}</p>' for text, png in plots.values()]
    items = '\n'.join(f'<li>{escape_html(line)}</li>' for line in [*notes(report), *footnotes.lines()])
    return page('Comparison', [*parts, heading('How this was made'), f'<ul>\n{items}\n</ul>'])


def _html_class(column: TableColumn, row: ReportRow | None = None) -> str:
    not_run = column.origin == 'ours' and row is not None and isinstance(row.ours, NotRun)
    names = ['text' if column.is_text else '', column.origin, 'notrun' if not_run else '']
    return f' class="{" ".join(filter(None, names))}"' if any(names) else ''
