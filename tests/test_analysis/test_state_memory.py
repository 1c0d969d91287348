from __future__ import annotations

import pytest
import torch
from tiny_backbones import make

from mmssmprune.analysis.state_memory import measure_state_memory

IMAGES = torch.randn(2, 3, 64, 96)


@pytest.mark.parametrize('kind', ['plain_mamba', 'adapter', 'vim_cls'])
def test_every_layer_is_looked_into(kind):
    layers = measure_state_memory(make(kind, pruning=dict(layers=[1], keep_ratio=0.5)), IMAGES)
    assert [found.layer for found in layers] == [0, 1, 2, 3]
    assert [found.change is None for found in layers] == [True, True, False, False]
    assert all(found.change > 0 for found in layers[2:])
    assert [found.mean_gap > 0 for found in layers] == [False, False, True, True]
    assert all(low <= median <= high for low, median, high in (found.memory for found in layers))


def test_stages_are_looked_into_layer_by_layer():
    layers = measure_state_memory(make('vmamba', pruning=dict(layers=[0, 2], keep_ratio=0.5)), IMAGES)
    assert [found.layer for found in layers] == [0, 1, 2, 3, 4, 5]
    assert [found.mean_gap > 0 for found in layers] == [False, True, False, True, True, False]
    assert [found.change is None for found in layers] == [True, False, True, False, False, True]


def test_memory_by_hand():
    model = make('vim_seg', pruning=dict(layers=[0], keep_ratio=0.5))
    for layer in model.layers:  # a constant delta of softplus(0) = ln 2, and rates 1 to 4
        for dt_proj in (layer.mixer.dt_proj, layer.mixer.dt_proj_b):
            torch.nn.init.zeros_(dt_proj.weight)
            torch.nn.init.zeros_(dt_proj.bias)
    memory = measure_state_memory(model, IMAGES)[0].memory
    cells = torch.tensor([1.0, 1 / 2, 1 / 3, 1 / 4]) / torch.log(torch.tensor(2.0))
    expected = torch.quantile(cells.repeat(100), torch.tensor([0.1, 0.5, 0.9]))
    assert memory == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_state_that_forgets_at_once_gains_nothing():
    model = make('vim_seg', pruning=dict(layers=[0], keep_ratio=0.5))
    for layer in model.layers:
        for A in (layer.mixer.A_log, layer.mixer.A_b_log):
            torch.nn.init.constant_(A, 15.0)
    assert all(found.change < 1e-6 for found in measure_state_memory(model, IMAGES)[1:])


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls', 'vmamba'])
def test_distance_is_that_from_the_dense_outputs(kind):
    pruning = dict(layers=[0], keep_ratio=0.5, restoration='hold', conv_fill='leader', scan_fill='leader')
    pruned, dense, outputs = make(kind, pruning=pruning), make(kind), []
    for model in (dense, pruned):
        seen = []
        layer = model.stages[0].layers[1]
        handle = layer.register_forward_hook(lambda layer, args, out, seen=seen: seen.append((args[-1], out[-1].y)))
        with torch.no_grad():
            model(IMAGES)
        handle.remove()
        outputs += seen
    (_, full), (tokens, y) = outputs
    expected = (y - tokens.kept.gather(full)).norm() / tokens.kept.gather(full).norm()
    found = measure_state_memory(pruned, IMAGES)
    assert found[0].distance == 0
    assert found[1].distance == pytest.approx(float(expected), rel=1e-5)
    assert pruned.pruner.plan.keep_ratios == (0.5,)


def test_without_alignment_nothing_changes():
    found = measure_state_memory(make('vim_seg', pruning=dict(layers=[0], keep_ratio=0.5, alignment='none')), IMAGES)
    assert [layer.change for layer in found] == [None] * 4
    assert found[1].distance > 0


def test_a_dense_model_has_no_gaps():
    with pytest.raises(ValueError, match='give a pruned model'):
        measure_state_memory(make('vim_seg'), IMAGES)
