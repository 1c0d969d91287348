"""Figures of the report: accuracy over saved FLOPs, and dots with error bars for an ablation."""

from __future__ import annotations

import math
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .tables import Mean, Table

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_PHASE_COLOUR = {'free': _COLOURS[1], 'tuned': _COLOURS[0]}
_PHASE_TITLES = {'free': 'without fine-tuning', 'tuned': 'fine-tuned'}


def draw(tables: list[Table]) -> bytes | None:
    """The figure of a study's tables as PNG bytes; None while nothing of it can be compared."""
    tables = [table for table in tables if table.phases]
    if not tables:
        return None
    figure = (_dots if tables[0].study.figure == 'dots' else _curves)(tables)
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


def _dots(tables: list[Table]) -> Figure:
    """A row per table, a column per phase that any of them has: each panel has its own range of accuracy."""
    study = tables[0].study
    phases = [phase for phase in study.phases if any(phase in table.phases for table in tables)]
    figure = _make_figure(2.4 + 3.4 * len(phases), (0.95 + 0.3 * len(study.rows)) * len(tables))
    grid = figure.subplots(len(tables), len(phases), squeeze=False)
    for table, panels in zip(tables, grid, strict=True):
        for axes, phase in zip(panels, phases, strict=True):
            _draw_dots(axes, table, phase)
        for axes in panels[1:]:
            axes.set_yticklabels([])
    return figure


def _means(table: Table, phase: str) -> dict[str, Mean]:
    """Of the rows that were run, by label."""
    cells = ((label, table.cells.get((label, phase))) for label in table.study.rows)
    return {label: cell.mean for label, cell in cells if cell and cell.mean}


def _draw_dots(axes: Axes, table: Table, phase: str) -> None:
    labels, colour, means = list(table.study.rows), _PHASE_COLOUR[phase], _means(table, phase)
    if phase in table.phases:
        x, y = [mean.mean for mean in means.values()], [labels.index(label) for label in means]
        sd = [mean.sd or 0 for mean in means.values()]
        axes.errorbar(x, y, xerr=sd, fmt='o', color=colour, markersize=6, capsize=3, linewidth=1.2)
        axes.margins(x=0.08)
        axes.set_xlim(*_at_least(axes.get_xlim()))
        references = {row.against for row in table.study.compared.values()}
        if len(references) == 1 and (reference := means.get(*references)):  # lines for several would say nothing
            axes.axvline(reference.mean, color=colour, linestyle=':', linewidth=1, alpha=0.7)
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.5, 'not run', transform=axes.transAxes, ha='center', va='center', color='0.45')
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_title(f'{table.setting.title}: {_PHASE_TITLES[phase]}', fontsize=9)
    axes.set_xlabel(f'{table.metric} (%)', fontsize=9)
    axes.tick_params(axis='x', labelsize=9)
    axes.grid(axis='x', alpha=0.25)


def _curves(tables: list[Table]) -> Figure:
    """A panel per table: accuracy over saved FLOPs, a curve per phase and group of rows."""
    columns = min(2, len(tables))
    rows = math.ceil(len(tables) / columns)
    figure = _make_figure(4.6 * columns if columns > 1 else 6.2, 3.3 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tables) :]:
        axes.remove()
    for axes, table in zip(grid.flat, tables, strict=False):
        _draw_curves(axes, table)
    figure.legend(handles=_handles(tables), loc='outside lower center', ncols=4, fontsize=9, frameon=False)
    return figure


def _handles(tables: list[Table]) -> list[Line2D]:
    """A legend: the colours of the groups, then the looks of the phases, as far as anything of them was run."""
    groups, phases = _groups(tables[0]), tables[0].study.phases
    run = [(phase, group) for phase in phases for group in groups if any(_points(t, phase, group) for t in tables)]
    handles = []
    if len(groups) > 1:
        seen = [group for group in groups if group in {of for _, of in run}]
        handles += [Line2D([], [], color=_colour(groups, '', group), label=group) for group in seen]
    if len(phases) > 1:
        for phase in dict.fromkeys(phase for phase, _ in run):
            colour = '0.3' if len(groups) > 1 else _colour(groups, phase, '')
            handles.append(Line2D([], [], color=colour, label=_PHASE_TITLES[phase], **_look(phase, colour)))
    return handles


def _groups(table: Table) -> list[str]:
    return list(dict.fromkeys(row.group for row in table.study.rows.values()))


def _colour(groups: list[str], phase: str, group: str) -> str:
    return _COLOURS[groups.index(group)] if len(groups) > 1 else _PHASE_COLOUR[phase]


def _look(phase: str, colour: str) -> dict[str, object]:
    """Hollow and dashed without fine-tuning, filled after it."""
    hollow = phase == 'free'
    face = 'white' if hollow else colour
    return dict(marker='o', markersize=5, markerfacecolor=face, linestyle='--' if hollow else '-', linewidth=1.4)


def _draw_curves(axes: Axes, table: Table) -> None:
    groups = _groups(table)
    curves = [(phase, group) for phase in table.study.phases for group in groups]
    for number, (phase, group) in enumerate(curves):
        points = _points(table, phase, group)
        if not points:
            continue
        saved, means, deviations = zip(*points, strict=True)
        colour = _colour(groups, phase, group)
        # A little apart, so that error bars do not cover each other.
        apart = min(0.5, 1 / len(curves)) * (number - (len(curves) - 1) / 2)
        axes.errorbar(
            [x + apart for x in saved], means, yerr=deviations, color=colour, capsize=3, **_look(phase, colour)
        )
    axes.set_title(table.setting.title, fontsize=9)
    axes.set_xlabel('backbone FLOPs saved (%) at {} x {}'.format(*table.setting.shape), fontsize=9)
    axes.set_ylabel(f'{table.metric} (%)', fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    axes.set_ylim(*_at_least(axes.get_ylim()))


def _points(table: Table, phase: str, group: str) -> list[tuple[float, float, float]]:
    """FLOPs saved, mean and standard deviation of each row of a group that was run, in the order of the first."""
    points = [
        (100 * table.costs[label][1], mean.mean, mean.sd or 0)
        for label, mean in _means(table, phase).items()
        if table.study.rows[label].group == group
    ]
    return sorted(points, key=lambda point: point[0])
