"""One run from start to end: weights, fine-tuning, tests, and its result as one JSON file."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

from mmengine.device import get_device

from mmssmprune.analysis.results import digest, file_digest, without_nan, write_atomically
from mmssmprune.analysis.software import software
from mmssmprune.checkpoints.writing import save_checkpoint

from . import testing
from .plan import Places, Run
from .training import clean, fine_tune, tuned_checkpoint


def execute(run: Run, places: Places) -> dict[str, Any]:
    """Do a run whose dense checkpoint is there, write its result and return it.

    Raises:
        BusyError, TrainingError: of the fine-tuning.
        ValueError: the row's pruning is refused.
    """
    started = time.monotonic()
    dense = places.dense_checkpoint(run.setting, run.seed)
    training = {'seconds': 0.0, 'iterations': 0}
    checkpoint = dense
    if run.phase == 'tuned':
        training = fine_tune(run, start_checkpoint(run, dense, places), places)
        checkpoint = tuned_checkpoint(run, places)
    tests = [_test(run, i, checkpoint) for i in range(len(run.row.tests))]
    result = _describe(run, dense, checkpoint) | {
        'training': training,
        'tests': tests,
        'seconds': round(time.monotonic() - started, 1),
    }
    write_atomically(places.result(run), json.dumps(without_nan(result), indent=1, allow_nan=False))
    clean(run, places)
    return result


def start_checkpoint(run: Run, dense: Path, places: Places) -> Path:
    """The checkpoint that a fine-tuning starts from: the dense one, calibrated if the row's alignment asks for it."""
    if not testing.needs_calibration(run.row):
        return dense
    start = places.run_dir(run) / 'start.pth'
    if not start.is_file():
        model = testing.build_model(run.setting, run.row.pruning_at(0), dense, run.seed)
        testing.calibrate_model(model, run.setting, run.seed)
        save_checkpoint({'state_dict': model.state_dict(), 'meta': {}}, start)
    return start


def _test(run: Run, number: int, checkpoint: Path) -> dict[str, Any]:
    pruning = run.row.pruning_at(number)
    model = testing.build_model(run.setting, pruning, checkpoint, run.seed)
    if run.phase == 'free' and testing.needs_calibration(run.row):
        testing.calibrate_model(model, run.setting, run.seed)
    return {'pruning': pruning, **testing.measure(model, run.setting, run.seed)}


def _describe(run: Run, dense: Path, checkpoint: Path) -> dict[str, Any]:
    config = testing.dense_config(run.setting)
    return {
        'id': run.id,
        'series': run.series,
        'setting': run.setting.name,
        'label': run.label,
        'phase': run.phase,
        'seed': run.seed,
        'definition': run.definition,
        'config': str(run.setting.config),
        'config_hash': digest(config.to_dict()),
        'data_hash': testing.data_hash(run.setting),
        'dense_checkpoint_hash': file_digest(dense),
        'checkpoint_hash': file_digest(checkpoint),
        'device': str(get_device()),
        'created': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        **software(),
    }
