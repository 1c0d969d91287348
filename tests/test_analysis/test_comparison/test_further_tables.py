"""AP by overlap and size, IoU of every class, percentiles, batches, forms, and references that cannot be pruned."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from reports import METRICS, cost, latency, make_report, make_rows, measured, row
from rich.console import Console

from mmssmprune.analysis.comparison.derive import derive, join_seeds
from mmssmprune.analysis.comparison.formats import classes_csv, to_csv, to_html, to_latex, to_markdown, to_rich
from mmssmprune.analysis.comparison.measure import _with_classes
from mmssmprune.analysis.comparison.plot import draw_table
from mmssmprune.analysis.comparison.report import ComparisonReport, ReportRow
from mmssmprune.analysis.comparison.tables import Footnotes, ap_frames, percentiles

SCORES = {'mAP': 0.4, 'mAP_50': 0.61, 'mAP_75': 0.45, 'mAP_s': 0.2, 'mAP_m': 0.44, 'mAP_l': -1.0}


def tables(report: ComparisonReport) -> dict[str, list[dict[str, str]]]:
    """Title -> rows of each table of the Markdown file."""
    found = {}
    for part in to_markdown(report).split('### ')[1:]:
        title, *lines = part.splitlines()
        rows = (re.split(r'(?<!\\)\|', line.strip('|')) for line in lines if line.startswith('|'))
        cells = [[cell.strip() for cell in row] for row in rows]
        found[title] = [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
    return found


def with_ours(shown: ReportRow, **change: Any) -> ReportRow:
    return replace(shown, ours=replace(shown.ours, **change))


# AP by overlap and size -----------------------------------------------------------------------------------------------


def test_average_precision_by_overlap_and_size():
    rows = make_rows()
    rows[0] = with_ours(rows[0], raw={f'coco/bbox_{name}': score for name, score in SCORES.items()})
    report = make_report(rows)
    shown = tables(report)['Detection and instance segmentation: AP by overlap and size of the objects']
    assert len(shown) == len(rows)
    assert list(shown[0].values())[1:] == ['1.0', '40.0', '61.0', '45.0', '20.0', '44.0', '-']  # no large object
    assert list(shown[1].values())[1:] == ['0.7', '38.5', *['-'] * 5]  # of which nothing but the AP is known
    assert not any('segm' in title for title in shown[0])
    dense, pruned, *_ = csv.DictReader(StringIO(to_csv(report)))
    assert (float(dense['bbox AP small']), dense['bbox AP large'], pruned['bbox AP50']) == (20.0, '', '')
    for write in (to_latex, lambda report: to_html(report, {})):
        assert 'AP medium' in write(report)


def test_average_precisions_of_seeds_have_mean_and_spread():
    runs = [
        with_ours(
            replace(make_rows()[0], seed=seed, checkpoint_hash=str(seed)),
            raw={'coco/segm_mAP': 0.3, 'coco/segm_mAP_s': score},
        )
        for seed, score in enumerate((0.1, 0.2))
    ]
    values, texts = ap_frames(make_report(join_seeds(runs)).tables[0])
    assert values['segm AP small'][0] == pytest.approx(15.0) and texts['segm AP small'][0] == '15.0 ± 7.1'


@pytest.mark.parametrize('raw', [{}, {'coco/bbox_mAP': 0.4}, {'coco/bbox_mAP_s': 'x'}, {'bbox_mAP_s_other': 0.1}])
def test_no_table_where_no_evaluator_says_it(raw: dict[str, Any]):
    assert list(tables(make_report([with_ours(make_rows()[0], raw=raw)]))) == ['Detection and instance segmentation']


# Classes --------------------------------------------------------------------------------------------------------------


def report_with_classes() -> ComparisonReport:
    rows = make_rows()
    rows[0] = with_ours(rows[0], per_class={'road': 90.0, 'a|b': 50.0, 'bird': float('nan')})
    rows[1] = with_ours(rows[1], per_class={'road': 88.5, 'a|b': 50.04, 'bird': float('nan')})
    return replace(make_report(rows), per_class=True)


def test_iou_of_every_class_and_its_difference():
    report = report_with_classes()
    shown = tables(report)
    (title,) = [title for title in shown if 'IoU of every class' in title]
    # an escaped bar is no end of a cell
    assert '| a\\|b | 50.0 | 50.0 (+0.0) |' in to_markdown(report)
    road, bird = (line for line in shown[title] if line['class'] in ('road', 'bird'))
    assert list(road.values()) == ['road', '90.0', '88.5 (-1.5)'] and list(bird.values()) == ['bird', 'NaN', 'NaN']
    road, *_ = csv.DictReader(StringIO(classes_csv(report)))
    dense, pruned = (f'{shown.label()}' for shown in report.tables[0].rows[:2])
    assert (road['class'], float(road[dense]), float(road[f'Δ {pruned}'])) == ('road', 90.0, -1.5)


def test_classes_are_shown_where_asked_for():
    report = replace(report_with_classes(), per_class=False)
    assert 'IoU of every class' not in to_markdown(report) and classes_csv(report) == ''


EVALUATORS = {
    'of mmseg': ('mmseg', {'type': 'IoUMetric', 'prefix': 'val'}, True),
    'by its scope': (
        'mmpretrain',
        [{'type': 'Other'}, {'type': 'mmseg.IoUMetric', 'iou_metrics': ['mIoU', 'mDice']}],
        True,
    ),
    'of another scope': ('mmdet', {'type': 'IoUMetric'}, False),
    "of one's own": ('mmseg', {'type': 'MyIoUMetric'}, False),
    'without IoU': ('mmseg', {'type': 'IoUMetric', 'iou_metrics': ['mDice']}, False),
    'writing files': ('mmseg', {'type': 'IoUMetric', 'format_only': True, 'output_dir': 'x'}, False),
}


@pytest.mark.parametrize(('scope', 'evaluator', 'replaced'), EVALUATORS.values(), ids=EVALUATORS.keys())
def test_which_evaluators_give_classes(scope: str, evaluator: Any, replaced: bool):
    cfg = Config({'default_scope': scope, 'test_evaluator': evaluator})
    found = _with_classes(cfg)
    assert (found is not cfg) == replaced
    if replaced:
        before = evaluator if isinstance(evaluator, list) else [evaluator]
        after = [part.to_dict() for part in found.test_evaluator]
        assert [part.pop('type') for part in after][-1] == 'mmseg.PerClassIoUMetric'
        assert after == [{key: value for key, value in part.items() if key != 'type'} for part in before]


# Latency --------------------------------------------------------------------------------------------------------------


def timed(runs: list[float]) -> dict[str, Any]:
    return {'median_ms': float(np.median(runs)), 'runs_ms': runs}


def test_percentiles_between_runs():
    time = timed([1.0, 2.0, 3.0, 4.0, 11.0])
    assert percentiles(time) == pytest.approx((1.2, 9.6))
    assert percentiles(timed([7.0])) == (7.0, 7.0)
    rows = [replace(make_rows()[0], latency={**latency(3.0), 'model': time})]
    report = make_report(rows)
    (shown,) = tables(report)['Detection and instance segmentation']
    assert (shown['model (ms)'], shown['backbone (ms)']) == ('3.0 (1.2-9.6)', '1.5 (1.5-1.5)')
    (line,) = csv.DictReader(StringIO(to_csv(report)))
    assert [float(line[f'model{name} (ms)']) for name in ('', ' p5', ' p95')] == pytest.approx([3.0, 1.2, 9.6])
    console = Console(width=200, record=True, file=StringIO())
    console.print(to_rich(report.tables[0], Footnotes(report)))
    assert '1.2-9.6' not in console.export_text()  # a terminal is narrow


def test_batches_and_forms_have_columns_of_their_own():
    rows = make_rows()[:3]
    more = {'batches': {'16': None, '4': timed([50.0, 40.0, 60.0])}, 'forms': {'compile': dict(latency(8.0))}}
    more['forms']['compile'].pop('device')
    rows[1] = replace(rows[1], latency=rows[1].latency | more)
    text = to_markdown(make_report(rows))
    dense, pruned, _ = tables(make_report(rows))['Detection and instance segmentation']
    assert list(pruned)[9:14] == [
        'model (ms)',
        'backbone, compile (ms)',
        'model, compile (ms)',
        'images/s at batch 4',
        'images/s at batch 16',
    ]
    assert (pruned['images/s at batch 4'], pruned['images/s at batch 16'], dense['images/s at batch 4']) == (
        '80.0',
        '-',
        '-',
    )
    assert (pruned['model, compile (ms)'], dense['model, compile (ms)']) == ('8.0 (8.0-8.0)', '-')
    assert 'Form compile: of the backbone alone' in text and 'the memory did not suffice' in text
    assert 'images/s' not in to_markdown(make_report())


# References -----------------------------------------------------------------------------------------------------------


def reference(name: str = 'swin', **more: Any) -> ReportRow:
    known = {'family': 'SwinTransformer', 'dense_model_hash': name, 'cost': {**cost(3.5, 1.0), 'tokens': None}}
    return row(name, 'reference', 1.0, measured(41.0, 37.0), **known | more)


def test_a_reference_is_compared_with_and_is_no_baseline():
    rows = [*make_rows()[:2], reference()]
    dense, pruned, swin = derive(rows, METRICS)
    assert pruned.dense == dense.model and swin.dense is None and swin.accuracy_difference == {}
    # better than the dense model and cheaper, so it is on the front and the dense model is not
    assert swin.pareto['bbox mAP'] == ('FLOPs',) and dense.pareto['bbox mAP'] == ('latency',)
    assert derive([rows[1], reference()], METRICS)[0].dense is None
    shown = tables(make_report(rows))['Detection and instance segmentation'][2]
    assert (shown['method'], shown['tokens kept (%)'], shown['Δ FLOPs (%)']) == ('SwinTransformer, reference', '-', '-')
    assert 'a reference is another backbone' in to_markdown(make_report(rows))


def test_a_reference_is_a_point_without_line():
    rows = [*make_rows()[:2], reference(), reference('larger', cost={**cost(9.0, 1.0), 'tokens': None})]
    axes = draw_table(make_report(rows).tables[0], 'FLOPs').axes[0]
    points = [line for line in axes.lines if 'reference' in str(line.get_label())]
    assert [line.get_marker() for line in points] == ['p', 'p']
    assert len([line for line in axes.lines if line.get_linestyle() == '--']) == 1  # the dense model's level
