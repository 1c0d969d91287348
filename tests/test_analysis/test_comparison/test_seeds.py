"""Trainings that differ by their seeds alone become one row with mean and spread; the rows themselves are kept."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from reports import METRICS, RECIPE, SOFTWARE, cost, latency, make_report, measured, row

from mmssmprune.analysis.comparison.derive import derive, join_seeds, method_labels
from mmssmprune.analysis.comparison.formats import to_csv, to_latex, to_markdown
from mmssmprune.analysis.comparison.plot import draw_table
from mmssmprune.analysis.comparison.report import NotRun, ReportRow, read_report, to_json

DENSE, PRUNED = (40.0, 41.0, 43.5), (38.0, 38.5, 41.0)


def run(kind: str, seed: int | None, bbox: float, **more: Any) -> ReportRow:
    recipe = RECIPE if kind == 'pruned' else None
    shown = {'cost': cost(3.0 if recipe else 4.0, 0.7 if recipe else 1.0, recipe), 'seed': seed, 'iteration': 900}
    shown |= {'config': f'seed{seed}/{kind}.py', 'config_hash': kind, 'latency': latency(10.0 + (seed or 0))}
    return row(f'{kind} (seed{seed}/iter_900)', kind, 0.7 if recipe else 1.0, measured(bbox, 30.0), **shown | more)


def runs() -> list[ReportRow]:
    dense = [run('dense', seed, value) for seed, value in enumerate(DENSE)]
    return dense + [run('pruned', seed, value) for seed, value in enumerate(PRUNED)]


def test_mean_and_sample_standard_deviation():
    dense, pruned = derive(join_seeds(runs()), METRICS)
    assert (dense.model, pruned.model) == ('dense (3 seeds)', 'pruned (3 seeds)')
    for shown, values in ((dense, DENSE), (pruned, PRUNED)):
        assert shown.measured == {'bbox mAP': pytest.approx(fmean(values)), 'segm mAP': 30.0}
        assert shown.spread == {'bbox mAP': pytest.approx(stdev(values)), 'segm mAP': 0.0}
        assert shown.ours.raw['coco/bbox_mAP'] == pytest.approx(fmean(values) / 100)
        assert [single.seed for single in shown.runs] == [0, 1, 2]
    assert pruned.accuracy_difference['bbox mAP'] == pytest.approx(fmean(PRUNED) - fmean(DENSE))
    # seed by seed, -2, -2.5 and -2.5 points
    assert pruned.difference_spread == {'bbox mAP': pytest.approx(stdev((2.0, 2.5, 2.5))), 'segm mAP': 0.0}
    assert dense.difference_spread == {}
    assert pruned.latency['model'] == {'median_ms': 11.0, 'runs_ms': [10.0] * 7 + [11.0] * 7 + [12.0] * 7}
    assert pruned.latency['device'] == runs()[0].latency['device']


def test_a_difference_has_a_spread_where_the_seeds_are_the_same():
    dense, pruned = runs()[:3], runs()[3:]
    *_, shown = derive(join_seeds([*dense, *pruned[:2], replace(pruned[2], seed=7)]), METRICS)
    assert shown.spread and shown.accuracy_difference and shown.difference_spread == {}
    *_, shown = derive(join_seeds(dense[:1] + pruned), METRICS)
    assert shown.spread and shown.accuracy_difference and shown.difference_spread == {}


def test_the_row_stands_where_its_first_run_stood():
    dense, pruned = runs()[:3], runs()[3:]
    alone = row('other', 'dense', 1.0, measured(1.0, 1.0))
    mixed = [dense[0], pruned[0], alone, dense[1], pruned[1], dense[2], pruned[2]]
    assert [shown.model for shown in join_seeds(mixed)] == ['dense (3 seeds)', 'pruned (3 seeds)', 'other']


OTHERWISE = {
    'the same seed': {'seed': 0},
    'a seed that is not known': {'seed': None},
    'another iteration': {'iteration': 800},
    'another keep ratio': {'keep_ratio': 0.5},
    'another config': {'config_hash': 'other'},
    'another length of training': {'training': {'iterations': 10}},
    'another schedule': {'schedule_hash': 'other'},
    'other software': {'software': replace(SOFTWARE, source='def')},
    'not run': {'ours': NotRun('no checkpoint')},
}


@pytest.mark.parametrize('change', OTHERWISE.values(), ids=OTHERWISE.keys())
def test_what_differs_in_more_than_the_seed_stays_apart(change: dict[str, Any]):
    first, second = runs()[:2]
    assert len(join_seeds([first, second])) == 1
    rows = [first, replace(second, **change)]
    assert join_seeds(rows) == rows


def test_two_means_of_one_config_have_names_of_their_own():
    later = [
        replace(single, iteration=1800, model=f'{single.model} later', checkpoint_hash=f'{single.seed} later')
        for single in runs()[:3]
    ]
    names = [shown.model for shown in join_seeds(runs()[:3] + later)]
    assert len(set(names)) == 2 and all(name.startswith('dense (3 seeds) from dense (seed0') for name in names)


def test_several_ratios_of_the_same_checkpoints_keep_their_name():
    sparser = [replace(single, keep_ratio=0.5) for single in runs()[3:]]
    rows = join_seeds(runs() + sparser)
    assert [shown.model for shown in rows] == ['dense (3 seeds)', 'pruned (3 seeds)', 'pruned (3 seeds)']
    # and are one line in the plots
    assert {method_labels(rows)[id(shown)] for shown in rows[1:]} == {'PlainMamba-L1, prune'}


def test_a_run_without_a_number_leaves_no_mean():
    rows = runs()[:3]
    rows[1] = replace(rows[1], ours=measured(float('nan'), 30.0))
    (shown,) = join_seeds(rows)
    assert shown.undefined == ['bbox mAP'] and shown.spread == {'segm mAP': 0.0}
    assert '| NaN |' in to_markdown(make_report([shown]))


def test_what_is_no_number_has_no_mean():
    odd = [{'a': 10**400, 'b': 'x', 'c': True, 'd': 1, 'e': [1]}, {'a': 1, 'b': 'x', 'c': 1, 'd': 2}]
    rows = [replace(r, ours=replace(r.ours, raw=raw)) for r, raw in zip(runs()[:2], odd, strict=True)]
    assert join_seeds(rows)[0].ours.raw == {'d': 1.5}


def test_a_latency_that_one_run_lacks_is_left_out():
    rows = runs()[:3]
    timed = [{**single.latency, 'batches': {'8': single.latency['model']}} for single in rows]
    (shown,) = join_seeds([replace(single, latency=time) for single, time in zip(rows, timed, strict=True)])
    assert shown.latency['batches']['8']['median_ms'] == 11.0
    timed[1] = {**timed[1], 'batches': {'8': None}}
    (shown,) = join_seeds([replace(single, latency=time) for single, time in zip(rows, timed, strict=True)])
    assert shown.latency['batches'] == {'8': None} and shown.latency['model']['median_ms'] == 11.0
    assert join_seeds([replace(rows[0], latency=None), *rows[1:]])[0].latency is None


def test_single_rows_are_kept_and_the_mean_is_made_anew(tmp_path: Path):
    content = json.loads(to_json(make_report(join_seeds(runs()))))
    (dense, pruned) = content['tables'][0]['rows']
    assert [single['ours']['percent']['bbox mAP'] for single in pruned['runs']] == list(PRUNED)
    dense['ours']['percent']['bbox mAP'] = 99.0  # nothing but the runs is believed
    (tmp_path / 'compare.json').write_text(json.dumps(content))
    (table,) = read_report(str(tmp_path)).tables
    assert [(single.seed, single.measured['bbox mAP']) for single in table.rows[:3]] == list(enumerate(DENSE))
    again = join_seeds(table.rows)
    assert [shown.measured for shown in again] == [shown.measured for shown in join_seeds(runs())]
    assert again[0].origin == str(tmp_path)


def test_every_format_says_mean_spread_and_seeds():
    report = make_report(join_seeds(runs()))
    text = to_markdown(report)
    (line,) = [line for line in text.splitlines() if line.startswith('| pruned')]
    assert line.startswith('| pruned (3 seeds) [b] |') and '| 39.2 ± 1.6 | -2.3 ± 0.3 |' in line
    said = 'Mean over 3 trainings with the seeds 0, 1, 2; behind ± their sample standard deviation'
    assert f'[a] {said}.' in text and f'[b] {said}, at Δ that of the differences seed by seed.' in text
    assert '39.2 ± 1.6' in to_latex(report)
    _, pruned = csv.DictReader(StringIO(to_csv(report)))
    assert (float(pruned['bbox mAP (ours)']), float(pruned['bbox mAP std'])) == (fmean(PRUNED), stdev(PRUNED))
    assert float(pruned['Δ bbox mAP std']) == pytest.approx(stdev((2.0, 2.5, 2.5))) and pruned['seeds'] == '0 1 2'


def test_bars_in_the_plot_are_the_spread():
    axes = draw_table(make_report(join_seeds(runs())).tables[0], 'FLOPs').axes[0]
    bars = [segment for bar in axes.containers for lines in bar[2] for segment in lines.get_segments()]
    assert [list(bar[:, 1]) for bar in bars] == [
        pytest.approx([fmean(values) - stdev(values), fmean(values) + stdev(values)]) for values in (DENSE, PRUNED)
    ]
    low, high = axes.get_ylim()
    assert low < fmean(PRUNED) - stdev(PRUNED) and high > fmean(DENSE) + stdev(DENSE)
