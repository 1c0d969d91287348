from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from reports import PAPER, make_report, make_rows

from mmssmprune.analysis.comparison.derive import derive
from mmssmprune.analysis.comparison.report import is_report, read_report, to_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'compare.json').write_text(to_json(make_report()))
    return tmp_path


def test_round_trip(folder: Path):
    for target in (str(folder), str(folder / 'compare.json')):
        report, written = read_report(target), make_report()
        assert report.software == written.software and report.command == written.command
        (table,), (original,) = report.tables, written.tables
        assert (table.metrics, table.shape) == (original.metrics, original.shape)
        assert {row.origin for row in table.rows} == {target}
        again = derive([replace(row, origin='') for row in table.rows], table.metrics)
        # published numbers are not read back: they are looked up anew
        assert again == [replace(row, paper=None) for row in original.rows]


def test_an_origin_stays(folder: Path):
    rows = [replace(make_rows()[0], origin='the first')]
    (folder / 'compare.json').write_text(to_json(make_report(rows)))
    assert read_report(str(folder)).tables[0].rows[0].origin == 'the first'


def test_published_numbers_do_not_come_in_as_ours(folder: Path):
    content = json.loads((folder / 'compare.json').read_text())
    for ours in ({'percent': {'bbox mAP': 44.1}, 'citation': 'x'}, {'run': 'measured', **content_of(PAPER)}, {}):
        content['tables'][0]['rows'][3]['ours'] = ours
        (folder / 'compare.json').write_text(json.dumps(content))
        with pytest.raises(ValueError, match='is damaged'):
            read_report(str(folder))


def content_of(paper) -> dict:
    return {'percent': dict(paper.percent), 'citation': paper.citation, 'quoted': paper.quoted}


def test_what_is_an_earlier_result(folder: Path):
    assert is_report(str(folder)) and is_report('nowhere/compare.json')
    assert not is_report(str(folder.parent)) and not is_report('config.py')
    (folder / 'config.py').write_text('')
    with pytest.raises(ValueError, match='holds a config and'):
        is_report(str(folder))


BAD = {
    'no JSON': ('{', 'no whole JSON file'),
    'another JSON': ('[1]', 'was not written by this version'),
    'an older format': ('{"tables": []}', 'was not written by this version'),
    'parts are missing': ('{"format": 2, "tables": [{}]}', 'is damaged'),
}


@pytest.mark.parametrize(('text', 'told'), BAD.values(), ids=BAD.keys())
def test_bad_files(folder: Path, text: str, told: str):
    (folder / 'compare.json').write_text(text)
    with pytest.raises(ValueError, match=told):
        read_report(str(folder))


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_report(str(tmp_path / 'none.json'))
