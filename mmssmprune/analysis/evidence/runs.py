"""One run from start to end: a config, tools/train.py, the comparison's evaluation, and the result as a JSON file."""

from __future__ import annotations

import copy
import datetime
import json
import os
import pprint
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmssmprune.analysis.comparison.entries import Entry
from mmssmprune.analysis.comparison.measure import evaluate
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.quiet import quiet
from mmssmprune.analysis.results import digest, file_digest, without_nan, write_atomically
from mmssmprune.analysis.software import software
from mmssmprune.analysis.tasks import task_of
from mmssmprune.checkpoints.reading import is_complete_checkpoint
from mmssmprune.checkpoints.writing import save_checkpoint
from mmssmprune.datasets import check_data_root
from mmssmprune.engine.calibration import calibrate
from mmssmprune.engine.loading import build_model
from mmssmprune.engine.runner_setup import load_config
from mmssmprune.pruning import ALIGNMENT

from .metrics import PER_CLASS, split
from .plan import REPO, Run, StudyFolders, StudySetting

CALIBRATION_BATCHES = 25
LOG_TAIL = 30
# One to go on from, and one in reserve.
KEPT_CHECKPOINTS = 2


class TrainingError(RuntimeError):
    """A training ended badly; the message holds the end of its log."""


def execute(run: Run, folders: StudyFolders) -> dict[str, Any]:
    """Do a run whose dense checkpoint is there, write its result and return it.

    Raises:
        TrainingError: the fine-tuning failed.
        ValueError: the row's pruning is refused, or the checkpoint is of another architecture.
    """
    started = time.monotonic()
    dense = folders.dense_checkpoint(run.setting, run.seed)
    training = {'seconds': 0.0, 'iterations': 0}
    levels = range(len(run.row.tests))
    if run.phase == 'tuned':
        training = fine_tune(run, start_checkpoint(run, dense, folders), folders)
        checkpoints = [folders.tuned_checkpoint(run)] * len(levels)
    else:
        checkpoints = [start_checkpoint(run, dense, folders, level) for level in levels]
    result = {
        **{key: getattr(run, key) for key in ('id', 'series', 'label', 'phase', 'seed', 'definition')},
        'setting': run.setting.name,
        'config': str(run.setting.config),
        'config_hash': digest(dense_config(run.setting).to_dict()),
        'data_hash': _entry(run.setting, None, dense).data_hash,
        'dense_checkpoint_hash': file_digest(dense),
        'checkpoint_hash': file_digest(checkpoints[0]),
        'device': str(get_device()),
        'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        **software(),
        'training': training,
        'tests': [measure(run.setting, run.row.pruning_at(i), checkpoints[i], run.seed) for i in levels],
        'seconds': round(time.monotonic() - started, 1),
    }
    write_atomically(folders.result(run), json.dumps(without_nan(result), indent=1, allow_nan=False))
    _clean(run, folders)
    return result


def _clean(run: Run, folders: StudyFolders) -> None:
    """Delete what a finished run needs no more: its checkpoints, or with ``keep`` all but the last."""
    if run.phase == 'free':
        shutil.rmtree(folders.run_dir(run), ignore_errors=True)
    for path in folders.run_dir(run).glob('*.pth*'):
        if not (run.row.keep and path == folders.tuned_checkpoint(run)):
            path.unlink()


@cache
def dense_config(setting: StudySetting) -> Config:
    """The setting's config, its evaluator replaced by one that tells every class."""
    cfg = load_config(str(setting.config_path))
    check_data_root(cfg, ('train_dataloader', 'test_dataloader'))
    cfg.test_evaluator.type = PER_CLASS[cfg.test_evaluator.type]
    return cfg


def _entry(setting: StudySetting, pruning: dict[str, Any] | None, checkpoint: Path) -> Entry:
    cfg = copy.deepcopy(dense_config(setting))
    cfg.model.backbone.pruning = pruning
    cfg.test_dataloader.batch_size = setting.test_batch
    task = task_of(load_config(str(setting.config_path)), setting.name)  # known by the evaluator's own name
    return Entry(setting.name, cfg, setting.config_path, checkpoint, task)


# Testing -------------------------------------------------------------------------------------------------------------


def measure(setting: StudySetting, pruning: dict[str, Any] | None, checkpoint: Path, seed: int) -> dict[str, Any]:
    """Accuracy and cost of a model with other ``pruning``; ``seed`` is that of random importance.

    Returns:
        ``pruning``, ``metrics`` (as the evaluator names them), ``per_class`` (percent), ``flops`` of the backbone,
        ``reduction`` (share of the dense backbone's FLOPs that is saved), ``tokens`` per layer, ``keep_ratios``,
        ``num_images`` and ``seconds``.
    """
    started = time.monotonic()
    cost = _backbone_cost(setting, pruning)
    found: dict[str, Any] = {}
    evaluate(
        _entry(setting, pruning, checkpoint),
        [cost['keep_ratios'] or 1.0],
        Path(_log_folder().name),
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


@cache
def _log_folder() -> tempfile.TemporaryDirectory:
    """One for the process, at whose end it goes: mmengine keeps writing to the first."""
    return tempfile.TemporaryDirectory()


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


def train_dense(setting: StudySetting, seed: int, folders: StudyFolders) -> None:
    """Train a dense model unless that is done, going on where an earlier process stopped.

    Raises:
        TrainingError: it failed.
    """
    stages, iters = len(load_config(str(setting.config_path)).param_scheduler), setting.dense_iters
    options = {
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        **({f'param_scheduler.{stages - 1}.end': iters} if stages else {}),
        'default_hooks.checkpoint.interval': setting.dense_interval,
        'default_hooks.checkpoint.max_keep_ckpts': KEPT_CHECKPOINTS,
        'default_hooks.logger.interval': 100,
        'randomness.seed': seed,
    }
    words = ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    work_dir = folders.dense_dir(setting, seed)
    run_training(
        [*_train_command(setting.config_path, work_dir), *words], work_dir, folders.dense_checkpoint(setting, seed)
    )


def fine_tune(run: Run, start: Path, folders: StudyFolders) -> dict[str, Any]:
    """Fine-tune a row from the weights in ``start``; raises as `train_dense`.

    Returns:
        ``iterations`` of its schedule, and the ``seconds`` that this process trained.
    """
    started = time.monotonic()
    work_dir = folders.run_dir(run)
    config = work_dir / 'config' / f'{run.setting.name}.py'
    write_atomically(config, fine_tune_config(run, start, config.parent))
    run_training(_train_command(config, work_dir), work_dir, folders.tuned_checkpoint(run))
    return {'seconds': round(time.monotonic() - started, 1), 'iterations': run.tune_iters}


def start_checkpoint(run: Run, dense: Path, folders: StudyFolders, test: int = 0) -> Path:
    """The dense checkpoint, calibrated for one of the row's tests if its alignment stores what that one lacks."""
    if run.row.pruning is None or 'calibration' not in ALIGNMENT.needs_of(run.row.pruning.get('alignment')):
        return dense
    start = folders.run_dir(run) / f'start{test}.pth'
    if not is_complete_checkpoint(start):
        cfg = _entry(run.setting, run.row.pruning_at(test), dense).cfg
        with quiet():
            model = build_model(cfg, str(dense), run.seed)
            calibrate(model, Runner.build_dataloader(cfg.train_dataloader, seed=run.seed), CALIBRATION_BATCHES)
        save_checkpoint({'state_dict': model.state_dict(), 'meta': {}}, start)
    return start


def fine_tune_config(run: Run, start: Path, folder: Path) -> str:
    """The text of a fine-tuning's config: the dense config, a short schedule, the row's pruning and extras.

    Args:
        run: what to fine-tune.
        start: the checkpoint to start from.
        folder: where the text will lie; ``_base_`` is relative to it.
    """
    setting, pruning = run.setting, run.row.pruning
    dense = load_config(str(setting.config_path))
    scheduler = [stage.to_dict() for stage in dense.param_scheduler]
    if len(scheduler) > 1:  # the first is the warm-up
        scheduler[0]['end'] = scheduler[1]['begin'] = setting.warmup
    if scheduler:
        scheduler[-1]['end'] = run.tune_iters
    if pruning is not None and 'pruning' in dense.model.backbone:
        # Nothing of it is to be merged; without anything to replace mmengine keeps the key.
        pruning = {**pruning, '_delete_': True}
    parts: dict[str, Any] = {
        '_base_': [os.path.relpath(setting.config_path, folder)],
        'load_from': str(start),
        'randomness': {'seed': run.seed},
        'model': {'backbone': {'pruning': pruning and dict(pruning)}},
        'optim_wrapper': {'optimizer': {'lr': dense.optim_wrapper.optimizer.lr * run.lr_scale}},
        'param_scheduler': scheduler,
        # The test follows, so no validation is needed here.
        'train_cfg': {'max_iters': run.tune_iters, 'val_begin': run.tune_iters + 1},
        'default_hooks': {
            'checkpoint': {'interval': setting.tune_interval, 'max_keep_ckpts': KEPT_CHECKPOINTS},
            'logger': {'interval': 50},
        },
    }
    _merge(parts, run.row.cfg)
    return ''.join(f'{key} = {pprint.pformat(value, sort_dicts=False, width=110)}\n' for key, value in parts.items())


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _train_command(config: Path, work_dir: Path) -> list[str]:
    tool = os.path.relpath(REPO / 'tools' / 'train.py')
    return [sys.executable, tool, os.path.relpath(config), '--resume', '--work-dir', str(work_dir)]


def run_training(command: list[str], work_dir: Path, checkpoint: Path) -> None:
    """Run a command that leaves ``checkpoint``, unless that is there; its output goes to ``work_dir/log.txt``.

    Raises:
        TrainingError: it failed.
    """
    if is_complete_checkpoint(checkpoint):
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / 'log.txt'
    # An installed package need not be the one of this repository.
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path}
    with log.open('a', encoding='utf-8') as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
    if code != 0 or not is_complete_checkpoint(checkpoint):
        tail = '\n'.join(log.read_text(encoding='utf-8', errors='replace').splitlines()[-LOG_TAIL:])
        raise TrainingError(f'the training in {work_dir} ended with code {code}; the end of its log:\n{tail}')
