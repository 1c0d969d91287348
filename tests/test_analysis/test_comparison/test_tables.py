from __future__ import annotations

from dataclasses import replace

import pytest
from reports import PAPER, QUOTED, SOFTWARE, make_report, make_rows
from rich.console import Console

from mmssmprune.analysis.comparison.formats import to_markdown, to_rich
from mmssmprune.analysis.comparison.report import (
    ComparisonReport,
    Measured,
    NotRun,
    Published,
    ReportRow,
    format_keep_ratio,
)
from mmssmprune.analysis.comparison.tables import Footnotes, frames, three_digits


@pytest.mark.parametrize(
    ('value', 'text'),
    [(0.04123, '0.0412'), (0.9996, '1.00'), (3.0213, '3.02'), (14.4527, '14.5'), (99.96, '100'), (1234.5, '1230')],
)
def test_three_significant_digits(value: float, text: str):
    assert three_digits(value) == text


def test_keep_ratios():
    assert [format_keep_ratio(r) for r in (1.0, 1, 0.7, 0.65, [1.0, 0.5])] == ['1.0', '1.0', '0.7', '0.65', '1.0/0.5']


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def markdown_rows(report: ComparisonReport) -> list[dict[str, str]]:
    table = [cells(line) for line in to_markdown(report).splitlines() if line.startswith('|')]
    assert len({len(row) for row in table}) == 1
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def test_markdown_rows():
    dense, pruned, listed, not_run, untrained = markdown_rows(make_report())
    assert dense['backbone FLOPs (G)'] == '4.12'
    assert dense['model FLOPs (G)'] == '5.12'
    assert dense['params (M)'] == '7.35'
    assert (dense['bbox mAP (ours)'], dense['Δ bbox mAP'], dense['Δ FLOPs (%)']) == ('40.0', '-', '-')
    assert (pruned['keep ratio'], pruned['tokens kept (%)'], pruned['Δ FLOPs (%)']) == ('0.7', '72.5', '-29.7')
    # -0.01 is shown as no difference, not as "-0.0"
    assert (pruned['Δ bbox mAP'], pruned['Δ segm mAP']) == ('-1.5', '+0.0')
    assert (pruned['model (ms)'], pruned['backbone (ms)']) == ('15.0 (15.0-15.0)', '7.5 (7.5-7.5)')
    assert listed['keep ratio'] == '0.9/0.5'
    assert (listed['method'], pruned['method']) == ('PlainMamba-L1, prune',) * 2
    assert pruned['Pareto bbox mAP'] == 'FLOPs, latency'
    assert (untrained['bbox mAP (ours)'], untrained['backbone FLOPs (G)'], untrained['model (ms)']) == ('0.3', '-', '-')
    assert untrained['Pareto bbox mAP'] == '-'
    assert (not_run['bbox mAP (paper)'], not_run['bbox mAP (ours)']) == ('44.1 [1]', 'not run')
    assert (not_run['backbone FLOPs (G)'], not_run['model (ms)'], not_run['Δ bbox mAP']) == ('9.00', '-', '-')


def test_last_lines_say_how_the_numbers_were_made():
    notes = '\n'.join(line for line in to_markdown(make_report()).splitlines() if line.startswith('- '))
    for told in (
        'python tools/compare.py a b',
        '5000 test images',
        '96 x 120',
        'padded by the model to 96 x 128',
        'A multiply-add is 1.',
        'maximum of 64',
        'count 0: aten.grid_sampler_2d.',
        'median (5th to 95th percentile) of 7 synchronised',
        'Some CPU, threads 2, dtype float32, scan cpp',
        'torch 2.13.0, mmcv 2.3.6',
        'what chance gives',
        'no checkpoint in work_dirs/dense_l2',
        '[1] Published, not ours: Some Model (official repository), https://example.org. Recipe: 1x.',
    ):
        assert told in notes


def test_columns_without_content_are_left_out():
    rows = [replace(row, latency=None, paper=None) for row in make_rows()]
    text = to_markdown(make_report(rows, no_latency='dense_l1 on Some CPU'))
    assert '(ms)' not in text and '(paper)' not in text
    assert 'Latency: median' not in text and 'nothing of it was measured here' not in text
    assert 'is left out. It was measured on: dense_l1 on Some CPU.' in text


def test_a_report_of_nothing_but_rows_that_were_not_run():
    (only,) = [row for row in make_rows() if isinstance(row.ours, NotRun)]
    (shown,) = markdown_rows(make_report([only]))
    assert shown['bbox mAP (ours)'] == 'not run'
    assert 'test images' not in to_markdown(make_report([only]))


def test_a_quoted_number_is_never_shown_as_the_sources_own():
    rows = make_rows()
    rows[0] = replace(rows[0], paper=QUOTED)
    report = make_report(rows)
    assert markdown_rows(report)[0]['bbox mAP (paper)'] == '41.0 [1, quoted]'
    assert markdown_rows(report)[0]['segm mAP (paper)'] == '-'
    assert markdown_rows(report)[3]['bbox mAP (paper)'] == '44.1 [2]'
    assert '[1] Published, not ours: quoted by others as of Some Paper' in to_markdown(report)


def test_rows_of_earlier_results_and_other_software_are_marked():
    rows = make_rows()
    rows[0] = replace(rows[0], origin='work_dirs/older', software=replace(SOFTWARE, versions={'torch': '2.4.0'}))
    rows[1] = replace(rows[1], origin='work_dirs/older')
    report = make_report(rows)
    shown = markdown_rows(report)
    assert shown[0]['model'].endswith(' [a]') and shown[1]['model'].endswith(' [b]')
    assert '[' not in shown[2]['model']
    text = to_markdown(report)
    assert 'measured with other software: torch 2.4.0 instead of 2.13.0, mmcv absent instead of 2.3.6.' in text
    assert '[b] Row of the earlier result work_dirs/older, same software.' in text
    assert 'rows of an earlier result were timed in its run' in text


@pytest.mark.parametrize('wrong', [PAPER, {'bbox mAP': 44.1}, 44.1, None])
def test_nothing_but_a_measurement_gets_into_ours(wrong):
    row = make_rows()[0]
    with pytest.raises(TypeError, match='ours holds what this tool measured'):
        replace(row, ours=wrong)


def test_a_measurement_does_not_get_into_paper():
    row = make_rows()[0]
    for wrong in (row.ours, {'bbox mAP': 40.0}):
        with pytest.raises(TypeError, match='paper holds what others published'):
            replace(row, paper=wrong)


def test_a_measurement_needs_its_raw_result():
    with pytest.raises(ValueError, match='raw result'):
        Measured({'mIoU': 44.1}, {}, 2000, {}, '')


def test_each_column_reads_its_own_field():
    """Whatever is published, no cell but those under (paper) changes, and the reverse."""

    def shown(row: ReportRow) -> dict[str, str]:
        report = make_report([row, make_rows()[3]])
        _, texts = frames(report.tables[0], Footnotes(report))
        return texts.drop(columns='method').iloc[0].to_dict()

    row = make_rows()[0]
    base = shown(row)
    with_paper = shown(replace(row, paper=Published({'bbox mAP': 99.9, 'segm mAP': 98.9}, 'x')))
    not_run = shown(replace(row, ours=NotRun('no reason')))
    assert {t for t in base if base[t] != with_paper[t]} == {'bbox mAP (paper)', 'segm mAP (paper)'}
    changed = {t for t in base if base[t] != not_run[t]}
    assert {'bbox mAP (ours)', 'segm mAP (ours)'} <= changed and not any('(paper)' in t for t in changed)


@pytest.mark.parametrize('width', [110, 200])
def test_terminal_table_shows_names_and_numbers_whole(width: int):
    console = Console(width=width, record=True, file=open('/dev/null', 'w'))  # noqa: SIM115
    report = make_report()
    console.print(to_rich(report.tables[0], Footnotes(report)))
    text = console.export_text()
    for row in report.tables[0].rows:
        assert text.count(row.model + ' ') or text.count(row.model + '\n')
    for number in ('4.12', '72.5', '-29.7', '+0.0', '0.9/0.5', ' 15.0 ', 'not run', '44.1 [1]'):
        assert number in text
    assert max(map(len, text.splitlines())) <= width
