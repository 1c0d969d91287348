"""The evaluators of mmseg and mmdet, asked for every class as well: ``IoU.road``, ``coco/bbox.person``, in percent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS as DET_METRICS
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS as SEG_METRICS

PER_CLASS = {'IoUMetric': 'PerClassIoUMetric', 'CocoMetric': 'PerClassCocoMetric'}


@SEG_METRICS.register_module()
class PerClassIoUMetric(IoUMetric):
    """IoUMetric that gives what it only prints: ``IoU.<class>``, NaN where it is undefined."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As IoUMetric's, and every class."""
        intersect, union, predicted, label = (sum(areas) for areas in zip(*results, strict=True))
        by_class = self.total_area_to_metrics(
            intersect, union, predicted, label, self.metrics, self.nan_to_num, self.beta
        )
        names = [f'IoU.{name}' for name in self.dataset_meta['classes']]
        return super().compute_metrics(results) | {
            name: 100 * float(value) for name, value in zip(names, by_class['IoU'], strict=True)
        }


@DET_METRICS.register_module()
class PerClassCocoMetric(CocoMetric):
    """CocoMetric that gives ``bbox.<class>`` and ``segm.<class>`` (AP) and does not round its averages.

    CocoMetric's own ``classwise`` rounds to 0.001, and lets masks overwrite boxes.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As CocoMetric's, but ``bbox_mAP`` and ``segm_mAP`` keep all their digits, and every class."""
        classes = self.dataset_meta['classes']
        # CocoMetric stops without a word where nothing is detected on any image.
        found = {name: 0.0 for kind in self.metrics for name in (f'{kind}_mAP', *(f'{kind}.{c}' for c in classes))}
        with _recorded_evaluations() as evaluations:
            found |= super().compute_metrics(results)
        for evaluation in evaluations:
            kind = evaluation.params.iouType
            precision = evaluation.eval['precision'][:, :, :, 0, -1]
            found |= {f'{kind}.{name}': 100 * _mean(precision[:, :, i]) for i, name in enumerate(classes)}
            found[f'{kind}_mAP'] = float(evaluation.stats[0])
        return found


def split(metrics: dict[str, float]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """What one of these metrics gave: its averages, and kind ('IoU', 'bbox', 'segm') -> class -> percent."""
    averages, per_class = {}, {}
    for name, value in metrics.items():
        kind, dot, of_class = name.removeprefix('coco/').partition('.')
        if dot:
            per_class.setdefault(kind, {})[of_class] = value
        else:
            averages[name] = value
    return averages, per_class


def _mean(precision: np.ndarray) -> float:
    """COCOeval marks what is undefined (a class without objects) by -1."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float('nan')


@contextmanager
def _recorded_evaluations() -> Iterator[list[Any]]:
    """Collect the COCOeval objects that CocoMetric makes and throws away."""
    made: list[Any] = []
    original = coco_metric.COCOeval

    class Recorded(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    coco_metric.COCOeval = Recorded
    try:
        yield made
    finally:
        coco_metric.COCOeval = original
