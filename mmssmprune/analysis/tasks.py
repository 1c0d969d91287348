"""What each task is measured by: its evaluator, and the metrics that a table shows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config


@dataclass(frozen=True)
class Metric:
    """A column of accuracy: its title, the evaluator's key, and what turns the evaluator's number into percent."""

    title: str
    key: str
    to_percent: float


@dataclass(frozen=True)
class Task:
    """A kind of problem that gets its own table."""

    name: str
    title: str
    metrics: tuple[Metric, ...]

    def percentages(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Metric title -> percent.

        Raises:
            ValueError: the evaluator did not report a metric, or there was nothing to measure.
        """
        # CocoMetric reports nothing at all where a model detects nothing on any image: that is an accuracy of 0.
        if not measured:
            return {metric.title: 0.0 for metric in self.metrics}
        missing = [metric.key for metric in self.metrics if metric.key not in measured]
        if missing:
            raise ValueError(f'the evaluator reported {", ".join(measured)}, but not {", ".join(missing)}')
        values = {metric.title: float(measured[metric.key]) * metric.to_percent for metric in self.metrics}
        negative = [title for title, value in values.items() if value < 0]
        if negative:
            raise ValueError(f'{negative[0]} is undefined: the test set has no annotated object')
        return values


def numbers_in(metrics: Mapping[Any, Any]) -> dict[str, float]:
    """What an evaluator gave, as far as it is numbers: a metric of one's own may report lists and texts as well."""
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):
            numbers[str(name)] = float(value)
    return numbers


def task_of(cfg: Config, name: str) -> Task:
    """The task that a config's test_evaluator measures.

    Args:
        cfg: an mmdet, mmseg or mmpretrain config.
        name: what to call the config in the message.

    Raises:
        ValueError: it has no CocoMetric (bbox or segm), no IoUMetric (mIoU) and no Accuracy (top-1).
    """
    evaluators = cfg.get('test_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        task = _TASK_OF_METRIC.get(str(evaluator.get('type')).rsplit('.', 1)[-1], lambda _: None)(evaluator)
        if task is not None:
            return task
    raise ValueError(
        f'{name} cannot be compared: its test_evaluator is neither CocoMetric (bbox, segm), nor IoUMetric, nor Accuracy'
    )


def _detection(evaluator: Mapping) -> Task | None:
    asked = evaluator.get('metric', 'bbox')
    asked = [asked] if isinstance(asked, str) else list(asked)
    prefix = evaluator.get('prefix') or 'coco'
    metrics = [Metric(f'{kind} mAP', f'{prefix}/{kind}_mAP', 100.0) for kind in ('bbox', 'segm') if kind in asked]
    title = 'Detection and instance segmentation' if 'segm' in asked else 'Detection'
    return Task('detection', title, tuple(metrics)) if metrics else None


def _segmentation(evaluator: Mapping) -> Task | None:
    prefix = evaluator.get('prefix')
    metric = Metric('mIoU', f'{prefix}/mIoU' if prefix else 'mIoU', 1.0)
    asked = evaluator.get('iou_metrics', ['mIoU'])
    return Task('segmentation', 'Semantic segmentation', (metric,)) if 'mIoU' in asked else None


def _classification(evaluator: Mapping) -> Task | None:
    asked, thrs = evaluator.get('topk', (1,)), evaluator.get('thrs', 0.0)
    asked = [asked] if isinstance(asked, int) else list(asked)
    prefix = evaluator.get('prefix') or 'accuracy'
    metrics = [Metric(f'top-{k}', f'{prefix}/top{k}', 1.0) for k in asked]
    # With thresholds, which decide when a guess counts at all, mmpretrain names its numbers by them.
    return Task('classification', 'Classification', tuple(metrics)) if 1 in asked and thrs == 0.0 else None


_TASK_OF_METRIC = {'CocoMetric': _detection, 'IoUMetric': _segmentation, 'Accuracy': _classification}
