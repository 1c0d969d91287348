"""--tta and --out: what they make of a config, for data sets in wrappers and detectors with masks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmssmprune.datasets import Settings, make_data_set
from mmssmprune.engine.prediction_output import dump_predictions, enable_tta
from mmssmprune.engine.runner_setup import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DET = CONFIGS / 'plain_mamba/plain-mamba-mini-top70_mask-rcnn_1xb8-300i_mini-coco-128x128.py'
SEG = CONFIGS / 'vim/vim-t_upernet_4xb8-60k_ade20k-512x512.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('mini')
    for name in ('mini_coco', 'mini_ade'):
        make_data_set(name, root / name, Settings(128, 1, 2, 0))
    return root


@pytest.fixture
def det(data: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Mask R-CNN of which boxes alone are evaluated."""
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(data))
    cfg = load_config(str(DET), {'test_evaluator.metric': 'bbox'})
    init_default_scope('mmdet')
    return cfg


WRAPPERS = {
    'none': lambda dataset: dataset,
    'ConcatDataset': lambda dataset: dict(type='ConcatDataset', datasets=[dataset, dataset]),
    'RepeatDataset': lambda dataset: dict(type='RepeatDataset', times=2, dataset=dataset),
    'ClassBalancedDataset': lambda dataset: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=dataset),
    'a repeated ConcatDataset': lambda dataset: dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset, dataset])
    ),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS.keys())
def test_boxes_are_augmented_in_every_data_set(wrap: object, det: Config):
    det.test_dataloader.dataset = wrap(det.test_dataloader.dataset.to_dict())
    enable_tta(det)
    dataset = DATASETS.build(det.test_dataloader.dataset)
    for i in (0, len(dataset) - 1):
        assert sorted(sample.flip for sample in dataset[i]['data_samples']) == [False, True]


@pytest.mark.parametrize('name', ['ConcatDataset', 'RepeatDataset'])
def test_label_maps_are_augmented_in_every_data_set(name: str, data: Path):
    cfg = load_config(str(SEG))
    init_default_scope('mmseg')
    prefix = dict(img_path='images/validation', seg_map_path='annotations/validation')
    inner = cfg.test_dataloader.dataset.to_dict() | dict(data_root=str(data / 'mini_ade'), data_prefix=prefix)
    inner.update(img_suffix='.png', type='BaseSegDataset', metainfo=dict(classes=('a', 'b')))
    cfg.test_dataloader.dataset = WRAPPERS[name](inner)
    enable_tta(cfg)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert [len(dataset[i]['inputs']) for i in range(len(dataset))] == [8] * 4


@torch.no_grad()
def test_boxes_of_mask_rcnn_are_merged(det: Config):
    det.model.test_cfg.rcnn.score_thr = 0.0
    enable_tta(det)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(det.model)).eval()
    sample = DATASETS.build(det.test_dataloader.dataset)[0]
    (merged,) = model.test_step(pseudo_collate([sample]))
    found = merged.pred_instances
    assert len(found) > 0
    assert found.bboxes.shape == (len(found), 4)
    assert 'masks' not in found
    # What mmdet cannot do stays refused.
    for own in (False, True):
        both = load_config(str(DET))
        if own:
            both.tta_model, both.tta_pipeline = dict(type='DetTTAModel'), []
        with pytest.raises(ValueError, match='--tta merges boxes only'):
            enable_tta(both)


def test_maps_need_a_metric_that_writes_them(tmp_path: Path):
    cfg = load_config(str(SEG))
    cfg.test_evaluator = [dict(type='CityscapesMetric')]
    with pytest.raises(ValueError, match='needs an IoUMetric'), ExitStack() as test_run:
        dump_predictions(cfg, str(tmp_path / 'maps'), test_run)
