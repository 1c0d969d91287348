from __future__ import annotations

from pathlib import Path

import mmssmprune
from mmssmprune.analysis.software import software, source_hash


def test_every_kind_of_source_counts(tmp_path: Path):
    package = tmp_path / 'ops'
    (package / 'cpp').mkdir(parents=True)
    (package / 'scan.py').write_text('a')
    (package / 'cpp' / 'scan.cpp').write_text('b')
    before = source_hash(tmp_path, ['ops'])
    (package / '__pycache__').mkdir()
    (package / '__pycache__' / 'scan.pyc').write_text('leftover')
    (package / 'scan.so').write_text('compiled')
    assert source_hash(tmp_path, ['ops']) == before
    for file in ('scan.py', 'cpp/scan.cpp', 'kernel.cu'):
        (package / file).write_text('changed')
        after = source_hash(tmp_path, ['ops'])
        assert after != before
        before = after
    (package / 'scan.py').rename(package / 'other.py')
    assert source_hash(tmp_path, ['ops']) != before


def test_the_compiled_scan_is_part_of_it():
    assert list((Path(mmssmprune.__file__).parent / 'ops').rglob('*.cpp'))
    assert set(software()) == {'versions', 'source'}
