"""A compare.json that somebody else wrote: damage is told in a sentence, and nothing in it becomes a command."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from reports import make_report, make_rows, measured
from rich.console import Console

from mmssmprune.analysis.comparison.derive import derive
from mmssmprune.analysis.comparison.formats import classes_csv, to_csv, to_html, to_latex, to_markdown, to_rich
from mmssmprune.analysis.comparison.plot import plot_report
from mmssmprune.analysis.comparison.report import ComparisonReport, read_report, to_json
from mmssmprune.analysis.comparison.tables import Footnotes


def read_changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> ComparisonReport:
    content = json.loads(to_json(make_report()))
    change(content)
    (folder / 'compare.json').write_text(json.dumps(content))
    report = read_report(str(folder))
    (table,) = report.tables
    return replace(report, tables=(replace(table, rows=tuple(derive(table.rows, table.metrics))),))


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


ROW = ('tables', 0, 'rows', 0)
HUGE = 10**400
DAMAGE = {
    'conventions': (('conventions',), 7),
    'tables': (('tables',), {}),
    'no table': (('tables',), []),
    'no row': (('tables', 0, 'rows'), []),
    'no metric': (('tables', 0, 'metrics'), []),
    'metric without number': (('tables', 0, 'metrics'), ['bbox mAP', 'other']),
    'a path as task': (('tables', 0, 'task'), '../../x'),
    'an absolute task': (('tables', 0, 'task'), '/tmp/x'),
    'shape of one': (('tables', 0, 'shape'), [96]),
    'shape of nothing': (('tables', 0, 'shape'), [0, 96]),
    'title': (('tables', 0, 'title'), None),
    'row': (ROW, 'row'),
    'model': ((*ROW, 'model'), ['a']),
    'kind': ((*ROW, 'kind'), '"><script>alert(1)</script>'),
    'keep_ratio 0': ((*ROW, 'keep_ratio'), 0),
    'keep_ratio text': ((*ROW, 'keep_ratio'), '0.7'),
    'keep_ratio empty': ((*ROW, 'keep_ratio'), []),
    'keep_ratio true': ((*ROW, 'keep_ratio'), True),
    'config': ((*ROW, 'config'), 3),
    'software': ((*ROW, 'software'), None),
    'versions': ((*ROW, 'software', 'versions'), ['torch']),
    'flops NaN': ((*ROW, 'cost', 'flops', 'backbone'), float('nan')),
    'flops huge': ((*ROW, 'cost', 'flops', 'backbone'), HUGE),
    'flops 0': ((*ROW, 'cost', 'flops', 'backbone'), 0),
    'flops text': ((*ROW, 'cost', 'flops', 'total'), '1e9'),
    'no flops': ((*ROW, 'cost', 'flops'), {}),
    'params': ((*ROW, 'cost', 'params', 'total'), -1),
    'tokens': ((*ROW, 'cost', 'tokens'), 'all'),
    'share infinite': ((*ROW, 'cost', 'tokens', 'mean_share'), float('inf')),
    'recipe': ((*ROW, 'recipe'), {'layers': [1]}),
    'pruning': (('tables', 0, 'rows', 1, 'pruning'), {'flops_reduction': 'much'}),
    'training': ((*ROW, 'training'), [1]),
    'latency': ((*ROW, 'latency', 'model', 'median_ms'), None),
    'no times': ((*ROW, 'latency', 'model', 'runs_ms'), []),
    'device': ((*ROW, 'latency', 'device'), {}),
    'percent': ((*ROW, 'ours', 'percent', 'bbox mAP'), 'high'),
    'percent 140': ((*ROW, 'ours', 'percent', 'bbox mAP'), 140),
    'images': ((*ROW, 'ours', 'num_images'), 0.5),
    'no result': ((*ROW, 'ours', 'result'), ''),
    'reason': (('tables', 0, 'rows', 3, 'ours', 'reason'), 4),
    'origin': ((*ROW, 'origin'), None),
    'seed': ((*ROW, 'seed'), -1),
    'iteration': ((*ROW, 'iteration'), 'last'),
    'runs': ((*ROW, 'runs'), {}),
    'a run': ((*ROW, 'runs'), [{'model': 'a'}]),
    'per_class': ((*ROW, 'ours', 'per_class'), {'road': 101}),
    'forms': ((*ROW, 'latency', 'forms'), {'compile': {'model': 3}}),
    'batches': ((*ROW, 'latency', 'batches'), {'8': {'median_ms': -1, 'runs_ms': [1]}}),
}


@pytest.mark.parametrize(('path', 'value'), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_field_is_named_with_its_file(tmp_path: Path, path: tuple, value: Any):
    with pytest.raises(ValueError) as told:
        read_changed(tmp_path, put(*path, value=value))
    message = str(told.value)
    assert message.startswith(f'earlier result {tmp_path / "compare.json"} is damaged: ')
    assert path[0] in message and len(message) < 400


@pytest.mark.parametrize('name', sorted(json.loads(to_json(make_report()))['tables'][0]['rows'][0]))
def test_a_missing_field_of_a_row_is_named(tmp_path: Path, name: str):
    derived = ('paper', 'dense', 'accuracy_difference', 'backbone_flops_change', 'pareto', 'runs')
    derived += ('difference_spread',)
    if name in (*derived, 'seed', 'iteration', 'schedule_hash'):  # the last are unknown to older files
        read_changed(tmp_path, lambda content: content['tables'][0]['rows'][0].pop(name))
        return
    with pytest.raises(ValueError, match=re.escape(f'is damaged: tables[0].rows[0].{name} is missing')):
        read_changed(tmp_path, lambda content: content['tables'][0]['rows'][0].pop(name))


def test_deeply_nested_files_are_no_reports(tmp_path: Path):
    (tmp_path / 'compare.json').write_text('[' * 100_000)
    with pytest.raises(ValueError, match='no whole JSON file'):
        read_report(str(tmp_path))


EVIL = (
    '<script>alert(1)</script>\n| a | b |\n\n# x ![i](http://e) `$\\frac$` \\input{/etc/passwd} [red]r[/red] '
    '\x1b[31m & "q" \u202e\ud800 \\'
)


@pytest.fixture
def hostile(tmp_path: Path) -> ComparisonReport:
    """Every text of the report is an attack, one row's name is a formula, and one begins with what LaTeX would read."""

    def attack(content: dict[str, Any]) -> None:
        (table,) = content['tables']
        table['title'] = table['shape_from'] = content['command'] = EVIL
        content['software'] = {'versions': {EVIL: EVIL}, 'source': EVIL}
        for row in table['rows']:
            for name in ('model', 'family', 'architecture', 'config', 'config_hash', 'origin', 'checkpoint'):
                row[name] = EVIL + name
            row['software'] = {'versions': {EVIL: EVIL}, 'source': EVIL}
            row['training'] = {EVIL: [EVIL]}
            if row['latency']:
                row['latency']['device'] = {'name': EVIL, EVIL: EVIL}
            if row['cost']:
                row['cost']['flops_unsupported'] = {EVIL: 1}
        rows = table['rows']
        rows[0]['model'] = "=cmd|'/c calc'!A1"
        rows[1]['family'], rows[1]['recipe']['reduction'] = '_$x', EVIL
        rows[2]['model'] = '[100cm]'
        rows[3]['ours']['reason'] = EVIL
        table['metrics'] = ['bbox mAP', EVIL, f'{EVIL}\n', f'{EVIL}\t']
        time = rows[0]['latency']['model']
        rows[0]['latency']['forms'] = {EVIL: {'model': time, 'backbone': time}}
        zero = {'median_ms': 0, 'runs_ms': [0]}
        rows[0]['latency']['batches'] = {EVIL: time, '8': zero, '\u00b2': None, '0': time, '9' * 5000: time}
        for row in rows:
            if row['ours']['run'] == 'measured':
                row['ours']['percent'] |= {EVIL: 5.0, f'{EVIL}\n': 4.0, f'{EVIL}\t': 3.0}
                row['ours']['per_class'][EVIL] = 5.0
                row['ours']['raw'] |= {f'{EVIL}/bbox_mAP_s': 0.5, 'coco/bbox_mAP_m': EVIL, 'coco/bbox_mAP_l': 10**400}

    return replace(read_changed(tmp_path, attack), per_class=True)


def test_html_shows_it_as_text(hostile: ComparisonReport):
    text = to_html(hostile, plot_report(hostile))
    assert '<script' not in text and '&lt;script&gt;' in text
    assert set(re.findall(r'<span class="(.*?)">', text)) == {'dense', 'pruned', 'untrained', 'notrun'}


def test_markdown_keeps_its_lines_cells_and_links(hostile: ComparisonReport):
    text = to_markdown(hostile, {'a.png': hostile.tables[0].title})
    lines = text.splitlines()
    assert all(line == '' or line.startswith(('### ', '| ', '![', '- ')) for line in lines)
    for part in text.split('### ')[1:]:
        rows = [line for line in part.splitlines() if line.startswith('| ')]
        assert len({len(re.findall(r'(?<!\\)(?:\\\\)*\|', line)) for line in rows}) == 1
    outside_code = re.sub(r'(`+).*?[^`]\1(?!`)', '', next(line for line in lines if line.startswith('- Command')))
    assert '<' not in outside_code
    assert '<' not in '\n'.join(line for line in lines if not line.startswith('- Command'))
    assert len(re.findall(r'(?<!\\)\]\(', text)) == 1  # the picture's own


def test_latex_has_no_foreign_command(hostile: ComparisonReport):
    text = to_latex(hostile)
    assert all(line.startswith('%') for line in text.splitlines() if '\\input' in line)
    assert '\n    [' not in text and '{}[100cm]' in text
    assert re.findall(r'\\label\{(.*?)\}', text) == ['tab:detection', 'tab:detection-2', 'tab:detection-3']


def test_csv_has_no_formula_and_its_negative_numbers(hostile: ComparisonReport):
    rows = list(csv.DictReader(StringIO(to_csv(hostile))))
    assert rows[0]['model'] == "'=cmd|'/c calc'!A1"
    assert float(rows[1]['Δ bbox mAP']) < 0
    for row in rows:
        for name, cell in row.items():
            assert not cell.startswith(('=', '+', '-', '@')) or cell == str(float(cell)), (name, cell)


def test_csv_of_classes_has_no_formula(hostile: ComparisonReport):
    (line,) = csv.DictReader(StringIO(classes_csv(hostile)))
    assert line['class'].startswith('<script>') and '\n' not in line['class']
    assert not any(name.startswith(('=', '+', '-', '@')) for name in line)


def test_the_terminal_gets_text_alone(hostile: ComparisonReport):
    console = Console(file=StringIO(), width=400, force_terminal=False)
    console.print(to_rich(hostile.tables[0], Footnotes(hostile)))
    shown = console.file.getvalue()
    assert '\x1b' not in shown and '[red]r[/red]' in shown and '[100cm]' in shown


def test_pictures_show_it_as_text_and_stay_in_their_folder(hostile: ComparisonReport):
    assert list(plot_report(hostile)) == ['detection-flops.png', 'detection-latency.png']
    table = replace(hostile.tables[0], task='../../x')
    assert list(plot_report(replace(hostile, tables=(table,)))) == ['-x-flops.png', '-x-latency.png']


# Files of before ------------------------------------------------------------------------------------------------------


def test_what_older_files_call_dense_and_cannot_be_pruned_is_a_reference(tmp_path: Path):
    def older(content: dict[str, Any]) -> None:
        for row in content['tables'][0]['rows']:
            for name in ('seed', 'iteration', 'schedule_hash', 'runs'):
                del row[name]
        content['tables'][0]['rows'][0]['cost']['tokens'] = None

    assert [row.kind for row in read_changed(tmp_path, older).rows] == [
        'reference',
        *['pruned'] * 2,
        'dense',
        'untrained',
    ]


# A metric that is no number ------------------------------------------------------------------------------------------


def report_with_nan() -> ComparisonReport:
    rows = make_rows()
    rows[1] = replace(rows[1], ours=measured(float('nan'), 35.99))
    return make_report(rows)


def test_a_nan_is_shown_footnoted_and_decides_nothing():
    report = report_with_nan()
    dense, pruned, listed, *_ = report.tables[0].rows
    assert (pruned.pareto['bbox mAP'], pruned.pareto['segm mAP']) == ((), ('FLOPs', 'latency'))
    assert listed.pareto['bbox mAP'] == ('FLOPs', 'latency')  # nothing cheaper is as good
    assert list(pruned.accuracy_difference) == ['segm mAP'] and dense.pareto['bbox mAP'] == ('FLOPs', 'latency')
    (line,) = [line for line in to_markdown(report).splitlines() if line.startswith('| pruned') and '| 0.7 |' in line]
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells[0].endswith(' [a]') and cells.count('NaN') == 1
    assert '[a] The evaluator gave no number (NaN) for bbox mAP' in to_markdown(report)
    assert sorted(plot_report(report)) == ['detection-flops.png', 'detection-latency.png']
    assert 'NaN' in to_html(report, {}) and 'NaN' in to_latex(report)
    assert [row['bbox mAP (ours)'] for row in csv.DictReader(StringIO(to_csv(report)))][:3] == ['40.04', '', '30.0']


def test_a_nan_is_null_in_json_and_comes_back(tmp_path: Path):
    text = to_json(report_with_nan())
    assert json.loads(text, parse_constant=pytest.fail)['tables'][0]['rows'][1]['ours']['percent']['bbox mAP'] is None
    (tmp_path / 'compare.json').write_text(text)
    row = read_report(str(tmp_path)).tables[0].rows[1]
    assert row.undefined == ['bbox mAP'] and row.measured == {'segm mAP': 35.99}


def test_a_dense_model_without_a_number_is_no_baseline():
    rows = make_rows()
    rows[0] = replace(rows[0], ours=measured(float('nan'), float('nan')))
    report = make_report(rows)
    assert report.tables[0].rows[1].accuracy_difference == {}
    assert report.tables[0].rows[1].backbone_flops_change == pytest.approx(2.9 / 4.123 - 1)
    assert all(png.startswith(b'\x89PNG') for _, png in plot_report(report).values())
    rows = [replace(row, ours=measured(float('nan'), float('nan'))) for row in rows[:3]]
    assert plot_report(make_report(rows)) == {}
