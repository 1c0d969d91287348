"""Accuracy against FLOPs and against latency: what a token costs and what it is worth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from mmssmprune.analysis.escape import one_line

from .derive import AXES, SAME_COST, Method, group_devices, group_methods, latency_devices, pareto_front
from .report import ComparisonReport, ReportRow, ReportTable, format_keep_ratio

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#8C6D31')
_LONGEST = 200  # characters of a label
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
_SCALE = {'FLOPs': 1e-9, 'latency': 1.0}
_TITLES = {'FLOPs': 'backbone FLOPs (G)', 'latency': 'latency of the model (ms)'}
# Where a point's keep ratio may stand, in points from it; the first place that is free is taken.
_PLACES = ((5, -12), (5, 6), (-26, -12), (-26, 6), (-8, 10), (-8, -18))


def plot_report(report: ComparisonReport) -> dict[str, tuple[str, bytes]]:
    """All pictures of a report: file name -> what it shows, and its PNG bytes.

    There is one per table and axis; one for latency only where rows have it. Rows that were not run, and published
    numbers, are in none.
    """
    tasks = Counter(table.task for table in report.tables)
    seen: Counter[str] = Counter()
    pictures = {}
    for table in report.tables:
        seen[table.task] += 1
        name = re.sub(r'[^\w-]+', '-', table.task)  # a task from elsewhere names no file outside the folder
        name += f'-{seen[table.task]}' if tasks[table.task] > 1 else ''
        for axis in AXES:
            if any(_is_shown(row, axis) for row in table.rows):
                png = BytesIO()
                draw_table(table, axis).savefig(png, format='png')
                pictures[f'{name}-{axis.lower()}.png'] = f'{table.title}: accuracy against {axis}', png.getvalue()
    return pictures


def draw_table(table: ReportTable, axis: str) -> Figure:
    """One panel per metric: accuracy (percent) over backbone FLOPs (G) or model latency (ms), a line per method.

    Dense models are stars with a dashed level line, references pentagons, bars the standard deviation over seeds; the
    Pareto front is the grey band, its points have a dark rim; an
    untrained model's level is told in the legend.
    """
    methods = []
    for method in group_methods(table.rows):
        # From the most pruned one on; a method none of whose rows has a point is left out.
        rows = sorted((row for row in method.rows if _is_shown(row, axis)), key=AXES['FLOPs'])
        if rows or method.kind == 'untrained':
            methods.append(replace(method, rows=tuple(rows) or method.rows))
    size = max(6.4, 5.4 * len(table.metrics)), 4.2 + 0.24 * (len(methods) + 2)
    figure = Figure(figsize=size, layout='constrained', dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(table.metrics), squeeze=False)[0]
    labels = [
        _draw_panel(axes, table, methods, metric, axis) for axes, metric in zip(panels, table.metrics, strict=True)
    ]
    figure.draw_without_rendering()  # only now it is known how much room the labels take
    for axes, texts in zip(panels, labels, strict=True):
        _place_labels(axes, texts)
    return figure


def _is_shown(row: ReportRow, axis: str) -> bool:
    return row.kind != 'untrained' and bool(row.measured) and AXES[axis](row) is not None


def _draw_panel(axes: Axes, table: ReportTable, methods: Sequence[Method], metric: str, axis: str) -> list[Annotation]:
    """Draw the lines and give the labels of their points, which have no place yet."""
    methods = [replace(m, rows=tuple(row for row in m.rows if metric in row.measured)) for m in methods]
    trained = [row for method in methods if method.kind != 'untrained' for row in method.rows]
    points = {id(row): (AXES[axis](row) * _SCALE[axis], row.measured[metric]) for row in trained}
    if trained:
        ends = [row.measured[metric] + sign * row.spread.get(metric, 0) for row in trained for sign in (-1, 1)]
        axes.set_ylim(*_visible_range(ends))
    front = pareto_front(list(points.values()), SAME_COST)
    style = dict(color='0.85', linewidth=7, solid_capstyle='round', label='Pareto front', zorder=1)
    axes.plot([x for x, _ in front], [y for _, y in front], **style)
    labels = []
    for i, method in enumerate(methods):
        colour, marker, label = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _legend_text(method.label)
        if method.kind == 'untrained' and method.rows:
            # Chance is far below; stretching the axis down to it would hide what pruning costs.
            limits, level = axes.get_ylim(), method.rows[0].measured[metric]
            axes.axhline(level, color='0.45', linestyle=':', linewidth=1.5, label=f'{label}: {level:.1f}')
            axes.set_ylim(*limits)
        if method.kind == 'untrained' or not method.rows:
            continue
        own = [points[id(row)] for row in method.rows]
        x, y = zip(*own, strict=True)
        for row, at in zip(method.rows, own, strict=True):
            if spread := row.spread.get(metric):
                axes.errorbar(*at, yerr=spread, color=colour, linewidth=1, capsize=2, zorder=2)
        if method.kind == 'dense':
            marker, size = '*', 14
            axes.axhline(y[0], color=colour, linestyle='--', linewidth=1, alpha=0.6, zorder=1)
            axes.plot(x, y, marker, color=colour, markersize=size, label=label, zorder=4)
        elif method.kind == 'reference':
            marker, size = 'p', 10
            axes.plot(x, y, marker, color=colour, markersize=size, label=label, zorder=4)
        else:
            size, near = 6, dict(xytext=_PLACES[0], textcoords='offset points', fontsize=7, color=colour, zorder=6)
            axes.plot(x, y, '-', marker=marker, color=colour, markersize=size, linewidth=1.5, label=label, zorder=3)
            labels += [axes.annotate(_ratio(row), at, **near) for row, at in zip(method.rows, own, strict=True)]
        for row, at in zip(method.rows, own, strict=True):
            if axis in row.pareto.get(metric, ()):
                axes.plot(*at, marker, markersize=size, markerfacecolor='none', markeredgecolor='0.1', zorder=5)
    devices = group_devices(latency_devices(table.rows)) if axis == 'latency' else []
    axes.set_title(
        '\n'.join(one_line(line)[:_LONGEST] for line in [table.title, *devices]), fontsize=10, parse_math=False
    )
    axes.set_xlabel(f'{_TITLES[axis]} at {table.shape[0]} x {table.shape[1]}')
    axes.set_ylabel(f'{one_line(metric)} (%), ours', parse_math=False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.12)
    # Below the axes: labels are long, and a legend inside would cover points.
    legend = dict(loc='upper left', bbox_to_anchor=(0, -0.15), borderaxespad=0, alignment='left', fontsize=8)
    said = ['number: keep ratio'] if labels else []
    said += ['bar: standard deviation over seeds'] if any(row.spread for row in trained) else []
    title = '; '.join([*said, 'dark rim: on the Pareto front'])
    shown = axes.legend(**legend, title=title, title_fontsize=8, frameon=False, markerscale=0.7)
    for text in shown.get_texts():
        text.set_parse_math(False)
    return labels


def _legend_text(label: str) -> str:
    """Short enough for the page; matplotlib leaves out of its legend what begins with an underscore."""
    text = one_line(label)
    text = text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'
    return f' {text}' if text.startswith('_') else text


def _visible_range(values: Sequence[float]) -> tuple[float, float]:
    """Limits around the trained models; at least 5 points apart, so that noise does not look like a trend."""
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), (5 - (high - low)) / 2, 0.5)
    top = high + margin
    return max(low - margin, -0.05 * top), top  # no accuracy is negative


def _ratio(row: ReportRow) -> str:
    """The keep ratio at a point, short."""
    ratio = row.keep_ratio
    return f'{ratio:.2g}' if isinstance(ratio, (int, float)) and ratio != 1 else format_keep_ratio(ratio)


def _place_labels(axes: Axes, labels: Sequence[Annotation]) -> None:
    """Move each label to the first place where it covers no point, label or line; hide it where none is free.

    Where lines run everywhere, a place on a line will do.
    """
    points = [point for line in axes.lines if line.get_marker() != 'None' for point in _in_pixels(line).vertices]
    lines = [_in_pixels(line) for line in axes.lines if line.get_linestyle() == '-']
    taken: list[Bbox] = []
    for label in labels:
        own = axes.transData.transform(label.xy)
        others = [point for point in points if max(abs(point - own)) > 1]
        free = [place for place in _PLACES if _is_free(_box_at(label, place), axes.bbox, others, taken)]
        clear = [place for place in free if not any(p.intersects_bbox(_box_at(label, place), False) for p in lines)]
        if not free:
            label.set_visible(False)
            continue
        taken.append(_box_at(label, (clear or free)[0]))


def _in_pixels(line: Line2D) -> Path:
    return line.get_transform().transform_path(line.get_path())


def _box_at(label: Annotation, place: tuple[int, int]) -> Bbox:
    label.xyann = place
    return label.get_window_extent()


def _is_free(box: Bbox, panel: Bbox, points: Sequence[Sequence[float]], taken: Sequence[Bbox]) -> bool:
    inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
    near = box.padded(8)  # half a marker, in pixels
    return inside and not any(near.contains(*p) for p in points) and not any(box.overlaps(b) for b in taken)
