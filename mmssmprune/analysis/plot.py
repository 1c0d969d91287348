"""Accuracy against FLOPs: what a token costs and what it is worth."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .table import format_keep_ratio

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#8C6D31')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def plot_report(report: dict[str, Any]) -> bytes:
    """The picture that `draw_report` draws, as PNG bytes."""
    buffer = BytesIO()
    draw_report(report).savefig(buffer, format='png')
    return buffer.getvalue()


def draw_report(report: dict[str, Any]) -> Figure:
    """One panel per metric: accuracy (percent) over backbone FLOPs (G), a line per pruned model.

    Dense models are stars with a dashed level line; an untrained model's level is told in the legend.
    """
    panels = [(table, metric) for table in report['tables'] for metric in table['metrics']]
    names = max(len({row['model'] for row in table['rows']}) for table in report['tables'])
    figure = Figure(figsize=(5.4 * len(panels), 4.0 + 0.24 * names), layout='constrained', dpi=150)
    FigureCanvasAgg(figure)
    for axes, (table, metric) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, table, metric)
    return figure


def _draw_panel(axes: Axes, table: dict[str, Any], metric: str) -> None:
    axes.set_ylim(*_visible_range([row['accuracy'][metric] for row in table['rows'] if row['kind'] != 'untrained']))
    for i, name in enumerate(dict.fromkeys(row['model'] for row in table['rows'])):
        rows = [row for row in table['rows'] if row['model'] == name]
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        _DRAW[rows[0]['kind']](axes, rows, metric, name, colour, marker)
    height, width = table['shape']
    axes.set_title(table['title'], fontsize=10)
    axes.set_xlabel(f'backbone FLOPs (G) at {height} x {width}')
    axes.set_ylabel(f'{metric} (%)')
    axes.grid(alpha=0.25)
    axes.margins(x=0.1)
    # Below the axes: names are long, and a legend inside would cover points.
    legend = {'loc': 'upper left', 'bbox_to_anchor': (0, -0.15), 'borderaxespad': 0}
    axes.legend(**legend, fontsize=7.5, frameon=False, markerscale=0.7)


def _visible_range(values: list[float]) -> tuple[float, float]:
    """Limits around the trained models; at least 5 points apart, so that noise does not look like a trend."""
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), (5 - (high - low)) / 2, 0.5)
    top = high + margin
    return max(low - margin, -0.05 * top), top  # no accuracy is negative


def _draw_dense(axes: Axes, rows: list[dict], metric: str, name: str, colour: str, marker: str) -> None:
    x, y = _points(rows, metric)
    axes.axhline(y[0], color=colour, linestyle='--', linewidth=1, alpha=0.6)
    axes.plot(x, y, '*', color=colour, markersize=14, label=f'{name} (dense)', zorder=3)


def _draw_pruned(axes: Axes, rows: list[dict], metric: str, name: str, colour: str, marker: str) -> None:
    rows = sorted(rows, key=lambda row: row['flops']['backbone'])
    x, y = _points(rows, metric)
    axes.plot(x, y, '-', marker=marker, color=colour, markersize=5, linewidth=1.5, label=name)
    for row, *point in zip(rows, x, y, strict=True):
        text = format_keep_ratio(row['keep_ratio'])
        axes.annotate(text, point, xytext=(4, -11), textcoords='offset points', fontsize=7, color=colour)


def _draw_untrained(axes: Axes, rows: list[dict], metric: str, name: str, colour: str, marker: str) -> None:
    # Chance is far below; stretching the axis down to it would hide what pruning costs.
    limits, value = axes.get_ylim(), rows[0]['accuracy'][metric]
    axes.axhline(value, color='0.45', linestyle=':', linewidth=1.5, label=f'{name}: {value:.1f}')
    axes.set_ylim(*limits)


_DRAW = {'dense': _draw_dense, 'pruned': _draw_pruned, 'untrained': _draw_untrained}


def _points(rows: list[dict], metric: str) -> tuple[list[float], list[float]]:
    return [row['flops']['backbone'] / 1e9 for row in rows], [row['accuracy'][metric] for row in rows]
