"""Weights and models compared by key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmssmprune.checkpoints.keys import compare_state_dict
from mmssmprune.checkpoints.loading import check_state_dict, load_checkpoint_strict


class TinyDetector(nn.Module):
    def __init__(self, width: int = 4, depth: int = 2):
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)), nn.BatchNorm1d(width))
        self.bbox_head = nn.Linear(width, 2)


def save(path: Path, content: object = None) -> Path:
    torch.save({'state_dict': {'weight': torch.zeros(100)}} if content is None else content, path)
    return path


def test_the_same_model_does_not_differ():
    state = TinyDetector().state_dict()
    state = {f'module.{name}': value for name, value in state.items() if not name.endswith('num_batches_tracked')}
    extras = {
        'ema_backbone_0_weight': torch.zeros(1),
        'head.fc.weight': torch.zeros(1),
        'rope.freqs_cos': torch.zeros(1),
    }
    assert not compare_state_dict(TinyDetector(), {**state, **extras})


def test_differences_are_told_by_name():
    difference = compare_state_dict(TinyDetector(width=4), TinyDetector(width=8, depth=3).state_dict())
    assert 'backbone.3.weight' in difference.unexpected
    assert 'backbone.0.weight is (8, 8) instead of (4, 4)' in difference.mismatched
    assert 'backbone.0.weight' in str(difference)


def test_heads_may_differ_only_when_asked():
    model = TinyDetector()
    state = {name: value for name, value in model.state_dict().items() if name.startswith('backbone.')}
    check_state_dict(model, state, 'a.pth', heads_too=False)
    with pytest.raises(ValueError, match=r'a\.pth .* 2 keys missing in it \(bbox_head.weight, bbox_head.bias\)'):
        check_state_dict(model, state, 'a.pth')


def test_keys_beside_the_backbone_do_not_matter():
    state = {**TinyDetector().state_dict(), 'auxiliary_head.weight': torch.zeros(1)}
    check_state_dict(TinyDetector(), state, 'a.pth')
    with pytest.raises(ValueError, match=r'backbone\.9\.weight'):
        check_state_dict(TinyDetector(), {**state, 'backbone.9.weight': torch.zeros(1)}, 'a.pth')


def test_fine_tuning_may_lack_what_the_backbone_calls_optional():
    model = TinyDetector()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith('backbone.2.')}
    with pytest.raises(ValueError, match='missing'):
        check_state_dict(model, state, 'a.pth', heads_too=False)
    model.backbone.optional_in_checkpoint = ('2.',)
    check_state_dict(model, state, 'a.pth', heads_too=False)


def test_strict_loading_is_all_or_nothing(tmp_path: Path):
    source, target = TinyDetector(), TinyDetector()
    path = save(tmp_path / 'a.pth', {'state_dict': source.state_dict(), 'meta': {'iter': 7}})
    assert load_checkpoint_strict(target, str(path))['meta'] == {'iter': 7}
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, rtol=0, atol=0)

    other = TinyDetector(depth=3)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match='another architecture'):
        load_checkpoint_strict(other, str(path))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
