"""Every config for the small data sets of `make data` trains a step and is tested, through the real Runner."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer

from mmssmprune.datasets import Settings, make_data_set
from mmssmprune.engine.runner_setup import build_runner, load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MINI = sorted(path for path in CONFIGS.rglob('*_mini-*.py') if '_base_' not in path.parts)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    for name in ('mini_coco', 'mini_ade'):
        make_data_set(name, folder / name, Settings(train=4, val=2))
    return folder


def test_dense_and_pruned_stand_beside_each_other():
    names = {path.name for path in MINI if '150i' not in path.name}  # a fine-tuning has no dense twin
    pruned = {name for name in names if '-top70' in name}
    assert {name.replace('-top70', '') for name in pruned} == names - pruned
    assert len(names) == 12


@pytest.mark.parametrize('path', MINI, ids=lambda path: path.stem)
def test_trains_and_tests(path, data, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(data))
    cfg = load_config(str(path))
    init_default_scope(cfg.default_scope)
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.experiment_name = path.stem  # mmengine keeps visualizers by name within a process
    cfg.visualizer.name = path.stem
    runner = build_runner(cfg, 'train')
    runner.train()
    metrics = runner.message_hub
    assert math.isfinite(metrics.get_scalar('train/loss').current())
    assert (tmp_path / 'iter_1.pth').is_file()
    tokens = runner.model.backbone.tokens_per_layer((128, 128))
    dense = [1024, 256, 64, 64, 64, 64, 16] if path.stem.startswith('vmamba') else [256] * 8
    top70 = (
        [1024, 256, 45, 32, 23, 23, 16] if path.stem.startswith('vmamba') else [256, 256, 180, 180, 126, 126, 89, 89]
    )
    assert tokens == (top70 if '-top70' in path.stem else dense)
    assert Visualizer.check_instance_created(path.stem)
