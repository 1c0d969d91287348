"""Trainings as processes of tools/train.py: the dense model, and the fine-tuning of a row."""

from __future__ import annotations

import fcntl
import os
import pprint
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmssmprune.checkpoints.reading import is_complete_checkpoint
from mmssmprune.checkpoints.resuming import find_resume_checkpoint
from mmssmprune.engine.runner_setup import load_config

from .plan import REPO, Places, Run, Setting

# A training that nobody locked and whose files changed in this time (seconds) is taken to be alive.
ALIVE_FOR = 300
LOG_TAIL = 30
# The hook deletes an old checkpoint before it writes the new one, so with one an interruption could leave none.
KEPT_CHECKPOINTS = 2


class TrainingError(RuntimeError):
    """A training ended badly; the message holds the end of its log."""


class BusyError(RuntimeError):
    """Another process is at this training."""


def dense_command(setting: Setting, seed: int, work_dir: Path) -> list[str]:
    """The command that trains a dense model: its config with a schedule of another length."""
    stages = len(load_config(str(setting.config_path)).param_scheduler)
    options = {
        'train_cfg.max_iters': setting.dense_iters,
        'train_cfg.val_interval': setting.dense_iters,
        **({f'param_scheduler.{stages - 1}.end': setting.dense_iters} if stages else {}),
        'default_hooks.checkpoint.interval': setting.dense_interval,
        'default_hooks.checkpoint.max_keep_ckpts': KEPT_CHECKPOINTS,
        'default_hooks.logger.interval': 100,
        'randomness.seed': seed,
    }
    command = _train_command(setting.config_path, work_dir)
    return [*command, '--cfg-options', *(f'{key}={value}' for key, value in options.items())]


def _train_command(config: Path, work_dir: Path) -> list[str]:
    tool = os.path.relpath(REPO / 'tools' / 'train.py')
    return [sys.executable, tool, os.path.relpath(config), '--resume', '--work-dir', str(work_dir)]


def train_dense(setting: Setting, seed: int, places: Places) -> dict[str, Any]:
    """Train a dense model unless that is done, going on where an earlier process stopped.

    Returns:
        ``seconds`` and ``iterations`` of this process.

    Raises:
        BusyError: another process is training it.
        TrainingError: it failed.
    """
    work_dir = places.dense_dir(setting, seed)
    checkpoint = places.dense_checkpoint(setting, seed)
    with locked(work_dir):
        if is_complete_checkpoint(checkpoint):
            return {'seconds': 0.0, 'iterations': 0}
        return run_training(dense_command(setting, seed, work_dir), work_dir, checkpoint, setting.dense_iters)


def fine_tune(run: Run, start: Path, places: Places) -> dict[str, Any]:
    """Fine-tune a row from the weights in ``start``; returns and raises as `train_dense`."""
    work_dir = places.run_dir(run)
    checkpoint = tuned_checkpoint(run, places)
    with locked(work_dir):
        if is_complete_checkpoint(checkpoint):
            return {'seconds': 0.0, 'iterations': 0}
        config = work_dir / 'config' / f'{run.setting.name}.py'
        config.parent.mkdir(exist_ok=True)
        config.write_text(fine_tune_config(run, start, config.parent), encoding='utf-8')
        return run_training(_train_command(config, work_dir), work_dir, checkpoint, run.tune_iters)


def tuned_checkpoint(run: Run, places: Places) -> Path:
    """Where a finished fine-tuning leaves its weights."""
    return places.run_dir(run) / f'iter_{run.tune_iters}.pth'


def fine_tune_config(run: Run, start: Path, folder: Path) -> str:
    """The text of a fine-tuning's config: the dense config, a short schedule, the row's pruning and extras.

    Args:
        run: what to fine-tune.
        start: the checkpoint to start from.
        folder: where the text will lie; ``_base_`` is relative to it.
    """
    setting, row = run.setting, run.row
    dense = load_config(str(setting.config_path))
    scheduler = [stage.to_dict() for stage in dense.param_scheduler]
    _shorten(scheduler, run)
    pruning = None if row.pruning is None else dict(row.pruning)
    if pruning is not None and 'pruning' in dense.model.backbone:
        pruning['_delete_'] = True  # nothing of it is to be merged; without anything to replace mmengine keeps the key
    parts: dict[str, Any] = {
        '_base_': [os.path.relpath(setting.config_path, folder)],
        'load_from': str(start),
        'randomness': {'seed': run.seed},
        'model': {'backbone': {'pruning': pruning}},
        'optim_wrapper': {'optimizer': {'lr': dense.optim_wrapper.optimizer.lr * run.lr_scale}},
        'param_scheduler': scheduler,
        # The test follows in the parent process, so no validation is needed here.
        'train_cfg': {'max_iters': run.tune_iters, 'val_begin': run.tune_iters + 1},
        'default_hooks': {
            'checkpoint': {'interval': setting.tune_interval, 'max_keep_ckpts': KEPT_CHECKPOINTS},
            'logger': {'interval': 50},
        },
    }
    _merge(parts, row.cfg)
    return ''.join(f'{key} = {pprint.pformat(value, sort_dicts=False, width=110)}\n' for key, value in parts.items())


def _shorten(scheduler: list[dict[str, Any]], run: Run) -> None:
    """Fit the two stages, warm-up and decay, to the fine-tuning; a schedule of one stage has no warm-up."""
    if len(scheduler) > 1:
        scheduler[0]['end'] = scheduler[1]['begin'] = run.setting.warmup
    if scheduler:
        scheduler[-1]['end'] = run.tune_iters


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def run_training(command: list[str], work_dir: Path, checkpoint: Path, iters: int) -> dict[str, Any]:
    """Run a command that trains up to iteration ``iters`` and leaves ``checkpoint``; its output goes to ``log.txt``.

    Returns:
        ``seconds`` and ``iterations`` of this process.

    Raises:
        TrainingError: it failed.
    """
    resumed_from = find_resume_checkpoint(work_dir)
    done = int(re.sub(r'\D', '', Path(resumed_from).stem) or 0) if resumed_from else 0
    started = time.monotonic()
    log = work_dir / 'log.txt'
    # An installed package need not be the one of this repository.
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get('PYTHONPATH')]))
    with log.open('a', encoding='utf-8') as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path},
        )
        try:
            code = process.wait()
        finally:  # an interrupted parent leaves no training behind
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0 or not is_complete_checkpoint(checkpoint):
        raise TrainingError(f'the training in {work_dir} ended with code {code}; the end of its log:\n{tail(log)}')
    return {'seconds': round(time.monotonic() - started, 1), 'iterations': iters - done}


def tail(log: Path) -> str:
    """The last lines of a log."""
    return '\n'.join(log.read_text(encoding='utf-8', errors='replace').splitlines()[-LOG_TAIL:])


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Keep other processes of this tool out of a work_dir; the lock ends with the process.

    Raises:
        BusyError: another process has it, or a training that takes no lock seems to be alive there.
    """
    if seems_foreign(work_dir):
        raise BusyError(f'another process seems to be training in {work_dir}')
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f'another process is training in {work_dir}') from None
        yield


def seems_foreign(work_dir: Path) -> bool:
    """Whether tools/train.py, started by hand, seems to be at work there: no lock was ever taken, files are young."""
    if not work_dir.is_dir() or (work_dir / '.lock').exists():
        return False
    newest = max((path.stat().st_mtime for path in work_dir.rglob('*') if path.is_file()), default=0.0)
    return time.time() - newest < ALIVE_FOR


def clean(run: Run, places: Places) -> None:
    """Delete what a finished run needs no more: its checkpoints, or with ``keep`` all but the last."""
    last = tuned_checkpoint(run, places)
    for path in places.run_dir(run).glob('*.pth*'):
        if not (run.row.keep and path == last):
            path.unlink()
    shutil.rmtree(places.run_dir(run) / '__pycache__', ignore_errors=True)
