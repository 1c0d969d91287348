"""The segmentation configs take images of every shape: long, tall, and smaller than the crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from config_files import CONFIGS, PLAIN_MAMBA, VIM, VMAMBA, build, load
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS
from PIL import Image

# (height, width): beyond 4:1 both ways, and smaller than a window and no multiple of a patch both ways.
SHAPES = [(30, 300), (300, 31), (17, 23)]
PATHS = {
    'vim': VIM / 'vim-t_upernet_4xb8-60k_ade20k-512x512.py',
    'plain_mamba': PLAIN_MAMBA / 'plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py',
    'vmamba': VMAMBA / 'vmamba-t_upernet_8xb2-160k_ade20k-512x512.py',
    'vim_mini': VIM / 'vim-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    'plain_mamba_mini': PLAIN_MAMBA / 'plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    'vmamba_mini': VMAMBA / 'vmamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
}
each_config = pytest.mark.parametrize('path', PATHS.values(), ids=PATHS.keys())


def load_small(path: Path, data: Path) -> tuple[Config, torch.nn.Module]:
    """The config with its sizes of images and windows, on pictures of SHAPES, and a model that is narrow and flat."""
    cfg = load(path)
    backbone, heads = cfg.model.backbone, [cfg.model.decode_head, cfg.model.get('auxiliary_head')]
    if backbone.type == 'VMamba' and 'mini' not in path.stem:
        backbone.arch = dict(embed_dims=4, depths=(1, 1, 1, 1))
        for head, widths in zip(heads, ([4, 8, 16, 32], 16), strict=True):
            head.update(channels=8, in_channels=widths, num_classes=9)
    elif 'mini' not in path.stem:
        backbone.arch = dict(embed_dims=16, num_layers=4, mixer_cfg=dict(d_state=1))
        if backbone.type == 'PlainMamba':
            backbone.arch.update(num_convs=1, layers_with_dwconv=[])
        backbone.out_indices = (0, 1, 2, 3)
        for head in heads:
            head.update(channels=8, in_channels=[16] * 4 if head is heads[0] else 16, num_classes=9)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.update(data_root=str(data), data_prefix=dict(img_path='images', seg_map_path='labels'))
        loader.dataset.update(img_suffix='.png', seg_map_suffix='.png', type='BaseSegDataset', reduce_zero_label=True)
        loader.dataset.metainfo = dict(classes=[str(i) for i in range(heads[0].num_classes)])
    torch.manual_seed(0)
    return cfg, revert_sync_batchnorm(build(cfg))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    rng = np.random.default_rng(0)
    for name in ('images', 'labels'):
        (root / name).mkdir()
    for height, width in SHAPES:
        name = f'{height}x{width}.png'
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / 'images' / name)
        Image.fromarray(rng.integers(0, 9, (height, width), dtype=np.uint8)).save(root / 'labels' / name)
    return root


# 15 s on one core: windows of 512x512 slide over images of up to 512x2048, which is what the configs do.
@each_config
@torch.no_grad()
def test_images_of_every_shape_are_segmented(path: Path, data: Path):
    cfg, model = load_small(path, data)
    model.eval()
    sizes = set()
    model.backbone.register_forward_pre_hook(lambda _, images: sizes.add(tuple(images[0].shape[-2:])))
    for sample in DATASETS.build(cfg.test_dataloader.dataset):
        (result,) = model.test_step(pseudo_collate([sample]))
        assert tuple(result.pred_sem_seg.data.shape[1:]) == sample['data_samples'].gt_sem_seg.data.shape[1:]
    if path == PATHS['vim']:
        assert sizes == {(512, 512)}, 'windows are as large as the crops of the training'


def test_an_image_into_which_the_window_fits_is_not_padded(data: Path):
    _, model = load_small(PATHS['vim'], data)
    batch = model.data_preprocessor(dict(inputs=[torch.zeros(3, 513, 700)], data_samples=[]), False)
    assert batch['inputs'].shape[-2:] == (513, 700)


@torch.no_grad()
def test_flipped_and_scaled_long_images_are_segmented(data: Path):
    cfg, model = load_small(PATHS['vim'], data)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    averaged = MODELS.build(dict(cfg.tta_model, module=model)).eval()
    sample = DATASETS.build(cfg.test_dataloader.dataset)[1]
    (result,) = averaged.test_step(pseudo_collate([sample]))
    assert tuple(result.pred_sem_seg.data.shape[1:]) == sample['data_samples'][0].gt_sem_seg.data.shape[1:]


@each_config
def test_crops_of_every_shape_are_trained_on(path: Path, data: Path):
    cfg, model = load_small(path, data)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    batch = model.data_preprocessor(pseudo_collate(list(dataset)), True)
    model.backbone.patch_embed.grid_of(tuple(batch['inputs'].shape[-2:]))  # raises where patches do not tile
    assert batch['inputs'].shape[-2:] == batch['data_samples'][0].gt_sem_seg.data.shape[-2:]


def test_the_advice_is_what_each_suite_knows():
    """An untiled image: what the sentence says to set is a name of the suite's own preprocessor, and it helps."""
    import inspect

    from mmdet.models import DetDataPreprocessor
    from mmseg.models import SegDataPreProcessor

    cfg = load(PATHS['vim_mini'])
    model = revert_sync_batchnorm(build(cfg))
    with pytest.raises(ValueError, match='do not tile an image of 42x64 pixels') as error:
        model.backbone(torch.zeros(1, 3, 42, 64))
    assert 'pad_size_divisor=8 (mmdet' in str(error.value)
    assert 'size_divisor=8 and, for testing, test_cfg=dict(size_divisor=8) (mmseg)' in str(error.value)
    assert 'pad_size_divisor' in inspect.signature(DetDataPreprocessor).parameters
    assert {'size_divisor', 'test_cfg'} <= inspect.signature(SegDataPreProcessor).parameters.keys()
    assert 'pad_size_divisor' not in inspect.signature(SegDataPreProcessor).parameters


def test_every_slide_config_pads_to_its_window():
    slides = [path for path in CONFIGS.glob('*/*_ade20k-*.py') if load(path).model.test_cfg.mode == 'slide']
    assert len(slides) >= 8
    for path in slides:
        model = load(path).model
        assert model.data_preprocessor.test_cfg.size == model.test_cfg.crop_size, path.name
