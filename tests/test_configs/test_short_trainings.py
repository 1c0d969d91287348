"""The configs that start from a trained model do so through the Runner, with their hooks."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from config_files import REAL, build, load, shrink
from mmengine.config import Config
from mmengine.logging import MessageHub
from solve_once import solve_each_target_once
from stand_in_data import make_ade20k, make_coco

from mmssmprune.engine.runner_setup import build_runner

SHORT = [path for path in REAL if path.stem.split('_')[0].endswith(('-finetune', '-elastic'))]


def shorten(cfg: Config, work_dir: Path) -> Config:
    """One iteration and one validation, without workers and checkpoints."""
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.visualizer.name = cfg.experiment_name
    by_epoch = 'max_epochs' in cfg.train_cfg
    cfg.train_cfg.update({'max_epochs' if by_epoch else 'max_iters': 1, 'val_interval': 1})
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline
    return shrink(cfg, 64)


# Up to 15 s each. Quick are elastic training, fine-tuning of a detector, and fine-tuning of another family.
QUICK = re.compile('l1-flops30-elastic_upernet|adapter-l1-flops30-finetune_mask|vmamba-t-flops30-finetune_upernet')


@pytest.mark.parametrize(
    'path', [pytest.param(p, id=p.stem, marks=() if QUICK.search(p.stem) else pytest.mark.slow) for p in SHORT]
)
def test_starts_from_a_dense_model(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solve_each_target_once(monkeypatch)
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(tmp_path))
    (make_coco if 'coco' in path.stem else make_ade20k)(tmp_path)
    cfg = shorten(load(path), tmp_path / path.stem)
    dense = load(path)
    dense.model.backbone.pop('pruning')
    state = build(dense).state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'dense.pth')
    cfg.load_from = str(tmp_path / 'dense.pth')
    runner = build_runner(cfg, 'train')
    rates = {}
    runner.train()
    for name, parameter in runner.model.named_parameters():
        (group,) = [g for g in runner.optim_wrapper.param_groups if any(p is parameter for p in g['params'])]
        rates[name] = group['initial_lr']
    head = cfg.optim_wrapper.optimizer.lr
    assert head in {rate for name, rate in rates.items() if not name.startswith('backbone.')}
    depth = runner.model.backbone.num_layers
    first = 'layers.0.blocks.0.op.Ds' if 'vmamba' in path.stem else 'layers.0.mamba.D'
    assert rates[f'backbone.{first}'] == pytest.approx(head * 0.9**depth)
    hub = MessageHub.get_current_instance()
    ratio = hub.get_scalar('train/keep_ratio').current()
    if 'elastic' in path.stem:
        assert ratio in cfg.custom_hooks[0].keep_ratios
    else:
        assert ratio == 1  # the first iteration of the warm-up
        assert math.isfinite(hub.get_scalar('train/loss_distill').current())
    # The step is smaller than the distance of two random models: what was loaded is what was trained.
    name = 'backbone.layers.2.blocks.1.op' if 'vmamba' in path.stem else 'backbone.layers.5.mamba'
    weight = runner.model.state_dict()[f'{name}.in_proj.weight']
    assert (weight - state[f'{name}.in_proj.weight']).abs().max() < 1e-4
