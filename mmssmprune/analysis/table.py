"""The report as text: one table per task, and below them how its numbers were made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

BLANK = '-'


@dataclass(frozen=True)
class Column:
    """A column's title and how it shows a row."""

    title: str
    cell: Callable[[dict[str, Any]], str]
    is_text: bool = False


def columns(table: dict[str, Any]) -> list[Column]:
    """The columns of one task's table; latency only where it was measured."""
    found = [
        Column('model', lambda row: row['model'], is_text=True),
        Column('keep ratio', lambda row: format_keep_ratio(row['keep_ratio'])),
        Column('tokens kept (%)', lambda row: _number(_get(row, 'tokens', 'mean_share'), '.1f', 100)),
        Column('backbone FLOPs (G)', lambda row: _giga(_get(row, 'flops', 'backbone'))),
        Column('Δ FLOPs (%)', lambda row: _number(row.get('backbone_flops_change'), '+.1f', 100)),
        Column('model FLOPs (G)', lambda row: _giga(_get(row, 'flops', 'total'))),
        Column('params (M)', lambda row: _number(_get(row, 'params', 'total'), '.2f', 1e-6)),
    ]
    if any('latency' in row for row in table['rows']):
        found += [
            Column('backbone (ms)', lambda row: _number(_get(row, 'latency', 'backbone', 'median_ms'), '.1f')),
            Column('model (ms)', lambda row: _number(_get(row, 'latency', 'model', 'median_ms'), '.1f')),
        ]
    for title in table['metrics']:
        found += [
            Column(title, lambda row, title=title: _number(_get(row, 'accuracy', title), '.1f')),
            Column(f'Δ {title}', lambda row, title=title: _number(_get(row, 'accuracy_difference', title), '+.1f')),
        ]
    return found


def format_keep_ratio(keep_ratio: float | list[float]) -> str:
    """0.7, or 0.9/0.8/0.7 for a ratio per pruning layer."""
    ratios = keep_ratio if isinstance(keep_ratio, (list, tuple)) else [keep_ratio]
    return '/'.join(f'{ratio:g}' if ratio != 1 else '1.0' for ratio in ratios)


def three_digits(value: float) -> str:
    """A number with 3 significant digits, without exponent: 0.0412, 3.02, 14.5, 1230."""
    rounded = float(f'{value:.3g}')
    if rounded == 0:
        return '0'
    magnitude = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else int(f'{rounded:e}'.split('e')[1]) + 1
    return f'{rounded:.{max(0, 3 - magnitude)}f}'


def to_markdown(report: dict[str, Any]) -> str:
    """The whole report: tables, then the notes on how they were made."""
    parts = []
    for table in report['tables']:
        shown = columns(table)
        lines = [[column.title for column in shown], [('---' if c.is_text else '---:') for c in shown]]
        lines += [[column.cell(row) for column in shown] for row in table['rows']]
        rows = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        parts.append(f'### {table["title"]}\n\n{rows}\n')
    notes_block = '\n'.join(f'- {note}' for note in notes(report))
    return '\n'.join(parts) + f'\n{notes_block}\n'


def to_rich(table: dict[str, Any]) -> Group:
    """One task's table for the terminal: each model's name on a line of its own, as names are long, above its rows."""
    shown = columns(table)[1:]
    cells = [[column.cell(row) for column in shown] for row in table['rows']]
    # One width for the header and every model's rows: a title wraps between words, a number never does.
    texts = zip(*([max(column.title.split(), key=len) for column in shown], *cells), strict=True)
    widths = [max(map(len, column)) for column in texts]

    def block(rows: list[list[str]], show_header: bool) -> Table:
        part = Table(box=None, show_header=show_header, padding=(0, 2, 0, 0))
        for column, width in zip(shown, widths, strict=True):
            part.add_column(column.title, justify='right', width=width, vertical='bottom')
        for row in rows:
            part.add_row(*row)
        return part

    parts: list[Any] = [Text(table['title'], style='bold underline'), block([], show_header=True)]
    for name, kind in dict.fromkeys((row['model'], row['kind']) for row in table['rows']):
        own = [line for line, row in zip(cells, table['rows'], strict=True) if row['model'] == name]
        parts += [Text(name, style='bold green' if kind == 'dense' else 'bold'), block(own, show_header=False)]
    return Group(*parts, Text())


def notes(report: dict[str, Any]) -> list[str]:
    """How the numbers were made, one sentence group per line."""
    tables = report['tables']
    lines = [f'Command: `{report["command"]}`'] if 'command' in report else []
    lines += [f'{t["title"]}: {_input_note(t)}' for t in tables]
    lines.append(f'FLOPs: {report["conventions"]} Counted on a real forward pass.{_flops_notes(tables)}')
    if any('latency' in row for table in tables for row in table['rows']):
        lines.append(_latency_note(report))
    lines.append(
        'Tokens kept: mean over the layers of the backbone, percent of the full grid. Params: the whole model. '
        "Accuracy: the config's own test set and evaluator. Δ: the row minus the dense model of its table"
        + ('; an untrained row has seeded random weights and shows what chance gives.' if _untrained(tables) else '.')
    )
    lines.append('Versions: ' + ', '.join(f'{name} {version}' for name, version in report['versions'].items()))
    return lines


def _input_note(table: dict[str, Any]) -> str:
    height, width = table['shape']
    padded = sorted({tuple(row['padded_shape']) for row in table['rows'] if 'padded_shape' in row} - {(height, width)})
    padding = f', padded by the model to {" and ".join(f"{h} x {w}" for h, w in padded)}' if padded else ''
    return (
        f'accuracy on {table["num_images"]} test images; FLOPs and latency at batch size 1, input {height} x {width} '
        f'(height x width, from {table["shape_from"]}{padding}).'
    )


def _flops_notes(tables: Iterable[dict[str, Any]]) -> str:
    rows = [row for table in tables for row in table['rows']]
    proposals = sorted({row['proposals'] for row in rows if row.get('proposals')})
    text = ''
    if proposals:
        text += (
            f' RoI heads cost in proportion to the number of proposals: counted at the configured maximum of '
            f'{" or ".join(map(str, proposals))} (masks: at most the first 100).'
        )
    unsupported = sorted({name.removesuffix('.default') for row in rows for name in row.get('flops_unsupported', {})})
    if unsupported:
        text += f' Ran but have no formula and count 0: {", ".join(unsupported)}.'
    return text


def _latency_note(report: dict[str, Any]) -> str:
    runs = [len(row['latency']['model']['runs_ms']) for t in report['tables'] for row in t['rows'] if 'latency' in row]
    device = dict(report['device'])
    name = device.pop('name')
    settings = ''.join(f', {key.replace("_", " ")} {value}' for key, value in device.items())
    return (
        f'Latency: median of {min(runs)} synchronised runs after warm-up, all rows of a table in turns within one run '
        f'of this tool; the model time includes post-processing. Device: {name}{settings}.'
    )


def _untrained(tables: Iterable[dict[str, Any]]) -> bool:
    return any(row['kind'] == 'untrained' for table in tables for row in table['rows'])


def _get(row: dict[str, Any], *names: str) -> Any:
    value: Any = row
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _giga(value: float | None) -> str:
    return BLANK if value is None else three_digits(value / 1e9)


def _number(value: float | None, spec: str, factor: float = 1.0) -> str:
    if value is None:
        return BLANK
    text = format(value * factor, spec)
    return text.replace('-', '+') if float(text) == 0 else text  # no "-0.0"
