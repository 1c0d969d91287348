"""Real photographs beside the repository: the check finds them whole, and the suite trains and tests on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny_runs import REPO

from mmssmprune.datasets.check_files import How
from mmssmprune.datasets.check_parts import parts_of_config, published_parts

DATA = REPO.parent / 'shared' / 'data'
CONFIGS = REPO / 'configs'
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason='needs the photographs in ../shared/data')

BLOOD = ('RBC', 'WBC', 'Platelets')
ROAD = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist')
MINI = CONFIGS / 'plain_mamba' / 'plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py'


def instances(name: str, classes: tuple[str, ...], masks: bool) -> dict[str, Any]:
    ann_file = 'annotations/instances_val.json'
    dataset = dict(
        type='CocoDataset',
        data_root=str(DATA / name),
        ann_file=ann_file,
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)],
    )
    evaluator = dict(type='CocoMetric', ann_file=str(DATA / name / ann_file), metric=['bbox'] + ['segm'] * masks)
    return dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset), val_evaluator=evaluator)


def road(ignore_index: int) -> dict[str, Any]:
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(DATA / 'camvid'),
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        metainfo=dict(classes=ROAD),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    evaluator = dict(type='IoUMetric', ignore_index=ignore_index)
    return dict(default_scope='mmseg', val_dataloader=dict(dataset=dataset), val_evaluator=evaluator)


@pytest.mark.parametrize(
    ('cfg', 'seen'),
    [
        (instances('nuclei', ('nucleus',), True), ['134 images', '4317 annotations']),
        (instances('bccd', BLOOD, False), ['87 images', '1138 annotations']),
        (road(11), ['101 images', '101 label maps']),
    ],
    ids=['nuclei', 'bccd', 'camvid'],
)
def test_small_sets_are_whole(cfg: dict[str, Any], seen: list[str]):
    findings = parts_of_config(Config(cfg))[0].check(How(workers=2))
    assert (findings.seen, findings.sentences()) == (seen, [])


def test_masks_and_void_are_missed_where_they_are_wanted():
    asked = parts_of_config(Config(instances('bccd', BLOOD, True)))[0].check(How('names', workers=2)).sentences()
    assert '1138 masks are missing or empty' in asked[0]
    void = parts_of_config(Config(road(255)))[0].check(How(workers=2)).sentences()
    assert len(void) == 1
    assert 'label maps hold labels other than 0 to 10' in void[0]


@pytest.mark.parametrize(('kind', 'root'), [('coco', 'coco'), ('ade', 'ade/ADEChallengeData2016')])
def test_samples_of_published_sets_are_whole(kind: str, root: str):
    for part in published_parts(kind, DATA / root):
        assert replace(part, published=None).check(How('pixels', workers=2)).sentences() == []


def test_a_pruned_model_trains_and_is_validated_on_photographs(tool: Callable[..., int], tmp_path: Path):
    """Two steps on crops of road scenes, and two frames of another size: six seconds."""
    config = tmp_path / 'road.py'
    config.write_text(
        f"""_base_ = [{str(MINI)!r}]
load, labels = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
common = dict(_delete_=True, type='BaseSegDataset', metainfo=dict(classes={ROAD}), data_root={str(DATA / 'camvid')!r},
              data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'))
train_pipeline = [load, labels, dict(type='RandomCrop', crop_size=(128, 128)), dict(type='PackSegInputs')]
test_pipeline = [load, dict(type='Resize', scale=(192, 144)), labels, dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline, **common))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, indices=2, **common))
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=11)
test_evaluator = val_evaluator
model = dict(decode_head=dict(num_classes=11, ignore_index=11, loss_decode=dict(class_weight=None)))
train_cfg = dict(max_iters=2, val_interval=2)
"""
    )
    assert tool('dataset_tools/check_data.py', config, '--quick') == 0
    assert tool('train.py', config, '--work-dir', tmp_path / 'run') == 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'mIoU: ' in log
    assert 'nan  loss' not in log


SMALL = {
    'ade': 'train_dataloader.dataset.pipeline.2.scale=(256,128) '
    'train_dataloader.dataset.pipeline.3.crop_size=(128,128) '
    'val_dataloader.dataset.pipeline.1.scale=(256,128) test_dataloader.dataset.pipeline.1.scale=(256,128) '
    'model.data_preprocessor.size=(128,128) train_cfg.max_iters=2 train_cfg.val_interval=2 '
    'default_hooks.checkpoint.interval=2',
    'coco': 'train_dataloader.dataset.pipeline.2.scale=(256,192) val_dataloader.dataset.pipeline.1.scale=(256,192) '
    'test_dataloader.dataset.pipeline.1.scale=(256,192) train_cfg.max_epochs=1',
    'slide': 'model.test_cfg.crop_size=(128,128) model.test_cfg.stride=(96,96)',
    'lsj': 'train_dataloader.dataset.pipeline.3.scale=(256,256) '
    'train_dataloader.dataset.pipeline.4.crop_size=(256,256) '
    'val_dataloader.dataset.pipeline.1.scale=(256,256) test_dataloader.dataset.pipeline.1.scale=(256,256) '
    'model.data_preprocessor.pad_size_divisor=256 train_cfg.max_iters=2 train_cfg.val_interval=2 '
    'train_cfg.dynamic_intervals=None default_hooks.checkpoint.interval=2',
}
RUNS = [
    ('plain_mamba/plain-mamba-l1{}_upernet_8xb2-160k_ade20k-512x512.py', ('ade',), 'mIoU: '),
    ('plain_mamba/plain-mamba-adapter-l1{}_mask-rcnn_8xb2-1x_coco.py', ('coco',), 'coco/segm_mAP: '),
    ('vim/vim-t{}_upernet_4xb8-60k_ade20k-512x512.py', ('ade', 'slide'), 'mIoU: '),
    ('vim/vim-t{}_mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py', ('lsj',), 'coco/segm_mAP: '),
]


@pytest.mark.slow
@pytest.mark.parametrize('pruned', ['', '-flops30'])
@pytest.mark.parametrize(('config', 'small', 'metric'), RUNS, ids=['seg', 'det', 'vim-seg', 'vim-det'])
def test_shipped_configs_run_on_photographs(
    tool: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    small: tuple[str, ...],
    metric: str,
    pruned: str,
):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(DATA))
    path = CONFIGS / config.format(pruned)
    options = ['--cfg-options', *[option for name in small for option in SMALL[name].split()]]
    options += ['model.backbone.init_cfg=None', 'train_dataloader.batch_size=2', 'train_dataloader.dataset.indices=4']
    for split, indices in (('train', 4), ('val', 2), ('test', 2)):
        loader = f'{split}_dataloader'
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        options += [f'{loader}.dataset.indices={indices}']
    assert tool('train.py', path, '--work-dir', tmp_path / 'run', *options) == 0
    checkpoint = (tmp_path / 'run' / 'last_checkpoint').read_text()
    assert tool('test.py', path, checkpoint, '--work-dir', tmp_path / 'test', *options) == 0
    for folder in ('run', 'test'):
        log = next((tmp_path / folder).glob('*/*.log')).read_text()
        assert metric in log or 'The testing results of the whole dataset is empty' in log
        assert 'loss: nan' not in log
