"""A report in the formats that people read: terminal, Markdown, CSV, LaTeX, HTML; foreign text stays text in each.

pandas writes CSV, LaTeX and HTML. Its Markdown needs one more package and pads every cell, so that is four lines here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmssmprune.analysis.escape import csv_cell, escape_html, escape_latex, escape_markdown, markdown_code, one_line
from mmssmprune.analysis.html_page import heading, page, picture

from .report import ComparisonReport, Measured, NotRun, ReportRow, ReportTable
from .tables import NOT_RUN, Footnotes, ap_frames, class_frames, frames, further_tables, is_text, notes, percentiles

_STYLE = """<style>
.wide { overflow-x: auto; }
.wide table { font-size: 13px; font-variant-numeric: tabular-nums; }
.wide td { white-space: nowrap; }
.wide th, .wide td { padding: .25rem .6rem; }
.rows :is(th, td):nth-child(2) { text-align: left; }
.wide tr:has(.dense) td { background: #eef4fa; font-weight: 600; }
.wide .paper { color: #8a4b00; font-style: italic; }
.wide .notrun { color: #777; }
li { margin: .3rem 0; overflow-wrap: anywhere; }
</style>"""


def to_rich(table: ReportTable, footnotes: Footnotes) -> Group:
    """One task's table for the terminal: each model's name on a line of its own, as names are long, above its rows.

    The other columns of text are left to the files.
    """
    _, texts = frames(table, footnotes, brief=True)
    titles = [title for title in texts if not is_text(title)]
    cells = texts[titles].map(one_line).to_numpy().tolist()
    # One width for the header and every model's rows: a title wraps between words, a number never does.
    words = [max(one_line(title).split(), key=len, default='') for title in titles]
    widths = [max(map(len, column)) for column in zip(words, *cells, strict=True)]

    def block(rows: list[list[str]], show_header: bool = False) -> Table:
        part = Table(box=None, show_header=show_header, padding=(0, 1, 0, 0))
        for title, width in zip(titles, widths, strict=True):
            part.add_column(Text(one_line(title)), justify='right', width=width, vertical='bottom')
        for row in rows:
            part.add_row(*map(Text, row))
        return part

    parts: list[Any] = [Text(one_line(table.title), style='bold underline'), block([], show_header=True)]
    names = [(one_line(name), row.kind) for name, row in zip(texts['model'], table.rows, strict=True)]
    for name, kind in dict.fromkeys(names):
        own = [line for line, (other, _) in zip(cells, names, strict=True) if other == name]
        parts += [Text(name, style='bold green' if kind == 'dense' else 'bold'), block(own)]
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
        for title, texts in [(table.title, frames(table, footnotes)[1]), *further_tables(report, table)]:
            lines = [texts.columns, texts.columns, *texts.to_numpy()]
            lines = [list(map(escape_markdown, line)) for line in lines]
            lines[1] = ['---' if is_text(name) else '---:' for name in texts]
            rows = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
            parts.append(f'### {escape_markdown(title)}\n\n{rows}\n')
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
        shown, more = frames(table, footnotes)[0], ap_frames(table)[0]
        shown = shown.join(more.drop(columns=shown.columns, errors='ignore'))
        for row, values in zip(table.rows, shown.to_dict('records'), strict=True):
            run = 'measured' if isinstance(row.ours, Measured) else NOT_RUN
            identity = _spreads(row) | _identity(row, table)
            records.append({'task': table.task, 'kind': row.kind, 'run': run} | values | identity)
    return _csv(records)


def classes_csv(report: ComparisonReport) -> str:
    """The IoU of every class and its difference to the dense model, a line for each class; empty where not wanted."""
    found = [(table.task, class_frames(table)[0]) for table in report.tables if report.per_class]
    lines = [{'task': task, **line} for task, values in found for line in values.to_dict('records')]
    return _csv(lines) if lines else ''


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    everything = pd.DataFrame(records, dtype=object).map(csv_cell).rename(columns=csv_cell)
    return everything.to_csv(index=False, lineterminator='\n')


def _spreads(row: ReportRow) -> dict[str, Any]:
    """Of latency over runs, and of accuracy over seeds."""
    found: dict[str, Any] = {}
    for part in ('backbone', 'model') if row.latency else ():
        found |= dict(zip((f'{part} p5 (ms)', f'{part} p95 (ms)'), percentiles(row.latency[part]), strict=True))
    found |= {f'{metric} std': value for metric, value in row.spread.items()}
    found |= {f'Δ {metric} std': value for metric, value in row.difference_spread.items()}
    seeds = [run.seed for run in row.runs or [row] if run.seed is not None]
    return found | {'seeds': ' '.join(map(str, seeds))}


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
        size = f' at {table.shape[0]} $\\times$ {table.shape[1]}'
        label = re.sub(r'[^A-Za-z0-9-]+', '-', table.task)
        parts.append(_latex_table(frames(table, footnotes)[1], escape_latex(table.title) + size, label, marked))
        for number, (title, texts) in enumerate(further_tables(report, table), 2):
            parts.append(_latex_table(texts, escape_latex(title), f'{label}-{number}', ''))
    comments = ''.join(f'% {one_line(note)}\n' for note in notes(report))
    return '% Needs \\usepackage{booktabs,graphicx}\n' + '\n'.join(parts) + comments


def _latex_table(texts: pd.DataFrame, caption: str, label: str, marked: str) -> str:
    escaped = texts.map(escape_latex).rename(columns=escape_latex)
    # After the \\ of the line above, a bracket or star would be its argument.
    escaped.iloc[:, 0] = [('{}' if name[:1] in ('[', '*') else '') + name for name in escaped.iloc[:, 0]]
    aligned = ''.join('l' if is_text(title) else 'r' for title in texts)
    body = indent(escaped.to_latex(index=False, escape=False, column_format=aligned), '  ').rstrip()
    return (
        f'\\begin{{table}}\n  \\centering\n  \\caption{{{caption}}}\n  \\label{{tab:{label}}}\n'
        f'  \\resizebox{{\\linewidth}}{{!}}{{%\n{body}}}\n  \\footnotesize{marked}\n\\end{{table}}\n'
    )


def to_html(report: ComparisonReport, plots: Mapping[str, tuple[str, bytes]]) -> str:
    """The report as one HTML page that needs no other file: tables, pictures, notes.

    Args:
        report: what to show.
        plots: file name of each picture -> what it shows, and its PNG bytes.
    """
    footnotes = Footnotes(report)
    parts = [_STYLE]
    for table in report.tables:
        texts = frames(table, footnotes)[1]
        parts += [heading(table.title), _html_table(texts, table.rows)]
        for title, more in further_tables(report, table):
            parts += [heading(title), _html_table(more)]
    parts += [f'<p>{picture(png, text)}</p>' for text, png in plots.values()]
    items = '\n'.join(f'<li>{escape_html(line)}</li>' for line in [*notes(report), *footnotes.lines()])
    return page('Comparison', [*parts, heading('How this was made'), f'<ul>\n{items}\n</ul>'])


def _html_table(texts: pd.DataFrame, rows: Sequence[ReportRow] = ()) -> str:
    escaped = texts.map(escape_html).rename(columns=escape_html)
    for i, row in enumerate(rows):
        for j, title in enumerate(texts):
            not_run = isinstance(row.ours, NotRun) and title.endswith(' (ours)')
            name = row.kind if title == 'model' else 'paper' if title.endswith(' (paper)') else 'notrun' * not_run
            if name:
                escaped.iloc[i, j] = f'<span class="{name}">{escaped.iloc[i, j]}</span>'
    return f'<div class="wide{" rows" * bool(rows)}">{escaped.to_html(index=False, escape=False, border=0)}</div>'
