"""The report's tables for other programs: CSV and LaTeX."""

from __future__ import annotations

import csv
import re
from io import StringIO

from mmssmprune.analysis.escape import csv_cell, escape_latex, one_line

from .footnotes import Footnotes
from .notes import notes
from .rows import NOT_RUN, Measured, Report, ReportRow, ReportTable
from .table import Column, columns


def to_csv(report: Report) -> str:
    """All tables in one: numbers in full precision, empty where there is none, and what identifies a row.

    ``run`` is 'measured' or 'not run', whatever else a row holds.
    """
    footnotes = Footnotes(report)
    records = [record for table in report.tables for record in _records(table, footnotes)]
    titles = dict.fromkeys(title for record in records for title in record)
    out = StringIO()
    writer = csv.DictWriter(out, list(titles), restval='', lineterminator='\n')
    writer.writerow({title: csv_cell(title) for title in titles})
    writer.writerows({title: csv_cell(value) for title, value in record.items()} for record in records)
    return out.getvalue()


def _records(table: ReportTable, footnotes: Footnotes) -> list[dict[str, object]]:
    shown = columns(table, footnotes)
    return [
        {'task': table.task, 'kind': row.kind, 'run': 'measured' if isinstance(row.ours, Measured) else NOT_RUN}
        | {column.title: column.value(row) for column in shown}
        | _identity(row, table)
        for row in table.rows
    ]


def _identity(row: ReportRow, table: ReportTable) -> dict[str, object]:
    device = row.latency['device']['name'] if row.latency else None
    return {
        'input height': table.shape[0],
        'input width': table.shape[1],
        'paper source': row.paper.citation if row.paper else None,
        'paper quoted by others': row.paper.quoted if row.paper else None,
        'latency device': device,
        'config': row.config,
        'config hash': row.config_hash,
        'checkpoint hash': row.checkpoint_hash,
        'data hash': row.data_hash,
        'source hash': row.software.source,
        'versions': ' '.join(f'{name}=={version}' for name, version in row.software.versions.items()),
        'earlier result': row.origin,
    }


def to_latex(report: Report) -> str:
    """A ``table`` environment per task, for the packages booktabs and graphicx; the notes are comments below it."""
    footnotes = Footnotes(report)
    parts = [_latex_table(table, columns(table, footnotes), footnotes) for table in report.tables]
    comments = ''.join(f'% {one_line(note)}\n' for note in notes(report))
    return '% Needs \\usepackage{booktabs,graphicx}\n' + '\n'.join(parts) + comments


def _latex_table(table: ReportTable, shown: list[Column], footnotes: Footnotes) -> str:
    alignment = ''.join('l' if column.is_text else 'r' for column in shown)
    lines = [_latex_row([column.title for column in shown]), '\\midrule']
    lines += [_latex_row([column.show(row) for column in shown]) for row in table.rows]
    body = '\n    '.join(lines)
    marked = ''.join(f'\n  \\par {escape_latex(line)}' for line in footnotes.lines())
    return (
        '\\begin{table}\n  \\centering\n'
        f'  \\caption{{{escape_latex(table.title)} at {table.shape[0]} $\\times$ {table.shape[1]}}}\n'
        f'  \\label{{tab:{re.sub(r"[^A-Za-z0-9-]+", "-", table.task)}}}\n'
        f'  \\resizebox{{\\linewidth}}{{!}}{{%\n  \\begin{{tabular}}{{{alignment}}}\n    \\toprule\n    {body}\n'
        f'    \\bottomrule\n  \\end{{tabular}}}}\n  \\footnotesize{marked}\n\\end{{table}}\n'
    )


def _latex_row(cells: list[str]) -> str:
    text = ' & '.join(map(escape_latex, cells))
    # After the \\ of the line above, a bracket or star would be its argument.
    return ('{}' if text[:1] in ('[', '*') else '') + text + ' \\\\'
