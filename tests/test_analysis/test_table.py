from __future__ import annotations

import pytest
from reports import make_report
from rich.console import Console

from mmssmprune.analysis.table import format_keep_ratio, three_digits, to_markdown, to_rich


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


def test_markdown_rows():
    lines = to_markdown(make_report()).splitlines()
    table = [cells(line) for line in lines if line.startswith('|')]
    assert {len(row) for row in table} == {13}
    rows = [dict(zip(table[0], row, strict=True)) for row in table[2:]]
    dense, pruned, listed, untrained = rows
    assert dense['backbone FLOPs (G)'] == '4.12'
    assert dense['model FLOPs (G)'] == '5.12'
    assert dense['params (M)'] == '7.35'
    assert (dense['bbox mAP'], dense['Δ bbox mAP'], dense['Δ FLOPs (%)']) == ('40.0', '-', '-')
    assert (pruned['keep ratio'], pruned['tokens kept (%)'], pruned['Δ FLOPs (%)']) == ('0.7', '72.5', '-29.7')
    # -0.01 is shown as no difference, not as "-0.0"
    assert (pruned['Δ bbox mAP'], pruned['Δ segm mAP']) == ('-1.6', '+0.0')
    assert (pruned['model (ms)'], pruned['backbone (ms)']) == ('15.0', '7.5')
    assert listed['keep ratio'] == '0.9/0.5'
    assert (untrained['bbox mAP'], untrained['backbone FLOPs (G)'], untrained['model (ms)']) == ('0.3', '-', '-')


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
        'median of 7',
        'Some CPU, threads 2',
        'torch 2.13.0, mmcv 2.3.6',
        'what chance gives',
    ):
        assert told in notes


def test_no_latency_no_columns():
    report = make_report()
    for row in report['tables'][0]['rows']:
        row.pop('latency', None)
    text = to_markdown(report)
    assert '(ms)' not in text
    assert 'Latency' not in text


@pytest.mark.parametrize('width', [100, 200])
def test_terminal_table_shows_names_and_numbers_whole(width: int):
    console = Console(width=width, record=True, file=open('/dev/null', 'w'))  # noqa: SIM115
    report = make_report()
    console.print(to_rich(report['tables'][0]))
    text = console.export_text()
    for row in report['tables'][0]['rows']:
        assert text.count(row['model'] + ' ') or text.count(row['model'] + '\n')
    for number in ('4.12', '72.5', '-29.7', '+0.0', '0.9/0.5', '15.0'):
        assert number in text
    assert max(map(len, text.splitlines())) <= width
