"""The configs for photographs, on made-up downloads that the tool has prepared: each trains a step and is tested."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from config_files import ALL, CONFIGS, load
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from stand_in_downloads import make_bccd_download, make_camvid_download, make_nuclei_download

from mmssmprune.engine.runner_setup import build_runner, load_config

PHOTOS = sorted(path for path in CONFIGS.rglob('*-mini12_*.py') if '_base_' not in path.parts)
TOOL = str(CONFIGS.parent / 'tools' / 'dataset_tools' / 'prepare_data.py')
MAKE = {'camvid': make_camvid_download, 'nuclei': make_nuclei_download, 'bccd': make_bccd_download}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('photos')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMSSMPRUNE_DATA_ROOT', str(root / 'data'))
        for name, make in MAKE.items():
            patch.setattr('sys.argv', [TOOL, name, str(make(root / 'downloads'))])
            runpy.run_path(TOOL, run_name='__main__')
    return root / 'data'


# A second or two each: a training of real size is what is promised.
@pytest.mark.parametrize('path', PHOTOS, ids=lambda path: path.stem)
def test_trains_and_tests(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(data))
    cfg = load_config(str(path))
    init_default_scope(cfg.default_scope)
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.experiment_name = cfg.visualizer.name = path.stem  # mmengine keeps visualizers by name within a process
    runner = build_runner(cfg, 'train')
    runner.train()
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    metric = {'mmseg': 'mIoU', 'mmdet': 'coco/bbox_mAP'}[cfg.default_scope]
    assert math.isfinite(runner.message_hub.get_scalar(f'val/{metric}').current())
    backbone = runner.model.backbone
    assert backbone.num_layers >= 12
    largest = {'camvid-192x256': (240, 320), 'camvid-288x384': (360, 480), 'nuclei': (256, 256)}
    tokens = backbone.tokens_per_layer(largest.get(path.stem.split('_')[-1], (240, 320)))
    assert sum(n >= 400 for n in tokens) >= 10  # photographs are too fine for gaps of one cell


def steps(pipeline: list[dict]) -> list[dict]:
    """A pipeline with the steps of its branches in their places."""
    branches = [inner for step in pipeline for branch in step.get('transforms', []) for inner in steps(branch)]
    return [*pipeline, *branches]


def test_no_crop_leaves_a_box_without_area():
    """Its regression target is the logarithm of zero, and the loss nan."""
    crops = []
    for path in ALL:
        cfg = load(path)
        types = [
            'RecomputingCrop' if step['type'] == 'RandomCrop' and step.get('recompute_bbox') else step['type']
            for step in steps(cfg.get('train_pipeline', []))
        ]
        if 'RecomputingCrop' in types:
            crops.append(path.stem)
            assert 'FilterAnnotations' in types[types.index('RecomputingCrop') :], path
    assert [name for name in crops if 'nuclei' in name]


def test_a_nucleus_of_which_the_crop_has_nothing_is_left_out():
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    cfg = load(CONFIGS / 'vim/vim-mini12_mask-rcnn_1xb4-1500i_nuclei.py')
    init_default_scope('mmdet')
    pipeline = Compose([step for step in cfg.train_pipeline if not step['type'].startswith('Load')])
    masks = np.zeros((2, 256, 320), np.uint8)
    masks[0, 50:90, 100:150] = 1
    masks[1, 20, [0, 319]] = 1  # two specks: a crop between them lies in the box and has no pixel of it
    for _ in range(20):
        sample = dict(
            img=np.zeros((256, 320, 3), np.uint8),
            img_shape=(256, 320),
            gt_bboxes=HorizontalBoxes(np.array([[100, 50, 150, 90], [0, 20, 320, 21]], np.float32)),
            gt_bboxes_labels=np.zeros(2, np.int64),
            gt_ignore_flags=np.zeros(2, bool),
            gt_masks=BitmapMasks(masks, 256, 320),
        )
        found = pipeline(sample)['data_samples'].gt_instances
        assert (found.bboxes.areas >= 1).all()
        assert len(found) == len(found.masks) >= 1


def test_every_family_is_there():
    assert {path.parent.name for path in PHOTOS if 'camvid' in path.stem} == {'plain_mamba', 'vim', 'vmamba'}
    assert {path.stem.split('_')[-1].split('-')[0] for path in PHOTOS} == set(MAKE)
