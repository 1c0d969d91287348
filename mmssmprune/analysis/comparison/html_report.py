"""The report as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping

from mmssmprune.analysis.escape import escape_html
from mmssmprune.analysis.html_page import heading, page, picture

from .footnotes import Footnotes
from .notes import notes
from .rows import NotRun, Report, ReportRow, ReportTable
from .table import Column, columns

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


def to_html(report: Report, plots: Mapping[str, tuple[str, bytes]]) -> str:
    """One page: tables, pictures, notes.

    Args:
        report: what to show.
        plots: file name of each picture -> what it shows, and its PNG bytes.
    """
    footnotes = Footnotes(report)
    tables = [part for table in report.tables for part in (heading(table.title), _table(table, footnotes))]
    pictures = [f'<p>{picture(png, text)}</p>' for text, png in plots.values()]
    items = '\n'.join(f'<li>{escape_html(line)}</li>' for line in [*notes(report), *footnotes.lines()])
    made = [heading('How this was made'), f'<ul>\n{items}\n</ul>']
    return page('Comparison', [_STYLE, *tables, *pictures, *made])


def _table(table: ReportTable, footnotes: Footnotes) -> str:
    shown = columns(table, footnotes)
    head = ''.join(f'<th{_class(column)}>{escape_html(column.title)}</th>' for column in shown)
    rows = '\n'.join(_row(row, shown) for row in table.rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'


def _row(row: ReportRow, shown: list[Column]) -> str:
    cells = ''.join(f'<td{_class(column, row)}>{escape_html(column.show(row))}</td>' for column in shown)
    return f'<tr class="{escape_html(row.kind)}">{cells}</tr>'


def _class(column: Column, row: ReportRow | None = None) -> str:
    not_run = column.origin == 'ours' and row is not None and isinstance(row.ours, NotRun)
    names = [*(['text'] if column.is_text else []), *([column.origin] if column.origin else [])]
    names += ['notrun'] if not_run else []
    return f' class="{" ".join(names)}"' if names else ''
