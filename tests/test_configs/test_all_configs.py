"""Every config builds, saves the FLOPs it promises, trains a step and predicts, on stand-in data of the right format.

The configs for the small data sets train and predict in test_mini_configs.py, at their full size.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from config_files import ALL, REAL, build, is_quick, listed, load, shrink, with_listed_plan
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from stand_in_data import make_ade20k, make_coco

from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.models.keep_ratio import keep_ratio_set_to
from mmssmprune.pruning.plan import PLAN_KEYS

SIDE = 64

# Millions of parameters, from the tables of the official repositories, which cut or round. For RetinaNet on L2 one says
# 40, which the other entries rule out: the backbone is that of Mask R-CNN (53), and the heads have 9.7.
PUBLISHED_SIZE = {
    **{f'plain-mamba-adapter-{level}_mask-rcnn_8xb2-1x_coco': n for level, n in (('l1', 31), ('l2', 53), ('l3', 79))},
    **{f'plain-mamba-adapter-{level}_retinanet_8xb2-1x_coco': n for level, n in (('l1', 19), ('l2', 41), ('l3', 67))},
    **{f'plain-mamba-{n}_upernet_8xb2-160k_ade20k-512x512': m for n, m in (('l1', 35), ('l2', 55), ('l3', 81))},
    **{f'vmamba-{n}_mask-rcnn_8xb2-1x_coco': m for n, m in (('t', 50), ('s', 70), ('b', 108))},
    **{f'vmamba-{n}_mask-rcnn_8xb2-ms-3x_coco': m for n, m in (('t', 50), ('s', 70))},
    **{f'vmamba-{n}_upernet_8xb2-160k_ade20k-512x512': m for n, m in (('t', 62), ('s', 82), ('b', 122))},
}


# The quick tests solve one target of a kind and train and predict one config of a kind. They build the others with the
# plan in the metafile, and take the FLOPs from it, which test_model_zoo.py counts.
SOLVED = re.compile(r'-(l1|t)-flops30_')
TARGETS = [p for p in REAL if 'flops' in p.stem and not (is_quick(p.stem) and SOLVED.search(p.stem))]
quick = pytest.mark.parametrize('built', ALL, indirect=True, ids=lambda path: path.stem)
slow_if_large = pytest.mark.parametrize(
    'built',
    [pytest.param(p, id=p.stem, marks=() if is_quick(p.stem) else pytest.mark.slow) for p in ALL],
    indirect=True,
)
# What a plan was solved to, for the backbones of one config that several configs have.
solved: dict[str, dict] = {}
solved_ratios: dict[str, list[float]] = {}


@dataclass
class Built:
    path: Path
    cfg: Config
    backbone: dict  # as the config has it
    model: torch.nn.Module  # without weights where only a slow test runs it


@pytest.fixture(scope='module')
def built(request) -> Built:
    """One build for all that is tested of a config; pytest goes through them one by one."""
    cfg = load(request.param)
    if request.param in REAL:
        shrink(cfg, SIDE)
    backbone = cfg.model.backbone.to_dict()
    key = json.dumps(backbone)
    from_metafile = request.param in TARGETS
    if key in solved:
        cfg.model.backbone.pruning = solved[key]
    elif from_metafile:
        cfg.model.backbone.pruning = with_listed_plan(backbone['pruning'], request.param)
    torch.manual_seed(0)
    model = build(cfg, 'cpu' if is_quick(request.param.stem) else 'meta')
    plan = model.backbone.pruner.plan
    if plan is not None and not from_metafile:
        given = {name: value for name, value in backbone['pruning'].items() if name not in PLAN_KEYS}
        solved[key] = dict(given, layers=list(plan.layers), keep_ratio=list(plan.keep_ratios))
    return Built(request.param, cfg, backbone, model)


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ade20k(make_coco(tmp_path_factory.mktemp('data')))


@quick
def test_builds(built: Built):
    assert built.model.backbone.num_layers > 0
    cfg = built.cfg
    for part in ('train_dataloader', 'val_evaluator', 'test_evaluator', 'train_cfg', 'visualizer'):
        assert part in cfg, part
    for hook in ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed', 'visualization'):
        assert hook in cfg.default_hooks, hook
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)
    assert cfg.randomness.seed is not None
    assert 'base_batch_size' in cfg.auto_scale_lr
    if built.path.stem in PUBLISHED_SIZE:
        count = sum(parameter.numel() for parameter in built.model.parameters())
        assert PUBLISHED_SIZE[built.path.stem] in (count // 10**6, round(count / 10**6))


@cache
def dense_flops(backbone: str, input_shape: tuple[int, int]) -> int:
    """FLOPs of the dense backbone of this config, given as JSON: many configs share one."""
    return count_on_meta(on_meta(MODELS.build(json.loads(backbone))), input_shape)


@quick
def test_saves_the_flops_it_promises(built: Built):
    config = dict(built.backbone)
    pruning = config.pop('pruning', None) or {}
    if 'flops_reduction' not in pruning:
        pytest.skip('no FLOPs are promised')
    shape = tuple(pruning['input_shape'])
    if built.path in TARGETS:
        saved = listed_reduction(built.path, shape)
    else:
        saved = 1 - count_on_meta(on_meta(built.model.backbone), shape) / dense_flops(json.dumps(config), shape)
    assert saved == pytest.approx(pruning['flops_reduction'], abs=0.01)
    tokens = built.model.backbone.tokens_per_layer(shape)
    with keep_ratio_set_to(built.model, 1.0):
        dense = built.model.backbone.tokens_per_layer(shape)
    assert min(n / all_cells for n, all_cells in zip(tokens, dense, strict=True)) > 0.05, 'so few cannot show an image'


def listed_reduction(path: Path, shape: tuple[int, int]) -> float:
    """The share of the dense backbone's FLOPs that is saved by what the metafile lists at this shape."""
    name = re.sub(r'(-evit|-merge)?-flops.*?(_[a-z-]+_).*', r'\2', path.stem)
    pruned = listed(path)['Metadata']
    (whole,) = {
        (other['Backbone FLOPs'], tuple(other['Input Size']))
        for other in (listed(dense)['Metadata'] for dense in path.parent.glob(f'{name}*.py'))
    }  # of all schedules
    assert tuple(pruned['Input Size']) == whole[1] == shape
    return 1 - pruned['Backbone FLOPs'] / whole[0]


@pytest.mark.slow
@pytest.mark.parametrize('path', TARGETS, ids=lambda path: path.stem)
def test_a_target_is_solved_to_the_listed_plan(path: Path):
    cfg = load(path)
    key = json.dumps(cfg.model.backbone.to_dict())
    if key not in solved_ratios:
        solved_ratios[key] = list(MODELS.build(cfg.model.backbone).pruner.plan.keep_ratios)
    assert solved_ratios[key] == pytest.approx(listed(path)['Metadata']['Keep Ratios'], abs=1e-4)


def seed() -> None:
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(0)


def take_training_step(cfg: Config, model: torch.nn.Module) -> None:
    """One iteration on two images through the config's pipeline, optimizer and constructor."""
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss.backward()
    # DistributedDataParallel stops at a parameter without a gradient unless the config foresees it.
    unused = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not unused or cfg.get('find_unused_parameters'), unused
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    optim_wrapper.step()
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    for part in ('backbone.patch_embed.', f'backbone.layers.{len(model.backbone.layers) - 1}.'):
        assert any(name.startswith(part) for name in moved), part


@torch.no_grad()
def predict(cfg: Config, model: torch.nn.Module) -> None:
    """One prediction through the config's test pipeline; it has the size of the original image."""
    model.eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    (result,) = model.test_step(pseudo_collate([dataset[0]]))
    height, width = result.ori_shape
    if cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, height, width)
        assert 0 <= result.pred_sem_seg.data.min() <= result.pred_sem_seg.data.max() < 150
        return
    found = result.pred_instances
    assert found.scores.isfinite().all()
    assert found.bboxes.shape == (len(found), 4)
    assert (found.bboxes >= 0).all()
    assert (found.bboxes <= torch.tensor([width, height] * 2)).all()
    if 'roi_head' in cfg.model:
        assert found.masks.shape == (len(found), height, width)


@slow_if_large
def test_trains_a_step_and_predicts(built: Built, stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    if built.path not in REAL:
        pytest.skip('in test_mini_configs.py')
    init_default_scope(built.cfg.default_scope)
    for dataloader in (built.cfg.train_dataloader, built.cfg.test_dataloader):
        root = dataloader.dataset.data_root
        dataloader.dataset.data_root = str(stand_in / root.removeprefix('data/'))
    seed()
    model = revert_sync_batchnorm(built.model if is_quick(built.path.stem) else build(built.cfg))
    take_training_step(built.cfg, model)
    predict(built.cfg, model)
