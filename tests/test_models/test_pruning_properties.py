"""Whatever names and numbers a pruning dict combines: right shapes, finite values and gradients, the planned rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_backbones import MAKERS, layers_of, make, suits

from mmssmprune.pruning.pruner import CHOICES


@st.composite
def pruning_dicts(draw, kind: str) -> dict:
    """Any plan over four layers with any name for every key."""
    names = {key: draw(st.sampled_from([n for n in names if suits(kind, key, n)])) for key, names in CHOICES.items()}
    layers = sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=4)))
    ratios = st.floats(0.01, 1, exclude_min=True)
    keep_ratio = draw(ratios | st.lists(ratios, min_size=len(layers), max_size=len(layers)))
    units = [None, (2, 2), (1, 3)] if 'score' in CHOICES['reduction'].needs_of(names['reduction']) else [None]
    more = dict(unit=draw(st.sampled_from(units)), equal_steps=draw(st.booleans()))
    return dict(layers=layers, keep_ratio=keep_ratio, **more, **names)


@pytest.mark.parametrize('kind', MAKERS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_pruning_runs_and_trains(kind, data):
    pruning = data.draw(pruning_dicts(kind))
    batch, size = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([(32, 32), (32, 96), (64, 32)]))
    training = data.draw(st.booleans())
    if training and kind == 'adapter':  # its BatchNorm at stride 32 wants more than one value
        batch = max(batch, 2)
    model = make(kind, pruning=pruning).train(training)
    rows, expected = [], [tuple(out.shape) for out in make(kind)(torch.zeros(batch, 3, *size))]
    for layer in layers_of(model):
        layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    images = torch.randn(batch, 3, *size, requires_grad=True)
    outs = model(images)
    sum(out.square().sum() for out in outs).backward()
    assert [tuple(out.shape) for out in outs] == expected
    assert rows == model.tokens_per_layer(size)
    assert all(out.isfinite().all() for out in outs)
    assert images.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
