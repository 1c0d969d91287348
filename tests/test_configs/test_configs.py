"""Every config loads and builds; the real ones say what the published recipes say and run on small inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from stand_in_data import make_ade20k, make_coco

from mmssmprune.engine.runner_setup import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FAMILY = CONFIGS / 'plain_mamba'
ALL_MODELS = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
MASK_RCNN = FAMILY / 'plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'
MASK_RCNN_PRUNED = FAMILY / 'plain-mamba-adapter-l1-top70_mask-rcnn_8xb2-1x_coco.py'
RETINANET = FAMILY / 'plain-mamba-adapter-l1_retinanet_8xb2-1x_coco.py'
UPERNET = FAMILY / 'plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
UPERNET_PRUNED = FAMILY / 'plain-mamba-l1-top70_upernet_8xb2-160k_ade20k-512x512.py'


def load(path: Path) -> Config:
    cfg = load_config(str(path))
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    return MODELS.build(cfg.model)


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ade20k(make_coco(tmp_path_factory.mktemp('data')))


@pytest.mark.parametrize('path', ALL_MODELS, ids=lambda path: path.stem)
def test_config_builds(path: Path):
    cfg = load(path)
    assert build(cfg).backbone.num_layers > 0
    for part in ('train_dataloader', 'val_evaluator', 'test_evaluator', 'optim_wrapper', 'train_cfg', 'visualizer'):
        assert part in cfg, part
    for hook in ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed', 'visualization'):
        assert hook in cfg.default_hooks, hook
    assert cfg.randomness.seed is not None
    assert 'base_batch_size' in cfg.auto_scale_lr


# Millions of parameters, from the tables of the official repository.
@pytest.mark.parametrize(('path', 'millions'), [(MASK_RCNN, 31), (RETINANET, 19), (UPERNET, 35)], ids=lambda p: str(p))
def test_size_is_the_published_one(path: Path, millions: int):
    count = sum(parameter.numel() for parameter in build(load(path)).parameters())
    assert count // 10**6 == millions


@pytest.mark.parametrize(('dense', 'pruned'), [(MASK_RCNN, MASK_RCNN_PRUNED), (UPERNET, UPERNET_PRUNED)])
def test_pruned_config_changes_only_the_pruning(dense: Path, pruned: Path):
    without, with_pruning = load_config(str(dense)).to_dict(), load_config(str(pruned)).to_dict()
    pruning = with_pruning['model']['backbone'].pop('pruning')
    assert without == with_pruning
    assert pruning['keep_ratio'] == 0.7
    assert list(pruning['layers']) == [5, 11, 17]


@pytest.mark.parametrize(('path', 'folder'), [(MASK_RCNN, 'coco'), (RETINANET, 'coco'), (UPERNET, 'ade')])
def test_data_root_comes_from_the_environment(path: Path, folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('MMSSMPRUNE_DATA_ROOT', raising=False)
    assert load_config(str(path)).train_dataloader.dataset.data_root.startswith(f'data/{folder}')
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', '/big disk/sets')
    cfg = load_config(str(path))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root.startswith(f'/big disk/sets/{folder}')


def decays(cfg: Config) -> dict[str, float]:
    """Weight decay of every parameter of the config's model."""
    model = build(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    return {names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}


def test_detection_recipe():
    cfg = load(MASK_RCNN)
    decay = decays(cfg)
    for free in (
        'backbone.pos_embed',
        'backbone.level_embed',
        'backbone.layers.3.mamba.A_log',
        'backbone.layers.3.mamba.D',
        'backbone.layers.3.mamba.direction_Bs',
        'backbone.layers.3.mamba.in_proj.bias',
        'backbone.layers.3.norm.weight',
    ):
        assert decay[free] == 0, free
    assert decay['backbone.layers.3.mamba.in_proj.weight'] == 0.05
    assert decay['roi_head.mask_head.convs.0.conv.weight'] == 0.05
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 1e-4)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (12, 2)
    assert cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt is False
    assert load(RETINANET).optim_wrapper.clip_grad.max_norm == 35


def test_segmentation_recipe():
    cfg = load(UPERNET)
    decay = decays(cfg)
    for free in ('backbone.pos_embed', 'backbone.layers.3.mamba.A_log', 'backbone.layers.3.norm.weight'):
        assert decay[free] == 0, free
    assert decay['backbone.layers.3.mamba.in_proj.weight'] == 0.01
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 6e-5)
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (160000, 2)
    warmup, decay_policy = cfg.param_scheduler
    assert (warmup.end, decay_policy.power, decay_policy.end) == (1500, 1.0, 160000)


def small_batch(cfg: Config, side: int) -> dict:
    """Two images through the config's own training pipeline, at a smaller scale."""
    for transform in cfg.train_dataloader.dataset.pipeline:
        if 'scale' in transform:
            transform.scale = (2 * side, side)
        if 'crop_size' in transform:
            transform.crop_size = (side, side)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (side, side)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return pseudo_collate([dataset[0], dataset[1]])


@pytest.mark.parametrize('path', [MASK_RCNN_PRUNED, RETINANET, UPERNET, UPERNET_PRUNED], ids=lambda path: path.stem)
def test_small_training_step(path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    cfg = load(path)
    if 'rcnn' in cfg.model.train_cfg:
        cfg.model.train_cfg.rcnn.sampler.num = 32  # the heads, not under test here, would take most of the time
    batch = small_batch(cfg, side=128)
    model = revert_sync_batchnorm(build(cfg)).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    # DistributedDataParallel stops at a parameter without a gradient unless the config foresees it.
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert not unused or cfg.get('find_unused_parameters'), unused
    optim_wrapper.step()
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith('backbone.layers.23.') for name in moved)


@pytest.mark.parametrize('split', ['test_pipeline', 'tta_pipeline'])
def test_ade20k_test_images_are_multiples_of_32_and_labels_stay(split: str, stand_in: Path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    cfg = load(UPERNET)
    cfg.test_dataloader.dataset.pipeline = cfg[split]
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    images = sample['inputs'] if isinstance(sample['inputs'], list) else [sample['inputs']]
    samples = sample['data_samples'] if isinstance(sample['data_samples'], list) else [sample['data_samples']]
    if split == 'test_pipeline':
        assert all(side % 32 == 0 for side in images[0].shape[1:])
    else:
        assert len(images) == 12
    labels = samples[0].gt_sem_seg.data
    assert labels.shape[-2:] == (512, 683)
    assert set(labels.unique().tolist()) <= {*range(150), 255}
