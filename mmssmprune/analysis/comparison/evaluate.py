"""Accuracy through mmengine's Runner, with the config's own test_dataloader and test_evaluator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from mmssmprune.analysis.quiet import quiet
from mmssmprune.engine.loading import build_model
from mmssmprune.engine.runner_setup import build_runner
from mmssmprune.models import set_keep_ratio

from .entries import Entry
from .latency import describe_device

KeepRatio = float | list[float]


def load_model(entry: Entry) -> nn.Module:
    """The entry's model with its checkpoint, if it has one, in eval mode on mmengine's device."""
    with quiet():
        return build_model(entry.cfg, None if entry.checkpoint is None else str(entry.checkpoint))


def solve_plan(entry: Entry) -> float:
    """The keep ratio with which the entry's backbone meets the target that its config sets.

    Raises:
        ValueError: the target cannot be met.
    """
    init_default_scope(entry.cfg.get('default_scope', 'mmengine'))
    with quiet():
        backbone = MODELS.build(entry.cfg.model.backbone)
    return backbone.pruner.plan.keep_ratios[0]


def apply_keep_ratio(model: nn.Module, entry: Entry, keep_ratio: KeepRatio) -> None:
    """Set the keep ratio of an entry's built model; a dense one has none and stays as it is."""
    if entry.pruning is not None:
        set_keep_ratio(model, keep_ratio)


def evaluate(
    entry: Entry,
    keep_ratios: Sequence[KeepRatio],
    work_dir: Path,
    on_result: Callable[[KeepRatio, dict[str, Any]], None],
    on_batch: Callable[[KeepRatio, int, int], None] | None = None,
) -> None:
    """Test one checkpoint at several keep ratios.

    Args:
        entry: the model.
        keep_ratios: where it is tested; a dense model has only 1.0.
        work_dir: where the Runner writes its logs.
        on_result: called after each test with the keep ratio and ``metrics`` (as the evaluator names them),
            ``num_images`` and ``device`` (as `describe_device` says it).
        on_batch: called before the first and after each batch with the keep ratio, batches done and batches in all.
    """
    with quiet():
        runner = build_runner(_test_config(entry, work_dir), 'test')
        if entry.weights == 'random':
            _randomise(runner.model)
    progress = _Progress(on_batch)
    runner.register_hook(progress)
    for keep_ratio in keep_ratios:
        apply_keep_ratio(runner.model, entry, keep_ratio)
        progress.keep_ratio = keep_ratio
        with quiet():
            metrics = runner.test()
        images = len(runner.test_dataloader.dataset)
        numbers = _numbers(metrics)
        on_result(keep_ratio, {'metrics': numbers, 'num_images': images, 'device': describe_device(get_device())})


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Without the lists and texts that a metric of one's own may report as well."""
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):
            numbers[name] = float(value)
    return numbers


def _test_config(entry: Entry, work_dir: Path) -> Config:
    cfg = copy.deepcopy(entry.cfg)
    cfg.work_dir = str(work_dir)
    cfg.launcher = 'none'
    cfg.load_from, cfg.resume = (None if entry.checkpoint is None else str(entry.checkpoint)), False
    # Names loggers, and a name shared by two Runners would mix them up.
    cfg.experiment_name = f'{entry.name}-{entry.config_hash[:8]}-{entry.checkpoint_hash[:8]}'
    cfg.randomness = {'seed': 0}
    return cfg


def _randomise(model: nn.Module) -> None:
    """The weights that a training from scratch starts with."""
    set_random_seed(0)
    model.init_weights()


class _Progress(Hook):
    """Reports batches of a test."""

    def __init__(self, on_batch: Callable[[KeepRatio, int, int], None] | None) -> None:
        self.keep_ratio: KeepRatio = 1.0
        self.on_batch = on_batch

    def before_test_epoch(self, runner: Runner) -> None:
        self._report(runner, 0)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._report(runner, batch_idx + 1)

    def _report(self, runner: Runner, done: int) -> None:
        if self.on_batch is not None:
            self.on_batch(self.keep_ratio, done, len(runner.test_dataloader))
