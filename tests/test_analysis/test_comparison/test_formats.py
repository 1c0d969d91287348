from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import QUOTED, make_report, make_rows

from mmssmprune.analysis.comparison.formats import to_csv, to_html, to_latex
from mmssmprune.analysis.comparison.plot import plot_report
from mmssmprune.analysis.comparison.report import ReportRow
from mmssmprune.analysis.escape import escape_latex


def odd_rows() -> list[ReportRow]:
    """Without latency, not run, quoted, and a name full of characters that mean something elsewhere."""
    rows = make_rows()
    rows[1] = replace(rows[1], model='a_b & 50% <c> | "d", {e} $f$ #g ~h ^i \\j', latency=None, paper=QUOTED)
    return rows


def test_csv_has_the_numbers_of_the_report_in_full():
    report = make_report(odd_rows())
    rows = report.tables[0].rows
    frame = pd.read_csv(StringIO(to_csv(report)), float_precision='round_trip')
    assert list(frame['model'])[1] == rows[1].model
    assert list(frame['run']) == ['measured'] * 3 + ['not run', 'measured']
    for i, row in enumerate(rows):
        for metric in report.tables[0].metrics:
            read = frame[f'{metric} (ours)'][i]
            assert (read == row.measured[metric]) if row.measured else pd.isna(read)
        assert pd.isna(frame['model (ms)'][i]) if row.latency is None else frame['model (ms)'][i] == row.model_ms
    assert frame['backbone FLOPs (G)'][0] == rows[0].backbone_flops / 1e9
    assert frame['Δ FLOPs (%)'][1] == rows[1].backbone_flops_change * 100
    assert frame['bbox mAP (paper)'][3] == 44.1 and pd.isna(frame['bbox mAP (ours)'][3])
    assert list(frame['paper quoted by others'].dropna()) == [True, False]
    assert frame['bbox mAP (paper)'].dtype == frame['bbox mAP (ours)'].dtype == float
    assert frame['checkpoint hash'][0] == rows[0].checkpoint_hash


def test_csv_of_two_tables_with_different_metrics():
    report = make_report()
    other = replace(report.tables[0], task='other', metrics=('bbox mAP',))
    frame = pd.read_csv(StringIO(to_csv(replace(report, tables=(report.tables[0], other)))))
    assert list(frame['task']) == ['detection'] * 5 + ['other'] * 5
    assert frame['segm mAP (ours)'][5:].isna().all() and frame['segm mAP (ours)'][0] == 36.0


def test_latex_is_balanced_and_escaped():
    text = to_latex(make_report(odd_rows()))
    body = '\n'.join(line for line in text.splitlines() if not line.startswith('%'))
    opened = re.findall(r'\\begin\{(\w+)\}', body)
    closed = re.findall(r'\\end\{(\w+)\}', body)
    assert sorted(opened) == sorted(closed) == ['table', 'tabular']
    assert all(rule in body for rule in ('\\toprule', '\\midrule', '\\bottomrule', '\\caption'))
    unescaped = re.sub(r'\\[{}$&#_%]', '', body)
    assert '_' not in unescaped and '#' not in unescaped
    assert unescaped.count('{') == unescaped.count('}')
    assert unescaped.count('$') % 2 == 0
    rows = [line for line in body.splitlines() if line.rstrip().endswith('\\\\')]
    columns = len(re.search(r'\\begin\{tabular\}\{([lr]+)\}', body)[1])
    assert len(rows) == 6
    assert {len(re.findall(r'(?<!\\)&', row)) + 1 for row in rows} == {columns}
    assert 'a\\_b \\& 50\\% \\textless{}c\\textgreater{}' in body
    assert '41.0 [1, quoted]' in body and 'quoted by others' in body


@given(st.text(max_size=40))
def test_escaped_text_has_no_command_of_its_own(text: str):
    rest = escape_latex(text)
    for known in ('textbackslash', 'textasciitilde', 'textasciicircum', 'textless', 'textgreater'):
        rest = rest.replace(f'\\{known}{{}}', '')
    rest = rest.replace('$\\Delta$', '')
    rest = re.sub(r'\\[{}$&#_%]', '', rest)
    assert not set(rest) & set('\\{}$&#_%~^')


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.addresses, self.cells, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == 'img':
            self.images.append(attributes['src'])
        self.addresses += [value for name, value in attrs if name in ('src', 'href')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'td' in self.open:
            self.cells.append(data)


def test_html_needs_no_other_file():
    report = make_report(odd_rows())
    text = to_html(report, plot_report(report))
    page = Page(text)
    assert page.open == []
    assert len(page.images) == 2
    assert all(address.startswith('data:image/png;base64,iVBORw0KGgo') for address in page.addresses)
    assert '@import' not in text and 'url(' not in text and '<script' not in text and '<link' not in text
    assert 'not run' in page.cells and '44.1 [2]' in page.cells and '41.0 [1, quoted]' in page.cells
    assert report.tables[0].rows[1].model in page.cells


@pytest.mark.parametrize('write', [to_csv, to_latex, lambda report: to_html(report, plot_report(report))])
def test_reports_of_odd_rows_alone(write):
    for row in odd_rows():
        assert row.model[:10].split('_')[0] in write(make_report([row]))
