from __future__ import annotations

from typing import Any

from reports import RECIPE, cost, measured, row

from mmssmprune.analysis.comparison.derive import group_methods, method_labels
from mmssmprune.analysis.comparison.report import ReportRow


def pruned(model: str, ratio: float = 0.7, *, training: dict[str, Any] | None = None, **recipe: Any) -> ReportRow:
    more = {'cost': cost(2.0, 0.7, RECIPE | recipe), 'training': training or {'iterations': 100, 'hooks': []}}
    return row(model, 'pruned', ratio, measured(30.0, 28.0), **more)


def labels(rows: list[ReportRow]) -> dict[str, list[str]]:
    return {method.label: [r.model for r in method.rows] for method in group_methods(rows)}


DENSE = row('dense', 'dense', 1.0, measured(40.0, 36.0), cost=cost(4.0, 1.0))


def test_several_configs_and_several_ratios_of_one_method_are_one_line():
    rows = [DENSE, pruned('a', 0.8), pruned('b', 0.6), pruned('m', 0.6, reduction='merge')]
    assert labels(rows) == {
        'PlainMamba-L1, dense': ['dense'],
        'PlainMamba-L1, prune': ['a', 'b'],
        'PlainMamba-L1, merge': ['m'],
    }
    assert labels([pruned('a', 0.8), pruned('a', 0.6)]) == {'PlainMamba-L1, prune': ['a', 'a']}


def test_checkpoints_tested_at_several_ratios_each_are_lines_of_their_own():
    rows = [pruned('a', 0.8), pruned('a', 0.6), pruned('b', 0.8), pruned('b', 0.6)]
    assert labels(rows) == {'PlainMamba-L1, prune (a)': ['a', 'a'], 'PlainMamba-L1, prune (b)': ['b', 'b']}


def test_labels_say_what_differs_and_no_more():
    rows = [pruned('a'), pruned('b', restoration='hold'), pruned('c', restoration='hold', layers=[1, 3])]
    assert list(labels(rows)) == [
        'PlainMamba-L1, prune (layers 1, restoration follow)',
        'PlainMamba-L1, prune (layers 1, restoration hold)',
        'PlainMamba-L1, prune (layers 1/3)',
    ]


def test_training_tells_methods_apart():
    elastic = {'iterations': 100, 'hooks': ['ElasticKeepRatioHook']}
    rows = [pruned('a'), pruned('e', training=elastic), pruned('l', training={'iterations': 300, 'hooks': []})]
    assert len(labels(rows)) == 3
    assert 'PlainMamba-L1, prune (iterations 100, hooks ElasticKeepRatioHook)' in labels(rows)


def test_families_and_heads():
    other = row('l2', 'dense', 1.0, measured(41.0, 37.0), dense_model_hash='l2', family='PlainMamba-L2')
    cascade = row('c', 'dense', 1.0, measured(42.0, 38.0), dense_model_hash='c', architecture='CascadeRCNN')
    assert list(labels([DENSE, other])) == ['PlainMamba-L1, dense', 'PlainMamba-L2, dense']
    assert list(labels([DENSE, cascade])) == ['PlainMamba-L1 MaskRCNN, dense', 'PlainMamba-L1 CascadeRCNN, dense']


def test_two_dense_checkpoints_of_one_model_are_two_points():
    second = row('seed1', 'dense', 1.0, measured(41.0, 37.0))
    assert labels([DENSE, second]) == {
        'PlainMamba-L1, dense (dense)': ['dense'],
        'PlainMamba-L1, dense (seed1)': ['seed1'],
    }


def test_every_row_has_a_label():
    rows = [DENSE, pruned('a'), pruned('b', restoration='hold')]
    assert set(method_labels(rows)) == {id(r) for r in rows}
