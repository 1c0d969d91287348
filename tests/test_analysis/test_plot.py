from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from reports import make_report

from mmssmprune.analysis.plot import draw_report, plot_report


def test_png_is_an_image_with_something_on_it():
    pixels = np.asarray(Image.open(BytesIO(plot_report(make_report()))).convert('RGB'))
    assert pixels.shape[1] > pixels.shape[0] > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_lines_and_points_are_the_reports():
    bbox, segm = draw_report(make_report()).axes
    pruned = next(line for line in bbox.lines if line.get_label().startswith('pruned'))
    assert pruned.get_xdata().tolist() == [2.2, 2.9]
    assert pruned.get_ydata().tolist() == [30.0, 38.49]
    star = next(line for line in segm.lines if line.get_marker() == '*')
    assert (star.get_xdata().tolist(), star.get_ydata().tolist()) == ([4.123], [36.0])
    dashed = next(line for line in segm.lines if line.get_linestyle() == '--')
    assert set(dashed.get_ydata()) == {36.0}
    assert any(line.get_label().endswith('(untrained): 0.3') for line in bbox.lines)


def test_nothing_overlaps_or_is_cut_off():
    figure = draw_report(make_report())
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        label = axes.xaxis.label.get_window_extent()
        assert not legend.overlaps(axes.bbox)
        assert not legend.overlaps(label)
        for box in (legend, label, axes.yaxis.label.get_window_extent(), axes.title.get_window_extent()):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    left, right = (axes.get_tightbbox() for axes in figure.axes)
    assert not left.overlaps(right)


def test_limits_follow_the_trained_models():
    for axes in draw_report(make_report()).axes:
        low, high = axes.get_ylim()
        assert 20 < low < 30 and high > 36


def test_axis_does_not_go_below_zero():
    report = make_report()
    for row in report['tables'][0]['rows']:
        row['accuracy'] = {'bbox mAP': 0.0, 'segm mAP': 0.1}
    low, high = draw_report(report).axes[0].get_ylim()
    assert -0.2 < low < 0 and high > 2
