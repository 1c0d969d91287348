"""Data sets on disk, read by mmdet and mmseg through the configs that users train with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmssmprune.datasets import Settings, check_data_root, is_made, make_data_set, scenes_of

REPOSITORY = Path(__file__).parents[2]
BASES = REPOSITORY / 'configs' / '_base_' / 'datasets'
SETTINGS = Settings(size=96, train=4, val=6, seed=3)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    for name in ('mini_coco', 'mini_ade'):
        make_data_set(name, folder / name, SETTINGS)
    return folder


@pytest.fixture
def config(root, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(root))
    return lambda name: Config.fromfile(BASES / f'{name}.py')


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob('*') if p.is_file() and p.name != 'samples.png')
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize('name', ['mini_coco', 'mini_ade'])
def test_same_seed_same_bytes(root, tmp_path, name):
    make_data_set(name, tmp_path / 'again', SETTINGS)
    assert digests(tmp_path / 'again') == digests(root / name)
    make_data_set(name, tmp_path / 'other', Settings(size=96, train=4, val=6, seed=4))
    assert digests(tmp_path / 'other') != digests(root / name)


def test_coco_annotations_are_the_scene(root, config):
    from mmdet.registry import DATASETS, TASK_UTILS  # noqa: F401
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg = config('mini_coco')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    scenes = list(scenes_of('mini_coco', 'val', SETTINGS))
    assert len(dataset) == len(scenes)
    for i, scene in enumerate(scenes):
        sample = dataset[i]
        instances = sample['data_samples'].gt_instances
        assert np.array_equal(sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1], scene.image)
        for thing, mask, box, label in zip(
            scene.things, instances.masks.masks, instances.bboxes.tensor, instances.labels, strict=True
        ):
            assert np.array_equal(mask.astype(bool), thing.mask)
            ys, xs = np.where(thing.mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert cfg.metainfo.classes[label] == thing.category
    annotations = json.loads((root / 'mini_coco/annotations/instances_val.json').read_text())['annotations']
    assert [a['area'] for a in annotations] == [int(t.mask.sum()) for s in scenes for t in s.things]


def test_perfect_detections_score_one(root, config):
    from mmdet.evaluation import CocoMetric

    cfg = config('mini_coco')
    metric = CocoMetric(ann_file=cfg.val_evaluator.ann_file, metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=cfg.metainfo.classes)
    from mmengine.structures import InstanceData

    for image_id, scene in enumerate(scenes_of('mini_coco', 'val', SETTINGS), start=1):
        masks = torch.from_numpy(np.stack([t.mask for t in scene.things]))
        boxes = [[m.any(0).nonzero()[0][[0, -1]], m.any(1).nonzero()[0][[0, -1]]] for m in masks.numpy()]
        instances = InstanceData(
            masks=masks,
            bboxes=torch.tensor([[x[0], y[0], x[1] + 1, y[1] + 1] for x, y in boxes], dtype=torch.float32),
            labels=torch.tensor([cfg.metainfo.classes.index(t.category) for t in scene.things]),
            scores=torch.ones(len(masks)),
        )
        sample = dict(img_id=image_id, ori_shape=scene.labels.shape, pred_instances=instances)
        metric.process({}, [sample])
    result = metric.evaluate(size=SETTINGS.val)
    assert result['coco/bbox_mAP'] == 1
    assert result['coco/segm_mAP'] == 1


def test_perfect_label_maps_score_hundred(config):
    from mmseg.evaluation import IoUMetric
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg = config('mini_ade')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dataset.metainfo
    for i, scene in enumerate(scenes_of('mini_ade', 'val', SETTINGS)):
        sample = dataset[i]['data_samples']
        labels = sample.gt_sem_seg.data
        # reduce_zero_label: 0 becomes "ignore", the classes count from 0
        assert np.array_equal(labels[0].numpy(), np.where(scene.labels == 0, 255, scene.labels - 1))
        truth = sample.to_dict()
        metric.process({}, [dict(truth, pred_sem_seg=dict(data=labels.clamp(max=8)))])
    result = metric.evaluate(size=SETTINGS.val)
    assert result['mIoU'] == 100


def test_what_is_made_is_recognised(root, tmp_path):
    assert is_made(root / 'mini_coco', SETTINGS)
    assert not is_made(root / 'mini_coco', Settings())
    (tmp_path / 'settings.json').write_text('{"size"')
    assert not is_made(tmp_path, SETTINGS)


def test_an_interrupted_run_leaves_the_old_data_and_nothing_half_made(tmp_path):
    target = tmp_path / 'mini_ade'
    make_data_set('mini_ade', target, Settings(size=64, train=1, val=1))
    before = digests(target)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_data_set('mini_ade', target, Settings(size=64, train=2, val=1), progress=stop)
    assert digests(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ['mini_ade']


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / 'photos').mkdir()
    with pytest.raises(FileExistsError, match='is not a data set made by this tool'):
        make_data_set('mini_ade', tmp_path / 'photos', Settings(size=64, train=1, val=1))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(size=32), 'at least 64 pixels a side, got 32'),
        (dict(train=0), 'train images must be at least 1, got 0'),
        (dict(seed=-1), 'seed must be 0 or more'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_tool_says_one_sentence():
    script = REPOSITORY / 'tools' / 'dataset_tools' / 'make_mini.py'
    done = subprocess.run([sys.executable, script, '--size', '5'], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: scenes need at least 64 pixels a side, got 5'


def test_missing_data_are_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match=r'train_dataloader reads .*mini_ade.* run `python tools/dataset_tools'):
        check_data_root(Config.fromfile(BASES / 'mini_ade.py'))
    with pytest.raises(FileNotFoundError, match='set MMSSMPRUNE_DATA_ROOT to the folder that holds it'):
        check_data_root(Config.fromfile(BASES / 'coco_instance.py'))


def test_data_that_are_there_pass(config):
    for name in ('mini_coco', 'mini_ade'):
        check_data_root(config(name))


def test_remote_data_are_left_to_their_storage():
    loader = dict(dataset=dict(data_root='s3://bucket/coco/', ann_file='a.json'))
    check_data_root(Config(dict(train_dataloader=loader)))
