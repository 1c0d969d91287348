"""Calibration against what the dense model shows at the cells that would be pruned, recomputed by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import DROPPED, make
from torch import nn

from mmssmprune.engine.calibration import calibrate
from mmssmprune.pruning.kept_tokens import choose_tokens

PRUNING = DROPPED | dict(layers=[0, 2], keep_ratio=0.5)


class Wrapped(nn.Module):
    """What a detector or segmentor is to a calibration: a preprocessor beside a backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def data_preprocessor(self, batch: torch.Tensor, training: bool) -> dict[str, torch.Tensor]:
        assert not training
        return {'inputs': batch}


def traces_of(model: nn.Module, images: torch.Tensor) -> list:
    """The trace of every layer of a dense pass."""
    traces = []
    hooks = [layer.register_forward_hook(lambda _, __, out: traces.append(out[-1])) for layer in model.layers]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return traces


def mean_delta_by_hand(kind: str, images: torch.Tensor) -> torch.Tensor:
    """(layers, sets, D): softplus of the deltas of the cells that clip would have pruned by then."""
    traces = traces_of(make(kind), images)
    alive = torch.ones(traces[0].y.shape[:2], dtype=torch.bool)
    means = []
    for layer, trace in enumerate(traces):
        deltas = torch.stack([torch.log1p(torch.exp(d.raw + d.bias)) for d in trace.deltas])
        means.append(deltas[:, ~alive].mean(1) if layer > 0 else torch.zeros_like(deltas[:, 0, 0]))
        if layer in PRUNING['layers']:
            score = trace.y.clamp(min=0).mean(-1).masked_fill(~alive, -1)
            alive = torch.zeros_like(alive).scatter(1, choose_tokens(score, int(alive[0].sum()) // 2), True)
    return torch.stack(means)


@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_seg'])
def test_stored_delta_is_the_mean_over_pruned_cells_and_batches(kind):
    batches = [torch.randn(2, 3, 64, 96), torch.randn(2, 3, 64, 96)]
    model = make(kind, pruning=dict(PRUNING, alignment='calibrated'))
    weights = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith('pruner.')}
    for _ in range(2):  # a second calibration forgets the first
        assert calibrate(Wrapped(model), batches, num_batches=5) == 4
    expected = torch.stack([mean_delta_by_hand(kind, images) for images in batches]).mean(0)
    assert torch.allclose(model.pruner.stages[0].alignment.stored_delta, expected, rtol=1e-5, atol=1e-7)
    assert int(model.pruner.calibrated_batches) == 2
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_learned_gets_its_start_after_a_warm_up_at_ratio_1():
    model = make('vim_seg', pruning=dict(PRUNING, alignment='learned')).train()
    model.calibration_interval = 2
    images = torch.randn(2, 3, 64, 64)
    model.set_keep_ratio(1.0)
    with torch.no_grad():
        for _ in range(3):
            model(images)
        assert int(model.pruner.calibrated_batches) == 0
        model.set_keep_ratio(0.6)
        for _ in range(3):
            model(images)
    assert int(model.pruner.calibrated_batches) == 1
    assert model.pruner.stages[0].alignment.stored_delta[1:].abs().sum() > 0


def test_learned_starts_at_the_calibrated_delta():
    images = [torch.randn(2, 3, 64, 96)]
    models = {name: make('vim_seg', pruning=dict(PRUNING, alignment=name)) for name in ('calibrated', 'learned')}
    for model in models.values():
        calibrate(Wrapped(model), images, num_batches=1)
    mixer = models['learned'].layers[1].mixer
    at_zero = torch.stack([mixer.dt_proj.bias, mixer.dt_proj_b.bias])
    delta = nn.functional.softplus(at_zero + models['learned'].pruner.stages[0].alignment.stored_delta[1])
    assert torch.allclose(delta, models['calibrated'].pruner.stages[0].alignment.stored_delta[1], rtol=1e-4)
    outs = [model(images[0]) for model in models.values()]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*outs, strict=True))


def test_training_calibrates_by_itself():
    images = torch.randn(2, 3, 64, 96)
    calibrated, learned = (
        make('vim_seg', pruning=dict(PRUNING, alignment=n)).train() for n in ('calibrated', 'learned')
    )
    calibrated.calibration_interval = 2
    for _ in range(5):
        calibrated(images)
        learned(images)
    assert int(calibrated.pruner.calibrated_batches) == 3
    assert int(learned.pruner.calibrated_batches) == 1
    assert all(module.training for module in calibrated.modules())
    sum(out.sum() for out in learned(images)).backward()
    assert learned.pruner.stages[0].alignment.stored_delta.grad[1:].abs().sum() > 0


def test_frozen_modules_stay_frozen():
    model = make('vim_seg', pruning=dict(PRUNING, alignment='calibrated')).train()
    model.fpn1.eval()
    model.calibrate(torch.randn(1, 3, 64, 64))
    assert not model.fpn1.training
    assert model.layers.training


def test_nothing_to_calibrate_is_said():
    with pytest.raises(ValueError, match="alignment to 'calibrated' or 'learned'"):
        calibrate(Wrapped(make('vim_seg', pruning=PRUNING)), [], 1)
    model = make('vim_seg', pruning=dict(PRUNING, alignment='calibrated'))
    with pytest.raises(ValueError, match='no images'):
        calibrate(Wrapped(model), [], 1)
    with pytest.raises(ValueError, match='at least 1'):
        calibrate(Wrapped(model), [torch.randn(1, 3, 64, 64)], 0)
    with pytest.raises(ValueError, match="must be 'calibrated' or 'learned'"):
        make('vim_seg', pruning=PRUNING).calibrate(torch.randn(1, 3, 64, 64))
