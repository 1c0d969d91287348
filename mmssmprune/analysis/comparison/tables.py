"""A report as people read it: cells, footnotes and notes, and each format; foreign text stays text in all of them.

pandas writes CSV, LaTeX and HTML. Its Markdown needs one more package and pads every cell, so that is four lines here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from string import ascii_lowercase
from textwrap import indent
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmssmprune.analysis.escape import csv_cell, escape_html, escape_latex, escape_markdown, markdown_code, one_line
from mmssmprune.analysis.html_page import heading, page, picture
from mmssmprune.analysis.software import software_difference

from .derive import SAME_COST, group_devices, latency_devices, method_labels
from .report import ComparisonReport, Measured, NotRun, Published, ReportRow, ReportTable, format_keep_ratio

NOT_RUN = 'not run'
BLANK = '-'
# An accuracy that was measured and is no number; a footnote at the row's name says so.
UNDEFINED = 'NaN'
QUOTED = 'quoted'

_STYLE = """<style>
.wide { overflow-x: auto; }
.wide table { font-size: 13px; font-variant-numeric: tabular-nums; }
.wide td { white-space: nowrap; }
.wide th, .wide td { padding: .25rem .6rem; }
.wide :is(th, td):nth-child(-n+2) { text-align: left; }
.wide tr:has(.dense) td { background: #eef4fa; font-weight: 600; }
.wide .paper { color: #8a4b00; font-style: italic; }
.wide .notrun { color: #777; }
li { margin: .3rem 0; overflow-wrap: anywhere; }
</style>"""


# Cells ----------------------------------------------------------------------------------------------------------------


def frames(table: ReportTable, footnotes: Footnotes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One task's table twice: values in full precision, None for nothing, and what a reader sees of them.

    Latency and published numbers have columns only where there are any.
    """
    methods = method_labels(table.rows)
    cells = [_cells(row, methods[id(row)], table.metrics, footnotes) for row in table.rows]
    values, texts = (
        pd.DataFrame([{title: cell[part] for title, cell in row.items()} for row in cells], dtype=object)
        for part in (0, 1)
    )
    empty = [title for title in values if title.endswith(('(ms)', '(paper)')) and values[title].isna().all()]
    return values.drop(columns=empty), texts.drop(columns=empty)


def _cells(row: ReportRow, method: str, metrics: Sequence[str], footnotes: Footnotes) -> dict[str, tuple[Any, str]]:
    """Title -> value and text. ``ours`` reads nothing but `ReportRow.ours`, ``paper`` nothing but `ReportRow.paper`."""
    cells = {
        'model': (row.model, row.model + footnotes.of_row(row)),
        'method': (method, method),
        'keep ratio': (format_keep_ratio(row.keep_ratio),) * 2,
        'tokens kept (%)': _number(((row.cost or {}).get('tokens') or {}).get('mean_share'), '.1f', 100),
        'backbone FLOPs (G)': _number(row.backbone_flops, per=1e9),
        'Δ FLOPs (%)': _number(row.backbone_flops_change, '+.1f', 100),
        'model FLOPs (G)': _number(row.cost and row.cost['flops']['total'], per=1e9),
        'params (M)': _number(row.cost and row.cost['params']['total'], '.2f', 1e-6),
        'backbone (ms)': _number(row.latency and row.latency['backbone']['median_ms'], '.1f'),
        'model (ms)': _number(row.model_ms, '.1f'),
    }
    nothing = NOT_RUN if isinstance(row.ours, NotRun) else UNDEFINED
    for metric in metrics:
        paper = row.paper.percent.get(metric) if row.paper else None
        ours = row.measured.get(metric)
        pareto = ', '.join(row.pareto.get(metric, ()))
        cells |= {
            f'{metric} (paper)': (paper, '' if paper is None else f'{paper:.1f} {footnotes.of_source(row.paper)}'),
            f'{metric} (ours)': (ours, nothing if ours is None else f'{ours:.1f}'),
            f'Δ {metric}': _number(row.accuracy_difference.get(metric), '+.1f'),
            f'Pareto {metric}': (pareto or None, pareto),
        }
    return {title: (value, text or BLANK) for title, (value, text) in cells.items()}


def _number(value: float | None, spec: str = '', times: float = 1, per: float = 1) -> tuple[float | None, str]:
    """``value * times / per`` and its text; without a format it has three significant digits."""
    if value is None:
        return None, ''
    number = value * times / per
    text = format(number, spec) if spec else three_digits(number)
    return number, text.replace('-', '+') if float(text) == 0 else text  # no "-0.0"


def three_digits(value: float) -> str:
    """A number with 3 significant digits, without exponent: 0.0412, 3.02, 14.5, 1230."""
    rounded = float(f'{value:.3g}')
    if rounded == 0:
        return '0'
    magnitude = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else int(f'{rounded:e}'.split('e')[1]) + 1
    return f'{rounded:.{max(0, 3 - magnitude)}f}'


def _is_text(title: str) -> bool:
    """Whether a column holds words; the other ones are set to the right."""
    return title in ('model', 'method') or title.startswith('Pareto ')


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


# Formats --------------------------------------------------------------------------------------------------------------


def to_rich(table: ReportTable, footnotes: Footnotes) -> Group:
    """One task's table for the terminal: each model's name on a line of its own, as names are long, above its rows.

    The other columns of text are left to the files.
    """
    _, texts = frames(table, footnotes)
    titles = [title for title in texts if not _is_text(title)]
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
        texts, titles = _escaped(table, footnotes, escape_markdown)
        lines = [list(texts), ['---' if _is_text(title) else '---:' for title in titles], *texts.to_numpy().tolist()]
        rows = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        parts.append(f'### {escape_markdown(table.title)}\n\n{rows}\n')
    parts += [f'![{escape_markdown(text)}]({name})\n' for name, text in (plots or {}).items()]
    lines = [f'- {escape_markdown(line)}' for line in [*notes(report), *footnotes.lines()]]
    if report.command:  # the first of the notes, but as code
        lines[0] = f'- Command: {markdown_code(report.command)}'
    return '\n'.join(parts) + '\n' + '\n'.join(lines) + '\n'


def _escaped(table: ReportTable, footnotes: Footnotes, escape: Callable[[str], str]) -> tuple[pd.DataFrame, list[str]]:
    """What a reader sees, escaped, titles too; and the titles as they were."""
    _, texts = frames(table, footnotes)
    return texts.map(escape).rename(columns=escape), list(texts)


def to_csv(report: ComparisonReport) -> str:
    """All tables in one: numbers in full precision, empty where there is none, and what identifies a row.

    ``run`` is 'measured' or 'not run', whatever else a row holds.
    """
    footnotes = Footnotes(report)
    records = []
    for table in report.tables:
        for row, values in zip(table.rows, frames(table, footnotes)[0].to_dict('records'), strict=True):
            run = 'measured' if isinstance(row.ours, Measured) else NOT_RUN
            records.append({'task': table.task, 'kind': row.kind, 'run': run} | values | _identity(row, table))
    everything = pd.DataFrame(records, dtype=object).map(csv_cell).rename(columns=csv_cell)
    return everything.to_csv(index=False, lineterminator='\n')


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
        texts, titles = _escaped(table, footnotes, escape_latex)
        # After the \\ of the line above, a bracket or star would be its argument.
        texts['model'] = [('{}' if name[:1] in ('[', '*') else '') + name for name in texts['model']]
        aligned = ''.join('l' if _is_text(title) else 'r' for title in titles)
        body = indent(texts.to_latex(index=False, escape=False, column_format=aligned), '  ').rstrip()
        parts.append(
            '\\begin{table}\n  \\centering\n'
            f'  \\caption{{{escape_latex(table.title)} at {table.shape[0]} $\\times$ {table.shape[1]}}}\n'
            f'  \\label{{tab:{re.sub(r"[^A-Za-z0-9-]+", "-", table.task)}}}\n  \\resizebox{{\\linewidth}}{{!}}{{%\n'
            f'{body}}}\n  \\footnotesize{marked}\n\\end{{table}}\n'
        )
    comments = ''.join(f'% {one_line(note)}\n' for note in notes(report))
    return '% Needs \\usepackage{booktabs,graphicx}\n' + '\n'.join(parts) + comments


def to_html(report: ComparisonReport, plots: Mapping[str, tuple[str, bytes]]) -> str:
    """The report as one HTML page that needs no other file: tables, pictures, notes.

    Args:
        report: what to show.
        plots: file name of each picture -> what it shows, and its PNG bytes.
    """
    footnotes = Footnotes(report)
    parts = [_STYLE]
    for table in report.tables:
        texts, titles = _escaped(table, footnotes, escape_html)
        for i, row in enumerate(table.rows):
            classes = {title: 'paper' for title in titles if title.endswith(' (paper)')} | {'model': row.kind}
            if isinstance(row.ours, NotRun):
                classes |= {title: 'notrun' for title in titles if title.endswith(' (ours)')}
            for title, name in classes.items():
                place = i, titles.index(title)
                texts.iloc[place] = f'<span class="{name}">{texts.iloc[place]}</span>'
        parts += [heading(table.title), f'<div class="wide">{texts.to_html(index=False, escape=False, border=0)}</div>']
    parts += [f'<p>{picture(png, text)}</p>' for text, png in plots.values()]
    items = '\n'.join(f'<li>{escape_html(line)}</li>' for line in [*notes(report), *footnotes.lines()])
    return page('Comparison', [*parts, heading('How this was made'), f'<ul>\n{items}\n</ul>'])
