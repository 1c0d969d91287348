"""The configs for COCO and ADE20K say what the published recipes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from config_files import CONFIGS, PLAIN_MAMBA, VIM, VMAMBA, build, load
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS
from stand_in_data import make_ade20k, make_coco

from mmssmprune.engine.runner_setup import load_config

MASK_RCNN = PLAIN_MAMBA / 'plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'
RETINANET = PLAIN_MAMBA / 'plain-mamba-adapter-l1_retinanet_8xb2-1x_coco.py'
UPERNET = PLAIN_MAMBA / 'plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
VIM_MASK_RCNN = VIM / 'vim-t_mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py'
VIM_CASCADE = VIM / 'vim-t_cascade-mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py'
VIM_UPERNET = VIM / 'vim-t_upernet_4xb8-60k_ade20k-512x512.py'
VMAMBA_MASK_RCNN = VMAMBA / 'vmamba-t_mask-rcnn_8xb2-1x_coco.py'
VMAMBA_MS_3X = VMAMBA / 'vmamba-t_mask-rcnn_8xb2-ms-3x_coco.py'
VMAMBA_UPERNET = VMAMBA / 'vmamba-t_upernet_8xb2-160k_ade20k-512x512.py'


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ade20k(make_coco(tmp_path_factory.mktemp('data')))


@pytest.mark.parametrize(
    ('path', 'folder'),
    [
        (MASK_RCNN, 'coco'),
        (RETINANET, 'coco'),
        (VIM_CASCADE, 'coco'),
        (VMAMBA_MS_3X, 'coco'),
        (UPERNET, 'ade'),
        (VIM_UPERNET, 'ade'),
        (VMAMBA_UPERNET, 'ade'),
    ],
)
def test_data_root_comes_from_the_environment(path: Path, folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('MMSSMPRUNE_DATA_ROOT', raising=False)
    assert load_config(str(path)).train_dataloader.dataset.data_root.startswith(f'data/{folder}')
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', '/big disk/sets')
    cfg = load_config(str(path))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root.startswith(f'/big disk/sets/{folder}')


def groups(cfg: Config) -> dict[str, dict]:
    """The optimizer's settings for every parameter of the config's model."""
    model = build(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    return {names[id(p)]: group for group in optimizer.param_groups for p in group['params']}


def decays(cfg: Config) -> dict[str, float]:
    return {name: group['weight_decay'] for name, group in groups(cfg).items()}


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


@pytest.mark.parametrize('path', [MASK_RCNN, RETINANET, UPERNET], ids=lambda path: path.stem)
def test_levels_of_plain_mamba(path: Path):
    for level, dims, drop_path in (('l1', 192, 0.1), ('l2', 384, 0.2), ('l3', 448, 0.3)):
        cfg = load_config(str(path.with_name(path.name.replace('-l1_', f'-{level}_'))))
        backbone = cfg.model.backbone
        assert (backbone.arch, backbone.drop_path_rate) == (level.upper(), drop_path)
        assert backbone.init_cfg.checkpoint.endswith(f'/PlainMamba/resolve/main/{level}.pth')
        depth = 36 if level == 'l3' else 24
        quarters = [depth * i // 4 - 1 for i in (1, 2, 3, 4)]
        if path == UPERNET:
            assert list(backbone.out_indices) == quarters
            assert cfg.model.decode_head.in_channels == [dims] * 4
            assert cfg.model.decode_head.channels == 512
        else:
            assert [run[1] for run in backbone.interaction_indexes] == quarters
            assert backbone.deform_num_heads == (8 if level == 'l3' else 6)
            assert cfg.model.neck.in_channels == [dims] * 4


@pytest.mark.parametrize('path', [VIM_MASK_RCNN, VIM_CASCADE], ids=lambda path: path.stem)
def test_vim_detection_recipe(path: Path):
    cfg = load(path)
    found = groups(cfg)
    assert {name for name, group in found.items() if group['weight_decay'] == 0} == {'backbone.pos_embed'}
    assert {group['weight_decay'] for name, group in found.items() if name != 'backbone.pos_embed'} == {0.1}
    for name, depth in (('backbone.pos_embed', 0), ('backbone.layers.3.norm.weight', 4), ('neck.simfp_3.0.bias', 25)):
        assert found[name]['lr'] == pytest.approx(1e-4 * 0.837 ** (25 - depth)), name
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (184375, 8)
    warmup, steps = cfg.param_scheduler
    assert (warmup.end, warmup.start_factor, steps.milestones) == (250, 0.001, [163889, 177546])
    if path == VIM_CASCADE:
        heads = cfg.model.roi_head.bbox_head
        assert [tuple(round(1 / std) for std in head.bbox_coder.target_stds[::2]) for head in heads] == [
            (10, 5),
            (20, 10),
            (30, 15),
        ]
        assert [stage.assigner.pos_iou_thr for stage in cfg.model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
        assert all(head.reg_class_agnostic and head.norm_cfg.type == 'LN2d' for head in heads)


def test_vim_segmentation_recipe():
    cfg = load(VIM_UPERNET)
    found = groups(cfg)
    for name, decay in (
        ('pos_embed', 0),
        ('layers.3.norm.weight', 0),
        ('layers.3.mixer.D', 0),
        ('layers.3.mixer.conv1d.bias', 0),
        ('layers.3.mixer.A_log', 0.05),
        ('layers.3.mixer.in_proj.weight', 0.05),
    ):
        assert found[f'backbone.{name}']['weight_decay'] == decay, name
    assert found['backbone.layers.3.mixer.A_log']['lr'] == pytest.approx(1e-4 * 0.92**21)
    assert found['decode_head.conv_seg.weight']['lr'] == 1e-4
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (60000, 8)
    warmup, poly = cfg.param_scheduler
    assert (warmup.end, warmup.start_factor, poly.power, poly.end) == (1500, 1e-6, 1.0, 60000)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert (cfg.model.decode_head.channels, cfg.model.auxiliary_head.in_index) == (192, 2)
    small = load(VIM_UPERNET.with_name(VIM_UPERNET.name.replace('vim-t', 'vim-s'))).model
    assert (small.decode_head.channels, small.auxiliary_head.in_channels) == (384, 384)


# What VMamba's rule spares, and what other recipes would spare too.
VMAMBA_SPARED = (
    'layers.0.blocks.0.norm.weight',
    'layers.2.blocks.3.norm2.bias',
    'layers.2.blocks.3.op.out_norm.weight',
    'outnorm1.weight',
)
VMAMBA_DECAYING = (
    'patch_embed.2.weight',
    'patch_embed.7.bias',
    'layers.1.downsample.3.weight',
    'layers.2.blocks.3.op.A_logs',
    'layers.2.blocks.3.op.Ds',
    'layers.2.blocks.3.op.dt_projs_bias',
    'layers.2.blocks.3.mlp.fc1.bias',
)


@pytest.mark.parametrize(
    ('path', 'lr', 'decay'),
    [(VMAMBA_MASK_RCNN, 1e-4, 0.05), (VMAMBA_MS_3X, 1e-4, 0.05), (VMAMBA_UPERNET, 6e-5, 0.01)],
    ids=lambda value: getattr(value, 'stem', None),
)
def test_vmamba_spares_what_is_named_norm(path: Path, lr: float, decay: float):
    cfg = load(path)
    found = decays(cfg)
    assert {found[f'backbone.{name}'] for name in VMAMBA_SPARED} == {0}
    assert {found[f'backbone.{name}'] for name in VMAMBA_DECAYING} == {decay}
    assert {value for name, value in found.items() if not name.startswith('backbone.')} == {decay}
    assert [name for name, value in found.items() if value == 0 and 'norm' not in name] == []
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas) == ('AdamW', lr, (0.9, 0.999))
    assert cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.train_dataloader.batch_size == 2


def test_vmamba_detection_recipe():
    cfg, long = load(VMAMBA_MASK_RCNN), load(VMAMBA_MS_3X)
    for config, epochs, milestones in ((cfg, 12, [8, 11]), (long, 36, [27, 33])):
        warmup, steps = config.param_scheduler
        assert (warmup.start_factor, warmup.end) == (0.001, 1000)
        assert (config.train_cfg.max_epochs, steps.end, steps.milestones) == (epochs, epochs, milestones)
        assert config.train_dataloader.dataset.filter_cfg.filter_empty_gt is True
    for name, arch, rate, width in (('t', 'tiny', 0.2, 96), ('s', 'small', 0.3, 96), ('b', 'base', 0.6, 128)):
        model = load_config(str(VMAMBA_MASK_RCNN).replace('vmamba-t', f'vmamba-{name}')).model
        assert (model.backbone.arch, model.backbone.drop_path_rate) == (arch, rate)
        assert model.neck.in_channels == [width * 2**i for i in range(4)]
        assert 'norm_cfg' not in model.neck
        assert (model.roi_head.bbox_head.type, model.roi_head.bbox_head.norm_cfg) == ('Shared2FCBBoxHead', None)


def test_vmamba_trains_on_several_scales(stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    dataset = DATASETS.build(load(VMAMBA_MS_3X).train_dataloader.dataset)
    np.random.seed(0)
    shapes = [tuple(dataset[i % 2]['inputs'].shape[1:]) for i in range(12)]
    assert all(480 <= min(shape) <= 800 and max(shape) <= 1333 for shape in shapes)
    assert len(set(shapes)) > 4
    assert any(round(max(shape) / min(shape), 2) != round(640 / 480, 2) for shape in shapes), 'some are cropped'


def test_vmamba_segmentation_recipe():
    cfg = load(VMAMBA_UPERNET)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (160000, 16000)
    warmup, poly = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end, poly.power, poly.begin, poly.end) == (1e-6, 1500, 1.0, 1500, 160000)
    assert cfg.model.test_cfg == dict(mode='whole')
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline].count('ResizeToMultiple') == 0
    for name, arch, rate, width in (('t', 'tiny', 0.2, 96), ('s', 'small', 0.3, 96), ('b', 'base', 0.6, 128)):
        model = load_config(str(VMAMBA_UPERNET).replace('vmamba-t', f'vmamba-{name}')).model
        assert (model.backbone.arch, model.backbone.drop_path_rate) == (arch, rate)
        assert model.decode_head.in_channels == [width * 2**i for i in range(4)]
        assert (model.auxiliary_head.in_channels, model.auxiliary_head.in_index) == (width * 4, 2)
        assert (model.decode_head.channels, model.auxiliary_head.channels) == (512, 256)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/*_semantic-fpn_*.py')), ids=lambda path: path.stem)
def test_semantic_fpn_recipe(path: Path):
    cfg = load(path)
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (80000, 2)
    optimizer, (warmup, poly) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 1e-4)
    assert (warmup.end, poly.power, poly.end) == (1500, 0.9, 80000)
    assert set(decays(cfg).values()) == {1e-4}
    assert (cfg.model.decode_head.type, cfg.model.neck.type) == ('FPNHead', 'FPN')


def test_large_scale_jitter(stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    cfg = load(VIM_MASK_RCNN)
    from mmdet.registry import MODELS

    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    np.random.seed(1)
    samples = [dataset[i % 2] for i in range(6)]
    sides = [max(sample['inputs'].shape[1:]) for sample in samples]
    assert min(sides) < 700 < max(sides) <= 1024
    batch = dict(inputs=[s['inputs'] for s in samples[:2]], data_samples=[s['data_samples'] for s in samples[:2]])
    assert preprocessor(batch, training=True)['inputs'].shape == (2, 3, 1024, 1024)
    test = DATASETS.build(cfg.test_dataloader.dataset)[0]
    assert tuple(test['inputs'].shape) == (3, 768, 1024)
    padded = preprocessor(dict(inputs=[test['inputs']], data_samples=[test['data_samples']]))['inputs']
    assert padded.shape == (1, 3, 1024, 1024)
    assert torch.equal(padded[0, :, 768:], torch.zeros(3, 256, 1024))


@pytest.mark.parametrize(
    ('path', 'split'),
    [(path, split) for path in (UPERNET, VIM_UPERNET, VMAMBA_UPERNET) for split in ('test_pipeline', 'tta_pipeline')],
    ids=lambda value: getattr(value, 'stem', value),
)
def test_ade20k_test_images_suit_the_backbone_and_labels_stay(path: Path, split: str, stand_in: Path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    cfg = load(path)
    cfg.test_dataloader.dataset.pipeline = cfg[split]
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    images = sample['inputs'] if isinstance(sample['inputs'], list) else [sample['inputs']]
    samples = sample['data_samples'] if isinstance(sample['data_samples'], list) else [sample['data_samples']]
    assert len(images) == {'test_pipeline': 1, 'tta_pipeline': 8 if path == VIM_UPERNET else 12}[split]
    if path == VIM_UPERNET:
        assert all(side >= 512 for image in images for side in image.shape[1:]), 'the window has to fit'
    elif path == UPERNET and split == 'test_pipeline':
        assert all(side % 32 == 0 for side in images[0].shape[1:])
    labels = samples[0].gt_sem_seg.data
    assert labels.shape[-2:] == (512, 683)
    assert set(labels.unique().tolist()) <= {*range(150), 255}
