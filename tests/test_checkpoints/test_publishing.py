"""A published file is small, safe and whole, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmssmprune.checkpoints.publishing import publish
from mmssmprune.checkpoints.reading import read_checkpoint


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint as a training leaves it, and its log."""
    state = {'backbone.weight': torch.randn(3, 3), 'ema_backbone_weight': torch.randn(3, 3)}
    meta = dict(cfg='model = dict()', iter=20, epoch=0, dataset_meta=dict(classes=('a',)), hook_msgs={}, time='now')
    torch.save(dict(state_dict=state, meta=meta, optimizer=dict(state=torch.zeros(1000))), tmp_path / 'iter_20.pth')
    log = tmp_path / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [
        dict(loss=1.0, step=20, iter=20),
        dict(mIoU=12.5, step=10),
        dict(mIoU=31.25, data_time=0.1, time=0.2, step=20),
    ]
    log.write_text('\n'.join(map(json.dumps, lines)) + '\n{"mIoU": 9')
    return tmp_path / 'iter_20.pth'


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_weights_config_metrics_and_hash(trained: Path, tmp_path: Path, suffix: str):
    path, meta = publish(trained, tmp_path / f'out/small.{suffix}')
    content = read_checkpoint(str(path))
    assert path.parent == tmp_path / 'out'
    assert path.name == f'small-{meta["sha256_of_weights"][:8]}.{suffix}'
    assert content.keys() == {'meta', 'state_dict'}
    assert list(content['state_dict']) == ['backbone.weight']
    expected = read_checkpoint(str(trained))['state_dict']['backbone.weight']
    assert torch.equal(content['state_dict']['backbone.weight'], expected)
    assert content['meta']['metrics'] == {'mIoU': 31.25}
    assert content['meta']['cfg'] == 'model = dict()'
    assert 'hook_msgs' not in content['meta']
    assert path.stat().st_size < trained.stat().st_size


def test_the_hash_is_of_the_weights_alone(trained: Path, tmp_path: Path):
    names = {publish(trained, tmp_path / f'{folder}/x.{suffix}')[0].stem for folder in 'ab' for suffix in ('pth',)}
    assert len(names) == 1
    assert publish(trained, tmp_path / 'c/x.safetensors')[0].stem in names
    checkpoint = torch.load(trained)
    checkpoint['state_dict']['backbone.weight'][0, 0] += 1
    torch.save(checkpoint, trained)
    assert publish(trained, tmp_path / 'd/x.pth')[0].stem not in names


def test_nothing_is_replaced_unless_asked(trained: Path, tmp_path: Path):
    publish(trained, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='exists; give another name, or --force'):
        publish(trained, tmp_path / 'x.pth')
    publish(trained, tmp_path / 'x.pth', force=True)


def test_another_suffix_and_no_model_are_refused(trained: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r'has to end in \.safetensors or \.pth'):
        publish(trained, tmp_path / 'x.bin')
    torch.save({'state_dict': {}}, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='holds no model weights'):
        publish(tmp_path / 'empty.pth', tmp_path / 'x.pth')
