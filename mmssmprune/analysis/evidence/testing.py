"""Testing in this process: build a model for a row, give it weights, measure its accuracy and its FLOPs."""

from __future__ import annotations

import copy
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.utils.data import DataLoader

import mmssmprune.models  # noqa: F401  (registers the backbones)
from mmssmprune.analysis.comparison.entries import Entry
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.quiet import quiet
from mmssmprune.analysis.tasks import task_of
from mmssmprune.datasets import check_data_root
from mmssmprune.engine import loading
from mmssmprune.engine.runner_setup import load_config
from mmssmprune.pruning import ALIGNMENT

from . import metrics  # noqa: F401  (registers the metrics)
from .plan import Row, Setting

CALIBRATION_BATCHES = 25
_PER_CLASS = {'IoUMetric': 'PerClassIoUMetric', 'CocoMetric': 'PerClassCocoMetric'}


def build_model(setting: Setting, pruning: dict[str, Any] | None, checkpoint: Path, seed: int) -> nn.Module:
    """The setting's model with another ``pruning``, in eval mode on mmengine's device.

    Args:
        setting: whose config to build.
        pruning: the backbone's pruning dict.
        checkpoint: the weights. All must fit, but what pruning adds to a backbone may be missing.
        seed: for what is missing.

    Raises:
        ValueError: the checkpoint does not fit.
    """
    cfg = copy.deepcopy(dense_config(setting))
    cfg.model.backbone.pruning = pruning
    with quiet():
        return loading.build_model(cfg, str(checkpoint), seed)


@cache
def dense_config(setting: Setting) -> Config:
    """The setting's config, its evaluator replaced by one that keeps every class."""
    cfg = load_config(str(setting.config_path))
    check_data_root(cfg, ('train_dataloader', 'test_dataloader'))
    cfg.test_evaluator.type = _PER_CLASS[cfg.test_evaluator.type]
    return cfg


@cache
def test_loader(setting: Setting) -> DataLoader:
    """The test images in batches."""
    cfg = dense_config(setting)
    init_default_scope(cfg.default_scope)
    with quiet():
        return Runner.build_dataloader({**cfg.test_dataloader, 'batch_size': setting.test_batch}, seed=0)


@cache
def data_hash(setting: Setting) -> str:
    """Of the test data, so that remade data is noticed."""
    cfg = load_config(str(setting.config_path))
    return Entry(setting.name, cfg, setting.config_path, None, task_of(cfg, setting.name)).data_hash


def calibrate_model(model: nn.Module, setting: Setting, seed: int) -> None:
    """Let the model's alignment measure what it needs on training images; ``seed`` draws them."""
    from mmssmprune.engine.calibration import calibrate

    cfg = dense_config(setting)
    init_default_scope(cfg.default_scope)
    with quiet():
        calibrate(model, Runner.build_dataloader(cfg.train_dataloader, seed=seed), CALIBRATION_BATCHES)
    model.eval()


def needs_calibration(row: Row) -> bool:
    """Whether the row's alignment stores something that a dense checkpoint does not have."""
    return row.pruning is not None and 'calibration' in ALIGNMENT.needs_of(row.pruning.get('alignment'))


def measure(model: nn.Module, setting: Setting, seed: int) -> dict[str, Any]:
    """Accuracy and cost of a built model.

    Returns:
        ``metrics`` (as the evaluator names them), ``per_class`` (percent), ``flops`` of the backbone, ``reduction``
        (share of the dense backbone's FLOPs that is saved), ``tokens`` per layer, ``keep_ratios``, ``num_images`` and
        ``seconds``.
    """
    started = time.monotonic()
    flops = backbone_flops(model, setting)
    plan = getattr(getattr(model.backbone, 'pruner', None), 'plan', None)
    return {
        **_accuracy(model, setting, seed),
        'flops': flops,
        'reduction': 1 - flops / dense_flops(setting),
        'tokens': [int(n) for n in model.backbone.tokens_per_layer(setting.shape)],
        'keep_ratios': None if plan is None else list(plan.keep_ratios),
        'seconds': round(time.monotonic() - started, 2),
    }


def make_evaluator(setting: Setting) -> Evaluator:
    """The config's evaluator; its one metric has ``per_class`` after the evaluation."""
    cfg = dense_config(setting)
    init_default_scope(cfg.default_scope)
    with quiet():
        evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = test_loader(setting).dataset.metainfo
    return evaluator


def _accuracy(model: nn.Module, setting: Setting, seed: int) -> dict[str, Any]:
    loader = test_loader(setting)
    evaluator = make_evaluator(setting)
    with quiet():
        set_random_seed(seed)  # random importance
        with torch.no_grad():
            for batch in loader:
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        measured = evaluator.evaluate(len(loader.dataset))
    return {
        'metrics': {name: float(value) for name, value in measured.items()},
        'per_class': evaluator.metrics[0].per_class,
        'num_images': len(loader.dataset),
    }


def backbone_flops(model: nn.Module, setting: Setting) -> int:
    """FLOPs of the backbone for one image of the setting's shape."""
    image = torch.zeros(1, 3, *setting.shape, device=next(model.parameters()).device)
    return count_flops(model.backbone, image).total


@cache
def dense_flops(setting: Setting) -> int:
    """FLOPs of the dense backbone; they depend on no weights."""
    cfg = dense_config(setting)
    init_default_scope(cfg.default_scope)
    with quiet():
        model = nn.Module()
        model.backbone = revert_sync_batchnorm(MODELS.build(cfg.model.backbone)).to(get_device()).eval()
    return backbone_flops(model, setting)
