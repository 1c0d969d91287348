from __future__ import annotations

from dataclasses import replace

from reports import METRICS, cost, make_rows, measured, row

from mmssmprune.analysis.comparison.derive import derive, find_dense


def test_differences_and_front():
    dense, pruned, listed, not_run, untrained = derive(make_rows(), METRICS)
    assert pruned.accuracy_difference['bbox mAP'] == 38.49 - 40.04
    assert pruned.backbone_flops_change == pruned.backbone_flops / dense.backbone_flops - 1
    assert pruned.dense == dense.model and dense.dense is None and dense.accuracy_difference == {}
    assert dense.pareto == pruned.pareto == listed.pareto == dict.fromkeys(METRICS, ('FLOPs', 'latency'))
    assert not_run.pareto == untrained.pareto == dict.fromkeys(METRICS, ())
    assert untrained.accuracy_difference == {} and not_run.backbone_flops_change is None


def test_rows_without_latency_are_on_no_latency_front():
    rows = make_rows()
    rows[2] = replace(rows[2], latency=None)
    assert derive(rows, METRICS)[2].pareto['bbox mAP'] == ('FLOPs',)


def test_dense_baseline_of_a_row():
    def model(name: str, kind: str, hash_: str, family: str = 'Vim'):
        more = {'dense_model_hash': hash_, 'family': family}
        return row(name, kind, 1.0, measured(1.0, 1.0), cost=cost(1.0, 1.0), **more)

    dense_l1, dense_l2 = model('d1', 'dense', '1'), model('d2', 'dense', '2')
    pruned_l2, pruned_l3 = model('p2', 'pruned', '2'), model('p3', 'pruned', '3')
    rows = [dense_l1, dense_l2, pruned_l2, pruned_l3]
    assert find_dense(pruned_l2, rows) is dense_l2
    assert find_dense(dense_l1, rows) is dense_l1
    # with several dense models none of which is its own, a row has no baseline; a single one serves all
    assert find_dense(pruned_l3, rows) is None
    assert find_dense(pruned_l3, [dense_l1, pruned_l3]) is dense_l1
    # the only one of its family, where a fine-tuning changed something else of the model as well
    other = model('d4', 'dense', '4', 'PlainMamba-L3')
    changed = model('p5', 'pruned', '5', 'PlainMamba-L3')
    assert find_dense(changed, [dense_l1, dense_l2, other, changed]) is other


def test_a_baseline_that_was_not_run_gives_flops_only():
    rows = [replace(make_rows()[3], dense_model_hash='l1'), make_rows()[1]]
    pruned = derive(rows, METRICS)[1]
    assert pruned.accuracy_difference == {}
    assert pruned.backbone_flops_change < 0
