"""The evaluators of mmseg and mmdet, asked for every class as well."""

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

PerClass = dict[str, dict[str, float]]


@SEG_METRICS.register_module()
class PerClassIoUMetric(IoUMetric):
    """IoUMetric that keeps what it only prints: ``per_class['IoU'][class]`` in percent, NaN where it is undefined."""

    per_class: PerClass

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As IoUMetric's."""
        intersect, union, predicted, label = (sum(areas) for areas in zip(*results, strict=True))
        by_class = self.total_area_to_metrics(
            intersect, union, predicted, label, self.metrics, self.nan_to_num, self.beta
        )
        classes = self.dataset_meta['classes']
        self.per_class = {'IoU': {name: 100 * float(v) for name, v in zip(classes, by_class['IoU'], strict=True)}}
        return super().compute_metrics(results)


@DET_METRICS.register_module()
class PerClassCocoMetric(CocoMetric):
    """CocoMetric that keeps ``per_class['bbox' or 'segm'][class]`` (AP in percent) and does not round its averages.

    CocoMetric's own ``classwise`` rounds to 0.001, and lets masks overwrite boxes.
    """

    per_class: PerClass

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As CocoMetric's; ``bbox_mAP`` and ``segm_mAP`` keep all their digits."""
        classes = self.dataset_meta['classes']
        # CocoMetric stops without a word where nothing is detected on any image.
        self.per_class = {kind: dict.fromkeys(classes, 0.0) for kind in self.metrics}
        with _recorded_evaluations() as evaluations:
            metrics = super().compute_metrics(results)
        for evaluation in evaluations:
            kind = evaluation.params.iouType
            precision = evaluation.eval['precision'][:, :, :, 0, -1]
            self.per_class[kind] = {name: 100 * _mean(precision[:, :, i]) for i, name in enumerate(classes)}
            metrics[f'{kind}_mAP'] = float(evaluation.stats[0])
        return {f'{kind}_mAP': 0.0 for kind in self.metrics} | dict(metrics)


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
