from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from reports import RECIPE, cost, latency, make_report, make_rows, measured, row

from mmssmprune.analysis.comparison.plot import draw_table, plot_report
from mmssmprune.analysis.comparison.report import ComparisonReport


def panels(report: ComparisonReport, axis: str = 'FLOPs') -> list[Axes]:
    return draw_table(report.tables[0], axis).axes


def crowded() -> ComparisonReport:
    """Three methods with their points at the same costs, close to each other."""
    rows = make_rows()[:1]
    for i, reduction in enumerate(('prune', 'merge', 'evit')):
        for j, ratio in enumerate((0.3985, 0.5313, 0.6641)):
            shown = cost(2.0 + j / 10, 0.5, RECIPE | {'reduction': reduction})
            rows.append(
                row(
                    f'{reduction}-{j}',
                    'pruned',
                    ratio,
                    measured(30 + i / 4 + j, 29 - i / 4),
                    cost=shown,
                    latency=latency(10 + j),
                )
            )
    return make_report(rows)


def test_png_files_are_images_with_something_on_them():
    pictures = plot_report(make_report())
    assert list(pictures) == ['detection-flops.png', 'detection-latency.png']
    for _, png in pictures.values():
        pixels = np.asarray(Image.open(BytesIO(png)).convert('RGB'))
        assert pixels.shape[1] > pixels.shape[0] > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_no_picture_without_points():
    rows = [replace(row, latency=None) for row in make_rows()]
    assert list(plot_report(make_report(rows))) == ['detection-flops.png']
    assert plot_report(make_report(rows[3:])) == {}


def test_two_tables_of_one_task_have_their_own_pictures():
    report = make_report()
    both = replace(report, tables=report.tables * 2)
    assert list(plot_report(both)) == [f'detection-{i}-{axis}.png' for i in (1, 2) for axis in ('flops', 'latency')]


@pytest.mark.parametrize(('axis', 'costs', 'dense'), [('FLOPs', [2.2, 2.9], 4.123), ('latency', [12.0, 15.0], 20.0)])
def test_lines_and_points_are_the_reports(axis: str, costs: list[float], dense: float):
    bbox, segm = panels(make_report(), axis)
    pruned = next(line for line in bbox.lines if line.get_label() == 'PlainMamba-L1, prune')
    assert pruned.get_xdata() == pytest.approx(costs)
    assert list(pruned.get_ydata()) == [30.0, 38.49]
    star = next(line for line in segm.lines if line.get_label() == 'PlainMamba-L1, dense')
    assert star.get_marker() == '*'
    assert (star.get_xdata(), star.get_ydata()) == (pytest.approx([dense]), pytest.approx([36.0]))
    dashed = next(line for line in segm.lines if line.get_linestyle() == '--')
    assert set(dashed.get_ydata()) == {36.0}
    assert any(line.get_label() == 'PlainMamba-L1, untrained: 0.3' for line in bbox.lines)
    front = next(line for line in bbox.lines if line.get_label() == 'Pareto front')
    assert list(front.get_ydata()) == [30.0, 38.49, 40.04]


def test_published_numbers_and_rows_not_run_are_in_no_picture():
    for axes in panels(make_report()):
        assert not any('L2' in line.get_label() for line in axes.lines)
        shown = [y for line in axes.lines for y in line.get_ydata()]
        assert not {44.1, 39.1} & set(shown)


def test_pareto_points_have_a_rim():
    bbox, _ = panels(crowded())
    rims = [line for line in bbox.lines if line.get_markerfacecolor() == 'none']
    assert sorted(float(line.get_ydata()[0]) for line in rims) == [30.5, 31.5, 32.5, 40.04]


@pytest.mark.parametrize('make', [make_report, crowded])
@pytest.mark.parametrize('axis', ['FLOPs', 'latency'])
def test_nothing_overlaps_or_is_cut_off(make, axis: str):
    figure = draw_table(make().tables[0], axis)
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        label = axes.xaxis.label.get_window_extent()
        assert not legend.overlaps(axes.bbox)
        assert not legend.overlaps(label)
        for box in (legend, label, axes.yaxis.label.get_window_extent(), axes.title.get_window_extent()):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        shown = [text.get_window_extent() for text in axes.texts if text.get_visible()]
        assert len(shown) >= 2
        assert not any(a.overlaps(b) for i, a in enumerate(shown) for b in shown[:i])
        assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in shown)
    left, right = (axes.get_tightbbox() for axes in figure.axes)
    assert not left.overlaps(right)


def test_limits_follow_the_trained_models():
    for axes in panels(make_report()):
        low, high = axes.get_ylim()
        assert 20 < low < 30 and high > 36


def test_axis_does_not_go_below_zero():
    rows = [replace(row, ours=measured(0.0, 0.1)) for row in make_rows()[:3]]
    low, high = panels(make_report(rows))[0].get_ylim()
    assert -0.2 < low < 0 and high > 2
