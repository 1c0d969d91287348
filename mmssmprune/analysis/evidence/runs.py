"""One run from start to end: a config, tools/train.py, the comparison's evaluation, and the result as a JSON file."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed

from mmssmprune.analysis.comparison.entries import Entry
from mmssmprune.analysis.comparison.measure import evaluate
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.per_class import PER_CLASS, split
from mmssmprune.analysis.quiet import quiet
from mmssmprune.analysis.results import digest, file_digest, without_nan
from mmssmprune.analysis.software import software
from mmssmprune.analysis.tasks import task_of
from mmssmprune.checkpoints.reading import is_complete_checkpoint
from mmssmprune.checkpoints.writing import write_whole
from mmssmprune.engine.runner_setup import load_config

from .plan import REPO, TRAINING, Run, StudySetting, checkpoint_file, result_file, work_dir


def execute(run: Run, root: Path) -> None:
    """Train a dense model; or do a row whose dense model is there, and write its result.

    Raises:
        SystemExit: a training failed.
        ValueError: the row's pruning is refused, or the checkpoint is of another architecture.
    """
    if run.phase == TRAINING:
        return train(run, root)
    started = time.monotonic()
    setting, tests, dense = run.setting, range(len(run.row.tests)), checkpoint_file(root, run.dense)
    training = {'seconds': 0.0, 'iterations': 0}
    if run.phase == 'tuned':
        begun = time.monotonic()
        train(run, root, dense)
        training = {'seconds': round(time.monotonic() - begun, 1), 'iterations': run.schedule['iters']}
    checkpoint = checkpoint_file(root, run) if run.phase == 'tuned' else dense
    logs = work_dir(root, run) / 'test'
    result = {
        **{key: getattr(run, key) for key in ('id', 'series', 'label', 'phase', 'seed', 'definition')},
        'setting': setting.name,
        'config': setting.config,
        'config_hash': digest(testing_config(setting).to_dict()),
        'data_hash': testing_entry(setting, None, dense).data_hash,
        'dense_checkpoint_hash': file_digest(dense),
        'checkpoint_hash': file_digest(checkpoint),
        'device': str(get_device()),
        'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        **software(),
        'training': training,
        'tests': [measure(setting, run.pruning_at(test), checkpoint, run.seed, logs) for test in tests],
        'seconds': round(time.monotonic() - started, 1),
    }
    write_whole(result_file(root, run), json.dumps(without_nan(result), indent=1, allow_nan=False))
    if run.phase == 'free':
        shutil.rmtree(work_dir(root, run), ignore_errors=True)
    for path in work_dir(root, run).glob('*.pth*'):
        if not (run.row.keep and path == checkpoint_file(root, run)):
            path.unlink()


def dense_config(setting: StudySetting) -> Config:
    """The setting's config, with its options."""
    return load_config(str(REPO / setting.config), dict(setting.options))


# Testing -------------------------------------------------------------------------------------------------------------


def testing_config(setting: StudySetting) -> Config:
    """The setting's config, its evaluator replaced by one that tells every class."""
    cfg = dense_config(setting)
    cfg.test_evaluator.type = PER_CLASS[cfg.test_evaluator.type]
    return cfg


def testing_entry(setting: StudySetting, pruning: dict[str, Any] | None, checkpoint: Path) -> Entry:
    """The setting's model with other ``pruning``, as the comparison takes it."""
    cfg, task = testing_config(setting), task_of(dense_config(setting), setting.name)
    cfg.model.backbone.pruning = pruning
    cfg.test_dataloader.batch_size = setting.test_batch
    return Entry(setting.name, cfg, REPO / setting.config, checkpoint, task)


def measure(
    setting: StudySetting, pruning: dict[str, Any] | None, checkpoint: Path, seed: int, logs: Path
) -> dict[str, Any]:
    """Accuracy and cost of a model with other ``pruning``; ``seed`` is that of random importance.

    Metrics are named and scaled as the evaluator does, those of single classes are percentages; FLOPs are those of the
    backbone, ``reduction`` is the share of the dense backbone's that is saved.
    """
    started = time.monotonic()
    cost = _backbone_cost(setting, pruning)
    found: dict[str, Any] = {}
    evaluate(
        testing_entry(setting, pruning, checkpoint),
        [cost['keep_ratios'] or 1.0],
        logs,
        on_result=lambda ratio, value: found.update(value),
        on_batch=lambda ratio, done, total: None if done else set_random_seed(seed),
    )
    metrics, per_class = split(found['metrics'])
    dense = cost['flops'] if pruning is None else _backbone_cost(setting, None)['flops']
    return {
        'pruning': pruning,
        'metrics': metrics,
        'per_class': per_class,
        'num_images': found['num_images'],
        'reduction': 1 - cost['flops'] / dense,
        **cost,
        'seconds': round(time.monotonic() - started, 2),
    }


def _backbone_cost(setting: StudySetting, pruning: dict[str, Any] | None) -> dict[str, Any]:
    """FLOPs for one image of the setting's shape, tokens per layer and keep ratios; they depend on no weights."""
    cfg = dense_config(setting)
    init_default_scope(cfg.default_scope)
    with quiet():
        backbone = MODELS.build({**cfg.model.backbone, 'pruning': pruning}).to(get_device()).eval()
    plan = getattr(getattr(backbone, 'pruner', None), 'plan', None)
    return {
        'flops': count_flops(backbone, torch.zeros(1, 3, *setting.shape, device=get_device())).total,
        'tokens': [int(n) for n in backbone.tokens_per_layer(setting.shape)],
        'keep_ratios': None if plan is None else list(plan.keep_ratios),
    }


# Training ------------------------------------------------------------------------------------------------------------


def train(run: Run, root: Path, start: Path | None = None) -> None:
    """Train with tools/train.py, from ``start`` if there is one, unless that is done; it goes on where it stopped.

    Raises:
        SystemExit: it failed; its own output says why.
    """
    folder, checkpoint = work_dir(root, run), checkpoint_file(root, run)
    if is_complete_checkpoint(checkpoint):
        return
    config = folder / 'config' / f'{run.setting.name}.py'
    parts = training_config(run, start).to_dict().items()  # Config.dump formats them, which takes seconds
    write_whole(config, ''.join(f'{key} = {pformat(value, sort_dicts=False)}\n' for key, value in parts))
    # An installed package need not be the one of this repository.
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, str(REPO / 'tools/train.py'), str(config), '--resume', '--work-dir', str(folder)]
    code = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}).returncode
    if code or not is_complete_checkpoint(checkpoint):
        sys.exit(f'the training in {folder} ended with code {code}')


def training_config(run: Run, start: Path | None = None) -> Config:
    """The dense config at the setting's length; from a checkpoint, with the row's pruning and a short schedule."""
    setting, schedule, cfg = run.setting, run.schedule, dense_config(run.setting)
    iters, stages = schedule['iters'], cfg.param_scheduler
    changes = {'randomness.seed': run.seed, 'train_cfg.max_iters': iters}
    if stages:
        stages[-1].end = iters
    if start is None:
        changes['train_cfg.val_interval'] = iters
        interval, lines = setting.dense_interval, 100
    else:
        if len(stages) > 1:  # the first is the warm-up
            stages[0].end = stages[1].begin = schedule['warmup']
        cfg.load_from = str(start)
        cfg.model.backbone.pruning = run.pruning
        cfg.optim_wrapper.optimizer.lr *= schedule['lr_scale']
        changes['train_cfg.val_begin'] = iters + 1  # the test follows, so no validation is needed here
        interval, lines = setting.tune_interval, 50
    # One checkpoint to go on from, and one in reserve.
    changes |= {'default_hooks.checkpoint.interval': interval, 'default_hooks.checkpoint.max_keep_ckpts': 2}
    cfg.merge_from_dict(changes | {'default_hooks.logger.interval': lines})
    cfg.merge_from_dict(dict(run.row.cfg))
    return cfg
