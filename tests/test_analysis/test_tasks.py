from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from mmssmprune.analysis.tasks import numbers_in, task_of

EVALUATORS_OF_OTHER_TASKS = [
    {'type': 'VOCMetric'},
    {'type': 'CocoMetric', 'metric': 'proposal'},
    {'type': 'Accuracy', 'topk': (5,)},
    {'type': 'Accuracy', 'thrs': (0.0, 0.5)},
]


def config(**evaluator) -> Config:
    return Config({'test_evaluator': evaluator})


def test_metrics_in_percent():
    task = task_of(config(type='CocoMetric', metric=['bbox', 'segm']), 'x')
    measured = {'coco/bbox_mAP': 0.441, 'coco/bbox_mAP_50': 0.6, 'coco/segm_mAP': 0.391}
    assert task.percentages(measured) == pytest.approx({'bbox mAP': 44.1, 'segm mAP': 39.1})
    task = task_of(config(type='mmseg.IoUMetric', iou_metrics=['mIoU']), 'x')
    assert task.percentages({'aAcc': 80.0, 'mIoU': 44.12}) == {'mIoU': 44.12}


def test_a_detector_that_finds_nothing_has_accuracy_zero():
    task = task_of(config(type='CocoMetric', metric=['bbox', 'segm']), 'x')
    assert task.percentages({}) == {'bbox mAP': 0.0, 'segm mAP': 0.0}


def test_prefix_and_single_metric():
    task = task_of(config(type='CocoMetric', metric='bbox', prefix='val'), 'x')
    assert task.percentages({'val/bbox_mAP': 0.5}) == {'bbox mAP': 50.0}


def test_accuracy_of_a_classifier():
    task = task_of(config(type='Accuracy', topk=(1, 5)), 'x')
    assert task.name == 'classification'
    assert task.percentages({'accuracy/top1': 77.9, 'accuracy/top5': 94.0}) == {'top-1': 77.9, 'top-5': 94.0}
    task = task_of(config(type='mmpretrain.Accuracy', topk=1, prefix='val'), 'x')
    assert task.percentages({'val/top1': 50.0}) == {'top-1': 50.0}


def test_missing_and_undefined_metrics_are_refused():
    task = task_of(config(type='CocoMetric', metric=['bbox', 'segm']), 'x')
    with pytest.raises(ValueError, match='but not coco/segm_mAP'):
        task.percentages({'coco/bbox_mAP': 0.5})
    with pytest.raises(ValueError, match='no annotated object'):
        task.percentages({'coco/bbox_mAP': -1.0, 'coco/segm_mAP': -1.0})


@pytest.mark.parametrize('evaluator', EVALUATORS_OF_OTHER_TASKS)
def test_other_evaluators_are_refused(evaluator: dict):
    with pytest.raises(ValueError, match='neither CocoMetric'):
        task_of(config(**evaluator), 'x')


def test_first_known_evaluator_of_a_list():
    cfg = Config({'test_evaluator': [{'type': 'DumpResults'}, {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}]})
    assert task_of(cfg, 'x').name == 'segmentation'


def test_what_is_no_number_is_left_out():
    found = numbers_in(
        {'mIoU': torch.tensor(1.5), 'top': '2', 'curve': [0.1, 0.2], 'map': torch.zeros(2), 'note': 'none'}
    )
    assert found == {'mIoU': 1.5, 'top': 2.0}
