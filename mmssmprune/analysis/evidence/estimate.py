"""How long a run will take, from what earlier ones took."""

from __future__ import annotations

import json
import statistics
from contextlib import suppress
from typing import Any

from mmssmprune.analysis.json_check import ANYTHING, NUMBER, check

from .plan import Places, Run, Setting
from .records import read_result

# Where nothing is known yet: seconds per training iteration, per test, and to start a training.
UNKNOWN_ITERATION, UNKNOWN_TEST, START = 1.0, 60.0, 15.0


class Estimator:
    """Medians over the results of a setting.

    Args:
        places: where earlier results and dense trainings are.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.per_iteration: dict[str, list[float]] = {}
        self.per_test: dict[str, list[float]] = {}
        for path in places.results():
            if result := read_result(path):
                self.add(result)

    def add(self, result: dict[str, Any]) -> None:
        """Learn from a finished run."""
        name, training = result['setting'], result['training']
        self.add_training(name, training)
        rest = result['seconds'] - training['seconds']
        self.per_test.setdefault(name, []).append(rest / len(result['tests']))

    def add_training(self, setting: str, training: dict[str, Any]) -> None:
        """Learn from a finished training."""
        if training['iterations'] > 0:
            seconds = max(training['seconds'] - START, 0.0)
            self.per_iteration.setdefault(setting, []).append(seconds / training['iterations'])

    def run(self, run: Run) -> float:
        """Seconds for a run."""
        tests = self._typical(self.per_test, run.setting.name, UNKNOWN_TEST) * len(run.row.tests)
        return tests + (self._training(run.setting, run.tune_iters) if run.phase == 'tuned' else 0.0)

    def dense(self, setting: Setting) -> float:
        """Seconds for a whole dense training."""
        return self._training(setting, setting.dense_iters)

    def _training(self, setting: Setting, iterations: int) -> float:
        return START + iterations * self._typical(self.per_iteration, setting.name, self._logged(setting))

    @staticmethod
    def _typical(known: dict[str, list[float]], name: str, default: float) -> float:
        return statistics.median(known[name]) if known.get(name) else default

    def _logged(self, setting: Setting) -> float:
        """Seconds per iteration in the logs of dense trainings, which may have been started by hand."""
        times = []
        for path in self.places.root.glob(f'{setting.name}/dense/seed*/*/vis_data/scalars.json'):
            for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
                with suppress(ValueError):  # the line at which the training was killed
                    entry = json.loads(line)
                    times += [] if check(entry, {'loss': ANYTHING, 'time': NUMBER}) else [entry['time']]
        return statistics.median(times) if times else UNKNOWN_ITERATION
