"""One checkpoint tested under many `pruning` dicts, on a part of its test set or on all of it; results are kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch.utils.data import Subset

from mmssmprune.analysis.inputs import first_test_shape
from mmssmprune.analysis.latency import describe_device
from mmssmprune.analysis.quiet import quiet
from mmssmprune.analysis.results import ResultStore, digest, file_digest
from mmssmprune.analysis.software import software
from mmssmprune.analysis.tasks import Task, numbers_in
from mmssmprune.engine import runner_setup
from mmssmprune.models.flops import count_on_meta, on_meta

Pruning = dict[str, Any]


@dataclass
class PlanTester:
    """Measures what plans cost and what they keep of the accuracy.

    Args:
        cfg: the config, of a dense or a pruned model; its own pruning is not looked at here.
        checkpoint: weights that fit it, elastic ones included; what a choice has learned is kept while it is used.
        task, metric: of which accuracy is spoken, by the title of one of the task's metrics.
        out_dir: results are kept in ``results/`` below it, logs in ``logs/``.
        shape: (H, W) at which FLOPs are counted and targets solved; None for that of the first test image.
    """

    cfg: Config
    checkpoint: Path
    task: Task
    metric: str
    out_dir: Path
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.store = ResultStore(self.out_dir / 'results')
        self.runner = self._make_runner()
        self.backbone = self.runner.model.backbone
        if not hasattr(self.backbone, 'set_pruning'):
            raise ValueError(f'{type(self.backbone).__name__} cannot be pruned, so there is no plan to search')
        self.learned = {k: v.clone() for k, v in self.backbone.state_dict().items() if k.startswith('pruner.')}
        if self.shape is None:
            self.shape = first_test_shape(self.runner.model, self.cfg)
        self._weights, self._what = file_digest(self.checkpoint), digest(self.cfg.to_dict())
        self.set(None)
        self.dense_flops = self.flops()

    def _make_runner(self) -> Runner:
        cfg = copy.deepcopy(self.cfg)
        cfg.work_dir, cfg.launcher = str(self.out_dir / 'logs'), 'none'
        cfg.load_from, cfg.resume = str(self.checkpoint), False
        cfg.experiment_name = f'search-{digest(self.cfg.to_dict())[:8]}'
        cfg.randomness = {'seed': 0}
        with quiet():
            runner = runner_setup.build_runner(cfg, 'test')
            runner.load_or_resume()
        return runner

    @property
    def images(self) -> int:
        """Size of the test set."""
        return len(self.runner.test_dataloader.dataset)

    def set(self, pruning: Mapping[str, Any] | None) -> None:
        """Prune by this dict from now on; raises TargetOutOfReach where its target is."""
        with quiet():
            self.backbone.set_pruning(pruning)
        fresh = self.backbone.state_dict()
        fitting = {k: v for k, v in self.learned.items() if k in fresh and fresh[k].shape == v.shape}
        self.backbone.load_state_dict(fitting, strict=False)
        self.backbone.to(next(self.runner.model.parameters()).device).eval()

    def flops(self) -> int:
        """FLOPs of the backbone as it is set."""
        return count_on_meta(on_meta(self.backbone), self.shape)

    def reduction(self) -> float:
        """Share of the dense backbone's FLOPs that is saved as it is set."""
        return 1 - self.flops() / self.dense_flops

    def accuracy(self, pruning: Mapping[str, Any] | None, images: int) -> float:
        """Percent under a solved plan, on so many images spread over the test set.

        Raises:
            ValueError: the evaluator gave no number for the metric.
        """
        key = {
            'what': 'search',
            'model': Path(str(self.cfg.filename or 'model')).stem,
            'config': self._what,
            'weights': self._weights,
            'pruning': None if pruning is None else dict(pruning),
            'images': images,
            'device_type': str(get_device()),
            **software(),
        }
        measured = _metrics_in(self.store.get(key))
        if measured is None:  # or damaged
            self.set(pruning)
            measured = self._test(images)
            device = describe_device(get_device())
            self.store.put(key, {'metrics': measured, 'device': device})
        value = self.task.percentages(measured)[self.metric]
        if value != value:
            raise ValueError(f'the evaluator gives no number for {self.metric} on {images} test images')
        return value

    def _test(self, images: int) -> dict[str, float]:
        dataset, loop = self.runner.test_dataloader.dataset, self.runner.test_loop
        chosen = spread(images, len(dataset))
        whole = [(metric, getattr(metric, 'img_ids', None)) for metric in loop.evaluator.metrics]
        part = copy.copy(loop.dataloader)
        with quiet():
            if images < len(dataset):
                part = self._part(dataset, chosen)
            for metric, _ in whole:
                if hasattr(metric, 'img_ids'):  # CocoMetric would miss the objects of all other images
                    metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in chosen]
            loop.dataloader, before = part, loop.dataloader
            try:
                metrics = self.runner.test()
            finally:
                loop.dataloader = before
                for metric, ids in whole:
                    if hasattr(metric, 'img_ids'):
                        metric.img_ids = ids
        return numbers_in(metrics)

    def _part(self, dataset: Any, chosen: Sequence[int]) -> Any:
        settings = copy.deepcopy(self.cfg.test_dataloader)
        settings.dataset = Subset(dataset, chosen)
        return Runner.build_dataloader(settings, seed=0)


def spread(images: int, of: int) -> list[int]:
    """So many numbers at equal distances below ``of``; all of them where there are no more."""
    count = min(images, of)
    return [i * of // count for i in range(count)]


def _metrics_in(value: Any) -> dict[str, float] | None:
    metrics = value.get('metrics') if isinstance(value, Mapping) else None
    if not isinstance(metrics, Mapping) or len(numbers := numbers_in(metrics)) < len(metrics):
        return None
    return numbers
