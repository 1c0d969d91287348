"""Figures of the report: accuracy over saved FLOPs, and dots with error bars for an ablation."""

from __future__ import annotations

import math
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .plan import Line, Study
from .records import Book, MetricOfSetting

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_PHASE_COLOUR = {'free': _COLOURS[1], 'tuned': _COLOURS[0]}
_PHASE_TITLES = {'free': 'without fine-tuning', 'tuned': 'fine-tuned'}


def draw(study: Study, metrics: list[MetricOfSetting], book: Book) -> bytes | None:
    """The study's figure as PNG bytes; None while nothing of it was run."""
    metrics = [metric for metric in metrics if book.has(study, metric.setting)]
    if not metrics:
        return None
    figure = (_dots if study.figure == 'dots' else _curves)(study, metrics, book)
    buffer = BytesIO()
    figure.savefig(buffer, format='png', metadata={'Software': None})  # the same data, the same bytes
    return buffer.getvalue()


def _make_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout='constrained', dpi=130)
    FigureCanvasAgg(figure)
    return figure


def _at_least(limits: tuple[float, float], width: float = 4.0) -> tuple[float, float]:
    """Limits that are ``width`` points apart, so that noise does not look like a trend."""
    low, high = limits
    missing = max(width - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def _dots(study: Study, metrics: list[MetricOfSetting], book: Book) -> Figure:
    """A row per setting and metric, a column per phase: each phase has its own range of accuracy."""
    phases = study.phases
    figure = _make_figure(4.6 * len(phases), (0.95 + 0.3 * len(study.lines)) * len(metrics))
    grid = figure.subplots(len(metrics), len(phases), squeeze=False)
    for metric, row in zip(metrics, grid, strict=True):
        for axes, phase in zip(row, phases, strict=True):
            _draw_dots(axes, study, metric, phase, book)
        for axes in row[1:]:
            axes.set_yticklabels([])
    return figure


def _draw_dots(axes: Axes, study: Study, metric: MetricOfSetting, phase: str, book: Book) -> None:
    lines, colour = study.lines, _PHASE_COLOUR[phase]
    means = [(y, book.mean(metric.setting, line, phase, metric.main)) for y, line in enumerate(lines)]
    points = [(y, mean) for y, mean in means if mean is not None]
    if points:
        x, sd = [mean.mean for _, mean in points], [mean.sd or 0 for _, mean in points]
        axes.errorbar(x, [y for y, _ in points], xerr=sd, fmt='o', color=colour, markersize=6, capsize=3, linewidth=1.2)
        axes.margins(x=0.08)
        axes.set_xlim(*_at_least(axes.get_xlim()))
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.5, 'not run', transform=axes.transAxes, ha='center', va='center', color='0.45')
    references = {line.against for line in lines}
    for y, mean in points:
        if lines[y].label in references:
            axes.axvline(mean.mean, color=colour, linestyle=':', linewidth=1, alpha=0.7)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_title(f'{metric.setting.title}: {_PHASE_TITLES[phase]}', fontsize=9)
    axes.set_xlabel(f'{metric.title} (%)', fontsize=9)
    axes.tick_params(axis='x', labelsize=9)
    axes.grid(axis='x', alpha=0.25)


def _curves(study: Study, metrics: list[MetricOfSetting], book: Book) -> Figure:
    """A panel per setting and metric: accuracy over saved FLOPs, a curve per phase and group of lines."""
    columns = min(2, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = _make_figure(4.6 * columns, 3.3 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(metrics) :]:
        axes.remove()
    for axes, metric in zip(grid.flat, metrics, strict=False):
        _draw_curves(axes, study, metric, book)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc='outside lower center', ncols=4, fontsize=9, frameon=False)
    return figure


def _draw_curves(axes: Axes, study: Study, metric: MetricOfSetting, book: Book) -> None:
    groups = list(dict.fromkeys(line.group for line in study.lines))
    curves = [(phase, i) for phase in study.phases for i in range(len(groups))]
    for number, (phase, i) in enumerate(curves):
        label = ', '.join(filter(None, [groups[i], _PHASE_TITLES[phase] if len(study.phases) > 1 else '']))
        lines = [line for line in study.lines if line.group == groups[i]]
        colour = _COLOURS[i] if len(groups) > 1 else _PHASE_COLOUR[phase]
        # A little apart, so that error bars do not cover each other.
        _draw_curve(axes, lines, phase, metric, book, colour, label, shift=0.5 * (number - (len(curves) - 1) / 2))
    axes.set_title(metric.setting.title, fontsize=9)
    axes.set_xlabel(f'backbone FLOPs saved (%) at {metric.setting.shape[0]} x {metric.setting.shape[1]}', fontsize=9)
    axes.set_ylabel(f'{metric.title} (%)', fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    axes.set_ylim(*_at_least(axes.get_ylim()))


def _draw_curve(
    axes: Axes,
    lines: list[Line],
    phase: str,
    metric: MetricOfSetting,
    book: Book,
    colour: str,
    label: str,
    shift: float,
) -> None:
    points = []
    for line in lines:
        mean, cost = book.mean(metric.setting, line, phase, metric.main), book.cost(metric.setting, line)
        if mean is not None and cost is not None:
            points.append((100 * cost[1] + shift, mean))
    if not points:
        return
    points.sort(key=lambda point: point[0])
    axes.errorbar(
        [x for x, _ in points],
        [mean.mean for _, mean in points],
        yerr=[mean.sd or 0 for _, mean in points],
        fmt='o--' if phase == 'free' else 'o-',
        color=colour,
        markerfacecolor='white' if phase == 'free' else colour,
        markersize=5,
        capsize=3,
        linewidth=1.4,
        label=label,
    )
