from __future__ import annotations

from pathlib import Path

from mmssmprune.analysis.results import ResultStore, digest

KEY = {'what': 'accuracy', 'model': 'plain-mamba/l1', 'keep_ratio': 0.7, 'shape': (64, 96)}


def test_round_trip_and_what_it_depends_on(tmp_path: Path):
    store = ResultStore(tmp_path / 'results')
    assert store.get(KEY) is None
    store.put(KEY, {'mIoU': 41.25})
    assert ResultStore(tmp_path / 'results').get(KEY) == {'mIoU': 41.25}
    assert store.get({**KEY, 'keep_ratio': 0.8}) is None
    assert [path.suffix for path in store.folder.iterdir()] == ['.json']


def test_damaged_or_foreign_file_counts_as_not_there(tmp_path: Path):
    store = ResultStore(tmp_path)
    store.put(KEY, 1)
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert store.get(KEY) is None
    path.write_text(text.replace('0.7', '0.9'))
    assert store.get(KEY) is None
    path.write_text('[1]')
    assert store.get(KEY) is None
    store.put(KEY, 2)
    assert store.get(KEY) == 2


def test_digest_ignores_key_order_only():
    assert digest({'a': 1, 'b': [1, 2]}) == digest({'b': [1, 2], 'a': 1})
    assert digest({'a': 1, 'b': [1, 2]}) != digest({'a': 1, 'b': [2, 1]})
